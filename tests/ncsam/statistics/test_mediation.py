"""Mediation: effects that are known, an independent least-squares fit, and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ncsam.statistics import Mediation, mediation

DOSE = np.log([0.02, 0.05, 0.1, 0.2, 0.4, 0.8])


def study(
    generator: np.random.Generator,
    a: float,
    b: float,
    c: float,
    seeds: int = 8,
    noise: float = 0.3,
    common: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Mediator and outcome, (seeds, doses); ``common`` is a cause of both that is not the dose."""
    shape = (seeds, len(DOSE))
    cause = common * generator.standard_normal(shape)
    mediator = a * DOSE + generator.standard_normal((seeds, 1)) + noise * generator.standard_normal(shape) + cause
    outcome = b * mediator + c * DOSE + generator.standard_normal((seeds, 1))
    return mediator, outcome + noise * generator.standard_normal(shape) + cause


def test_without_noise_in_the_outcome_the_effects_are_exact() -> None:
    mediator, _ = study(np.random.default_rng(0), -0.7, 0.0, 0.0)
    found = mediation(DOSE, mediator, 0.4 * mediator - 0.1 * DOSE + np.arange(8.0)[:, None])
    assert found.of_mediator.mean == pytest.approx(0.4, abs=1e-10)
    assert found.direct.mean == pytest.approx(-0.1, abs=1e-10)
    assert found.indirect.mean == pytest.approx(0.4 * found.on_mediator.mean, abs=1e-10)


def test_each_seed_is_fitted_by_least_squares() -> None:
    generator = np.random.default_rng(1)
    mediator, outcome = study(generator, -0.7, 0.4, -0.1)
    mediator[3, 2] = np.nan
    found = mediation(DOSE, mediator, outcome)
    for seed in range(8):
        known = np.isfinite(mediator[seed])
        one = np.ones(known.sum())
        d, m, y = DOSE[known], mediator[seed][known], outcome[seed][known]
        _, c, b = np.linalg.lstsq(np.column_stack([one, d, m]), y, rcond=None)[0]
        a = np.linalg.lstsq(np.column_stack([one, d]), m, rcond=None)[0][1]
        total = np.linalg.lstsq(np.column_stack([one, d]), y, rcond=None)[0][1]
        assert found.per_seed[seed] == pytest.approx([total, c, a * b], rel=1e-9)
    assert found.per_seed[:, 0] == pytest.approx(found.per_seed[:, 1:].sum(axis=1), rel=1e-9)
    assert found.total.n == 8


def covers(found: Mediation, a: float, b: float, c: float) -> list[bool]:
    true = (c + a * b, c, a * b)
    effects = (found.total, found.direct, found.indirect)
    return [interval.low <= value <= interval.high for interval, value in zip(effects, true, strict=True)]


@pytest.mark.parametrize(("a", "b", "c"), [(-0.7, 0.4, -0.1), (0.0, 0.4, 0.1), (-0.7, 0.0, 0.0)])
def test_the_intervals_cover_what_they_estimate(a: float, b: float, c: float) -> None:
    generator, times = np.random.default_rng(2), 600
    share = np.mean([covers(mediation(DOSE, *study(generator, a, b, c)), a, b, c) for _ in range(times)], axis=0)
    assert share == pytest.approx(0.95, abs=0.02 + 4 * math.sqrt(0.05 * 0.95 / times))


def test_a_common_cause_passes_for_mediation() -> None:
    """Where it stops working, as the docstring says: the mediator does nothing, and the indirect effect is not 0."""
    generator = np.random.default_rng(3)
    found = mediation(DOSE, *study(generator, -0.7, 0.0, 0.0, seeds=30, common=1.0))
    assert found.indirect.high < 0
    assert found.total.low < 0 < found.total.high  # of the dose, which was set, this is right


def test_seeds_that_cannot_tell_are_left_out() -> None:
    mediator, outcome = study(np.random.default_rng(4), -0.7, 0.4, -0.1, seeds=4)
    mediator[0, 1:4] = np.nan  # three doses are left
    mediator[1] = 2 * DOSE + 1
    found = mediation(DOSE, mediator, outcome)
    assert np.isnan(found.per_seed).all(axis=1).tolist() == [True, True, False, False]
    assert (found.total.n, found.indirect.n) == (2, 2)
    assert mediation(DOSE[:3], mediator[:, :3], outcome[:, :3]).total.n == 0


def test_each_seed_may_have_doses_of_its_own() -> None:
    generator = np.random.default_rng(5)
    mediator, outcome = study(generator, -0.7, 0.4, -0.1)
    same = mediation(np.tile(DOSE, (8, 1)), mediator, outcome)
    assert np.array_equal(same.per_seed, mediation(DOSE, mediator, outcome).per_seed)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(6,\), \(2, 5\), \(2, 6\)"):
        mediation(DOSE, np.ones((2, 5)), np.ones((2, 6)))
