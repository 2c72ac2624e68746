"""Kendall's τ with arms as a random factor: against scipy, by its symmetries, and by simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ncsam.statistics import kendall_interval, kendall_tau, t_interval, verdict

Draw = tuple[np.ndarray, np.ndarray]


def tables(
    generator: np.random.Generator, arms: int, seeds: int, r: float, noise: float, shared: float, tail: str = "normal"
) -> Draw:
    """Arms drawn from a population in which two quantities correlate by r, measured with noise that correlates too."""

    def pair(shape: tuple[int, ...], correlation: float) -> tuple[np.ndarray, np.ndarray]:
        first, second = generator.standard_normal((2, *shape))
        return first, correlation * first + math.sqrt(1 - correlation**2) * second

    u, v = pair((arms,), r)
    if tail == "heavy":
        u, v = (q * np.sqrt(3 / generator.chisquare(3, arms)) for q in (u, v))
    if tail == "skewed":
        u, v = np.exp(u), np.exp(v)
    e, f = pair((seeds, arms), shared)
    of_seed = generator.standard_normal((2, seeds, 1))  # moves all arms alike, and no rank
    return u + noise * e + of_seed[0], v + noise * f + of_seed[1]


def true_tau(r: float, noise: float, shared: float, tail: str) -> float:
    """The τ of the population: its formula for normal arms, else from two hundred thousand pairs."""
    if tail == "normal":
        return 2 / math.pi * math.asin((r + shared * noise**2) / (1 + noise**2))
    x, y = tables(np.random.default_rng(99), 400_000, 1, r, noise, shared, tail)
    return float(np.mean(np.sign((x[0, ::2] - x[0, 1::2]) * (y[0, ::2] - y[0, 1::2]))))


def covered(arms: int, seeds: int, r: float, noise: float, shared: float, tail: str, times: int) -> float:
    generator, tau = np.random.default_rng(1), true_tau(r, noise, shared, tail)
    found = [kendall_interval(*tables(generator, arms, seeds, r, noise, shared, tail)) for _ in range(times)]
    return float(np.mean([interval.low <= tau <= interval.high for interval in found]))


def test_one_seed_gives_scipys_tau_b_and_many_its_mean() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 6, (2, 5, 9)).astype(float)  # with ties
    expected = [float(stats.kendalltau(a, b).statistic) for a, b in zip(x, y, strict=True)]
    assert kendall_interval(x[0], y[0]).mean == pytest.approx(expected[0], rel=1e-12)
    assert kendall_interval(x, y).mean == pytest.approx(np.mean(expected), rel=1e-12)


def test_the_partial_tau_is_kendalls_of_the_means() -> None:
    generator = np.random.default_rng(0)
    x, y, z = generator.standard_normal((3, 4, 8)) + generator.standard_normal((1, 1, 8))
    xy, xz, yz = (np.mean([kendall_tau(a, b) for a, b in zip(*pair, strict=True)]) for pair in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    found = kendall_interval(x, y, z)
    assert found.mean == pytest.approx(expected, rel=1e-12)
    assert found.low < expected < found.high


def test_the_interval_depends_on_ranks_alone_and_turns_with_the_sign() -> None:
    generator = np.random.default_rng(3)
    x, y = generator.standard_normal((2, 6, 10)) + generator.standard_normal((1, 1, 10))
    found = kendall_interval(x, y)
    same = kendall_interval(np.exp(x), y[:, :] ** 3)
    assert (same.mean, same.low, same.high) == pytest.approx((found.mean, found.low, found.high), rel=1e-12)
    turned, swapped = kendall_interval(-x, y), kendall_interval(y, x)
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low), rel=1e-12)
    assert (swapped.low, swapped.high) == pytest.approx((found.low, found.high), rel=1e-12)
    order = generator.permutation(10)
    assert kendall_interval(x[::-1][:, order], y[::-1][:, order]).low == pytest.approx(found.low, rel=1e-12)


def test_more_seeds_of_the_same_arms_do_not_make_it_certain() -> None:
    """What intervals over the seeds alone got wrong: they shrink to nothing while the arms stay the same eight."""
    x, y = tables(np.random.default_rng(4), 8, 200, 0.0, 0.1, 0.0)
    few, many = kendall_interval(x[:5], y[:5]), kendall_interval(x, y)
    over_seeds = t_interval([kendall_tau(a, b) for a, b in zip(x, y, strict=True)])
    assert many.high - many.low > 0.7 * (few.high - few.low)
    assert over_seeds.high - over_seeds.low < 0.1 * (many.high - many.low)


def test_seeds_that_disagree_widen_it() -> None:
    generator = np.random.default_rng(5)
    x = generator.standard_normal((1, 12)) + 0.01 * generator.standard_normal((6, 12))
    y = x * np.array([[1], [-1], [1], [-1], [1], [-1]])
    apart = kendall_interval(x, y + 0.3 * generator.standard_normal((6, 12)))
    assert abs(apart.mean) < 0.2
    assert apart.high - apart.low > 1.2


def test_missing_runs_are_left_out() -> None:
    generator = np.random.default_rng(6)
    x, y = generator.standard_normal((2, 4, 9)) + generator.standard_normal((1, 1, 9))
    whole = kendall_interval(x[:, :8], y[:, :8])
    never, rare = x.copy(), np.vstack([y, np.full(9, np.nan)])
    never[:, 8] = np.nan
    rare[4, :3] = 1.0  # three arms are no ranking
    found = kendall_interval(np.vstack([never, np.arange(9.0)]), rare)
    assert (found.mean, found.low, found.high, found.n) == (whole.mean, whole.low, whole.high, 4)
    x[2, 5] = np.nan
    some = kendall_interval(x, y)
    kept = np.arange(9) != 5
    taus = [
        kendall_tau(a[kept], b[kept]) if i == 2 else kendall_tau(a, b)
        for i, (a, b) in enumerate(zip(x, y, strict=True))
    ]
    assert some.mean == pytest.approx(np.mean(taus), rel=1e-12)


@pytest.mark.parametrize("arms", [4, 8, 17])
def test_complete_agreement_is_as_sure_as_the_number_of_arms(arms: int) -> None:
    x = np.arange(float(arms)) + np.zeros((5, 1))
    found = kendall_interval(x, x)
    share = (1 + found.low) / 2  # of pairs that would agree
    assert share ** (arms // 2) == pytest.approx(0.025)
    assert (found.mean, found.high) == (1.0, 1.0)
    against = kendall_interval(x, -x)
    assert (against.mean, against.low, against.high) == (-1.0, -1.0, -found.low)
    assert verdict(kendall_interval(x[:, :4], x[:, :4]).low, 1.0, 0.2) == "undecided"


@pytest.mark.parametrize("x", [np.zeros((3, 9)), np.full((3, 9), np.nan), np.ones((3, 3)), np.zeros((0, 9))])
def test_nothing_to_rank_gives_no_number(x: np.ndarray) -> None:
    found = kendall_interval(x, np.arange(x.size, dtype=float).reshape(x.shape))
    assert found.n == 0
    assert math.isnan(found.mean)
    assert math.isnan(found.low)
    assert verdict(found.low, found.high, 0.2) == "undecided"


def test_tables_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 8\), \(2, 9\), expected one \(seeds, arms\)"):
        kendall_interval(np.ones((2, 8)), np.ones((2, 9)))


# r of the population of arms, noise of a run, and how far the noise of the two quantities goes together
CASES = [(0.0, 0.3, 0.0), (0.4, 0.3, 0.0), (0.8, 0.1, 0.0), (0.8, 0.3, 0.0), (0.4, 1.0, 0.3)]
QUICK = 400


@pytest.mark.parametrize(("arms", "seeds"), [(8, 5), (17, 10)])
def test_coverage_is_about_nominal(arms: int, seeds: int) -> None:
    found = [covered(arms, seeds, *case, "normal", QUICK) for case in CASES[:3]]
    slack = 0.02 + 4 * math.sqrt(0.05 * 0.95 / QUICK)
    assert all(abs(share - 0.95) < slack for share in found), found


@pytest.mark.slow
@pytest.mark.parametrize("tail", ["normal", "heavy", "skewed"])
@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("arms", [8, 12, 17])
def test_coverage_is_within_two_points_of_nominal(arms: int, seeds: int, tail: str) -> None:
    times = 2500
    error = math.sqrt(0.05 * 0.95 / times)
    found = {case: covered(arms, seeds, *case, tail, times) for case in CASES}
    assert {case: share for case, share in found.items() if abs(share - 0.95) > 0.02 + 3 * error} == {}
    assert abs(np.mean(list(found.values())) - 0.95) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("arms", [8, 12, 17])
def test_coverage_of_the_partial_tau(arms: int) -> None:
    """Both depend on a third quantity and not on each other: the partial τ of the population is that of its three τ."""

    def draw(generator: np.random.Generator, count: int, seeds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z = generator.standard_normal(count)
        noise = 0.3 * generator.standard_normal((3, seeds, count))
        own = generator.standard_normal((2, count))
        return z + own[0] + noise[0], z + own[1] + noise[1], z + noise[2]

    x, y, z = draw(np.random.default_rng(9), 400_000, 1)
    pairs = [np.sign(a[0, ::2] - a[0, 1::2]) for a in (x, y, z)]
    xy, xz, yz = (float(np.mean(pairs[i] * pairs[j])) for i, j in ((0, 1), (0, 2), (1, 2)))
    true = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    generator, times = np.random.default_rng(2), 3000
    found = [kendall_interval(*draw(generator, arms, 5)) for _ in range(times)]
    share = np.mean([interval.low <= true <= interval.high for interval in found])
    assert abs(share - 0.95) < 0.02 + 3 * math.sqrt(0.05 * 0.95 / times), share


def test_with_four_arms_it_is_wide_rather_than_wrong() -> None:
    assert covered(4, 5, 0.8, 0.3, 0.0, "normal", QUICK) > 0.95


def test_variants_count_as_one_family_and_without_it_for_more_than_they_are() -> None:
    """Twenty-four arms that are eight, three times each: taken for arms of their own they cover far too little."""
    generator, missed = np.random.default_rng(8), np.zeros(2)
    families = np.repeat(range(8), 3).tolist()
    for _ in range(QUICK):
        few = tables(generator, 8, 5, 0.0, 0.0, 0.0)
        x, y = (np.repeat(t, 3, axis=1) + 0.1 * generator.standard_normal((5, 24)) for t in few)
        found = (kendall_interval(x, y), kendall_interval(x, y, families=families))
        missed += [not interval.low <= 0.0 <= interval.high for interval in found]
    alone, together = missed / QUICK
    assert alone > 0.15
    assert abs(together - 0.05) < 0.02 + 4 * math.sqrt(0.05 * 0.95 / QUICK)


def test_families_of_one_arm_are_the_arms_and_a_family_is_left_out_whole() -> None:
    generator = np.random.default_rng(7)
    x, y = generator.standard_normal((2, 5, 9)) + generator.standard_normal((1, 1, 9))
    plain, single = kendall_interval(x, y), kendall_interval(x, y, families=list("abcdefghi"))
    assert (single.low, single.high) == pytest.approx((plain.low, plain.high), rel=1e-12)
    twice = kendall_interval(np.repeat(x, 2, axis=1), np.repeat(y, 2, axis=1), families=np.repeat(range(9), 2).tolist())
    assert (twice.low, twice.high) == pytest.approx((plain.low, plain.high), abs=0.1)
    few = kendall_interval(x, y, families=["a"] * 4 + ["b"] * 3 + ["c"] * 2)
    assert (few.mean, few.low, few.high) == (pytest.approx(plain.mean), -1.0, 1.0)
    with pytest.raises(ValueError, match="3 families for 9 arms"):
        kendall_interval(x, y, families=[1, 2, 3])


def test_an_infinite_value_counts_as_the_largest() -> None:
    x = np.random.default_rng(0).standard_normal((3, 8))
    y = x + np.random.default_rng(1).standard_normal((3, 8))
    largest = x.copy()
    x[:, 2], largest[:, 2] = np.inf, 99.0
    assert kendall_interval(x, y) == kendall_interval(largest, y)
