"""The SQLite database that a part file is: how it is opened, checked, read and written.

A part file may have been damaged, or made to do harm. So SQLite opens only a file whose header is that of ours, nothing
is written before its tables are known to be exactly ours and intact, and every record has a checksum, since SQLite
checks nothing of what it stores. Reading never changes the file.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from landscape.inputs import opened
from landscape.records import Status
from landscape.store import part_work, reader, schema
from landscape.store.disk import fsync_folder
from landscape.store.errors import StoreError
from landscape.store.part_work import Work
from landscape.store.temporary import publish, temporary_file

TABLES = [
    "CREATE TABLE records (number INTEGER PRIMARY KEY, status INTEGER NOT NULL, crc32 INTEGER NOT NULL,"
    " data BLOB NOT NULL)",
    "CREATE TABLE work (text TEXT NOT NULL, crc32 INTEGER NOT NULL)",
]
APPLICATION = 0x6E637370  # "ncsp", by which the header says that the database is a part file
HEADER = {  # what stands where in the header of every part file, see sqlite.org/fileformat.html
    0: reader.SQLITE + struct.pack(">H6B", 4096, 2, 2, 0, 64, 32, 32),
    44: struct.pack(">4I", 4, 0, 0, 1),
    64: struct.pack(">2I", 0, APPLICATION) + bytes(20),
}
VERSION_AT = slice(60, 64)
LOCKED = "locking_mode = EXCLUSIVE"  # before the first look: then a log needs no memory shared between processes
LOG_PAGES = 1000  # after so many the log is put into the file and begun anew
LOG_HEADER = 32  # bytes
STATUSES = frozenset(Status)
START_OVER = "remove it to start over"


def log_of(path: Path) -> Path:
    """Path of the file where SQLite keeps late commits until they enter the file itself, at the latest on closing."""
    path = path.resolve()
    return path.with_name(f"{path.name}-wal")


def create(path: Path, text: str) -> None:
    """Write a part file without rows, in one step; ``text`` is its work, in JSON."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, "draft.part")
        with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as database:
            identity = f"application_id = {APPLICATION}", f"user_version = {schema.VERSION}"
            for setting in ("synchronous = OFF", "page_size = 4096", "auto_vacuum = NONE", LOCKED, *identity):
                database.execute(f"PRAGMA {setting}")
            for table in TABLES:
                database.execute(table)
            database.execute("INSERT INTO work VALUES (?, ?)", (text, zlib.crc32(text.encode())))
            [[mode]] = database.execute("PRAGMA journal_mode = WAL").fetchall()
        content = draft.read_bytes()
    if mode != "wal":
        raise StoreError("SQLite could not lay out the file in the temporary folder; check the space there")
    if os.path.lexists(log_of(path)):  # of a part file that was removed; its rows would come back in this one
        log_of(path).unlink()
        fsync_folder(path.parent)
    with temporary_file(path) as disk:
        disk.write(content)
        publish(disk, path, overwrite=False)


def open_to_write(path: Path) -> sqlite3.Connection:
    """The database of a part file; the caller is the only one to write. A commit is on the medium when it returns.

    Commits are added to a log, with one sync each, where a rollback journal needs four or five. The database is locked
    until it is closed. Then the log needs no memory shared between processes, so it works on network file systems.

    Raises:
        StoreError: what lies there is no part file, or is of a newer schema.
    """
    _check_files(path)
    return _connect(path, "mode=rw")


@contextlib.contextmanager
def open_to_read(path: Path) -> Iterator[sqlite3.Connection]:
    """The database of a part file as it was at its last commit, also while another process writes to it.

    It takes no lock. What was read holds if :func:`state` is then what it was before.

    Raises:
        StoreError: it is no part file, or is of a newer schema.
    """
    _check_files(path)
    with contextlib.ExitStack() as stack:
        log = log_of(path)
        if log.exists() and log.stat().st_size:
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory()), "copy.part")
            shutil.copyfile(path, copy)
            shutil.copyfile(log, log_of(copy))  # may end in the middle of a commit, which then does not count
            database = _connect(copy, "mode=rw")
        else:
            database = _connect(path, "immutable=1")
        stack.callback(database.close)
        yield database


