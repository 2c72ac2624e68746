"""Sharpness on the views of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

import landscape
from landscape import Objective
from landscape.records import Status
from landscape.sharpness import LARGEST
from ncsam.measurements.forecast import counted, timed
from ncsam.measurements.measurement import ANALYSIS_VIEWS, Measurement, Place, by_epoch_and_view
from ncsam.measurements.resumable import Where
from ncsam.records import SharpnessTable
from ncsam.runs.run import Run


def measure_sharpness(
    run: Run,
    name: str = "default",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epochs: Sequence[int | str] = ("last",),
    rho: float = 0.05,
    adaptive_rho: float = 0.5,
    sigma: float | None = None,
    adaptive_sigma: float | None = None,
    keskar: float | None = None,
    steps: int = 1,
    restarts: int = 0,
    samples: int = 20,
    normalize_logits: bool = False,
    params: Sequence[str] = (),
    seed: int = 0,
    **where: Unpack[Where],
) -> SharpnessTable:
    """SAM and adaptive sharpness on each view, and what else is asked for; stored as ``sharpness/<name>``.

    Args:
        rho: radius of the SAM ball.
        adaptive_rho: radius of the adaptive ball.
        sigma: deviation of the average sharpness, none to leave it out.
        adaptive_sigma: deviation, in |w|, of the adaptive average sharpness.
        keskar: ε of Keskar's sharpness; its ascent has at least 20 steps.
        steps, restarts: of every ascent.
        samples: antithetic pairs of an average, the same for every run, view and epoch of one seed and model.
        normalize_logits: measure the loss of normalised logits, see :func:`landscape.with_normalized_logits`.
        params: patterns of the parameters that are perturbed, see :meth:`landscape.Objective.restricted`.
        where: see :class:`Where`.

    Raises:
        ValueError, StoreError: something asked for is impossible, exists already, or cannot be written.
    """
    radii: dict[str, float | None] = {"rho": rho, "adaptive_rho": adaptive_rho}
    radii |= {"sigma": sigma, "adaptive_sigma": adaptive_sigma, "keskar": keskar}
    for label, radius in radii.items():
        if radius is not None and not 0 <= radius <= LARGEST:
            raise ValueError(f"{label} is {radius}, expected a finite number ≥ 0, up to {LARGEST:g}")
    if steps < 1 or restarts < 0 or samples < 2:
        raise ValueError(f"{steps} steps, {restarts} restarts and {samples} samples; expected at least 1, 0 and 2")
    settings: dict[str, Any] = {
        "rho": rho,
        "adaptive_rho": adaptive_rho,
        "sigma": sigma,
        "adaptive_sigma": adaptive_sigma,
        "keskar_epsilon": keskar,
        "steps": steps,
        "restarts": restarts,
        "samples": samples,
        "normalize_logits": normalize_logits,
        "params": list(params),
        "seed": seed,
    }
    measurement = _Sharpness(settings)
    return by_epoch_and_view(SharpnessTable, run, f"sharpness/{name}", epochs, views, measurement, settings, where)


class _Sharpness(Measurement):
    def __init__(self, settings: dict[str, Any]) -> None:
        self._s = settings
        self.params = tuple(settings["params"])

    def fields(self, objective: Objective) -> dict[str, Any]:
        names = ["loss", "sam", "adaptive"]
        for name, asked in (("average", "sigma"), ("adaptive_average", "adaptive_sigma")):
            if self._s[asked] is not None:
                names += [name, f"{name}_stderr"]
        if self._s["keskar_epsilon"] is not None:
            names.append("keskar")
        rows = (1 + self._s["restarts"], 1 + self._s["steps"])
        ascents = {f"{name}_rises": rows for name in ("sam", "adaptive")} if rows != (1, 2) else {}
        return {**dict.fromkeys(names, ()), **ascents}

    def forecast(self, place: Place) -> tuple[float, str]:
        ascents = 1 + self._s["restarts"]
        steps = ascents * (2 * self._s["steps"] + (max(20, self._s["steps"]) if self._asked("keskar_epsilon") else 0))
        draws = 2 * self._s["samples"] * (self._asked("sigma") + self._asked("adaptive_sigma"))
        objective = place.here
        of_a_step, of_a_draw = timed(objective.gradient), timed(objective.loss)
        work = counted(steps, "step") + (f" and {counted(draws, 'draw')}" if draws else "")
        return steps * (of_a_step + of_a_draw) + draws * of_a_draw, work

    def _asked(self, name: str) -> bool:
        return self._s[name] is not None

    def measure(self, place: Place) -> tuple[Status, dict[str, Any]]:
        objective = place.here
        if self._s["normalize_logits"]:
            objective = landscape.with_normalized_logits(objective)
        ascent = {name: self._s[name] for name in ("steps", "restarts", "seed")}
        sam = landscape.sam_sharpness(objective, self._s["rho"], **ascent)
        adaptive = landscape.adaptive_sharpness(objective, self._s["adaptive_rho"], **ascent)
        row: dict[str, Any] = {"loss": sam.loss, "sam": sam.value, "adaptive": adaptive.value}
        draws = {"num_samples": self._s["samples"], "seed": self._s["seed"]}
        for name, asked in (("average", "sigma"), ("adaptive_average", "adaptive_sigma")):
            if self._s[asked] is not None:
                found = landscape.average_sharpness(objective, self._s[asked], **draws, adaptive=asked != "sigma")
                row |= {name: found.value, f"{name}_stderr": found.stderr}
        if self._s["keskar_epsilon"] is not None:
            ascent["steps"] = max(20, self._s["steps"])
            row["keskar"] = landscape.keskar_sharpness(objective, self._s["keskar_epsilon"], **ascent).value
        status = Status.OK if np.isfinite(list(row.values())).all() else Status.NONFINITE
        if ascent["restarts"] or self._s["steps"] > 1:
            row |= {"sam_rises": sam.rises, "adaptive_rises": adaptive.rises}
        return status, row
