"""The command line: what it writes, what it refuses and with which status."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest

from landscape import store
from landscape_cli.main import run as landscape
from ncsam.records import Curves, Verdicts
from ncsam.study.verdicts import judge
from ncsam.sweep import description, presets
from tests.ncsam.sweep.small import without_processes

SHRUNKEN = ["--seeds", "2", "--epochs", "8", "--quiet"]
TRAIN = ["train", "--epochs", "3", "--optimizer", "sam", "--weight-decay", "0", "--quiet"]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    assert landscape([*TRAIN, "--out", str(path)]) == 0
    return path


def test_each_command_serves_alone_on_a_run_file(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--views", "mixed,noisy_part", "--quiet"]
    assert landscape(["hessian", str(copy), "--top", "2", "--trace", "4", *quick]) == 0
    assert "trace ± s.e." in capsys.readouterr().out
    assert landscape(["sharpness", str(copy), "--sigma", "0.01", "--samples", "2", *quick]) == 0
    assert "adaptive" in capsys.readouterr().out
    assert landscape(["surface", str(copy), "--points", "5", *quick]) == 0
    assert landscape(["surface", str(copy), "--plane", "--points", "3", *quick]) == 0
    assert "9 points" in capsys.readouterr().out
    assert landscape(["figure", str(copy), "--out", str(tmp_path / "figures"), "--quiet"]) == 0
    drawn = capsys.readouterr().out.split()
    assert {Path(p).name for p in drawn} == {
        f"{stem}.{ext}"
        for stem in ("training", "line", "contours_mixed", "accuracy_mixed", "surface3d_mixed")
        for ext in ("pdf", "png", "csv")
    }
    assert all(Path(p).stat().st_size > (100 if p.endswith(".csv") else 1000) for p in drawn)


def test_the_same_command_and_seed_writes_the_same_numbers(run_file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.h5"
    assert landscape([*TRAIN, "--out", str(again)]) == 0
    quick = ["--top", "1", "--trace", "2", "--views", "mixed", "--quiet"]
    first = Path(shutil.copy(run_file, tmp_path / "first.h5"))
    assert landscape(["hessian", str(first), *quick]) == landscape(["hessian", str(again), *quick]) == 0
    with store.open(first) as one, store.open(again) as other:
        assert one.names() == other.names()
        for name in one.names():
            a, b = one.content(name), other.content(name)
            for field, array in (a if isinstance(a, dict) else vars(a)).items():
                if field == "seconds":  # what it cost, not what came out
                    continue
                np.testing.assert_array_equal(array, b[field] if isinstance(b, dict) else getattr(b, field))


def test_json_goes_to_stdout_alone(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["hessian", str(copy), "--top", "1", "--trace", "0", "--views", "mixed,test", "--json"]
    assert landscape(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "spectrum"
    assert found["views"] == ["mixed", "test"]
    assert found["trace"] is None
    assert len(found["values"][0][0]) == 1


def test_the_resolved_configuration_is_stored(run_file: Path) -> None:
    with store.open(run_file) as file:
        config = file.attrs["config"]
        command = file.attrs["command"]
    assert config["options"] == {"rho": 0.05, "adaptive": False, "eta": 0.01}
    assert config["lr_schedule"] == "cosine"
    assert command[0] == "landscape"


def test_a_configuration_file_gives_defaults_that_flags_override(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('epochs = 2\noptimizer = "sgd"\nseed-noise = 7\nweight_decay = 0.0\n')
    out = tmp_path / "run.h5"
    arguments = ["train", "--config", str(tmp_path / "c.toml"), "--epochs", "1", "--out", str(out), "--quiet"]
    assert landscape(arguments) == 0
    with store.open(out) as file:
        config = file.attrs["config"]
    assert (config["epochs"], config["optimizer"], config["weight_decay"]) == (1, "sgd", 0.0)
    assert config["seeds"] == {"split": 0, "noise": 7, "weights": 0, "order": 0, "picks": 0}


def test_base_optimizer_and_warm_up_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('base_optimizer = "adamw"\nbetas = [0.8, 0.99]\nlr = 1e-3\n')
    out, again = tmp_path / "run.h5", tmp_path / "again.h5"
    arguments = ["train", "--config", str(tmp_path / "c.toml"), "--epochs", "4", "--optimizer", "sgd", "--quiet"]
    arguments += ["--warmup", "0.5", "--warmup-step", "sam", "--warmup-rho", "0.1"]
    assert landscape([*arguments, "--out", str(out)]) == landscape([*arguments, "--out", str(again)]) == 0
    with store.open(out) as file, store.open(again) as other:
        config, origins, training = file.attrs["config"], file.attrs["origins"], file.record("training")
        for name, array in file.arrays("weights/4").items():
            np.testing.assert_array_equal(array, other.arrays("weights/4")[name])
    assert (config["base_optimizer"], config["betas"], config["warmup_step"]) == ("adamw", [0.8, 0.99], "sam")
    assert (origins["betas"], origins["warmup_rho"], origins["momentum"]) == ("config", "flag", "default")
    np.testing.assert_allclose(training.perturbation_norm, [0.1, 0.1, 0, 0], rtol=1e-5)
    assert landscape([*arguments, "--out", str(out), "--resume"]) == 0
    assert landscape([*arguments, "--betas", "0.9", "0.99", "--out", str(out), "--resume"]) == 2


def test_a_traceback_only_with_debug(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert landscape(["--debug", "hessian", str(tmp_path / "missing.h5")]) == 2
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("sent", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_stopped_command_says_how_to_go_on_and_does(copy: Path, sent: int, status: int, word: str) -> None:
    command = [sys.executable, "-m", "landscape_cli", "surface", str(copy), "--plane", "--points", "151"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    part = copy.with_name("run.h5.surface.plane.part")
    deadline = time.monotonic() + 60
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.5)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    last = err.strip().splitlines()[-1]
    assert f"{word}; continue with: " in last
    assert f" surface {copy} --plane --points 151 " in last
    assert last.endswith("--resume")
    with store.open(copy) as file:
        assert "surface/plane" not in file
    assert part.exists()


def _shrunken(text: str) -> str:
    for long, short in (
        ("points = 21", "points = 5"),
        ("points = 11", "points = 3"),
        ("trace_matvecs = 8, tol = 1e-2", "trace_matvecs = 2, tol = 0.5"),
        ("trace_matvecs = 10", "trace_matvecs = 2"),
        ("batch_size = 64", "batch_size = 64\ntrain_samples = 300"),
        ('"symmetric:0.0", "symmetric:0.2", "symmetric:0.4", "symmetric:0.6"', '"symmetric:0.0", "symmetric:0.4"'),
    ):
        assert long in text
        text = text.replace(long, short)
    return text


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The demo with few epochs, seeds, rates and points; everything else as a user gets it."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(description, "presets", lambda: {"demo": _shrunken(presets()["demo"])})
        with contextlib.redirect_stdout(printed):
            assert landscape(["demo", "--out", str(out), *SHRUNKEN]) == 0
        yield out, click.unstyle(printed.getvalue())


def test_demo_names_every_file_it_wrote(demo: tuple[Path, str]) -> None:
    out, text = demo
    written = {p for p in out.rglob("*") if p.is_file()}
    assert len(written) == 3 + 2 * 11 + 3 * 20  # a figure is PDF, PNG and its numbers
    assert {
        Path(line.split()[0]) for line in text.split("Files")[1].splitlines() if line.startswith(f"  {out}")
    } == written
    assert len(text.split("Next\n")[1].strip().splitlines()) == 3


def test_verdicts_follow_from_the_numbers_in_the_files(demo: tuple[Path, str]) -> None:
    out, text = demo
    with store.open(out / "study.h5") as file:
        curves, verdicts = file.record("curves"), file.record("verdicts")
    assert isinstance(curves, Curves)
    assert isinstance(verdicts, Verdicts)
    again = judge(curves)
    np.testing.assert_array_equal(again.verdict, verdicts.verdict)
    np.testing.assert_array_equal(again.estimate, verdicts.estimate)
    for statement, verdict in zip(verdicts.statements, verdicts.verdict, strict=True):
        assert re.search(rf"^{statement}\*? .*{re.escape(verdict)}", text, re.MULTILINE)
    assert verdicts.preliminary.all()


def test_demo_curves_hold_every_run(demo: tuple[Path, str]) -> None:
    out, _ = demo
    with store.open(out / "study.h5") as file:
        curves = file.record("curves")
    assert isinstance(curves, Curves)
    assert curves.rates.tolist() == [0.0, 0.4]
    for quantity in ("adaptive/test", "sam/mixed", "top_eigenvalue/clean_part", "trace/true_labels", "test_accuracy"):
        for arm in ("sgd", "sam", "ncsam"):
            assert all(np.isfinite(curves.of(quantity, arm, rate)).all() for rate in curves.rates)
        for control in ("sam-rho0.2", "ncsam-unprojected", "matched", "clean-direction"):
            assert np.isfinite(curves.of(quantity, control, 0.4)).all()
    assert np.isnan(curves.of("adaptive/noisy_part", "sgd", 0.0)).all()  # empty, not a number
    with store.open(out / "runs" / "ncsam-symmetric-0.4-seed0.h5") as file:
        assert {"surface/line", "surface/plane", "hessian/top5", "sharpness/default", "weights/8"} <= set(file.names())


def test_a_finished_demo_resumes_without_training_again(
    demo: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = demo
    without_processes(monkeypatch)
    # Nineteen figures were drawn once already.
    monkeypatch.setattr("landscape_cli.shared.drawing.draw_study", lambda *_, **__: [])
    before = {p: p.stat().st_mtime_ns for p in (out / "runs").iterdir()}
    assert landscape(["demo", "--out", str(out), *SHRUNKEN, "--resume"]) == 0
    assert {p: p.stat().st_mtime_ns for p in (out / "runs").iterdir()} == before
