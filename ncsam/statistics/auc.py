"""Measure how well a score tells two kinds of samples apart: area under the ROC curve, precision at a given number."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import ArrayLike

from ncsam.statistics.inference import LEVEL, Interval


def auc(scores: ArrayLike, positive: ArrayLike, level: float = LEVEL) -> Interval:
    """Area under the ROC curve: the chance that a positive sample scores higher than another, ties counting half.

    The interval over the samples is DeLong's (DeLong, DeLong & Clarke-Pearson 1988, *Biometrics* 44, 837–845), cut off
    at 0 and 1. Samples whose score is NaN are left out; ``n`` is the number of the others. NaN where one kind is
    missing, and NaN ends where it has a single sample.

    Args:
        scores: (n,).
        positive: (n,) bool.
        level: of the interval.

    >>> found = auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    >>> found.mean
    0.75
    """
    values, wanted = _known(scores, positive)
    ones, others = values[wanted], values[~wanted]
    if not (len(ones) and len(others)):
        return Interval(np.nan, np.nan, np.nan, len(values), level)
    ranks = scipy.stats.rankdata(values)
    # Of each sample, the share of the other kind that it is on the right side of
    of_ones = (ranks[wanted] - scipy.stats.rankdata(ones)) / len(others)
    of_others = 1 - (ranks[~wanted] - scipy.stats.rankdata(others)) / len(ones)
    mean = float(of_ones.mean())
    if min(len(ones), len(others)) < 2:
        return Interval(mean, np.nan, np.nan, len(values), level)
    error = float(np.sqrt(of_ones.var(ddof=1) / len(ones) + of_others.var(ddof=1) / len(others)))
    half = float(scipy.stats.norm.ppf(0.5 + level / 2)) * error
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), len(values), level)


def precision_at(scores: ArrayLike, positive: ArrayLike, count: int) -> float:
    """Share of positive samples among the ``count`` that score highest; ties at the cut count by their positive share.

    >>> precision_at([3.0, 2.0, 2.0, 1.0], [True, True, False, False], 2)
    0.75
    """
    values, wanted = _known(scores, positive)
    if not 0 < count <= len(values):
        return float("nan")
    last = np.sort(values)[-count]
    above, tied = values > last, values == last
    hits = wanted[above].sum() + (count - above.sum()) * wanted[tied].mean()
    return float(hits / count)


def _known(scores: ArrayLike, positive: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values, wanted = np.asarray(scores, float), np.asarray(positive, bool)
    if values.shape != wanted.shape or values.ndim != 1:
        raise ValueError(f"scores have shape {values.shape} and marks {wanted.shape}, expected (n,) both")
    there = ~np.isnan(values)
    return values[there], wanted[there]
