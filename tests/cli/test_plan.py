"""``landscape plan``, and the sweep and the verdicts that follow one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from landscape_cli.main import run as landscape
from ncsam.runs.run import Run

SWEEP = """
seeds = 2
noise = ["symmetric:0.4"]
[train]
epochs = 1
train_samples = 100
[[arms]]
optimizer = "sgd"
[[arms]]
optimizer = "sam"
rho = [0.05, 0.2]
[plan]
exclusions = ["runs whose loss is not finite"]
pilots = [{ name = "one seed", looked_at = "memorisation" }]
[plan.sd]
T7 = 0.008
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("sweep.toml").write_text(SWEEP)
    assert landscape(["plan", "sweep.toml", "--out", "plan.json"]) == 0
    shown = capsys.readouterr().out
    content = json.loads(Path("plan.json").read_text())
    assert f"plan.json: {content['created']}, SHA-256 {content['sha256']}" in shown
    assert "pilot: one seed; looked at: memorisation" in shown
    assert "exclusion: runs whose loss is not finite" in shown
    return Path("plan.json")


def test_a_plan_is_checked(plan: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert landscape(["plan", "--check", str(plan)]) == 0
    assert landscape(["plan", "sweep.toml", "--out", str(plan)]) == 2
    assert "the file exists" in capsys.readouterr().err
    monkeypatch.setattr("ncsam.sweep.plan.changes_since", lambda plan: ["lr is 1, planned 2", "rho is gone"])
    assert landscape(["plan", "--check", str(plan)]) == 1
    err = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("landscape: error: ") for line in err] == [
        "lr is 1, planned 2",
        "rho is gone",
        "plan.json: this version would not do what the plan says",
    ]
    assert landscape(["sweep", "--plan", str(plan), "--dry-run"]) == 2
    assert "would not follow the plan: lr is 1, planned 2 and 1 more" in capsys.readouterr().err


def test_a_changed_plan_is_refused_by_every_command(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.write_text(plan.read_text().replace('"looked_at": "memorisation"', '"looked_at": "nothing"'))
    for words in (["plan", "--check", str(plan)], ["sweep", "--plan", str(plan), "--out", "out"]):
        assert landscape(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "it was changed after it was drawn up" in line
    assert not Path("out").exists()


def test_options_that_would_change_the_plan_are_refused_in_a_line_each(
    plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["--epochs", "3", "--rho", "0.1", "--noise", "symmetric:0.2", "--measure", "line", "--seeds", "2"]
    assert landscape(["sweep", "--plan", str(plan), *changes, "--out", "out"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 4  # the number of seeds is that of the plan
    for line, option in zip(err, ["--noise symmetric:0.2", "--rho 0.1", "--epochs 3", "--measure line"], strict=False):
        assert line.startswith("landscape: error: --")
        assert any(option in other for other in err)
    assert not Path("out").exists()
    for other in (["--preset", "demo"], ["--config", "sweep.toml"]):
        assert landscape(["sweep", "--plan", str(plan), *other, "--out", "out"]) == 2
        assert "a plan contains its sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a SWEEP.toml, a --preset, or a plan to --check"),
        (["sweep.toml", "--preset", "demo"], "give a SWEEP.toml, a --preset"),
        (["--preset", "dmeo"], "did you mean 'demo'"),
        (["nowhere.toml"], "no such file"),
        (["--check", "nowhere.json"], "no such file"),
        (["--preset", "demo", "--statements", "99"], "statements of version 99"),
    ],
)
def test_bad_requests_are_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert landscape(["plan", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_a_planned_sweep_with_rows_and_what_its_verdicts_say(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["sweep", "--plan", str(plan), "--rows", "rows", "--workers", "1", "--quiet"]
    assert landscape([*sweep, "--out", "out"]) == 0
    sha = json.loads(plan.read_text())["sha256"]
    assert {Run(path).attrs["plan"] for path in Path("out/runs").iterdir()} == {sha}
    assert landscape([*sweep, "--out", "again"]) == 0
    assert not list(Path("again/runs").iterdir())
    assert Path("again/table.csv").read_bytes() == Path("out/table.csv").read_bytes()
    capsys.readouterr()
    assert landscape(["sweep", "--status", "again", "--rows", "rows"]) == 0
    assert "again: 6 of 6 runs complete" in capsys.readouterr().out
    for study in ("out", "again", "out/study.h5"):
        assert landscape(["theory", study, "--plan", str(plan), "--quiet"]) == 0
        assert f"plan followed\nplan.json: SHA-256 {sha}" in capsys.readouterr().out
    Path("out/study.h5").unlink()
    Path("out/runs/sgd-symmetric-0.4-seed1.h5").unlink()
    assert landscape(["theory", "out", "--plan", str(plan), "--quiet"]) == 0
    assert "deviation from the plan: missing: sgd at symmetric:0.4, seed 1\n" in capsys.readouterr().out
    assert landscape(["theory", "out", "--plan", str(plan), "--quiet", "--json"]) == 0
    followed = json.loads(capsys.readouterr().out)["plan"]
    assert followed == {"sha256": sha, "deviations": ["missing: sgd at symmetric:0.4, seed 1"]}


def test_rows_that_are_a_file_are_refused(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows").write_text("")
    assert landscape(["sweep", "--plan", str(plan), "--out", "out", "--rows", "rows"]) == 2
    assert "rows is a file, expected a folder" in capsys.readouterr().err
    assert not Path("out").exists()
