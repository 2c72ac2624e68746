"""Loss surfaces of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from torch import Tensor

import landscape
from landscape import store
from landscape._suggest import former_arguments
from landscape.records import Line, Plane
from landscape.surfaces.batch_size import BatchChoice, choose_batch_size, measure
from landscape.surfaces.line_and_plane import BatchNorm, surface_fields
from landscape.surfaces.recalibration import SAMPLES, Recalibration
from landscape.surfaces.span import find_span
from ncsam.measurements.directions import Directions, directions_for, trajectory_on
from ncsam.measurements.forecast import Forecast, of_points
from ncsam.measurements.measurement import ANALYSIS_VIEWS, Subset, identity_of, objective_of
from ncsam.measurements.resumable import PartRows, Where, on_first, recorded_identity, result_of
from ncsam.measurements.sampling_error import on_subset
from ncsam.runs.run import Run

PATH = "_path"  # appended to a plane's name: the run's checkpoints in its coordinates


class SurfaceWhere(Where, total=False):
    """Settings of a surface, whatever its directions; beside the keys of :class:`Where`:

    Keys:
        tol, by_class, batchnorm, batchnorm_samples: see :func:`landscape.line`.
        rise: find the span at which the loss has risen by this much, and stretch the grid, which is given for a span of
            1, to that span.
        range_view: the view whose loss rises; the first view with samples if none.
        autotune: measure which batch size and memory format are fastest, instead of following the rule. A resumed
            measurement takes what the stopped one measured.
    """

    tol: float | None
    by_class: bool
    batchnorm: BatchNorm
    batchnorm_samples: int
    rise: float | None
    range_view: str | None
    autotune: bool


@former_arguments(renamed={"tolerance": "tol"})
def measure_line(
    run: Run,
    name: str = "line",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epoch: int | str = "last",
    alphas: Sequence[float],
    seed: int = 0,
    directions: str = "random",
    layers: Sequence[str] = (),
    policy: Mapping[str, str] | None = None,
    norm: float | None = None,
    trust: bool = False,
    subset: int | None = None,
    subset_seed: int = 0,
    **where: Unpack[SurfaceWhere],
) -> Line:
    """All views along a direction; stored as ``surface/<name>``, see :class:`SurfaceWhere`.

    Args:
        directions, layers, policy, norm, trust: see :func:`ncsam.measurements.directions.directions_for`.
        subset, subset_seed: so many samples of each view, drawn by that seed; all if none.
    """
    along = {"directions": directions, "layers": layers, "policy": policy, "norm": norm, "trust": trust}
    drawing = Subset.of(subset, subset_seed)
    record = _surface(run, name, views, epoch, seed, [list(map(float, alphas))], along, drawing, where)
    assert isinstance(record, Line)
    return record


@former_arguments(renamed={"tolerance": "tol"})
def measure_plane(
    run: Run,
    name: str = "plane",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epoch: int | str = "last",
    alphas: Sequence[float],
    betas: Sequence[float],
    seed: int = 0,
    directions: str = "random",
    layers: Sequence[str] = (),
    policy: Mapping[str, str] | None = None,
    norm: float | None = None,
    trust: bool = False,
    subset: int | None = None,
    subset_seed: int = 0,
    **where: Unpack[SurfaceWhere],
) -> Plane:
    """All views over two directions; stored as ``surface/<name>``, see :class:`SurfaceWhere`.

    The first random direction of a seed is the one that :func:`measure_line` takes. Of a run that kept several
    checkpoints, these are stored in the plane's coordinates as ``surface/<name>_path``, with their distances from it.
    Other arguments as for :func:`measure_line`.
    """
    along = {"directions": directions, "layers": layers, "policy": policy, "norm": norm, "trust": trust}
    grids = [list(map(float, alphas)), list(map(float, betas))]
    record = _surface(run, name, views, epoch, seed, grids, along, Subset.of(subset, subset_seed), where)
    assert isinstance(record, Plane)
    return record


def _surface(
    run: Run,
    name: str,
    views: Sequence[str],
    epoch: int | str,
    seed: int,
    grids: list[list[float]],
    along: Mapping[str, Any],
    subset: Subset | None,
    where: SurfaceWhere,
) -> Line | Plane:
    objective = objective_of(run, epoch, views, where, subset)
    spec = dict(along)
    kind, alone = spec.pop("directions"), objective.over(None)

    def choose() -> Directions:
        how = {"count": len(grids), "epoch": epoch, "seed": seed, "subset": subset, **spec}
        return directions_for(run, kind, alone, **how).on("cpu")

    # On one process, so that they have the same bits however many there are.
    chosen = on_first(choose, where).on(objective.layout.device)
    settings = {**chosen.settings, "views": list(views), "vectors": list(chosen.hashes), **identity_of(subset)}
    described = {"seed": chosen.seed, "along": list(chosen.names), "hashes": list(chosen.hashes)}
    described |= on_subset(run, objective, subset)
    record = evaluate_surface(run, name, objective, chosen.vectors, grids, settings, where, described)
    if len(grids) == 2 and len(run.epochs) > 1:

        def add_path() -> None:
            store.add(run.path, f"surface/{name}{PATH}", trajectory_on(run, alone, chosen), overwrite=True)

        on_first(add_path, where)
    return record


def batched(run: Run, name: str, objective: landscape.Objective, where: SurfaceWhere) -> tuple[Any, BatchChoice]:
    """The objective as it is to be evaluated for the result ``name``, and the choice that was made."""
    if not where.get("autotune", False):
        choice = choose_batch_size(objective)
    else:
        choice = _recorded(run, name, where) or on_first(lambda: measure(objective.over(None)), where)
    return choice.apply(objective), choice


def evaluate_surface(
    run: Run,
    name: str,
    objective: landscape.Objective,
    directions: Sequence[Tensor],
    grids: Sequence[Sequence[float]],
    settings: dict[str, Any],
    where: SurfaceWhere,
    described: dict[str, Any],
) -> Line | Plane:
    """Measure and store the surface ``surface/<name>`` point by point.

    Args:
        settings: all that decide the numbers, but those of the evaluation.
        described: fields of the record that the caller knows.

    Raises:
        ValueError, StoreError: something asked for is impossible, exists already, or cannot be written.
    """
    name = f"surface/{name}"
    objective, choice = batched(run, name, objective, where)
    how: dict[str, Any] = {
        "tol": where.get("tol"),
        "by_class": where.get("by_class", False),
        "batchnorm": where.get("batchnorm", "frozen"),
        "batchnorm_samples": where.get("batchnorm_samples", SAMPLES),
    }
    recalibrated = how["batchnorm"] == "recalibrated"
    recalibration = Recalibration(objective.over(None), how["batchnorm_samples"]) if recalibrated else None
    span = None
    if (rise := where.get("rise")) is not None:
        span = find_span(objective.over(None), directions, rise, where.get("range_view"), recalibration)
    if span is not None:
        grids = [[span["span"] * x for x in grid] for grid in grids]
    identity = {**settings, **how, "grids": [list(map(float, grid)) for grid in grids], "auto_range": span}
    identity["batching"] = dataclasses.asdict(choice)
    draw: Callable[..., Line | Plane] = landscape.line if len(grids) == 1 else landscape.plane
    count = math.prod(len(grid) for grid in grids)
    fields = surface_fields(objective, by_class=how["by_class"])

    def forecast(part: PartRows) -> Forecast:
        at_most = how["tol"] is not None
        return of_points(objective, part.pending(), at_most=at_most, recalibration=recalibration)

    with result_of(run, name, identity, count, fields, where, forecast=forecast) as (part, finish):
        record = draw(objective, *directions, *grids, **how, rows=part, progress=where.get("progress", iter))
        record = dataclasses.replace(record, **described, batch_choice=choice.chosen_by, auto_range=span)
        finish(record)
    return record


def _recorded(run: Run, name: str, where: SurfaceWhere) -> BatchChoice | None:
    """The choice that a stopped measurement recorded, to be resumed with."""
    found = (recorded_identity(run, name, where) or {}).get("batching")
    return BatchChoice(**found) if found else None
