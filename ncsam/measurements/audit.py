"""An audit: what is usually asked of a checkpoint, of one or several side by side, within a stated budget."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import landscape
from landscape.records import Record, Status
from landscape.surfaces.recalibration import Recalibration
from ncsam import models
from ncsam.measurements.audit_checkpoint import (
    ADAPTIVE_RHO,
    ADAPTIVE_SIGMA,
    KESKAR,
    RHO,
    SIGMA,
    Checkpoint,
    Measuring,
    Place,
    Quantity,
    reduced,
)
from ncsam.measurements.audit_plan import Task, plan
from ncsam.measurements.forecast import timed
from ncsam.measurements.measurement import Subset
from ncsam.records import AUDIT, AuditTable
from ncsam.runs.import_run import uniform_loss, worse_than_a_guess

NULLS = ("shuffled", "fresh", "none")
_TIMED = 64  # samples of the pass that is timed
Progress = Callable[[list[Any], int], Iterable[Any]]


@dataclasses.dataclass(frozen=True)
class Audit:
    """An audit: its table, and all records by where they lie in the file."""

    table: AuditTable
    records: dict[str, Record]

    @property
    def contents(self) -> dict[str, Record]:
        """Records of the file by name."""
        return {AUDIT: self.table, **self.records}

    def by_label(self, what: str) -> dict[str, Any]:
        """The records of one kind of measurement, by checkpoint."""
        labels = self.table.checkpoints.tolist()
        places = {label: f"{n}/{what}" for n, label in enumerate(labels, 1)}
        return {label: self.records[at] for label, at in places.items() if at in self.records}


def audit(
    checkpoints: Sequence[Checkpoint],
    *,
    view: str = "mixed",
    reference: Checkpoint | None = None,
    null: str = "shuffled",
    seconds: float | None = None,
    work: float | None = None,
    subset: int | None = 2000,
    subset_seed: int = 0,
    seed: int = 0,
    span: float = 1.0,
    place: Place | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Measure checkpoints side by side: losses, curvature, sharpness, surfaces, barriers, and a null.

    How much is measured follows from the work by a fixed rule (:func:`ncsam.measurements.audit_plan.plan`); the same
    work gives the same numbers. A time is turned into work by a pass that is timed.

    Args:
        checkpoints: of one data set.
        view: that curvature and sharpness are measured on; surfaces also show the test data.
        reference: the other end of the barriers; the first checkpoint if none, for the others.
        null: the first checkpoint's network with the entries of every weight tensor ``shuffled``, with ``fresh``
            weights, or ``none``; BatchNorm statistics are recomputed.
        seconds, work: the budget, as a time or as forward passes of one sample; one of them.
        subset, subset_seed: samples that are drawn from each view at most, all if none.
        seed: of start vectors, probes, perturbations, directions and the null.
        span: of lines and planes, in filter norms.
        place: device and precision; float32 on the CPU if none.
        progress: wraps the iteration over what is measured; gets a list and its length.

    Raises:
        ValueError: an unknown view or null, no or two budgets, checkpoints of different data or networks.
    """
    place = place or Place.of("cpu", "float32")
    if null not in NULLS:
        raise ValueError(f"null is {null!r}, expected {', '.join(NULLS)}")
    if (seconds is None) == (work is None):
        raise ValueError("give the budget as a time or as work, one of them")
    if not span > 0 or not math.isfinite(span):
        raise ValueError(f"span is {span}, expected a positive, finite number")
    _check_alike([*checkpoints, *([reference] if reference else [])])
    ends = _ends(checkpoints, reference)
    first = checkpoints[0]
    views = _views(first, view)
    drawing = Subset(subset, subset_seed) if subset is not None else None
    sample = reduced(first.objective([view], place), drawing)
    losses = reduced(first.objective(views, place), drawing)
    task = Task(
        checkpoints=len(checkpoints),
        ways=len(ends),
        samples=sample.num_samples(view),
        losses=samples_of(losses),
        null=null != "none",
    )
    if task.samples < 1:
        raise ValueError(f"the view {view!r} of {first.file} has no samples; take another with --view")
    speed = _seconds_a_sample(sample) if seconds is not None else None
    chosen = plan(task, work if seconds is None else seconds / speed)  # type: ignore[arg-type, operator]
    measuring = Measuring(view, views, drawing, chosen, seed, span, place)
    columns: list[tuple[str, nn.Module, Checkpoint, bool]] = [(c.label, c.model(place), c, False) for c in checkpoints]
    if chosen.effort.null:
        columns.append((f"null: {null} weights", make_null(first, null, seed, place, view), first, True))
    jobs = [
        (n, label, model, checkpoint, is_null, step)
        for n, (label, model, checkpoint, is_null) in enumerate(columns, 1)
        for step in measuring.steps(is_null)
    ]
    found: dict[str, dict[str, Quantity]] = {label: {} for label, *_ in columns}
    took = dict.fromkeys(found, 0.0)
    broken: dict[str, str] = {}
    for n, label, model, checkpoint, _, step in jobs if progress is None else progress(jobs, len(jobs)):
        begun = time.perf_counter()
        if label not in broken:
            try:
                found[label] |= step(n, label, model, checkpoint)
            except FloatingPointError as error:
                broken[label] = str(error)
            if found[label][f"loss of {view}"].status != Status.OK:
                broken[label] = f"its loss of {view} is not finite"
        took[label] += time.perf_counter() - begun
    left_out = [f"{what}: more than the budget allows" for what in chosen.left_out]
    for n, (label, model, checkpoint, _) in enumerate(columns, 1):
        if label in ends and label not in broken and chosen.effort.barrier:
            begun = time.perf_counter()
            try:
                found[label] |= measuring.barrier(n, label, model, checkpoint, ends[label])
            except ValueError as error:  # frozen parts differ, as of two pretrained networks
                left_out.append(f"the barrier of {label}: {error}")
            took[label] += time.perf_counter() - begun
    left_out += [f"the rest of {label}: {why}" for label, why in broken.items()]
    if not ends:
        left_out.append("the barrier: no reference was given")
    if null == "none":
        left_out.append("the null: not asked for")
    if chosen.samples < task.samples:
        left_out.append(
            f"curvature, sharpness and surfaces on {task.samples - chosen.samples} of the {task.samples} samples: "
            "more than the budget allows"
        )
    whole = first.run.problem.num_samples(view)
    if task.samples < whole:
        left_out.append(f"{whole - task.samples} of {whole} samples of {view}: not in the subset that was asked for")
    whole_columns = [(label, c) for label, _, c, is_null in columns if not is_null and label not in broken]
    losses_judged = [_judge_losses(label, found[label], checkpoint) for label, checkpoint in whole_columns]
    table = _table(
        found,
        seconds=np.array([took[label] for label in found]),
        view=view,
        plan={
            **dataclasses.asdict(chosen),
            "left_out": list(chosen.left_out),
            "budget_seconds": seconds,
            "seconds_a_sample": speed,
            "subset": subset,
            "subset_seed": subset_seed,
            "seed": seed,
            "span": span,
            "null": null,
            "radii": {"sam": RHO, "adaptive": ADAPTIVE_RHO, "average": SIGMA, "adaptive average": ADAPTIVE_SIGMA,
                      "keskar": KESKAR},
        },
        left_out=left_out,
        trust=[*losses_judged, *measuring.trust],
        origins=[_origin(label, checkpoint, is_null) for label, _, checkpoint, is_null in columns],
    )  # fmt: skip
    return Audit(table, measuring.records)


