"""Rank agreement of two quantities over arms, where the arms are a sample as the seeds are.

If arms are treated as fixed, intervals hold only for these arms; a statement about methods is about all arms that might
have been compared. The interval here is that of the mean of Kendall's τ, or of a partial τ, over random arms and random
seeds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
import scipy
from numpy.typing import ArrayLike

from ncsam.statistics.inference import LEVEL, Interval

LEAST_ARMS = 4


def kendall_interval(
    x: ArrayLike,
    y: ArrayLike,
    given: ArrayLike | None = None,
    level: float = LEVEL,
    *,
    families: Sequence[Hashable] | None = None,
) -> Interval:
    """Kendall's τ_b of two (seeds, arms) tables, the mean over the seeds, with arms and seeds as random factors.

    The variance is that of the jackknife over the arms, with all seeds of an arm left out together, times
    (A − 2)/(A − 1) for its bias at few arms; plus the variance between seeds beyond what arms drawn anew for each seed
    would explain. The ends are those of Student's t with A − 1 degrees of freedom on the scale arcsin τ. Where every
    pair of arms agrees in every seed there is no variance, and the lower end is the exact one of ⌊A/2⌋ pairs of arms
    that all agree.

    Simulated coverage is within two points of the nominal level for 8 to 17 arms and 5 to 10 seeds (see the tests).
    With fewer arms it is too wide. If arms are variants of a few methods, the interval counts each as an arm of its own
    and covers too seldom; give one arm of each family, or ``families``.

    Args:
        given: a third table (memorisation, say); the τ is then Kendall's partial τ, (τ_xy − τ_xz τ_yz) /
            √((1 − τ_xz²)(1 − τ_yz²)), of the means over the seeds. It is not exactly 0 where x and y are independent
            given z, unless one of them does not depend on z.
        families: to which each arm belongs, (arms,), where some are variants of one another: a family is then left
            out as a whole, and it is families that count. Every arm by itself if none.

    Returns:
        ``n`` counts the seeds. NaN below four arms, or where a table is constant; one seed is enough for an interval.

    Raises:
        ValueError: the tables have different shapes, or there is not one family an arm.

    >>> x = np.arange(10.0) + np.array([[0.0], [0.1]])
    >>> y = x + 3 * np.sin(7 * x)
    >>> found = kendall_interval(x, y)
    >>> round(found.mean, 2), found.low < 0.4 < found.mean < found.high, found.n
    (0.47, True, 2)
    """
    tables = [np.atleast_2d(np.asarray(t, float)) for t in ((x, y) if given is None else (x, y, given))]
    if len({t.shape for t in tables}) > 1 or tables[0].ndim != 2:
        shapes = ", ".join(str(t.shape) for t in tables)
        raise ValueError(f"the tables have the shapes {shapes}, expected one (seeds, arms)")
    labels = list(range(tables[0].shape[1])) if families is None else list(families)
    if len(labels) != tables[0].shape[1]:
        raise ValueError(f"{len(labels)} families for {tables[0].shape[1]} arms; expected one an arm")
    there = ~np.isnan(np.stack(tables)).any(axis=0)
    seeds = there.sum(axis=1) >= LEAST_ARMS
    arms = there[seeds].any(axis=0)
    there, tables = there[seeds][:, arms], [t[seeds][:, arms] for t in tables]
    pairs = [(0, 1)] if given is None else [(0, 1), (0, 2), (1, 2)]
    member = _membership([label for label, known in zip(labels, arms, strict=True) if known])
    found = [_with_and_without(tables[i], tables[j], there, member) for i, j in pairs] if there.size else []
    nothing = Interval(math.nan, math.nan, math.nan, 0, level)
    if not found:
        return nothing
    whole, without = (np.stack(part) for part in zip(*found, strict=True))  # (pairs, seeds), (pairs, seeds, arms)
    defined = ~np.isnan(whole).any(axis=0)
    whole, without = whole[:, defined], without[:, defined]
    count = whole.shape[1]
    if not count:
        return nothing
    without = np.where(np.isnan(without), whole[..., None], without)
    tau = min(max(float(_combined(whole.mean(axis=1))), -1.0), 1.0)
    if math.isnan(tau):
        return nothing
    if member.shape[1] < LEAST_ARMS:  # too few to tell how they vary
        return Interval(tau, -1.0, 1.0, count, level)
    variance = _variance(whole, without, (there[defined] @ member > 0).sum(axis=1).mean())
    if variance <= 0.0:
        agree = 2 * ((1 - level) / 2) ** (1 / (without.shape[2] // 2)) - 1
        low, high = (agree, 1.0) if tau > 0 else (-1.0, -agree)
        return Interval(tau, low, high, count, level)
    half = scipy.stats.t.ppf(0.5 + level / 2, without.shape[2] - 1) * math.sqrt(variance / max(1 - tau**2, 1e-12))
    ends = (math.asin(tau) + side * half for side in (-1, 1))
    low, high = (math.sin(min(max(end, -math.pi / 2), math.pi / 2)) for end in ends)
    return Interval(tau, low, high, count, level)


def _membership(labels: Sequence[Hashable]) -> np.ndarray:
    """1 where an arm is of a family, (arms, families)."""
    known = list(dict.fromkeys(labels))
    return np.array([[label == family for family in known] for label in labels], float).reshape(len(labels), len(known))


def _with_and_without(
    x: np.ndarray, y: np.ndarray, there: np.ndarray, member: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """τ_b of each seed, (seeds,), and with each family left out, (seeds, families)."""
    both = there[:, :, None] & there[:, None, :]
    a, b = (np.where(both, _order(t[:, :, None], t[:, None, :]), 0.0) for t in (x, y))
    products = (a * b, a * a, b * b)  # (seeds, arms, arms) each
    sums = [product.sum(axis=(1, 2)) for product in products]
    left = []
    for product, total in zip(products, sums, strict=True):
        of_family = product.sum(axis=2) @ member
        within = np.einsum("sij,if,jf->sf", product, member, member)
        left.append(total[:, None] - 2 * of_family + within)
    return _tau(*sums), _tau(*left)


def _order(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 where x is greater, −1 where y is, also where one is infinite."""
    return (x > y).astype(float) - (x < y)


