"""What all measurements share: where they are computed, their part file, and rows by epoch and view."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import numpy as np
import torch

import landscape
from landscape import inputs, store
from landscape.ranks import Ranks
from landscape.records import Record, Status
from landscape.store import PartFile, StoreError
from landscape.store.room import check_room
from ncsam.measurements.mirror import Mirror
from ncsam.measurements.warm_start import Handover
from ncsam.runs.run import Run
from ncsam.training.execution import usable_device

ANALYSIS_VIEWS = ("mixed", "clean_part", "noisy_part", "true_labels", "test")
DTYPES = {"float32": torch.float32, "float64": torch.float64}

R = TypeVar("R", bound=Record)
T = TypeVar("T")
Part = PartFile | Mirror


class Where(TypedDict, total=False):
    """How a measurement is carried out, whatever is measured.

    Keys:
        dtype: ``float32`` (default) or ``float64``.
        device: as torch spells it; the CPU by default.
        overwrite: replace a result of the same name.
        resume: continue what a stopped measurement left.
        progress: wraps the iteration over rows, e.g. ``tqdm.auto.tqdm``.
        ranks: processes that all carry out this measurement and share its work; the first of them alone touches files.
        provenance: how the measurement was asked for, JSON-able; stored with the result.
    """

    dtype: str
    device: str
    overwrite: bool
    resume: bool
    progress: Callable[[Iterable[int]], Iterable[int]]
    ranks: Ranks | None
    provenance: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """One row of a table: a view at an epoch.

    Attributes:
        index: position of the epoch among those asked for.
        epoch: of the weights.
        view: what is measured.
        objective: with every view that the measurement needs, on the parameters that it is restricted to.
    """

    index: int
    epoch: int
    view: str
    objective: landscape.Objective

    @property
    def here(self) -> landscape.Objective:
        """The objective's view that is measured."""
        return self.objective.view(self.view)