def _views(checkpoint: Checkpoint, view: str) -> tuple[str, ...]:
    """Views whose losses are told: with noise also the parts, beside the measured one."""
    noisy = bool(checkpoint.run.problem.labels.flipped[checkpoint.run.problem.train].any())
    usual = ("mixed", "clean_part", "noisy_part", "true_labels", "test") if noisy else ("mixed", "test")
    return tuple(dict.fromkeys((*usual, view)))


def samples_of(objective: landscape.Objective) -> int:
    """Samples that go through the model for all views together; those of one source share a pass."""
    rows: dict[str, set[int]] = {}
    for view in map(objective.view_of, objective.views):
        own = range(objective.num_samples(view.name)) if view.indices is None else view.indices.tolist()
        rows.setdefault(view.source, set()).update(own)
    return sum(map(len, rows.values()))


def _seconds_a_sample(objective: landscape.Objective) -> float:
    some = objective.sampled(_TIMED)
    with some.along([]) as evaluate:
        return timed(lambda: evaluate([])) / some.num_samples(some.views[0])


def _check_alike(checkpoints: Sequence[Checkpoint]) -> None:
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if other.run.problem.dataset.hash != first.run.problem.dataset.hash:
            what = "data" if other.run.config.normalization == first.run.config.normalization else "prepared inputs"
            raise ValueError(f"{other.file} has other {what} than {first.file}; audit them by themselves")
    labels = [c.label for c in checkpoints]
    if len(set(labels)) < len(labels):
        raise ValueError(f"checkpoints are named {', '.join(labels)}, expected different names")


