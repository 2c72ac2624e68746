"""The highest loss within a ball of the weights, for losses in [0, 1], approximated from below by projected ascent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from landscape import Objective
from landscape.sharpness import LARGEST

STEP_LENGTH = 2.5  # of all steps together, in units of ρ
RELATIVE_RISE = 0.01  # what the last quarter of the steps may add to the rise of a converged search


@dataclasses.dataclass(frozen=True)
class Highest:
    """What the ascents met, for one loss.

    Attributes:
        at_weights: the loss at the centre.
        value: the highest loss met anywhere, at least ``at_weights``: a lower estimate of the maximum.
        history: the highest so far of each ascent, (ascents, steps + 1).
        converged: whether the last quarter of the steps raised ``value`` by less than 1 % of its rise.
    """

    at_weights: float
    value: float
    history: np.ndarray
    converged: bool


def error_rate(logits: Tensor, labels: Tensor) -> Tensor:
    """0–1 loss of each sample, (B,)."""
    return (logits.argmax(dim=1) != labels).to(logits.dtype)


@dataclasses.dataclass(frozen=True)
class ClippedCrossEntropy:
    """min(−log p_y, c) / c, a loss in [0, 1]; the mean over the batch, or with ``each`` one value a sample.

    >>> logits = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
    >>> ClippedCrossEntropy(1.0, each=True)(logits, torch.tensor([0, 1]))
    tensor([0.6931, 1.0000])
    """

    clip: float
    each: bool = False

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = functional.cross_entropy(logits, labels, reduction="none").clamp(max=self.clip) / self.clip
        return loss if self.each else loss.mean()


def default_clip(num_classes: int) -> float:
    """2 log C: twice the cross-entropy of a uniform guess, in nats."""
    return 2 * math.log(num_classes)


def highest_in_ball(
    surrogates: Mapping[str, Objective], rho: float, *, steps: int = 20, restarts: int = 3, seed: int = 0
) -> dict[str, Highest]:
    """max over ‖ε‖₂ ≤ ρ of every metric of the objectives, as far as projected ascents find it.

    The 0–1 error has no useful gradient, and cross-entropy rises most where samples are wrong already; so the ascents
    climb each of the surrogate losses in turn and every metric is read off every point that any of them meets. The
    first ascent on each surrogate starts at the weights, the others at random points of the ball. Steps are 2.5·ρ/steps
    long, along the normalised gradient, followed by the projection.

    Args:
        surrogates: objectives with a single view, on the same data and with the same metrics, whose losses are climbed.
        rho: radius, > 0.
        restarts: ascents on each surrogate.
        seed: of the starting points.

    Raises:
        ValueError: ρ is not a positive number, or steps or restarts below 1.

    >>> model = torch.nn.Linear(2, 2)
    >>> x, y = torch.randn(20, 2), torch.arange(20) % 2
    >>> climbed = Objective(model, torch.nn.CrossEntropyLoss(), (x, y), metrics={"error": error_rate})
    >>> found = highest_in_ball({"ce": climbed}, 1.0, steps=5)["error"]
    >>> found.value >= found.at_weights, found.history.shape
    (True, (3, 6))
    """
    if not 0 < rho <= LARGEST:
        raise ValueError(f"rho is {rho}, expected a finite number > 0, up to {LARGEST:g}")
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps, restarts are {steps}, {restarts}, expected at least 1 each")
    generator = torch.Generator().manual_seed(seed)
    first = next(iter(surrogates.values()))
    centre = _metrics(first)
    met: dict[str, list[list[float]]] = {name: [] for name in centre}
    for objective in surrogates.values():
        for restart in range(restarts):
            start = torch.zeros_like(objective.weights, dtype=torch.float64)
            if restart:
                direction = torch.randn(start.shape, generator=generator, dtype=torch.float64).to(start.device)
                length = rho * float(torch.rand((), generator=generator, dtype=torch.float64))
                start = direction * (length / direction.norm())
            ascent = _ascend(objective, start, rho, steps)
            for name in centre:
                met[name].append([centre[name] if not restart else ascent[0][name], *(a[name] for a in ascent[1:])])
    return {name: _summary(centre[name], np.array(values)) for name, values in met.items()}


def _ascend(objective: Objective, epsilon: Tensor, rho: float, steps: int) -> list[dict[str, float]]:
    """The metrics at the start and after every step."""
    centre = objective.weights
    here = objective.at(centre + epsilon.to(centre.dtype))
    found = [_metrics(here)]
    for _ in range(steps):
        gradient = here.gradient().double()
        norm = float(gradient.norm())
        if norm > 0:
            epsilon = epsilon + gradient * (STEP_LENGTH * rho / steps / norm)
        epsilon = epsilon * min(1.0, rho / max(float(epsilon.norm()), torch.finfo(torch.float64).tiny))
        here = objective.at(centre + epsilon.to(centre.dtype))
        found.append(_metrics(here))
    return found


def _metrics(objective: Objective) -> dict[str, float]:
    return {name: next(iter(by_view.values())) for name, by_view in objective.evaluate().metrics.items()}


def _summary(at_weights: float, met: np.ndarray) -> Highest:
    history = np.maximum.accumulate(met, axis=1)
    best = np.maximum(history.max(axis=0), at_weights)
    late = best[-1] - best[(3 * (len(best) - 1)) // 4]
    return Highest(at_weights, float(best[-1]), history, bool(late <= RELATIVE_RISE * (best[-1] - at_weights)))
