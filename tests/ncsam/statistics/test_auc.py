"""Areas and precisions against scikit-learn and against counting; DeLong's interval covers what it should."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ncsam.statistics import auc, precision_at


@pytest.mark.parametrize("seed", range(4))
def test_areas_with_ties_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(60) < 0.4
    scores = np.round(rng.standard_normal(60) + positive, 1)
    assert auc(scores, positive).mean == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert auc(-scores, positive).mean == pytest.approx(1 - auc(scores, positive).mean, abs=1e-12)


def test_the_interval_is_delongs() -> None:
    rng = np.random.default_rng(5)
    positive = np.arange(30) < 11
    scores = np.round(rng.standard_normal(30) + positive, 1)
    ones, others = scores[positive], scores[~positive]
    wins = (ones[:, None] > others).astype(float) + 0.5 * (ones[:, None] == others)
    error = np.sqrt(wins.mean(1).var(ddof=1) / len(ones) + wins.mean(0).var(ddof=1) / len(others))
    found = auc(scores, positive, 0.9)
    assert (found.high - found.mean) / 1.6448536 == pytest.approx(error, rel=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_the_interval_covers_the_true_area() -> None:
    rng = np.random.default_rng(6)
    truth, covered = 0.7602499, 0  # Φ(1/√2), of normal scores one deviation apart
    for _ in range(400):
        positive = np.arange(120) < 50
        found = auc(rng.standard_normal(120) + positive, positive)
        covered += found.low <= truth <= found.high
    assert 0.91 < covered / 400 < 0.98


def test_areas_that_do_not_exist_are_nan_and_unknown_scores_are_left_out() -> None:
    assert np.isnan(auc([1.0, 2.0], [True, True]).mean)
    one = auc([1.0, 2.0, 3.0], [True, False, False])
    assert one.mean == 0
    assert np.isnan([one.low, one.high]).all()
    assert auc([1.0, np.nan, 3.0], [False, True, True]).n == 2
    with pytest.raises(ValueError, match=r"expected \(n,\) both"):
        auc([1.0], [True, False])


def test_precision_at_a_number_shares_ties() -> None:
    assert precision_at([5.0, 4.0, 3.0], [True, False, True], 2) == 0.5
    assert precision_at([1.0, 1.0, 1.0, 1.0], [True, False, False, False], 2) == 0.25
    assert np.isnan(precision_at([1.0], [True], 2))
