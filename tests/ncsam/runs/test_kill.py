"""A training process that is killed for good goes on, with ``--resume``, to bitwise the undisturbed result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from landscape import store
from landscape_cli.main import run as landscape
from ncsam import Run
from ncsam.runs.resume_state import state_path

EPOCHS = 60
ARGUMENTS = ["train", "--optimizer", "ncsam", "--rho", "0.1", "--epochs", str(EPOCHS), "--augment", "--warmup", "0.1"]
ARGUMENTS += ["--checkpoints", "3,30", "--train-samples", "400", "--batch-size", "64", "--quiet"]
# As the command, on one thread like the tests, and with a state saved after every epoch.
CHILD = """
import sys, torch
import ncsam.runs.train
from landscape_cli.main import main
torch.set_num_threads(1)
ncsam.runs.train.SAVE_EVERY = 0.0
main(sys.argv[1:])
"""
pytestmark = pytest.mark.filterwarnings("ignore:projection keeps")


def arguments(folder: Path, *more: str) -> list[str]:
    return [*ARGUMENTS, "--out", str(folder / "run.h5"), "--log", str(folder / "log.jsonl"), *more]


def lines(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kill_after(epochs: int, pause: float, folder: Path, *more: str) -> None:
    """Start a training and SIGKILL it some time after it has logged that many epochs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", CHILD, *arguments(folder, *more)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while lines(folder) < epochs and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(pause)
    process.kill()
    _, err = process.communicate()
    assert process.returncode == -9, err.decode()
    assert state_path(folder / "run.h5").exists() or epochs == 1  # the first epoch is logged before it is saved
    assert not (folder / "run.h5").exists()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert landscape(arguments(folder)) == 0
    return folder


def same(folder: Path, undisturbed: Path) -> None:
    with store.open(folder / "run.h5") as ours, store.open(undisturbed / "run.h5") as theirs:
        assert ours.names() == theirs.names()
        for epoch in (3, 30, EPOCHS):
            found = ours.arrays(f"weights/{epoch}")
            for name, array in theirs.arrays(f"weights/{epoch}").items():
                assert np.array_equal(found[name], array), (epoch, name)
        for name, value in vars(theirs.record("training")).items():
            np.testing.assert_array_equal(getattr(ours.record("training"), name), value)
    assert (folder / "log.jsonl").read_bytes() == (undisturbed / "log.jsonl").read_bytes()
    assert not state_path(folder / "run.h5").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_once(undisturbed: Path, tmp_path: Path) -> None:
    kill_after(10, 0.0, tmp_path)
    assert landscape(arguments(tmp_path)) == 2  # neither overwritten nor resumed unasked
    assert landscape(arguments(tmp_path, "--resume")) == 0
    same(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_again_and_again_at_any_moment(undisturbed: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kill_after(1, 0.0, tmp_path)
    for epochs in (5, 12, 20, 31, 40, 48):
        kill_after(epochs, float(rng.uniform(0, 0.05)), tmp_path, "--resume")
    assert landscape(arguments(tmp_path, "--resume")) == 0
    same(tmp_path, undisturbed)


def test_the_log_holds_the_numbers_of_the_record(undisturbed: Path) -> None:
    training = Run(undisturbed / "run.h5").training
    rows = [json.loads(line) for line in (undisturbed / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == training.epochs.tolist()
    labels = {"view": training.views.tolist(), "class": range(10)}
    names = set()
    for name, declared in training.variables().items():
        value = getattr(training, name)
        if declared.dims[0] != "epoch" or declared.coordinate or value is None:
            continue
        columns = value.reshape(len(rows), -1).T
        keys = [f"{name}/{label}" for label in labels[declared.dims[1]]] if value.ndim == 2 else [name]
        for key, column in zip(keys, columns, strict=True):
            names.add(key)
            logged = np.array([np.nan if row[key] is None else row[key] for row in rows])
            np.testing.assert_array_equal(logged, column, err_msg=key)
    assert set(rows[0]) == {"epoch", *names}


def test_a_log_is_replaced_only_when_asked_and_only_if_it_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "log.jsonl"
    notes.write_text("my notes\n")
    assert landscape(arguments(tmp_path)) == landscape(arguments(tmp_path, "--resume")) == 2
    assert capsys.readouterr().err.count("the log exists; choose another name, --overwrite or --resume") == 2
    assert notes.read_text() == "my notes\n"
    assert landscape(arguments(tmp_path, "--overwrite", "--epochs", "1", "--checkpoints", "1")) == 0
    assert json.loads(notes.read_text())["epoch"] == 1
