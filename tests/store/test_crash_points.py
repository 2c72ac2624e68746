"""A crash after any write, with any unsynced writes lost, loses nothing that was reported as committed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from landscape import store
from landscape.records import Status
from landscape.store import part_database
from landscape.store.verifier import integrity
from tests.store.samples import eigenpairs, line, plane, run_file, same
from tests.store.sqlite_calls import unsynced
from tests.store.storage_model import Storage, recorded

ROWS = 6
FIELDS: dict[str, Any] = {"loss": (3,), "spectrum": (300,), "count": ((), np.int64)}
IDENTITY = {"seed": 3, "data": "0f"}


def values(row: int) -> dict[str, Any]:
    rng = np.random.default_rng(row)
    return {"loss": rng.normal(size=3), "spectrum": rng.normal(size=300), "count": row}


def open_part(path: Path, resume: bool) -> store.PartFile:
    return store.PartFile.create(path, IDENTITY, rows=ROWS, fields=FIELDS, resume=resume)


def states(storage: Storage, name: str, seed: int = 0) -> Iterator[tuple[int, dict[str, bytes]]]:
    """States of the folder that crashes may leave, with their points; of those that agree in the file ``name`` and its
    log, and in what was promised by then, only the first. While they are looked at, nothing waits for the disk.
    """
    rng = random.Random(seed)
    seen: set[tuple[int, bytes | None, bytes | None]] = set()
    with unsynced():
        for point in range(len(storage.events) + 1):
            promised = len(storage.promises(point))
            for state in storage.crashes(point, rng):
                storage.tried += 1
                key = (promised, state.get(name), state.get(f"{name}-wal"))
                if key not in seen:
                    seen.add(key)
                    yield point, state


def restore(state: dict[str, bytes], folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, content in state.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "live").mkdir()
    (tmp_path / "after").mkdir()
    return tmp_path / "live", tmp_path / "after"


def write_rows(path: Path, storage: Storage) -> None:
    """A run in two sittings, with commits of one row and of several, a failed row, and a row written twice."""
    with open_part(path, resume=False) as work:
        for rows in ([0], [1, 3]):
            for row in rows:
                work.write(row, **values(row))
            work.commit()
            storage.mark(dict.fromkeys(rows, Status.OK))
        work.write(4, Status.FAILED)
    storage.mark({4: Status.FAILED})
    with open_part(path, resume=True) as work:
        work.write(0, **values(0))
        work.commit()
        for row in work.pending():
            work.write(row, **values(row))
    storage.mark({2: Status.OK, 5: Status.OK})


@pytest.mark.parametrize("pages", [part_database.LOG_PAGES, 5])
def test_committed_rows_survive_every_crash(
    pages: int, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the log is put into the file after every other commit."""
    monkeypatch.setattr(part_database, "LOG_PAGES", pages)
    live, after = folders
    path = store.part_path(after / "run.h5", "surface/line")
    with recorded(live) as storage:
        write_rows(live / path.name, storage)
    for point, state in states(storage, path.name):
        restore(state, after)
        promised: dict[int, Status] = {}
        for promise in storage.promises(point):
            promised |= promise
        assert path.exists() or not promised
        with open_part(path, resume=True) as work:
            status = work.status
            assert all(status[row] == code for row, code in promised.items())
            check_rows(work, np.flatnonzero(status == Status.OK))
            for row in work.pending():
                work.write(row, **values(row))
            check_rows(work, np.flatnonzero(work.status == Status.OK))  # bitwise what an undisturbed run gives
    assert storage.tried > 1000
    print(f"part file: {len(storage.events)} crash points, {storage.tried} states")  # noqa: T201


def check_rows(work: store.PartFile, rows: np.ndarray) -> None:
    found = work.read()
    for row in rows:
        for name, value in values(row).items():
            assert np.array_equal(found[name][row], value), (row, name)


def test_the_model_records_every_byte(folders: tuple[Path, Path]) -> None:
    live, _ = folders
    with recorded(live) as storage:
        write_rows(store.part_path(live / "run.h5", "x"), storage)
        run_file(live / "run.h5")
    assert storage.undisturbed() == {path.name: path.read_bytes() for path in live.iterdir()}


def test_adding_to_a_finished_file_leaves_the_old_or_the_new(folders: tuple[Path, Path]) -> None:
    live, after = folders
    run_file(live / "run.h5")
    with recorded(live) as storage:
        store.add(live / "run.h5", "surface/line", line())
        storage.mark("line")
        store.add(live / "run.h5", "hessian/top3", eigenpairs(vectors=False), overwrite=True)
        storage.mark("replaced")
    path = after / "run.h5"
    for point, state in states(storage, path.name):
        restore(state, after)
        promises = storage.promises(point)
        with store.open(path) as file:
            names = file.names()
            replaced = file.record("hessian/top3").vectors is None  # type: ignore[attr-defined]
            assert same(file.record("surface/plane"), plane(12, 10))
        assert "surface/line" in names or "line" not in promises
        assert replaced or "replaced" not in promises
        assert integrity(path) == []
    assert storage.tried > 1000
    print(f"adding: {len(storage.events)} crash points, {storage.tried} states")  # noqa: T201


@pytest.mark.parametrize("existing", [False, True])
def test_a_new_file_is_whole_or_not_there(folders: tuple[Path, Path], existing: bool) -> None:
    live, after = folders
    if existing:
        store.save(line(seed=1), live / "r.h5")
    with recorded(live) as storage:
        store.save(line(seed=2), live / "r.h5", overwrite=existing)
        storage.mark("new")
    for point, state in states(storage, "r.h5"):
        restore(state, after)
        if (after / "r.h5").exists():
            found = store.load(after / "r.h5")
            new = same(found, line(seed=2))
            assert new or (existing and same(found, line(seed=1)))
        else:
            new = False
            assert not existing
        assert new or not storage.promises(point)


@pytest.mark.parametrize("missing", ["log", "file"])
def test_the_model_finds_a_missing_sync(missing: str, folders: tuple[Path, Path]) -> None:
    """Without the syncs of the log, or of the file as the log is put into it, a crash can lose a committed row."""
    live, after = folders
    path = store.part_path(after / "run.h5", "x")
    with recorded(live) as storage, open_part(live / path.name, resume=False) as work:
        work.write(0, **values(0))
        work.commit()
        storage.mark(0)
        before = len(storage.events)
        work.write(1, **values(1))
        work.commit()
        storage.mark(1)
    log = next(event.file for event in storage.events[before:] if event.what == "sync")
    storage.events[before:] = [
        event for event in storage.events[before:] if event.what != "sync" or (event.file == log) != (missing == "log")
    ]
    lost = 0
    for point, state in states(storage, path.name):
        restore(state, after)
        try:
            with open_part(path, resume=True) as work:
                lost += any(work.status[row] != Status.OK for row in storage.promises(point))
        except store.StoreError:
            lost += bool(storage.promises(point))
    assert lost
