"""Every kind of label noise draws from the distribution it is defined by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from ncsam import noise
from ncsam.noise import NoisyLabels

N, C = 20_000, 10
LABELS = np.arange(N) % C
INPUTS = np.random.default_rng(7).standard_normal((N, 5))
ALPHA = 1e-4  # chance of failing under a seed that was not looked at; seeds are fixed, so nothing is flaky
STOCHASTIC = np.random.default_rng(3).dirichlet(np.ones(C), size=C)


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[float, int], NoisyLabels]

    def __str__(self) -> str:
        return self.name


CLASS_CONDITIONAL = [
    Case("symmetric", lambda rate, seed: noise.symmetric(LABELS, rate, C, seed)),
    Case("inclusive", lambda rate, seed: noise.symmetric(LABELS, rate, C, seed, inclusive=True)),
    Case("pair", lambda rate, seed: noise.pair(LABELS, rate, C, seed)),
    Case("asymmetric", lambda rate, seed: noise.asymmetric(LABELS, rate, C, seed)),
    Case(
        "matrix",
        lambda rate, seed: noise.matrix(LABELS, (1 - rate) * np.eye(C) + rate * STOCHASTIC, C, seed),
    ),
]
KINDS = [
    *CLASS_CONDITIONAL,
    Case("exact", lambda rate, seed: noise.symmetric(LABELS, rate, C, seed, exact=True)),
    Case("instance", lambda rate, seed: noise.instance_dependent(INPUTS, LABELS, rate, C, seed)),
    Case("beta", lambda rate, seed: noise.beta(LABELS, 1 + 9 * rate, 10 - 9 * rate, C, seed)),
]


@pytest.mark.parametrize("rate", [0.2, 0.6])
@pytest.mark.parametrize("case", CLASS_CONDITIONAL, ids=str)
def test_each_class_is_observed_with_the_frequencies_of_its_row(case: Case, rate: float) -> None:
    noisy = case.make(rate, 11)
    for c in range(C):
        row = noisy.transition[c]
        observed = np.bincount(noisy.observed[c == LABELS], minlength=C)
        assert (observed[row == 0] == 0).all()
        possible = row > 0
        if possible.sum() > 1:
            expected = row[possible] * observed.sum()
            assert stats.chisquare(observed[possible], expected).pvalue > ALPHA / C


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.8])
def test_the_number_of_symmetric_flips_is_binomial(rate: float) -> None:
    for seed in range(5):
        flips = int(noise.symmetric(LABELS, rate, C, seed).flipped.sum())
        assert stats.binomtest(flips, N, rate).pvalue > ALPHA


def test_inclusive_flips_less_by_the_share_that_lands_on_the_true_class() -> None:
    flips = int(noise.symmetric(LABELS, 0.5, C, 2, inclusive=True).flipped.sum())
    assert stats.binomtest(flips, N, 0.5 * (C - 1) / C).pvalue > ALPHA


@pytest.mark.parametrize("rate", [0.0, 0.29, 0.5, 1.0])
def test_exact_flips_exactly_so_many(rate: float) -> None:
    labels = LABELS[:100]
    assert noise.symmetric(labels, rate, C, 4, exact=True).flipped.sum() == round(rate * 100)


def test_exact_flips_those_that_the_rate_would_flip_first() -> None:
    by_chance = noise.symmetric(LABELS, 0.3, C, 8)
    exact = noise.symmetric(LABELS, by_chance.realized_rate, C, 8, exact=True)
    assert np.array_equal(exact.observed, by_chance.observed)


def test_exact_and_inclusive_is_the_protocol_of_dividemix() -> None:
    noisy = noise.symmetric(LABELS, 0.4, C, 6, inclusive=True, exact=True)
    flips = int(noisy.flipped.sum())
    assert flips <= round(0.4 * N)
    assert stats.binomtest(flips, round(0.4 * N), (C - 1) / C).pvalue > ALPHA


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_flips_are_nested_across_rates(case: Case) -> None:
    previous = case.make(0.0, 5)
    for rate in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0):
        noisy = case.make(rate, 5)
        was = previous.flipped
        assert noisy.flipped[was].all()
        assert (noisy.observed[was] == previous.observed[was]).all()
        assert noisy.flipped.sum() > was.sum()
        previous = noisy


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_one_seed_gives_one_realisation_and_another_seed_another(case: Case) -> None:
    first, again, other = case.make(0.4, 1), case.make(0.4, 1), case.make(0.4, 2)
    assert np.array_equal(first.observed, again.observed)
    assert not np.array_equal(first.observed, other.observed)
    shared = (first.flipped & other.flipped).mean()
    chance = first.realized_rate * other.realized_rate
    if case.name not in ("asymmetric", "matrix", "instance"):  # there the chance itself differs between samples
        assert stats.binomtest(round(shared * N), N, chance).pvalue > ALPHA


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_the_record_describes_what_was_done(case: Case) -> None:
    noisy = case.make(0.4, 3)
    assert noisy.observed.dtype == noisy.true.dtype == np.int64
    assert np.array_equal(noisy.true, LABELS)
    assert noisy.seed == 3
    assert noisy.transition.shape == (C, C)
    np.testing.assert_allclose(noisy.transition.sum(axis=1), 1, atol=1e-12)
    assert noisy.realized_rate == (noisy.observed != LABELS).mean()
    np.testing.assert_allclose(noisy.realized_transition.sum(axis=1), 1, atol=1e-12)
    # Each entry is a share of N / C draws, so its deviation is at most ½·(N / C)^-½; six of them cover all C² entries.
    assert np.abs(noisy.realized_transition - noisy.transition).max() < 6 * 0.5 / (N / C) ** 0.5


def test_asymmetric_confuses_the_published_classes_of_cifar10() -> None:
    noisy = noise.asymmetric(LABELS, 1.0, C)
    becomes = {c: set(noisy.observed[c == LABELS].tolist()) for c in range(C)}
    assert becomes == {0: {0}, 1: {1}, 2: {0}, 3: {5}, 4: {7}, 5: {3}, 6: {6}, 7: {7}, 8: {8}, 9: {1}}


def test_asymmetric_on_cifar100_walks_through_each_superclass() -> None:
    from ncsam.data.cifar import CIFAR100_CLASSES

    labels = np.arange(100)
    step = noise.asymmetric(labels, 1.0, 100).observed
    assert step[CIFAR100_CLASSES.index("beaver")] == CIFAR100_CLASSES.index("dolphin")
    assert step[CIFAR100_CLASSES.index("whale")] == CIFAR100_CLASSES.index("beaver")
    walked = labels
    for _ in range(5):
        assert not np.array_equal(walked, labels) or walked is labels
        walked = step[walked]
    assert np.array_equal(walked, labels)


def test_the_default_map_needs_ten_or_a_hundred_classes() -> None:
    with pytest.raises(ValueError, match="7 classes needs a map"):
        noise.asymmetric([0, 1], 0.2, 7)


def test_instance_noise_follows_the_truncated_normal_and_its_own_softmax() -> None:
    rate = 0.4
    noisy = noise.instance_dependent(INPUTS, LABELS, rate, C, 9)
    expected = stats.truncnorm.mean(-rate / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
    assert stats.binomtest(int(noisy.flipped.sum()), N, expected).pvalue > ALPHA
    # What a sample is mistaken for depends on its input: within a class, the mean input differs by observed label.
    wrong = noisy.flipped & (LABELS == 0)
    groups = [INPUTS[wrong & (noisy.observed == c)] for c in range(1, C)]
    assert max(stats.f_oneway(*[g[:, k] for g in groups if len(g) > 20]).statistic for k in range(5)) > 10


def test_instance_noise_at_rate_zero_flips_nothing_and_is_close_to_the_truncated_mean_just_above() -> None:
    assert noise.instance_dependent(INPUTS, LABELS, 0.0, C).realized_rate == 0
    above = noise.instance_dependent(INPUTS, LABELS, 1e-9, C)
    half_normal_mean = 0.1 * (2 / np.pi) ** 0.5
    assert stats.binomtest(int(above.flipped.sum()), N, half_normal_mean).pvalue > ALPHA


def test_beta_noise_has_the_mean_of_its_distribution() -> None:
    noisy = noise.beta(LABELS, 2.0, 6.0, C, 1)
    assert noisy.rate == 0.25
    assert stats.binomtest(int(noisy.flipped.sum()), N, 0.25).pvalue > ALPHA


def test_beta_noise_of_equal_mean_differs_in_whom_it_flips() -> None:
    """Flips alone show only the mean of the chances; their spread shows between two spreads of one seed."""
    tight, wide = noise.beta(LABELS, 2000.0, 2000.0, C, 1).flipped, noise.beta(LABELS, 0.01, 0.01, C, 1).flipped
    # Tight chances are ½, wide ones 0 or 1, of two independent uniforms u < ½ and t > ½: they agree half the time.
    assert stats.binomtest(int((tight == wide).sum()), N, 0.5).pvalue > ALPHA


def test_beta_noise_takes_the_wrong_classes_by_sample() -> None:
    wrong = np.zeros((N, C))
    wrong[np.arange(N), (LABELS + 1 + np.arange(N) // C % 2) % C] = 1  # the next class, or the one after it
    noisy = noise.beta(LABELS, 5.0, 5.0, C, 1, wrong=wrong)
    flips = noisy.flipped
    assert np.array_equal(noisy.observed[flips], wrong.argmax(axis=1)[flips])
    np.testing.assert_allclose(noisy.transition[0], [0.5, 0.25, 0.25, *[0] * 7], atol=1e-12)


def test_a_class_without_samples_keeps_a_stochastic_row() -> None:
    noisy = noise.instance_dependent(INPUTS[:4], [0, 0, 2, 2], 0.5, 4, 0)
    assert noisy.transition[1].tolist() == [0, 1, 0, 0]
    assert np.isnan(noisy.realized_transition[1]).all()
    by_sample = noise.beta([0, 0, 2], 1.0, 1.0, 4, wrong=np.eye(4)[[1, 1, 3]])
    assert by_sample.transition.sum(axis=1).tolist() == [1, 1, 1, 1]


def test_a_row_that_is_the_identity_but_for_rounding_leaves_its_class() -> None:
    """Row sums are taken to six decimals; what is missing from 1 is no chance of another class."""
    rounded = np.eye(3)
    rounded[1, 1] -= 9e-7
    labels = np.ones(3_000_000, np.int64)
    assert not noise.matrix(labels, rounded, 3).flipped.any()