def _ends(checkpoints: Sequence[Checkpoint], reference: Checkpoint | None) -> dict[str, Checkpoint]:
    """The checkpoint that the way from each one leads to, by label."""
    if reference is not None:
        return {c.label: reference for c in checkpoints}
    return {c.label: checkpoints[0] for c in checkpoints[1:]}


def make_null(checkpoint: Checkpoint, kind: str, seed: int, place: Place, view: str) -> nn.Module:
    """The checkpoint's network with other weights, BatchNorm statistics recomputed for them."""
    if kind == "fresh":
        run, dataset = checkpoint.run, checkpoint.run.problem.dataset
        built = models.build(run.config.model, dataset.input_shape, dataset.num_outputs, seed=seed, trust=True)
        model = built.to(place.device, place.dtype).eval()
    else:
        model = copy.deepcopy(checkpoint.model(place))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.flatten()[torch.randperm(p.numel(), generator=generator).to(p.device)].view_as(p))
    objective = checkpoint.run.problem.objective(model, (view,))
    try:
        recalibration = Recalibration(objective)
    except ValueError:  # nothing to recompute
        return model
    with torch.no_grad():
        recalibration(objective.context.call)
    return model


def _judge_losses(label: str, found: Mapping[str, Quantity], checkpoint: Checkpoint) -> dict[str, Any]:
    """The finding on losses that no trained network should have, as where inputs are prepared otherwise."""
    dataset = checkpoint.run.problem.dataset
    losses = {part: found[f"loss of {view}"].value for part, view in (("training", "mixed"), ("test", "test"))}
    told = worse_than_a_guess(losses, dataset)
    guess = uniform_loss(dataset)
    at_least = f"{min(losses.values()):.3g} on training or test data, the guess has {guess:.3g}"
    return {
        "picture": "losses",
        "checkpoint": label,
        "question": "is a loss below that of a uniform guess?",
        "answer": told if told is not None and checkpoint.run.imported else at_least,
        "ok": told is None and all(map(math.isfinite, losses.values())),
    }


def _origin(label: str, checkpoint: Checkpoint, null: bool) -> dict[str, Any]:
    attrs = checkpoint.run.attrs
    files: list[dict[str, Any]] = attrs.get("weights", [])
    imported = next((w for w in files if w["epoch"] == checkpoint.epoch), {})
    return {
        "label": label,
        "file": checkpoint.file,
        "epoch": checkpoint.epoch,
        "sha256": imported.get("sha256"),
        "model": checkpoint.run.config.model,
        "data": checkpoint.run.config.data,
        "data_hash": attrs.get("data_hash"),
        "noise": checkpoint.run.config.noise,
        "normalization": checkpoint.run.config.normalization,
        "inputs": checkpoint.run.problem.dataset.preparation,
        "null": null,
    }


def _table(found: Mapping[str, Mapping[str, Quantity]], **more: Any) -> AuditTable:
    names = list(dict.fromkeys(name for quantities in found.values() for name in quantities))
    missing = Quantity(math.nan, math.nan)
    missing.status = Status.PENDING
    rows = [[quantities.get(name, missing) for name in names] for quantities in found.values()]
    known = [next(q[name] for q in found.values() if name in q) for name in names]
    return AuditTable(
        checkpoints=np.array(list(found)),
        quantities=np.array(names),
        value=np.array([[cell.value for cell in row] for row in rows]),
        error=np.array([[cell.error for cell in row] for row in rows]),
        status=np.array([[cell.status for cell in row] for row in rows], np.uint8),
        kinds=np.array([quantity.kind for quantity in known]),
        views=np.array([quantity.view for quantity in known]),
        samples=np.array([quantity.samples for quantity in known]),
        **more,
    )
