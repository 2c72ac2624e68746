"""Standard errors of what is measured on samples that were drawn from a view without replacement."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from landscape import Objective, sample_curvature
from landscape.objective.differences import DerivativeError
from landscape.objective.sample_losses import sample_losses, samples_of
from ncsam.measurements.measurement import Subset
from ncsam.runs.run import Run

_log = logging.getLogger(__name__)


def sampling_error(variance: float, samples: int, whole: int) -> float:
    """Standard error of a mean over samples drawn without replacement; 0 where all of them were.

    >>> round(sampling_error(4.0, 101, 10**9), 6), sampling_error(4.0, 100, 100)
    (0.2, 0.0)
    """
    if samples == whole:
        return 0.0
    return math.sqrt(max(variance, 0.0) / max(samples - 1, 1) * (1 - samples / whole))


def loss_error(objective: Objective, whole: int) -> float:
    """Standard error of the loss of an objective whose single view holds samples drawn from ``whole``."""
    losses = sample_losses(objective.over(None), samples_of(objective, "the sampling error of the loss")).numpy()
    return sampling_error(float(np.var(losses)), len(losses), whole)


def on_subset(run: Run, objective: Objective, subset: Subset | None) -> dict[str, Any]:
    """Fields of :class:`landscape.records.surfaces.OnSubset` for an objective on a subset of a run's views."""
    if subset is None:
        return {}
    errors = [
        loss_error(objective.view(view), run.problem.num_samples(view)) if objective.num_samples(view) else math.nan
        for view in objective.views
    ]
    return {"subset": subset.samples, "subset_seed": subset.seed, "loss_sampling_error": np.array(errors)}


def curvature_errors(objective: Objective, vectors: Any, whole: int) -> np.ndarray:
    """Standard errors of vᵀHv for each column v of ``vectors``, (K, k), given the column; (k,).

    NaN, and a warning in the log, where the curvature of single samples cannot be derived.
    """
    (view,) = objective.views
    samples, count = objective.num_samples(view), vectors.shape[1]
    if samples == whole:
        return np.zeros(count)
    try:
        curvature = sample_curvature(objective, vectors).curvature
    except (ValueError, DerivativeError) as error:
        _log.warning("no sampling error of the eigenvalues on %s: %s", view, error)
        return np.full(count, np.nan)
    return np.array([sampling_error(float(np.var(values)), samples, whole) for values in curvature])
