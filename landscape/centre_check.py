"""The cross-check of every surface: what it shows at its centre against plain evaluation and a Hessian product."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.objective import EmptyViewError, Objective
from landscape.operators import HessianOperator
from landscape.views import View

SAMPLES = 1024  # that the curvature is checked on
STEP = 1e-6  # of the second difference, relative to the norm of the weights
FINE_STEP = 1e-9  # of the difference of gradients, the same way
_RELATIVE = 1e-3  # deviation of curvatures that needs no explanation


class SurfaceCheckWarning(UserWarning):
    """A surface disagrees with plain evaluation, or its second differences with the Hessian."""


@dataclasses.dataclass(frozen=True)
class CentreCheck:
    """What a surface's record says of its centre; see :func:`check_centre`."""

    centre_loss: np.ndarray
    plain_loss: np.ndarray
    curvature: np.ndarray
    second_difference: np.ndarray
    check: dict[str, Any]


def check_centre(
    objective: Objective, directions: Sequence[Tensor], centre_loss: Mapping[str, float], *, frozen: bool = True
) -> CentreCheck:
    """Compare the centre of a surface with plain evaluation, and its second differences with dᵀHd.

    *Loss*: ``centre_loss`` against one pass of ``loss_fn`` over each view, the way gradients are computed; they may
    differ by rounding.

    *Curvature*: (L(w + hd) − 2L(w) + L(w − hd)) / h² against dᵀHd from a Hessian product, on up to 1024 samples of the
    first view with samples, on a float64 copy of the model, with h‖d‖ = 10⁻⁶‖w‖. So small a step is not for precision
    but because of kinks: a network of ReLUs is piecewise smooth and its Hessian knows the smooth pieces only, while a
    difference also sees the slope jump at every kink between its points; over many samples and units these jumps add
    up to a multiple of dᵀHd (what the surface *shows*; ``seen_curvature`` in the record). Where a second difference
    deviates, gradients 10⁻⁹‖w‖ apart decide whether kinks are the reason. The outcome for each direction is
    ``agrees``, ``kinks`` (the second difference crosses kinks, the gradients agree), ``disagrees`` or ``not finite``.

    Args:
        directions: (K,) each.
        centre_loss: of every view, as the surface has it.
        frozen: whether the surface keeps BatchNorm statistics frozen; if not, losses are expected to differ.

    Warns:
        SurfaceCheckWarning: losses or curvatures disagree beyond rounding and kinks.
    """
    plain = np.array([_plain_loss(objective, view) for view in objective.views])
    centre = np.array([centre_loss[view] for view in objective.views])
    eps = torch.finfo(objective.layout.dtype).eps
    differs = np.abs(centre - plain) > 100 * eps * np.fmax(np.abs(plain), 1)
    if frozen and differs.any():
        worst = objective.views[int(np.nanargmax(np.where(differs, np.abs(centre - plain), -1)))]
        _warn(
            f"the surface has loss {centre_loss[worst]:.6g} of {worst!r} at its centre, plain evaluation "
            f"{plain[objective.views.index(worst)]:.6g}"
        )
    curvature, second = np.full((2, len(directions)), np.nan)
    check: dict[str, Any] = {"step": STEP, "fine_step": FINE_STEP}
    try:
        exact = _sample(objective, SAMPLES).astype(torch.float64)
        check |= {"view": exact.views[0], "samples": exact.num_samples(exact.views[0]), "outcome": []}
        for i, direction in enumerate(directions):
            curvature[i], second[i], outcome = _compare(exact, direction.double())
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


def _compare(objective: Objective, direction: Tensor) -> tuple[float, float, str]:
    """dᵀHd, the second difference, and what to make of them."""
    norm, weights = float(direction.norm()), objective.weights
    if not norm:
        return 0.0, 0.0, "agrees"
    curvature = float(direction @ (HessianOperator(objective) @ direction))
    unit = float(weights.norm() or 1.0) / norm
    losses: list[float] = []
    h = STEP * unit
    view = objective.views[0]
    objective.explore([direction], lambda evaluate: losses.extend(evaluate([c]).loss[view] for c in (-h, 0.0, h)))
    left, middle, right = losses
    second = (left - 2 * middle + right) / h**2
    if not np.isfinite([curvature, second]).all():
        return curvature, second, "not finite"
    eps = float(torch.finfo(torch.float64).eps)
    rounding = 20 * eps * max(abs(left), abs(right), 0.05) / h**2
    if abs(second - curvature) <= _RELATIVE * abs(curvature) + rounding:
        return curvature, second, "agrees"
    h = FINE_STEP * unit
    slopes = [objective.at(weights + c * direction).gradient() @ direction for c in (-h, h)]
    by_gradients = float(slopes[1] - slopes[0]) / (2 * h)
    rounding = 100 * eps * max(abs(float(slopes[0])), abs(float(slopes[1])), 1.0) / h
    agrees = abs(by_gradients - curvature) <= _RELATIVE * abs(curvature) + rounding
    return curvature, second, "kinks" if agrees else "disagrees"


def _plain_loss(objective: Objective, view: str) -> float:
    try:
        one = objective.view(view)
        return float(one.accumulate(lambda batch: batch.loss().detach().reshape(1)))
    except EmptyViewError:
        return float("nan")


def _sample(objective: Objective, count: int) -> Objective:
    """The first view with samples, on at most ``count`` of them, evenly spaced."""
    for name in objective.views:
        size = objective.num_samples(name)
        if size:
            view = objective.view_of(name)
            rows = torch.arange(objective.source_of(name).size) if view.indices is None else view.indices.cpu()
            chosen = rows[torch.linspace(0, size - 1, min(count, size), dtype=torch.float64).round().long()]
            return objective.with_views([View(name, view.source, chosen, view.labels)])
    raise EmptyViewError("no view has samples")


def _warn(message: str) -> None:
    warnings.warn(f"cross-check of the surface: {message}", SurfaceCheckWarning, stacklevel=4)
