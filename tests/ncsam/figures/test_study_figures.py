"""Figures of a study show what its table says, carry those numbers, and survive any name of an arm."""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from landscape import figures
from ncsam.figures import (
    against_noise,
    alignment,
    arms_at,
    bound_terms,
    forest,
    sharpness_against_error,
    sharpness_against_gap,
    sharpness_against_noise,
)
from ncsam.figures.against_noise import compared
from ncsam.figures.catalogue import figures_of_study
from ncsam.figures.style import symbols
from ncsam.records import Curves, Diagnostics
from ncsam.statistics import t_interval
from ncsam.study.arms import ARMS, family_of, printed
from ncsam.study.effects import CONTRAST_RATE
from ncsam.study.files import StudyFiles, curves_of
from ncsam.study.statements import VERSIONS
from ncsam.study.table import Study, studies, table_of
from ncsam.study.verdicts import judge
from tests.ncsam.study.folder import study_rows, write_folder

HOSTILE = r"_<b>$\frac$ &amp; %s"


def study(**extra: float) -> Study:
    rows = [{**row, **extra} for row in study_rows()]
    return studies(table_of(rows))[0]


@pytest.fixture(scope="module")
def curves() -> Curves:
    return curves_of(study())


def noted(made: figures.DataFigure, **where: object) -> list[dict]:
    return [point for point in made.points if all(point[k] == v for k, v in where.items())]


def test_lines_against_noise_are_the_means_and_intervals_of_the_seeds(curves: Curves) -> None:
    made = against_noise(curves, ("test_accuracy", "adaptive/mixed"))
    for arm in ("sgd", "sam", "ncsam"):
        points = noted(made, quantity="test_accuracy", arm=arm)
        assert [p["rate"] for p in points] == [0.0, 0.4]
        expected = t_interval(curves.of("test_accuracy", arm, 0.4))
        assert (points[1]["mean"], points[1]["low"]) == pytest.approx((expected.mean, expected.low))
        line = next(line for line in made.axes[0].lines if line.get_label() == printed(arm))
        np.testing.assert_array_equal(line.get_ydata(), [p["mean"] for p in points])


def test_arms_of_one_rate_are_set_beside_the_others_and_not_drawn_as_lines(curves: Curves) -> None:
    assert compared(curves) == ["sgd", "sam", "ncsam"]
    assert not noted(against_noise(curves, ("drop",)), arm="matched")
    made = arms_at(curves)
    (point,) = noted(made, arm="matched", quantity="test_accuracy")
    assert point["mean"] == pytest.approx(curves.of("test_accuracy", "matched", 0.4).mean())
    assert [label.get_text() for label in made.axes[0].get_yticklabels()] == [printed(arm) for arm in curves.arms]


def test_sharpness_has_a_row_a_measure_and_leaves_out_what_was_not_measured(curves: Curves) -> None:
    made = sharpness_against_noise(curves)
    assert {p["quantity"] for p in made.points} == {
        "adaptive/mixed", "top_eigenvalue/mixed", "adaptive_trace/clean_part",
    }  # fmt: skip
    assert len(made.axes) == 3 * 2
    bare = [{k: v for k, v in row.items() if not k.endswith(("/mixed", "/clean_part"))} for row in study_rows()]
    with pytest.raises(ValueError, match="holds no sharpness"):
        sharpness_against_noise(curves_of(studies(table_of(bare))[0]))


def test_the_gap_figure_states_the_tau_of_sharpness_and_gap(curves: Curves) -> None:
    made = sharpness_against_gap(curves)
    t9 = VERSIONS[1]["T9"]
    expected = t_interval(t9.contrasts["sharpness, gap"](study())).mean
    assert made.axes[0].get_title().startswith(f"τ = {expected:+.2f}")
    values = {(p["arm"], p["seed"]): (p["sharpness"], p["gap"]) for p in noted(made, measure="adaptive/mixed")}
    assert len(values) == 4 * 3
    assert values["sam", 1][1] == curves.of("gap", "sam", CONTRAST_RATE)[1]


