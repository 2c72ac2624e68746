"""The cross-check of every surface: what it shows at its centre against plain evaluation and a Hessian product."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.costs import forward_flops
from landscape.curvature.products import HessianForm, LeanProduct
from landscape.curvature.twice_differentiable import twice_differentiable
from landscape.objective.isolation import plain_attention
from landscape.objective.micro_batch import BatchLoss
from landscape.objective.objective import EmptyViewError, Objective
from landscape.objective.sources import length

SAMPLES = (2, 16, 1024)  # that the curvature is checked on: at least, at least where they are cheap, and at most,
CHEAP = 2e7  # operations of their forward pass, which cost no more than calling them
FLOPS = 2e9  # and in between as many as one forward pass of so many operations takes; float64 is slow
SHARE = 0.02  # of the surface's cost, for which
_PASSES = (50, 30)  # forward passes of a sample are counted: for the first direction and for each further one
_PIECE_FLOPS = 4e8  # of the forward pass that a product is made of at a time,
_GRAPH = 6  # times the memory of a training step that its graph takes: three times as much, in double precision
STEP = 1e-6  # of the second difference, relative to the norm of the weights
FINE_STEP = 1e-9  # of the difference of gradients, the same way
_COARSE_STEPS = (1e-4, 1e-3, 1e-2)  # relative to the norm of the weights, where layers compute in float32,
_COARSE = 0.05  # and the deviation that needs no explanation then
_RELATIVE = 1e-3  # deviation of curvatures that needs no explanation


class SurfaceCheckWarning(UserWarning):
    """A surface disagrees with plain evaluation, or its second differences with the Hessian."""


@dataclasses.dataclass(frozen=True)
class CentreCheck:
    """Fields of a surface's record about its centre; see :func:`check_centre`."""

    centre_loss: np.ndarray
    plain_loss: np.ndarray
    curvature: np.ndarray
    second_difference: np.ndarray
    check: dict[str, Any]


