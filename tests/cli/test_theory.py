"""``landscape diagnose`` and ``landscape theory``: what they print, in which form, and what they refuse."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from landscape import store
from landscape_cli.main import run as landscape
from landscape_cli.shared.verdict_tables import show_comparison
from ncsam.records import CellTable
from ncsam.runs.run import Run
from ncsam.study.files import collect, write_study
from ncsam.study.statements import VERSIONS
from ncsam.study.table import Study
from ncsam.study.verdicts import judge, studies_of
from tests.ncsam.study.folder import study_rows, write_folder
from tests.ncsam.study.synthetic import table

KEYS = {
    "id", "text", "endpoint", "verdict", "note", "contrast", "test", "estimate", "low", "high", "smallest_effect",
    "p_value", "p_holm", "seeds", "runs", "preliminary",
}  # fmt: skip


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("diagnosed") / "run.h5"
    train = ["train", "--epochs", "3", "--optimizer", "sam", "--weight-decay", "0", "--quiet", "--out", str(path)]
    assert landscape(train) == 0
    return path


@pytest.fixture
def study_file(run_file: Path, tmp_path: Path) -> Path:
    write_study(table(gain=0.05, opposing=0.3), tmp_path / "study.h5", [Run(run_file)])
    return tmp_path / "study.h5"


def test_diagnose_prints_and_stores_gradients_and_bound(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copy(run_file, tmp_path / "run.h5"))
    assert landscape(["diagnose", str(copy), "--batches", "2", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "over 2 batches of 128 at fixed weights" in printed
    assert "cos_star_noise" in printed
    assert landscape(["diagnose", str(copy), "--bound", "--steps", "2", "--restarts", "1", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "vacuous by a factor of" in printed
    assert "by its complexity term" in printed
    assert "lower estimate" in printed
    assert "assumption violated" not in printed
    assert {"diagnostics/default", "diagnostics/bound"} <= set(Run(copy).names)
    assert landscape(["verify", str(copy)]) == 0


def test_diagnose_as_json_and_with_other_labels(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copy(run_file, tmp_path / "run.h5"))
    arguments = [
        "diagnose",
        str(copy),
        "--noise",
        "pair:0.3",
        "--name",
        "pair",
        "--no-full",
        "--batches",
        "1",
        "--json",
    ]
    assert landscape(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["noise"], found["relabelled"]) == ("diagnostics", "pair:0.3", True)
    assert found["low"][0][0] is None  # one batch has no interval


def test_theory_judges_a_study_file_as_the_library_does(study_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape(["theory", str(study_file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "theory"
    (study,) = found["studies"]
    assert set(study) == {
        "data", "model", "noise", "level", "family", "check", "joint", "version", "seeds_needed", "statements",
        "secondary",
    }  # fmt: skip
    assert all(set(statement) == KEYS for statement in study["statements"])
    assert all(set(row) == {"statement", "quantity", "estimate", "low", "high", "seeds"} for row in study["secondary"])
    expected = judge(table(gain=0.05, opposing=0.3))
    assert [s["verdict"] for s in study["statements"]] == expected.verdict.tolist()
    np.testing.assert_allclose([s["estimate"] for s in study["statements"]], expected.estimate)
    assert landscape(["verify", str(study_file)]) == 0


def test_theory_prints_every_statement_its_endpoint_and_the_joint_reading(
    study_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert landscape(["theory", str(study_file), "--secondary"]) == 0
    printed = capsys.readouterr().out
    for name in (statement.id for statement in VERSIONS[2].statements):
        assert f"\n{name} " in printed
        assert f"\n{name}: " in printed
    assert "T3-T5 together" in printed
    assert "NCSAM - matched" in printed
    assert "Theorem 1, 0-1 error" in printed


def test_theory_judges_by_the_version_that_is_asked_for(study_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape(["theory", str(study_file), "--statements", "1", "--json"]) == 0
    (study,) = json.loads(capsys.readouterr().out)["studies"]
    assert study["version"] == 1
    assert [s["verdict"] for s in study["statements"]] == judge(table(gain=0.05, opposing=0.3), 1).verdict.tolist()


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_theory_prints_what_is_asked_for_in_every_form(
    form: str, study_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The notes, too: an undecided verdict without its reason says nothing."""
    assert landscape(["theory", str(study_file), f"--{form}", "--secondary", "--by-measure"]) == 0
    printed = capsys.readouterr().out
    for told in (
        "SAM was not tuned here",
        "T3-T5 together",
        "Check: plain SGD",
        "tr DHD (declared)",
        "NCSAM - matched",
    ):
        assert told in printed, told
    assert printed.count(r"\begin{tabular}" if form == "latex" else "\n| --- ") == 4
    if form == "latex":
        tables = [line for line in printed.splitlines() if not line.startswith("%")]
        assert not re.search(r"(?<![\w$-])-\d", "\n".join(tables))  # a hyphen is no minus
        assert "".join(tables).isascii()


