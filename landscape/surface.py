"""Loss surfaces: every view of an objective along a line or over a plane in parameter space."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.objective import Objective
from landscape.records import Line, Plane, Status
from landscape.rows import MemoryRows, Rows

Progress = Callable[[Iterable[int]], Iterable[int]]


def row_fields(objective: Objective) -> dict[str, tuple[int, ...]]:
    """Fields and shapes of one surface point, to allocate :class:`~landscape.rows.Rows` with."""
    count = len(objective.views)
    return {"loss": (count,), "accuracy": (count,)}


def line(
    objective: Objective,
    direction: Any,
    alphas: Any,
    *,
    seed: int | None = None,
    rows: Rows | None = None,
    progress: Progress = iter,
) -> Line:
    """Loss (and accuracy) of every view at w + α·d.

    Args:
        objective: with one or several views; those of one source share a forward pass.
        direction: (K,) tensor or array.
        alphas: (n,) finite displacements, in units of the direction.
        seed: of the direction, to be recorded.
        rows: where points are kept (n rows, see :func:`row_fields`), memory if none; points already there stay.
        progress: wraps the iteration over points, e.g. ``tqdm.tqdm``.

    Raises:
        ValueError: a shape does not fit, or an alpha is not finite.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> obj = Objective(model, torch.nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1)))
    >>> w = model.weight.item()
    >>> bool(np.allclose(line(obj, [1.0], [-1.0, 0.0, 2.0]).loss[0], [(w - 1) ** 2, w**2, (w + 2) ** 2]))
    True
    """
    d = objective.layout.as_vector(direction)
    a = _grid(alphas, "alphas")
    loss, accuracy = _scan(objective, [d], a[:, None], rows, progress)
    return Line(
        views=np.array(objective.views),
        alphas=a,
        loss=loss,
        status=_status(objective, loss),
        weight_norm=_norm(objective.weights),
        direction_norm=_norm(d),
        seed=seed,
        accuracy=accuracy,
    )


def plane(
    objective: Objective,
    direction1: Any,
    direction2: Any,
    alphas: Any,
    betas: Any,
    *,
    seed: int | None = None,
    rows: Rows | None = None,
    progress: Progress = iter,
) -> Plane:
    """Loss (and accuracy) of every view at w + α·d1 + β·d2, shape (views, len(alphas), len(betas)).

    The directions are used as given: neither orthogonalised nor rescaled; their norms and cosine are recorded.
    Arguments and errors as in :func:`line`, with ``len(alphas) * len(betas)`` rows.
    """
    d1, d2 = objective.layout.as_vector(direction1), objective.layout.as_vector(direction2)
    a, b = _grid(alphas, "alphas"), _grid(betas, "betas")
    points = np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2)
    loss, accuracy = _scan(objective, [d1, d2], points, rows, progress)
    shape = (len(objective.views), len(a), len(b))
    norms = np.array([_norm(d1), _norm(d2)])
    return Plane(
        views=np.array(objective.views),
        alphas=a,
        betas=b,
        loss=loss.reshape(shape),
        status=_status(objective, loss).reshape(shape),
        weight_norm=_norm(objective.weights),
        direction_norms=norms,
        cosine=float(d1.double() @ d2.double()) / norms.prod() if norms.all() else float("nan"),
        seed=seed,
        accuracy=None if accuracy is None else accuracy.reshape(shape),
    )


def _scan(
    objective: Objective, directions: list[Tensor], points: np.ndarray, rows: Rows | None, progress: Progress
) -> tuple[np.ndarray, np.ndarray | None]:
    """(views, points) losses and accuracies."""
    rows = MemoryRows(len(points), row_fields(objective)) if rows is None else rows
    centre = objective.weights
    for i in progress(rows.pending()):
        displaced = centre
        for coordinate, direction in zip(points[i], directions, strict=True):
            displaced = displaced + float(coordinate) * direction
        found = objective.at(displaced).evaluate()
        correct = found.metrics.get("accuracy", {})
        rows.write(
            i,
            status=Status.OK,
            loss=[found.loss[v] for v in objective.views],
            accuracy=[correct.get(v, np.nan) for v in objective.views],
        )
    arrays = rows.read()
    accuracy = arrays["accuracy"].T
    return arrays["loss"].T, None if np.isnan(accuracy).all() else accuracy


def _status(objective: Objective, loss: np.ndarray) -> np.ndarray:
    status = np.where(np.isfinite(loss), Status.OK, Status.NONFINITE).astype(np.uint8)
    empty = [objective.num_samples(v) == 0 for v in objective.views]
    status[empty] = Status.EMPTY
    return status


def _grid(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} has shape {array.shape}, expected (n,); pass a 1-D grid")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    return array


def _norm(vector: Tensor) -> float:
    return float(vector.double().norm()) if vector.numel() else float(torch.zeros(()))
