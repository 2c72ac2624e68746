"""A sweep that takes a second, and cells run in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from ncsam.sweep import Cell, Failure, Sweep, pool

SMALL: dict[str, Any] = {
    "seeds": 2,
    "noise": ["symmetric:0.4"],
    "train": {"epochs": 2, "train_samples": 120, "test_samples": 50, "val_fraction": 0.2},
    "arms": [
        {"optimizer": "sgd", "tune": {"lr": [0.02, 0.05, 0.1]}},
        {"optimizer": "sam", "tune": {"rho": [0.05, 0.1, 0.2]}},
    ],
    "tune": {"seeds": [100, 101]},
}


def sweep(**changes: Any) -> Sweep:
    return Sweep.from_dict({**SMALL, **changes})


class Here:
    """Runs cells one after another, and is killed before cell ``fatal``, counted over all calls from 1."""

    def __init__(self, fatal: int | None = None) -> None:
        self.fatal, self.ran = fatal, []

    def __call__(
        self,
        cells: Sequence[Cell],
        folder: Path,
        progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
    ) -> list[Failure]:
        def ends() -> Iterable[Cell]:
            for cell in cells:
                if len(self.ran) + 1 == self.fatal:
                    raise KeyboardInterrupt
                self.ran.append(cell.name)
                cell.run(cell.path(folder))
                yield cell

        return [end for end in progress(ends(), len(cells)) if isinstance(end, Failure)]


class InThisProcess(Executor):
    """Stands in for a pool of processes, each of which takes four seconds to start; runs what it is given at once."""

    def __init__(self, *_: Any) -> None:
        pass

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def without_processes(patch: pytest.MonkeyPatch) -> None:
    """Let sweeps run their cells in this process, one after another, where a test is not about processes."""
    patch.setattr(pool, "ProcessPoolExecutor", InThisProcess)
