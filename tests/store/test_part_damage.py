"""Damaged and hostile part files: named in one line, no wrong number, no crash, no hang, no harm to other files."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from landscape import store
from landscape.records import Status
from landscape.store import part_database, part_work
from landscape.store.describe import describe, render
from landscape.store.part_database import log_of
from tests.store.samples import run_file
from tests.store.sqlite_calls import hooked, unsynced
from tests.store.test_damage import in_another_process

LEFT = "x.part-journal or x.part-wal beside it was left by another program; remove it"
FIELDS: dict[str, Any] = {"loss": (3,), "vector": (150,)}
ROWS = 12


def values(row: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(row)
    return {"loss": rng.normal(size=3), "vector": rng.normal(size=150)}


def open_part(path: Path) -> store.PartFile:
    return store.PartFile.create(path, {"seed": 1}, ROWS, FIELDS, resume=True)


def sound(path: Path, rows: int = 8) -> Path:
    """A part file of several pages, closed."""
    with open_part(path) as work:
        for row in range(rows):
            work.write(row, **values(row))
    return path


def crashed(path: Path) -> Path:
    """What a crash in the middle of a commit leaves: rows 0 to 7 in the file, row 8 in the log, the others cut off."""
    live, writes = sound(path.with_name("live.part")), 0

    def hook(what: str, file: Path, offset: int, data: bytes, act: Callable[[], int]) -> int:
        nonlocal writes
        code = act()
        if what == "write" and file == log_of(live):
            writes += 1
            if writes == 2 * last - 1:
                shutil.copyfile(live, path)
                shutil.copyfile(log_of(live), log_of(path))
        return code

    with hooked(hook), open_part(live) as work:
        last = 0
        work.write(8, **values(8))
        work.commit()
        last = writes
        for row in (9, 10, 11):
            work.write(row, **values(row))
    live.unlink()
    return path


def check(path: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Resume a file that may be damaged: every row that is there is right; what was told of the rest."""
    caplog.clear()
    told = None
    try:
        with caplog.at_level(logging.WARNING), open_part(path) as work:
            found, status = work.read(), work.status
    except store.StoreError as error:
        told = str(error)
    if told is not None:
        assert "\n" not in told
        assert str(path) in told
        return "refused"
    for row in np.flatnonzero(status):
        assert status[row] == Status.OK
        assert all(np.array_equal(found[name][row], value) for name, value in values(row).items())
    if status[:8].all():
        return "whole"
    assert "are damaged and will be computed again" in caplog.text
    return "taken back"


def test_a_commit_that_a_crash_cut_off_does_not_count(tmp_path: Path) -> None:
    """All before it do; who only looks sees the same, and changes nothing."""
    path = crashed(tmp_path / "x.part")
    before = path.read_bytes(), log_of(path).read_bytes()
    for _ in range(2):
        found = store.progress(path)
        assert found.done == dict.fromkeys(range(9), Status.OK)
        assert found.damaged == []
    assert store.verify(path) == []
    assert (path.read_bytes(), log_of(path).read_bytes()) == before
    with open_part(path) as work:
        assert work.pending() == [9, 10, 11]
        np.testing.assert_array_equal(work.read()["vector"][8], values(8)["vector"])
    assert [file.name for file in tmp_path.iterdir()] == ["x.part"]


def bits(content: bytes, count: int, rng: random.Random) -> Iterator[tuple[int, int]]:
    """Places of ``count`` bits: half of them in the headers of the pages, where SQLite's own structure is."""
    headers = [at for page in range(0, len(content), 4096) for at in range(page, page + 100)]
    for number in range(count):
        yield rng.choice(headers) if number % 2 else rng.randrange(len(content)), rng.randrange(8)


