"""Version 1: each verdict can come out all three ways, follows from the numbers in the table, and is never guessed."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

from ncsam.records import Curves
from ncsam.statistics import t_interval, t_intervals
from ncsam.study import statements, verdicts
from ncsam.study.table import TUNING, table_of
from ncsam.study.verdicts import joint_reading
from tests.ncsam.study.synthetic import of, rows, table

VERSION = statements.VERSIONS[1]
IDS = [statement.id for statement in VERSION.statements]
CLEAR = [
    ("T1", {"bound_tau": 1}, "supported"),
    ("T1", {"bound_tau": -1}, "contradicted (opposite)"),
    ("T2", {"rotation": 0.8}, "supported"),
    ("T2", {"rotation": 0.0}, "contradicted (equivalent)"),
    ("T2", {"rotation": -0.8}, "contradicted (opposite)"),
    ("T3", {"opposing": 0.3}, "supported"),
    ("T3", {"opposing": 0.0}, "contradicted (equivalent)"),
    ("T3", {"opposing": -0.3}, "contradicted (opposite)"),
    ("T4", {"simulated": 0.3}, "supported"),
    ("T4", {"simulated": 0.0}, "contradicted (equivalent)"),
    ("T4", {"simulated": -0.3}, "contradicted (opposite)"),
    ("T5", {"brought": 0.2}, "supported"),
    ("T5", {"brought": 0.0}, "contradicted (equivalent)"),
    ("T5", {"brought": -0.2}, "contradicted (opposite)"),
    ("T6a", {"slope": 0.5}, "supported"),
    ("T6a", {"slope": 0.0}, "contradicted (equivalent)"),
    ("T6a", {"slope": -0.5}, "contradicted (opposite)"),
    ("T6b", {"flatter": 0.4}, "supported"),
    ("T6b", {"flatter": 0.0}, "contradicted (equivalent)"),
    ("T6b", {"flatter": -0.5}, "contradicted (opposite)"),
    ("T7", {"gain": 0.05}, "supported"),
    ("T7", {"gain": 0.0}, "contradicted (equivalent)"),
    ("T7", {"gain": -0.05}, "contradicted (opposite)"),
    ("T8", {"extra_drop": 0.0}, "supported"),
    ("T8", {"extra_drop": 0.1}, "contradicted (opposite)"),
    ("T9", {"gap_tau": 1}, "supported"),
    ("T9", {"gap_tau": -1}, "contradicted (opposite)"),
]
AT_M = {
    "rotation": 0.25, "opposing": 0.05, "simulated": 0.1, "brought": 0.05, "slope": 0.1, "flatter": 0.1, "gain": 0.01,
    "extra_drop": 0.02,
}  # fmt: skip


judge, describe = partial(verdicts.judge, version=1), partial(verdicts.describe, version=1)


@pytest.mark.parametrize(("statement", "effects", "expected"), CLEAR)
def test_a_clear_effect_decides(statement: str, effects: dict[str, float], expected: str) -> None:
    assert of(judge(table(**effects)), statement) == expected


def test_the_clear_effects_are_of_every_statement_and_both_ways() -> None:
    for statement in IDS:
        assert {"supported", "contradicted"} <= {expected.split()[0] for s, _, expected in CLEAR if s == statement}


def test_effects_of_m_drowned_in_noise_are_undecided_nearly_always() -> None:
    found = [judge(table(seeds=3, spread=0.2, draw=draw, **AT_M)) for draw in range(5)]
    for statement in IDS:
        assert [of(verdicts, statement) for verdicts in found].count("undecided") >= 3, statement


def test_a_statement_about_two_holds_only_of_both_and_says_which_decided() -> None:
    study = rows(flatter=0.4)
    for row in study:
        if row["arm"] == "sam":
            row["adaptive/mixed"] = 1.0
    found = judge(table_of(study))
    assert of(found, "T6b") == "contradicted (equivalent)"
    assert of(found, "T6b", "contrast") == "SAM"
    assert of(judge(table(gain=0.05)), "T7", "contrast") in ("NCSAM - SAM", "NCSAM - SGD")


def test_a_contrast_of_one_seed_hides_no_other_that_fails() -> None:
    kept = [row for row in rows(gain=-0.05) if row["arm"] != "sam" or row["seed"] == 0]
    found = judge(table_of(kept))
    assert of(found, "T7") == "contradicted (opposite)"
    assert of(found, "T7", "contrast") == "NCSAM - SGD"
    better = judge(table_of([row for row in rows(gain=0.05) if row["arm"] != "sam" or row["seed"] == 0]))
    assert (of(better, "T7"), of(better, "T7", "contrast")) == ("undecided", "NCSAM - SAM")


@pytest.mark.parametrize("weak", [{"memorised": 0.3}, {"sgd_drop": 0.01}])
def test_where_sgd_does_not_memorise_t7_and_t8_cannot_be_told(weak: dict[str, float]) -> None:
    found = judge(table(gain=0.05, slope=0.5, **weak))
    assert of(found, "T7") == of(found, "T8") == "undecided"
    assert of(found, "T6a") == "supported"
    assert "did not memorise" in of(found, "T7", "note")
    assert str(found.check).endswith("too little")


def test_what_was_not_measured_is_not_judged_and_is_named() -> None:
    study = [
        {k: v for k, v in row.items() if not k.startswith("cos_") and (k != "drop" or row["rate"] > 0)}
        for row in rows(gain=0.05)
    ]
    found = judge(table_of(study))
    assert [s for s in IDS if of(found, s) == "not measured"] == ["T2", "T3", "T4", "T5", "T8"]
    assert of(found, "T3", "note") == (
        "needs cos_clean_noise of ncsam at 40% noise: `landscape train --diagnose 8`, or `diagnose = 8` under "
        "`[train]` of the sweep"
    )
    assert of(found, "T8", "note") == (
        "needs drop of ncsam at 0% noise: `landscape train --optimizer ncsam --noise symmetric:0`"
    )
    assert np.isnan(of(found, "T3", "estimate"))
    assert np.isnan(of(found, "T3", "p_holm"))
    assert of(found, "T7") == "supported"
    assert "T3, T4, T5 not measured" in str(found.joint)


def test_holm_counts_every_declared_endpoint_measured_or_not() -> None:
    full = judge(table(gain=0.05, slope=0.5))
    assert full.family == len(IDS) == 10
    kept = ("drop", "test_accuracy", "memorisation", "name", "arm", "rate", "seed")
    only = [{k: v for k, v in row.items() if k in kept}
            for row in rows(gain=0.05)]  # fmt: skip
    found = judge(table_of(only))
    assert of(found, "T7", "p_holm") == pytest.approx(10 * 2 / 2**10)


def test_too_few_seeds_are_called_preliminary() -> None:
    assert VERSION.seeds_needed == 9  # 2/2⁹ · 10 < 0.05 < 2/2⁸ · 10
    assert judge(table(seeds=8)).preliminary.all()
    assert not judge(table(seeds=9)).preliminary.any()


def test_an_interval_that_decides_where_the_test_cannot_is_remarked_upon() -> None:
    assert "does not reach 0.05" in of(judge(table(seeds=5, gain=0.05)), "T7", "note")
    assert "does not reach" not in of(judge(table(seeds=10, gain=0.05)), "T7", "note")


def test_the_numbers_behind_a_verdict_are_the_paired_differences() -> None:
    study = rows(gain=0.03, spread=0.01)
    found = judge(table_of(study))
    accuracy = {(row["arm"], row["seed"]): row["test_accuracy"] for row in study if row["rate"] == 0.4}
    deciding = of(found, "T7", "contrast").split(" - ")[1].lower()
    differences = [accuracy["ncsam", s] - accuracy[deciding, s] for s in range(10)]
    expected = t_interval(differences)
    assert of(found, "T7", "estimate") == pytest.approx(np.mean(differences))
    assert (of(found, "T7", "low"), of(found, "T7", "high")) == pytest.approx((expected.low, expected.high))
    assert of(found, "T7", "pairs") == 10
    assert of(found, "T7", "runs") == 30
    assert (found.p_holm >= found.p_value).all()
    assert (of(found, "T6a", "test"), of(found, "T7", "test")) == ("Page", "sign-flip")


def test_a_seed_that_lacks_a_run_leaves_the_pairs_of_the_others() -> None:
    study = [row for row in rows(gain=0.05) if (row["arm"], row["seed"], row["rate"]) != ("sam", 3, 0.4)]
    found = judge(table_of(study))
    assert of(found, "T7", "runs") == 29
    assert of(found, "T7", "pairs") in (9, 10)  # that of the contrast that decided


def test_tuning_runs_are_never_judged() -> None:
    study = rows(gain=0.05)
    tuning = [{**row, "seed": 100 + row["seed"], "role": TUNING, "test_accuracy": 0.0} for row in study]
    np.testing.assert_array_equal(judge(table_of(study + tuning)).estimate, judge(table_of(study)).estimate)
    with pytest.raises(ValueError, match="no reported run"):
        judge(table_of(tuning))


def test_each_kind_of_noise_is_a_study_of_its_own_with_the_clean_runs_in_common() -> None:
    symmetric = rows(gain=0.05)
    instance = [{**row, "name": f"i{row['name']}"} for row in rows(gain=-0.05, noise="instance") if row["rate"] > 0]
    both = table_of(symmetric + instance)
    with pytest.raises(ValueError, match="holds 2 studies"):
        judge(both)
    first, second = verdicts.studies_of(both)
    assert (first.noise, second.noise) == ("symmetric", "instance")
    assert second.rates == (0.0, 0.2, 0.4, 0.6)
    assert of(judge(first), "T7") == "supported"
    assert of(judge(second), "T7") == "contradicted (opposite)"
    assert of(judge(second), "T8") == "supported"


def test_secondary_endpoints_are_described_and_not_judged() -> None:
    found = describe(table(gain=0.05))
    names = dict(zip(found.quantity.tolist(), found.estimate.tolist(), strict=True))
    assert names["NCSAM - matched"] == pytest.approx(0.05, abs=0.01)
    assert names["cos(g*, g_noise)"] == pytest.approx(0.1, abs=0.01)
    assert names["share of runs whose bound is vacuous"] == pytest.approx(0.5, abs=0.2)
    assert set(found.statement) <= set(IDS)
    assert np.isfinite(found.low).all()


def test_curves_of_an_older_study_are_judged_as_their_table() -> None:
    study = table(gain=0.05, slope=0.5)
    arms, rates, seeds = (list(dict.fromkeys(column.tolist())) for column in (study.arm, study.rate, study.seed))
    value = np.full((len(study.endpoints), len(arms), len(rates), len(seeds)), np.nan)
    for i in range(len(study.names)):
        value[:, arms.index(study.arm[i]), rates.index(study.rate[i]), seeds.index(study.seed[i])] = study.value[i]
    mean, low, high = t_intervals(value)
    curves = Curves(
        quantities=study.endpoints, arms=np.array(arms), rates=np.array(rates), seeds=np.array(seeds),
        value=value, mean=mean, low=low, high=high, level=0.95,
    )  # fmt: skip
    one, other = judge(study), judge(curves)
    np.testing.assert_array_equal(one.verdict, other.verdict)
    np.testing.assert_allclose(one.estimate, other.estimate)


@pytest.mark.parametrize("t3", ["supported", "contradicted (equivalent)", "undecided"])
def test_the_joint_reading_never_calls_a_like_vector_a_compensation(t3: str) -> None:
    worse = joint_reading(t3, "supported", "contradicted (opposite)")
    assert "towards the noise" in worse
    both = joint_reading(t3, "supported", "supported")
    assert ("at odds" in both) == (t3 == "supported")
    assert "undecided" in joint_reading(t3, "undecided", "supported")
    assert "another reason" in joint_reading(t3, "contradicted (equivalent)", "supported")


def test_statements_are_frozen_and_have_one_primary_endpoint_each() -> None:
    assert IDS == ["T1", "T2", "T3", "T4", "T5", "T6a", "T6b", "T7", "T8", "T9"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        VERSION.statements[0].smallest_effect = 0.0  # type: ignore[misc]
