"""The report in words: every contrast is told, what is missing says by which command it is measured."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ncsam.figures.catalogue import figures_of_study
from ncsam.report import html, page, prose
from ncsam.report.captions import CAPTIONS
from ncsam.study.files import StudyFiles
from ncsam.study.radius_control import radius_control
from ncsam.study.statements import VERSIONS
from ncsam.study.table import Study, studies, table_of
from ncsam.study.verdicts import NOT_MEASURED, contrasts_of, judge
from tests.ncsam.study.folder import study_rows, write_folder

SHARPNESS = "adaptive/mixed"


def study(rows: list[dict[str, Any]]) -> Study:
    return studies(table_of(rows))[0]


def with_sharpness(**of: float) -> list[dict[str, Any]]:
    """The rows with an adaptive sharpness that differs a little between seeds, by arm."""
    return [{**row, SHARPNESS: of.get(row["arm"], row[SHARPNESS]) * (1 + 0.001 * row["seed"])} for row in study_rows(4)]


def answer_to(rows: list[dict[str, Any]], statement: str, version: int = 1) -> prose.Answer:
    made = study(rows)
    return next(a for a in prose.answers(made, judge(made, version), None) if a.statement == statement)


def test_an_answer_about_two_arms_says_each_ones_own_result() -> None:
    found = answer_to(with_sharpness(sgd=1.0, sam=0.5, ncsam=2.0), "T6b")
    assert found.answer == "Not of both (NCSAM: no, the opposite; SAM: yes) (preliminary)."
    assert re.search(r"−100\.\d % of SGD’s \(NCSAM\)", found.because)
    assert re.search(r"\+50\.\d % of SGD’s \(SAM\)", found.because)
    assert answer_to(with_sharpness(sgd=1.0, sam=0.5, ncsam=0.5), "T6b").answer == "Yes (NCSAM and SAM) (preliminary)."
    both = answer_to(with_sharpness(sgd=1.0, sam=2.0, ncsam=2.0), "T6b").answer
    assert both == "No, the opposite (NCSAM and SAM) (preliminary)."


def test_the_contrasts_alone_give_the_verdict_of_the_one_that_decides() -> None:
    made = study(with_sharpness(sgd=1.0, sam=0.5, ncsam=2.0))
    verdicts = judge(made, 1)
    for i, statement in enumerate(VERSIONS[1].statements):
        found = {c.name: c for c in contrasts_of(statement, made)}
        assert list(found) == list(statement.contrasts)
        if verdicts.verdict[i] != NOT_MEASURED:
            assert found[str(verdicts.contrast[i])].interval.mean == verdicts.estimate[i]


def test_every_statement_with_a_question_is_answered_in_its_own_unit() -> None:
    made = study([{**row, "test_error": 1 - row["test_accuracy"]} for row in study_rows(4)])
    for version in VERSIONS.values():
        found = {a.statement: a for a in prose.answers(made, judge(made, version.number), None)}
        assert {s.id for s in version.statements if s.question} <= set(found)
    assert re.search(r"[+−]\d+\.\d points of accuracy \(NCSAM - SGD\)", found["T7-SGD"].because)


@pytest.mark.parametrize(
    ("excess", "answer"),
    [
        ({"ncsam": (-0.03, -0.01)}, "No (worse: NCSAM)."),
        ({"ncsam": (0.01, 0.02)}, "Yes (better: NCSAM)."),
        ({"ncsam": (-0.01, 0.01)}, "Not shown (not told apart: NCSAM)."),
        (
            {"ncsam": (0.01, 0.02), "ncsam-unprojected": (-0.3, -0.2)},
            "In part (better: NCSAM; worse: NCSAM, unprojected).",
        ),
        ({"ncsam": (-0.2, -0.1), "ncsam-unprojected": (-0.3, -0.2)}, "No (worse: NCSAM and NCSAM, unprojected)."),
        ({"ncsam": (np.nan, np.nan)}, "Not measured."),
    ],
)  # fmt: skip
def test_an_answer_about_variants_names_those_it_rests_on(excess: dict[str, tuple[float, float]], answer: str) -> None:
    made = study(study_rows(4))
    control = radius_control(made)
    arms = list(excess)
    base = {f.name: getattr(control, f.name) for f in dataclasses.fields(control)}
    at = [control.arms.tolist().index("ncsam")] * len(arms)
    columns = {k: v[at] for k, v in base.items() if isinstance(v, np.ndarray)}
    columns |= {"arms": np.array(arms), "family": np.array(["NCSAM", "NCSAM, unprojected"][: len(arms)])}
    columns |= {
        "excess": np.array([np.mean(e) for e in excess.values()]),
        "excess_low": np.array([e[0] for e in excess.values()]),
        "excess_high": np.array([e[1] for e in excess.values()]),
    }
    found = next(
        a for a in prose.answers(made, judge(made), dataclasses.replace(control, **columns)) if "as large" in a.question
    )
    assert found.answer == answer


def test_what_was_not_measured_says_the_command_that_measures_it() -> None:
    rows = [{k: v for k, v in row.items() if "bound" not in k and "cos_" not in k} for row in study_rows()]
    made = study(rows)
    verdicts = judge(made)
    notes = {str(s): str(n) for s, n in zip(verdicts.statements, verdicts.note, strict=True)}
    assert "`landscape diagnose --bound`" in notes["T1"]
    for statement in ("T2", "T3", "T4", "T5"):
        assert "`landscape train --diagnose 8`" in notes[statement]
    text = " ".join(prose.limits(made, verdicts))
    assert "`landscape diagnose --bound`" in text


def test_text_in_backticks_is_code_in_the_page_and_all_else_is_escaped() -> None:
    assert html.code("use `a < b` & <i>") == "use <code>a &lt; b</code> &amp; &lt;i&gt;"


def test_the_page_has_no_backtick_and_its_wide_parts_show_that_they_scroll(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if "bound" not in k and "cos_" not in k} for row in study_rows()]
    text = page.report(StudyFiles(write_folder(tmp_path / "mine", rows, runs=False)))
    assert "`" not in re.sub(r'(src|href)="data:[^"]*"', "", text)
    assert "<code>landscape diagnose --bound</code>" in text
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert re.search(r"\.wide \{[^}]*overflow-x: auto[^}]*background-attachment: local", style)
    assert ".wide::-webkit-scrollbar-thumb" in style
    phone = style.partition("@media (max-width: 44rem)")[2].partition("@media print")[0]
    assert 'content: "wider than the page' in phone
    assert text.count('class="wide picture"') == text.count("<figure") > 3


def test_every_figure_of_a_study_has_its_caption_in_the_one_table(tmp_path: Path) -> None:
    extra = {f"bound/error/{term}": 2.0 for term in ("total", "neighbourhood", "sampling", "complexity", "risk")}
    files = StudyFiles(write_folder(tmp_path / "mine", [{**row, **extra} for row in study_rows()]))
    made = studies(files.table)[0]
    assert set(figures_of_study(made, files)) <= set(CAPTIONS)
    assert all(c.title and c.text(made).endswith(".") for c in CAPTIONS.values())


def test_perfect_compensation_is_compared_with_sam_of_its_own_radius() -> None:
    """Its ρ is the published one; a tuned SAM may have one six times as large."""
    rows = [row for row in study_rows(4, controls=("clean-part-direction",)) if row["rate"] == 0.4]
    radius = {"sgd": 0.0, "sam": 0.3, "ncsam": 0.05, "clean-part-direction": 0.1}
    reached = {"sgd": 0.30, "sam": 0.60, "ncsam": 0.35, "clean-part-direction": 0.45}
    for row in rows:
        row |= {"perturbation_norm": radius[row["arm"]], "test_accuracy": reached[row["arm"]]}
        row["options"] = {"rho": 0.3} if row["arm"] == "sam" else {}
    made = study(rows)
    (told,) = [text for text in prose.rivals(made, radius_control(made)) if text.startswith("No compensation")]
    assert told.endswith("Over SAM of the same ‖ε‖: clean-part direction +5.0 [+5.0, +5.0] points of accuracy.")
