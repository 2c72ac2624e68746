"""The Nth write, truncation, sync or change of a name fails, for every N: one clear error, and nothing is lost."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from landscape import store
from landscape.records import Status
from landscape.store import disk
from tests.store.samples import line, same
from tests.store.sqlite_calls import hooked, unsynced

FIELDS: dict[str, Any] = {"loss": (2,)}
ROWS = 3


class Faults:
    """Counts operations and lets the ``first``-th fail, and all after it where ``lasting``."""

    def __init__(self, first: int | None, code: int, lasting: bool) -> None:
        self.first, self.code, self.lasting, self.count = first, code, lasting, 0

    def step(self) -> None:
        self.count += 1
        if self.first is not None and (self.count == self.first or (self.lasting and self.count > self.first)):
            raise OSError(self.code, os.strerror(self.code))

    @contextmanager
    def happening(self) -> Iterator[None]:
        """Within the block they happen, to what the store does itself and through SQLite."""
        faults = self

        class Failing(io.FileIO):
            def write(self, data: Any) -> int:
                faults.step()
                return super().write(data)

            def truncate(self, size: int | None = None) -> int:
                faults.step()
                return super().truncate(size)

        def failing(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                faults.step()
                return function(*args, **kwargs)

            return call

        def by_sqlite(what: str, path: Path, offset: int, data: bytes, act: Callable[[], int]) -> int:
            faults.step()
            return 0 if what == "sync" else act()

        with pytest.MonkeyPatch.context() as monkeypatch, hooked(by_sqlite):
            monkeypatch.setattr(disk, "RawFile", Failing)
            monkeypatch.setattr(os, "fsync", failing(lambda descriptor: None))
            for name in ("replace", "link", "unlink"):
                monkeypatch.setattr(os, name, failing(getattr(os, name)))
            yield


def row(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=2)


def short_run(folder: Path, committed: list[int]) -> None:
    """Train, compute a line row by row, add it to the run file; whatever of it is done already is not done again."""
    path = folder / "run.h5"
    if not path.exists():
        store.create(path, kind="run", attrs={"seed": 1}, contents={"weights/last": {"w": [1.0]}})
    with store.open(path) as file:
        if "surface/line" in file:
            return
    with store.PartFile.create(store.part_path(path, "surface/line"), {}, ROWS, FIELDS, resume=True) as part:
        for number in part.pending():
            part.write(number, loss=row(number))
            if number % 2:
                part.commit()
                committed[:] = range(number + 1)
        loss = part.read()["loss"]
        store.add(path, "surface/line", {"loss": loss})
        part.discard()


def operations(folder: Path) -> int:
    faults = Faults(None, 0, False)
    with faults.happening():
        short_run(folder, [])
    return faults.count


@pytest.mark.parametrize(
    ("code", "lasting"),
    [
        (errno.EIO, False),
        pytest.param(errno.ENOSPC, True, marks=pytest.mark.slow),
        pytest.param(errno.EIO, True, marks=pytest.mark.slow),
        pytest.param(errno.ENOSPC, False, marks=pytest.mark.slow),
    ],
)
def test_every_operation_may_fail(tmp_path: Path, code: int, lasting: bool) -> None:
    (tmp_path / "whole").mkdir()
    total = operations(tmp_path / "whole")
    assert total > 70
    told = 0
    for first in range(1, total + 1):
        folder = tmp_path / str(first)
        folder.mkdir()
        committed: list[int] = []
        with Faults(first, code, lasting).happening():
            try:
                short_run(folder, committed)
            except store.StoreError as error:
                told += 1
                message = str(error)
                assert "\n" not in message
                assert str(folder) in message
        with unsynced():
            check_and_finish(folder, committed)
    assert told > 0.8 * total
    print(f"{total} faults with {errno.errorcode[code]}, lasting: {lasting}, {told} of them errors")  # noqa: T201


def check_and_finish(folder: Path, committed: list[int]) -> None:
    """All rows that were committed are there; the run goes on to the same numbers."""
    part = store.part_path(folder / "run.h5", "surface/line")
    if part.exists():
        with store.PartFile.create(part, {}, ROWS, FIELDS, resume=True) as work:
            assert (work.status[committed] == Status.OK).all()
            values = work.read()["loss"]
            assert all(np.array_equal(values[number], row(number)) for number in committed)
    short_run(folder, [])
    with store.open(folder / "run.h5") as file:
        assert file.arrays("weights/last").keys() == {"w"}
        assert np.array_equal(file.arrays("surface/line")["loss"], [row(number) for number in range(ROWS)])
    assert {path.suffix for path in folder.glob("run.h5.*")} <= {".part", ".lock"}  # what could not be removed


FULL_DISK = """
import resource, signal, sys
import numpy as np
from landscape import store
from landscape.records import Status
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, limit = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    store.create(path, kind="result", attrs={}, contents={"w": {"w": np.ones(100_000)}}, overwrite=True)
except store.StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 1000, 400_000, 800_100])
def test_a_real_limit_ends_in_one_line_and_a_clean_exit(tmp_path: Path, limit: int) -> None:
    """The same through the operating system: writes beyond the limit fail inside HDF5's own flush and close."""
    path = tmp_path / "r.h5"
    store.save(line(), path)
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(path), str(limit)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": "."})
    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    assert "File too large" in result.stdout
    assert same(store.load(path), line())
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.h5"]


FULL_FILE_SYSTEM = """
import os, sys
from pathlib import Path
import numpy as np
from landscape import store
path, other = Path(sys.argv[1], "run.h5.x.part"), Path(sys.argv[1], "other")

def fill(rows):
    with store.PartFile.create(path, {}, rows, {"values": (20_000,)}, resume=True) as work:
        for row in work.pending():
            work.write(row, values=np.full(20_000, row))
            work.commit()
            print(row)
            if row == 2:
                other.write_bytes(bytes(10_000_000))
        return work.read()["values"]

for rows in (1000, 40, 40):
    try:
        fill(rows)
    except store.StoreError as error:
        print(error)
found = store.progress(path)
print(len(found.done), found.damaged)
other.unlink()
assert (fill(40) == np.arange(40)[:, None]).all()
"""


def test_a_file_system_that_is_full_ends_in_one_line(tmp_path: Path) -> None:
    """A real one, of 16 MB in memory; when there is space again, the same work goes on."""
    (tmp_path / "script.py").write_text(FULL_FILE_SYSTEM)
    (tmp_path / "full").mkdir()
    mount = f'mount -t tmpfs -o size=16m none "{tmp_path}/full" || exit 77'
    run = f'{mount}; exec "{sys.executable}" -W error "{tmp_path}/script.py" "{tmp_path}/full"'
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", run], capture_output=True, text=True, env=environment)
    if "unshare: " in done.stderr or done.returncode == 77:
        pytest.skip("this machine does not let users mount a file system")
    assert done.returncode == 0, done.stderr
    refused, *lines = done.stdout.splitlines()
    assert "its rows need 160000000 bytes and " in refused
    full = [number for number, line in enumerate(lines) if "(database or disk is full); rows committed before" in line]
    assert full == [full[0], full[0] + 1]  # the second try finds the disk as full
    assert lines[: full[0]] == [str(row) for row in range(full[0])]
    assert lines[full[1] + 1] == f"{full[0]} []"
    assert lines[full[1] + 2 :] == [str(row) for row in range(full[0], 40)]
