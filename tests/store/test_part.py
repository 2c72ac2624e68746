"""Part files: what may be written, when it is committed, and when work may be resumed."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from landscape import store
from landscape.records import Status
from landscape.store import part_database, part_file, part_work
from landscape.store.part_database import log_of
from tests.store.sqlite_calls import hooked

FIELDS: dict[str, Any] = {"loss": (2,), "accuracy": ((2, 3), np.float32), "count": ((), "i8")}
IDENTITY = {"seed": 3, "config": {"lr": 0.1, "layers": [1, 2]}}
ROW = {"loss": [1.0, 2.0], "accuracy": np.ones((2, 3)), "count": 7}


def open_part(path: Path, **changes: Any) -> store.PartFile:
    settings: dict[str, Any] = {"identity": IDENTITY, "rows": 5, "fields": FIELDS, "resume": True}
    return store.PartFile.create(path, **{**settings, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return store.part_path(tmp_path / "run.h5", "surface/line")


def test_rows_come_back_and_the_rest_is_missing(path: Path) -> None:
    with open_part(path) as work:
        work.write(1, **ROW)
        work.write(3, Status.NONFINITE, loss=[np.inf, 1.0])
        assert work.pending() == [0, 2, 4]
        found = work.read()
    assert found["loss"].dtype == np.float64
    assert found["accuracy"].dtype == np.float32
    np.testing.assert_array_equal(found["loss"][[1, 3]], [[1, 2], [np.inf, 1]])
    assert np.isnan(found["loss"][[0, 2, 4]]).all()
    assert np.isnan(found["accuracy"][3]).all()
    assert found["count"].tolist() == [0, 7, 0, 0, 0]
    with open_part(path) as work:
        assert work.status.tolist() == [0, Status.OK, 0, Status.NONFINITE, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume": False}, "unfinished work exists; resume it, or remove the file to start over"),
        ({"identity": {**IDENTITY, "seed": 4}}, "cannot resume, identity.seed was 3 and is now 4; use the same"),
        ({"identity": {"seed": 3, "config": {"lr": 0.2}}}, r"identity.config.layers was \[1, 2\] and is now absent"),
        ({"identity": {**IDENTITY, "data": "0f"}}, "identity.data was absent and is now '0f'"),
        ({"rows": 6}, "rows was 5 and is now 6"),
        ({"fields": {"loss": (3,)}}, "cannot resume, fields.accuracy was"),
    ],
)
def test_resuming_other_work_is_refused(changes: dict[str, Any], message: str, path: Path) -> None:
    open_part(path).close()
    before = path.read_bytes()
    with pytest.raises(store.StoreError, match=message):
        open_part(path, **changes)
    assert path.read_bytes() == before
    open_part(path).close()


@pytest.mark.parametrize(
    ("row", "status", "values", "message"),
    [
        (5, Status.OK, ROW, "row 5 with status .*; expected 0..4"),
        (-1, Status.OK, ROW, "row -1"),
        (0, Status.PENDING, ROW, "expected 0..4, done"),
        (0, Status.OK, {"loss": [1.0, 2.0]}, r"missing fields \['accuracy', 'count'\]; expected loss \(2,\)"),
        (0, Status.FAILED, {"other": 1.0}, r"unknown or missing fields \['other'\]"),
        (0, Status.OK, {**ROW, "loss": [1.0]}, r"loss of row 0 has shape \(1,\), expected \(2,\)"),
    ],
)
def test_rows_that_do_not_fit_are_refused(row: int, status: Status, values: Any, message: str, path: Path) -> None:
    with open_part(path) as work:
        with pytest.raises(store.StoreError, match=message):
            work.write(row, status, **values)
        assert not work.status.any()


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 0},
        {"fields": {"status": ()}},
        {"fields": {"a": (0,)}},
        {"fields": {"a": ((), "U3")}},
        {"identity": {1: 2}},
    ],
)
def test_layouts_that_cannot_be_are_refused(changes: dict[str, Any], path: Path) -> None:
    with pytest.raises(store.StoreError):
        open_part(path, **changes)
    assert not path.exists()


def test_rows_are_committed_every_half_second_and_not_at_every_row(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, syncs = [100.0], []

    def hook(what: str, file: Path, offset: int, data: bytes, act: Callable[[], int]) -> int:
        syncs.extend([file.name] if what == "sync" and file.parent == path.parent else [])
        return act()

    monkeypatch.setattr(part_file.time, "monotonic", lambda: now[0])
    with hooked(hook):
        work = open_part(path)
        syncs.clear()
        for row, at in enumerate((100.1, 100.2, 100.4)):
            now[0] = at
            work.write(row, **ROW)
        assert syncs == []
        assert not store.progress(path).done
        now[0] = 100.5
        work.write(3, **ROW)
        assert syncs[-1] == log_of(path).name
        first = len(syncs)
        assert store.progress(path).done == dict.fromkeys(range(4), Status.OK)
        work.write(4, **ROW)
        work.commit()
        assert syncs[first:] == [log_of(path).name]
        work.close()


def test_a_rewritten_row_is_replaced(path: Path) -> None:
    with open_part(path) as work:
        work.write(2, Status.FAILED)
        work.commit()
        work.write(2, **ROW)
    with open_part(path) as work:
        assert work.read()["count"][2] == 7


def test_a_damaged_row_is_taken_back(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_part(path) as work:
        work.write(1, **ROW)
        work.write(2, **ROW | {"loss": [3.5, 4.5]})
    before = path.read_bytes()
    assert before.count(np.float64(3.5).tobytes()) == 1
    path.write_bytes(before.replace(np.float64(3.5).tobytes(), np.float64(3.25).tobytes()))
    assert store.verify(path) == ["rows [2] do not match their checksums; resume to compute them again"]
    with caplog.at_level(logging.WARNING), open_part(path) as work:
        assert work.pending() == [0, 2, 3, 4]
        assert work.read()["count"].tolist() == [0, 7, 0, 0, 0]
        work.write(2, **ROW)
    assert "rows [2] are damaged and will be computed again" in caplog.text
    assert store.verify(path) == []


def test_a_row_that_does_not_match_its_checksum_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_part(path) as work:
        work.write(2, **ROW | {"loss": [3.5, 4.5]})
        work.commit()
        monkeypatch.setattr(part_database.zlib, "crc32", lambda *_: 0)  # what is stored cannot be damaged while locked
        with pytest.raises(store.StoreError, match="row 2 does not match its checksum; resume to compute it again"):
            work.read()


def test_an_exception_commits_and_closes(path: Path) -> None:
    def interrupted() -> None:
        with open_part(path) as work:
            work.write(4, **ROW)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with open_part(path) as work:
        assert work.pending() == [0, 1, 2, 3]


def test_discarding_removes_the_file_and_its_lock(path: Path) -> None:
    with open_part(path) as work:
        work.write(0, **ROW)
        work.discard()
    assert list(path.parent.iterdir()) == []
    with pytest.raises(store.StoreError, match="the part file is closed"):
        work.commit()
    open_part(path).discard()


def test_rows_for_which_there_is_no_space_are_refused_at_once(path: Path) -> None:
    with pytest.raises(store.StoreError, match=r"its rows need 8\d+ bytes and \d+ are free; make room or"):
        open_part(path, rows=10**6, fields={"vectors": (10**12,)})
    assert list(path.parent.iterdir()) == []


def test_a_full_disk_in_the_middle_ends_in_one_line(path: Path) -> None:
    """The same rows come back once there is space."""
    big = {"vectors": (100_000,)}
    used = [0]

    def hook(what: str, file: Path, offset: int, data: bytes, act: Callable[[], int]) -> int:
        used[0] += len(data)
        if used[0] > 2_000_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return act()

    def fill() -> None:
        with open_part(path, fields=big) as work:
            for row in work.pending():
                work.write(row, vectors=np.full(100_000, row))
                work.commit()

    with hooked(hook), pytest.raises(store.StoreError, match=r"committing rows failed \(database or disk is full\)"):
        fill()
    done = store.progress(path).done
    assert 0 < len(done) < 5
    fill()
    with open_part(path, fields=big) as work:
        assert (work.read()["vectors"] == np.arange(5)[:, None]).all()


@pytest.mark.parametrize("size", [1, 15, 16, 17, 64, 1000])
def test_a_large_row_lies_in_several_records(size: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_work, "PIECE", 16)
    rows = np.random.default_rng(size).integers(0, 256, (3, size), np.uint8)
    fields = {"bytes": ((size,), "u1")}
    with open_part(path, rows=3, fields=fields) as work:
        for row in (2, 0, 1):
            work.write(row, bytes=rows[row])
    with open_part(path, rows=3, fields=fields) as work:
        np.testing.assert_array_equal(work.read()["bytes"], rows)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        pieces = -(-size // 16)
        assert database.execute("SELECT count(*) FROM records").fetchone() == (3 * pieces,)
        database.execute("DELETE FROM records WHERE number = ?", (2 * pieces - 1,))
    with open_part(path, rows=3, fields=fields) as work:
        assert work.pending() == [1]
        work.write(1, bytes=rows[1])
        np.testing.assert_array_equal(work.read()["bytes"], rows)


def test_fields_of_every_type_come_back(path: Path) -> None:
    kinds = ["?", "u1", "i1", "u2", "i4", "u8", "f2", "f4", "f8", ">f8", ">i4"]
    fields = {kind: ((2, 3), kind) for kind in kinds} | {"one": ((), kinds[0])}
    values = {kind: np.random.default_rng(0).integers(0, 2, (4, 2, 3)).astype(kind) for kind in kinds}
    with open_part(path, rows=5, fields=fields) as work:
        for row in np.arange(4):
            work.write(row, one=True, **{kind: values[kind][row] for kind in kinds})
    with open_part(path, rows=5, fields=fields) as work:
        found = work.read()
    for kind in kinds:
        assert found[kind].dtype == np.dtype(kind).newbyteorder("<")
        np.testing.assert_array_equal(found[kind][:4], values[kind])
        assert np.isnan(found[kind][4]).all() if np.dtype(kind).kind == "f" else not found[kind][4].any()
    assert found["one"].tolist() == [True] * 4 + [False]


def test_a_folder_that_is_not_there_is_named(path: Path) -> None:
    missing = path.parent / "missing" / "x.part"
    with pytest.raises(store.StoreError, match=rf"{missing}: cannot be written \(No such file or directory\)"):
        open_part(missing)


def test_a_named_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    told = "is a named pipe, expected a regular file"
    for look in (store.progress, open_part):
        with pytest.raises(store.StoreError, match=told):
            look(path)
    [problem] = store.verify(path)
    assert told in problem


def test_a_named_pipe_in_place_of_the_log_is_refused(path: Path) -> None:
    with open_part(path) as work:
        work.write(0, **ROW)
    os.mkfifo(log_of(path))
    with pytest.raises(store.StoreError, match="is a named pipe"):
        store.progress(path)
    with pytest.raises(store.StoreError, match=f"{log_of(path).name} beside it was left by another program"):
        open_part(path)


@pytest.mark.parametrize(("rows", "kept"), [(0, False), (1, True)])
def test_work_that_an_error_ends_is_kept_where_there_is_some(rows: int, kept: bool, path: Path) -> None:
    def measured() -> None:
        with open_part(path) as work:
            for row in range(rows):
                work.write(row, **ROW)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        measured()
    assert path.exists() == kept
    assert [name.name for name in path.parent.iterdir() if name != path] == []


def test_work_that_a_user_stops_is_kept(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_part(path):
        raise KeyboardInterrupt
    open_part(path).close()
