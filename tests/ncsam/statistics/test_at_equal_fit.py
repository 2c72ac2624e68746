"""Comparisons at equal fit and the fall from the best epochs, where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ncsam.statistics import difference_at_equal, drop_from_best_mean, mean_difference_at_equal


def history(speed: float, gain: float, epochs: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and memorisation of an arm that runs through the same course at its own speed, and is better by gain."""
    fitted = 1 - np.exp(-speed * np.arange(epochs) / epochs)
    return 0.8 - 0.3 * fitted + gain, fitted


def test_an_arm_that_is_only_slower_is_equal_at_equal_memorisation() -> None:
    accuracy, memorised = history(4.0, 0.0)
    slower, by_slower = history(1.0, 0.0)
    assert slower[-1] - accuracy[-1] > 0.1  # the last epoch says that it is better
    found = difference_at_equal(slower, accuracy, by_slower, memorised, [0.1, 0.3, 0.6])
    assert found == pytest.approx(0, abs=1e-12)  # accuracy is linear in what was memorised
    assert mean_difference_at_equal(slower, accuracy, by_slower, memorised) == pytest.approx(0, abs=1e-12)


def test_a_gain_at_equal_memorisation_is_found_seed_by_seed() -> None:
    gains = np.array([0.01, 0.02, -0.03])
    ones, others = ([history(speed, gain) for gain in of] for speed, of in ((1.0, gains), (3.0, np.zeros(3))))
    tables = [np.array([pair[i] for pair in arms]) for i in (0, 1) for arms in (ones, others)]
    found = difference_at_equal(*tables, [0.2, 0.5])
    assert found.shape == (3, 2)
    assert found == pytest.approx(np.column_stack([gains, gains]), abs=1e-12)
    assert mean_difference_at_equal(*tables) == pytest.approx(gains, abs=1e-12)


def test_nothing_is_said_beyond_what_both_have_reached() -> None:
    accuracy, memorised = history(4.0, 0.0)
    slower, by_slower = history(0.5, 0.0)
    (found,) = difference_at_equal(slower, accuracy, by_slower, memorised, [0.3, 0.5, -0.1])
    assert [math.isnan(value) for value in found] == [False, True, True]
    apart = mean_difference_at_equal([[0.1, 0.2]], [[0.1, 0.2]], [[0.0, 0.1]], [[0.2, 0.3]])
    assert np.isnan(apart).tolist() == [True]
    assert np.isnan(mean_difference_at_equal([[np.nan]], [[0.1]], [[0.1]], [[0.1]])).tolist() == [True]
    assert mean_difference_at_equal([[0.3, 0.4]], [[0.1, 0.1]], [[0.2, 0.5]], [[0.1, 0.2]]) == pytest.approx([0.2])


def test_a_loss_that_falls_is_matched_as_well_and_the_first_passing_counts() -> None:
    loss, accuracy = [2.0, 1.0, 0.5, 1.0, 0.2], [0.1, 0.5, 0.7, 0.6, 0.4]
    (found,) = difference_at_equal([accuracy], [[0.0, 0.0]], [loss], [[2.0, 0.0]], [1.0, 0.75, 0.3])
    assert found == pytest.approx([0.5, 0.6, 0.6 + (1.0 - 0.3) / 0.8 * (0.4 - 0.6)])


def test_epochs_that_were_not_evaluated_are_passed_over() -> None:
    accuracy, memorised = history(2.0, 0.01)
    other, by_other = history(1.0, 0.0)
    sparse = np.where(np.arange(200) % 3 == 0, accuracy, np.nan)
    found = difference_at_equal(sparse, other, memorised, by_other, [0.2, 0.4])
    assert found == pytest.approx(0.01, abs=1e-12)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the same for values and matched"):
        difference_at_equal(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 4)), np.ones((2, 3)), [0.1])
    with pytest.raises(ValueError, match=r"have the shapes \(2, 3\), \(3, 3\)"):
        mean_difference_at_equal(np.ones((2, 3)), np.ones((3, 3)), np.ones((2, 3)), np.ones((3, 3)))


def test_the_drop_is_that_from_the_best_window_of_evaluated_epochs() -> None:
    generator = np.random.default_rng(0)
    table = generator.random((3, 4, 30))
    table[:, :, ::4] = np.nan
    found = drop_from_best_mean(table)
    assert found.shape == (3, 4)
    for row, value in zip(table.reshape(-1, 30), found.ravel(), strict=True):
        known = [v for v in row if not math.isnan(v)]
        means = [sum(known[i : i + 5]) / 5 for i in range(len(known) - 4)]
        assert value == pytest.approx(max(means) - means[-1], abs=1e-12)
    assert drop_from_best_mean(np.arange(10.0)) == 0
    assert math.isnan(drop_from_best_mean([0.1, 0.2, 0.3, 0.4]))
    assert drop_from_best_mean([0.1, 0.5, 0.3], window=1) == pytest.approx(0.2)


def test_a_flat_history_drops_less_than_from_its_luckiest_epoch() -> None:
    noise = np.random.default_rng(1).normal(0, 0.01, (2000, 40))
    single = noise.max(axis=1) - noise[:, -5:].mean(axis=1)
    assert drop_from_best_mean(noise).mean() < 0.5 * single.mean()
