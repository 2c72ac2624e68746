"""Gradient diagnostics at the checkpoints of a run: some of its batches, and the full training set."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Unpack

import numpy as np

from landscape.records import Status
from landscape.surfaces.scan import groups, together
from ncsam.measurements.forecast import Forecast, counted, timed
from ncsam.measurements.measurement import DTYPES, epochs_of
from ncsam.measurements.resumable import PartRows, Where, result_of
from ncsam.records import Diagnostics
from ncsam.runs.run import Run
from ncsam.training.execution import usable_device
from ncsam.training.gradient_diagnostics import QUANTITIES, Diagnosis


def measure_diagnostics(
    run: Run,
    name: str = "default",
    *,
    epochs: Sequence[int | str] = ("last",),
    batches: int = 8,
    full: bool = True,
    noise: str | None = None,
    seed: int = 0,
    **where: Unpack[Where],
) -> Diagnostics:
    """:data:`ncsam.training.gradient_diagnostics.QUANTITIES` at checkpoints of a run; stored as ``diagnostics/<name>``.

    At the weights after epoch e the batches are the first of epoch e + 1 in the run's own order, which is what it would
    train on next. The intervals are over batches at fixed weights: they say how well the mean is known there, nothing
    about other seeds.

    Args:
        batches: of each epoch.
        full: also the full training set, as one batch; it costs about as much as six epochs of SGD.
        noise: take the labels of this noise, drawn with the run's seed, instead of the run's own.
        where: see :class:`Where`.

    Raises:
        ValueError, StoreError: something asked for is impossible, exists already, or cannot be written.
    """
    if batches < 1:
        raise ValueError(f"batches is {batches}, expected at least 1")
    at = epochs_of(run, epochs)
    problem = run.problem  # the data are compared with the run's before other labels are put on them
    if noise is not None:
        problem = problem.relabelled(noise, run.config.seeds["noise"])
    device, dtype = usable_device(where.get("device", "cpu")), DTYPES[where.get("dtype", "float32")]
    diagnosis = Diagnosis(run.config, problem, device=device, dtype=dtype, seed=seed)
    count = diagnosis.count(batches)
    rows = count + int(full)
    ranks = where.get("ranks")
    processes = ranks.size if ranks is not None and full else 1  # batches are the same whoever looks at them
    identity = {
        "epochs": at, "batches": count, "full": full, "noise": noise, "seed": seed, "quantities": list(QUANTITIES),
        "processes": processes,
    }  # fmt: skip
    models = {at[0]: run.model(at[0], str(device), dtype)}
    fields = {"value": (len(QUANTITIES),)}

    def forecast(part: PartRows) -> Forecast:
        left = [row % rows < count for row in part.pending()]
        model, size = models[at[0]], len(problem.train)
        of_a_batch = timed(lambda: diagnosis.batch(model, at[0], 0))
        shared = 1 if ranks is None else ranks.size
        work = [counted(sum(left), "batch", "batches")] * any(left)
        work += [f"the full training set at {counted(left.count(False), 'epoch')}"] * (not all(left))
        samples = sum(left) * min(size, run.config.batch_size) + left.count(False) * size
        seconds = of_a_batch * samples / min(size, run.config.batch_size) / shared
        return Forecast(seconds, " and ".join(work))

    with result_of(run, f"diagnostics/{name}", identity, len(at) * rows, fields, where, forecast=forecast) as (
        part,
        finish,
    ):

        def measure(row: int) -> np.ndarray:
            nonlocal models
            epoch, index = at[row // rows], row % rows
            if epoch not in models:
                models = {epoch: run.model(epoch, str(device), dtype)}
            model = models[epoch]
            return diagnosis.batch(model, epoch, index) if index < count else diagnosis.full(model, epoch, ranks)

        # Processes share out the batches of an epoch, and the samples of its full training set.
        rounds = [list(g) for _, g in groupby(part.pending(), lambda row: (row // rows, row % rows < count))]
        for group in groups(rounds, ranks, where.get("progress", iter)):
            found = together(group, measure, ranks if group[0] % rows < count else None)
            for row, value in zip(group, found, strict=True):
                part.write(row, status=Status.OK, value=value)
        table = part.read()["value"].reshape(len(at), rows, len(QUANTITIES)).transpose(0, 2, 1)
        return finish(diagnosis.record(at, table[:, :, :count], table[:, :, count] if full else None, noise, processes))