def check_centre(
    objective: Objective,
    directions: Sequence[Tensor],
    centre_loss: Mapping[str, float],
    *,
    frozen: bool = True,
    points: int | None = None,
    plain_loss: Mapping[str, float] = MappingProxyType({}),
) -> CentreCheck:
    """Compare the centre of a surface with plain evaluation, and its second differences with dᵀHd.

    *Loss*: ``centre_loss`` against one pass of ``loss_fn`` over each view, the way gradients are computed; they may
    differ by rounding.

    *Curvature*: (L(w + hd) − 2L(w) + L(w − hd)) / h² against dᵀHd from a Hessian product, on a float64 copy of the
    model, with h‖d‖ = 10⁻⁶‖w‖, on 2 to 1024 samples of the first view that has any: as many as a forward pass of 2·10⁹
    operations goes through, since double precision is slow, and as a fiftieth of the surface's cost pays for, 16 where
    their forward pass takes less than 2·10⁷ operations, if that is more. What is wrong with every sample (a direction,
    a buffer, a layer's derivative) shows on two of them as on all; what is wrong with one in a hundred is found on n
    of them with a chance of 1 − 0.99ⁿ: 2 % on 2, 15 % on 16, 63 % on 100. So small a step is not for precision but
    because of kinks: a network of ReLUs is piecewise smooth and its Hessian knows the smooth pieces only, while a
    difference also sees the slope jump at every kink between its points; over many samples and units these jumps add up
    to a multiple of dᵀHd (what the surface *shows*; ``seen_curvature`` in the record). Where a second difference
    deviates, gradients 10⁻⁹‖w‖ apart, on either side, decide whether kinks are the reason. The outcome for each
    direction is ``agrees``, ``kinks`` (the second difference crosses kinks, the gradients agree), ``coarse`` (some
    layer computes in less than double precision, so larger steps were taken), ``disagrees`` or ``not finite``.

    Args:
        directions: (K,) each.
        centre_loss: of every view, as the surface has it.
        frozen: whether the surface keeps BatchNorm statistics frozen; if not, losses are expected to differ.
        points: of the surface that were evaluated, which bounds the samples; none for no such bound.
        plain_loss: of views for which such a pass has been made at this point already.

    Warns:
        SurfaceCheckWarning: losses or curvatures disagree beyond rounding and kinks.
    """
    plain = np.array([plain_loss[v] if v in plain_loss else _plain_loss(objective, v) for v in objective.views])
    centre = np.array([centre_loss[view] for view in objective.views])
    eps = torch.finfo(objective.layout.dtype).eps
    differs = beyond_rounding(centre, plain, eps)
    if frozen and differs.any():
        at = int(differs.argmax())
        _warn(
            f"the surface has loss {centre[at]:.6g} of {objective.views[at]!r} at its centre, plain evaluation "
            f"{plain[at]:.6g}"
        )
    curvature, second = np.full((2, len(directions)), np.nan)
    check: dict[str, Any] = {"step": STEP, "fine_step": FINE_STEP}
    try:
        exact, flops = _exact(objective, len(directions), points)
        fits = min(objective.batch_size, objective.num_samples(exact.views[0])) / _GRAPH
        check |= {"view": exact.views[0], "samples": exact.num_samples(exact.views[0]), "outcome": []}
        exact_directions = torch.stack(list(directions)).double()
        curvature[:] = _curvatures(exact, exact_directions, min(fits, _PIECE_FLOPS / max(flops, 1)))
        losses, steps = _losses(exact, exact_directions)
        gradient = cache(exact.gradient)
        for i, direction in enumerate(exact_directions):
            second[i], outcome = _compare(exact, gradient, direction, curvature[i], losses[i], steps[i])
            check["outcome"].append(outcome)
    except EmptyViewError:
        check["unavailable"] = "no view has samples"
    except (RuntimeError, TypeError) as error:
        # A model without float64 or a second derivative: the surface stands, and says that it could not be checked.
        check["unavailable"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    for i, outcome in enumerate(check.get("outcome", [])):
        if outcome == "disagrees":
            _warn(f"along direction {i + 1} second differences give {second[i]:.6g}, the Hessian {curvature[i]:.6g}")
    return CentreCheck(centre, plain, curvature, second, check)


def beyond_rounding(centre: np.ndarray, plain: np.ndarray, eps: float) -> np.ndarray:
    """True where two evaluations of a loss in a precision of that ``eps`` differ by more than rounding explains.

    >>> beyond_rounding(np.array([1.0, 1.0, np.nan, np.nan]), np.array([1.0 + 1e-6, 1.1, np.nan, 1.0]), 1e-7).tolist()
    [False, True, False, True]
    """
    with np.errstate(invalid="ignore"):  # inf − inf
        near = np.isfinite(plain) & (np.abs(centre - plain) <= 100 * eps * np.fmax(np.abs(plain), 1))
    found: np.ndarray = ~(near | (centre == plain) | (np.isnan(centre) & np.isnan(plain)))
    return found


def seen_curvature(loss: np.ndarray, coordinates: np.ndarray) -> float:
    """Second difference at 0 between the two coordinates next to it; NaN where the grid has not all three.

    >>> seen_curvature(np.array([4.0, 0.0, 4.0]), np.array([-2.0, 0.0, 2.0]))
    2.0
    """
    at = np.flatnonzero(coordinates == 0)
    below, above = coordinates[coordinates < 0], coordinates[coordinates > 0]
    if not (len(at) and len(below) and len(above)):
        return float("nan")
    a, b = -below.max(), above.min()
    left, middle, right = (loss[np.flatnonzero(coordinates == x)[0]] for x in (-a, 0.0, b))
    return float(2 * (a * (right - middle) + b * (left - middle)) / (a * b * (a + b)))


def _curvatures(objective: Objective, directions: Tensor, piece: float) -> np.ndarray:
    """dᵀHd for each of the directions (k, K), from pieces of about so many samples."""

    def products(batch: BatchLoss) -> Tensor:
        pieces = math.ceil(length(batch.labels) / piece)
        return LeanProduct(HessianForm(), batch, objective.layout, pieces).of_rows(directions)

    with plain_attention(), twice_differentiable(objective.model):
        images = objective.accumulate(products)
    found: np.ndarray = (directions.T * images).sum(0).cpu().numpy()
    return found


def _losses(objective: Objective, directions: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Losses at −h, 0 and h along each of the directions (k, K), and these steps h; 0 where a direction is none."""
    size, norms = float(objective.weights.norm() or 1.0), directions.norm(dim=1).cpu().numpy()
    steps = np.divide(STEP * size, norms, out=np.zeros(len(norms)), where=norms != 0)
    losses = np.empty((len(directions), 3))

    with objective.along(list(directions)) as evaluate:

        def at(coordinates: np.ndarray) -> float:
            return evaluate(coordinates.tolist()).loss[objective.views[0]]

        losses[:, 1] = at(np.zeros(len(steps)))
        for i, step in enumerate(np.diag(steps)):
            losses[i, ::2] = at(-step), at(step)
    return losses, steps


def _compare(
    objective: Objective,
    gradient: Callable[[], Tensor],
    direction: Tensor,
    curvature: float,
    losses: np.ndarray,
    h: float,
) -> tuple[float, str]:
    """The second difference along a direction, and what to make of it beside dᵀHd and the centre's ``gradient``."""
    if not h:  # the direction is zero, or infinite
        return (0.0, "agrees") if curvature == 0 else (float("nan"), "not finite")
    left, middle, right = losses.tolist()
    second = (left - 2 * middle + right) / h**2
    if not np.isfinite([curvature, second]).all():
        return second, "not finite"
    eps = float(torch.finfo(torch.float64).eps)
    rounding = 20 * eps * max(abs(left), abs(right), 0.05) / h**2
    if abs(second - curvature) <= _RELATIVE * abs(curvature) + rounding:
        return second, "agrees"
    h *= FINE_STEP / STEP
    weights, middle = objective.weights, float(gradient() @ direction)
    for side in (h, -h):  # even so near there may be a kink, hardly on both sides
        slope = float(objective.at(weights + side * direction).gradient() @ direction)
        rounding = 200 * eps * max(abs(slope), abs(middle), 1.0) / h
        if abs((slope - middle) / side - curvature) <= _RELATIVE * abs(curvature) + rounding:
            return second, "kinks"
    # Layers that compute in float32, whatever the model is in, hide the curvature at such steps.
    for step in _COARSE_STEPS:
        far = step * float(weights.norm() or 1.0) / float(direction.norm())
        ahead, behind = (float(objective.at(weights + x * direction).gradient() @ direction) for x in (far, -far))
        if abs((ahead - behind) / (2 * far) - curvature) <= _COARSE * abs(curvature):
            return second, "coarse"
    return second, "disagrees"


def _plain_loss(objective: Objective, view: str) -> float:
    @torch.no_grad()
    def loss(batch: BatchLoss) -> Tensor:
        return batch.loss().reshape(1)

    try:
        return float(objective.view(view).accumulate(loss))
    except EmptyViewError:
        return float("nan")


def _exact(objective: Objective, directions: int, points: int | None) -> tuple[Objective, float]:
    """A float64 version on some samples of the first view that has any, and what its forward pass takes."""
    one = objective.sampled(1).unchecked()
    flops = forward_flops(one)
    count = FLOPS / max(flops, 1)
    if points is not None:
        passes = _PASSES[0] + _PASSES[1] * (directions - 1)
        count = min(count, SHARE * points * objective.num_samples(one.views[0]) / passes)
    least = max(SAMPLES[0], min(SAMPLES[1], int(CHEAP / max(flops, 1))))
    sample = objective.sampled(max(least, min(SAMPLES[2], int(count))))
    # Convolutions in float64 have no fast form for other formats.
    return sample.batched(sample.batch_size, torch.contiguous_format).unchecked().astype(torch.float64), flops


def _warn(message: str) -> None:
    warnings.warn(f"cross-check of the surface: {message}", SurfaceCheckWarning, stacklevel=4)
