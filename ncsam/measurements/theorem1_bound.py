"""Theorem 1 of the NCSAM paper: the generalisation bound under label noise, term by term."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

_INDEPENDENT = ("none", "symmetric", "pair", "beta", "asymmetric", "matrix")  # of the input, given its class


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
        """Whether the bound says nothing: a loss in [0, 1] is below it anyway."""
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
    """Why the rightly labelled samples are no sample of the clean distribution; empty where they are.

    They are one if a label's chance of being right depends neither on the input nor on the class.

    Args:
        noise: its kind, as spelled before the colon.
        transition: T[true, observed], (C, C).

    >>> assumption_violated("symmetric", np.array([[0.6, 0.4], [0.4, 0.6]]))
    ''
    >>> assumption_violated("asymmetric", np.array([[1.0, 0.0], [0.4, 0.6]]))
    'classes keep their label with different probability (60 % to 100 %), so the clean part has other class shares'
    """
    if noise not in _INDEPENDENT:
        return f"{noise} noise depends on the input, so the clean part has more of the inputs that keep their label"
    kept = np.diag(transition)
    if np.ptp(kept) > 1e-6:
        return (
            f"classes keep their label with different probability ({kept.min():.0%} to {kept.max():.0%}), "
            "so the clean part has other class shares"
        ).replace("%", " %")
    return ""
