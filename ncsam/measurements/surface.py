"""Loss surfaces of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from landscape import store
from landscape.records import Line, Plane
from ncsam.measurements.directions import Directions, directions_for, trajectory_on
from ncsam.measurements.evaluating import SurfaceWhere, evaluate_surface
from ncsam.measurements.measurement import ANALYSIS_VIEWS, objective_of, on_first
from ncsam.runs.run import Run

PATH = "_path"  # appended to a plane's name: the run's checkpoints in its coordinates


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
    **where: Unpack[SurfaceWhere],
) -> Line:
    """All views along a direction; stored as ``surface/<name>``, see
    :class:`~ncsam.measurements.evaluating.SurfaceWhere`.

    Args:
        directions, layers, policy, norm, trust: see :func:`ncsam.measurements.directions.directions_for`.
    """
    along = {"directions": directions, "layers": layers, "policy": policy, "norm": norm, "trust": trust}
    record = _surface(run, name, views, epoch, seed, [list(map(float, alphas))], along, where)
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
    directions: str = "random",
    layers: Sequence[str] = (),
    policy: Mapping[str, str] | None = None,
    norm: float | None = None,
    trust: bool = False,
    **where: Unpack[SurfaceWhere],
) -> Plane:
    """All views over two directions; stored as ``surface/<name>``, see
    :class:`~ncsam.measurements.evaluating.SurfaceWhere`.

    The first random direction of a seed is the one that :func:`measure_line` takes. Of a run that kept several
    checkpoints, these are stored in the plane's coordinates as ``surface/<name>_path``, with their distances from it.
    Other arguments as for :func:`measure_line`.
    """
    along = {"directions": directions, "layers": layers, "policy": policy, "norm": norm, "trust": trust}
    grids = [list(map(float, alphas)), list(map(float, betas))]
    record = _surface(run, name, views, epoch, seed, grids, along, where)
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
    where: SurfaceWhere,
) -> Line | Plane:
    objective = objective_of(run, epoch, views, where)
    spec = dict(along)
    kind, alone = spec.pop("directions"), objective.over(None)

    def choose() -> Directions:
        return directions_for(run, kind, alone, count=len(grids), epoch=epoch, seed=seed, **spec).on("cpu")

    # On one process, so that they have the same bits however many there are.
    chosen = on_first(choose, where).on(objective.layout.device)
    settings = {**chosen.settings, "views": list(views), "vectors": list(chosen.hashes)}
    described = {"seed": chosen.seed, "along": list(chosen.names), "hashes": list(chosen.hashes)}
    record = evaluate_surface(run, name, objective, chosen.vectors, grids, settings, where, described)
    if len(grids) == 2 and len(run.epochs) > 1:

        def add_path() -> None:
            store.add(run.path, f"surface/{name}{PATH}", trajectory_on(run, alone, chosen), overwrite=True)

        on_first(add_path, where)
    return record
