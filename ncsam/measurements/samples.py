"""The curvature of every training sample along the leading eigenvectors of a run's Hessian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch

import landscape
from landscape import HessianOperator
from landscape.objective.sample_losses import by_sample, samples_of
from landscape.records import EigenResult, Status
from ncsam.measurements.forecast import Forecast, counted, timed
from ncsam.measurements.measurement import epochs_of, objective_of
from ncsam.measurements.resumable import PartRows, Where, result_of
from ncsam.measurements.spectrum import PRODUCTS_PER_PAIR
from ncsam.records import SampleCurvatures
from ncsam.runs.run import Run
from ncsam.training.predictions import losses_and_margins

VIEW = "mixed"
_PRODUCTS_PER_CURVATURE = 3  # in which the curvature of all samples along a vector is as long: 2.2 to 3.9 were timed


def measure_samples(
    run: Run,
    name: str = "samples",
    *,
    epochs: Sequence[int | str] = ("last",),
    k: int = 1,
    tol: float = 1e-3,
    seed: int = 0,
    **where: Unpack[Where],
) -> SampleCurvatures:
    """Curvature, loss and margin of every training sample at checkpoints of a run; stored as ``diagnostics/<name>``.

    Samples have their observed labels, the loss is the cross-entropy, and the eigenvectors are those of the mean loss
    over them, so that the curvatures of all samples average to the eigenvalue.

    Args:
        k: eigenvectors.
        tol, seed: see :func:`landscape.top_eigenpairs`.
        where: see :class:`Where`, without ``ranks``.

    Raises:
        ValueError, StoreError: something asked for is impossible, exists already, or cannot be written.
    """
    at = epochs_of(run, epochs)
    run.problem.check_labelled()
    objective = objective_of(run, at[0], [VIEW], where)
    if not 1 <= k <= objective.num_parameters:
        raise ValueError(f"{k} eigenpairs asked for, expected 1…{objective.num_parameters}")
    problem, count = run.problem, len(run.problem.train)
    settings: dict[str, Any] = {"tol": tol, "seed": seed}
    fields = {
        "values": (k,),
        "residuals": (k,),
        "converged": (k,),
        "curvature": (k, count),
        "weight_norm": (),
        "loss": (count,),
        "margin": (count,),
    }

    def forecast(part: PartRows) -> Forecast:
        products = (PRODUCTS_PER_PAIR + _PRODUCTS_PER_CURVATURE) * k
        H = HessianOperator(objective)
        vector = objective.weights
        seconds = timed(lambda: float((H @ vector).sum())) * products * len(part.pending())
        return Forecast(seconds, f"about {products} Hessian products at {counted(len(part.pending()), 'epoch')}")

    def measure(epoch: int) -> tuple[Status, dict[str, Any]]:
        here = objective_of(run, epoch, [VIEW], where)
        pairs = landscape.top_eigenpairs(HessianOperator(here), k, tol=tol, seed=seed)
        found = landscape.sample_curvature(here, pairs.vectors)
        return _status(pairs), {
            "values": pairs.values,
            "residuals": pairs.residuals,
            "converged": pairs.converged,
            "curvature": found.curvature,
            "loss": found.loss,
            "margin": _margins(here),
            "weight_norm": float(here.weights.double().norm()),
        }

    identity = {**settings, "epochs": at, "k": k}
    with result_of(run, f"diagnostics/{name}", identity, len(at), fields, where, forecast=forecast) as (part, finish):
        for row in where.get("progress", iter)(part.pending()):
            status, values = measure(at[row])
            part.write(row, status=status, **values)
        table: dict[str, Any] = part.read()
        return finish(
            SampleCurvatures(
                epochs=np.array(at),
                index=np.asarray(problem.train),
                observed=problem.observed().numpy(),
                true=problem.true().numpy(),
                flipped=np.asarray(problem.labels.flipped[problem.train], bool),
                status=part.status,
                dtype=where.get("dtype", "float32"),
                **table,
                **settings,
            )
        )


def _status(pairs: EigenResult) -> Status:
    return Status.OK if pairs.converged.all() else Status.NOT_CONVERGED


@torch.no_grad()
def _margins(objective: landscape.Objective) -> np.ndarray:
    """Output of each sample's label less the largest other one, (n,)."""
    samples = samples_of(objective, "the margins of samples")
    found = by_sample(objective, lambda batch: losses_and_margins(batch.outputs, batch.labels)[1:], samples, 1)
    return found[0].numpy()
