"""The table that a paper prints: mean and deviation of an endpoint over the seeds, by two settings of the runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from landscape._suggest import unknown
from ncsam.records import CellTable
from ncsam.statistics import LEVEL, t_intervals
from ncsam.study.arms import printed
from ncsam.study.table import REPORTED, rows_of, spell

AXES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "arm": lambda row: str(row["arm"]),
    "noise": lambda row: spell(row["noise"], row["rate"]),
    "data": lambda row: str(row["data"]),
    "model": lambda row: str(row["model"]),
}
"""Settings that may stand along an axis, each read off a row of the table."""


@dataclasses.dataclass(frozen=True)
class Pivot:
    """An endpoint by two settings of the runs.

    Attributes:
        endpoint: what the numbers are.
        axes: settings that the rows and the columns differ by, see :data:`AXES`.
        rows, columns: along the axes, in the order of the table, noise by its rate; arms by the names that a study has
            them under.
        mean, deviation: over the seeds, (rows, columns); NaN without runs, and the deviation with one.
        count: of the seeds.
        best: of each column the highest mean, and those that its t-interval at 95 % reaches; of accuracies only.
    """

    endpoint: str
    axes: tuple[str, str]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray
    count: np.ndarray
    best: np.ndarray

    @property
    def row_names(self) -> tuple[str, ...]:
        """The rows as they are printed."""
        return _printed(self.axes[0], self.rows)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns as they are printed."""
        return _printed(self.axes[1], self.columns)

    @property
    def is_share(self) -> bool:
        """True where the numbers are shares, which papers print in per cent."""
        return "accuracy" in self.endpoint or self.endpoint in ("memorisation", "corrected")


def pivot(table: CellTable, rows: str = "arm", columns: str = "noise", endpoint: str = "test_accuracy") -> Pivot:
    """The reported runs of a table by two of their settings, see :data:`AXES`.

    Raises:
        ValueError: an unknown setting or endpoint, no reported run, or runs in one cell that differ in more than seed.

    >>> from ncsam.study.table import table_of
    >>> found = pivot(table_of([
    ...     {"name": f"{arm}{s}", "arm": arm, "noise": "pair", "rate": 0.4, "seed": s, "test_accuracy": a + s / 100}
    ...     for arm, a in (("sgd", 0.5), ("sam", 0.8)) for s in (0, 1)
    ... ]))
    >>> found.rows, found.columns, found.mean.round(3).tolist(), found.best.tolist()
    (('sgd', 'sam'), ('pair:0.4',), [[0.505], [0.805]], [[False], [True]])
    """
    for axis in (rows, columns):
        if axis not in AXES:
            raise ValueError(unknown("setting", axis, AXES))
    if rows == columns:
        raise ValueError(f"both axes are {rows!r}; give two of {', '.join(AXES)}")
    known = table.endpoints.tolist()
    if endpoint not in known:
        raise ValueError(unknown("endpoint", endpoint, known))
    reported = [row for row in rows_of(table) if row["role"] == REPORTED]
    if not reported:
        raise ValueError("the table holds no reported run")
    kinds = list(dict.fromkeys(row["noise"] for row in reported))
    by_rate = sorted(reported, key=lambda row: (kinds.index(row["noise"]), row["rate"]))
    listed = {axis: by_rate if axis == "noise" else reported for axis in (rows, columns)}
    names = {axis: tuple(dict.fromkeys(map(AXES[axis], listed[axis]))) for axis in (rows, columns)}
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in reported:
        cells.setdefault((AXES[rows](row), AXES[columns](row)), []).append(row)
    _check_alone(cells)
    shape = (len(names[rows]), len(names[columns]))
    seeds = max(map(len, cells.values()))
    value = np.full((*shape, seeds), np.nan)
    for i, along in enumerate(names[rows]):
        for j, across in enumerate(names[columns]):
            found = [entry.get(endpoint, np.nan) for entry in cells.get((along, across), [])]
            value[i, j, : len(found)] = found
    mean, low, _ = t_intervals(value, LEVEL)
    count = np.isfinite(value).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = np.nansum((value - mean[..., None]) ** 2, axis=-1)
        deviation = np.where(count > 1, np.sqrt(squares / (count - 1)), np.nan)
    best = _best(mean, low, "accuracy" in endpoint)
    return Pivot(endpoint, (rows, columns), names[rows], names[columns], mean, deviation, count, best)


def _printed(axis: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(printed, names)) if axis == "arm" else names


def _best(mean: np.ndarray, low: np.ndarray, higher_is_better: bool) -> np.ndarray:
    best = np.zeros(mean.shape, bool)
    for j in range(mean.shape[1]) if higher_is_better else ():
        if np.isfinite(mean[:, j]).any():
            top = int(np.nanargmax(mean[:, j]))
            reach = low[top, j] if np.isfinite(low[top, j]) else mean[top, j]
            best[:, j] = mean[:, j] >= reach
    return best


def _check_alone(cells: Mapping[tuple[str, str], list[Mapping[str, Any]]]) -> None:
    """Refuse means over anything but seeds."""
    for (row, column), entries in cells.items():
        for axis, of in AXES.items():
            if len(found := sorted({of(entry) for entry in entries})) > 1:
                raise ValueError(f"{row}, {column} has runs of several {axis}s ({', '.join(found)}); pivot by {axis}")
