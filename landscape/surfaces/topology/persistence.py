"""Basins and peaks of a measured surface, each with its error, and their spread over several surfaces."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri, stdtrit
from torch import Tensor

from landscape.objective.objective import Objective, check_objective
from landscape.objective.sample_losses import Samples, sample_losses, samples_of
from landscape.records import Line, LineDraws, Persistence, PersistenceDraws, Plane, PlaneDraws, Status
from landscape.surfaces.directions import direction_hash
from landscape.surfaces.topology.sublevel import Branches, Graph, beside, branches, peaks
from landscape.surfaces.topology.surface_error import CellErrors

_QUANTITIES = ("certified_basins", "total_persistence", "central_depth", "smad")
_FEWEST = 3  # points along an axis that second differences need


def persistence(
    surface: Line | Plane,
    view: str | None = None,
    *,
    objective: Objective | None = None,
    directions: Sequence[Any] | None = None,
    confidence: float = 0.95,
) -> Persistence:
    """Basins of a view of a line or plane, and on a plane its peaks, each certified or not.

    A basin is born at its minimum and dies at the lowest saddle to a deeper one (sublevel persistence: Edelsbrunner &
    Harer 2010, §VII). The surface is interpolated (bi)linearly between its points, whose exact persistence this is.

    The error ε of a basin of death d bounds how far the loss may be from that surface wherever either is below d: h²/8
    of twice the largest second difference of a cell, and the error of values that were interpolated. By the stability
    theorem (Cohen-Steiner, Edelsbrunner & Harer 2007) the loss itself has that basin if death − birth > 2ε; the basin
    is then certified. It is an estimate: a dent narrower than the spacing of the points is not seen.

    With ``objective``, the losses of single samples at minimum and saddle also give the error that the view's samples
    make as a sample of a larger population: z times the standard error of the mean of ℓᵢ(saddle) − ℓᵢ(minimum), which
    must fit into the persistence too.

    Args:
        surface: a line or plane of three points along each axis at least. Points that are not finite belong to no
            basin; one that touches a NaN before its death is not certified.
        view: of the data; the first if none.
        objective: whose surface it is, at the same weights, to measure the sampling error.
        directions: of the surface, (K,) each; with ``objective``.
        confidence: of the two-sided intervals over samples.

    Raises:
        ValueError: the surface lacks the view, is too small, holds no finite loss, or is not that of the objective.

    >>> x = np.linspace(-2, 2, 81)
    >>> loss = (x**2 - 1) ** 2 + 0.3 * x  # two wells
    >>> line = Line(
    ...     views=["data"], alphas=x, loss=loss[None], status=np.ones((1, 81), np.uint8), weight_norm=1.0,
    ...     direction_norm=1.0, seed=None,
    ... )
    >>> found = persistence(line)
    >>> found.minimum[:, 0].round(2).tolist(), found.certified.tolist(), found.saddle[1].round(2).tolist()
    ([-1.05, 0.95], [True, True], [0.1])
    """
    if not isinstance(surface, Line | Plane):
        raise TypeError(
            f"persistence takes a Line or Plane, got {type(surface).__name__}; for LineDraws and PlaneDraws call "
            "persistence_draws"
        )
    axes = [surface.alphas, surface.betas] if isinstance(surface, Plane) else [surface.alphas]
    row = _row_of(surface, view)
    status = surface.status[row]
    if (status == Status.EMPTY).all():
        raise ValueError(f"view {surface.views[row]!r} has no samples, so its surface has no basins")
    interpolated = status == Status.INTERPOLATED
    error = 0.0
    if interpolated.any():
        if surface.interpolation_error is None:
            raise ValueError("points are interpolated, but the surface does not say with what error; measure it anew")
        error = float(surface.interpolation_error[row])
    found = _persistence(
        axes, surface.loss[row], np.where(interpolated, error, 0.0), str(surface.views[row]), surface.label
    )
    if objective is None and directions is None:
        return found
    if objective is None or directions is None:
        raise ValueError("the error over samples needs both the objective and the directions of the surface")
    known = _Recomputed.of(surface, found, objective, directions, error)
    return _with_sampling(found, known, confidence)


def persistence_draws(
    surfaces: LineDraws | PlaneDraws | Sequence[Line | Plane], view: str | None = None, *, level: float = 0.95
) -> PersistenceDraws:
    """The basins of several surfaces in numbers, with the mean over them and its t-interval.

    The quantities are ``certified_basins``, their number; ``total_persistence``, the sum of the finite ones of these;
    ``central_depth``, the climb out of the basin that the weights lie in, to its saddle or the border of the grid;
    and ``smad``, see :attr:`landscape.Persistence.smad`.

    Args:
        surfaces: along several random directions, or of several seeds; two at least.
        view: of the data; the first if none.
        level: of the intervals.

    Raises:
        ValueError: there is one surface only, or as for :func:`persistence`.

    >>> x = np.linspace(-1, 1, 21)
    >>> lines = [
    ...     Line(
    ...         views=["data"], alphas=x, loss=(k * x**2)[None], status=np.ones((1, 21), np.uint8), weight_norm=1.0,
    ...         direction_norm=1.0, seed=k,
    ...     )
    ...     for k in (1, 2, 3)
    ... ]
    >>> found = persistence_draws(lines)
    >>> found.of("central_depth")["mean"], found.of("certified_basins")["mean"]
    (2.0, 1.0)
    """
    every = _surfaces(surfaces)
    if len(every) < 2:
        raise ValueError(f"{len(every)} surface has no spread; give at least 2 draws or seeds")
    if not 0 < level < 1:
        raise ValueError(f"level is {level!r}, expected a number between 0 and 1")
    found = [persistence(one, view) for one in every]
    values = np.array([_numbers(one) for one in found]).T
    count = len(found)
    with np.errstate(invalid="ignore"):  # a basin that walls of infinite loss enclose has no finite depth
        mean, spread = values.mean(axis=1), values.std(axis=1, ddof=1) / math.sqrt(count)
        half = float(stdtrit(count - 1, (1 + level) / 2)) * spread
        low, high = mean - half, mean + half
    seeds = surfaces.draws if isinstance(surfaces, LineDraws | PlaneDraws) else np.arange(count)
    return PersistenceDraws(
        draws=seeds,
        quantities=np.array(_QUANTITIES),
        values=values,
        mean=mean,
        low=low,
        high=high,
        view=found[0].view,
        level=level,
        label=found[0].label,
    )


def _persistence(
    axes: Sequence[np.ndarray], values: np.ndarray, point_error: np.ndarray, view: str, label: str | None
) -> Persistence:
    for name, axis in zip(("alphas", "betas"), axes, strict=False):
        if len(axis) < _FEWEST or not (np.diff(axis) > 0).all():
            raise ValueError(f"{name} must ascend and have at least {_FEWEST} points to tell the surface's error")
    if np.isneginf(values).any():
        raise ValueError(f"the loss of view {view!r} is -inf somewhere, so its basins have no depth")
    if not np.isfinite(values).any():
        raise ValueError(f"the loss of view {view!r} is finite nowhere")
    values = values.astype(float)
    border = beside(np.zeros(values.shape, bool), border=True)
    unknown = beside(np.isnan(values), border=False)
    found = branches(Graph.of(axes, values), _weights(axes), np.stack([border.ravel(), unknown.ravel()]))
    cells = CellErrors.of(axes, values, point_error)
    error = np.array([cells.below(level) if np.isfinite(level) else cells.largest for level in found.death])
    certified = (found.death - found.birth > 2 * error) & ~np.isfinite(found.reached[:, 1])
    coordinates = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    return Persistence(
        alphas=axes[0],
        betas=axes[1] if len(axes) > 1 else None,
        loss=values.ravel(),
        minimum=coordinates[found.minimum],
        edge=np.minimum(found.reached[:, 0], found.death),
        area=found.size,
        error=error,
        certified=certified,
        view=view,
        surface_error=cells.largest,
        label=label,
        **_tree(found),
        **(_peaks(axes, values, cells) if len(axes) > 1 else {}),
    )


def _tree(found: Branches) -> dict[str, Any]:
    return {
        "basin_of": found.branch_of, "birth": found.birth, "death": found.death, "saddle": found.saddle,
        "parent": found.parent,
    }  # fmt: skip


def _peaks(axes: Sequence[np.ndarray], values: np.ndarray, cells: CellErrors) -> dict[str, Any]:
    found = peaks(axes, values)
    error = np.array([cells.above(level) for level in found.birth])
    return {
        "peak_birth": found.birth, "peak_death": found.death, "peak_saddle": found.saddle, "peak_top": found.top,
        "peak_error": error, "peak_certified": found.death - found.birth > 2 * error,
    }  # fmt: skip


def _weights(axes: Sequence[np.ndarray]) -> np.ndarray:
    """Length or area that is nearer to each point than to others, within the grid; flat."""
    total = np.ones(1)
    for axis in axes:
        middles = np.concatenate([axis[:1], (axis[:-1] + axis[1:]) / 2, axis[-1:]])
        total = np.multiply.outer(total, np.diff(middles))
    return total.ravel()


def _row_of(surface: Any, view: str | None) -> int:
    names = surface.views.tolist()
    if view is not None and view not in names:
        raise ValueError(f"no view {view!r} in this surface; it has {', '.join(names)}")
    return 0 if view is None else int(names.index(view))


@dataclasses.dataclass(frozen=True, eq=False)
class _Recomputed:
    """Losses of single samples at points of a surface."""

    objective: Objective
    samples: Samples
    directions: list[Tensor]

    @classmethod
    def of(
        cls,
        surface: Line | Plane,
        found: Persistence,
        objective: Objective,
        directions: Sequence[Any],
        point_error: float,
    ) -> _Recomputed:
        check_objective(objective, "persistence")
        if surface.batchnorm != "frozen":
            raise ValueError("the error over samples is measured with frozen BatchNorm statistics; this surface is not")
        objective = objective.over(None).view(found.view)
        vectors = [objective.layout.as_vector(d) for d in directions]
        count = 1 if found.betas is None else 2
        if len(vectors) != count:
            raise ValueError(
                f"{len(vectors)} directions for a surface of {count}; give those that it was measured along"
            )
        hashes = surface.hashes
        if hashes is not None and [direction_hash(v) for v in vectors] != list(hashes):
            raise ValueError("the surface was measured along other directions; give those of its record's hashes")
        known = cls(objective, samples_of(objective, "the error over samples"), vectors)
        for place, shown in _checked(found):
            here = float((known.losses(place) * known.samples.weights).nansum())
            rounding = torch.finfo(objective.layout.dtype).eps ** 0.5 * max(1.0, abs(shown))
            if not abs(here - shown) <= rounding + point_error:
                raise ValueError(
                    f"at ({', '.join(f'{x:g}' for x in place)}) the objective has loss {here:.6g}, the surface "
                    f"{shown:.6g}; give the objective, at the weights, and the directions that it was measured with"
                )
        return known

    def losses(self, coordinates: np.ndarray) -> Tensor:
        """Losses of all samples, (n,), at coordinates in units of the directions."""
        point = self.objective.weights.double()
        for c, direction in zip(coordinates.tolist(), self.directions, strict=True):
            point = point + c * direction.double()
        return sample_losses(self.objective.at(point.to(self.objective.layout.dtype)), self.samples)

    def standard_error(self, start: np.ndarray, end: np.ndarray) -> float:
        """Standard error of the mean over samples of the difference between the losses at two points."""
        p = self.samples.weights
        kept = p > 0
        rise, p = (self.losses(end) - self.losses(start))[kept], p[kept]
        count = len(p)
        if count < 2:
            return math.inf
        mean = (p * rise).sum()
        return float(((p * (rise - mean)) ** 2).sum().sqrt()) * math.sqrt(count / (count - 1))


def _checked(found: Persistence) -> list[tuple[np.ndarray, float]]:
    """Points by whose losses a surface is known, with these: the lowest, and the furthest along each axis alone."""
    axes = [found.alphas] if found.betas is None else [found.alphas, found.betas]
    loss = found.grid(np.where(np.isfinite(found.loss), found.loss, np.inf))
    middle = [int(np.abs(axis).argmin()) for axis in axes]
    at = [[int(i) for i in np.unravel_index(loss.argmin(), loss.shape)]]
    for k, axis in enumerate(axes):
        through = loss[tuple(slice(None) if j == k else i for j, i in enumerate(middle))]
        far = int(np.where(np.isfinite(through), np.abs(axis), -1.0).argmax())
        at.append([*middle[:k], far, *middle[k + 1 :]])
    points = [(np.array([axis[i] for axis, i in zip(axes, place, strict=True)]), loss[tuple(place)]) for place in at]
    return [(point, float(shown)) for point, shown in points if np.isfinite(shown)]


def _with_sampling(found: Persistence, known: _Recomputed, confidence: float) -> Persistence:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence!r}, expected a number between 0 and 1")
    z = float(ndtri((1 + confidence) / 2))
    half = np.full(len(found.birth), np.nan)
    peak_half = np.full(0 if found.peak_birth is None else len(found.peak_birth), np.nan)
    certified = np.asarray(found.certified, bool).copy()
    for k in np.flatnonzero(certified & np.isfinite(found.death)):
        half[k] = z * known.standard_error(found.minimum[k], found.saddle[k])
        certified[k] = found.persistence[k] > 2 * found.error[k] + half[k]
    changes: dict[str, Any] = {
        "sampling": half,
        "certified": certified,
        "error": found.error + np.nan_to_num(half) / 2,
        "confidence": confidence,
    }
    if found.peak_birth is not None and found.peak_death is not None:
        assert found.peak_certified is not None
        assert found.peak_saddle is not None
        assert found.peak_top is not None
        assert found.peak_error is not None
        sure = np.asarray(found.peak_certified, bool).copy()
        for k in np.flatnonzero(sure):
            peak_half[k] = z * known.standard_error(found.peak_saddle[k], found.peak_top[k])
            sure[k] = found.peak_death[k] - found.peak_birth[k] > 2 * found.peak_error[k] + peak_half[k]
        changes |= {"peak_certified": sure, "peak_error": found.peak_error + np.nan_to_num(peak_half) / 2}
    return dataclasses.replace(found, **changes)


def _surfaces(surfaces: LineDraws | PlaneDraws | Sequence[Line | Plane]) -> list[Line | Plane]:
    if isinstance(surfaces, LineDraws):
        return [
            Line(
                views=surfaces.views, alphas=surfaces.alphas, loss=loss, status=status,
                weight_norm=surfaces.weight_norm, direction_norm=float(norms[0]), seed=int(seed),
            )
            for loss, status, norms, seed in zip(
                surfaces.loss, surfaces.status, surfaces.direction_norms, surfaces.draws, strict=True
            )
        ]  # fmt: skip
    if isinstance(surfaces, PlaneDraws):
        return [
            Plane(
                views=surfaces.views, alphas=surfaces.alphas, betas=surfaces.betas, loss=loss, status=status,
                weight_norm=surfaces.weight_norm, direction_norms=norms, cosine=float(cosine), seed=int(seed),
            )
            for loss, status, norms, cosine, seed in zip(
                surfaces.loss, surfaces.status, surfaces.direction_norms, surfaces.cosines, surfaces.draws, strict=True
            )
        ]  # fmt: skip
    return list(surfaces)


def _numbers(found: Persistence) -> list[float]:
    return [float(np.sum(found.certified)), found.total, float(found.depth[found.central]), found.smad]