@pytest.mark.parametrize("count", [800, pytest.param(15_000, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_found(count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Or belongs to nothing: then all rows are there, unchanged."""
    path = sound(tmp_path / "x.part")
    whole, told = path.read_bytes(), dict.fromkeys(("whole", "taken back", "refused"), 0)
    data = {at for row in range(8) for value in values(row).values() for at in places(whole, value.tobytes())}
    assert len(data) == 8 * 153 * 8
    with unsynced():
        for at, bit in bits(whole, count, random.Random(0)):
            broken = bytearray(whole)
            broken[at] ^= 1 << bit
            path.write_bytes(broken)
            problems = store.verify(path)
            outcome = check(path, caplog)
            assert (outcome != "whole") == bool(problems)
            assert outcome == "taken back" or at not in data
            told[outcome] += 1
    assert all(told.values())
    print(told)  # noqa: T201


def places(content: bytes, piece: bytes) -> range:
    start = content.index(piece)
    return range(start, start + len(piece))


LOOK_AT_ALL = """
import logging, random, signal, sys
from pathlib import Path
from landscape import store
from landscape.store.describe import describe, render
from landscape.store.part_database import log_of
from tests.store.sqlite_calls import unsynced
from tests.store.test_damage import damage
from tests.store.test_part_damage import FIELDS, ROWS, crashed, open_part, values
logging.disable()
folder, count = Path(sys.argv[1]), int(sys.argv[2])
source = crashed(folder / "source.part")
contents = source.read_bytes(), log_of(source).read_bytes()
told = dict.fromkeys(["refused", "rows"], 0)
path = folder / "x.part"
def broken(number, file):
    rng = random.Random(2 * number + file)
    return damage(contents[file], rng) if number % 3 in (file, 2) else contents[file]
with unsynced():
    for number in range(count):
        path.write_bytes(broken(number, 0))
        log_of(path).write_bytes(broken(number, 1))
        signal.alarm(20)
        try:
            done = store.progress(path).done
        except store.StoreError as error:
            done = None
            assert "\\n" not in str(error) and str(path) in str(error), error
        try:
            with open_part(path) as work:
                found, status = work.read(), work.status
        except store.StoreError as error:
            assert "\\n" not in str(error) and str(path) in str(error), error
            assert done is None, (number, done)
            told["refused"] += 1
            continue
        assert done is not None and sorted(done) == status.nonzero()[0].tolist()
        for row in sorted(done):
            assert all((found[name][row] == value).all() for name, value in values(row).items()), (number, row)
        told["rows"] += 1
print(told)
lines = Path("/proc/self/status").read_text().splitlines()
print(*[line for line in lines if line.startswith("VmHWM:")])
"""


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_files_and_logs_never_crash_hang_or_mislead(count: int, tmp_path: Path) -> None:
    result = in_another_process(LOOK_AT_ALL, tmp_path, count)
    assert result.returncode == 0, result.stdout[-200:] + result.stderr
    told, peak = result.stdout.splitlines()
    assert int(peak.split()[1]) < 200_000  # KiB; the files are some 30 kB
    print(told)  # noqa: T201


def foreign(path: Path, kind: str) -> bytes:
    match kind:
        case "text":
            path.write_bytes(b"not a part file")
        case "noise":
            path.write_bytes(random.Random(0).randbytes(20_000))
        case "finished":
            run_file(path)
        case "empty":
            path.touch()
        case "zeros":
            path.write_bytes(bytes(8192))
        case "database" | "rollback":
            database = sqlite3.connect(path)
            if kind == "database":
                database.execute("PRAGMA journal_mode = WAL")
            database.executescript("CREATE TABLE diary (text); INSERT INTO diary VALUES ('dear')")
            database.close()
        case "earlier":
            with h5py.File(path, "w") as file:
                file.attrs["kind"] = "part"
                file["status"] = np.zeros(3, np.uint8)
    return path.read_bytes()


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "it is not a part file, or its beginning is damaged; remove it to start over"),
        ("noise", "it is not a part file"),
        ("zeros", "it is not a part file"),
        ("database", "it is not a part file"),
        ("rollback", "it is not a part file"),
        ("empty", "it is not a part file"),
        ("finished", "it was begun by an earlier version, whose part files were HDF5"),
        ("earlier", "it was begun by an earlier version, whose part files were HDF5; finish it with that version, or"),
    ],
)
def test_a_foreign_file_is_refused_and_left_alone(kind: str, message: str, log: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    before = foreign(path, kind)
    if log:
        (tmp_path / "other").mkdir()
        shutil.move(log_of(crashed(tmp_path / "other" / "x.part")), log_of(path))
        shutil.rmtree(tmp_path / "other")
    for look in (open_part, store.progress):
        with pytest.raises(store.StoreError, match=f"{path}: {message}"):
            look(path)
    assert [message in problem for problem in store.verify(path)] == [True]
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == ({"x.part", "x.part-wal"} if log else {"x.part"})


TABLES = {
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON records BEGIN UPDATE records SET status = 1; END",
    "a view": "CREATE VIEW v AS SELECT * FROM records",
    "an index": "CREATE INDEX i ON records (status)",
    "another table": "CREATE TABLE other (x)",
    "a virtual table": "CREATE VIRTUAL TABLE f USING fts4(x)",
    "another column": "ALTER TABLE records ADD COLUMN x",
    "a table less": "DROP TABLE work",
    "statistics": "ANALYZE",
}


@pytest.mark.parametrize("change", TABLES)
def test_other_tables_are_refused(change: str, tmp_path: Path) -> None:
    path = sound(tmp_path / "x.part")
    database = sqlite3.connect(path)
    database.execute(TABLES[change])
    database.commit()
    database.close()
    before = path.read_bytes()
    for look in (open_part, store.progress):
        with pytest.raises(store.StoreError, match=f"{path}: its tables are not those of a part file; remove it to"):
            look(path)
    assert path.read_bytes() == before


def says(identity: Any = None, rows: Any = ROWS, fields: Any = None) -> str:
    fields = {name: [list(shape), "<f8"] for name, shape in FIELDS.items()} if fields is None else fields
    return json.dumps({"identity": {"seed": 1} if identity is None else identity, "rows": rows, "fields": fields})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON", "reading failed"),
        ("[" * 10**5, "reading failed"),
        ("{}", "reading failed"),
        (says(rows=-1), "got -1 rows"),
        (says(rows="many"), "reading failed"),
        (says(fields={"loss": [[3], "O"]}), "expected sizes >= 1 and plain numbers"),
        (says(fields={"loss": [[-3], "<f8"]}), "expected sizes >= 1 and plain numbers"),
        (says(rows=10**18), ""),
        (says(fields={"loss": [[10**9, 10**9], "<f8"]}), ""),
    ],
)
def test_what_a_file_claims_is_not_believed(text: str, message: str, tmp_path: Path) -> None:
    """Sizes cost no memory; whatever a file says, it is other work than what is asked for."""
    path = sound(tmp_path / "x.part")
    database = sqlite3.connect(path)
    database.execute("UPDATE work SET text = ?, crc32 = ?", (text, zlib.crc32(text.encode())))
    database.commit()
    database.close()
    if message:
        with pytest.raises(store.StoreError, match=message):
            store.progress(path)
    else:
        found = store.progress(path)
        assert len(found.done) + len(found.damaged) == 8 or found.damaged == [0]
        assert "rows pending" in render(describe(path))
    with pytest.raises(store.StoreError) as refused:
        open_part(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("number", 10**18),
        ("number", -5),
        ("status", 0),
        ("status", 77),
        ("status", "1"),
        ("status", None),
        ("crc32", None),
        ("data", "text"),
        ("data", b""),
        ("data", 1.5),
        ("data", bytes(10**6)),
    ],
)
def test_values_that_are_none_are_taken_back(column: str, value: Any, tmp_path: Path, caplog: Any) -> None:
    """The types of columns are no promise: whoever writes the bytes of the file need not keep to them."""
    path = sound(tmp_path / "x.part")
    loose = "CREATE TABLE records (number INTEGER PRIMARY KEY, status, crc32, data)"
    for statements in (
        [("UPDATE sqlite_master SET sql = ? WHERE name = 'records'", loose)],
        [
            (f"UPDATE records SET {column} = ? WHERE number = 3", value),
            ("UPDATE sqlite_master SET sql = ? WHERE name = 'records'", part_database.TABLES[0]),
        ],
    ):
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("PRAGMA writable_schema = ON")
            for statement, argument in statements:
                database.execute(statement, (argument,))
    assert check(path, caplog) in ("taken back", "refused")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = sound(tmp_path / "x.part")
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 2")
    database.close()
    for look in (open_part, store.progress):
        with pytest.raises(store.StoreError, match="it has schema 2, this package knows 1 and older; upgrade"):
            look(path)


def test_a_rollback_journal_is_not_played_back(tmp_path: Path) -> None:
    """It may name a file, which SQLite then takes for that of a commit in several databases, and deletes."""
    path, victim = sound(tmp_path / "x.part"), tmp_path / "thesis.tex"
    victim.write_text("ten years")
    name, mark = str(victim).encode(), bytes.fromhex("d9d505f920a163d7")
    header = mark + struct.pack(">5I", 0, 0, path.stat().st_size // 4096, 512, 4096)
    pointer = struct.pack(">I", 2**18 + 1) + name + struct.pack(">2I", len(name), sum(name)) + mark
    path.with_name("x.part-journal").write_bytes(header.ljust(512, b"\0") + pointer)
    for look in (open_part, store.progress):
        with pytest.raises(store.StoreError, match=LEFT):
            look(path)
    assert victim.exists()


@pytest.mark.parametrize("name", ["x.part-journal", "x.part-wal"])
def test_links_beside_a_part_file_are_not_followed(name: str, tmp_path: Path) -> None:
    path, victim = sound(tmp_path / "x.part"), tmp_path / "thesis.tex"
    victim.write_text("ten years")
    (tmp_path / name).symlink_to(victim)
    for look in (open_part, store.progress):
        with pytest.raises(store.StoreError, match=LEFT):
            look(path)
    path.unlink()
    if name == "x.part-wal":
        with open_part(path) as work:
            assert len(work.pending()) == ROWS
    assert victim.read_text() == "ten years"


def test_a_log_without_its_part_file_is_of_earlier_work(tmp_path: Path) -> None:
    path = crashed(tmp_path / "x.part")
    path.unlink()
    with open_part(path) as work:
        assert len(work.pending()) == ROWS
        work.write(0, **values(0))
    assert store.progress(path).done == {0: Status.OK}


def test_extensions_are_never_loaded(tmp_path: Path) -> None:
    with part_database.open_to_read(sound(tmp_path / "x.part")) as database:
        with pytest.raises(sqlite3.OperationalError, match="not authorized"):
            database.execute("SELECT load_extension('trap.so')")
        assert database.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) == part_work.PIECE + 4096
        settings = {
            name: database.execute(f"PRAGMA {name}").fetchone() for name in ("trusted_schema", "cell_size_check")
        }
        assert settings == {"trusted_schema": (0,), "cell_size_check": (1,)}
