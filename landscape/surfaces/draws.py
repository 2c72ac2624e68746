"""Surfaces along several random directions, for bands: a single random plane may be a lucky one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from torch import Tensor

from landscape._suggest import former_arguments
from landscape.objective.evaluation.evaluate import Evaluate, Evaluation
from landscape.objective.objective import Objective
from landscape.records import LineDraws, PlaneDraws
from landscape.surfaces.directions import cosine, direction_hash, filter_normalized_direction
from landscape.surfaces.scan import (
    Progress,
    Rows,
    as_grid,
    groups,
    put,
    row_fields,
    rows_for,
    status_of,
    tables,
    together,
)


def drawn_directions(
    objective: Objective,
    seed: int,
    count: int,
    layers: str | Sequence[str] | None = None,
    policy: Mapping[str, str] | None = None,
) -> list[Tensor]:
    """The ``count`` filter-normalised directions of one draw, (K,) each: those of the seeds 2·seed, 2·seed + 1, …

    Errors as :func:`landscape.filter_normalized_direction`.
    """
    return [
        filter_normalized_direction(objective, 2 * seed + axis, layers=layers, policy=policy) for axis in range(count)
    ]


def line_draws(
    objective: Objective,
    alphas: Any,
    draws: int = 5,
    *,
    seed: int = 0,
    layers: str | Sequence[str] | None = None,
    policy: Mapping[str, str] | None = None,
    rows: Rows | None = None,
    progress: Progress = iter,
) -> LineDraws:
    """Every view at w + α·d for the random directions of the seeds ``seed``, ``seed`` + 1, …, ``seed`` + draws − 1.

    Args:
        alphas: (n,) finite displacements, in filter norms.
        draws: number of directions.
        layers, policy: as :func:`landscape.filter_normalized_direction`.
        rows: where points are kept (draws·n rows, see :func:`landscape.surfaces.scan.row_fields`), memory if none.
        progress: wraps the iteration over points.

    Raises:
        ValueError: no draws, or a bad grid, pattern or policy.

    >>> import torch
    >>> obj = Objective(torch.nn.Linear(3, 2), torch.nn.MSELoss(), (torch.randn(6, 3), torch.randn(6, 2)))
    >>> found = line_draws(obj, [-1.0, 0.0, 1.0], draws=4)
    >>> found.loss.shape, found.quantiles("data", [0.25, 0.75]).shape
    ((4, 1, 3), (2, 3))
    """
    a = as_grid(alphas, "alphas")
    _, measured = _scan_draws(objective, [a], draws, seed, layers, policy, rows, progress)
    return LineDraws(alphas=a, **measured)


@former_arguments(positional=["draws"])
def plane_draws(
    objective: Objective,
    alphas: Any,
    betas: Any,
    *,
    draws: int = 5,
    seed: int = 0,
    layers: str | Sequence[str] | None = None,
    policy: Mapping[str, str] | None = None,
    rows: Rows | None = None,
    progress: Progress = iter,
) -> PlaneDraws:
    """Every view at w + α·d1 + β·d2 for several pairs of random directions; arguments as :func:`line_draws`."""
    a, b = as_grid(alphas, "alphas"), as_grid(betas, "betas")
    directions, measured = _scan_draws(objective, [a, b], draws, seed, layers, policy, rows, progress)
    return PlaneDraws(alphas=a, betas=b, cosines=np.array([cosine(*pair) for pair in directions]), **measured)


def _scan_draws(
    objective: Objective,
    axes: Sequence[np.ndarray],
    draws: int,
    seed: int,
    layers: str | Sequence[str] | None,
    policy: Mapping[str, str] | None,
    rows: Rows | None,
    progress: Progress,
) -> tuple[list[list[Tensor]], dict[str, Any]]:
    """Directions of each draw, and the fields that lines and planes have in common, (draws, views, *grid)."""
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    if draws < 1:
        raise ValueError(f"draws is {draws}, expected at least 1")
    seeds = np.arange(seed, seed + draws)
    directions = [drawn_directions(objective, int(s), points.shape[1], layers, policy) for s in seeds]
    rows = rows_for(rows, draws * len(points), row_fields(objective))
    ranks, objective = objective.ranks, objective.over(None)  # processes share the points, each over the whole data
    by_draws = [list(rows_of) for _, rows_of in groupby(rows.pending(), lambda row: row // len(points))]
    todo = groups(by_draws, ranks, progress)
    group = next(todo, None)
    while group is not None:
        draw = group[0] // len(points)

        with objective.along(directions[draw]) as evaluate:

            def at(row: int, evaluate: Evaluate = evaluate) -> Evaluation:
                return evaluate(points[row % len(points)].tolist())

            while group is not None and group[0] // len(points) == draw:
                for row, found in zip(group, together(group, at, ranks), strict=True):
                    put(rows, row, found, objective.views)
                group = next(todo, None)

    def by_draw(table: np.ndarray) -> np.ndarray:
        return table.reshape(draws, len(points), -1).transpose(0, 2, 1).reshape(draws, -1, *map(len, axes))

    loss, accuracy = tables(rows)
    return directions, {
        "draws": seeds,
        "views": np.array(objective.views),
        "loss": by_draw(loss),
        "status": status_of(objective, by_draw(loss), 1),
        "accuracy": None if accuracy is None else by_draw(accuracy),
        "weight_norm": float(objective.weights.double().norm()),
        "direction_norms": np.array([[float(d.double().norm()) for d in group] for group in directions]),
        "hashes": np.array([[direction_hash(d) for d in group] for group in directions]),
    }
