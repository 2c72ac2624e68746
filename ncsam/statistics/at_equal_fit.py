"""Comparisons along training: two arms where a third quantity is equal, and the fall from the best epochs.

An arm that memorises less at the last epoch may only be slower. At equal memorisation, or at equal loss on the rightly
labelled part, the two are compared where they have fitted as much.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

WINDOW = 5
"""Evaluated epochs that a mean is taken over."""


def difference_at_equal(
    values: ArrayLike, others: ArrayLike, matched: ArrayLike, others_matched: ArrayLike, at: ArrayLike
) -> np.ndarray:
    """One arm's value minus another's where a third quantity first equals each of ``at``, seed by seed, (seeds, at).

    Between two evaluated epochs both quantities are taken to be linear. NaN where one of the arms never passes the
    value, so that nothing is said beyond what both have reached.

    Args:
        values, others: of the two arms, (seeds, epochs) each, such as test accuracy; epochs may differ in number, and
            are NaN where not evaluated.
        matched, others_matched: the third quantity in the same epochs, such as memorisation.
        at: its values at which to compare, (n,).

    Raises:
        ValueError: tables whose shapes do not fit.

    >>> memorised, accuracy = [[0.0, 0.2, 0.4]], [[0.5, 0.7, 0.6]]
    >>> slower, other = [[0.0, 0.1, 0.2, 0.3]], [[0.5, 0.6, 0.65, 0.7]]
    >>> difference_at_equal(accuracy, other, memorised, slower, [0.1, 0.3, 0.4]).round(3).tolist()
    [[0.0, -0.05, nan]]
    """
    tables = [np.atleast_2d(np.asarray(t, float)) for t in (values, others, matched, others_matched)]
    one, other, by_one, by_other = tables
    if one.shape != by_one.shape or other.shape != by_other.shape or len(one) != len(other):
        shapes = ", ".join(str(t.shape) for t in tables)
        raise ValueError(
            f"values, others, matched, others_matched have the shapes {shapes}; expected (seeds, epochs), the same for "
            "values and matched, and for others and others_matched"
        )
    levels = np.atleast_1d(np.asarray(at, float))
    found = [
        [value_at(a, m, level) - value_at(b, n, level) for level in levels]
        for a, b, m, n in zip(one, other, by_one, by_other, strict=True)
    ]
    return np.array(found).reshape(len(one), len(levels))


def mean_difference_at_equal(
    values: ArrayLike, others: ArrayLike, matched: ArrayLike, others_matched: ArrayLike, points: int = 21
) -> np.ndarray:
    """The mean of :func:`difference_at_equal` over what both arms pass of the third quantity, (seeds,).

    The values to compare at are spaced evenly, seed by seed, from the greater of the two least values to the less of
    the two greatest. NaN for seeds where the two have no value in common.

    >>> memorised, accuracy = [[0.0, 0.2, 0.4]], [[0.5, 0.7, 0.6]]
    >>> slower, other = [[0.0, 0.1, 0.2, 0.3]], [[0.4, 0.5, 0.6, 0.55]]
    >>> mean_difference_at_equal(accuracy, other, memorised, slower).round(3).tolist()
    [0.1]
    """
    one, other, by_one, by_other = (
        np.atleast_2d(np.asarray(t, float)) for t in (values, others, matched, others_matched)
    )
    difference_at_equal(one, other, by_one, by_other, [])  # their shapes
    found = np.full(len(one), np.nan)
    for i, (a, b, m, n) in enumerate(zip(one, other, by_one, by_other, strict=True)):
        known = [q[np.isfinite(q) & np.isfinite(v)] for q, v in ((m, a), (n, b))]
        if not all(map(len, known)):
            continue
        low, high = max(q.min() for q in known), min(q.max() for q in known)
        if low <= high:
            found[i] = np.nanmean(difference_at_equal(a, b, m, n, np.linspace(low, high, points)))
    return found


def drop_from_best_mean(history: ArrayLike, window: int = WINDOW) -> np.ndarray:
    """The best mean of ``window`` evaluated epochs in a row minus the mean of the last ones, (…,) from (…, epochs).

    Epochs that are NaN were not evaluated and are passed over. NaN below ``window`` evaluated epochs. The best single
    epoch is also the luckiest, so a drop from it is positive even where accuracy never falls. This one is less so, and
    0 where the last epochs are the best.

    >>> drop_from_best_mean([0.1, 0.5, 0.5, 0.6, 0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4]).round(3).tolist()
    0.12
    """
    table = np.asarray(history, float)
    rows = table.reshape(-1, table.shape[-1])
    found = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        known = row[np.isfinite(row)]
        if len(known) >= window:
            means = np.convolve(known, np.full(window, 1 / window), "valid")
            found[i] = means.max() - means[-1]
    return found.reshape(table.shape[:-1])


def value_at(values: np.ndarray, matched: np.ndarray, level: float) -> float:
    """The value where the matched quantity first equals a level, epoch by epoch; NaN where it never does."""
    known = np.isfinite(values) & np.isfinite(matched)
    v, q = values[known], matched[known]
    reached = np.flatnonzero(q == level)
    passed = np.flatnonzero((q[:-1] - level) * (q[1:] - level) < 0) if len(q) > 1 else np.array([], int)
    first = min([*reached[:1], *(passed[:1] + 0.5)], default=math.nan)
    if math.isnan(first):
        return math.nan
    i = int(first)
    if first == i:
        return float(v[i])
    share = (level - q[i]) / (q[i + 1] - q[i])
    return float(v[i] + share * (v[i + 1] - v[i]))
