"""A measurement that can be stopped and resumed: its rows in a part file, then one result of the run file."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np
import torch

from landscape import inputs, ranks, store
from landscape.ranks import Ranks
from landscape.store import PartFile, StoreError
from landscape.store.part_work import shape_and_dtype
from landscape.store.room import check_room, peak_memory
from landscape.surfaces.scan import MemoryRows
from ncsam.measurements.forecast import Forecast, Tell
from ncsam.runs.run import Run

T = TypeVar("T")


class Where(TypedDict, total=False):
    """Settings of every measurement, whatever is measured.

    Keys:
        dtype: ``float32`` (default) or ``float64``.
        device: as torch spells it; the CPU by default.
        overwrite: replace a result of the same name.
        resume: continue what a stopped measurement left.
        progress: wraps the iteration over rows, e.g. ``tqdm.auto.tqdm``.
        ranks: processes that all carry out this measurement and share its work; the first of them alone touches files.
        provenance: how the measurement was asked for, JSON-able; stored with the result.
        forecast: called with a function that computes what the remaining rows will take, see :data:`Tell`.
    """

    dtype: str
    device: str
    overwrite: bool
    resume: bool
    progress: Callable[[Iterable[int]], Iterable[int]]
    ranks: Ranks | None
    provenance: Mapping[str, Any]
    forecast: Tell


class RowsInMemory(MemoryRows):
    """The rows of a part file in memory, for a process without the file; all write alike, so it has the same rows.

    Args:
        path: of the part file, which is never opened.
        rows, status: as :class:`landscape.store.PartFile` gave them.
    """

    def __init__(self, path: Path, rows: dict[str, np.ndarray], status: np.ndarray) -> None:
        super().__init__(rows, status)
        self.path = path

    def commit(self) -> None:
        """Nothing is to be made durable here."""


PartRows = PartFile | RowsInMemory


def on_first(make: Callable[[], T], where: Where) -> T:
    """Return on all processes what ``make()`` gives on the first: for files, clocks, and work that is not shared.

    Raises:
        Exception: whatever ``make()`` raises, on all of them.
    """
    return ranks.on_first(make, where.get("ranks"))


def result_path(run: Run, name: str) -> Path:
    """The part file of a result, whose name also becomes that of the file.

    Raises:
        ValueError: the name cannot be one.
    """
    for part in name.split("/"):
        inputs.file_name(part, "a result")
    return store.part_path(run.path, name)


def recorded_identity(run: Run, name: str, where: Where) -> dict[str, Any] | None:
    """The settings that a stopped measurement of ``name`` recorded, where it is to be resumed; else none."""
    path = result_path(run, name)

    def read() -> dict[str, Any] | None:
        if not (where.get("resume", False) and path.exists()):
            return None
        return dict(store.progress(path).work.identity)

    return on_first(read, where)


@contextmanager
def result_of(
    run: Run,
    name: str,
    settings: Mapping[str, Any],
    rows: int,
    fields: Mapping[str, Any],
    where: Where,
    *,
    forecast: Callable[[PartRows], Forecast] | None = None,
    beside: int = 0,
) -> Iterator[tuple[PartRows, Callable[[Any], Any]]]:
    """A part file for ``name`` and the function that turns its rows, once complete, into a result of the run file.

    Of several processes the first one holds the file, and the others hold the same rows in memory.

    Args:
        forecast: what the rows that are left will take; told where that is asked for, and some are. Its ``memory`` may
            leave out what the part of them that is timed has held.
        beside: bytes of other files that are kept beside the part file meanwhile.

    Raises:
        ValueError: there is no room for it.
        StoreError: it exists already, or cannot be written.
    """
    with ExitStack() as stack:
        held: list[tuple[PartFile, Callable[[Any], Any]]] = []

        def hold() -> tuple[dict[str, np.ndarray], np.ndarray]:
            held.append(stack.enter_context(_on_disk(run, name, settings, rows, fields, where, beside)))
            return held[0][0].read(), held[0][0].status

        found = on_first(hold, where)

        def finish(record: Any) -> Any:
            on_first(lambda: held[0][1](record), where)
            return record

        part: PartRows = held[0][0] if held else RowsInMemory(store.part_path(run.path, name), *found)
        tell = where.get("forecast")
        if tell is not None and forecast is not None and len(part.pending()):
            size = _size(rows, fields) + beside

            def told() -> Forecast:
                found, peak = forecast(part), peak_memory()  # that of the part that was timed for it too
                memory = 0 if peak is None else max(peak, found.memory) + size
                return dataclasses.replace(found, disk=size, memory=memory)

            tell(told)
        yield part, finish


@contextmanager
def _on_disk(
    run: Run,
    name: str,
    settings: Mapping[str, Any],
    rows: int,
    fields: Mapping[str, Any],
    where: Where,
    beside: int,
) -> Iterator[tuple[PartFile, Callable[[Any], None]]]:
    overwrite, resume = where.get("overwrite", False), where.get("resume", False)
    path = result_path(run, name)
    # A kill between adding the result and removing its part file leaves both; resuming then adds the same rows again.
    overwrite_result = overwrite or (resume and path.exists())
    store.check_seal(run.path)
    with store.open(run.path) as file:
        if name in file and not overwrite_result:
            raise StoreError(f"{run.path}: {name!r} exists; choose another --name, or --overwrite")
    if not path.exists():
        size = _size(rows, fields)
        check_room(f"{name} of {rows} rows", path.parent, disk=size + beside, memory=size)
    if overwrite and not resume:
        path.unlink(missing_ok=True)
    identity = {
        **settings,
        "dtype": where.get("dtype", "float32"),
        "device": where.get("device", "cpu"),
        "run": _fingerprint(run),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    with PartFile.create(path, identity, rows, fields, resume=resume) as part:

        def finish(record: Any) -> None:
            part.commit()
            store.add(run.path, name, record, overwrite=overwrite_result, provenance=_provenance(where))
            part.discard()

        yield part, finish


def _size(rows: int, fields: Mapping[str, Any]) -> int:
    """Bytes on disk, of rows while they are made and of the result; in memory, of rows and of the record's arrays."""
    return 2 * rows * sum(math.prod(shape) * dtype.itemsize for shape, dtype in map(shape_and_dtype, fields.values()))


def _provenance(where: Where) -> dict[str, Any]:
    """Provenance of a result: what was asked for, and with which versions, threads and device it was computed."""
    asked = where.get("provenance", {})
    stamp = store.stamp(
        config=asked.get("options", {}),
        seeds={},
        data_hash=None,
        command=asked.get("command"),
        device=where.get("device", "cpu"),
    )
    kept = {key: value for key, value in stamp.items() if key not in ("schema", "seeds", "data_hash")}
    return {**kept, "given": dict(asked.get("given", {}))}


def _fingerprint(run: Run) -> str:
    """All that the numbers depend on besides the settings: the run's configuration and data, and imported weights."""
    weights = f" {run.attrs.get('weights')}" if run.imported else ""
    return hashlib.sha256(f"{run.attrs['config']} {run.attrs['data_hash']}{weights}".encode()).hexdigest()
