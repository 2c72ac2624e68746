"""stderr: progress for whoever reads it, notes, warnings, colour, and the last line of a stopped command."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import click
import pytest

from landscape_cli.main import run as landscape
from landscape_cli.shared import messages, progress

pty, termios = (pytest.importorskip(name, reason="this system has no pseudo-terminals") for name in ("pty", "termios"))
TRAIN = ["train", "--epochs", "2", "--train-samples", "100", "--optimizer", "sgd"]


def in_a_terminal(arguments: list[str], folder: Path, columns: int = 80, **environment: str) -> str:
    """What a command shows on a terminal, stdout and stderr."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    shell = {**os.environ, "TERM": "xterm", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "landscape_cli", *arguments], cwd=folder, env=shell, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux ends a terminal whose program is gone with an error
        while piece := os.read(ours, 4096):
            shown += piece
    process.wait()
    os.close(ours)
    return shown.decode()


def test_a_terminal_gets_colour_and_a_bar_with_the_time_left(tmp_path: Path) -> None:
    shown = in_a_terminal([*TRAIN, "--out", "run.h5"], tmp_path)
    assert re.search(r"training: .*2/2 \[00:\d\d<00:00", shown)
    assert "\x1b[31m\x1b[1merror:\x1b[0m" in in_a_terminal(["inspect", "missing.h5"], tmp_path)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {}])
def test_no_color_is_honoured(environment: dict[str, str], tmp_path: Path) -> None:
    shown = in_a_terminal(["--help"], tmp_path, **environment) + in_a_terminal(["hesian"], tmp_path, **environment)
    assert ("\x1b[" in shown) == (not environment)
    assert "landscape: " in click.unstyle(shown)


def test_a_pipe_gets_plain_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert landscape([*TRAIN, "--out", str(tmp_path / "run.h5")]) == 0
    captured = capfd.readouterr()
    assert re.fullmatch(r"training: 2 epochs in 0:\d\d\n", captured.err)
    assert "\x1b" not in captured.out + captured.err


def test_quiet_leaves_progress_and_notes_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert landscape([*TRAIN, "--out", str(tmp_path / "run.h5"), "--quiet"]) == 0
    assert capfd.readouterr().err == ""


def test_lines_come_now_and_then_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 10_000, 10))  # every look at the clock is ten seconds later
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO, "landscape_cli"):
        assert list(progress.bar("training", False, unit="epoch")(range(7), 7)) == list(range(7))
    assert caplog.messages == [
        "training: 3 of 7 epochs in 0:30, about 0:40 left",
        "training: 6 of 7 epochs in 1:00, about 0:10 left",
        "training: 7 epochs in 1:20",
    ]


def test_jupyter_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda _name: None)  # a kernel without widgets
    assert list(progress.bar("training", False, unit="epoch")(range(3), 3)) == [0, 1, 2]
    assert "3/3 [" in capfd.readouterr().err


def test_warnings_are_a_line_each_and_logging_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = (list(logging.getLogger().handlers), logging.getLogger().level, warnings.showwarning)
    with messages.on_stderr():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("the projection\nkeeps little", stacklevel=1)
        logging.getLogger("landscape").warning("did not converge")
        progress.notes.info("a note")
        messages.silence()
        progress.notes.info("no note")
    assert capfd.readouterr().err.splitlines() == [
        "landscape: warning: the projection keeps little", "landscape: warning: did not converge", "a note",
    ]  # fmt: skip
    assert (list(logging.getLogger().handlers), logging.getLogger().level, warnings.showwarning) == before


@pytest.mark.slow  # the quick suite stops a surface, in test_cli.py
def test_a_terminated_training_says_how_to_go_on(tmp_path: Path) -> None:
    quick = ["train", "--optimizer", "sgd", "--epochs", "100000", "--train-samples", "100"]
    command = [sys.executable, "-m", "landscape_cli", *quick, "--overwrite", "--out", "run.h5", "--log", "log.jsonl"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    log, deadline = tmp_path / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    last = err.strip().splitlines()[-1]
    assert last.startswith("landscape: error: terminated; continue with: ")
    assert last.endswith("--train-samples 100 --out run.h5 --log log.jsonl --resume")
    assert "Traceback" not in err
    assert not (tmp_path / "run.h5").exists()


def test_a_reader_that_reads_no_further_ends_a_command_in_silence() -> None:
    command = f"{sys.executable} -m landscape_cli train --help | {sys.executable} -c 'pass'"
    many = f"{sys.executable} -m landscape_cli sweep --preset digits --dry-run"
    for line in (command, f"{many} | {sys.executable} -c 'pass'"):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert done.stderr == ""
