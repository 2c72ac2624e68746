"""What holds for any labels, rate and seed."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from ncsam import noise

FAST = settings(max_examples=30, deadline=None)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    num_classes = draw(st.integers(2, 12))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=60))
    return np.array(labels), num_classes, draw(st.integers(0, 2**40))


def every_kind(labels: np.ndarray, num_classes: int, seed: int, rate: float) -> list[noise.NoisyLabels]:
    x = np.linspace(-3, 3, 3 * len(labels)).reshape(len(labels), 3)
    wrong_to = {c: (c + 1) % num_classes for c in range(0, num_classes, 2) if num_classes > 1}
    transition = (1 - rate) * np.eye(num_classes) + rate / num_classes
    return [
        noise.symmetric(labels, rate, num_classes, seed),
        noise.symmetric(labels, rate, num_classes, seed, inclusive=True, exact=True),
        noise.pair(labels, rate, num_classes, seed),
        noise.asymmetric(labels, rate, num_classes, seed, mapping=wrong_to),
        noise.matrix(labels, transition, num_classes, seed),
        noise.instance_dependent(x, labels, rate, num_classes, seed),
        noise.beta(labels, 0.1 + rate, 1.1 - rate, num_classes, seed),
    ]


@FAST
@given(problems(), st.floats(0, 1))
def test_labels_stay_labels_and_rows_stay_stochastic(problem: tuple[np.ndarray, int, int], rate: float) -> None:
    labels, num_classes, seed = problem
    for noisy in every_kind(labels, num_classes, seed, rate):
        assert noisy.observed.min() >= 0
        assert noisy.observed.max() < num_classes
        assert noisy.realized_rate == np.count_nonzero(noisy.observed != labels) / len(labels)
        assert (noisy.transition >= 0).all()
        np.testing.assert_allclose(noisy.transition.sum(axis=1), 1, atol=1e-9)
        possible = noisy.transition[labels, noisy.observed]
        assert (possible > 0).all()


@FAST
@given(problems(), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_flips_are_nested(problem: tuple[np.ndarray, int, int], rates: tuple[float, float]) -> None:
    labels, num_classes, seed = problem
    low, high = sorted(rates)
    for less, more in zip(
        every_kind(labels, num_classes, seed, low), every_kind(labels, num_classes, seed, high), strict=True
    ):
        assert np.array_equal(more.observed[less.flipped], less.observed[less.flipped])


@FAST
@given(problems())
def test_rate_zero_flips_nothing_and_rate_one_everything(problem: tuple[np.ndarray, int, int]) -> None:
    labels, num_classes, seed = problem
    assert noise.symmetric(labels, 0.0, num_classes, seed).realized_rate == 0
    assert noise.symmetric(labels, 1.0, num_classes, seed).realized_rate == 1
    assert noise.pair(labels, 1.0, num_classes, seed).realized_rate == 1


def test_the_global_random_state_is_neither_read_nor_changed() -> None:
    labels = np.arange(50) % 5
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    first = [noisy.observed for noisy in every_kind(labels, 5, 3, 0.5)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        again = [noisy.observed for noisy in every_kind(labels, 5, 3, 0.5)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_callers_labels_are_not_touched() -> None:
    labels = np.arange(30) % 3
    noisy = noise.symmetric(labels, 1.0, 3)
    assert np.array_equal(labels, np.arange(30) % 3)
    noisy.observed[0] = 0
    assert noisy.true is not noisy.observed


def test_tensors_and_arrays_of_labels_are_alike() -> None:
    labels = torch.arange(40) % 4
    assert np.array_equal(
        noise.symmetric(labels, 0.5, 4, 1).observed, noise.symmetric(labels.numpy(), 0.5, 4, 1).observed
    )


@pytest.mark.parametrize("seed", [-1, 0.5, True, "1"])
def test_a_seed_is_an_integer_from_zero(seed: object) -> None:
    with pytest.raises(ValueError, match="expected an integer ≥ 0"):
        noise.symmetric([0, 1], 0.5, 2, seed)  # type: ignore[arg-type]
