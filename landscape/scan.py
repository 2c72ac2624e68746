"""What all scans over points share: grids, the rows that points are kept in, and the status of each value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from landscape.evaluation import Evaluation
from landscape.objective import Objective
from landscape.records import Status
from landscape.rows import Rows

Progress = Callable[[Iterable[int]], Iterable[int]]


def row_fields(objective: Objective) -> dict[str, tuple[int, ...]]:
    """Fields and shapes of one scanned point, to allocate :class:`~landscape.rows.Rows` with."""
    count = len(objective.views)
    return {"loss": (count,), "accuracy": (count,)}


def put(rows: Rows, row: int, found: Evaluation, views: Sequence[str]) -> None:
    """Write one evaluated point."""
    correct = found.metrics.get("accuracy", {})
    rows.write(
        row,
        status=Status.OK,
        loss=[found.loss[v] for v in views],
        accuracy=[correct.get(v, np.nan) for v in views],
    )


def tables(rows: Rows) -> tuple[np.ndarray, np.ndarray | None]:
    """Loss and accuracy, (rows, views) each; accuracy is None where there is none."""
    arrays = rows.read()
    accuracy = arrays["accuracy"]
    return arrays["loss"], None if np.isnan(accuracy).all() else accuracy


def status_of(objective: Objective, loss: np.ndarray, view_axis: int) -> np.ndarray:
    """Status code of every loss: ok, not finite, or empty where the view along ``view_axis`` has no samples."""
    status = np.where(np.isfinite(loss), Status.OK, Status.NONFINITE).astype(np.uint8)
    empty = [objective.num_samples(view) == 0 for view in objective.views]
    np.moveaxis(status, view_axis, 0)[empty] = Status.EMPTY
    return status


def as_grid(values: object, name: str) -> np.ndarray:
    """A 1-D float64 array of finite coordinates.

    Raises:
        ValueError: it is none.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} has shape {array.shape}, expected (n,); pass a 1-D grid")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    return array
