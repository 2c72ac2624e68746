"""Where an analysis puts its values row by row, so that a stopped one can go on: memory, or a part file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from landscape.records import Status


class Rows(Protocol):
    """A table of rows that are computed one after another; ``landscape.store.PartFile`` is one on disk."""

    def pending(self) -> Sequence[int]:
        """Rows still to be computed."""
        ...

    def write(self, row: int, status: Status = Status.OK, **values: Any) -> None:
        """Set one row."""
        ...

    def read(self) -> dict[str, np.ndarray]:
        """Every field as an array whose first axis is the row; NaN where pending."""
        ...


class MemoryRows:
    """Rows kept in memory.

    >>> rows = MemoryRows(2, {"loss": (3,)})
    >>> rows.write(1, loss=[1.0, 2.0, 3.0])
    >>> rows.pending(), rows.read()["loss"][1]
    ([0], array([1., 2., 3.]))
    """

    def __init__(self, rows: int, fields: Mapping[str, tuple[int, ...]]) -> None:
        self._arrays = {name: np.full((rows, *shape), np.nan) for name, shape in fields.items()}
        self._status = np.zeros(rows, np.uint8)

    def pending(self) -> Sequence[int]:
        return np.flatnonzero(self._status == Status.PENDING).tolist()

    def write(self, row: int, status: Status = Status.OK, **values: Any) -> None:
        for name, value in values.items():
            self._arrays[name][row] = value
        self._status[row] = status

    def read(self) -> dict[str, np.ndarray]:
        return self._arrays
