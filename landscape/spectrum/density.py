"""Spectral density by stochastic Lanczos quadrature, and how much of it is negative."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from landscape.curvature.operand import SymmetricOperator
from landscape.curvature.progress import Progress, watched
from landscape.objective.objective import check_seed
from landscape.records import DensityResult, EigenResult, NegativeMass
from landscape.spectrum.estimators import jackknife
from landscape.spectrum.krylov import KrylovBasis, eigh


def spectral_density(
    H: SymmetricOperator,
    num_steps: int = 50,
    num_probes: int = 2,
    *,
    deflate: EigenResult | None = None,
    broadening: float = 0.01,
    num_points: int = 1024,
    seed: int = 0,
    progress: Progress = iter,
) -> DensityResult:
    """Estimate the density of a symmetric operator's eigenvalues, which integrates to one.

    From each random start q the Krylov projection gives nodes θ and weights (e₁ᵀs)², which integrate polynomials up to
    degree 2·num_steps − 1 against the spectral measure of q (Ubaru, Chen, Saad 2017, arXiv 1608.06232, §3; Ghorbani et
    al. 2019, arXiv 1901.10159); their mean over probes estimates the density, drawn with a Gaussian kernel. The basis
    is fully reorthogonalised, so no eigenvalue is counted twice. Known eigenpairs are put in exactly, with weight 1/K
    each, and the probes kept orthogonal to them: a random start gives an outlier a weight that is off by its own size.

    Args:
        H: :class:`landscape.HessianOperator`, tensor, array or scipy ``LinearOperator``, (K, K), symmetric.
        num_steps: products a probe; at most K are used.
        num_probes: random starts; few with many steps resolve more than many with few.
        deflate: eigenpairs of this operator with their vectors; those that converged are used. It is not noticed if
            they are another operator's, such as an earlier checkpoint's.
        broadening: standard deviation of the kernel, as a fraction of the width of the spectrum.
        num_points: of the grid, which reaches four kernel widths beyond the outermost nodes.
        seed: of the starts.
        progress: wraps the iteration over products, e.g. ``tqdm.auto.tqdm``.

    Returns:
        DensityResult: ``grid`` and ``density`` (num_points,), ``stderr`` over the probes (NaN for a single one), the
        raw ``nodes`` and ``weights`` (num_probes, steps), and the ``outliers`` put in.

    Raises:
        ValueError: a count below one, a broadening that is not positive, or ``deflate`` of another size or without
            vectors.
        FloatingPointError: a product is not finite.

    >>> from scipy.integrate import trapezoid
    >>> d = spectral_density(torch.diag(torch.tensor([0.0, 0.0, 0.0, 4.0], dtype=torch.float64)), num_steps=2)
    >>> bool(np.isclose(trapezoid(d.density, d.grid), 1.0, atol=1e-3))
    True
    """
    for name, count in (("num_steps", num_steps), ("num_probes", num_probes), ("num_points", num_points)):
        if count < 1:
            raise ValueError(f"{name} is {count}, expected at least 1")
    if not (math.isfinite(broadening) and broadening > 0):
        raise ValueError(f"broadening is {broadening}, expected a finite number > 0")
    check_seed(seed)
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, 2]).generate_state(1)[0]))
    basis = KrylovBasis(H, generator)
    size, known = basis.size, _known(deflate, basis.size)
    outliers = np.zeros(0) if known is None else known.values
    steps, spent = min(num_steps, size - len(outliers)), 0
    nodes, weights = np.empty((num_probes, steps)), np.empty((num_probes, steps))
    with watched(H, steps * num_probes, progress) as observed:
        for probe in range(num_probes if steps else 0):
            basis = KrylovBasis(observed, generator)
            if known is not None:
                basis.lock(torch.as_tensor(known.vectors).to(basis.device), known.values, known.residuals)
            basis.append(torch.randint(0, 2, (size, 1), generator=generator).double() * 2 - 1)
            while basis.products < steps:
                basis.advance()
            nodes[probe], vectors = eigh(basis.projected[len(outliers) :, len(outliers) :])
            weights[probe] = vectors[0] ** 2 * (1 - len(outliers) / size)
            spent += basis.products
    every = np.concatenate([nodes.ravel(), outliers])
    # A spectrum of one point still needs a width to be drawn with.
    width = max(float(np.ptp(every)), 1e-6 * float(np.abs(every).max())) or 1.0
    sigma = broadening * width
    grid = np.linspace(every.min() - 4 * sigma, every.max() + 4 * sigma, num_points)
    fixed = _kernel(grid, outliers, sigma).sum(axis=1) / size
    curves = np.stack([_kernel(grid, n, sigma) @ w for n, w in zip(nodes, weights, strict=True)], axis=1)
    spread = curves.std(axis=1, ddof=1) / math.sqrt(num_probes) if num_probes > 1 else np.full(num_points, np.nan)
    return DensityResult(
        grid=grid,
        density=fixed + curves.mean(axis=1),
        stderr=spread,
        nodes=nodes,
        weights=weights,
        matvecs=spent,
        broadening=broadening,
        seed=seed,
        outliers=outliers,
        size=size,
        checks=getattr(H, "checks", None),
        label=getattr(H, "label", None),
    )


def negative_mass(density: DensityResult, *, threshold: float | None = None) -> NegativeMass:
    """Estimate how much of a spectrum is negative: by number of eigenvalues, and by the sum of their magnitudes.

    Both are computed from the quadrature of :func:`spectral_density`, not from its smoothed curve. The second, Σ|λ|
    over λ < 0 divided by Σ|λ| (Ghorbani et al. 2019, arXiv 1901.10159), is the robust one. The first depends on the
    signs of the very many eigenvalues near zero, which a quadrature does not resolve, unless ``threshold`` leaves them
    out.

    Args:
        density: of the operator.
        threshold: eigenvalues count as negative below minus this, in loss / parameter²; a millionth of the largest
            magnitude if none, below which single precision gives signs at random.

    Returns:
        NegativeMass: ``count`` and ``magnitude`` with standard errors over the probes (jackknife), NaN for one probe.
        ``magnitude`` is 0 for a zero operator.

    Raises:
        ValueError: the threshold is negative or not finite.

    >>> H = torch.diag(torch.tensor([-1.0, 1.0, 2.0, 0.0], dtype=torch.float64))
    >>> m = negative_mass(spectral_density(H, num_steps=4))
    >>> print(round(m.count, 6), round(m.magnitude, 6))
    0.25 0.25
    """
    if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold is {threshold}, expected a finite number >= 0")
    nodes, weights = density.nodes, density.weights
    if density.outliers is not None and len(density.outliers):
        assert density.size is not None  # written together
        outliers = np.broadcast_to(density.outliers, (len(nodes), len(density.outliers)))
        nodes = np.concatenate([nodes, outliers], axis=1)
        weights = np.concatenate([weights, np.full_like(outliers, 1 / density.size)], axis=1)
    if threshold is None:
        threshold = 1e-6 * float(np.abs(nodes).max(initial=0.0))
    below = nodes < -threshold
    sums = (
        np.stack([(weights * below).sum(1), weights.sum(1)]),
        np.stack([(weights * np.abs(nodes) * below).sum(1), (weights * np.abs(nodes)).sum(1)]),
    )
    (count, _, count_error), (magnitude, _, magnitude_error) = (jackknife(pair, _share) for pair in sums)
    return NegativeMass(
        count=count,
        count_stderr=count_error,
        magnitude=magnitude,
        magnitude_stderr=magnitude_error,
        threshold=threshold,
    )


def _kernel(grid: np.ndarray, centres: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussians of deviation ``sigma`` at the ``centres``, (len(grid), len(centres))."""
    return np.exp(-0.5 * ((grid[:, None] - centres) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))


def _known(deflate: EigenResult | None, size: int) -> EigenResult | None:
    """The converged pairs to deflate by."""
    if deflate is None:
        return None
    if deflate.vectors is None:
        raise ValueError("the eigenpairs to deflate by hold no vectors; compute them anew")
    if len(deflate.vectors) != size:
        raise ValueError(f"deflate has vectors of shape {deflate.vectors.shape}, expected ({size}, k)")
    good = np.flatnonzero(deflate.converged)
    return dataclasses.replace(
        deflate,
        values=deflate.values[good],
        residuals=deflate.residuals[good],
        converged=deflate.converged[good],
        vectors=deflate.vectors[:, good],
        errors=None,
        sharp=None,
    )


def _share(means: np.ndarray) -> np.ndarray:
    """The first of two quantities as a share of the second; 0 where that is 0."""
    return np.divide(means[0], means[1], out=np.zeros_like(means[0]), where=means[1] > 0)
