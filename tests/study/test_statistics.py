"""Inference: against scipy, by enumeration, and by simulated coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ncsam.statistics import holm, sign_flip_p, smallest_sign_flip_p, t_interval, verdict


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=8))
def test_sign_flip_p_is_the_share_of_all_sign_choices(values: list[int]) -> None:
    choices = itertools.product((1, -1), repeat=len(values))
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in choices]
    assert sign_flip_p(values) == np.mean([s >= abs(sum(values)) for s in sums])


@pytest.mark.parametrize("n", range(2, 12))
def test_the_least_p_value_is_reached_when_all_differences_agree(n: int) -> None:
    assert sign_flip_p(np.arange(1, n + 1)) == smallest_sign_flip_p(n)


def test_sign_flip_test_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    p = np.array([sign_flip_p(rng.normal(size=8)) for _ in range(2000)])
    share = (p <= 0.05).mean()  # exact level 12/256 = 0.047
    assert abs(share - 12 / 256) < 4 * np.sqrt(0.047 * 0.953 / 2000)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_covers_what_it_promises(n: int) -> None:
    rng = np.random.default_rng(n)
    samples = rng.normal(1.0, 2.0, size=(20_000, n))
    half = stats.t.ppf(0.975, n - 1) * samples.std(1, ddof=1) / np.sqrt(n)
    ours = [t_interval(row) for row in samples[:50]]
    np.testing.assert_allclose([i.high - i.mean for i in ours], half[:50])
    covered = (np.abs(samples.mean(1) - 1.0) <= half).mean()
    assert abs(covered - 0.95) < 0.01


def test_interval_leaves_nan_out_and_says_what_it_cannot() -> None:
    found = t_interval([1.0, np.nan, 3.0])
    assert (found.mean, found.n) == (2.0, 2)
    assert np.isnan(t_interval([1.0]).low)
    assert np.isnan(t_interval([]).mean)
    assert np.isnan(sign_flip_p([np.nan]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_against_its_definition(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, (len(p_values) - rank) * p_values[i])
        assert adjusted[i] == pytest.approx(min(1.0, running))


def test_holm_skips_nan() -> None:
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])


@pytest.mark.parametrize(
    ("low", "high", "m", "expected"),
    [
        (0.2, 0.4, 0.1, "supported"),
        (0.05, 0.4, 0.1, "undecided"),
        (-0.05, 0.05, 0.1, "contradicted (equivalent)"),
        (-0.5, -0.2, 0.1, "contradicted (opposite)"),
        (-0.5, 0.05, 0.1, "contradicted (too small)"),
        (-0.5, -0.05, 0.1, "contradicted (opposite)"),
        (-0.05, -0.01, 0.1, "contradicted (equivalent)"),
        (-0.01, 0.3, -0.02, "supported"),
        (-0.3, -0.1, -0.02, "contradicted (opposite)"),
        (-0.3, 0.1, -0.02, "undecided"),
        (float("nan"), float("nan"), 0.1, "undecided"),
    ],
)
def test_verdict_rule(low: float, high: float, m: float, expected: str) -> None:
    assert verdict(low, high, m) == expected
