"""Sharpness: how much a bounded perturbation of the weights raises the loss."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from landscape.objective import Objective
from landscape.records import Sharpness


def sam_sharpness(objective: Objective, rho: float = 0.05, *, steps: int = 1) -> Sharpness:
    """max over ‖ε‖₂ ≤ ρ of L(w + ε) − L(w), approximated from below by gradient ascent.

    One step is SAM's own ε = ρ·∇L/‖∇L‖ (Foret et al. 2021, arXiv 2010.01412, eq. 2); more steps are projected ascent
    with steps of 2.5·ρ/steps, the largest loss met being reported.

    Raises:
        ValueError: ρ is negative or not finite, or steps < 1.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> obj = Objective(model, torch.nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1)))
    >>> w = abs(model.weight.item())
    >>> abs(float(sam_sharpness(obj, rho=0.1)) - ((w + 0.1) ** 2 - w**2)) < 1e-5
    True
    """
    return _ascent(objective, rho, steps, None, "sam")


def adaptive_sharpness(objective: Objective, rho: float = 0.5, *, steps: int = 1) -> Sharpness:
    """max over ‖ε / |w|‖₂ ≤ ρ of L(w + ε) − L(w): the ball is stretched by each weight's magnitude.

    One step is ε = ρ·w²⊙∇L / ‖|w|⊙∇L‖ (Kwon et al. 2021, arXiv 2102.11600, eq. 7); unlike :func:`sam_sharpness` it
    does not change when a layer before a normalisation layer is rescaled.

    Raises:
        ValueError: ρ is negative or not finite, or steps < 1.
    """
    return _ascent(objective, rho, steps, objective.weights.abs().double(), "adaptive")


def average_sharpness(objective: Objective, sigma: float, *, num_samples: int = 20, seed: int = 0) -> Sharpness:
    """E over ε ~ N(0, σ²I) of L(w + ε) − L(w), from antithetic pairs ±ε, with its standard error.

    Args:
        objective: with a single view.
        sigma: standard deviation of every coordinate of ε.
        num_samples: pairs drawn, at least 2; each costs two evaluations.
        seed: of the perturbations; the same seed draws the same ones for every objective of one size.

    Raises:
        ValueError: σ is negative or not finite, or fewer than two pairs are asked for.
    """
    _check_radius("sigma", sigma)
    if num_samples < 2:
        raise ValueError(f"num_samples is {num_samples}, expected at least 2 to give a standard error")
    generator = torch.Generator().manual_seed(seed)
    centre, base = objective.weights, objective.loss()
    rises = []
    for _ in range(num_samples):
        draw = torch.randn(centre.shape, generator=generator, dtype=torch.float64) * sigma
        epsilon = draw.to(centre.device, centre.dtype)
        rises.append((objective.at(centre + epsilon).loss() + objective.at(centre - epsilon).loss()) / 2 - base)
    array = np.array(rises)
    return Sharpness(
        value=array.mean(),
        loss=base,
        stderr=array.std(ddof=1) / math.sqrt(num_samples),
        measure="average",
        radius=sigma,
        steps=num_samples,
        seed=seed,
    )


def _ascent(objective: Objective, rho: float, steps: int, stretch: Tensor | None, measure: str) -> Sharpness:
    """Projected ascent in u = ε/stretch, where the ball is round."""
    _check_radius("rho", rho)
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1")
    centre, base = objective.weights, objective.loss()
    u = torch.zeros_like(centre, dtype=torch.float64)
    here, highest = objective, -math.inf
    length = rho if steps == 1 else 2.5 * rho / steps
    for _ in range(steps):
        gradient = here.gradient().double()
        gradient = gradient if stretch is None else gradient * stretch
        norm = float(gradient.norm())
        if norm > 0:
            u = u + gradient * (length / norm)
        u = u * min(1.0, rho / max(float(u.norm()), torch.finfo(torch.float64).tiny))
        epsilon = u if stretch is None else u * stretch
        here = objective.at(centre + epsilon.to(centre.dtype))
        highest = max(highest, here.loss())
    return Sharpness(value=highest - base, loss=base, stderr=0.0, measure=measure, radius=rho, steps=steps)


def _check_radius(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}, expected a finite number ≥ 0")