def test_theory_shows_sharpness_by_measure(study_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape(["theory", str(study_file), "--by-measure"]) == 0
    printed = capsys.readouterr().out
    assert "tr DHD (declared)" in printed
    assert "adaptive sharpness" in printed
    assert landscape(["theory", str(study_file), "--by-measure", "--json"]) == 0
    (study,) = json.loads(capsys.readouterr().out)["studies"]
    declared = [row for row in study["by_measure"] if row["primary"]]
    verdicts = {s["id"]: s["verdict"] for s in study["statements"]}
    assert {row["statement"]: row["verdict"] for row in declared} == {
        name: verdicts[name] for name in ("T6a", "T6b-NCSAM", "T6b-SAM", "T9")
    }


def test_theory_as_markdown_and_latex(study_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape(["theory", str(study_file), "--markdown"]) == 0
    verdicts, _, accuracies = capsys.readouterr().out.partition("\n|  | symmetric:0 |")
    rows = [line for line in verdicts.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(VERSIONS[2].statements)
    assert len({line.count("|") for line in rows}) == 1
    assert "| NCSAM | " in accuracies
    assert "mean ± standard deviation" in accuracies
    assert landscape(["theory", str(study_file), "--latex"]) == 0
    latex = capsys.readouterr().out
    assert latex.count(r"\begin{tabular}") == 2
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(VERSIONS[2].statements)
    assert all(line.endswith(r"\\") and line.count(" & ") == 9 for line in body)
    assert not [c for c in "\n".join(body) if ord(c) > 127]


def test_theory_reads_run_files_and_folders_of_them(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep" / "runs").mkdir(parents=True)
    shutil.copy(run_file, tmp_path / "sweep" / "runs" / "sam.h5")
    assert landscape(["theory", str(tmp_path / "sweep"), "--json", "--quiet"]) == 0
    (study,) = json.loads(capsys.readouterr().out)["studies"]
    assert (study["data"], study["model"], study["noise"]) == ("digits", "mlp", "symmetric")
    assert {s["verdict"] for s in study["statements"]} == {"not measured"}
    assert study["statements"][6]["p_value"] is None


def test_the_folder_of_a_sweep_is_judged_with_its_tuning_as_its_study_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuning is known to the study file alone; without it T7 says that SAM was not tuned, and decides otherwise."""
    rows = study_rows()
    of_sam = [row for row in rows if row["arm"] == "sam"]
    tuning = [{**row, "role": "tuning", "name": f"tuning-{row['name']}", "seed": row["seed"] + 50} for row in of_sam]
    folder = write_folder(tmp_path / "tuned", [*rows, *tuning])
    for run in (folder / "runs").glob("tuning-*"):
        run.unlink()
    judged: list[Study] = []

    def seen(source: CellTable | Study) -> list[Study]:
        found = studies_of(source)
        judged.extend(found if isinstance(source, CellTable) else [])
        return found

    monkeypatch.setattr("ncsam.study.verdicts.studies_of", seen)
    for named in (folder, folder / "study.h5"):
        assert landscape(["theory", str(named), "--json", "--quiet"]) == 0
    of_folder, of_file = judged
    assert of_folder.tuned == of_file.tuned == {"sam"}
    assert (sorted(of_folder.arms), of_folder.seeds) == (sorted(of_file.arms), of_file.seeds)


def test_the_study_file_of_another_sweep_does_not_stand_for_the_runs_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "mine", study_rows())
    renamed = [{**row, "name": f"x-{row['name']}", "data": "other"} for row in study_rows()]
    of_same_names = [{**row, "data": "other"} for row in study_rows()]
    for i, other in enumerate((renamed, of_same_names)):
        (write_folder(tmp_path / f"other{i}", other, runs=False) / "study.h5").replace(folder / "study.h5")
        assert landscape(["theory", str(folder), "--quiet"]) == 2
        said = capsys.readouterr()
        assert "study.h5: is of other runs than" in said.err
        assert not said.out
    assert "has data other, the file there" in said.err


def test_a_study_file_is_written_from_runs(run_file: Path, tmp_path: Path) -> None:
    write_study(collect([run_file]), tmp_path / "study.h5", [Run(run_file)])
    with store.open(tmp_path / "study.h5") as file:
        assert {"cells", "curves", "verdicts"} <= set(file.names())
        cells = file.record("cells")
    assert cells.arm.tolist() == ["sam"]
    assert (cells.noise.tolist(), cells.rate.tolist(), cells.role.tolist()) == (["symmetric"], [0.4], ["reported"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["theory", "missing.h5"], "missing.h5: there is no such file"),
        (["theory", "empty"], "holds no run files"),
        (["theory", "rows"], "holds no run files (*.h5); of rows make a study with `landscape sweep --plan"),
        (["theory", "study.h5", "--json", "--latex"], "exclude each other"),
        (["theory", "study.h5", "study.h5"], "a second run of arm"),
        (["theory"], "Missing argument 'STUDY...'"),
        (["diagnose", "study.h5"], "is a study file, expected a run"),
        (["diagnose", "run.h5", "--noise", "symetric:0.2"], "did you mean 'symmetric'"),
        (["diagnose", "run.h5", "--checkpoints", "99"], "no weights of epoch 99"),
        (["diagnose", "run.h5", "--batches", "0"], "0 is not in the range"),
        (["diagnose", "run.h5", "--bound", "--rho", "0"], "rho is 0"),
        (["diagnose", "run.h5", "--bound", "--clip", "-1"], "-1 is not in the range"),
        (["diagnose", "run.h5", "--bound", "--noise", "pair:0.2"], "leave --noise out"),
    ],
    ids=lambda v: " ".join(v)[:50] if isinstance(v, list) else "",
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], message: str, run_file: Path, study_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copy(run_file, tmp_path / "run.h5")
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "sgd-symmetric-0.4-seed0.json").write_text("{}")
    before = {p.name for p in tmp_path.iterdir()}
    assert landscape([*arguments, *(["--quiet"] if len(arguments) > 1 else [])]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert message in lines[0]
    assert {p.name for p in tmp_path.iterdir()} == before


def test_a_study_without_curvature_is_drawn_and_compared_by_what_it_has(study_file: Path, tmp_path: Path) -> None:
    assert (
        landscape(["figure", str(study_file), "--out", str(tmp_path / "figures"), "--formats", "png", "--quiet"]) == 0
    )
    assert (tmp_path / "figures" / "against_noise.png").stat().st_size > 1000
    with store.open(study_file) as file:
        compared = show_comparison(file.record("curves"))
    assert "matched" in compared
    assert "λ1" not in compared


def theory_told(folder: Path, capsys: pytest.CaptureFixture[str], runs: list[tuple[str, str, list[str]]]) -> str:
    """Train short runs, each an arm, a seed and further options, and return what the command says beside its table."""
    train = ["train", "--train-samples", "100", "--quiet", "--noise", "symmetric:0.4"]
    for arm, seed, more in runs:
        out = str(folder / f"{arm}{seed}.h5")
        assert landscape([*train, "--optimizer", arm, *more, "--seed", seed, "--out", out]) == 0
    capsys.readouterr()
    assert landscape(["theory", str(folder), "--quiet"]) == 0
    return capsys.readouterr().err


def test_runs_that_are_not_paired_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sgd, sam = ["--epochs", "2"], ["--epochs", "3", "--seed-order", "7"]
    runs = [(arm, seed, more) for arm, more in (("sgd", sgd), ("sam", sam)) for seed in ("0", "1")]
    told = theory_told(tmp_path, capsys, runs)
    assert "runs of one seed differ in epochs, " in told
    assert "seed of the order" in told


def test_runs_of_one_arm_with_other_settings_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two radii of SAM in one folder would be one arm of two seeds."""
    short = ["--epochs", "2"]
    runs = [("sgd", "0", short), ("sgd", "1", short), ("sam", "0", short)]
    told = theory_told(tmp_path, capsys, [*runs, ("sam", "1", [*short, "--rho", "0.5", "--lr", "0.01"])])
    assert "runs of the arm sam at one noise rate differ in lr, rho, and count as one arm" in told
    assert "arm sgd" not in told
