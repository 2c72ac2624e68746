"""Real processes: killed at random times, stopped by signals, competing for a file, reading while another writes."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from landscape import store
from landscape.records import Status
from landscape.store import part_database
from landscape.store.lock import try_lock
from tests.store.samples import line, run_file, same

ROWS = 400
FIELDS: dict[str, Any] = {"loss": (3,), "spectrum": (200,)}

WRITER = """
import signal, sys
from pathlib import Path
from landscape import store
from landscape.store import part_file
from tests.store.test_kill import ROWS, FIELDS, values
part_file.COMMIT_EVERY = 0.0  # every row, so that kills meet commits

def stop(number, frame):
    raise SystemExit(143)

if sys.argv[2] == "handled":
    signal.signal(signal.SIGTERM, stop)
try:
    with store.PartFile.create(Path(sys.argv[1]), {"seed": 1}, ROWS, FIELDS, resume=True) as work:
        for row in work.pending():
            work.write(row, **values(row))
            print(row, flush=True)  # reported as committed
except KeyboardInterrupt:
    sys.exit(130)
"""

ADDER = """
import sys
from pathlib import Path
from landscape import store
from tests.store.samples import line
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    store.add(Path(sys.argv[1]), f"surface/{number}", line(seed=number))
    print(number, flush=True)
