"""Loss surfaces: every view of an objective along a line or over a plane in parameter space."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from landscape._suggest import former_arguments
from landscape.objective.evaluation.evaluate import Evaluation
from landscape.objective.isolation import undisturbed
from landscape.objective.objective import Objective, check_objective
from landscape.records import Line, Plane, Status
from landscape.surfaces.by_class import split_by_class
from landscape.surfaces.centre_check import CentreCheck, check_centre, seen_curvature
from landscape.surfaces.directions import cosine
from landscape.surfaces.recalibration import SAMPLES, Recalibration
from landscape.surfaces.refinement import Refinement, coarse_to_fine
from landscape.surfaces.scan import Progress, Rows, as_grid, groups, row_fields, rows_for, status_of, together

__all__ = ["BatchNorm", "line", "plane", "row_fields", "surface_fields"]

BatchNorm = Literal["frozen", "recalibrated"]
"""Statistics of BatchNorm layers: those of the model, or recomputed at every point."""


def surface_fields(objective: Objective, *, by_class: bool = False) -> dict[str, tuple[int, ...]]:
    """Fields and shapes of one surface point, to allocate :class:`~landscape.surfaces.scan.Rows` with.

    Raises:
        ValueError: ``by_class`` is asked for, and a view's labels are no class indices.
    """
    fields = row_fields(objective)
    if by_class:
        classes = split_by_class(objective)[1]
        fields |= {f"class_{name}": (*shape, len(classes)) for name, shape in row_fields(objective).items()}
    return fields


@former_arguments(renamed={"tolerance": "tol"})
def line(
    objective: Objective,
    direction: Any,
    alphas: Any,
    *,
    seed: int | None = None,
    tol: float | None = None,
    by_class: bool = False,
    batchnorm: BatchNorm = "frozen",
    batchnorm_samples: int = SAMPLES,
    check: bool = True,
    rows: Rows | None = None,
    progress: Progress = iter,
) -> Line:
    """Loss (and accuracy) of every view at w + α·d.

    Points are evaluated coarse to fine, so that what a stopped measurement leaves is a usable picture. A value that is
    not finite is kept and marked in ``status``.

    Args:
        objective: with one or several views; those of one source share a forward pass.
        direction: (K,) tensor or array.
        alphas: (n,) finite displacements, in units of the direction.
        seed: of the direction, to be recorded.
        tol: evaluate only as many points as it takes to interpolate the loss of every view to about this share
            of its range, 0.01 for one per cent; the others are marked as interpolated, and the estimated error is
            recorded. Accuracies, which jump, are interpolated along without a promise. See
            :class:`~landscape.surfaces.refinement.Refinement`. All points are evaluated if none.
        by_class: loss and accuracy of every class of every view too, from the same forward pass.
        batchnorm: ``"frozen"`` statistics, those of the model, or ``"recalibrated"`` at every point.
        batchnorm_samples: that they are recomputed on, see :class:`~landscape.surfaces.recalibration.Recalibration`.
        check: cross-check the centre, see :func:`~landscape.surfaces.centre_check.check_centre`.
        rows: where points are kept (n rows, see :func:`surface_fields`), memory if none; points already there stay.
        progress: wraps the iteration over points, e.g. ``tqdm.auto.tqdm``.

    Raises:
        ValueError: a shape does not fit, an alpha is not finite, or an argument is impossible for this model.

    Warns:
        SurfaceCheckWarning: the cross-check found a disagreement.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> obj = Objective(model, torch.nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1)))
    >>> w = model.weight.item()
    >>> bool(np.allclose(line(obj, [1.0], [-1.0, 0.0, 2.0]).loss[0], [(w - 1) ** 2, w**2, (w + 2) ** 2]))
    True
    """
    check_objective(objective, "line")
    d = objective.layout.as_vector(direction)
    a = as_grid(alphas, "alphas")
    how = _How(tol, by_class, batchnorm, batchnorm_samples, check)
    with undisturbed(objective.model):  # once for all passes
        measured = _measure(objective, [d], [a], how, rows, progress)
    return Line(alphas=a, direction_norm=_norm(d), seed=seed, **measured)


@former_arguments(renamed={"tolerance": "tol"})
def plane(
    objective: Objective,
    direction1: Any,
    direction2: Any,
    alphas: Any,
    betas: Any,
    *,
    seed: int | None = None,
    tol: float | None = None,
    by_class: bool = False,
    batchnorm: BatchNorm = "frozen",
    batchnorm_samples: int = SAMPLES,
    check: bool = True,
    rows: Rows | None = None,
    progress: Progress = iter,
) -> Plane:
    """Loss (and accuracy) of every view at w + α·d1 + β·d2, shape (views, len(alphas), len(betas)).

    The directions are used as given: neither orthogonalised nor rescaled; their norms and cosine are recorded.
    Arguments and errors as in :func:`line`, with ``len(alphas) * len(betas)`` rows.
    """
    check_objective(objective, "plane")
    d1, d2 = objective.layout.as_vector(direction1), objective.layout.as_vector(direction2)
    a, b = as_grid(alphas, "alphas"), as_grid(betas, "betas")
    how = _How(tol, by_class, batchnorm, batchnorm_samples, check)
    with undisturbed(objective.model):
        measured = _measure(objective, [d1, d2], [a, b], how, rows, progress)
    norms = np.array([_norm(d1), _norm(d2)])
    return Plane(alphas=a, betas=b, direction_norms=norms, cosine=cosine(d1, d2), seed=seed, **measured)


@dataclasses.dataclass(frozen=True)
class _How:
    """The arguments of a measurement; see :func:`line`."""

    tol: float | None
    by_class: bool
    batchnorm: BatchNorm
    batchnorm_samples: int
    check: bool


def _measure(
    objective: Objective,
    directions: Sequence[Tensor],
    axes: Sequence[np.ndarray],
    how: _How,
    rows: Rows | None,
    progress: Progress,
) -> dict[str, Any]:
    """The fields that a line and a plane have in common, (views, …, *grid) where they are arrays."""
    if how.batchnorm not in ("frozen", "recalibrated"):
        raise ValueError(f"batchnorm is {how.batchnorm!r}, expected 'frozen' or 'recalibrated'")
    ranks, objective = objective.ranks, objective.over(None)  # processes share the points, each over the whole data
    views, shape = objective.views, tuple(len(axis) for axis in axes)
    recalibration = Recalibration(objective, how.batchnorm_samples) if how.batchnorm == "recalibrated" else None
    split, classes = split_by_class(objective) if how.by_class else (objective, [])
    fields = surface_fields(objective, by_class=how.by_class)
    rows = rows_for(rows, int(np.prod(shape)), fields)
    table = _Table(rows, fields)
    refinement = None
    if how.tol is not None:
        table.known[:] = False  # decided anew from what is stored, so that a resumed refinement takes the same points
        refinement = Refinement(axes, table.values, table.known, table.governing("loss"), how.tol)
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    centre: dict[str, float] = {}
    # What the surface's centre is compared with; no weight can move in between.
    plain = objective.losses_of_checks() if how.check else {}

    with split.along(directions, recalibration) as evaluate:

        def row(i: int) -> dict[str, np.ndarray]:
            return _row(evaluate(places[i].tolist()), views, len(classes))

        whole = [table.pending(coarse_to_fine(shape))]
        for group in groups(whole if refinement is None else table.replayed(refinement.rounds()), ranks, progress):
            for i, values in zip(group, together(group, row, ranks), strict=True):
                table.write(i, values)
        if how.check:
            middle = np.flatnonzero(~places.any(1) & table.known)
            if len(middle):  # what the record will have, perhaps stored by an earlier process
                losses = table.values[middle[0], table.governing("loss")].tolist()
                centre = dict(zip(views, losses, strict=True))
            else:
                centre = evaluate([0.0] * len(axes)).loss

    if refinement is not None:
        refinement.fill()
    arrays = {name: np.moveaxis(values, 0, -1).reshape(*values.shape[1:], *shape) for name, values in table.split()}
    status = status_of(objective, arrays["loss"], 0)
    status[(status == Status.OK) & ~table.known.reshape(shape)] = Status.INTERPOLATED
    measured: dict[str, Any] = {
        "views": np.array(views),
        "status": status,
        "weight_norm": _norm(objective.weights),
        "classes": np.array(classes) if classes else None,
        "tol": how.tol,
        "interpolation_error": None if refinement is None else refinement.error[: len(views)],
        "batchnorm": how.batchnorm,
        "batchnorm_samples": recalibration.samples if recalibration else None,
        "batch_size": objective.batch_size,
        "checks": objective.checks,
        "label": objective.name,
        "memory_format": "channels_last" if objective.memory_format == torch.channels_last else "contiguous",
        **{name: None if np.isnan(values).all() and "accuracy" in name else values for name, values in arrays.items()},
    }
    if how.check:
        points = int(table.known.sum())
        found = check_centre(
            objective, directions, centre, frozen=recalibration is None, points=points, plain_loss=plain
        )
        measured |= {f.name: getattr(found, f.name) for f in dataclasses.fields(CentreCheck)}
        measured["seen_curvature"] = _seen(arrays["loss"][_checked(found, views)], table.known.reshape(shape), axes)
    return measured


class _Table:
    """Rows as one matrix, (points, columns), so that they can be interpolated together."""

    def __init__(self, rows: Rows, fields: dict[str, tuple[int, ...]]) -> None:
        self._rows, self._fields = rows, fields
        stored = rows.read()
        count = len(stored["loss"])
        self.values = np.concatenate([stored[name].reshape(count, -1) for name in fields], axis=1)
        self._stored = np.ones(count, bool)
        self._stored[list(rows.pending())] = False
        self.known = self._stored.copy()

    def pending(self, order: Iterable[int]) -> list[int]:
        """Those that are not stored."""
        return [i for i in order if not self.known[i]]

    def replayed(self, rounds: Iterable[list[int]]) -> Iterator[list[int]]:
        """Those that are not stored; the others become known when their turn comes."""
        for points in rounds:
            self.known[[i for i in points if self._stored[i]]] = True
            yield [i for i in points if not self._stored[i]]

    def governing(self, name: str) -> np.ndarray:
        """(columns,) which of them belong to a field."""
        sizes = {n: int(np.prod(shape)) for n, shape in self._fields.items()}
        return np.concatenate([np.full(size, n == name) for n, size in sizes.items()])

    def write(self, row: int, values: dict[str, Any]) -> None:
        self._rows.write(row, status=Status.OK, **values)
        self.values[row] = np.concatenate([np.ravel(values[name]) for name in self._fields])
        self.known[row] = True

    def split(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each field, (points, *shape); interpolated shares of samples kept between 0 and 1."""
        start = 0
        for name, shape in self._fields.items():
            size = int(np.prod(shape))
            values = self.values[:, start : start + size].reshape(-1, *shape)
            yield name, np.clip(values, 0, 1) if name.endswith("accuracy") else values
            start += size


