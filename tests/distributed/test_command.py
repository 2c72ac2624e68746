"""``torchrun -m landscape_cli``: the same numbers as one process, and what a lost process leaves behind."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from landscape import store
from landscape_cli.main import run as landscape
from ncsam import Run

ROOT = Path(__file__).parents[2]
MODEL = "tests.distributed.faulty:make"
SURFACE = ["surface", "run.h5", "--plane", "--points", "7", "--views", "mixed", "--trust", "--quiet"]
HESSIAN = ["hessian", "run.h5", "--views", "mixed,noisy_part", "--top", "2", "--trace", "8", "--dtype", "float64"]
HESSIAN += ["--trust", "--quiet"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found through /proc")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and what one process measures on it."""
    folder = tmp_path_factory.mktemp("trained")
    train = ["train", "--model", MODEL, "--epochs", "1", "--train-samples", "101", "--quiet", "--optimizer", "sgd"]
    assert landscape([*train, "--noise", "symmetric:0.4", "--out", str(folder / "run.h5")]) == 0
    shutil.copy(folder / "run.h5", folder / "bare.h5")
    for arguments in (SURFACE, HESSIAN):
        assert landscape([arguments[0], str(folder / "run.h5"), *arguments[2:]]) == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    shutil.copy(trained / "bare.h5", tmp_path / "run.h5")
    return tmp_path


