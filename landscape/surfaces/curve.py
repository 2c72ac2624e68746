"""Curves of low loss between two points of parameter space: trained control points, and the loss along the curve."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.objective.evaluation.evaluate import Forward
from landscape.objective.objective import EmptyViewError, Objective, check_objective, check_seed
from landscape.objective.sample_losses import sample_losses, samples_of
from landscape.objective.views import View
from landscape.records import Curve
from landscape.records.paths import SHAPES, weights_at
from landscape.surfaces.connectivity import barrier, moving_buffers
from landscape.surfaces.directions import cosine
from landscape.surfaces.recalibration import Recalibration, batch_norms
from landscape.surfaces.scan import MemoryRows, Progress, as_grid, put, row_fields, status_of, tables
from landscape.surfaces.topology.surface_error import CellErrors

_NOISE = 0.01  # of the first control points, as a share of the ends' distance, so that no symmetry holds them
_LENGTH_POINTS = 200  # of the polygon that the length of a curve is that of


def curve(
    start: Objective,
    end: Objective,
    kind: str = "bezier",
    *,
    view: str | None = None,
    bends: int = 1,
    gradients: int = 300,
    samples: int | None = None,
    lr: float = 0.02,
    alphas: Any = None,
    buffers: str | None = None,
    names: tuple[str, str] = ("start", "end"),
    seed: int = 0,
    progress: Progress = iter,
) -> Curve:
    """Train a curve from the weights of ``start`` to those of ``end`` on which the loss stays low, and measure it.

    The control points θ between the ends minimise E L(φ(t)) over t uniform in [0, 1] (Garipov et al. 2018, arXiv
    1802.10026, eq. 2), φ being a Bézier curve or a polyline; at first they lie on the straight line, up to 1 % noise.
    Each step of Adam takes the gradient at one random t; step sizes fall to 0 along a cosine. The loss along the curve
    is then evaluated on all views of ``start``. That none was found does not show that there is none.

    Args:
        start: whose data and views are used.
        end: its weights and buffers are used, not its data.
        kind: ``bezier`` or ``polyline``.
        view: whose loss is lowered; the first if none.
        bends: control points between the ends.
        gradients: steps, of one gradient each: the budget.
        samples: of the view in each gradient, drawn anew; all if none.
        lr: first step size, as a share of the root mean square difference between the weights of the ends.
        alphas: ascending values of t to evaluate, with 0 and 1; 41 evenly spaced ones if none.
        buffers: BatchNorm statistics at every point, in training too, where they count as constants:
            ``recalibrated``, see :class:`landscape.surfaces.recalibration.Recalibration`; or ``interpolated`` linearly
            in t. If none, the first for models that have some.
        names: of the two ends, to be recorded.
        seed: of points and samples.
        progress: wraps the iteration over training steps.

    Returns:
        Curve: with the barrier of each view, max over t of L(t) − ((1 − t)·L(0) + t·L(1)), by how much it may be higher
        between the points (see :class:`landscape.surfaces.topology.surface_error.CellErrors`), and its standard error
        over the samples.

    Raises:
        ValueError: the models differ in more than their weights and statistics, the view is unknown, or an argument is
            impossible.

    >>> class Ring(torch.nn.Module):  # whose loss is 0 on the unit circle, and 1 at its centre
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.w = torch.nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))
    ...
    ...     def forward(self, x):
    ...         return x * (self.w @ self.w - 1)
    >>> obj = Objective(Ring(), torch.nn.MSELoss(), (torch.ones(2, 1).double(), torch.zeros(2, 1).double()))
    >>> found = curve(obj, obj.at([-1.0, 0.0]), lr=0.05)
    >>> found.barrier.item() < 0.2, found.length > 2
    (True, True)
    """
    for objective in (start, end):
        check_objective(objective, "curve")
    check_seed(seed)
    if kind not in SHAPES:
        raise ValueError(f"kind is {kind!r}, expected {' or '.join(SHAPES)}")
    for name, value in (("bends", bends), ("gradients", gradients), ("samples", 1 if samples is None else samples)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr is {lr}, expected a finite number > 0")
    grid = as_grid(np.linspace(0, 1, 41) if alphas is None else alphas, "alphas")
    if len(grid) < 3 or not (np.diff(grid) > 0).all() or grid[0] != 0 or grid[-1] != 1:
        raise ValueError("alphas must ascend from 0 to 1, at three points at least")
    start, end = start.over(None), end.over(None)
    trained_on = start.views[0] if view is None else view
    one = start.view(trained_on)
    if not one.num_samples(trained_on):
        raise EmptyViewError(f"view {trained_on!r} has no samples, so it has no loss")
    points = _Points(start, end, kind, bends, buffers)
    history = points.train(one, gradients, samples, lr, seed, progress)
    rows = MemoryRows.pending_all(len(grid), row_fields(start))
    for row, t in enumerate(grid.tolist()):
        put(rows, row, points.objective(start, t).evaluate(), start.views)
    loss, accuracy = tables(rows)
    barriers, peaks = (np.array(found) for found in zip(*(barrier(grid, v) for v in loss.T), strict=True))
    w0, w1 = points.table[0], points.table[-1]
    at = np.linspace(0, 1, _LENGTH_POINTS)
    steps = np.diff(np.stack([weights_at(kind, bends + 2, t) for t in at]), axis=0)
    return Curve(
        views=np.array(start.views),
        alphas=grid,
        loss=loss.T,
        status=status_of(start, loss.T, 0),
        barrier=barriers,
        peak=peaks,
        distance=float((w1.double() - w0.double()).norm()),
        cosine=cosine(w0, w1),
        buffers=points.buffers,
        start=names[0],
        end=names[1],
        accuracy=None if accuracy is None else accuracy.T,
        control_points=points.table.cpu().numpy(),
        barrier_error=np.array([_between(grid, values) for values in loss.T]),
        barrier_stderr=np.array(
            [_over_samples(points, start, name, float(t)) for name, t in zip(start.views, peaks, strict=True)]
        ),
        history=np.array(history),
        length=float((torch.from_numpy(steps).to(points.table.device) @ points.table.double()).norm(dim=1).sum()),
        shape=kind,
        trained_on=trained_on,
        gradients=gradients,
        samples=samples,
        lr=lr,
        seed=seed,
    )


class _Points:
    """The control points of a curve, (points, K), and the objective at each of its points.

    Attributes:
        table: the control points, at first equally spaced on the straight line.
        buffers: what is done about buffers: none, interpolated or recalibrated.
    """

    def __init__(self, start: Objective, end: Objective, kind: str, bends: int, buffers: str | None) -> None:
        if buffers not in (None, "interpolated", "recalibrated"):
            raise ValueError(f"buffers is {buffers!r}, expected 'recalibrated' or 'interpolated'")
        self._moving = moving_buffers(start, end)
        recalibrated = buffers == "recalibrated" or (buffers is None and batch_norms(start.model))
        self._recalibration = Recalibration(start) if recalibrated else None
        self.buffers = "recalibrated" if self._recalibration else "interpolated" if self._moving else "none"
        self._kind, w0, w1 = kind, start.weights, end.weights.to(start.weights)
        self.table = torch.stack([torch.lerp(w0, w1, t) for t in torch.linspace(0, 1, bends + 2).tolist()])
        self.table[-1] = w1

    def train(
        self, one: Objective, gradients: int, samples: int | None, lr: float, seed: int, progress: Progress
    ) -> list[float]:
        """Lower the mean loss along the curve by moving all but the ends; give the loss of every step."""
        spacing = float((self.table[-1] - self.table[0]).double().square().mean().sqrt())
        if not spacing:
            raise ValueError("start and end have the same weights, so there is nothing to join")
        noise = torch.randn(self.table[1:-1].shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        inner = self.table[1:-1] + _NOISE * spacing * noise.to(self.table)
        optimizer = torch.optim.Adam([inner], lr=lr * spacing)
        generator = np.random.default_rng(seed)
        losses = []
        for step in progress(range(gradients)):
            for group in optimizer.param_groups:
                group["lr"] = lr * spacing * (1 + math.cos(math.pi * step / gradients)) / 2
            t = float(generator.uniform())
            here = self.objective(one, t)
            loss, gradient = _loss_and_gradient(here if samples is None else _drawn(here, samples, generator))
            if not bool(gradient.isfinite().all()):
                raise ValueError(f"the gradient at step {step} of the curve is not finite; take a smaller lr")
            losses.append(loss)
            weights = torch.from_numpy(weights_at(self._kind, len(self.table), t)[1:-1]).to(gradient)
            inner.grad = weights[:, None] * gradient
            optimizer.step()
            self.table[1:-1] = inner
        return losses

    def objective(self, like: Objective, t: float) -> Objective:
        """The objective at the point of t, with its buffers there."""
        weights = torch.from_numpy(weights_at(self._kind, len(self.table), t)).to(self.table)
        point = self.table[-round(t)] if t in (0, 1) else weights @ self.table  # the ends exactly
        here = like.at(point)
        if self._recalibration is not None:
            return _recalibrated(here, self._recalibration)
        return here.with_buffers({n: torch.lerp(a, b, t) for n, (a, b) in self._moving.items()})


def _recalibrated(objective: Objective, recalibration: Recalibration) -> Objective:
    """The objective with the statistics that its model gets where it is."""
    found: dict[str, Tensor] = {}

    def prepare(forward: Forward) -> None:
        recalibration(forward)
        found.update({n: b.detach().clone() for n, b in objective.model.named_buffers() if b.is_floating_point()})

    with objective.sampled(1).unchecked().along([], prepare) as evaluate:
        evaluate([])
    return objective.with_buffers(found)


def _drawn(objective: Objective, samples: int, generator: np.random.Generator) -> Objective:
    """The objective on so many random samples of its view."""
    (name,) = objective.views
    view = objective.view_of(name)
    rows = torch.arange(objective.source_of(name).size) if view.indices is None else view.indices.cpu()
    chosen = generator.choice(len(rows), min(samples, len(rows)), replace=False)
    return objective.with_views([View(name, view.source, rows[torch.from_numpy(chosen)], view.labels)]).unchecked()


def _loss_and_gradient(objective: Objective) -> tuple[float, Tensor]:
    total = objective.accumulate(
        lambda batch: torch.cat([batch.loss().detach().reshape(1), batch.gradient_of(batch.loss(), objective.layout)])
    )
    return float(total[0]), total[1:].to(objective.layout.dtype)


def _between(grid: np.ndarray, loss: np.ndarray) -> float:
    """By how much the loss may exceed its linear interpolation between the points."""
    return CellErrors.of([grid], loss, np.zeros(len(grid))).largest


def _over_samples(points: _Points, objective: Objective, name: str, t: float) -> float:
    """Standard error of a view's barrier, the mean over its samples of ℓᵢ(t) − (1 − t)·ℓᵢ(0) − t·ℓᵢ(1)."""
    one = objective.view(name)
    if not one.num_samples(name) or not math.isfinite(t) or one.loss_is_inside:
        return float("nan")
    samples = samples_of(one, "the error of a barrier")
    at = {place: sample_losses(points.objective(one, place), samples) for place in (0.0, t, 1.0)}
    kept = samples.weights > 0
    rise, p = (at[t] - (1 - t) * at[0.0] - t * at[1.0])[kept], samples.weights[kept]
    count = len(p)
    if count < 2:
        return float("nan")
    spread = ((p * (rise - (p * rise).sum())) ** 2).sum().sqrt()
    return float(spread) * math.sqrt(count / (count - 1))
