"""Inference: against scipy, by enumeration, and by simulated coverage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from ncsam.statistics import (
    holm,
    kendall_tau,
    page_p,
    sign_flip_p,
    smallest_sign_flip_p,
    t_interval,
    t_intervals,
    verdict,
)


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=8))
def test_sign_flip_p_is_the_share_of_all_sign_choices(values: list[int]) -> None:
    choices = itertools.product((1, -1), repeat=len(values))
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in choices]
    assert sign_flip_p(values) == np.mean([s >= abs(sum(values)) for s in sums])


def exact_sign_flip_p(values: Sequence[Fraction]) -> float:
    choices = itertools.product((1, -1), repeat=len(values))
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in choices]
    return float(np.mean([s >= abs(sum(values)) for s in sums]))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sign_flip_p_counts_ties_of_sums_of_decimals(dtype: type) -> None:
    rng = np.random.default_rng(0)
    cases = [
        [1, 1, 1, -3],
        [1, 2, -3],
        [7, -1, -2, -4],
        *(rng.integers(-9, 10, n) for n in range(1, 9) for _ in range(40)),
    ]
    for tenths in cases:
        values = np.array(tenths) / 10
        assert sign_flip_p(values.astype(dtype)) == exact_sign_flip_p([Fraction(int(t), 10) for t in tenths]), tenths


def test_sign_flip_p_counts_ties_of_differences_of_accuracies() -> None:
    rng = np.random.default_rng(1)
    for n in [*range(2, 9)] * 30:
        one, other = rng.integers(500, 520, (2, n))
        exact = exact_sign_flip_p([Fraction(int(d), 540) for d in one - other])
        assert sign_flip_p(one / 540 - other / 540) == exact, (one, other)


def test_sums_that_differ_are_no_ties() -> None:
    assert sign_flip_p([1.0, 1e-9]) == 0.5
    assert sign_flip_p([1e-300, 2e-300]) == 0.5
    assert sign_flip_p([1.0, 1.0, 1.0, 1e-9, -1.0]) == exact_sign_flip_p([Fraction(v) for v in (1, 1, 1, 1e-9, -1)])


@pytest.mark.parametrize("n", range(2, 12))
def test_the_least_p_value_is_reached_when_all_differences_agree(n: int) -> None:
    assert sign_flip_p(np.arange(1, n + 1)) == smallest_sign_flip_p(n)


def test_sign_flip_test_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    p = np.array([sign_flip_p(rng.normal(size=8)) for _ in range(2000)])
    share = (p <= 0.05).mean()  # exact level 12/256 = 0.047
    assert abs(share - 12 / 256) < 4 * np.sqrt(0.047 * 0.953 / 2000)


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_covers_what_it_promises(n: int, level: float) -> None:
    draws = 40_000  # so that one point is nearly seven standard errors
    samples = np.random.default_rng(n).normal(1.0, 2.0, size=(draws, n))
    _, low, high = t_intervals(samples, level)
    assert abs(((low <= 1.0) & (high >= 1.0)).mean() - level) < 0.01


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_of_paired_differences_covers_though_arms_share_their_seeds(n: int) -> None:
    rng = np.random.default_rng(100 + n)
    shared = rng.normal(0.0, 5.0, size=(40_000, n))  # how hard a seed's split is, the same for both arms
    sam, ncsam = (shared + mean + rng.normal(0.0, 0.5, size=shared.shape) for mean in (0.8, 0.9))
    _, low, high = t_intervals(ncsam - sam)
    assert abs(((low <= 0.1) & (high >= 0.1)).mean() - 0.95) < 0.01


@pytest.mark.parametrize("n", [3, 10])
def test_a_statement_whose_effect_is_just_m_is_supported_in_one_of_forty_studies(n: int) -> None:
    samples = np.random.default_rng(n).normal(0.1, 1.0, size=(40_000, n))
    _, low, high = t_intervals(samples)
    assert abs((low > 0.1).mean() - 0.025) < 0.005
    assert abs((high < 0.1).mean() - 0.025) < 0.005


@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=12))
def test_intervals_against_scipy(values: list[float]) -> None:
    there = np.array([v for v in values if v == v])
    mean, low, high = t_intervals(values)
    if len(there) < 2:
        assert np.isnan(low)
        assert np.isnan(mean) == (len(there) == 0)
        return
    half = stats.sem(there) * stats.t.ppf(0.975, len(there) - 1)
    tolerance = 1e-9 * max(1.0, np.abs(there).max())
    np.testing.assert_allclose([mean, low, high], there.mean() + np.array([0, -half, half]), rtol=1e-6, atol=tolerance)


@given(st.integers(3, 5), st.integers(0, 2**31))
def test_pages_p_is_the_share_of_all_orders_of_the_rows(rates: int, seed: int) -> None:
    table = np.random.default_rng(seed).normal(size=(2, rates))
    ranks = table.argsort(axis=1).argsort(axis=1) + 1
    weights = np.arange(1, rates + 1)
    orders = [np.dot(p, weights) for p in itertools.permutations(weights)]
    every = np.add.outer(orders, orders).ravel()
    statistic = (ranks @ weights).sum()
    expected = min(1.0, 2 * min((every >= statistic).mean(), (every <= statistic).mean()))
    assert page_p(table) == pytest.approx(expected)


def test_pages_test_needs_two_complete_rows_and_three_columns() -> None:
    rising = np.arange(12.0).reshape(3, 4)
    assert page_p(rising) == pytest.approx(2 / 24**3)
    assert page_p([*rising, [np.nan, 0, 0, 0]]) == page_p(rising)
    assert np.isnan(page_p(rising[:1]))
    assert np.isnan(page_p(rising[:, :2]))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=4, max_size=9))
def test_kendalls_tau_counts_pairs(points: list[tuple[int, int]]) -> None:
    signs = [
        (np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in itertools.combinations(points, 2)
    ]  # fmt: skip
    x, y = (sum(s[i] ** 2 for s in signs) for i in (0, 1))
    found = kendall_tau(*zip(*points, strict=True))
    if x == 0 or y == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(sum(s[0] * s[1] for s in signs) / np.sqrt(x * y))


def test_kendalls_tau_leaves_nan_out_and_needs_four_points() -> None:
    assert kendall_tau([1, 2, 3, 4, np.nan], [1, 2, 3, 4, 0]) == pytest.approx(1.0)
    assert np.isnan(kendall_tau([1, 2, 3, np.nan], [1, 2, 3, 4]))


def test_an_infinite_value_has_a_rank_but_no_interval_and_no_sign_flip_test() -> None:
    found = t_interval([1.0, 2.0, np.inf])
    assert (found.mean, found.n) == (np.inf, 3)
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan([sign_flip_p([np.inf, 1.0, 2.0]), sign_flip_p([np.inf, -np.inf, 1.0])]).all()
    finite, infinite = [1.0, 2.0, 3.0, 9.0], [1.0, 2.0, 3.0, np.inf]
    assert kendall_tau(infinite, [2, 1, 3, 4]) == kendall_tau(finite, [2, 1, 3, 4])
    assert np.isnan(kendall_tau([np.inf] * 4, [1, 2, 3, 4]))


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


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(0, 5))
def test_holm_over_a_family_counts_what_was_not_measured_as_largest(p_values: list[float], further: int) -> None:
    padded = holm([*p_values, *([1.0] * further)])[: len(p_values)]
    np.testing.assert_allclose(holm(p_values, len(p_values) + further), padded)


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
