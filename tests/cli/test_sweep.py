"""``landscape sweep``: from flags to one table."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from landscape import store
from landscape_cli.main import run as landscape
from ncsam.records import CellTable
from tests.ncsam.sweep.small import without_processes

ARRAY = Path(__file__).parents[2] / "docs" / "slurm.sh"
SMALL = ["sweep", "--optimizer", "sgd,sam", "--rho", "0.05,0.2", "--noise", "symmetric:0.4", "--epochs", "2"]
SMALL += ["--train-samples", "200", "--measure", "sharpness", "--workers", "1", "--quiet", "--seeds"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, int]]:
    """A sweep of one seed, to which another was added; and when the files of the first were written."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    with pytest.MonkeyPatch.context() as patch:
        without_processes(patch)
        assert landscape([*SMALL, "1", "--out", str(out), "--shard", "1/1"]) == 0
        first = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*.h5")}
        assert landscape([*SMALL, "2", "--out", str(out), "--resume"]) == 0
    return out, first


def test_the_table_holds_every_run_once(swept: tuple[Path, dict[Path, int]]) -> None:
    out, _ = swept
    with store.open(out / "study.h5") as file:
        table = file.record("cells")
    assert isinstance(table, CellTable)
    expected = {f"{arm}-symmetric-0.4-seed{s}" for arm in ("sgd", "sam-rho0.05", "sam-rho0.2") for s in (0, 1)}
    assert sorted(table.names.tolist()) == sorted(expected)
    assert {path.stem for path in (out / "runs").glob("*.h5")} == expected
    with (out / "table.csv").open(newline="", encoding="utf-8") as lines:
        rows = {row["name"]: row for row in csv.DictReader(lines)}
    column = table.endpoints.tolist().index("test_accuracy")
    for name, values in zip(table.names, table.value, strict=True):
        assert float(rows[str(name)]["test_accuracy"]) == values[column]
        assert rows[str(name)]["role"] == "reported"


def test_every_run_records_the_command_and_the_code(swept: tuple[Path, dict[Path, int]]) -> None:
    out, first = swept
    for path in (out / "runs").glob("*.h5"):
        with store.open(path) as file:
            command, code = file.attrs["command"], file.attrs["code_version"]
        assert command[:2] == ["landscape", "sweep"]
        assert command[-1] == ("1/1" if path in first else "--resume")
        assert "(" in code  # a commit, or a digest of the code


def test_status_and_plan_as_json(swept: tuple[Path, dict[Path, int]], capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape(["sweep", "--status", str(swept[0]), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (len(status["complete"]), status["begun"], status["pending"]) == (6, [], [])
    assert landscape([*SMALL, "2", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["cells"]) == 6
    assert plan["seconds"] > 0
    assert plan["bytes"] > 6 * 4 * 26_000  # at least the weights


def test_the_table_is_written_from_complete_runs_only(
    swept: tuple[Path, dict[Path, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(swept[0] / "sweep.json", tmp_path)
    runs = shutil.copytree(swept[0] / "runs", tmp_path / "runs")
    missing = runs / "sam-rho0.2-symmetric-0.4-seed1.h5"
    content = missing.read_bytes()
    missing.write_bytes(content[:1000])
    assert landscape(["sweep", "--status", str(tmp_path)]) == 0
    assert "5 of 6 runs complete, 0 begun\n  damaged  sam-rho0.2" in capsys.readouterr().out
    missing.unlink()
    assert landscape(["sweep", "--finish", str(tmp_path)]) == 2
    assert f"1 runs are not complete, such as {missing.stem}; see" in capsys.readouterr().err
    assert not (tmp_path / "study.h5").exists()
    missing.write_bytes(content)
    assert landscape(["sweep", "--finish", str(tmp_path), "--json"]) == 0
    json.loads(capsys.readouterr().out)
    assert (tmp_path / "table.csv").read_bytes() == (swept[0] / "table.csv").read_bytes()


def test_what_was_done_stays_when_seeds_are_added(swept: tuple[Path, dict[Path, int]]) -> None:
    _, first = swept
    assert len(first) == 3
    assert {path: path.stat().st_mtime_ns for path in first} == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "demo", "--config", "x.toml", "--dry-run"], "describe two sweeps"),
        (["--preset", "dmeo", "--dry-run"], "expected one of"),
        (["--preset", "cifar10-small", "--dry-run"], "add --data cifar10:FOLDER"),
        (["--optimizer", "sgd", "--rho", "0.1", "--dry-run"], "no arm has an option rho"),
        (["--rho", "a", "--dry-run"], "'a' is not a number"),
        (["--seeds", "x", "--dry-run"], "expected a number such as 10"),
        (["--shard", "3", "--dry-run"], "expected I/N"),
        (["--shard", "3/2", "--dry-run"], "1 ≤ i ≤ n"),
        (["--noise", "symetric:0.4", "--dry-run"], "did you mean 'symmetric'"),
        (["--status", "nowhere"], "holds no sweep"),
    ],
)
def test_bad_requests_are_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert landscape(["sweep", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("landscape: error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_with_a_failed_cell_says_which_and_ends_with_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runs = tmp_path / "out" / "runs"
    runs.mkdir(parents=True)
    (runs / "sgd-symmetric-0.4-seed0.h5").write_text("not a run file")
    two = ["sweep", "--optimizer", "sgd", "--noise", "none symmetric:0.4", "--seeds", "1", "--epochs", "1"]
    two += ["--train-samples", "100", "--workers", "1", "--quiet", "--out", str(tmp_path / "out"), "--resume"]
    assert landscape(two) == 1
    err = capsys.readouterr().err
    assert "landscape: error: sgd-symmetric-0.4-seed0: StoreError" in err
    assert "1 of 2 runs failed; repeat with --resume" in err
    assert (runs / "sgd-none-seed0.h5").exists()
    assert not (tmp_path / "out" / "study.h5").exists()


@pytest.mark.skipif(shutil.which("bash") is None, reason="a shell script")
def test_the_job_array_is_a_shell_script() -> None:
    subprocess.run(["bash", "-n", str(ARRAY)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="a shell script")
def test_the_jobs_of_an_array_start_at_once_and_fill_one_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--optimizer", "sgd,sam", "--noise", "symmetric:0.4", "--seeds", "2", "--epochs", "1"]
    few += ["--train-samples", "100", "--measure", "sharpness"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SHARDS": "2", "OUT": str(tmp_path)}
    jobs = [
        subprocess.Popen(["bash", str(ARRAY), *few], env={**environment, "SLURM_ARRAY_TASK_ID": str(i)}) for i in (1, 2)
    ]
    assert [job.wait() for job in jobs] == [0, 0]
    assert landscape(["sweep", "--finish", str(tmp_path), "--json"]) == 0
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as lines:
        names = sorted(row["name"] for row in csv.DictReader(lines))
    assert names == sorted(f"{arm}-symmetric-0.4-seed{seed}" for arm in ("sgd", "sam") for seed in (0, 1))