def test_the_flatness_figure_states_what_t9_is_judged_by() -> None:
    traces = {"sgd": 4.0, "sam": 1.0, "ncsam": 2.0, "matched": 1.5}
    made_of = studies(
        table_of(
            [
                {
                    **row,
                    "test_error": 0.1 * traces[row["arm"]],
                    "adaptive_trace/clean_part": traces[row["arm"]] + row["seed"],
                }
                for row in study_rows()
            ]
        )
    )[0]
    verdicts = judge(made_of)
    at = verdicts.statements.tolist().index("T9")
    families = {arm: family_of(*made_of.optimizers[arm]) for arm in made_of.arms}
    made = sharpness_against_error(curves_of(made_of), CONTRAST_RATE, families)
    expected = f"τ = {verdicts.estimate[at]:+.2f} [{verdicts.low[at]:+.2f}, {verdicts.high[at]:+.2f}]"
    assert made.axes[0].get_title() == expected
    assert {p["test_error"] for p in noted(made, arm="sgd")} == {0.4}
    with pytest.raises(ValueError, match="no tr DHD"):
        sharpness_against_error(curves_of(study(**{"adaptive_trace/clean_part": np.nan})))


def test_an_arm_without_perturbation_is_a_zero_beside_the_logarithmic_axis(curves: Curves) -> None:
    ax = next(ax for ax in arms_at(curves).axes if ax.get_xlabel() == "realised ‖ε‖")
    assert [(text.get_text(), text.get_position()[1]) for text in ax.texts] == [
        ("0", curves.arms.tolist().index("sgd"))
    ]


def test_a_study_without_any_perturbation_has_no_figure_of_radii() -> None:
    plain = studies(table_of([row for row in study_rows() if row["arm"] == "sgd"]))[0]
    assert "radius" in figures_of_study(study())
    assert "radius" not in figures_of_study(plain)


def test_bound_terms_are_drawn_for_each_compared_arm_and_refused_where_not_measured(curves: Curves) -> None:
    terms = {f"bound/error/{term}": 2.0 for term in ("neighbourhood", "sampling", "complexity")}
    made = bound_terms(curves_of(study(**terms)))
    assert len(made.axes) == 3
    assert {p["mean"] for p in noted(made, term="sampling")} == {2.0}
    bare = studies(table_of([{k: v for k, v in r.items() if "bound" not in k} for r in study_rows()]))[0]
    with pytest.raises(ValueError, match="bound was not measured"):
        bound_terms(curves_of(bare))


def test_the_forest_has_a_row_a_statement_with_its_own_interval() -> None:
    verdicts = judge(study())
    made = forest(verdicts)
    assert [p["statement"] for p in made.points] == verdicts.statements.tolist()
    at = verdicts.statements.tolist().index("T7-SGD")
    assert made.points[at]["low"] == verdicts.low[at]
    assert len(made.axes) == len(VERSIONS[2].statements)
    ax = made.axes[at]
    assert "(points of" in ax.get_ylabel().replace("\n", " ")
    shown = [float(ax.xaxis.get_major_formatter()(place).replace("−", "-")) for place in ax.get_xticks()]
    assert shown == pytest.approx([100 * place for place in ax.get_xticks()])


def test_alignment_is_the_mean_over_seeds_and_needs_its_arm(tmp_path: Path) -> None:
    files = StudyFiles(write_folder(tmp_path / "study", study_rows()))
    (only,) = studies(files.table)
    records = files.records(only, "diagnostics/training", Diagnostics, ["sgd", "ncsam"], 0.4)
    made = alignment({"40 %": records}, warmup=1)
    points = noted(made, quantity="cos_star_noise")
    assert [p["mean"] for p in points] == pytest.approx([0.35] * 4)  # 0.25, 0.35 and 0.45 of the three seeds
    ceiling = noted(made, quantity="noise_ceiling")[0]["mean"]
    assert ceiling == pytest.approx(np.mean([2 * h / (1 + h) for h in (0.25, 0.35, 0.45)]))
    with pytest.raises(ValueError, match="no diagnostics of sam"):
        alignment({"40 %": records}, arm="sam")
    assert list(figures_of_study(only, files))[:3] == ["verdicts", "by_measure", "radius"]
    assert {"training", "controls", "alignment"} <= set(figures_of_study(only, files))
    assert not {"training", "controls", "alignment"} & set(figures_of_study(only))