def torchrun(folder: Path, size: int, arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    return subprocess.Popen(
        [*launcher, "-m", "--", "landscape_cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """Exit status, output, and what the program itself said on stderr (torchrun has its own to say)."""
    try:
        out, errors = process.communicate(timeout=900)
    finally:
        process.kill()
    return process.returncode, out, [line for line in errors.splitlines() if line.startswith("landscape:")]


def same_surface(folder: Path, trained: Path) -> None:
    ours, theirs = (Run(f / "run.h5", trust=True).result("surface/plane") for f in (folder, trained))
    for name, value in vars(theirs).items():
        found = getattr(ours, name)
        assert found.tobytes() == value.tobytes() if isinstance(value, np.ndarray) else found == value, name


def same_spectrum(folder: Path, trained: Path, processes: int) -> None:
    ours, theirs = (Run(f / "run.h5", trust=True).result("hessian/default") for f in (folder, trained))
    for name in ("values", "trace", "trace_stderr"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-10)
    assert (ours.processes, theirs.processes) == (processes, 1)
    assert (ours.products == theirs.products).all()


def committed(folder: Path) -> int:
    """Rows of the surface that are safe on disk."""
    part = store.part_path(folder / "run.h5", "surface/plane")
    return len(store.progress(part).done) if part.exists() and part.stat().st_size else 0


def rank_of(process: subprocess.Popen[str], rank: int) -> int:
    """Process id of a rank."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and f"RANK={rank}" in (path / "environ").read_text().split("\0"):
                return int(path.name)
        except OSError:  # another user's, or gone
            continue
    raise AssertionError(f"no process of rank {rank}")


def wait_for_rows(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 600
    while committed(folder) < count:
        assert time.monotonic() < deadline, "no rows were committed"
        time.sleep(0.05)


def resumed(folder: Path, line: str, size: int | None = None) -> None:
    """Do what a message says, with another number of processes if asked."""
    words = shlex.split(line.partition("continue with: ")[2])
    assert words[:4] == ["torchrun", "--standalone", "--nproc-per-node", "2"], words
    assert words[4:6] == ["-m", "landscape_cli"]
    assert words[-1] == "--resume"
    if size == 1:
        assert landscape([words[6], str(folder / "run.h5"), *words[8:]]) == 0
    else:
        status, _, said = finished(torchrun(folder, size or 2, words[6:]))
        assert (status, said) == (0, [])


def test_two_processes_measure_what_one_measures(folder: Path, trained: Path) -> None:
    status, out, said = finished(torchrun(folder, 2, HESSIAN))
    assert (status, said) == (0, [])
    assert out.count("noisy_part") == 1  # printed by one of them
    same_spectrum(folder, trained, 2)
    assert store.verify(folder / "run.h5") == []


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_job_and_the_rest_can_be_done(folder: Path, trained: Path, killed: int) -> None:
    process = torchrun(folder, 2, SURFACE, TEST_DELAY="0.1")
    wait_for_rows(folder, 6)
    os.kill(rank_of(process, killed), signal.SIGKILL)
    started = time.monotonic()
    status, out, said = finished(process)
    assert status == 1
    assert out == ""
    assert time.monotonic() - started < 600
    assert len(said) == 1, said
    assert re.match("landscape: error: .*(was lost|another of its processes ended)", said[0]), said
    done = committed(folder)
    assert done >= 6
    resumed(folder, said[0], size=(3, 1)[killed])  # a surface goes on with any number of processes
    same_surface(folder, trained)


@pytest.mark.slow
def test_an_error_in_one_process_is_told_once_with_its_cause(folder: Path, trained: Path) -> None:
    status, _, said = finished(torchrun(folder, 2, HESSIAN, TEST_FAIL_AFTER="13"))
    assert status == 1
    assert len(said) == 1, said
    assert said[0].startswith("landscape: error: process 1 of 0…1: there is not enough memory (no room for"), said
    other = finished(torchrun(folder, 3, [*HESSIAN, "--resume"]))
    assert other[0] == 1
    assert len(other[2]) == 1
    assert "cannot resume, identity.processes was 2 and is now 3" in other[2][0]
    resumed(folder, said[0])
    same_spectrum(folder, trained, 2)


@pytest.mark.slow
def test_a_stopped_job_says_how_to_go_on(folder: Path, trained: Path) -> None:
    process = torchrun(folder, 2, SURFACE, TEST_DELAY="0.1")
    wait_for_rows(folder, 4)
    process.send_signal(signal.SIGTERM)
    _, _, said = finished(process)
    assert len(said) == 1, said
    resumed(folder, said[0])
    same_surface(folder, trained)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["inspect", "run.h5"],
            "inspect runs in one process; torchrun is for train, hessian, surface, sharpness, diagnose",
        ),
        (["train", "--out", "run.h5"], "run.h5: the file exists; choose another name, --overwrite, or --resume"),
        (["train", "--out", "x.h5", "--mixup", "1", "--optimizer", "sam"], "mixup 1 works on whole batches"),
        (["hessian", "run.h5", "--views", "nowhere"], "unknown view 'nowhere'"),
        ([*HESSIAN, "--name", "twice"], "'hessian/twice' exists; choose another --name, or --overwrite"),
    ],
)
def test_refusals_are_told_once(folder: Path, arguments: list[str], line: str) -> None:
    if "twice" in arguments:
        assert landscape(["hessian", str(folder / "run.h5"), *arguments[2:]]) == 0
    before = (folder / "run.h5").read_bytes()
    trust = ["--trust"] if arguments[0] == "hessian" else []
    status, out, said = finished(torchrun(folder, 2, [*arguments, *trust]))
    assert status == 1  # torchrun's
    assert out == ""
    assert len(said) == 1, said
    assert line in said[0]
    assert (folder / "run.h5").read_bytes() == before
    assert not (folder / "x.h5").exists()


def training(*more: str) -> list[str]:
    """A command that trains for a while."""
    data = ["--model", MODEL, "--train-samples", "101", "--noise", "symmetric:0.4", "--optimizer", "sam"]
    return ["train", *data, "--epochs", "40", "--warmup", "0", "--quiet", "--out", "two.h5", *more]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_training_goes_on_after_a_kill(folder: Path, killed: int) -> None:
    log = ["--log=two.jsonl"]  # which torchrun would take for an option of its own
    process = torchrun(folder, 2, training(*log), TEST_DELAY="0.1")
    state, deadline = folder / "two.h5.training.state", time.monotonic() + 600
    while not state.exists():
        assert time.monotonic() < deadline, "no state was saved"
        time.sleep(0.05)
    os.kill(rank_of(process, killed), signal.SIGKILL)
    status, _, said = finished(process)
    assert status == 1
    assert len(said) == 1, said
    assert re.match("landscape: error: .*(was lost|another of its processes ended)", said[0]), said
    words = shlex.split(said[0].partition("continue with: ")[2])
    assert words[4:7] == ["-m", "--", "landscape_cli"], words
    assert not (folder / "two.h5").exists()
    other = finished(torchrun(folder, 3, [*training(*log), "--resume"]))
    assert "was trained with processes = 2, asked for 3" in other[2][0]
    status, _, said = finished(torchrun(folder, 2, words[7:]))
    assert (status, said) == (0, [])
    assert not state.exists()
    assert len((folder / "two.jsonl").read_text().splitlines()) == 40
    assert finished(torchrun(folder, 2, [word.replace("two.h5", "whole.h5") for word in training()]))[0] == 0
    ours, theirs = (Run(folder / name, trust=True) for name in ("two.h5", "whole.h5"))
    assert ours.attrs["processes"] == 2
    for name, value in theirs.model().state_dict().items():
        assert value.equal(ours.model().state_dict()[name]), name
    assert store.verify(folder / "two.h5") == []


@pytest.mark.slow
def test_an_error_in_one_process_ends_a_training(folder: Path) -> None:
    status, _, said = finished(torchrun(folder, 2, training(), TEST_FAIL_AFTER="20"))
    assert status == 1
    assert len(said) == 1, said
    assert said[0].startswith("landscape: error: process 1 of 0…1: there is not enough memory"), said
    assert not (folder / "two.h5").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "group", "fields"),
    [
        (["sharpness", "run.h5", "--sigma", "0.01", "--samples", "3"], "sharpness/default", ("sam", "average")),
        (["diagnose", "run.h5", "--batches", "2"], "diagnostics/default", ("value", "full")),
        (["diagnose", "run.h5", "--bound", "--steps", "3"], "diagnostics/bound", ("highest", "total", "risk")),
        (
            ["hessian", "run.h5", "--split", "--per-layer", "--density", "6", "--autotune", "--trace", "4"],
            "hessian/default",
            ("values", "trace", "split", "layer_values", "density_nodes"),
        ),
        (["surface", "run.h5", "--plane", "--points", "5", "--directions", "eigen"], "surface/plane", ()),
        (["surface", "run.h5", "--draws", "2", "--points", "5"], "surface/line", ()),
        (["surface", "run.h5", "--auto-range", "1", "--tol", "0.1", "--points", "33"], "surface/line", ()),
    ],
)  # fmt: skip
def test_every_command(folder: Path, arguments: list[str], group: str, fields: tuple[str, ...]) -> None:
    shutil.copy(folder / "run.h5", folder / "one.h5")
    arguments = [*arguments, "--dtype", "float64", "--trust", "--quiet"]
    assert landscape([arguments[0], str(folder / "one.h5"), *arguments[2:]]) == 0
    status, _, said = finished(torchrun(folder, 3, arguments))
    assert (status, said) == (0, [])
    ours, theirs = (Run(folder / name, trust=True).result(group) for name in ("run.h5", "one.h5"))
    for name, value in vars(theirs).items():
        found: Any = getattr(ours, name)
        if fields and name in fields:
            np.testing.assert_allclose(found, value, rtol=1e-10, atol=1e-12, err_msg=name)
        elif not fields and isinstance(value, np.ndarray):  # a surface
            assert found.tobytes() == value.tobytes(), name
