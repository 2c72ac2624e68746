"""The verdict rule holds its level: simulated studies whose true effect is m, and in which nothing may be found.

The interval is two-sided at 95 %, so that 2.5 % of verdicts should be *supported*, and as many *contradicted*, by
chance alone. The declared bound is 5 % ± 1 for false decisions of either kind together, and no more than that for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from ncsam.statistics import t_intervals, verdict

STUDIES = 40_000
M = 0.01
Errors = Callable[[np.random.Generator, int], np.ndarray]


def normal(generator: np.random.Generator, seeds: int) -> np.ndarray:
    return 0.01 * generator.standard_normal((STUDIES, seeds))


def tied(generator: np.random.Generator, seeds: int) -> np.ndarray:
    """Accuracies of 360 test images, differences of which come in steps: about every third pair of seeds is tied."""
    step = 1 / 360
    return np.round(normal(generator, seeds) / step) * step


def missing(generator: np.random.Generator, seeds: int) -> np.ndarray:
    """A quarter of the runs failed; two seeds are left at least."""
    errors = normal(generator, seeds)
    lost = generator.random(errors.shape) < 0.25
    lost[:, :2] = False
    return np.where(lost, np.nan, errors)


def unequal(generator: np.random.Generator, seeds: int) -> np.ndarray:
    """Seeds that are three times as uncertain as others."""
    return normal(generator, seeds) * np.where(np.arange(seeds) % 3 == 0, 3.0, 1.0)


def heavy(generator: np.random.Generator, seeds: int) -> np.ndarray:
    return 0.01 * generator.standard_t(3, (STUDIES, seeds))


def skewed(generator: np.random.Generator, seeds: int) -> np.ndarray:
    """The difference of two arms, one of which sometimes collapses."""
    return 0.01 * (generator.gamma(2.0, 1.0, (STUDIES, seeds)) - 2.0)


def all_at_once(generator: np.random.Generator, seeds: int) -> np.ndarray:
    return np.where(np.isnan(missing(generator, seeds)), np.nan, np.round(unequal(generator, seeds) * 360) / 360)


def decided(errors: np.ndarray, effect: float = M) -> tuple[float, float]:
    """Shares of studies that are *supported* and *contradicted*."""
    _, low, high = t_intervals(effect + errors)
    return float(np.mean(low > M)), float(np.mean(high < M))


@pytest.mark.parametrize("seeds", [3, 5, 6, 10])
@pytest.mark.parametrize("errors", [normal, tied, missing, unequal, heavy, all_at_once])
def test_at_most_one_in_twenty_is_decided_where_the_effect_is_m(errors: Errors, seeds: int) -> None:
    supported, contradicted = decided(errors(np.random.default_rng(0), seeds))
    slack = 4 * math.sqrt(0.025 * 0.975 / STUDIES)
    assert supported <= 0.03 + slack
    assert contradicted <= 0.03 + slack
    assert supported + contradicted <= 0.06


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_normal_effects_are_decided_at_exactly_the_level(seeds: int) -> None:
    found = decided(normal(np.random.default_rng(1), seeds))
    assert found == pytest.approx((0.025, 0.025), abs=4 * math.sqrt(0.025 * 0.975 / STUDIES))


def test_the_shares_are_those_of_the_rule_itself() -> None:
    errors = all_at_once(np.random.default_rng(2), 6)[:300]
    _, low, high = t_intervals(M + errors)
    words = [verdict(a, b, M) for a, b in zip(low, high, strict=True)]
    assert [word == "supported" for word in words] == (low > M).tolist()
    assert [word.startswith("contradicted") for word in words] == (high < M).tolist()


def test_an_effect_that_is_there_is_found_and_one_that_is_not_is_refused() -> None:
    errors = normal(np.random.default_rng(3), 10)
    assert decided(errors, effect=M + 0.02)[0] > 0.99
    assert decided(errors, effect=M - 0.02)[1] > 0.99


def test_where_the_rule_stops_working() -> None:
    """Effects skewed to one side: below ten seeds, one of the two errors is more frequent than declared."""
    _, contradicted = decided(skewed(np.random.default_rng(4), 5))
    assert contradicted > 0.06
    supported, _ = decided(-skewed(np.random.default_rng(4), 5))
    assert supported > 0.06
    fewer = decided(skewed(np.random.default_rng(4), 40))
    assert sum(fewer) < sum(decided(skewed(np.random.default_rng(4), 5)))