class Measurement(ABC):
    """What is measured on one view at one epoch; the same object serves all rows of a table, in their order.

    Attributes:
        needs: further views that the objective must have.
        params: patterns of the parameters that the objective is restricted to; all if none.
    """

    needs: tuple[str, ...] = ()
    params: tuple[str, ...] = ()

    @abstractmethod
    def fields(self, objective: landscape.Objective) -> dict[str, Any]:
        """Names and shapes (or shape and dtype) of what a row holds."""

    @abstractmethod
    def measure(self, place: Place) -> tuple[Status, dict[str, Any]]:
        """The row of a place; what it leaves out is NaN."""

    def labels(self, objective: landscape.Objective) -> dict[str, Any]:
        """What all rows have in common: labels of axes, settings that follow from the model."""
        return {}

    def complete(self, table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The fields of all rows, (epoch, view, …), as the record has them."""
        return table

    def handover(
        self,
        part: Part,
        objective_at: Callable[[int], landscape.Objective],
        identity: dict[str, Any],
        ranks: Ranks | None,
    ) -> Handover | None:
        """What one epoch hands to the next, if anything; called once, before the first row.

        ``objective_at`` gives the objective of an epoch by its position; ``ranks`` are the processes that measure.
        """
        return None


def by_epoch_and_view(
    kind: type[R],
    run: Run,
    name: str,
    epochs: Sequence[int | str],
    views: Sequence[str],
    measurement: Measurement,
    settings: Mapping[str, Any],
    where: Where,
) -> R:
    """One row for each (epoch, view), epochs outermost; ``kind`` takes the fields, the settings and what is common.

    Every row has the norm of the weights, and the CPU seconds it took.
    """
    if not epochs or not views:
        raise ValueError("expected at least one epoch and one view")
    at = [run.epoch(e) for e in epochs]
    if len(set(at)) < len(at) or len(set(views)) < len(views):
        raise ValueError(f"an epoch or view is named twice: epochs {at}, views {list(views)}")
    needed = [*views, *(v for v in measurement.needs if v not in views)]

    def objective_at(index: int) -> landscape.Objective:
        objective = objective_of(run, at[index], needed, where)
        return objective.restricted(*measurement.params) if measurement.params else objective

    objectives = {0: objective_at(0)}
    labels = measurement.labels(objectives[0])
    fields = {**measurement.fields(objectives[0]), "weight_norm": (), "seconds": ()}
    ranks = where.get("ranks")
    processes = 1 if ranks is None else ranks.size  # sums over other shares of the data differ in rounding
    identity = {**settings, "epochs": at, "views": list(views), "processes": processes}
    with result_of(run, name, identity, len(at) * len(views), fields, where) as (part, finish):
        handover = measurement.handover(part, objective_at, identity, ranks)
        for row in where.get("progress", iter)(part.pending()):
            index, view = row // len(views), views[row % len(views)]
            if index not in objectives:
                objectives = {index: objective_at(index)}
            place = Place(index, at[index], view, objectives[index])
            started = time.process_time()
            status: Status = Status.EMPTY
            values: dict[str, Any] = {}
            if place.objective.num_samples(view):
                status, values = measurement.measure(place)
            values["weight_norm"] = float(place.objective.weights.double().norm())
            seconds = time.process_time() - started
            values["seconds"] = seconds if ranks is None else sum(ranks.gather(seconds))
            missing = {n: np.full(_shape(spec), np.nan) for n, spec in fields.items() if n not in values}
            part.write(row, status=status, **values, **missing)
            if handover is not None and status != Status.EMPTY:
                part.commit()  # what is handed on must not be ahead of the rows
                handover.save(view)
        table: dict[str, Any] = {n: a.reshape(len(at), len(views), *a.shape[1:]) for n, a in part.read().items()}
        norms = table.pop("weight_norm")[:, 0]
        common: dict[str, Any] = {"epochs": np.array(at), "views": np.array(views), "weight_norm": norms}
        common |= {"status": part.status.reshape(len(at), len(views)), "dtype": where.get("dtype", "float32")}
        common["processes"] = processes
        found = finish(kind(**common, **labels, **measurement.complete(table), **settings))
        if handover is not None:
            handover.discard(views)
        return found


def _shape(spec: Any) -> tuple[int, ...]:
    """Of a field that is declared by its shape, or by shape and dtype."""
    return spec[0] if len(spec) == 2 and isinstance(spec[0], tuple) else spec


def _dtype(spec: Any) -> Any:
    return np.float64 if _shape(spec) is spec else spec[1]


def objective_of(run: Run, epoch: int | str, views: Sequence[str], where: Where) -> landscape.Objective:
    dtype = DTYPES[where.get("dtype", "float32")]
    device = usable_device(where.get("device", "cpu"))
    return shared(run.objective(epoch, views, device=str(device), dtype=dtype), where)


def shared(objective: landscape.Objective, where: Where) -> landscape.Objective:
    """The objective, its data shared by the processes that carry out the measurement."""
    ranks = where.get("ranks")
    return objective if ranks is None else landscape.sharded(objective, ranks.group)


def on_first(make: Callable[[], T], where: Where) -> T:
    """What ``make()`` gives on the first of the processes, on all of them: for files, clocks, and what takes no share.

    Raises:
        Exception: whatever ``make()`` raises, on all of them.
    """
    ranks = where.get("ranks")
    return make() if ranks is None else ranks.share(make)


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
        with store.open(path) as file:
            return cast(dict[str, Any], json.loads(file.attrs["work"])["identity"])

    return on_first(read, where)


@contextmanager
def result_of(
    run: Run,
    name: str,
    settings: Mapping[str, Any],
    rows: int,
    fields: Mapping[str, Any],
    where: Where,
) -> Iterator[tuple[Part, Callable[[Any], Any]]]:
    """A part file for ``name`` and the function that turns its rows, once complete, into a result of the run file.

    Of several processes the first one holds the file, and the others rows that are written alike.
    """
    with ExitStack() as stack:
        held: list[tuple[PartFile, Callable[[Any], Any]]] = []

        def hold() -> tuple[dict[str, np.ndarray], np.ndarray]:
            held.append(stack.enter_context(_on_disk(run, name, settings, rows, fields, where)))
            return held[0][0].read(), held[0][0].status

        found = on_first(hold, where)

        def finish(record: Any) -> Any:
            on_first(lambda: held[0][1](record), where)
            return record

        yield held[0][0] if held else Mirror(store.part_path(run.path, name), *found), finish


@contextmanager
def _on_disk(
    run: Run,
    name: str,
    settings: Mapping[str, Any],
    rows: int,
    fields: Mapping[str, Any],
    where: Where,
) -> Iterator[tuple[PartFile, Callable[[Any], None]]]:
    overwrite, resume = where.get("overwrite", False), where.get("resume", False)
    path = result_path(run, name)
    # A kill between adding the result and removing its part file leaves both; resuming then adds the same rows again.
    overwrite_result = overwrite or (resume and path.exists())
    with store.open(run.path) as file:
        if name in file and not overwrite_result:
            raise StoreError(f"{run.path}: {name!r} exists; choose another --name, or --overwrite")
    if not path.exists():
        row = sum(math.prod(_shape(spec)) * np.dtype(_dtype(spec)).itemsize for spec in fields.values())
        # On disk while it is made and once more as a result; in memory as rows and as arrays of the record
        check_room(f"{name} of {rows} rows", path.parent, disk=2 * rows * row, memory=2 * rows * row)
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


def _provenance(where: Where) -> dict[str, Any]:
    """How a result came about: what was asked for, and with which versions, threads and device it was computed."""
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
    """What the numbers depend on besides the settings: the run's configuration and data."""
    return hashlib.sha256(f"{run.attrs['config']} {run.attrs['data_hash']}".encode()).hexdigest()