def state(path: Path) -> tuple[Any, ...]:
    """Changes when something is written into the file itself or the log begins anew, not when the log grows."""
    status, log = path.stat(), log_of(path)
    begin = b""
    with contextlib.suppress(FileNotFoundError), opened(log) as file:
        begin = file.read(LOG_HEADER)
    return status.st_ino, status.st_size, status.st_mtime_ns, begin


def _connect(path: Path, options: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?{options}"
    database = sqlite3.connect(uri, uri=True, isolation_level="IMMEDIATE", check_same_thread=False)
    try:
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, part_work.PIECE + 4096)
        safely = LOCKED, "trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"
        for setting in (*safely, "synchronous = FULL", f"wal_autocheckpoint = {LOG_PAGES}"):
            database.execute(f"PRAGMA {setting}")
    except BaseException:
        database.close()
        raise
    return database


def _check_files(path: Path) -> None:
    """Refuse what SQLite should not see: a file that is not ours, and what would lead it to other files."""
    log = log_of(path)
    journal = log.with_name(f"{path.resolve().name}-journal")
    if os.path.lexists(journal) or (os.path.lexists(log) and (log.is_symlink() or not log.is_file())):
        raise StoreError(f"{journal.name} or {log.name} beside it was left by another program; remove it")
    with opened(path) as file:
        header = file.read(100)
    if header.startswith(reader.SIGNATURE):
        remedy = f"finish it with that version, or {START_OVER}"
        raise StoreError(f"it was begun by an earlier version, whose part files were HDF5; {remedy}")
    if any(header[at : at + len(value)] != value for at, value in HEADER.items()):
        raise StoreError(f"it is not a part file, or its beginning is damaged; {START_OVER}")
    schema.version_of({"schema": np.array(int.from_bytes(header[VERSION_AT], "big"))})


def checked_work(database: sqlite3.Connection) -> str:
    """The work of a part file, in JSON, after a look at every page.

    Raises:
        StoreError: the file is damaged, or has other tables, or triggers, views or indices.
    """
    tables = database.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    if tables != [(table,) for table in TABLES]:
        raise StoreError(f"its tables are not those of a part file; {START_OVER}")
    [[found]] = database.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        raise StoreError(f"its structure is damaged ({' '.join(found.split())}); {START_OVER}")
    work = database.execute("SELECT text, crc32 FROM work").fetchall()
    if len(work) != 1 or not isinstance(work[0][0], str) or zlib.crc32(work[0][0].encode()) != work[0][1]:
        raise StoreError(f"what it says of its work is damaged; {START_OVER}")
    return str(work[0][0])


def put(database: sqlite3.Connection, work: Work, rows: Iterable[tuple[int, Status, bytes]]) -> None:
    """Write rows, each with its status, all or none; they are on the medium when this returns."""

    def records() -> Iterator[tuple[int, int, int, memoryview]]:
        for row, status, data in rows:
            for piece in range(work.pieces):
                number, start = row * work.pieces + piece, piece * part_work.PIECE
                content = memoryview(data)[start : start + part_work.PIECE]
                yield number, int(status), _checksum(number, int(status), content), content

    with database:
        database.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", records())


def take_back(database: sqlite3.Connection, work: Work, rows: Iterable[int]) -> None:
    """Make rows pending again, all or none."""
    with database:
        database.executemany(
            "DELETE FROM records WHERE number BETWEEN ? AND ?",
            [(row * work.pieces, (row + 1) * work.pieces - 1) for row in rows],
        )


def rows_of(database: sqlite3.Connection, work: Work) -> Iterator[tuple[int, Status, bytes]]:
    """Row, status and bytes of all that was committed; a row that does not match its checksums is pending."""
    records = database.execute("SELECT number, status, crc32, data FROM records ORDER BY number")
    for row, group in itertools.groupby(records, lambda record: int(record[0]) // work.pieces):
        pieces = list(group)
        statuses = {status for _, status, _, _ in pieces}
        sound = all(isinstance(p[3], bytes) and p[2] == _checksum(p[0], p[1], p[3]) for p in pieces)
        if sound and len(pieces) == work.pieces and len(statuses) == 1 and 0 <= row < work.rows:
            status, data = statuses.pop(), b"".join(data for _, _, _, data in pieces)
            if status in STATUSES and len(data) == work.row_bytes:
                yield row, Status(status), data
                continue
        yield row, Status.PENDING, b""


def _checksum(number: int, status: int, data: bytes | memoryview) -> int:
    return zlib.crc32(data, zlib.crc32(f"{number} {status} ".encode()))
