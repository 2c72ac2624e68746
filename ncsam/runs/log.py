"""A log of the training for experiment trackers: JSON lines, one object an epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landscape.store import StoreError


class TrainingLog:
    """Writes rows to a file as they come, each at once; a context manager that closes the file.

    The numbers are those of the ``training`` record, by its names; what has a value for each view becomes an entry for
    each, ``accuracy/test``. What is not a finite number (cosine without a perturbation) is ``null``.

    Args:
        path: of the file, which is written anew, beginning with ``rows``: so after a stop the log goes on as if there
            had been none, and a line that the stop cut off is gone.
        views: names of the views.
        rows: of the epochs that a resumed training already has.

    Raises:
        StoreError: the file cannot be written.
    """

    def __init__(self, path: Path, views: Sequence[str], rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._path, self._views = path, views
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise self._refused(error) from error
        for row in rows:
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row and hand it to the system."""
        try:
            self._file.write(json.dumps(_flat(row, self._views)) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._refused(error) from error

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(f"{self._path}: the log cannot be written ({error.strerror}); choose another --log")


def is_log(path: Path) -> bool:
    """Tell whether the file is empty or begins as a log does: what a resumed training may begin anew."""
    with path.open("rb") as file:
        return file.read(len(_BEGINNING)) in (b"", _BEGINNING)


_BEGINNING = b'{"epoch": 1,'


def _flat(row: Mapping[str, Any], views: Sequence[str]) -> dict[str, float | int | None]:
    """
    >>> _flat({"epoch": 1, "loss": np.array([0.5, np.nan])}, ("mixed", "val"))
    {'epoch': 1, 'loss/mixed': 0.5, 'loss/val': None}
    """
    found: dict[str, float | int | None] = {}
    for name, value in row.items():
        if name == "class_accuracy":
            found |= {f"{name}/{label}": _number(v) for label, v in enumerate(value.tolist())}
        elif isinstance(value, np.ndarray):
            found |= {f"{name}/{view}": _number(v) for view, v in zip(views, value.tolist(), strict=True)}
        else:
            found[name] = _number(value)
    return found


def _number(value: float | int) -> float | int | None:
    return value if math.isfinite(value) else None
