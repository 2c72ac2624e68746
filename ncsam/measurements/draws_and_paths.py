"""Surfaces of a run along several random directions, and the way from one run to another."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, Unpack

import landscape
from landscape.records import Connection, LineDraws, PlaneDraws
from landscape.surfaces.connectivity import Buffers, connect
from landscape.surfaces.draws import line_draws, plane_draws
from landscape.surfaces.scan import row_fields
from ncsam.measurements.forecast import Forecast, of_points
from ncsam.measurements.measurement import ANALYSIS_VIEWS, Subset, identity_of, objective_of
from ncsam.measurements.resumable import PartRows, Where, result_of
from ncsam.measurements.sampling_error import on_subset
from ncsam.runs.run import Run

_log = logging.getLogger(__name__)
S = TypeVar("S", LineDraws | PlaneDraws, Connection)


def measure_draws(
    run: Run,
    name: str = "draws",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epoch: int | str = "last",
    alphas: Sequence[float],
    betas: Sequence[float] | None = None,
    draws: int = 5,
    seed: int = 0,
    layers: Sequence[str] = (),
    policy: Mapping[str, str] | None = None,
    subset: int | None = None,
    subset_seed: int = 0,
    **where: Unpack[Where],
) -> LineDraws | PlaneDraws:
    """All views along ``draws`` random directions, or over as many planes; stored as ``surface/<name>``.

    The first draw is the one that :func:`ncsam.measurements.measure_line` and ``measure_plane`` take with this seed.
    With ``subset`` on so many samples of each view, drawn by ``subset_seed``.
    """
    drawing = Subset.of(subset, subset_seed)
    objective = objective_of(run, epoch, views, where, drawing)
    a, b = list(map(float, alphas)), None if betas is None else list(map(float, betas))
    settings = {
        "epoch": run.epoch(epoch), "views": list(views), "seed": seed, "draws": draws, "grids": [a, b],
        "layers": list(layers), "policy": dict(policy or {}), **identity_of(drawing),
    }  # fmt: skip
    chosen = tuple(layers) or None
    count = draws * len(a) * (1 if b is None else len(b))

    def measure(**rows: Any) -> LineDraws | PlaneDraws:
        how: dict[str, Any] = {"draws": draws, "seed": seed, "layers": chosen, "policy": policy, **rows}
        return line_draws(objective, a, **how) if b is None else plane_draws(objective, a, b, **how)

    return _measured(run, name, objective, settings, count, drawing, where, measure)


def measure_connection(
    run: Run,
    other: Run,
    name: str = "connection",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epoch: int | str = "last",
    other_epoch: int | str = "last",
    alphas: Sequence[float],
    buffers: Buffers = "interpolated",
    subset: int | None = None,
    subset_seed: int = 0,
    **where: Unpack[Where],
) -> Connection:
    """All views of ``run`` on the straight line to another run's weights, with barriers; stored as ``surface/<name>``.

    ``other`` may be the same run at another epoch. Losses are those on the first run's data and labels throughout.
    With ``subset`` on so many samples of each view, drawn by ``subset_seed``. For ``alphas`` and ``buffers`` see
    :func:`landscape.surfaces.connectivity.connect`.
    """
    if (run.config.data, run.config.seeds["split"]) != (other.config.data, other.config.seeds["split"]):
        _log.warning(
            "%s and %s split other data off for testing, so each may have trained on the other's test samples",
            run.path.name, other.path.name,
        )  # fmt: skip
    drawing = Subset.of(subset, subset_seed)
    objective = objective_of(run, epoch, views, where, drawing)
    end = objective_of(other, other_epoch, views, where, drawing)
    a = list(map(float, alphas))
    to = f"{other.path.name} epoch {other.epoch(other_epoch)}"
    settings = {
        "epoch": run.epoch(epoch), "views": list(views), "alphas": a, "buffers": buffers, "to": to,
        "weights": other.attrs["created"], **identity_of(drawing),
    }  # fmt: skip
    names = (f"{run.path.name} epoch {run.epoch(epoch)}", to)

    def measure(**rows: Any) -> Connection:
        return connect(objective, end, a, buffers=buffers, names=names, **rows)

    return _measured(run, name, objective, settings, len(a), drawing, where, measure)


def _measured(
    run: Run,
    name: str,
    objective: landscape.Objective,
    settings: dict[str, Any],
    count: int,
    subset: Subset | None,
    where: Where,
    measure: Callable[..., S],
) -> S:
    """Call ``measure(rows=…, progress=…)``; its ``count`` points are kept as they come, its result is stored."""
    fields = row_fields(objective)

    def forecast(part: PartRows) -> Forecast:
        return of_points(objective, part.pending())

    with result_of(run, f"surface/{name}", settings, count, fields, where, forecast=forecast) as (part, finish):
        found = measure(rows=part, progress=where.get("progress", iter))
        found = dataclasses.replace(found, **on_subset(run, objective, subset))
        finish(found)
        return found
