"""Theorem 1 against a literal transcription, and in its limits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from ncsam import theorem1_bound

GIVEN = {"max_neighbourhood_loss": 0.2, "alpha": 0.25, "n": 4000, "num_parameters": 500, "weight_norm": 7.0, "rho": 0.1}


def test_terms_against_a_literal_transcription() -> None:
    ns, K, a, w, rho, delta = 3000, 500, 0.25, 7.0, 0.1, 0.05
    X = (
        (1 / 4) * K * math.log(1 + (w**2 / rho**2) * (1 + math.sqrt(math.log(ns) / K)) ** 2)
        + 1 / 4
        + math.log(ns / delta)
        + 2 * math.log(6 * ns + 3 * K)
    )
    bound = theorem1_bound(**GIVEN)
    assert bound.neighbourhood == pytest.approx(0.2 / (1 - a))
    assert bound.sampling == pytest.approx(1 / ((1 - a) * math.sqrt(ns)))
    assert bound.complexity == pytest.approx(math.sqrt(X / (ns - 1)))
    assert bound.total == pytest.approx(bound.neighbourhood + bound.sampling + bound.complexity)


@given(st.floats(0, 0.8), st.floats(0, 0.8))
def test_the_bound_loosens_with_the_noise_rate(first: float, second: float) -> None:
    low, high = sorted((first, second))
    totals = [theorem1_bound(**{**GIVEN, "alpha": a}).total for a in (low, high)]
    assert totals[0] <= totals[1] + 1e-12


def test_it_can_be_far_from_vacuous_and_says_which_term_dominates() -> None:
    tight = theorem1_bound(max_neighbourhood_loss=0.3, alpha=0.0, n=10**9, num_parameters=10, weight_norm=1.0, rho=0.1)
    assert not tight.vacuous
    assert tight.dominant == "neighbourhood"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 1.0),
        ("alpha", -0.1),
        ("max_neighbourhood_loss", 1.1),
        ("rho", 0.0),
        ("delta", 0.0),
        ("weight_norm", math.inf),
        ("num_parameters", 0),
        ("n", 1),
    ],
)
def test_arguments_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        theorem1_bound(**{**GIVEN, name: value})
