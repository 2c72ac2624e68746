"""Matrices of barriers between the minima of the arms of a study."""

from __future__ import annotations

import numpy as np

from landscape.figures.data import DataFigure
from landscape.figures.matrices import matrices
from landscape.figures.symbols import plain
from ncsam.figures.style import symbols
from ncsam.records import Barriers


def barrier_matrices(record: Barriers) -> DataFigure:
    """Draw mean barriers from arm to arm, a panel for each kind of way on one scale, the interval below each mean.

    The interval is left out where there is one pair of seeds. The diagonal joins two seeds of one arm.
    """
    arms, pairs = record.arms.tolist(), len(record.first_seed)
    label = f"mean barrier, view {record.view.replace('_', ' ')}"
    if pairs > 1:
        label += f"\n± {100 * record.level:g} % interval, {pairs} pairs"
    ways = dict(zip(record.ways.tolist(), range(len(record.ways)), strict=True))
    intervals = {
        _titled(record, way): [[_interval(record, (k, i, j)) for j in range(len(arms))] for i in range(len(arms))]
        for way, k in ways.items()
    }
    made = matrices(
        {_titled(record, way): record.mean[k] for way, k in ways.items()},
        [plain(symbol.name) for symbol in symbols(arms).values()],
        label,
        second_lines=intervals,
        ends=("from", "to"),
    )
    for way, k in ways.items():
        for i, j in np.ndindex(len(arms), len(arms)):
            made.note(
                way=way, view=record.view, start=arms[i], end=arms[j], pairs=pairs,
                mean=record.mean[k, i, j], low=record.low[k, i, j], high=record.high[k, i, j],
            )  # fmt: skip
    return made


def _titled(record: Barriers, way: str) -> str:
    return f"{way}, {record.gradients} gradients" if way == "curved" else way


def _interval(record: Barriers, at: tuple[int, int, int]) -> str:
    if not np.isfinite(record.low[at]):
        return ""
    return f"±{record.high[at] - record.mean[at]:.2g}"
