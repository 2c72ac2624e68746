"""Stochastic trace estimation with error bars."""

from __future__ import annotations

from typing import Any

import numpy as np

from landscape.records import TraceResult
from landscape.spectrum.probes import DeflatedProbes


def trace(H: Any, num_matvecs: int = 100, *, deflate: Any = None, seed: int = 0) -> TraceResult:
    """Trace of a symmetric operator by deflated Hutchinson probes, with its standard error.

    tr H = tr QᵀHQ + E zᵀ(I − QQᵀ)H(I − QQᵀ)z for an orthonormal basis Q and Rademacher vectors z (Hutchinson 1989;
    Gambhir, Stathopoulos, Orginos 2017, arXiv 1603.05988). The first term is exact; with Q a Krylov basis it holds the
    outliers, which dominate the variance. Unbiased: probes and basis are drawn independently. The same seed draws the
    same probes for every operator of one size. ``value ± t·stderr`` with Student's t for ``len(samples) − 1`` degrees
    of freedom covers the trace as often as it says.

    Args:
        H: :class:`landscape.HessianOperator`, tensor, array or scipy ``LinearOperator``, (K, K), symmetric.
        num_matvecs: products to spend; from K on the trace is exact and its error 0.
        deflate: the :class:`landscape.EigenResult` of this operator: its Krylov basis if it was made with
            ``keep_basis=True``, else its eigenvectors, both without further products; or vectors (K, m), which take m
            of the products. What is known is then grown as a Krylov space, until as many dimensions are known as
            products are left for probes; with ``None`` that is half of them.
        seed: of the probes.

    Raises:
        ValueError: fewer than two products for probes, or ``deflate`` of another size.
        FloatingPointError: a product is not finite.

    >>> import torch
    >>> t = trace(torch.diag(torch.tensor([3.0, 2.0, -1.0])), num_matvecs=4)
    >>> print(t.value.round(6), t.stderr, t.matvecs)
    4.0 0.0 3
    """
    probes = DeflatedProbes(H, num_matvecs, deflate, seed, coupled=False)
    known = probes.known_trace
    samples = [known + s for z, image in probes for s in (z * image).sum(0).tolist()]
    array = np.array(samples or [known])
    return TraceResult(
        value=array.mean(),
        stderr=array.std(ddof=1) / np.sqrt(len(array)) if samples else 0.0,
        matvecs=probes.matvecs,
        samples=array,
        seed=seed,
        deflated=len(probes.basis),
    )
