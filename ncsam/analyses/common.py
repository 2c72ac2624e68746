"""What all measurements share: where they are computed, their part file, and rows by epoch and view."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypedDict, TypeVar

import numpy as np
import torch

import landscape
from landscape import store
from landscape.records import Record, Status
from landscape.store import PartFile, StoreError
from ncsam.execution import usable_device
from ncsam.run import Run

ANALYSIS_VIEWS = ("mixed", "clean_part", "noisy_part", "true_labels", "test")
DTYPES = {"float32": torch.float32, "float64": torch.float64}

R = TypeVar("R", bound=Record)


class Where(TypedDict, total=False):
    """How a measurement is carried out, whatever is measured.

    Keys:
        dtype: ``float32`` (default) or ``float64``.
        device: as torch spells it; the CPU by default.
        overwrite: replace a result of the same name.
        resume: continue what a stopped measurement left.
        progress: wraps the iteration over rows, e.g. ``tqdm.tqdm``.
    """

    dtype: str
    device: str
    overwrite: bool
    resume: bool
    progress: Callable[[Iterable[int]], Iterable[int]]


def by_epoch_and_view(
    kind: type[R],
    run: Run,
    name: str,
    epochs: Sequence[int | str],
    views: Sequence[str],
    fields: Mapping[str, tuple[int, ...]],
    settings: Mapping[str, Any],
    measure: Callable[[landscape.Objective], tuple[Status, dict[str, Any]]],
    where: Where,
) -> R:
    """One row for each (epoch, view), epochs outermost; ``kind`` takes the fields, the settings and what is common."""
    if not epochs or not views:
        raise ValueError("expected at least one epoch and one view")
    at = [run.epoch(e) for e in epochs]
    objectives = {at[0]: objective_of(run, at[0], views, where)}
    fields = {**fields, "weight_norm": ()}
    identity = {**settings, "epochs": at, "views": list(views)}
    with result_of(run, name, identity, len(at) * len(views), fields, where) as (part, finish):
        for row in where.get("progress", iter)(part.pending()):
            epoch, view = at[row // len(views)], views[row % len(views)]
            if epoch not in objectives:
                objectives = {epoch: objective_of(run, epoch, views, where)}
            objective = objectives[epoch]
            status: Status = Status.EMPTY
            values: dict[str, Any] = {}
            if objective.num_samples(view):
                status, values = measure(objective.view(view))
            values["weight_norm"] = float(objective.weights.double().norm())
            missing = {n: np.full(shape, np.nan) for n, shape in fields.items() if n not in values}
            part.write(row, status=status, **values, **missing)
        table: dict[str, Any] = {n: a.reshape(len(at), len(views), *a.shape[1:]) for n, a in part.read().items()}
        norms = table.pop("weight_norm")[:, 0]
        common: dict[str, Any] = {"epochs": np.array(at), "views": np.array(views), "weight_norm": norms}
        common |= {"status": part.status.reshape(len(at), len(views)), "dtype": where.get("dtype", "float32")}
        return finish(kind(**common, **table, **settings))


def objective_of(run: Run, epoch: int | str, views: Sequence[str], where: Where) -> landscape.Objective:
    dtype = DTYPES[where.get("dtype", "float32")]
    device = usable_device(where.get("device", "cpu"))
    return run.objective(epoch, views, device=str(device), dtype=dtype)


@contextmanager
def result_of(
    run: Run,
    name: str,
    settings: Mapping[str, Any],
    rows: int,
    fields: Mapping[str, tuple[int, ...]],
    where: Where,
) -> Iterator[tuple[PartFile, Callable[[Any], Any]]]:
    """A part file for ``name`` and the function that turns its rows, once complete, into a result of the run file."""
    overwrite, resume = where.get("overwrite", False), where.get("resume", False)
    path = store.part_path(run.path, name)
    # A kill between adding the result and removing its part file leaves both; resuming then adds the same rows again.
    overwrite_result = overwrite or (resume and path.exists())
    with store.open(run.path) as file:
        if name in file and not overwrite_result:
            raise StoreError(f"{run.path}: {name!r} exists; choose another --name, or --overwrite")
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

        def finish(record: Any) -> Any:
            part.commit()
            store.add(run.path, name, record, overwrite=overwrite_result)
            part.discard()
            return record

        yield part, finish


def _fingerprint(run: Run) -> str:
    """What the numbers depend on besides the settings: the run's configuration and data."""
    return hashlib.sha256(f"{run.attrs['config']} {run.attrs['data_hash']}".encode()).hexdigest()
