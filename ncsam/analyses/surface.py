"""Loss surfaces of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Unpack

import landscape
from landscape.records import Line, Plane, Record
from landscape.surface import row_fields
from ncsam.analyses.common import ANALYSIS_VIEWS, Where, objective_of, result_of
from ncsam.run import Run


def measure_line(
    run: Run,
    name: str = "line",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epoch: int | str = "last",
    alphas: Sequence[float],
    seed: int = 0,
    **where: Unpack[Where],
) -> Line:
    """All views along a filter-normalised random direction; stored as ``surface/<name>``, see :class:`Where`."""
    record = _surface(run, name, views, epoch, seed, [list(map(float, alphas))], where)
    assert isinstance(record, Line)
    return record


def measure_plane(
    run: Run,
    name: str = "plane",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epoch: int | str = "last",
    alphas: Sequence[float],
    betas: Sequence[float],
    seed: int = 0,
    **where: Unpack[Where],
) -> Plane:
    """All views over two filter-normalised random directions; stored as ``surface/<name>``, see :class:`Where`.

    The first direction of a seed is the one that :func:`measure_line` takes.
    """
    record = _surface(run, name, views, epoch, seed, [list(map(float, alphas)), list(map(float, betas))], where)
    assert isinstance(record, Plane)
    return record


def _surface(
    run: Run, name: str, views: Sequence[str], epoch: int | str, seed: int, grids: list[list[float]], where: Where
) -> Record:
    objective = objective_of(run, epoch, views, where)
    directions = [
        landscape.filter_normalized_direction(objective.model, seed=2 * seed + axis) for axis in range(len(grids))
    ]
    settings = {"epoch": run.epoch(epoch), "views": list(views), "seed": seed, "grids": grids}
    count = math.prod(len(grid) for grid in grids)
    draw: Callable[..., Record] = landscape.line if len(grids) == 1 else landscape.plane
    with result_of(run, f"surface/{name}", settings, count, row_fields(objective), where) as (part, finish):
        return finish(draw(objective, *directions, *grids, seed=seed, rows=part, progress=where.get("progress", iter)))
