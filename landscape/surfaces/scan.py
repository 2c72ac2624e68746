"""Common parts of all scans over points: grids, the rows that points are kept in, and the status of each value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from landscape.objective.evaluation.evaluate import Evaluation
from landscape.objective.objective import Objective
from landscape.ranks import Ranks
from landscape.records import Status

Progress = Callable[[Iterable[int]], Iterable[int]]
T = TypeVar("T")


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

    Args:
        arrays: the value of every row by field, (rows, …).
        status: of every row, (rows,).

    >>> rows = MemoryRows.pending_all(2, {"loss": (3,)})
    >>> rows.write(1, loss=[1.0, 2.0, 3.0])
    >>> rows.pending(), rows.read()["loss"][1]
    ([0], array([1., 2., 3.]))
    """

    def __init__(self, arrays: dict[str, np.ndarray], status: np.ndarray) -> None:
        self._arrays, self._status = arrays, status

    @classmethod
    def pending_all(cls, rows: int, fields: Mapping[str, tuple[int, ...]]) -> Self:
        """Rows that are all still to be computed, of fields with these shapes."""
        arrays = {name: np.full((rows, *shape), np.nan) for name, shape in fields.items()}
        return cls(arrays, np.full(rows, Status.PENDING, np.uint8))

    @property
    def status(self) -> np.ndarray:
        """Status of every row, (rows,)."""
        return self._status.copy()

    def pending(self) -> list[int]:
        return np.flatnonzero(self._status == Status.PENDING).tolist()

    def write(self, row: int, status: Status = Status.OK, **values: Any) -> None:
        for name, value in values.items():
            self._arrays[name][row] = value
        self._status[row] = status

    def read(self) -> dict[str, np.ndarray]:
        return self._arrays


def rows_for(rows: Rows | None, count: int, fields: Mapping[str, tuple[int, ...]]) -> Rows:
    """The rows that a scan of so many points with these fields was given, or new ones in memory.

    Raises:
        ValueError: those given are of another scan.
    """
    if rows is None:
        return MemoryRows.pending_all(count, fields)
    found = {name: array.shape for name, array in rows.read().items()}
    expected = {name: (count, *shape) for name, shape in fields.items()}
    if found != expected:
        raise ValueError(f"rows have the shapes {found}, expected {expected}; give those of this scan, or new ones")
    return rows


def groups(rounds: Iterable[Sequence[int]], ranks: Ranks | None, progress: Progress) -> Iterator[list[int]]:
    """Points in groups of as many as there are processes, none of them from two rounds.

    The points of a round do not depend on each other's values; a round is asked for when those before it are done.

    >>> list(groups([[0, 1], [2]], None, iter))
    [[0], [1], [2]]
    """
    todo = _Todo(rounds)
    points = iter(progress(todo))
    for first in points:
        group = [first]
        while ranks is not None and len(group) < ranks.size and todo.left:
            group.append(next(points))
        yield group


def together(group: Sequence[int], work: Callable[[int], T], ranks: Ranks | None) -> list[T]:
    """Do ``work`` for a group of at most as many points as processes, each doing one; give all results."""
    if ranks is None:
        return [work(point) for point in group]
    own = work(group[ranks.rank]) if ranks.rank < len(group) else None
    found: list[T] = ranks.gather(own)[: len(group)]  # type: ignore[assignment]
    return found


class _Todo:
    """The points of all rounds; ``left`` is how many of the present round are still to be handed out."""

    def __init__(self, rounds: Iterable[Sequence[int]]) -> None:
        self._rounds = rounds
        self.left = 0

    def __iter__(self) -> Iterator[int]:
        for points in self._rounds:
            for done, point in enumerate(points, 1):
                self.left = len(points) - done
                yield point

    def __len__(self) -> int:
        if not isinstance(self._rounds, list):
            raise TypeError("rounds that follow from values are not known in advance")
        return sum(map(len, self._rounds))


def row_fields(objective: Objective) -> dict[str, tuple[int, ...]]:
    """Fields and shapes of one scanned point, to allocate :class:`~landscape.surfaces.scan.Rows` with."""
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
