"""Several run files at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import landscape
from ncsam.runs.run import Run


class Runs(Sequence[Run]):
    """Runs in the order given; see :func:`open_runs`."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = tuple(runs)

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: int | slice) -> Run | Runs:
        return Runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __repr__(self) -> str:
        return "\n".join(map(repr, self._runs))

    def plot(self, name: str, **options: Any) -> landscape.figures.DataFigure:
        """One figure of the result that all runs hold under a name, such as ``surface/plane``.

        Args:
            options: see :func:`landscape.plot`; of surfaces e.g. ``view="mixed"``.

        Raises:
            StoreError: a run lacks that result.
        """
        return landscape.plot({run.name: run.result(name) for run in self._runs}, **options)


def open_runs(*paths: str | Path, trust: bool = False) -> Runs:
    """Open run files to read them side by side; each is labelled by the name of its file.

    Args:
        trust: see :class:`ncsam.Run`.

    Raises:
        ValueError: two files have the same name.
        StoreError: a file is missing, damaged, or no run file.
    """
    runs = [Run(path, trust=trust) for path in paths]
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several files are called {', '.join(twice)}; rename them, so that figures tell them apart")
    return Runs(runs)
