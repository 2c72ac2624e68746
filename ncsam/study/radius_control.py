"""The radius control: every arm against the perturbation it really took, and against SAM with as large a one.

NCSAM's ‖ε‖ is not its ρ. An arm that is better than SAM at the same *nominal* ρ may merely have the longer
perturbation; the right comparison is with SAM at the same *realised* mean ‖ε‖, interpolated between the SAM arms of the
same seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ncsam.records import RadiusControl
from ncsam.statistics import LEVEL, t_intervals
from ncsam.study.arms import family_of
from ncsam.study.effects import CONTRAST_RATE
from ncsam.study.table import Study

_ROUNDING = 1e-4  # relative: means of float32 norms that are one radius but for rounding


def radius_control(study: Study, rate: float = CONTRAST_RATE) -> RadiusControl:
    """Clean test accuracy and memorisation of every reported arm beside its realised ‖ε‖, with t-intervals.

    ``excess`` is the accuracy over that of SAM at the same ‖ε‖, seed by seed: linear in ‖ε‖ between the SAM arms, with
    SGD as that of ‖ε‖ = 0; NaN for an arm that goes beyond the largest of them on any seed, since nothing is
    extrapolated. SGD is the arm ``sgd`` where there is one, and neither it nor SAM minimises another loss or learns
    from mixed samples.

    Args:
        study: one of :func:`ncsam.study.table.studies`.
        rate: of the noise.

    Raises:
        ValueError: no arm was measured at that rate.
    """
    families = {arm: family_of(*study.optimizers[arm]) for arm in study.arms}
    radius = _column(study, "perturbation_norm", rate)
    accuracy = _column(study, "test_accuracy", rate)
    memorisation = _column(study, "memorisation", rate)
    arms = [arm for arm in study.arms if np.isfinite(radius[arm] + accuracy[arm]).any()]
    if not arms:
        raise ValueError(f"no arm has test_accuracy and perturbation_norm at {rate:.0%} noise")
    sgd = [arm for arm in arms if families[arm] == "SGD"]
    sam = [arm for arm in arms if families[arm] == "SAM"] + (["sgd"] if "sgd" in sgd else sgd)
    excess = {arm: accuracy[arm] - _sam_at(radius[arm], sam, radius, accuracy) for arm in arms}
    columns: dict[str, Any] = {}
    values = {"radius": radius, "accuracy": accuracy, "memorisation": memorisation, "excess": excess}
    for name, by_arm in values.items():
        mean, low, high = t_intervals([by_arm[arm] for arm in arms], LEVEL)
        columns |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return RadiusControl(
        arms=np.array(arms),
        family=np.array([families[arm] for arm in arms]),
        seeds=np.array([int(np.isfinite(accuracy[arm]).sum()) for arm in arms]),
        **columns,
        noise=study.noise,
        rate=rate,
        level=LEVEL,
    )


def _column(study: Study, endpoint: str, rate: float) -> dict[str, np.ndarray]:
    return {arm: study.of(endpoint, arm, rate) for arm in study.arms}


def _sam_at(
    radius: np.ndarray, sam: list[str], radii: Mapping[str, np.ndarray], accuracies: Mapping[str, np.ndarray]
) -> np.ndarray:
    """SAM's accuracy at each seed's radius, (seeds,); all NaN where one of them lies beyond SAM's."""
    found = np.full(len(radius), np.nan)
    for seed, at in enumerate(radius):
        points = sorted((radii[arm][seed], accuracies[arm][seed]) for arm in sam)
        points = [(x, y) for x, y in points if np.isfinite(x + y)]
        if len(points) > 1 and np.isfinite(at):
            x, y = zip(*points, strict=True)
            if not x[0] * (1 - _ROUNDING) <= at <= x[-1] * (1 + _ROUNDING):
                return np.full(len(radius), np.nan)  # the other seeds alone would be those with the smaller radii
            found[seed] = np.interp(at, x, y)
    return found
