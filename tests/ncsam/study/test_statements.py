"""Version 2: each verdict can come out all three ways, and none hangs on an identity or on what was not measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ncsam.study import statements
from ncsam.study.statements import LATEST, VERSIONS
from ncsam.study.table import table_of
from ncsam.study.verdicts import NOT_MEASURED, describe, judge
from tests.ncsam.study.synthetic import ARMS, of, rows, table, tuned

VERSION = VERSIONS[2]
IDS = [statement.id for statement in VERSION.statements]
MANY = (*ARMS, *(f"mine{n}" for n in range(10)))
CLEAR = [
    ("T1", {"risk_tau": 1}, "supported"),
    ("T1", {"risk_tau": -1}, "contradicted (opposite)"),
    ("T2", {"lost": 0.3}, "supported"),
    ("T2", {"lost": 0.0}, "contradicted (equivalent)"),
    ("T2", {"lost": -0.3}, "contradicted (opposite)"),
    ("T3", {"opposed": 0.3}, "supported"),
    ("T3", {"opposed": 0.0}, "contradicted (equivalent)"),
    ("T3", {"opposed": -0.3}, "contradicted (opposite)"),
    ("T4", {"simulated": 0.2}, "supported"),
    ("T4", {"simulated": 0.0}, "contradicted (equivalent)"),
    ("T4", {"simulated": -0.2}, "contradicted (opposite)"),
    ("T5", {"brought": 0.2}, "supported"),
    ("T5", {"brought": 0.0}, "contradicted (equivalent)"),
    ("T5", {"brought": -0.2}, "contradicted (opposite)"),
    ("T6a", {"slope": 0.5}, "supported"),
    ("T6a", {"slope": 0.0}, "contradicted (equivalent)"),
    ("T6a", {"slope": -0.5}, "contradicted (opposite)"),
    *(
        (f"T6b-{arm}", {"flatter": size}, verdict)
        for arm in ("NCSAM", "SAM")
        for size, verdict in (
            (0.4, "supported"), (0.0, "contradicted (equivalent)"), (-0.4, "contradicted (opposite)")
        )
    ),
    *(
        (f"T7-{arm}", {"gain": size}, verdict)
        for arm in ("SAM", "SGD", "replay")
        for size, verdict in (
            (0.05, "supported"), (0.0, "contradicted (equivalent)"), (-0.05, "contradicted (opposite)")
        )
    ),
    ("T8", {"extra_drop": 0.0}, "supported"),
    ("T8", {"extra_drop": 0.1}, "contradicted (opposite)"),
    ("T9", {"error_tau": 1, "arms": MANY}, "supported"),
    ("T9", {"error_tau": -1, "arms": MANY}, "contradicted (opposite)"),
]  # fmt: skip
AT_M = {
    "lost": 0.1, "opposed": 0.1, "simulated": 0.1, "brought": 0.05, "slope": 0.1, "flatter": 0.1, "gain": 0.01,
    "extra_drop": 0.02,
}  # fmt: skip


@pytest.mark.parametrize(("statement", "effects", "expected"), CLEAR)
def test_a_clear_effect_decides(statement: str, effects: dict[str, Any], expected: str) -> None:
    assert of(judge(tuned(**effects)), statement) == expected


def test_the_clear_effects_are_of_every_statement_and_both_ways() -> None:
    for statement in IDS:
        assert {"supported", "contradicted"} <= {expected.split()[0] for s, _, expected in CLEAR if s == statement}


def test_effects_of_m_drowned_in_noise_are_undecided_nearly_always() -> None:
    found = [judge(tuned(seeds=3, spread=0.2, draw=draw, **AT_M)) for draw in range(5)]
    for statement in IDS:
        assert [of(verdicts, statement) for verdicts in found].count("undecided") >= 3, statement


def test_the_latest_version_judges_unless_another_is_asked_for() -> None:
    assert LATEST == 2
    study = table(gain=0.05, flatter=0.4)
    assert judge(study).version == 2
    assert judge(study).statements.tolist() == IDS
    assert judge(study, 1).version == 1
    assert len(judge(study, 1).statements) == 10
    assert set(describe(study).statement) <= set(IDS)


def test_every_version_but_the_latest_says_why_it_was_superseded() -> None:
    assert all(bool(v.superseded) == (v.number < LATEST) for v in VERSIONS.values())


def test_every_statement_says_what_the_paper_claims_why_this_endpoint_and_what_could_refute_it() -> None:
    for statement in VERSION.statements:
        for text in (statement.claim, statement.why, statement.control):
            assert text.endswith(".")
        assert VERSION[statement.id] is statement


def test_untuned_sam_is_no_opponent() -> None:
    found = judge(table(gain=0.05))
    assert of(found, "T7-SAM") == "undecided"
    assert "not tuned" in of(found, "T7-SAM", "note")
    assert of(found, "T7-SGD") == "supported"


def test_the_check_is_on_untuned_sgd() -> None:
    study = rows(gain=0.05, memorised=0.9)
    assert of(judge(table_of(study)), "T7-SGD") == "supported"
    tuning = [{**row, "name": f"t{row['name']}", "role": "tuning"} for row in study if row["arm"] == "sgd"]
    found = judge(table_of(study + tuning))
    assert of(found, "T7-SGD") == "undecided"
    assert "no arm 'sgd-untuned'" in str(found.check)
    plain = [{**row, "name": f"u{row['name']}", "arm": "sgd-untuned"} for row in study if row["arm"] == "sgd"]
    assert of(judge(table_of(study + tuning + plain)), "T7-SGD") == "supported"
    for row in plain:
        row["memorisation"] = 0.2
    assert of(judge(table_of(study + tuning + plain)), "T7-SGD") == "undecided"


def test_without_a_measurable_ceiling_nothing_is_said_of_the_noise_gradient() -> None:
    found = judge(table(ceiling=0.0, simulated=0.3, spread=0.01))
    for statement, name in (("T3", "early/noise_ceiling"), ("T4", "noise_ceiling")):
        assert of(found, statement).split()[0] in ("undecided", "not")
        assert name in of(found, statement, "note")


def test_a_curvature_that_has_no_logarithm_leaves_its_seed_out_and_says_so() -> None:
    study = rows(flatter=0.4)
    for row in study:
        if (row["arm"], row["seed"]) == ("sam", 3):
            row["adaptive_trace/clean_part"] = -0.1
    found = judge(table_of(study))
    assert of(found, "T6b-SAM", "pairs") == 9
    assert "seeds 3" in of(found, "T6b-SAM", "note")
    assert "left out" not in of(found, "T6b-NCSAM", "note")


def test_the_rotation_is_of_the_labels_alone_and_its_trend_needs_no_clean_anchor() -> None:
    study = rows(lost=0.3)
    for row in study:
        for name in ("cos_true_clean", "cos_sam_clean"):
            row[name] *= 1 - 0.5 * row["rate"]  # both fall alike: batches of fewer right labels
    found = judge(table_of(study))
    assert of(found, "T2", "estimate") == pytest.approx(0.3, abs=0.01)
    assert of(found, "T2", "test") == "Page"
    unturned = judge(table_of([{**row, "cos_sam_clean": row["cos_true_clean"]} for row in study]))
    assert of(unturned, "T2").startswith("contradicted")


def test_few_arms_say_little_however_much_they_agree() -> None:
    found = judge(tuned(error_tau=1))
    at = found.statements.tolist().index("T9")
    assert found.verdict[at] == "undecided"
    assert found.estimate[at] == pytest.approx(1.0)
    assert found.low[at] < 0.2
    assert np.isnan(found.p_value[at])
    described = describe(tuned(error_tau=1, spread=0.02))
    assert "partial τ, given the share of wrong labels fitted" in described.quantity.tolist()


def test_what_passes_through_sharpness_is_told_where_sam_ran_at_four_radii() -> None:
    assert not [q for q in describe(tuned()).quantity.tolist() if "log ρ" in q]
    study = rows()
    rng = np.random.default_rng(0)
    for row in [row for row in study if row["arm"] == "sam"]:
        for i, rho in enumerate((0.1, 0.2, 0.4)):
            sharp = np.exp(-0.5 * np.log(rho) + 0.1 * rng.normal())
            accuracy = 0.7 - 0.02 * np.log(sharp)
            study.append(
                {**row, "name": f"{row['name']}-{i}", "arm": f"sam-{i}", "optimizer": "sam", "options": {"rho": rho},
                 "adaptive_trace/clean_part": sharp, "test_accuracy": accuracy}
            )  # fmt: skip
        sharp = np.exp(-0.5 * np.log(0.05) + 0.1 * rng.normal())
        row |= {
            "options": {"rho": 0.05},
            "adaptive_trace/clean_part": sharp,
            "test_accuracy": 0.7 - 0.02 * np.log(sharp),
        }
    found = describe(table_of(study))
    told = {q: e for q, e in zip(found.quantity.tolist(), found.estimate.tolist(), strict=True) if "of this" in q}
    (through,) = [e for q, e in told.items() if "through" in q]
    assert through == pytest.approx(0.01, abs=0.002)  # 0.5 · 0.02
    assert told["of this otherwise"] == pytest.approx(0.0, abs=0.002)


def test_holm_counts_thirteen() -> None:
    found = judge(tuned(gain=0.05))
    assert found.family == len(IDS) == 13
    assert VERSION.seeds_needed == 10  # 2/2¹⁰ · 13 < 0.05 < 2/2⁹ · 13
    assert not found.preliminary[IDS.index("T7-SAM")]
    assert (found.p_holm >= found.p_value)[np.isfinite(found.p_value)].all()


def test_statements_of_a_version_have_one_id_each() -> None:
    for version in VERSIONS.values():
        ids = [s.id for s in version.statements]
        assert len(set(ids)) == len(ids)
    assert statements.EVERY_ARM == ""


def test_a_training_that_diverged_leaves_its_seed_out_and_that_is_said() -> None:
    """As plans promise; an infinite number is no effect either."""
    for bad in (math.nan, math.inf):
        changed = [dict(row) for row in rows(10, gain=0.05, flatter=0.3)]
        for row in changed:
            if (row["arm"], row["rate"], row["seed"]) == ("ncsam", 0.4, 3):
                row |= {"test_accuracy": math.nan, "adaptive_trace/clean_part": bad}
        found = judge(table_of(changed))
        for statement, verdict in (("T7-SGD", "supported"), ("T6b-NCSAM", "supported")):
            assert of(found, statement) == verdict
            assert of(found, statement, "pairs") == 9
            assert math.isfinite(float(of(found, statement, "low")))
            assert "left out, since a training there diverged or was not measured: seeds 3" in of(
                found, statement, "note"
            )
        assert "left out" not in of(found, "T6b-SAM", "note")
    fewer = judge(table_of([row for row in rows(10, gain=0.05) if row["rate"] == 0.4 or row["seed"] < 6]))
    assert (of(fewer, "T8", "pairs"), of(fewer, "T8", "note").count("left out")) == (6, 0)  # as was planned


def test_pages_test_says_of_how_many_seeds_it_is() -> None:
    found = judge(table_of([row for row in rows(10, lost=0.5) if row["rate"] == 0.4 or row["seed"] < 6]))
    assert (of(found, "T2", "pairs"), of(found, "T2", "test")) == (10, "Page")
    assert "Page's test is of the 6 seeds that have every rate" in of(found, "T2", "note")
    assert "Page" not in of(found, "T6a", "note")  # six of six


def test_an_early_phase_that_is_empty_does_not_ask_for_diagnostics_that_are_there() -> None:
    late = [
        {k.replace("early/", "late/"): v for k, v in row.items()} if row["arm"] == "ncsam" else row for row in rows(4)
    ]
    note = of(judge(table_of(late)), "T3", "note")
    assert "before the first diagnosed epoch" in note
    assert "under `[train]` of the sweep" not in note
    none = [{k: v for k, v in row.items() if "cos_" not in k and "ceiling" not in k} for row in rows(4)]
    assert "under `[train]` of the sweep" in of(judge(table_of(none)), "T3", "note")


def test_an_infinite_number_counts_as_not_measured_whatever_it_is_compared_with() -> None:
    """Else one infinite null would be the highest null of all seeds."""
    plain = rows(10, simulated=0.0)
    changed = [dict(row) for row in plain]
    for row in changed:
        if (row["arm"], row["rate"], row["seed"]) == ("ncsam", 0.4, 3):
            row["cos_star_clean"] = math.inf
    found = judge(table_of(changed))
    assert of(found, "T4", "estimate") == pytest.approx(of(judge(table_of(plain)), "T4", "estimate"), abs=0.01)
    for row in changed:
        if row["arm"] == "sam" and row["rate"] == 0.4:
            row["cos_true_clean"] = 0.0
    assert of(judge(table_of(changed)), "T2") == NOT_MEASURED


def test_t10_asks_for_the_curvature_of_samples_and_not_for_another_training() -> None:
    note = of(judge(table(), 3), "T10", "note")
    assert note.startswith("needs auc/curvature of sgd at 40% noise: `landscape blame` on its runs")
