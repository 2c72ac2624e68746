"""Inference on per-seed paired differences: intervals, exact tests, and what the number of seeds allows."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Interval:
    """Mean of n values with the two-sided t-interval at ``level``; NaN ends below two values."""

    mean: float
    low: float
    high: float
    n: int
    level: float


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's interval for a mean; values that are NaN are left out.

    >>> found = t_interval([1.0, 2.0, 3.0])
    >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
    (2.0, -0.484, 4.484)
    """
    x = np.asarray(values, float)
    x = x[~np.isnan(x)]
    n = len(x)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, level)
    mean = float(x.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1, level)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * x.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n, level)


def sign_flip_p(differences: ArrayLike) -> float:
    """Exact two-sided sign-flip test of a zero mean: the share of all 2ⁿ sign choices with a mean at least as extreme.

    Valid where differences are symmetric about zero under the null. Up to n = 20 every choice is enumerated.

    >>> sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    0.03125
    """
    x = np.asarray(differences, float)
    x = x[~np.isnan(x)]
    n = len(x)
    if n == 0:
        return math.nan
    if n > 20:
        result = stats.permutation_test(
            (x,), np.mean, permutation_type="samples", n_resamples=99_999, rng=np.random.default_rng(0)
        )
        return float(result.pvalue)
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    sums = np.abs(signs @ x)
    # Sums that are equal but for rounding count as equal.
    return float(np.mean(sums >= abs(x.sum()) * (1 - 1e-12)))


def smallest_sign_flip_p(n: int) -> float:
    """The least p-value that n pairs can reach: 2/2ⁿ.

    >>> smallest_sign_flip_p(5), smallest_sign_flip_p(6)
    (0.0625, 0.03125)
    """
    return min(1.0, 2.0 / 2**n)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjustment; NaN stays NaN and is not counted.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    adjusted = np.full(p.shape, np.nan)
    valid = np.flatnonzero(~np.isnan(p))
    order = valid[np.argsort(p[valid])]
    steps = p[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else []
    return adjusted


def verdict(low: float, high: float, smallest_effect: float) -> str:
    """Compare the interval of an effect with the smallest relevant one, m.

    ``supported`` if it lies above m; ``contradicted`` if below, with what is seen instead in brackets:
    ``equivalent`` if it lies within ±|m|, else ``opposite`` if below zero, else ``no gain``; otherwise ``undecided``.

    >>> verdict(0.2, 0.4, 0.1), verdict(-0.05, 0.05, 0.1), verdict(-0.5, -0.2, 0.1), verdict(0.0, 0.2, 0.1)
    ('supported', 'contradicted (equivalent)', 'contradicted (opposite)', 'undecided')
    """
    margin = abs(smallest_effect)
    if low > smallest_effect:
        return "supported"
    if high < smallest_effect:
        if low > -margin and high < margin:
            return "contradicted (equivalent)"
        return "contradicted (opposite)" if high < 0 else "contradicted (no gain)"
    return "undecided"