def test_a_symbol_is_the_same_in_every_figure_and_no_two_arms_share_one() -> None:
    names = [*(f"mine{n}" for n in range(9)), "ncsam", "sam", "sgd", "matched", "oracle", "sam-rho0.2", "sam-rho0.4"]
    found = symbols(names)
    drawn = [(s.colour, s.marker, s.dash, s.filled) for s in found.values()]
    assert len(set(drawn)) == len(names)
    assert found["sam"] == symbols(["sam"])["sam"] == symbols(["SAM"])["SAM"]
    assert found["sam-rho0.2"].name == "SAM, ρ = 0.2"


def _lightness(colour: object) -> float:
    """CIE L*, from 0 to 100: what is left of a colour in greyscale."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    y = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def test_arms_are_told_apart_without_colours() -> None:
    assert len({(arm.marker, arm.filled) for arm in ARMS.values()}) == len(ARMS)
    for one, other in itertools.combinations(ARMS.values(), 2):
        assert one.dash != other.dash or abs(_lightness(one.colour) - _lightness(other.colour)) > 9, (one, other)
    assert len({arm.name for arm in ARMS.values()}) == len({arm.colour for arm in ARMS.values()}) == len(ARMS)


def test_an_arm_has_its_symbol_in_every_figure_of_a_study(tmp_path: Path) -> None:
    files = StudyFiles(write_folder(tmp_path / "study", study_rows()))
    drawn = figures_of_study(studies(files.table)[0], files)
    seen: dict[str, set[str]] = {}
    for name in ("radius", "against_noise", "sharpness", "arms", "gap", "training", "controls"):
        made = drawn[name]()
        for ax in made.axes:
            names = [label.get_text() for label in ax.get_yticklabels()] if name == "arms" else []
            for line in ax.lines:
                place = line.get_ydata()[0]
                label = line.get_label()
                if names and len(line.get_ydata()) == 1:
                    label = names[round(place)]
                seen.setdefault(label, set()).add(to_hex(line.get_color()))
            if name == "controls":
                seen.setdefault(ax.get_title(), set()).add(to_hex(ax.title.get_color()))
    for key in ("sgd", "sam", "ncsam", "matched"):
        assert seen[ARMS[key].name] == {ARMS[key].colour.lower()}, key


def test_any_name_of_an_arm_is_drawn_as_it_is_written() -> None:
    rows = [{**row, "arm": HOSTILE if row["arm"] == "sam" else row["arm"]} for row in study_rows()]
    hostile = curves_of(studies(table_of(rows))[0])
    for made in (against_noise(hostile, ("drop",)), arms_at(hostile), sharpness_against_gap(hostile)):
        made.draw_without_rendering()
        assert any(point["arm"] == HOSTILE for point in made.points)
    legend = against_noise(hostile, ("drop",)).legends[0]
    assert len(legend.get_texts()) == 3


def test_the_numbers_of_a_figure_are_written_beside_it_in_full(curves: Curves, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    made = arms_at(curves)
    path = figures.save_data(made, tmp_path / "arms")
    assert path == tmp_path / "arms.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mean"]) for row in rows] == [p["mean"] for p in made.points]
    assert figures.save_data(figures.DataFigure(), tmp_path / "empty") is None
    assert [p.name for p in tmp_path.iterdir()] == ["arms.csv"]
    assert dict(mpl.rcParams) == before


def test_the_page_on_figures_names_those_that_there_are_and_its_example_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "report.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = {name for line in rows for name in re.findall(r"`([^`]+)`", line.split("|")[1])}
    extra = {f"bound/error/{term}": 2.0 for term in ("total", "neighbourhood", "sampling", "complexity")}
    files = StudyFiles(write_folder(tmp_path / "study", [{**row, **extra} for row in study_rows()]))
    assert set(figures_of_study(studies(files.table)[0], files)) <= named
    example = text.split("```python")[1].split("```")[0]
    exec(compile(example, "docs/report.md", "exec"), {})
    assert capsys.readouterr().out.strip() == example.split("# ")[1].splitlines()[0].strip()
