"""Theorem 1 on a run: every term, beside the clean test risk that it bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

import landscape
from landscape.records import Status
from landscape.sharpness import LARGEST
from ncsam.measurements.measurement import DTYPES, Where, result_of, shared
from ncsam.measurements.theorem1 import ClippedCrossEntropy, default_clip, error_rate, highest_in_ball
from ncsam.measurements.theorem1_bound import assumption_violated, theorem1_bound
from ncsam.records.measurements import BoundTable
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
    the bound. The assumption L_D(w) ≤ E L_D(w+ε) is looked at on the test data, with ε ~ N(0, σ²) and
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
    for what, given, least in (
        ("draws", draws, 2),
        ("epochs", len(epochs), 1),
        ("steps", steps, 1),
        ("restarts", restarts, 1),
    ):
        if given < least:
            raise ValueError(f"{what} is {given}, expected at least {least}")
    at = [run.epoch(e) for e in epochs]
    problem = run.problem
    clip = default_clip(problem.dataset.num_classes) if clip is None else clip
    if not 0 < clip <= LARGEST:
        raise ValueError(f"clip is {clip}, expected a cross-entropy > 0, up to {LARGEST:g}")
    n = len(problem.train)
    alpha = float(problem.labels.flipped[problem.train].mean())
    device, dtype = usable_device(where.get("device", "cpu")), DTYPES[where.get("dtype", "float32")]
    metrics: dict[str, Any] = {"error": error_rate, "clipped_ce": ClippedCrossEntropy(clip, each=True)}

    def objective(epoch: int, loss_fn: Any) -> landscape.Objective:
        model = run.model(epoch, str(device), dtype)
        return shared(problem.objective(model, ("mixed", "test"), loss_fn=loss_fn, metrics=metrics), where)

    size = objective(at[0], None).num_parameters
    terms: dict[str, Any] = {"alpha": alpha, "n": n, "num_parameters": size, "rho": rho, "delta": delta}
    theorem1_bound(max_neighbourhood_loss=0.0, weight_norm=0.0, **terms)  # what is out of range is told before work
    sigma = rho / (math.sqrt(size) + math.sqrt(math.log(max(2, round((1 - alpha) * n)))))
    settings: dict[str, Any] = {
        "rho": rho, "delta": delta, "clip": clip, "steps": steps, "restarts": restarts, "draws": draws, "seed": seed
    }  # fmt: skip
    history = (len(LOSSES), 2 * restarts, steps + 1)
    fields: dict[str, tuple[int, ...]] = {"numbers": (len(_NUMBERS), len(LOSSES)), "history": history}
    fields |= {"weight_norm": ()}
    ranks = where.get("ranks")
    processes = 1 if ranks is None else ranks.size
    identity = {**settings, "epochs": at, "processes": processes}
    with result_of(run, f"diagnostics/{name}", identity, len(at), fields, where) as (part, finish):
        for row in where.get("progress", iter)(part.pending()):
            objectives = {"ce": objective(at[row], nn.CrossEntropyLoss())}
            objectives["clipped_ce"] = objective(at[row], ClippedCrossEntropy(clip))
            mixed = {name: o.view("mixed") for name, o in objectives.items()}
            maxima = highest_in_ball(mixed, rho, steps=steps, restarts=restarts, seed=seed)
            test = objectives["ce"].view("test")
            weight_norm = float(test.weights.double().norm())
            bounds = [
                theorem1_bound(max_neighbourhood_loss=maxima[loss].value, weight_norm=weight_norm, **terms)
                for loss in LOSSES
            ]
            numbers = np.array(
                [
                    [maxima[loss].at_weights for loss in LOSSES],
                    [maxima[loss].value for loss in LOSSES],
                    *([getattr(b, term) for b in bounds] for term in TERMS),
                    *_test_risk(test, sigma, draws, seed),
                    [float(maxima[loss].converged) for loss in LOSSES],
                ]
            )
            status = Status.OK if np.isfinite(numbers).all() else Status.NONFINITE
            histories = np.stack([maxima[loss].history for loss in LOSSES])
            part.write(row, status=status, numbers=numbers, history=histories, weight_norm=weight_norm)
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
                alpha=alpha,
                samples=n,
                num_parameters=size,
                sigma=sigma,
                violated=assumption_violated(run.config.noise.partition(":")[0], problem.labels.transition),
                dtype=where.get("dtype", "float32"),
                processes=processes,
                **settings,
            )
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
