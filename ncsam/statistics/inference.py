"""Inference on per-seed paired differences: intervals, exact tests, and what the number of seeds allows."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy
from numpy.typing import ArrayLike

LEVEL = 0.95
"""Confidence level of every interval that is reported."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """Mean of n values with the two-sided t-interval at ``level``; NaN ends below two values."""

    mean: float
    low: float
    high: float
    n: int
    level: float


def t_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Student's interval for a mean; values that are NaN are left out.

    >>> found = t_interval([1.0, 2.0, 3.0])
    >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
    (2.0, -0.484, 4.484)
    """
    x = np.asarray(values, float)
    mean, low, high = (float(end) for end in t_intervals(x, level))
    return Interval(mean, low, high, int((~np.isnan(x)).sum()), level)


def t_intervals(values: ArrayLike, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lower and upper end along the last axis, (…,) from (…, n); NaN are left out, NaN where none are left.

    >>> mean, low, high = t_intervals([[1.0, 2.0, 3.0], [4.0, np.nan, np.nan]])
    >>> mean.tolist(), low.round(3).tolist()
    ([2.0, 4.0], [-0.484, nan])
    """
    x = np.asarray(values, float)
    there = ~np.isnan(x)
    n = there.sum(axis=-1)
    filled = np.where(there, x, 0.0)
    mean = filled.sum(axis=-1) / np.where(n > 0, n, np.nan)
    with np.errstate(invalid="ignore", over="ignore"):  # an infinite mean has no interval
        squares = np.where(there, x - mean[..., None], 0.0) ** 2
    spread = np.sqrt(squares.sum(axis=-1) / np.where(n > 1, n - 1, np.nan) / np.maximum(n, 1))
    half = scipy.stats.t.ppf(0.5 + level / 2, np.maximum(n - 1, 1)) * spread
    return mean, mean - half, mean + half


def detectable_effect(
    sd: float, n: int, smallest_effect: float, *, power: float = 0.8, level: float = LEVEL, draws: int = 200_000
) -> float:
    """The smallest true effect whose t-interval over n seeds lies above ``smallest_effect`` with chance ``power``.

    Simulated for normal per-seed effects of standard deviation ``sd``, with a generator of its own: the interval's
    lower end is effect + sd·(z̄ − t·s/√n), z̄ and s of n standard normal values, so that the answer is a quantile of
    t·s/√n − z̄. NaN below two seeds.

    >>> round(detectable_effect(0.008, 10, 0.01), 3)
    0.018
    """
    if n < 2:
        return math.nan
    generator = np.random.default_rng(0)
    mean = generator.standard_normal(draws) / math.sqrt(n)
    spread = np.sqrt(generator.chisquare(n - 1, draws) / (n - 1) / n)
    shortfall = scipy.stats.t.ppf(0.5 + level / 2, n - 1) * spread - mean
    return float(smallest_effect + sd * np.quantile(shortfall, power))


def sign_flip_p(differences: ArrayLike) -> float:
    """Exact two-sided sign-flip test of a zero mean: the share of all 2ⁿ sign choices with a mean at least as extreme.

    Valid where differences are symmetric about zero under the null. Up to n = 20 every choice is enumerated. NaN are
    left out; NaN where nothing is left, or one is infinite.

    >>> sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    0.03125
    """
    given = np.asarray(differences)
    x = given.astype(float)
    x = x[~np.isnan(x)]
    n = len(x)
    if n == 0 or not np.isfinite(x).all():
        return math.nan
    if n > 20:
        result = scipy.stats.permutation_test(
            (x,), np.mean, permutation_type="samples", n_resamples=99_999, rng=np.random.default_rng(0)
        )
        return float(result.pvalue)
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    sums = np.abs(signs @ x)
    # Sums that are equal but for rounding count as equal. Each rounds by some eps of all magnitudes; the differences
    # themselves are rounded by more, an eps of the larger numbers that were subtracted, hence the 1e-12.
    eps = np.finfo(given.dtype if given.dtype.kind == "f" else float).eps
    tolerance = max(1e-12, (n + 1) * eps) * np.abs(x).sum()
    return float(np.mean(sums + tolerance >= abs(x.sum())))


def smallest_sign_flip_p(n: int) -> float:
    """The least p-value that n pairs can reach: 2/2ⁿ.

    >>> smallest_sign_flip_p(5), smallest_sign_flip_p(6)
    (0.0625, 0.03125)
    """
    return min(1.0, 2.0 / 2**n)


def holm(p_values: ArrayLike, family: int | None = None) -> np.ndarray:
    """Holm's step-down adjustment; NaN stays NaN.

    Args:
        family: number of hypotheses that were declared; those without a p-value then count as if theirs were the
            largest. If none, only the p-values that are there count.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    >>> holm([0.01, np.nan, 0.03], family=3).tolist()
    [0.03, nan, 0.06]
    """
    p = np.asarray(p_values, float)
    adjusted = np.full(p.shape, np.nan)
    valid = np.flatnonzero(~np.isnan(p))
    order = valid[np.argsort(p[valid], kind="stable")]
    steps = p[order] * ((len(order) if family is None else family) - np.arange(len(order)))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else []
    return adjusted


def page_p(table: ArrayLike) -> float:
    """Page's test of no trend along the columns of (seeds, conditions), exact, two-sided; rows with NaN are left out.

    NaN below two rows or three columns.

    >>> page_p([[1.0, 2.0, 3.0]] * 4) < 0.01
    True
    """
    x = np.atleast_2d(np.asarray(table, float))
    x = x[~np.isnan(x).any(axis=1)]
    if len(x) < 2 or x.shape[1] < 3:
        return math.nan
    up = scipy.stats.page_trend_test(x, method="exact").pvalue
    down = scipy.stats.page_trend_test(x[:, ::-1], method="exact").pvalue
    return float(min(1.0, 2 * min(up, down)))


def kendall_tau(x: ArrayLike, y: ArrayLike, least: int = 4) -> float:
    """Kendall's τ_b of the pairs without NaN; NaN below ``least`` of them or where one side is constant.

    >>> kendall_tau([1, 2, 3, 4], [1, 2, 4, 3])
    0.666...
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    there = ~(np.isnan(a) | np.isnan(b))
    a, b = a[there], b[there]
    if len(a) < least or a.min() == a.max() or b.min() == b.max():
        return math.nan
    return float(scipy.stats.kendalltau(a, b).statistic)


def verdict(low: float, high: float, smallest_effect: float) -> str:
    """Compare the interval of an effect with the smallest relevant one, m.

    ``supported`` if it lies above m; ``contradicted`` if below, with what is seen instead in brackets:
    ``equivalent`` if it lies within ±|m|, else ``opposite`` if below zero, else ``too small``; otherwise ``undecided``.

    >>> verdict(0.2, 0.4, 0.1), verdict(-0.05, 0.05, 0.1), verdict(-0.5, -0.2, 0.1), verdict(0.0, 0.2, 0.1)
    ('supported', 'contradicted (equivalent)', 'contradicted (opposite)', 'undecided')
    """
    margin = abs(smallest_effect)
    if low > smallest_effect:
        return "supported"
    if high < smallest_effect:
        if low > -margin and high < margin:
            return "contradicted (equivalent)"
        return "contradicted (opposite)" if high < 0 else "contradicted (too small)"
    return "undecided"
