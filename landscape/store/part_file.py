"""Part files: work in progress, row by row, that survives a kill at any moment.

A part file is an SQLite database. A row is committed with its status in one transaction, so the status of a row can be
relied on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from landscape.inputs import check_regular
from landscape.records import Status
from landscape.store import part_database
from landscape.store.disk import fsync_folder
from landscape.store.errors import StoreError, one_line
from landscape.store.lock import sole
from landscape.store.part_database import log_of
from landscape.store.part_work import Shape, Work, shape_and_dtype

logger = logging.getLogger(__name__)

PART = ".part"  # how the names of part files end
ATTEMPTS = 100  # at reading a file that another process is writing to
COMMIT_EVERY = 0.5  # seconds; a kill loses at most this much work and the row in progress


def part_path(path: str | Path, name: str) -> Path:
    """Path at which work in progress on the content ``name`` of the file ``path`` lies.

    >>> part_path("runs/a.h5", "hessian/top5").as_posix()
    'runs/a.h5.hessian.top5.part'
    """
    path = Path(path)
    return path.with_name(f"{path.name}.{name.replace('/', '.')}{PART}")


@dataclass(frozen=True)
class Progress:
    """Progress of the work in a part file.

    Attributes:
        work: its identity, rows and fields, as they were given to :meth:`PartFile.create`.
        done: status of the committed rows, by row; all others are pending.
        damaged: rows that do not match their checksums and will be computed again.
    """

    work: Work
    done: Mapping[int, Status]
    damaged: list[int]


def progress(path: str | Path) -> Progress:
    """Report the progress of the work in a part file; reading changes nothing, even while another process writes to it.

    Raises:
        StoreError: there is no such file, it is no part file, of a newer schema, or damaged beyond single rows.
    """
    path = Path(path)
    with one_line(path, "reading", "resume it, or remove it to start over"):
        if not path.exists():
            raise StoreError("there is no such file")
        check_regular(path)
        for _ in range(ATTEMPTS):
            before = part_database.state(path)
            try:
                found = _progress(path)
            except Exception:
                if part_database.state(path) == before:
                    raise
            else:
                if part_database.state(path) == before:
                    return found
        raise StoreError("it changes faster than it can be read; wait until it is done")


def _progress(path: Path) -> Progress:
    with part_database.open_to_read(path) as database:
        work = Work.from_json(part_database.checked_work(database))
        found = {row: status for row, status, _ in part_database.rows_of(database, work)}
    damaged = [row for row, status in found.items() if status == Status.PENDING]
    return Progress(work, {row: found[row] for row in found.keys() - set(damaged)}, damaged)


class PartFile:
    """A table of rows being filled, on disk. Use :meth:`create`; a context manager that commits and closes.

    Where an error ends the context before the first row, there is nothing to resume, and the file is removed.

    >>> import tempfile, numpy as np
    >>> from landscape import store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = store.part_path(f"{folder}/run.h5", "surface/line")
    ...     with store.PartFile.create(path, {"seed": 3}, rows=3, fields={"loss": (2,)}) as part:
    ...         part.write(0, loss=[0.5, 0.7])
    ...     with store.PartFile.create(path, {"seed": 3}, rows=3, fields={"loss": (2,)}, resume=True) as part:
    ...         part.pending(), part.read()["loss"][0]
    ([1, 2], array([0.5, 0.7]))
    """

    def __init__(self, path: Path, work: Work, database: sqlite3.Connection) -> None:
        self.path = path
        self._work = work
        self._database = database
        self._held = contextlib.ExitStack()  # the database and the lock
        self._open = True
        self._status = np.zeros(work.rows, np.uint8)
        self._buffer: dict[int, tuple[Status, bytes]] = {}
        self._committed_at = time.monotonic()

    @classmethod
    def create(
        cls,
        path: str | Path,
        identity: Mapping[str, Any],
        rows: int,
        fields: Mapping[str, Shape | tuple[Shape, Any]],
        resume: bool = False,
    ) -> PartFile:
        """Start a part file, or with ``resume`` continue one.

        Args:
            path: see :func:`part_path`.
            identity: all that decides the numbers (parameters, data hash, versions …), JSON-able.
            rows: how many rows there will be, at least 1.
            fields: by name the shape of one row's value, or (shape, dtype); float64 where no dtype is given.
            resume: continue an existing file, if its identity is the same; start one where there is none.

        Raises:
            StoreError: a part file exists and ``resume`` is false, its identity differs, another process is writing
                to it, or the disk refused.
        """
        path = Path(path)
        with (
            one_line(path, "opening the part file", "check free space and permissions"),
            contextlib.ExitStack() as undo,
        ):
            work = Work(identity, rows, {name: shape_and_dtype(spec) for name, spec in fields.items()})
            text = work.to_json()
            undo.enter_context(sole(path, "writing", "another process is writing to it; wait until it is done"))
            if not path.exists():
                _check_space(path, rows * work.row_bytes)
                part_database.create(path, text)
            elif not resume:
                raise StoreError("unfinished work exists; resume it, or remove the file to start over")
            database = part_database.open_to_write(path)
            undo.callback(database.close)
            part = cls(path, work, database)
            part._take_up(text)
            part._held = undo.pop_all()
        return part

    @property
    def status(self) -> np.ndarray:
        """Status of every row, (rows,) uint8, see :class:`landscape.records.Status`."""
        status = self._status.copy()
        for row, (code, _) in self._buffer.items():
            status[row] = code
        return status

    def pending(self) -> list[int]:
        """Rows still to be computed, ascending."""
        return np.flatnonzero(self.status == Status.PENDING).tolist()

    def write(self, row: int, status: Status = Status.OK, **values: Any) -> None:
        """Hand over one row; it is durable after the next commit, which comes by itself every half second.

        A row with status OK needs every field; with another status, missing fields stay NaN (0 where integer).

        Raises:
            StoreError: no such row or field, a wrong shape, or a commit that failed.
        """
        fields = self._work.fields
        if not 0 <= row < len(self._status) or status == Status.PENDING:
            raise StoreError(
                f"{self.path}: row {row} with status {status!r}; expected 0..{len(self._status) - 1}, done"
            )
        wrong = values.keys() - fields.keys() or (fields.keys() - values.keys() if status == Status.OK else ())
        if wrong:
            expected = ", ".join(f"{name} {shape}" for name, (shape, _) in fields.items())
            raise StoreError(
                f"{self.path}: row {row} has unknown or missing fields {sorted(wrong)}; expected {expected}"
            )
        arrays = {name: np.asarray(value, fields[name][1]) for name, value in values.items()}
        for name, array in arrays.items():
            if array.shape != fields[name][0]:
                raise StoreError(
                    f"{self.path}: {name} of row {row} has shape {array.shape}, expected {fields[name][0]}"
                )
        self._buffer[int(row)] = (Status(status), self._work.packed(arrays))
        if time.monotonic() - self._committed_at >= COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Return when all rows handed over are on the medium.

        Raises:
            StoreError: the disk refused; rows committed before are safe.
        """
        if not self._open:
            raise StoreError(f"{self.path}: the part file is closed; create it again with resume to go on")
        if self._buffer:
            remedy = "rows committed before are safe; check the disk, then resume"
            rows = [(row, status, data) for row, (status, data) in sorted(self._buffer.items())]
            try:
                with one_line(self.path, "committing rows", remedy):
                    part_database.put(self._database, self._work, rows)
            except StoreError:
                self._release()
                raise
            self._status = self.status
            self._buffer.clear()
        self._committed_at = time.monotonic()

    def read(self) -> dict[str, np.ndarray]:
        """All fields by name, (rows, …); what is pending is NaN (0 where integer).

        Raises:
            StoreError: a committed row does not match its checksum.
        """
        self.commit()
        with one_line(self.path, "reading", "resume to compute the damaged rows again"):
            return self._work.unpacked(self._rows())

    def discard(self) -> None:
        """Close and remove the file, once its result is safe in a finished file."""
        with one_line(self.path, "removing", "remove it by hand"):
            self._database.close()
            log_of(self.path).unlink(missing_ok=True)
            self.path.unlink()
            fsync_folder(self.path.parent)
            self._release()

    def close(self) -> None:
        """Commit and close; the file stays, to be resumed.

        Raises:
            StoreError: the last commit failed.
        """
        if not self._open:
            return
        try:
            self.commit()
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed = kind is not None and issubclass(kind, Exception)
        if failed and self._open and not self.status.any():
            self.discard()
        self.close()

    def _release(self) -> None:
        self._open = False
        self._held.close()

    def _rows(self) -> Iterator[tuple[int, bytes]]:
        for row, status, data in part_database.rows_of(self._database, self._work):
            if status == Status.PENDING:
                raise StoreError(f"row {row} does not match its checksum; resume to compute it again")
            yield row, data

    def _take_up(self, text: str) -> None:
        """Refuse a file of other work; take back rows damaged since they were committed."""
        found = part_database.checked_work(self._database)
        difference = first_difference(json.loads(found), json.loads(text))
        if difference:
            raise StoreError(f"cannot resume, {difference}; use the same settings or remove the file")
        damaged = []
        for row, status, _ in part_database.rows_of(self._database, self._work):
            if status == Status.PENDING:
                damaged.append(row)
            else:
                self._status[row] = status
        if damaged:
            logger.warning("%s: rows %s are damaged and will be computed again", self.path, damaged)
            part_database.take_back(self._database, self._work, damaged)


def first_difference(found: Any, wanted: Any, key: str = "") -> str | None:
    """Find where two JSON values first differ, in words; None where they are equal."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted(found.keys() | wanted.keys()):
            if name not in found or name not in wanted:
                have, want = (repr(side[name]) if name in side else "absent" for side in (found, wanted))
                return f"{key}{name} was {have} and is now {want}"
            difference = first_difference(found[name], wanted[name], f"{key}{name}.")
            if difference:
                return difference
        return None
    return None if found == wanted else f"{key.removesuffix('.')} was {found!r} and is now {wanted!r}"


def _check_space(path: Path, needed: int) -> None:
    """Refuse rows that will not fit: better now than after hours of computing."""
    disk = shutil.disk_usage(path.parent)
    if disk.total and needed > disk.free:  # some network file systems tell nothing
        raise StoreError(f"its rows need {needed} bytes and {disk.free} are free; make room or choose another folder")
