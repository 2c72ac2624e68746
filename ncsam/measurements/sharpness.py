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
from ncsam.measurements.sampling_error import loss_error
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
    trace_matvecs: int = 0,
    top_tol: float | None = None,
    rise: float | None = None,
    m: int | None = None,
    params: Sequence[str] = (),
    subset: int | None = None,
    subset_seed: int = 0,
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
        trace_matvecs: products for the trace of D H D, D = |w|, see :func:`landscape.adaptive_trace`; 0 for none.
        top_tol: relative residual of the largest eigenvalue of D H D, see :func:`landscape.adaptive_top`; none to leave
            it out.
        rise: of the loss, for which the adaptive radius is found, see :func:`landscape.sharpness_at_rise`; with ten
            ascent steps where ``steps`` is fewer. None to leave it out.
        m: samples of a group, for the SAM sharpness of groups, see :func:`landscape.m_sharpness`; none to leave it out.
        params: patterns of the parameters that are perturbed, see :meth:`landscape.Objective.restricted`.
        subset, subset_seed: so many samples of each view, drawn by that seed; all if none.
        where: see :class:`Where`.

    Raises:
        ValueError, StoreError: something asked for is impossible, exists already, or cannot be written.
    """
    if rise is not None and not 0 < rise <= LARGEST:
        raise ValueError(f"rise is {rise}, expected a positive number up to {LARGEST:g}")
    if m is not None and m < 1:
        raise ValueError(f"m is {m}, expected at least 1 sample")
    radii: dict[str, float | None] = {"rho": rho, "adaptive_rho": adaptive_rho}
    radii |= {"sigma": sigma, "adaptive_sigma": adaptive_sigma, "keskar": keskar}
    for label, radius in radii.items():
        if radius is not None and not 0 <= radius <= LARGEST:
            raise ValueError(f"{label} is {radius}, expected a finite number ≥ 0, up to {LARGEST:g}")
    if steps < 1 or restarts < 0 or samples < 2:
        raise ValueError(f"{steps} steps, {restarts} restarts and {samples} samples; expected at least 1, 0 and 2")
    if trace_matvecs < 0 or trace_matvecs == 1:
        raise ValueError(f"trace_matvecs is {trace_matvecs}, expected 0 for no trace, or at least 2 to give its error")
    if top_tol is not None and not 0 < top_tol < 1:
        raise ValueError(f"top_tol is {top_tol}, expected a relative residual in (0, 1)")
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
        "trace_matvecs": trace_matvecs,
        "top_tol": top_tol,
        "rise": rise,
        "m": m,
        "params": list(params),
        "subset": subset,
        "subset_seed": subset_seed,
        "seed": seed,
    }
    measurement = _Sharpness(settings)
    return by_epoch_and_view(SharpnessTable, run, f"sharpness/{name}", epochs, views, measurement, settings, where)


_ASCENTS_FOR_A_RISE = 10  # of a bisection to two percent, about; not measured
_PRODUCTS_FOR_THE_TOP = 15  # about what a well separated eigenvalue takes; not measured


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
        if self._s["trace_matvecs"]:
            names += ["adaptive_trace", "adaptive_trace_stderr"]
        if self._s["rise"] is not None:
            names.append("rise_radius")
        if self._s["m"] is not None:
            names += ["m_sharpness", "m_sharpness_stderr"]
        if self._s["top_tol"] is not None:
            names += ["adaptive_top", "adaptive_top_residual"]
        rows = (1 + self._s["restarts"], 1 + self._s["steps"])
        if self._s["subset"] is not None:
            names.append("loss_sampling_error")
        ascents = {f"{name}_rises": rows for name in ("sam", "adaptive")} if rows != (1, 2) else {}
        return {**dict.fromkeys(names, ()), **ascents}

    def forecast(self, place: Place) -> tuple[float, str]:
        ascents = 1 + self._s["restarts"]
        steps = ascents * (2 * self._s["steps"] + (max(20, self._s["steps"]) if self._asked("keskar_epsilon") else 0))
        if self._asked("rise"):
            steps += _ASCENTS_FOR_A_RISE * max(10, self._s["steps"])
        if self._asked("m"):  # each sample is once in a gradient and twice in a loss
            steps += 2
        draws = 2 * self._s["samples"] * (self._asked("sigma") + self._asked("adaptive_sigma"))
        objective = place.here
        of_a_step, of_a_draw = timed(objective.gradient), timed(objective.loss)
        seconds = steps * (of_a_step + of_a_draw) + draws * of_a_draw
        products = self._s["trace_matvecs"] + (_PRODUCTS_FOR_THE_TOP if self._asked("top_tol") else 0)
        if products:
            H, v = landscape.HessianOperator(objective), objective.weights
            H.expect(products)  # so that they are made in the same way
            seconds += products * timed(lambda: float((H @ v).sum()))
        parts = [counted(n, what) for n, what in ((steps, "step"), (draws, "draw"), (products, "product")) if n]
        return seconds, f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]

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
        if place.whole is not None:
            row["loss_sampling_error"] = loss_error(objective, place.whole)
        draws = {"num_samples": self._s["samples"], "seed": self._s["seed"]}
        for name, asked in (("average", "sigma"), ("adaptive_average", "adaptive_sigma")):
            if self._s[asked] is not None:
                found = landscape.average_sharpness(objective, self._s[asked], **draws, adaptive=asked != "sigma")
                row |= {name: found.value, f"{name}_stderr": found.stderr}
        if self._s["keskar_epsilon"] is not None:
            ascent["steps"] = max(20, self._s["steps"])
            row["keskar"] = landscape.keskar_sharpness(objective, self._s["keskar_epsilon"], **ascent).value
        if self._s["rise"] is not None:
            at_rise = landscape.sharpness_at_rise(objective, self._s["rise"], steps=max(10, self._s["steps"]))
            row["rise_radius"] = at_rise.radius
        if self._s["m"] is not None:
            grouped = landscape.m_sharpness(objective, self._s["rho"], self._s["m"], seed=self._s["seed"])
            row |= {"m_sharpness": grouped.value, "m_sharpness_stderr": grouped.stderr or 0.0}  # 0: one group
        converged = self._curvature(objective, row)
        status = Status.OK if np.isfinite(list(row.values())).all() else Status.NONFINITE
        if status == Status.OK and not converged:
            status = Status.NOT_CONVERGED
        if ascent["restarts"] or self._s["steps"] > 1:
            row |= {"sam_rises": sam.rises, "adaptive_rises": adaptive.rises}
        return status, row

    def _curvature(self, objective: Objective, row: dict[str, Any]) -> bool:
        """Trace and largest eigenvalue of D H D, as far as asked for; whether the eigenvalue converged."""
        if self._s["top_tol"] is None and not self._s["trace_matvecs"]:
            return True
        top, seed = None, self._s["seed"]
        if self._s["top_tol"] is not None:
            top = landscape.adaptive_top(objective, tol=self._s["top_tol"], seed=seed, keep_basis=True)
            row |= {"adaptive_top": top.values[0], "adaptive_top_residual": top.residuals[0]}
        if self._s["trace_matvecs"]:
            found = landscape.adaptive_trace(objective, self._s["trace_matvecs"], deflate=top, seed=seed)
            row |= {"adaptive_trace": found.value, "adaptive_trace_stderr": found.stderr}
        return top is None or bool(top.converged.all())
