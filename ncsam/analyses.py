"""Measurements on a run file: computed row by row in a part file, then added to the run file as one result."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypedDict, TypeVar, Unpack

import numpy as np
import torch

import landscape
from landscape import store
from landscape.records import Line, Plane, Record, Status
from landscape.store import PartFile, StoreError
from landscape.surface import row_fields
from ncsam.execution import usable_device
from ncsam.run import Run
from ncsam.schema import SharpnessTable, Spectrum

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


def measure_spectrum(
    run: Run,
    name: str = "top5",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epochs: Sequence[int | str] = ("last",),
    k: int = 5,
    which: str = "LA",
    tol: float = 1e-3,
    trace_matvecs: int = 100,
    seed: int = 0,
    **where: Unpack[Where],
) -> Spectrum:
    """Top ``k`` Hessian eigenvalues and trace on each view at each epoch; stored as ``hessian/<name>``.

    Args:
        trace_matvecs: probes of the trace, 0 for none.
        where: see :class:`Where`.

    Raises:
        ValueError, StoreError: something asked for is impossible, exists already, or cannot be written.
    """
    fields: dict[str, tuple[int, ...]] = {"values": (k,), "residuals": (k,), "converged": (k,), "matvecs": ()}
    if trace_matvecs:
        fields |= {"trace": (), "trace_stderr": ()}
    settings = {"which": which, "tol": tol, "trace_matvecs": trace_matvecs, "seed": seed}

    def measure(objective: landscape.Objective) -> tuple[Status, dict[str, Any]]:
        H = landscape.HessianOperator(objective)
        pairs = landscape.top_eigenpairs(H, k, which=which, tol=tol, seed=seed)
        row: dict[str, Any] = {n: getattr(pairs, n) for n in ("values", "residuals", "converged", "matvecs")}
        if trace_matvecs:
            t = landscape.trace(H, trace_matvecs, seed=seed)
            row |= {"trace": t.value, "trace_stderr": t.stderr}
        return Status.OK if pairs.converged.all() else Status.NOT_CONVERGED, row

    return _by_epoch_and_view(Spectrum, run, f"hessian/{name}", epochs, views, fields, settings, measure, where)


def measure_sharpness(
    run: Run,
    name: str = "default",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epochs: Sequence[int | str] = ("last",),
    rho: float = 0.05,
    adaptive_rho: float = 0.5,
    sigma: float | None = None,
    steps: int = 1,
    samples: int = 20,
    seed: int = 0,
    **where: Unpack[Where],
) -> SharpnessTable:
    """SAM and adaptive (and, with ``sigma``, average) sharpness on each view; stored as ``sharpness/<name>``.

    Args:
        where: see :class:`Where`.

    Raises:
        ValueError, StoreError: something asked for is impossible, exists already, or cannot be written.
    """
    fields: dict[str, tuple[int, ...]] = {"loss": (), "sam": (), "adaptive": ()}
    if sigma is not None:
        fields |= {"average": (), "average_stderr": ()}
    settings = {
        "rho": rho,
        "adaptive_rho": adaptive_rho,
        "sigma": sigma,
        "steps": steps,
        "samples": samples,
        "seed": seed,
    }

    def measure(objective: landscape.Objective) -> tuple[Status, dict[str, Any]]:
        sam = landscape.sam_sharpness(objective, rho, steps=steps)
        adaptive = landscape.adaptive_sharpness(objective, adaptive_rho, steps=steps)
        row = {"loss": sam.loss, "sam": sam.value, "adaptive": adaptive.value}
        if sigma is not None:
            average = landscape.average_sharpness(objective, sigma, num_samples=samples, seed=seed)
            row |= {"average": average.value, "average_stderr": average.stderr}
        return Status.OK if np.isfinite(list(row.values())).all() else Status.NONFINITE, row

    return _by_epoch_and_view(SharpnessTable, run, f"sharpness/{name}", epochs, views, fields, settings, measure, where)


def measure_line(
    run: Run,
    name: str = "line",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epoch: int | str = "last",
    alphas: Sequence[float],
    seed: int = 0,
    **where: Unpack[Where],
) -> Line:
    """All views along a filter-normalised random direction; stored as ``surface/<name>``, see :class:`Where`."""
    record = _surface(run, name, views, epoch, seed, [list(map(float, alphas))], where)
    assert isinstance(record, Line)
    return record


def measure_plane(
    run: Run,
    name: str = "plane",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epoch: int | str = "last",
    alphas: Sequence[float],
    betas: Sequence[float],
    seed: int = 0,
    **where: Unpack[Where],
) -> Plane:
    """All views over two filter-normalised random directions; stored as ``surface/<name>``, see :class:`Where`.

    The first direction of a seed is the one that :func:`measure_line` takes.
    """
    record = _surface(run, name, views, epoch, seed, [list(map(float, alphas)), list(map(float, betas))], where)
    assert isinstance(record, Plane)
    return record


def _surface(
    run: Run, name: str, views: Sequence[str], epoch: int | str, seed: int, grids: list[list[float]], where: Where
) -> Record:
    objective = _objective(run, epoch, views, where)
    directions = [
        landscape.filter_normalized_direction(objective.model, seed=2 * seed + axis) for axis in range(len(grids))
    ]
    settings = {"epoch": run.epoch(epoch), "views": list(views), "seed": seed, "grids": grids}
    count = math.prod(len(grid) for grid in grids)
    draw: Callable[..., Record] = landscape.line if len(grids) == 1 else landscape.plane
    with _result(run, f"surface/{name}", settings, count, row_fields(objective), where) as (part, finish):
        return finish(draw(objective, *directions, *grids, seed=seed, rows=part, progress=where.get("progress", iter)))


def _by_epoch_and_view(
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
    objectives = {at[0]: _objective(run, at[0], views, where)}
    fields = {**fields, "weight_norm": ()}
    identity = {**settings, "epochs": at, "views": list(views)}
    with _result(run, name, identity, len(at) * len(views), fields, where) as (part, finish):
        for row in where.get("progress", iter)(part.pending()):
            epoch, view = at[row // len(views)], views[row % len(views)]
            if epoch not in objectives:
                objectives = {epoch: _objective(run, epoch, views, where)}
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


def _objective(run: Run, epoch: int | str, views: Sequence[str], where: Where) -> landscape.Objective:
    dtype = DTYPES[where.get("dtype", "float32")]
    device = usable_device(where.get("device", "cpu"))
    return run.objective(epoch, views, device=str(device), dtype=dtype)


@contextmanager
def _result(
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
