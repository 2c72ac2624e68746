"""Label noise: every kind draws observed labels from true ones and records how it did so.

Two uniform numbers are drawn per sample from the seed alone, *whether* to flip and *to what*, and the rate is only a
threshold on the first. Flips are therefore nested: what is flipped at 20 % is flipped, to the same class, at 40 %.
No global random state is read or changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ncsam.data.names import unknown

# Independent random streams of one seed.
_WHETHER, _WHICH, _CHANCE, _WEIGHTS = 0xA0, 0xA1, 0xA2, 0xA3


@dataclasses.dataclass(frozen=True, eq=False)
class NoisyLabels:
    """Observed labels and how they came about.

    Attributes:
        observed, true: (n,), int64, in 0…C−1.
        kind: name of the noise.
        rate: the rate that was asked for; see the kind for its meaning.
        transition: (C, C), row-stochastic; ``[i, j]`` is the probability with which class i was to become j (for
            kinds that depend on the sample, its mean over the samples of class i).
        seed: None where nothing was drawn (human labels).
        options: further settings of the kind, JSON-able.
    """

    observed: np.ndarray = dataclasses.field(repr=False)
    true: np.ndarray = dataclasses.field(repr=False)
    kind: str
    rate: float
    transition: np.ndarray = dataclasses.field(repr=False)
    seed: int | None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.transition)

    @property
    def flipped(self) -> np.ndarray:
        """Which samples are labelled wrongly, (n,), bool."""
        return self.observed != self.true

    @property
    def realized_rate(self) -> float:
        """Share of wrong labels among all."""
        return float(self.flipped.mean())

    @property
    def realized_transition(self) -> np.ndarray:
        """Share of each class observed as each, (C, C); a class without samples has a row of NaN."""
        counts = np.zeros((self.num_classes, self.num_classes))
        np.add.at(counts, (self.true, self.observed), 1)
        totals = counts.sum(axis=1, keepdims=True)
        return np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def apply(spec: str, labels: ArrayLike, num_classes: int, seed: int = 0, x: ArrayLike | None = None) -> NoisyLabels:
    """Apply the noise spelled ``spec`` (``"none"`` or ``"symmetric:RATE[,inclusive][,exact]"``) to ``labels``.

    >>> apply("symmetric:0.5,exact", [0, 1, 2, 0], num_classes=3).realized_rate
    0.5
    """
    kind, _, rest = spec.partition(":")
    if kind == "none":
        return dataclasses.replace(symmetric(labels, 0.0, num_classes, seed), kind="none", options={})
    if kind == "symmetric":
        rate, *options = rest.split(",")
        return symmetric(labels, float(rate), num_classes, seed, **dict.fromkeys(options, True))
    raise ValueError(unknown("label noise", kind, ["none", "symmetric"]))


def symmetric(
    labels: ArrayLike,
    rate: float,
    num_classes: int,
    seed: int = 0,
    *,
    inclusive: bool = False,
    exact: bool = False,
) -> NoisyLabels:
    """With probability ``rate`` a wrong class, uniform over the other C − 1.

    Args:
        inclusive: draw the new label from *all* C classes, so that the expected share of wrong labels is
            rate·(C − 1)/C. With ``exact`` this is the protocol of DivideMix (Li et al., ICLR 2020).
        exact: replace exactly ``round(rate·n)`` labels instead of each with probability ``rate``.

    Raises:
        ValueError: ``rate`` outside [0, 1], or labels that are not integers in 0…C−1.

    >>> noisy = symmetric([0, 1, 2, 0, 1, 2], 0.5, num_classes=3, exact=True)
    >>> int(noisy.flipped.sum())
    3
    """
    true = _checked_labels(labels, num_classes)
    rate = _checked_rate(rate)
    identity = np.eye(num_classes)
    weights = np.ones((num_classes, num_classes)) - (0 if inclusive else identity)
    replacement = weights / weights.sum(axis=1, keepdims=True)
    draw = _uniform(len(true), seed, _WHETHER)
    chance = np.full(len(true), rate)
    flip = np.argsort(np.argsort(draw)) < round(rate * len(true)) if exact else draw < chance
    observed, _ = _corrupt(true, flip, chance, lambda c, _: replacement[c], num_classes, seed)
    transition = (1 - rate) * identity + rate * replacement
    return NoisyLabels(observed, true, "symmetric", rate, transition, seed, {"inclusive": inclusive, "exact": exact})


def _corrupt(
    true: np.ndarray,
    flip: np.ndarray,
    chance: np.ndarray,
    weights: Callable[[int, np.ndarray], np.ndarray],
    num_classes: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Give the samples in ``flip`` a class drawn from ``weights(class, indices)``, (C,) or (n_c, C), unnormalised.

    Returns the observed labels and the (C, C) mean over each class of the probabilities used.
    """
    draw = _uniform(len(true), seed, _WHICH)
    observed = true.copy()
    transition = np.eye(num_classes)
    for c in range(num_classes):
        index = np.flatnonzero(true == c)
        if len(index) == 0:
            continue
        cumulative = np.atleast_2d(np.cumsum(weights(c, index), axis=-1))
        cumulative = cumulative / cumulative[:, -1:]  # ends in exactly 1, which no draw reaches
        picked = (draw[index, None] >= cumulative).sum(axis=1)
        observed[index] = np.where(flip[index], picked, c)
        probability = np.diff(cumulative, axis=1, prepend=0.0)
        transition[c] *= 1 - chance[index].mean()
        transition[c] += (chance[index, None] * probability).mean(axis=0)
    return observed, transition


def _uniform(n: int, seed: int, stream: int) -> np.ndarray:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}, expected an integer ≥ 0")
    return np.random.default_rng([stream, int(seed)]).random(n)


def _checked_labels(labels: ArrayLike, num_classes: int) -> np.ndarray:
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}, expected at least 2")
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"labels are {array.dtype} of shape {array.shape}, expected integers of shape (n,) with n ≥ 1")
    if array.min() < 0 or array.max() >= num_classes:
        raise ValueError(
            f"labels lie in {array.min()}…{array.max()}, expected 0…{num_classes - 1}; is num_classes right?"
        )
    return array.astype(np.int64)


def _checked_rate(rate: float) -> float:
    if not 0 <= rate <= 1:
        raise ValueError(f"noise rate is {rate}, expected 0 ≤ rate ≤ 1 (a share, not per cent)")
    return float(rate)
