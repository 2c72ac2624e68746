"""The radius control: SAM of the same realised ‖ε‖, seed by seed, on reported runs only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ncsam.figures import radius_figure
from ncsam.records import RadiusControl
from ncsam.statistics import t_interval
from ncsam.study.arms import family_of
from ncsam.study.radius_control import radius_control
from ncsam.study.table import TUNING, studies, table_of
from tests.figure_checks import faults

SAM = {0.1: 0.7, 0.2: 0.8, 0.4: 0.9}


def rows(seeds: int = 4) -> list[dict[str, Any]]:
    found = []

    def add(arm: str, radius: float, accuracy: float, seed: int, **settings: Any) -> None:
        found.append({
            "name": f"{arm}-{seed}", "arm": arm, "optimizer": arm.split("@")[0], "rate": 0.4, "seed": seed,
            "perturbation_norm": radius, "test_accuracy": accuracy + 0.01 * seed, "memorisation": 1 - accuracy,
            **settings,
        })  # fmt: skip

    for seed in range(seeds):
        add("sgd", 0.0, 0.6, seed)
        for rho, accuracy in SAM.items():
            add(f"sam@{rho}", rho, accuracy, seed)
        add("ncsam", 0.3, 0.83, seed, options={"sign": 1, "project": False})
        add("matched", 0.05, 0.65 + 0.002 * seed, seed)
        add("oracle", 0.5, 0.99, seed)
    return found


def control(table_rows: list[dict[str, Any]]) -> RadiusControl:
    return radius_control(studies(table_of(table_rows))[0])


def at(found: RadiusControl, arm: str, name: str) -> float:
    return float(getattr(found, name)[found.arms.tolist().index(arm)])


def test_the_excess_is_over_sam_of_the_same_seed_between_its_radii() -> None:
    found = control(rows())
    assert at(found, "ncsam", "excess") == pytest.approx(0.83 - 0.85)
    assert at(found, "matched", "excess") == pytest.approx(0.003)  # between SGD at 0 and the smallest ρ
    expected = t_interval([0.002 * seed for seed in range(4)])
    assert at(found, "matched", "excess_high") == pytest.approx(expected.high)
    assert np.isnan(at(found, "oracle", "excess"))  # beyond the largest ρ nothing is known
    for rho in SAM:
        assert at(found, f"sam@{rho}", "excess") == pytest.approx(0.0)
    assert at(found, "ncsam", "accuracy") == pytest.approx(0.83 + 0.015)
    assert found.family.tolist() == ["SGD", "SAM", "SAM", "SAM", "NCSAM, unprojected", "matched", "oracle"]


def test_tuning_runs_take_no_part() -> None:
    tuning = [{**row, "role": TUNING, "test_accuracy": 0.0} for row in rows()]
    np.testing.assert_array_equal(control(rows() + tuning).accuracy, control(rows()).accuracy)


def test_families_tell_the_variants_of_ncsam_apart() -> None:
    variants = [{"sign": s, "project": p} for s in (1, -1) for p in (True, False)]
    assert len({family_of("ncsam", options) for options in variants}) == 4


def test_what_was_not_measured_is_said() -> None:
    with pytest.raises(ValueError, match="no arm has test_accuracy and perturbation_norm at 40% noise"):
        control([{k: v for k, v in row.items() if k != "perturbation_norm"} for row in rows()])


@pytest.mark.parametrize("seeds", [1, 4])
def test_the_figure_has_a_point_for_every_arm_and_sam_as_a_line(seeds: int) -> None:
    drawn = radius_figure(control(rows(seeds)))
    accuracy, memorisation = drawn.axes
    for ax in (accuracy, memorisation):
        assert ax.get_xscale() == "log"
        assert {"SGD", "SAM", "NCSAM, unprojected", "matched", "oracle"} <= {line.get_label() for line in ax.lines}
        np.testing.assert_allclose(
            next(line for line in ax.lines if len(line.get_xdata()) == len(SAM)).get_xdata(), list(SAM)
        )
    assert faults(drawn) == []


def test_symbols_stand_at_their_radii_and_upright_bars_of_one_radius_are_a_hair_apart() -> None:
    few = [{**row, "perturbation_norm": 0.05} for row in rows(3) if row["arm"] in ("sam@0.1", "matched", "oracle")]
    drawn = radius_figure(control([*few, *(row for row in rows(3) if row["arm"] == "sgd")]))
    ax = drawn.axes[0]
    symbols = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1 and line.get_marker() in "sDP*"]
    np.testing.assert_allclose(symbols, [0.05] * 3, rtol=1e-12)
    bars = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "_"]
    assert len(set(np.round(bars, 9))) == 3
    np.testing.assert_allclose(bars, 0.05, rtol=0.02)
    ticks = next(line for line in ax.lines if line.get_marker() == "|" and line.get_color() == "black")
    np.testing.assert_allclose(ticks.get_xdata(), [0.05] * 3, rtol=1e-12)
    low, high = ax.get_xlim()
    assert high / low > 2.5
    assert faults(drawn) == []


def test_a_radius_that_is_sams_but_for_rounding_is_compared_on_every_seed() -> None:
    """NCSAM's projected ‖ε‖ is ρ but for rounding, above it on some seeds; no seed is left out for that."""
    at = np.random.default_rng(0)
    rows = [
        {
            "name": f"{arm}{seed}", "arm": arm, "noise": "symmetric", "rate": 0.4, "seed": seed, "memorisation": 0.5,
            "test_accuracy": accuracy + 0.01 * seed * (arm == "ncsam"),
            "perturbation_norm": radius * (1 + 1e-7 * at.choice((-1, 1))),
        }
        for seed in range(10)
        for arm, accuracy, radius in (("sgd", 0.7, 0.0), ("sam", 0.8, 0.05), ("ncsam", 0.75, 0.05))
    ]  # fmt: skip
    control = radius_control(studies(table_of(rows))[0])
    assert control.excess[control.arms.tolist().index("ncsam")] == pytest.approx(-0.05 + 0.045, abs=1e-5)
    rows[-1]["perturbation_norm"] = 0.06  # beyond: the others would be a choice by radius
    control = radius_control(studies(table_of(rows))[0])
    assert np.isnan(control.excess[control.arms.tolist().index("ncsam")])
