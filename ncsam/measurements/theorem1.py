"""Theorem 1 of the NCSAM paper: the generalisation bound under label noise, term by term, and the maximum in it.

The bound holds for losses in [0, 1]. The highest loss within a ball of the weights is approximated from below by
projected ascent.
"""

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
from ncsam.noise.spelling import KINDS

STEP_LENGTH = 2.5  # of all steps together, in units of ρ
RELATIVE_RISE = 0.01  # what the last quarter of the steps may add to the rise of a converged search


@dataclasses.dataclass(frozen=True)
class Bound:
    """The right-hand side of Theorem 1 and its parts, all in units of a loss in [0, 1].

    Attributes:
        neighbourhood: 1/(1−α) · max_{‖ε‖≤ρ} L_M(w+ε).
        sampling: 1/((1−α)·√nₛ).
        complexity: √(X/(nₛ−1)), the price of the number of parameters.
        total: their sum.
    """

    neighbourhood: float
    sampling: float
    complexity: float

    @property
    def total(self) -> float:
        return self.neighbourhood + self.sampling + self.complexity

    @property
    def vacuous(self) -> bool:
        """True if the bound says nothing: a loss in [0, 1] is below it anyway."""
        return self.total >= 1.0

    @property
    def dominant(self) -> str:
        """Name of the largest term."""
        return max(("neighbourhood", "sampling", "complexity"), key=lambda name: getattr(self, name))


def theorem1_bound(
    *,
    max_neighbourhood_loss: float,
    alpha: float,
    n: int,
    num_parameters: int,
    weight_norm: float,
    rho: float,
    delta: float = 0.05,
) -> Bound:
    """Bound on the clean risk L_D(w) that holds with probability ≥ 1 − δ (Xu, Deng, Pang, arXiv 2601.19947, Thm 1).

    L_D(w) ≤ 1/(1−α)·max_{‖ε‖≤ρ} L_M(w+ε) + 1/((1−α)√nₛ) + √(X/(nₛ−1)) with nₛ = (1−α)·n and
    X = ¼K·log(1 + ‖w‖²/ρ²·(1 + √(log(nₛ)/K))²) + ¼ + log(nₛ/δ) + 2·log(6nₛ + 3K).

    It assumes a loss in [0, 1], clean samples drawn from the clean distribution (which instance-dependent and
    asymmetric noise violate) and L_D(w) ≤ E L_D(w+ε). A maximum found by ascent is a lower estimate, and so is the
    bound then.

    Args:
        max_neighbourhood_loss: max_{‖ε‖≤ρ} L_M(w+ε) on the noisy training set, in [0, 1].
        alpha: share of wrong labels, in [0, 1).
        n: number of training samples; at least two of them must be labelled rightly.
        num_parameters: K.
        weight_norm: ‖w‖₂.
        rho: radius of the neighbourhood, > 0.
        delta: probability with which the bound may fail, in (0, 1).

    Raises:
        ValueError: an argument out of its range.

    >>> bound = theorem1_bound(
    ...     max_neighbourhood_loss=0.1, alpha=0.4, n=50_000, num_parameters=11_173_962, weight_norm=60.0, rho=0.05
    ... )
    >>> bound.vacuous, bound.dominant
    (True, 'complexity')
    """
    clean = round((1 - alpha) * n) if 0 <= alpha < 1 else 0
    for name, value, fits, expected in (
        ("max_neighbourhood_loss", max_neighbourhood_loss, 0 <= max_neighbourhood_loss <= 1, "a loss in [0, 1]"),
        ("alpha", alpha, 0 <= alpha < 1, "a share in [0, 1)"),
        ("(1 - alpha) * n", clean, clean >= 2, "at least 2 rightly labelled samples"),
        ("num_parameters", num_parameters, num_parameters >= 1, "at least 1"),
        ("weight_norm", weight_norm, math.isfinite(weight_norm) and weight_norm >= 0, "a finite number ≥ 0"),
        ("rho", rho, math.isfinite(rho) and rho > 0, "a finite number > 0"),
        ("delta", delta, 0 < delta < 1, "a probability in (0, 1)"),
    ):
        if not fits:
            raise ValueError(f"{name} is {value}, expected {expected}")
    stretch = (1 + math.sqrt(math.log(clean) / num_parameters)) ** 2
    x = (
        num_parameters / 4 * math.log1p(weight_norm**2 / rho**2 * stretch)
        + 0.25
        + math.log(clean / delta)
        + 2 * math.log(6 * clean + 3 * num_parameters)
    )
    return Bound(
        neighbourhood=max_neighbourhood_loss / (1 - alpha),
        sampling=1 / ((1 - alpha) * math.sqrt(clean)),
        complexity=math.sqrt(x / (clean - 1)),
    )


def assumption_violated(noise: str, transition: np.ndarray) -> str:
    """The reason why the rightly labelled samples are no sample of the clean distribution; empty where they are.

    They are one if a label's chance of being right depends neither on the input nor on the class.

    Args:
        noise: its kind, as spelled before the colon.
        transition: T[true, observed], (C, C).

    >>> assumption_violated("symmetric", np.array([[0.6, 0.4], [0.4, 0.6]]))
    ''
    >>> assumption_violated("asymmetric", np.array([[1.0, 0.0], [0.4, 0.6]]))
    'classes keep their label with different probability (60 % to 100 %), so the clean part has other class shares'
    """
    if KINDS[noise].sees_inputs:
        return f"{noise} noise depends on the input, so the clean part has more of the inputs that keep their label"
    kept = np.diag(transition)
    if np.ptp(kept) > 1e-6:
        return (
            f"classes keep their label with different probability ({kept.min():.0%} to {kept.max():.0%}), "
            "so the clean part has other class shares"
        ).replace("%", " %")
    return ""


@dataclasses.dataclass(frozen=True)
class Highest:
    """Findings of the ascents, for one loss.

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