"""


def values(row: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(row)
    return {"loss": rng.normal(size=3), "spectrum": rng.normal(size=200)}


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def stopped(process: subprocess.Popen[str], number: int, after: float) -> list[int]:
    """Numbers the process reported before it was sent a signal, ``after`` seconds after its first report."""
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(after)
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    return [int(text) for text in (first + rest).split("\n")[:-1] if text]


def check_part(path: Path, reported: list[int]) -> int:
    """All reported rows are there, bitwise; how many rows are still pending."""
    with store.PartFile.create(path, {"seed": 1}, ROWS, FIELDS, resume=True) as work:
        assert (work.status[reported] == Status.OK).all()
        found = work.read()
        for row in np.flatnonzero(work.status == Status.OK):
            assert all(np.array_equal(found[name][row], value) for name, value in values(row).items())
        return len(work.pending())


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_kill_loses_nothing_that_was_reported(kills: int, tmp_path: Path) -> None:
    rng = random.Random(kills)
    path, reported = tmp_path / "run.h5.x.part", []
    for _ in range(kills):
        process = start(WRITER, path, "default")
        reported += stopped(process, signal.SIGKILL, rng.uniform(0, 0.15))
        pending = check_part(path, reported)
        assert pending <= ROWS - len(reported)  # a kill between commit and report leaves more done than reported
        assert process.returncode == -signal.SIGKILL or pending == 0
        if pending == 0:
            path.unlink()
            reported = []
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_kill_while_adding_leaves_a_sound_file(kills: int, tmp_path: Path) -> None:
    rng = random.Random(kills)
    path, done = run_file(tmp_path / "run.h5"), -1
    for _ in range(kills):
        process = start(ADDER, path, done + 1, done + 1000)
        reported = stopped(process, signal.SIGKILL, rng.uniform(0, 0.15))
        assert store.verify(path) == []
        with store.open(path) as file:
            present = sorted(int(name.split("/")[1]) for name in file.names("surface") if name != "surface/plane")
            assert set(reported) <= set(present)
            assert same(file.record(f"surface/{present[-1]}"), line(seed=present[-1]))
        done = present[-1]
    store.add(path, "last", line())  # and takes away what the killed ones left
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.h5"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_closes_the_file(number: int, status: int, tmp_path: Path) -> None:
    path = tmp_path / "run.h5.x.part"
    process = start(WRITER, path, "handled")
    reported = stopped(process, number, 0.05)
    assert process.returncode == status
    assert check_part(path, reported) < ROWS
    assert store.verify(path) == []


def test_a_bare_sigterm_loses_nothing_that_was_reported(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.x.part"
    process = start(WRITER, path, "default")
    reported = stopped(process, signal.SIGTERM, 0.05)
    assert process.returncode == -signal.SIGTERM
    assert check_part(path, reported) < ROWS


def test_the_second_writer_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.x.part"
    process = start(WRITER, path, "default")
    assert process.stdout is not None
    process.stdout.readline()
    for resume in (True, False):
        with pytest.raises(store.StoreError, match=rf"another process is writing .* \(.*, process {process.pid}\)"):
            store.PartFile.create(path, {"seed": 1}, ROWS, FIELDS, resume=resume)
    counts = []
    while process.poll() is None and len(counts) < 20:
        found = store.progress(path)
        assert found.work.identity == {"seed": 1}
        assert found.damaged == []
        counts.append(len(found.done))
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]
    process.kill()
    process.communicate(timeout=60)
    with pytest.raises(store.StoreError, match="unfinished work exists; resume it"):
        store.PartFile.create(path, {"seed": 1}, ROWS, FIELDS)
    with store.PartFile.create(path, {"seed": 1}, ROWS, FIELDS, resume=True) as work:
        assert (work.status == Status.OK).sum() >= counts[-1]


def test_programs_that_know_only_sqlite_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_database.sqlite3, "connect", functools.partial(sqlite3.connect, timeout=0.1))
    path = tmp_path / "run.h5.x.part"
    with (
        store.PartFile.create(path, {"seed": 1}, ROWS, FIELDS) as work,
        contextlib.closing(sqlite3.connect(path)) as other,
    ):
        work.write(0, **values(0))
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            other.execute("SELECT count(*) FROM records")
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        assert other.execute("SELECT count(*) FROM records").fetchone() == (1,)
        with pytest.raises(store.StoreError, match=r"opening the part file failed \(database is locked\)"):
            store.PartFile.create(path, {"seed": 1}, ROWS, FIELDS, resume=True)
    assert check_part(path, [0]) == ROWS - 1


@pytest.mark.parametrize("pages", [part_database.LOG_PAGES, 5])
def test_who_looks_sees_whole_rows_while_another_process_writes(
    pages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the log is put into the file at every other commit, so that copies of both may not fit together."""
    path = tmp_path / "run.h5.x.part"
    process = start(
        WRITER.replace("part.COMMIT", f"store.part_database.LOG_PAGES = {pages}; part.COMMIT"), path, "default"
    )
    assert process.stdout is not None
    process.stdout.readline()
    counts: list[int] = []
    while process.poll() is None:
        found = store.progress(path)
        assert found.damaged == []
        counts.append(len(found.done))
        names = {file.name.removeprefix(path.name) for file in tmp_path.iterdir()}
        assert names <= {"", "-wal", ".writing.lock"}  # and no memory shared between processes, "-shm"
    assert process.communicate(timeout=60)[1] == ""
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
    print(f"looked {len(counts)} times")  # noqa: T201


def test_readers_see_a_whole_file_while_another_adds(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    process = start(ADDER, path, 0, 20)
    assert process.stdout is not None
    process.stdout.readline()
    counts = []
    with store.open(path) as before:
        while process.poll() is None:
            with store.open(path) as file:
                counts.append(len(file.names("surface")))
                assert same(file.record("training"), line(30))
        assert len(before.names("surface")) < 21  # an open file stays as it was
        assert same(before.record("training"), line(30))
    process.communicate(timeout=60)
    assert counts == sorted(counts)
    assert process.returncode == 0


def test_two_processes_that_add_both_succeed(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    processes = [start(ADDER, path, first, first + 6) for first in (0, 100)]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    with store.open(path) as file:
        assert len(file.names("surface")) == 13
    assert store.verify(path) == []


def test_adding_gives_up_when_another_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_file(tmp_path / "run.h5")
    monkeypatch.setattr("landscape.store.writer.PATIENCE", 0.1)
    held = try_lock(path)
    assert held is not None
    with pytest.raises(store.StoreError, match="another process is writing to it; wait until it is done"):
        store.add(path, "x", line())
    os.close(held)
    store.add(path, "x", line())
