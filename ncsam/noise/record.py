"""Record of label noise: observed labels, and how they came about."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class NoisyLabels:
    """Observed labels and how they came about.

    Attributes:
        observed, true: (n,), int64, in 0…C−1.
        kind: name of the noise.
        rate: the rate that was asked for; its meaning is the kind's, and :attr:`realized_rate` is what came out.
        transition: (C, C), row-stochastic; ``[i, j]`` is the probability with which class i was to become j (for
            kinds that depend on the sample, its mean over the samples of class i).
        seed: None where nothing was drawn (human labels).
        options: further settings of the kind, JSON-able.

    >>> from ncsam import noise
    >>> noisy = noise.pair([0, 1, 2, 3], 1.0, num_classes=4)
    >>> noisy.observed.tolist(), noisy.realized_rate
    ([1, 2, 3, 0], 1.0)
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
        """Number C of classes."""
        return len(self.transition)

    @property
    def flipped(self) -> np.ndarray:
        """Mask of the samples that are labelled wrongly, (n,), bool."""
        return np.asarray(self.observed != self.true)

    @property
    def realized_rate(self) -> float:
        """Share of wrong labels among all."""
        return float(self.flipped.mean())

    @property
    def realized_transition(self) -> np.ndarray:
        """Share of each class observed as each, (C, C); a class without samples has a row of NaN."""
        return transition_counts(self.true, self.observed, self.num_classes, absent=np.nan)


def transition_counts(true: np.ndarray, observed: np.ndarray, num_classes: int, absent: float) -> np.ndarray:
    """Share of each true class observed as each class, (C, C); rows of classes without samples hold ``absent``."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (true, observed), 1)
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.full_like(counts, absent), where=totals > 0)