def _tau(agreeing: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    scale = np.sqrt(of_x * of_y)
    return np.divide(agreeing, scale, out=np.full(scale.shape, np.nan), where=scale > 0)


def _combined(taus: np.ndarray) -> np.ndarray:
    """τ itself, or the partial τ of three, along the first axis."""
    if len(taus) == 1:
        return taus[0]
    xy, xz, yz = taus
    scale = np.sqrt((1 - xz**2) * (1 - yz**2))
    return np.divide(xy - xz * yz, scale, out=np.full(np.shape(scale), np.nan), where=scale > 1e-12)


def _variance(whole: np.ndarray, without: np.ndarray, arms: float) -> float:
    """Variance of the combined mean over the seeds, from arms and seeds."""
    count, mean = whole.shape[1], whole.mean(axis=1)
    tau = _combined(mean)
    together = _spread(_combined(without.mean(axis=1)) - tau)  # an arm left out of all seeds
    one = _combined(mean[:, None, None] + (without - whole[..., None]) / count) - tau  # of one seed
    anew = float(sum(_spread(of_seed) for of_seed in one))
    correction = max(arms - 2, 1.0) / (arms - 1)
    together, anew = correction * together, correction * anew
    if count < 2:
        return together
    left_out = _combined((count * mean[:, None] - whole) / (count - 1))
    seeds = (count - 1) ** 2 / count * float(np.nanvar(left_out, ddof=1)) if np.isfinite(left_out).all() else 0.0
    explained = (count * anew - together) / (count - 1)
    return together + max(0.0, seeds - explained)


def _spread(changes: np.ndarray) -> float:
    """The jackknife's variance from the change that leaving each arm out makes."""
    known = changes[np.isfinite(changes)]
    return float((len(known) - 1) / len(known) * ((known - known.mean()) ** 2).sum()) if len(known) > 1 else 0.0
