"""The statements of the flatness–noise theory as declared endpoints, and the verdict on each.

Everything that could be chosen after looking (endpoint, view, contrast, smallest relevant effect) is a constant here.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from ncsam.schema import Curves, Verdicts
from ncsam.statistics import holm, sign_flip_p, smallest_sign_flip_p, t_interval, verdict

LEVEL = 0.95
CONTRAST_RATE = 0.4
PRIMARY_VIEW = "mixed"
MEMORISED_SHARE = 0.5  # plain SGD must fit this share of the wrong labels …
MEMORISATION_DROP = 0.02  # … and lose this much accuracy from its best epoch, or T7 and T8 cannot be told

Effects = Callable[[Curves], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Statement:
    """One statement with its primary endpoint.

    Attributes:
        id, text: as in the literature, in one sentence.
        endpoint: what is computed for each seed, in words.
        effects: per-seed effects, (seeds,), positive where they speak for the statement.
        smallest_effect: m.
        needs_memorisation: undecided unless plain SGD memorises.
        trend: whether the p-value is Page's over the rates rather than the sign-flip test's.
    """

    id: str
    text: str
    endpoint: str
    effects: Effects
    smallest_effect: float
    needs_memorisation: bool = False
    trend: bool = False


def _sharpness_slopes(curves: Curves) -> np.ndarray:
    by_rate = _by_rate(curves, f"adaptive/{PRIMARY_VIEW}", "sgd")
    slopes = [np.polyfit(curves.rates, row, 1)[0] / abs(row.mean()) for row in by_rate]
    return np.array(slopes)


def _flatter(curves: Curves) -> np.ndarray:
    sgd, ncsam = (curves.of(f"adaptive/{PRIMARY_VIEW}", arm, CONTRAST_RATE) for arm in ("sgd", "ncsam"))
    return (sgd - ncsam) / np.abs(sgd)


def _gain_over_sam(curves: Curves) -> np.ndarray:
    return curves.of("test_accuracy", "ncsam", CONTRAST_RATE) - curves.of("test_accuracy", "sam", CONTRAST_RATE)


def _stability(curves: Curves) -> np.ndarray:
    return -(curves.of("drop", "ncsam", CONTRAST_RATE) - curves.of("drop", "ncsam", 0.0))


STATEMENTS = (
    Statement(
        "T6a",
        "sharpness grows with the noise rate",
        "slope of SGD's adaptive sharpness (mixed) over the rates, relative to its mean",
        _sharpness_slopes,
        0.1,
        trend=True,
    ),
    Statement(
        "T6b",
        "NCSAM is flatter than SGD",
        "relative difference SGD - NCSAM in adaptive sharpness (mixed) at 40 %",
        _flatter,
        0.1,
    ),
    Statement(
        "T7",
        "NCSAM generalises better than SAM",
        "difference NCSAM - SAM in test accuracy (mean of the last five epochs) at 40 %",
        _gain_over_sam,
        0.01,
        needs_memorisation=True,
    ),
    Statement(
        "T8",
        "NCSAM stays as stable as on clean labels",
        "NCSAM's drop from best to last epochs at 0 % minus that at 40 %",
        _stability,
        -0.02,
        needs_memorisation=True,
    ),
)


def judge(curves: Curves) -> Verdicts:
    """The verdict on each statement by the declared rule, with every number it follows from.

    Raises:
        KeyError: the study lacks a run that an endpoint needs.
    """
    effects = [statement.effects(curves) for statement in STATEMENTS]
    intervals = [t_interval(e, LEVEL) for e in effects]
    p = [
        _trend_p(curves) if statement.trend else sign_flip_p(e)
        for statement, e in zip(STATEMENTS, effects, strict=True)
    ]
    adjusted = holm(p)
    memorises, seen = manipulation_check(curves)
    verdicts, notes, preliminary = [], [], []
    for statement, interval in zip(STATEMENTS, intervals, strict=True):
        found = verdict(interval.low, interval.high, statement.smallest_effect)
        remarks = []
        if statement.needs_memorisation and not memorises:
            found = "undecided"
            remarks.append(f"plain SGD did not memorise: {seen}")
        verdicts.append(found)
        notes.append("; ".join(remarks))
        preliminary.append(interval.n < seeds_needed())
    return Verdicts(
        statements=np.array([s.id for s in STATEMENTS]),
        text=np.array([s.text for s in STATEMENTS]),
        endpoint=np.array([s.endpoint for s in STATEMENTS]),
        verdict=np.array(verdicts),
        note=np.array(notes),
        estimate=np.array([i.mean for i in intervals]),
        low=np.array([i.low for i in intervals]),
        high=np.array([i.high for i in intervals]),
        smallest_effect=np.array([s.smallest_effect for s in STATEMENTS]),
        p_value=np.array(p),
        p_holm=adjusted,
        pairs=np.array([i.n for i in intervals]),
        preliminary=np.array(preliminary),
        level=LEVEL,
    )


def seeds_needed() -> int:
    """Least number of seeds at which the sign-flip test can decide after Holm's correction.

    >>> seeds_needed()
    8
    """
    return next(n for n in itertools.count(1) if smallest_sign_flip_p(n) * len(STATEMENTS) < 1 - LEVEL)


def manipulation_check(curves: Curves) -> tuple[bool, str]:
    """Whether plain SGD memorises at the contrast rate, and what was seen."""
    fitted = float(np.nanmean(curves.of("memorisation", "sgd", CONTRAST_RATE)))
    drop = float(np.nanmean(curves.of("drop", "sgd", CONTRAST_RATE)))
    seen = f"it fits {fitted:.0%} of the wrong labels and drops {100 * drop:.1f} points from its best epoch"
    return fitted >= MEMORISED_SHARE and drop >= MEMORISATION_DROP, seen


def _by_rate(curves: Curves, quantity: str, arm: str) -> np.ndarray:
    """(seeds, rates), complete seeds only."""
    table = np.stack([curves.of(quantity, arm, rate) for rate in curves.rates], axis=1)
    return table[~np.isnan(table).any(axis=1)]


def _trend_p(curves: Curves) -> float:
    table = _by_rate(curves, f"adaptive/{PRIMARY_VIEW}", "sgd")
    if len(table) < 2 or table.shape[1] < 3:
        return math.nan
    up = stats.page_trend_test(table, method="exact").pvalue
    down = stats.page_trend_test(table[:, ::-1], method="exact").pvalue
    return float(min(1.0, 2 * min(up, down)))
