"""Sharpness on the views of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

import landscape
from landscape.records import Status
from ncsam.analyses.common import ANALYSIS_VIEWS, Where, by_epoch_and_view
from ncsam.run import Run
from ncsam.schema import SharpnessTable


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

    return by_epoch_and_view(SharpnessTable, run, f"sharpness/{name}", epochs, views, fields, settings, measure, where)
