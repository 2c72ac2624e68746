"""Rows as they come: what one machine has done, another need not do again."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from landscape import store
from ncsam.runs.run import Run
from ncsam.study.endpoints import row_of
from ncsam.study.table import rows_of
from ncsam.sweep import Cell, Rows, SweepFolder, draw_up
from ncsam.sweep.canonical import digest
from ncsam.sweep.rows import Row
from ncsam.sweep.tuning import validation_accuracy
from ncsam.training.config import TrainConfig
from tests.ncsam.sweep.small import SMALL, Here, sweep

CONFIG = TrainConfig(optimizer="sam", epochs=1, train_samples=100, test_samples=50)


def cell(**changes: Any) -> Cell:
    return dataclasses.replace(Cell("one", "sam", CONFIG), **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = cell().path(tmp_path_factory.mktemp("run"))
    cell().run(path)
    return Run(path)


@pytest.fixture
def rows(run: Run, tmp_path: Path) -> Rows:
    found = Rows(tmp_path / "rows")
    found.note(cell(), run.path)
    return found


def change(path: Path, **changes: Any) -> None:
    """Change a row and seal it anew, so that what is wrong with it is not its seal."""
    content = {**json.loads(path.read_text()), **changes}
    content.pop("sha256")
    path.write_text(json.dumps({**content, "sha256": digest(content)}))


def edit(path: Path) -> None:
    """Change one number by hand."""
    content = json.loads(path.read_text())
    content["row"]["test_accuracy"] += 0.01
    path.write_text(json.dumps(content))


def test_a_row_holds_the_tables_row_and_how_it_came_about(run: Run, rows: Rows) -> None:
    row = rows.of(cell())
    assert row is not None
    expected = row_of(run)
    assert list(row.row) == list(expected)  # the order is that of the table's columns
    for key, value in expected.items():
        assert row.row[key] == value or (np.isnan(row.row[key]) and np.isnan(value))
    assert row.validation_accuracy == validation_accuracy(run)
    assert row.attrs["versions"] == run.attrs["versions"]
    assert row.attrs["data_hash"] == run.attrs["data_hash"]
    assert row.seconds["training"] == run.attrs["training_seconds"] > 0
    assert "command" not in row.attrs  # paths of a machine are of no use on another
    assert [path.name for path in rows.folder.iterdir()] == ["one.json"]


def test_numbers_that_are_not_finite_come_back(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**row_of(run), "drop": np.inf, "gap": -np.inf, "memorisation": np.nan}
    monkeypatch.setattr("ncsam.sweep.rows.row_of", lambda run: values)
    rows = Rows(tmp_path)
    rows.note(cell(), run.path)
    json.loads((tmp_path / "one.json").read_text(), parse_constant=pytest.fail)
    row = rows.of(cell())
    assert row is not None
    assert (row.row["drop"], row.row["gap"], np.isnan(row.row["memorisation"])) == (np.inf, -np.inf, True)
    assert list(row.row) == list(values)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (cell(config=dataclasses.replace(CONFIG, epochs=2)), "another epochs"),
        (cell(config=dataclasses.replace(CONFIG, options={"rho": 0.2})), "another options"),
        (cell(config=CONFIG.with_seed(3)), "another seeds"),
        (cell(measures={"sharpness": {}}), "another measures"),
        (cell(arm="mine"), "another arm"),
        (cell(role="tuning"), "another role"),
        (cell(plan="f" * 64), "no plan"),
    ],
)
def test_a_row_of_another_cell_is_told_once_and_does_not_count(
    rows: Rows, other: Cell, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert rows.of(other) is None
    assert rows.of(other) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"{rows.folder / 'one.json'}: {message}; the cell is run anew"
    ]


def test_a_row_older_than_a_setting_stands_for_its_default(rows: Rows) -> None:
    path = rows.folder / "one.json"
    configuration = json.loads(path.read_text())["configuration"]
    del configuration["config"]["compile"]
    change(path, configuration=configuration, hash=digest(configuration))
    assert rows.of(cell()) is not None
    assert rows.of(cell(config=dataclasses.replace(CONFIG, compile=True))) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("{"), "not JSON"),
        (lambda path: path.write_text("[]"), "is no row of a run"),
        (lambda path: change(path, row=3), "is no row of a run"),
        (lambda path: change(path, row={"name": "one", "drop": "much"}), "is no row of a run"),
        (lambda path: change(path, extra=1), "is no row of a run"),
        (lambda path: change(path, hash="0" * 64), "was changed after it was written"),
        (lambda path: change(path, name="two"), "was changed after it was written"),
        (edit, "not the content of its SHA-256"),
        (lambda path: path.write_bytes(path.read_bytes()[:-50]), "not JSON"),
    ],
)
def test_a_damaged_row_is_told_and_replaced(
    run: Run, rows: Rows, damage: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = rows.folder / "one.json"
    before = path.read_text()
    damage(path)
    assert rows.of(cell()) is None
    assert message in caplog.text
    rows.note(cell(), run.path)
    assert json.loads(path.read_text()) == json.loads(before)


def test_a_name_that_leads_out_of_the_folder_is_refused(rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").write_text("{}")
    (rows.folder / "two.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ValueError, match="outside of"):
        rows.of(cell(name="two"))
    with pytest.raises(ValueError, match="cannot name a run"):
        cell(name="../two")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    folder = SweepFolder.create(sweep(), tmp_path_factory.mktemp("whole"))
    complete(folder, Here())
    return folder


def complete(folder: SweepFolder, runner: Here) -> None:
    failures, choices = folder.tune(runner)
    assert not failures
    assert choices
    assert folder.run(folder.cells(), runner) == []
    folder.finish()


@pytest.mark.parametrize("fatal", [5, 14])
def test_a_lost_machine_costs_no_complete_cell(undisturbed: SweepFolder, tmp_path: Path, fatal: int) -> None:
    """Killed before cell ``fatal`` of 12 that tune and 4 reported, gone on with in an empty folder."""
    rows = tmp_path / "rows"
    first = SweepFolder.create(sweep(), tmp_path / "first", rows=Rows(rows))
    killed = Here(fatal)
    with pytest.raises(KeyboardInterrupt):
        complete(first, killed)
    assert sorted(path.stem for path in rows.glob("*")) == sorted(killed.ran)
    second = SweepFolder.create(sweep(), tmp_path / "second", rows=Rows(rows))
    going_on = Here()
    complete(second, going_on)
    assert not set(killed.ran) & set(going_on.ran)
    assert len(killed.ran) + len(going_on.ran) == 16
    assert len(list((tmp_path / "second").glob("*/*.h5"))) == len(going_on.ran)
    for name in ("table.csv", "tuning.json"):
        assert (second.root / name).read_bytes() == (undisturbed.root / name).read_bytes()
    tables = []
    for folder in (second, undisturbed):
        with store.open(folder.root / "study.h5") as file:
            tables.append(rows_of(file.record("cells")))  # type: ignore[arg-type]
    assert tables[0] == tables[1]
    again = Here()
    complete(SweepFolder.create(sweep(), tmp_path / "third", rows=Rows(rows)), again)
    assert again.ran == []
    assert SweepFolder.open(tmp_path / "third", Rows(rows)).status().unfinished == []
    assert SweepFolder.open(tmp_path / "third", Rows(rows)).tuning_status().unfinished == []
    assert len(SweepFolder.open(tmp_path / "third").status().unfinished) == 4


def test_what_a_plan_changes_is_run_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    described = sweep(arms=[{"optimizer": "sgd"}], tune={"seeds": [100], "lr": [0.05, 0.1, 0.2]})
    rows = Rows(tmp_path / "rows")
    complete(SweepFolder.create(described, tmp_path / "first", rows=rows), Here())
    plan, anew = draw_up(described), Here()
    complete(SweepFolder.create(described, tmp_path / "second", plan=plan, rows=rows), anew)
    assert len(anew.ran) == 5
    assert caplog.text.count("no plan; the cell is run anew") == 5
    assert {Row.read(path).plan for path in rows.folder.iterdir()} == {plan.hash}


def test_a_complete_run_gets_its_row_where_the_kill_came_between(tmp_path: Path) -> None:
    described = sweep(arms=[{"optimizer": "sgd"}], tune={"seeds": [100], "lr": [0.05]})
    complete(SweepFolder.create(described, tmp_path / "out"), Here())
    rows = Rows(tmp_path / "rows")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.h5")}
    complete(SweepFolder.create(described, tmp_path / "out", rows=rows), Here())
    assert sorted(path.stem for path in rows.folder.iterdir()) == sorted(path.stem for path in before)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.filterwarnings("ignore:projection keeps")
def test_a_replay_goes_on_from_the_row_of_what_it_replays(tmp_path: Path) -> None:
    train = {"epochs": 2, "train_samples": 120, "test_samples": 50, "warmup": 0.0, "val_fraction": 0.2}
    source = {"optimizer": "ncsam", "tune": {"rho": [0.05, 0.1]}}
    arms = [source, {"optimizer": "replay", "like": "ncsam"}, {"optimizer": "sam", "tune": {"rho": [0.05, 0.1]}}]
    described = sweep(seeds=1, arms=arms, train=train, tune={"seeds": [100]})
    whole = SweepFolder.create(described, tmp_path / "whole")
    complete(whole, Here())
    folder = tmp_path / "rows"
    with pytest.raises(KeyboardInterrupt):
        complete(SweepFolder.create(described, tmp_path / "first", rows=Rows(folder)), Here(fatal=6))
    names = {path.stem for path in folder.iterdir() if "seed0" in path.stem}
    assert names == {"ncsam-symmetric-0.4-seed0"}
    going_on = Here()
    complete(SweepFolder.create(described, tmp_path / "second", rows=Rows(folder)), going_on)
    assert going_on.ran == ["replay-symmetric-0.4-seed0", "sam-symmetric-0.4-seed0"]
    assert (tmp_path / "second" / "table.csv").read_bytes() == (whole.root / "table.csv").read_bytes()
    replayed = [Run(tmp_path / at / "runs" / "replay-symmetric-0.4-seed0.h5") for at in ("whole", "second")]
    assert replayed[0].attrs["replayed"]["sha256"] == replayed[1].attrs["replayed"]["sha256"]
    kept = {path.stem: json.loads(path.read_text())["step_norms"] for path in folder.iterdir()}
    assert [name for name, norms in kept.items() if norms is not None] == ["ncsam-symmetric-0.4-seed0"]
    # What was chosen for the source is no setting of the replay, which nevertheless depends on it
    (cell,) = (cell for cell in described.cells({("ncsam", "symmetric:0.4"): {"rho": 0.7}}) if cell.arm == "replay")
    assert Rows(folder).of(cell) is None
    change(folder / "ncsam-symmetric-0.4-seed0.json", step_norms=None)
    without = Here()
    complete(SweepFolder.create(described, tmp_path / "third", rows=Rows(folder)), without)
    assert without.ran == ["ncsam-symmetric-0.4-seed0"]


@pytest.mark.slow
def test_a_killed_command_goes_on_elsewhere_from_its_rows(undisturbed: SweepFolder, tmp_path: Path) -> None:
    """SIGKILL of the whole command as soon as three rows are there; then the same command with another --out."""
    described = tmp_path / "sweep.json"
    plan = draw_up(sweep())
    plan.write(described)
    rows = tmp_path / "rows"

    def command(out: str) -> list[str]:
        words = ["sweep", "--plan", str(described), "--rows", str(rows), "--workers", "1", "--quiet"]
        return [sys.executable, "-m", "landscape_cli", *words, "--out", str(tmp_path / out)]

    process = subprocess.Popen(command("first"), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(rows.glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.read_bytes() for path in rows.glob("*.json")}
    assert 3 <= len(kept) < 16
    subprocess.run(command("second"), check=True, stdout=subprocess.DEVNULL)
    assert {path: path.read_bytes() for path in kept} == kept
    assert len(list(rows.glob("*.json"))) == 16
    assert len(list((tmp_path / "second").glob("*/*.h5"))) == 16 - len(kept)
    assert (tmp_path / "second" / "table.csv").read_bytes() == (undisturbed.root / "table.csv").read_bytes()
    assert SMALL["seeds"] == 2
