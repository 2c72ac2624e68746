"""Part files: work in progress, row by row, that survives a kill at any moment.

Everything is created and allocated before the first row, in a temporary file that only then gets its name. From then
on the file's structure never changes: rows are overwritten in place, first the data, made durable, then the row's
status, made durable. A row whose status says it is there is there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from landscape.records import Status
from landscape.store import schema
from landscape.store.arrays import read_raw
from landscape.store.attributes import decode, raw_attributes, to_json, write_attributes
from landscape.store.disk import Disk, deferred_signals, fsync_folder
from landscape.store.errors import StoreError, one_line
from landscape.store.lock import try_lock
from landscape.store.manifest import member
from landscape.store.slots import Slots
from landscape.store.temporary import publish, temporary_file
from landscape.store.writer import FORMAT

logger = logging.getLogger(__name__)

COMMIT_EVERY = 0.5  # seconds; a kill loses at most this much work and the row in progress
REMEDY = "rows committed before are safe; check the disk, then resume"

Shape = tuple[int, ...]


def part_path(path: str | Path, name: str) -> Path:
    """Where work in progress on the content ``name`` of the file ``path`` lies.

    >>> part_path("runs/a.h5", "hessian/top5").as_posix()
    'runs/a.h5.hessian.top5.part'
    """
    path = Path(path)
    return path.with_name(f"{path.name}.{name.replace('/', '.')}.part")


class PartFile:
    """A table of rows being filled, on disk. Use :meth:`create`; a context manager that commits and closes.

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

    def __init__(self, path: Path, disk: Disk, lock: int, fields: Mapping[str, tuple[Shape, np.dtype]]) -> None:
        self.path = path
        self._disk = disk
        self._lock: int | None = lock
        self._fields = fields
        self._slots: dict[str, Slots] = {}
        self._status_at = 0
        self._status = np.zeros(0, np.uint8)
        self._buffer: dict[int, tuple[Status, dict[str, bytes]]] = {}
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
        layout = {name: _shape_and_dtype(name, spec) for name, spec in fields.items()}
        if rows < 1 or "status" in layout:
            raise StoreError(f"{path}: got {rows} rows and fields {sorted(layout)}; pass rows >= 1, no field 'status'")
        wanted = {
            "identity": dict(identity),
            "rows": rows,
            "fields": {name: [list(shape), dtype.str] for name, (shape, dtype) in layout.items()},
        }
        text = to_json(wanted, f"{path}: identity")
        with deferred_signals(), one_line(path, "opening the part file", "check free space and permissions"):
            lock = None
            if not path.exists():
                lock = _start(path, text, rows, layout)
            elif not resume:
                raise StoreError(f"{path}: unfinished work exists; resume it, or remove the file to start over")
            lock = try_lock(path) if lock is None else lock
            if lock is None:
                raise StoreError(f"{path}: another process is writing to it; wait until it is done")
            with contextlib.ExitStack() as undo:
                undo.callback(os.close, lock)
                disk = Disk(path, "r+")
                undo.callback(disk.close)
                part = cls(path, disk, lock, layout)
                part._take_up(json.loads(text))
                undo.pop_all()
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
        if not 0 <= row < len(self._status) or status == Status.PENDING:
            raise StoreError(
                f"{self.path}: row {row} with status {status!r}; expected 0..{len(self._status) - 1}, done"
            )
        wrong = values.keys() - self._fields.keys() or (
            self._fields.keys() - values.keys() if status == Status.OK else ()
        )
        if wrong:
            raise StoreError(
                f"{self.path}: row {row} has unknown or missing fields {sorted(wrong)}; {self._described()}"
            )
        filled = {}
        for name, (shape, dtype) in self._fields.items():
            value = np.asarray(values.get(name, _fill(dtype)), dtype)
            if name in values and value.shape != shape:
                raise StoreError(f"{self.path}: {name} of row {row} has shape {value.shape}, expected {shape}")
            filled[name] = np.broadcast_to(value, shape).tobytes()
        self._buffer[row] = (Status(status), filled)
        if time.monotonic() - self._committed_at >= COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Return when all rows handed over are on the medium.

        Raises:
            StoreError: the disk refused; rows committed before are safe.
        """
        if self._lock is None:
            raise StoreError(f"{self.path}: the part file is closed; create it again with resume to go on")
        if self._buffer:
            with deferred_signals(), one_line(self.path, "committing rows", REMEDY):
                buffered = sorted(self._buffer.items())
                rows = np.array([row for row, _ in buffered])
                if self._status[rows].any():  # rows being replaced must not look done while they change
                    self._mark(rows, Status.PENDING)
                for name, slots in self._slots.items():
                    slots.write(self._disk, rows, b"".join([values[name] for _, (_, values) in buffered]))
                self._disk.sync()
                self._mark(rows, [status for _, (status, _) in buffered])
                self._buffer.clear()
        self._committed_at = time.monotonic()

    def read(self) -> dict[str, np.ndarray]:
        """All fields by name, (rows, …); what is pending is NaN (0 where integer).

        Raises:
            StoreError: a committed row does not match its checksum.
        """
        self.commit()
        with one_line(self.path, "reading", "resume to compute the damaged rows again"), self._opened() as file:
            return read_rows(file, self._status)

    def discard(self) -> None:
        """Close and remove the file, once its result is safe in a finished file."""
        with one_line(self.path, "removing", "remove it by hand"):
            self._disk.close()
            self.path.unlink()
            self._release()
            fsync_folder(self.path.parent)

    def close(self) -> None:
        """Commit and close; the file stays, to be resumed.

        Raises:
            StoreError: the last commit failed.
        """
        if self._lock is None:
            return
        try:
            if self._disk.error is None:
                self.commit()
        finally:
            with deferred_signals():
                self._disk.close()
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mark(self, rows: np.ndarray, codes: Any) -> None:
        """Set the status of ``rows`` (ascending), durably."""
        status = self._status.copy()
        status[rows] = codes
        self._disk.seek(self._status_at + int(rows[0]))
        self._disk.write(status[rows[0] : rows[-1] + 1])
        self._disk.sync()
        self._status = status

    def _opened(self) -> h5py.File:
        # Through our own descriptor: by its path, HDF5 would share caches with others who have it open in this process.
        return h5py.File(self._disk, "r")

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def _take_up(self, wanted: dict[str, Any]) -> None:
        """Refuse a file of other work; find the places of rows; take back rows damaged since they were committed."""
        size = self.path.stat().st_size
        with self._opened() as file:
            attributes = raw_attributes(file, size)
            schema.version_of(attributes)
            found = json.loads(decode(attributes["work"]))
            difference = first_difference(found, wanted)
            if difference:
                raise StoreError(f"{self.path}: cannot resume, {difference}; use the same settings or remove the file")
            self._slots = {name: Slots.of(file[name], size) for name in self._fields}
            self._status = read_status(file, size)
            self._status_at = file["status"].id.get_offset()
            damaged = _damaged(file, self._status)
        if damaged:
            logger.warning("%s: rows %s are damaged and will be computed again", self.path, damaged)
            self._mark(np.array(damaged), Status.PENDING)

    def _described(self) -> str:
        return "expected " + ", ".join(f"{name} {shape}" for name, (shape, _) in self._fields.items())


def read_status(file: h5py.File, file_size: int) -> np.ndarray:
    """Status of every row of an open part file, (rows,) uint8."""
    return read_raw(member(file, "status"), file_size)


def read_rows(file: h5py.File, status: np.ndarray) -> dict[str, np.ndarray]:
    """All fields of an open part file; rows without a status are not read, a torn write may have left them damaged."""
    fields = {}
    for name in file:
        if name != "status":
            values = np.full(file[name].shape, _fill(file[name].dtype), file[name].dtype)
            for first, last in _runs(np.flatnonzero(status).tolist()):
                values[first : last + 1] = file[name][first : last + 1]
            fields[name] = values
    return fields


def _damaged(file: h5py.File, status: np.ndarray) -> list[int]:
    """Rows whose status is no status code, or whose values do not match their checksum."""
    unknown = status > max(Status)
    try:
        read_rows(file, status)
    except OSError:  # only then one by one
        for row in np.flatnonzero(status).tolist():
            unknown[row] |= not _intact(file, row)
    return np.flatnonzero(unknown).tolist()


def _intact(file: h5py.File, row: int) -> bool:
    try:
        for name in file:
            file[name][row]
    except OSError:
        return False
    return True


def first_difference(found: Any, wanted: Any, key: str = "") -> str | None:
    """Where two JSON values first differ, in words; None where they are equal."""
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


def _start(path: Path, text: str, rows: int, layout: Mapping[str, tuple[Shape, np.dtype]]) -> int | None:
    """Write an empty part file and give it its name; the lock on it, where that survives the naming."""
    with temporary_file(path) as (disk, lock):
        with h5py.File(disk, "w", libver=FORMAT) as file:
            write_attributes(file, {"schema": schema.VERSION, "kind": "part", "work": text})
            _allocate(file, "status", (rows,), np.dtype("u1"), chunk=None)
            for name, (shape, dtype) in layout.items():
                _allocate(file, name, (rows, *shape), dtype, chunk=(1, *shape))
        publish(disk, path, overwrite=False)
        return None if lock is None else os.dup(lock)


def _allocate(file: h5py.File, name: str, shape: Shape, dtype: np.dtype, chunk: Shape | None) -> None:
    """A data set whose every byte is on disk, filled, before the first row: later writes never allocate."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_ALLOC)
    properties.set_fill_value(np.array(_fill(dtype), dtype))
    if chunk:
        properties.set_chunk(chunk)
        properties.set_fletcher32()
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, properties)


def _fill(dtype: np.dtype) -> Any:
    return np.nan if dtype.kind == "f" else 0


def _shape_and_dtype(name: str, spec: Any) -> tuple[Shape, np.dtype]:
    shape, dtype = spec if len(spec) == 2 and isinstance(spec[0], tuple | list) else (spec, np.float64)
    shape, dtype = tuple(int(size) for size in shape), np.dtype(dtype)
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or not all(shape) or not name or "/" in name:
        raise StoreError(f"field {name!r} has shape {shape} and dtype {dtype}; expected sizes >= 1 and plain numbers")
    return shape, dtype.newbyteorder("<")


def _runs(rows: list[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of neighbouring rows, so that a burst is written with few calls."""
    first = previous = None
    for row in rows:
        if first is None or previous is None:
            first = row
        elif row != previous + 1:
            yield first, previous
            first = row
        previous = row
    if first is not None and previous is not None:
        yield first, previous
