"""Part files: what may be written, when it is committed, and when work may be resumed."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from landscape import store
from landscape.records import Status
from landscape.store import part_file

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
    now, syncs = [100.0], [0]
    monkeypatch.setattr(part_file.time, "monotonic", lambda: now[0])
    work = open_part(path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: syncs.__setitem__(0, syncs[0] + 1))
    for row, at in enumerate((100.1, 100.2, 100.4)):
        now[0] = at
        work.write(row, **ROW)
    assert syncs == [0]
    now[0] = 100.5
    work.write(3, **ROW)
    assert syncs == [2]
    with h5py.File(path, locking=False) as file:
        assert file["status"][...].tolist() == [1, 1, 1, 1, 0]
    work.write(4, **ROW)
    work.close()
    assert syncs == [4]


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
        work.write(2, **ROW)
    with h5py.File(path) as file:
        offset = file["loss"].id.get_chunk_info_by_coord((2, 0)).byte_offset
    broken = bytearray(path.read_bytes())
    broken[offset + 3] ^= 4
    path.write_bytes(broken)
    with caplog.at_level(logging.WARNING), open_part(path) as work:
        assert work.pending() == [0, 2, 3, 4]
        assert work.read()["count"].tolist() == [0, 7, 0, 0, 0]
        work.write(2, **ROW)
    assert "rows [2] are damaged and will be computed again" in caplog.text
    assert store.verify(path) == []


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


def test_the_file_never_grows(path: Path) -> None:
    with open_part(path) as work:
        size = path.stat().st_size
        for row in range(5):
            work.write(row, **ROW)
            work.commit()
    assert path.stat().st_size == size


def test_a_foreign_file_is_refused(path: Path) -> None:
    path.write_bytes(b"not a part file")
    with pytest.raises(store.StoreError, match="opening the part file failed"):
        open_part(path)
    assert path.read_bytes() == b"not a part file"