def _checked(found: CentreCheck, views: Sequence[str]) -> int:
    """Index of the view that the curvature was checked on."""
    return views.index(found.check.get("view", views[0]))


def _row(found: Evaluation, views: Sequence[str], num_classes: int) -> dict[str, Any]:
    """One point's values; those by class follow those of the views."""
    count, correct = len(views), found.metrics.get("accuracy", {})
    values = {
        "loss": list(found.loss.values()),
        "accuracy": [correct.get(name, np.nan) for name in found.loss],
    }
    row: dict[str, Any] = {name: of_views[:count] for name, of_views in values.items()}
    if num_classes:
        by_class = {name: np.reshape(rest[count:], (-1, num_classes)) for name, rest in values.items()}
        row |= {f"class_{name}": array for name, array in by_class.items()}
    return row


def _seen(loss: np.ndarray, known: np.ndarray, axes: Sequence[np.ndarray]) -> np.ndarray | None:
    """Second difference of the surface's own evaluated points at its centre along each axis; none where it has none."""
    if not all((axis == 0).any() for axis in axes):
        return None
    middle = tuple(int(np.flatnonzero(axis == 0)[0]) for axis in axes)
    found = []
    for k, axis in enumerate(axes):
        through: tuple[Any, ...] = (*middle[:k], slice(None), *middle[k + 1 :])
        at = known[through]
        found.append(seen_curvature(loss[through][at], axis[at]))
    return np.array(found) if np.isfinite(found).all() else None


def _norm(vector: Tensor) -> float:
    return float(vector.double().norm())
