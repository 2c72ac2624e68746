"""Spectral density by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from landscape.krylov import KrylovBasis
from landscape.operators import as_product
from landscape.records import DensityResult


def spectral_density(
    H: Any,
    num_steps: int = 50,
    num_probes: int = 2,
    *,
    broadening: float = 0.01,
    num_points: int = 1024,
    seed: int = 0,
) -> DensityResult:
    """How the eigenvalues of a symmetric operator are distributed, as a density that integrates to one.

    From each random start q the Krylov projection gives nodes θ and weights (e₁ᵀs)², which integrate polynomials up to
    degree 2·num_steps − 1 against the spectral measure of q (Ubaru, Chen, Saad 2017, arXiv 1608.06232, §3; Ghorbani et
    al. 2019, arXiv 1901.10159); their mean over probes estimates the density, drawn with a Gaussian kernel. The basis
    is fully reorthogonalised, so no eigenvalue is counted twice.

    Args:
        H: :class:`landscape.HessianOperator`, tensor, array or scipy ``LinearOperator``, (K, K), symmetric.
        num_steps: products a probe; at most K are used.
        num_probes: random starts; few with many steps resolve more than many with few.
        broadening: standard deviation of the kernel, as a fraction of the width of the spectrum.
        num_points: of the grid, which reaches four kernel widths beyond the outermost nodes.
        seed: of the starts.

    Returns:
        DensityResult: ``grid`` and ``density`` (num_points,), ``stderr`` over the probes (NaN for a single one), and
        the raw ``nodes`` and ``weights`` (num_probes, steps).

    Raises:
        ValueError: a count below one, or a broadening that is not positive.

    >>> d = spectral_density(torch.diag(torch.tensor([0.0, 0.0, 0.0, 4.0], dtype=torch.float64)), num_steps=2)
    >>> bool(np.isclose(np.trapezoid(d.density, d.grid), 1.0, atol=1e-3))
    True
    """
    for name, count in (("num_steps", num_steps), ("num_probes", num_probes), ("num_points", num_points)):
        if count < 1:
            raise ValueError(f"{name} is {count}, expected at least 1")
    if not (math.isfinite(broadening) and broadening > 0):
        raise ValueError(f"broadening is {broadening}, expected a finite number > 0")
    size, device, eps, product = as_product(H)
    steps = min(num_steps, size)
    generator = torch.Generator().manual_seed(seed)
    nodes, weights = np.empty((num_probes, steps)), np.empty((num_probes, steps))
    for probe in range(num_probes):
        signs = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
        basis = KrylovBasis(size, device, eps, product, generator, steps)
        basis.grow((signs / math.sqrt(size)).to(device))
        while len(basis) < steps:
            basis.grow()
        nodes[probe], vectors = np.linalg.eigh(basis.projected)
        weights[probe] = vectors[0] ** 2
    # A spectrum of one point still needs a width to be drawn with.
    width = max(float(np.ptp(nodes)), 1e-6 * float(np.abs(nodes).max())) or 1.0
    sigma = broadening * width
    grid = np.linspace(nodes.min() - 4 * sigma, nodes.max() + 4 * sigma, num_points)
    kernel = np.exp(-0.5 * ((grid[:, None, None] - nodes) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    curves = (kernel * weights).sum(axis=2)
    spread = curves.std(axis=1, ddof=1) / math.sqrt(num_probes) if num_probes > 1 else np.full(num_points, np.nan)
    return DensityResult(
        grid=grid,
        density=curves.mean(axis=1),
        stderr=spread,
        nodes=nodes,
        weights=weights,
        matvecs=num_probes * steps,
        broadening=broadening,
        seed=seed,
    )
