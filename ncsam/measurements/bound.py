"""Theorem 1 on a run: every term, beside the clean test risk that it bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

import landscape
from landscape.records import Status
from landscape.sharpness import LARGEST
from ncsam.measurements.forecast import Forecast, counted, timed
from ncsam.measurements.measurement import DTYPES, epochs_of, shared
from ncsam.measurements.resumable import PartRows, Where, result_of
from ncsam.measurements.theorem1 import (
    Bound,
    ClippedCrossEntropy,
    assumption_violated,
    default_clip,
    error_rate,
    highest_in_ball,
    theorem1_bound,
)
from ncsam.records import BoundTable
from ncsam.runs.run import Run
from ncsam.training.execution import usable_device

LOSSES = ("error", "clipped_ce")
TERMS = ("neighbourhood", "sampling", "complexity", "total")
_NUMBERS = ("at_weights", "highest", *TERMS, "risk", "smoothing", "smoothing_stderr", "converged")


def measure_bound(
    run: Run,
    name: str = "bound",
    *,
    epochs: Sequence[int | str] = ("last",),
    rho: float = 0.05,
    delta: float = 0.05,
    clip: float | None = None,
    steps: int = 20,
    restarts: int = 3,
    draws: int = 10,
    seed: int = 0,
    **where: Unpack[Where],
) -> BoundTable:
    """Theorem 1 for the 0–1 error and for cross-entropy clipped to [0, 1]; stored as ``diagnostics/<name>``.

    The maximum over the ball is a lower estimate by projected ascent (:mod:`ncsam.measurements.theorem1`), and so is
    the bound. The assumption L_D(w) ≤ E L_D(w+ε) is checked on the test data, with ε ~ N(0, σ²) and
    σ = ρ/(√K + √log nₛ), the Gaussian of the theorem's proof.

    Args:
        rho: radius of the neighbourhood, in the unit of the weights.
        delta: probability with which the bound may fail.
        clip: cross-entropy in nats at which the clipped loss is 1; twice that of a uniform guess if none.
        steps, restarts: of the ascents on each of the two surrogates.
        draws: antithetic pairs of ε, at least 2.
        where: see :class:`Where`.

    Raises:
        ValueError, StoreError: something asked for is impossible, exists already, or cannot be written.
    """
    at = epochs_of(run, epochs)
    for what, given, least in (("draws", draws, 2), ("steps", steps, 1), ("restarts", restarts, 1)):
        if given < least:
            raise ValueError(f"{what} is {given}, expected at least {least}")
    problem = run.problem
    problem.check_labelled()
    clip = default_clip(problem.dataset.num_classes) if clip is None else clip
    if not 0 < clip <= LARGEST:
        raise ValueError(f"clip is {clip}, expected a cross-entropy > 0, up to {LARGEST:g}")
    settings: dict[str, Any] = {
        "rho": rho, "delta": delta, "clip": clip, "steps": steps, "restarts": restarts, "draws": draws, "seed": seed
    }  # fmt: skip
    theorem = _Theorem(run, settings, where, at[0])
    fields: dict[str, tuple[int, ...]] = {
        "numbers": (len(_NUMBERS), len(LOSSES)),
        "history": (len(LOSSES), 2 * restarts, steps + 1),
        "weight_norm": (),
    }
    ranks = where.get("ranks")
    processes = 1 if ranks is None else ranks.size
    identity = {**settings, "epochs": at, "processes": processes}

    def forecast(part: PartRows) -> Forecast:
        left = 2 * restarts * steps * len(part.pending())
        return Forecast(left * theorem.seconds_of_a_step(at[0]), f"{counted(left, 'step')} of ascents")

    with result_of(run, f"diagnostics/{name}", identity, len(at), fields, where, forecast=forecast) as (part, finish):
        for row in where.get("progress", iter)(part.pending()):
            values = theorem.at(at[row])
            status = Status.OK if np.isfinite(values["numbers"]).all() else Status.NONFINITE
            part.write(row, status=status, **values)
        read: dict[str, Any] = part.read()
        numbers_of: dict[str, Any] = {n: read["numbers"][:, i] for i, n in enumerate(_NUMBERS)}
        return finish(
            BoundTable(
                epochs=np.array(at),
                losses=np.array(LOSSES),
                **numbers_of,
                history=read["history"],
                weight_norm=read["weight_norm"],
                status=np.repeat(part.status[:, None], len(LOSSES), axis=1),
                alpha=theorem.alpha,
                samples=theorem.samples,
                num_parameters=theorem.num_parameters,
                sigma=theorem.sigma,
                violated=assumption_violated(run.config.noise.partition(":")[0], problem.labels.transition),
                dtype=where.get("dtype", "float32"),
                processes=processes,
                **settings,
            )
        )


class _Theorem:
    """The terms of the theorem at the checkpoints of a run, and what is the same at all of them.

    Attributes:
        alpha: share of wrong labels in the training set.
        samples: n, of the training set.
        num_parameters: K.
        sigma: deviation of the Gaussian of the theorem's proof.
    """

    def __init__(self, run: Run, settings: Mapping[str, Any], where: Where, epoch: int) -> None:
        self._run, self._settings, self._where = run, settings, where
        self._device = usable_device(where.get("device", "cpu"))
        self._dtype = DTYPES[where.get("dtype", "float32")]
        self._metrics: dict[str, Any] = {
            "error": error_rate,
            "clipped_ce": ClippedCrossEntropy(settings["clip"], each=True),
        }
        self.samples = len(run.problem.train)
        self.alpha = float(run.problem.labels.flipped[run.problem.train].mean())
        self.num_parameters = size = self._objective(epoch, None).num_parameters
        clean = max(2, round((1 - self.alpha) * self.samples))
        self._bound(0.0, 0.0)  # what is out of range is told before work
        self.sigma = settings["rho"] / (math.sqrt(size) + math.sqrt(math.log(clean)))

    def seconds_of_a_step(self, epoch: int) -> float:
        """Seconds that a step of an ascent takes."""
        objective = self._objective(epoch, nn.CrossEntropyLoss()).view("mixed")
        return timed(objective.gradient) + timed(objective.evaluate)

    def at(self, epoch: int) -> dict[str, Any]:
        """One row: the numbers, (numbers, losses), the ascents' history and the norm of the weights."""
        rho, seed = self._settings["rho"], self._settings["seed"]
        objectives = {
            "ce": self._objective(epoch, nn.CrossEntropyLoss()),
            "clipped_ce": self._objective(epoch, ClippedCrossEntropy(self._settings["clip"])),
        }
        mixed = {name: o.view("mixed") for name, o in objectives.items()}
        steps, restarts = self._settings["steps"], self._settings["restarts"]
        maxima = highest_in_ball(mixed, rho, steps=steps, restarts=restarts, seed=seed)
        test = objectives["ce"].view("test")
        weight_norm = float(test.weights.double().norm())
        bounds = [self._bound(maxima[loss].value, weight_norm) for loss in LOSSES]
        numbers = np.array(
            [
                [maxima[loss].at_weights for loss in LOSSES],
                [maxima[loss].value for loss in LOSSES],
                *([getattr(b, term) for b in bounds] for term in TERMS),
                *_test_risk(test, self.sigma, self._settings["draws"], seed),
                [float(maxima[loss].converged) for loss in LOSSES],
            ]
        )
        history = np.stack([maxima[loss].history for loss in LOSSES])
        return {"numbers": numbers, "history": history, "weight_norm": weight_norm}

    def _objective(self, epoch: int, loss_fn: Any) -> landscape.Objective:
        model = self._run.model(epoch, str(self._device), self._dtype)
        made = self._run.problem.objective(model, ("mixed", "test"), loss_fn=loss_fn, metrics=self._metrics)
        return shared(made, self._where)

    def _bound(self, highest: float, weight_norm: float) -> Bound:
        return theorem1_bound(
            max_neighbourhood_loss=highest,
            weight_norm=weight_norm,
            alpha=self.alpha,
            n=self.samples,
            num_parameters=self.num_parameters,
            rho=self._settings["rho"],
            delta=self._settings["delta"],
        )


def _metrics(objective: landscape.Objective) -> np.ndarray:
    found = objective.evaluate().metrics
    return np.array([next(iter(found[loss].values())) for loss in LOSSES])


def _test_risk(objective: landscape.Objective, sigma: float, draws: int, seed: int) -> tuple[np.ndarray, ...]:
    """L(w), the mean over draws of (L(w+ε) + L(w−ε))/2 − L(w), and its standard error, (losses,) each."""
    generator = torch.Generator().manual_seed(seed)
    centre, risk = objective.weights, _metrics(objective)
    rises = []
    for _ in range(draws):
        epsilon = torch.randn(centre.shape, generator=generator, dtype=torch.float64) * sigma
        epsilon = epsilon.to(centre.device, centre.dtype)
        rises.append((_metrics(objective.at(centre + epsilon)) + _metrics(objective.at(centre - epsilon))) / 2 - risk)
    table = np.array(rises)
    return risk, table.mean(axis=0), table.std(axis=0, ddof=1) / math.sqrt(draws)
