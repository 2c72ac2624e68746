"""A part file as the processes see it that do not write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from landscape.records import Status


class Mirror:
    """The rows of a part file in memory: what the process that holds the file has, kept up by writing alike.

    Args:
        path: of the part file, which is never opened.
        rows: by field, as :meth:`landscape.store.PartFile.read` gave them.
        status: of every row.
    """

    def __init__(self, path: Path, rows: dict[str, np.ndarray], status: np.ndarray) -> None:
        self.path = path
        self._rows, self._status = rows, status

    @property
    def status(self) -> np.ndarray:
        return self._status.copy()

    def pending(self) -> list[int]:
        return np.flatnonzero(self._status == Status.PENDING).tolist()

    def write(self, row: int, status: Status = Status.OK, **values: Any) -> None:
        for name, value in values.items():
            self._rows[name][row] = value
        self._status[row] = status

    def commit(self) -> None:
        """Nothing is to be made durable here."""

    def read(self) -> dict[str, np.ndarray]:
        return {name: values.copy() for name, values in self._rows.items()}
