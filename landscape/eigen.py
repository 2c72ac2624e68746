"""Extreme eigenpairs of a symmetric operator by Lanczos with full reorthogonalisation."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.krylov import KrylovBasis
from landscape.operators import as_product
from landscape.records import EigenResult

_log = logging.getLogger(__name__)
_CHECK_EVERY = 2


def top_eigenpairs(
    H: Any,
    k: int = 5,
    *,
    which: str = "LA",
    tol: float = 1e-3,
    max_matvecs: int | None = None,
    seed: int = 0,
    search_missed: bool = False,
) -> EigenResult:
    """The k extreme eigenpairs of a symmetric operator, each with its residual.

    The operator is projected onto a :class:`landscape.krylov.KrylovBasis`. The run stops when every wanted pair has
    ‖Hv − λv‖ ≤ tol·|λ|, or lies at the rounding level of the products. Residuals are taken from the products
    themselves, not from the recurrence. For symmetric H an eigenvalue lies within the
    residual of each returned value.

    Args:
        H: :class:`landscape.HessianOperator`, tensor, array or scipy ``LinearOperator``, (K, K), symmetric.
        k: number of pairs, at most K.
        which: ``"LA"`` algebraically largest (descending), ``"SA"`` smallest (ascending), ``"LM"`` largest magnitude.
        tol: relative residual at which a pair counts as converged.
        max_matvecs: products at most; ``min(K, 20 k + 100)`` if none.
        seed: of the random start vector.
        search_missed: grow the basis from fresh starts until one finds nothing new. One Krylov sequence meets each
            eigenvalue once, so copies of a multiple eigenvalue are found only so; costs about twice the products.

    Returns:
        EigenResult: ``values`` (k,), ``vectors`` (K, k), ``residuals`` (k,), ``converged`` (k,), ``matvecs``.
        What did not converge is returned as such and logged.

    Raises:
        ValueError: ``which``, ``k`` or ``max_matvecs`` out of range.
        FloatingPointError: a product is not finite.

    >>> r = top_eigenpairs(torch.diag(torch.tensor([9.0, 2.0, -1.0], dtype=torch.float64)), k=2)
    >>> r.values.round(6), bool(r.converged.all())
    (array([9., 2.]), True)
    """
    size, device, eps, product = as_product(H)
    if which not in ("LA", "SA", "LM"):
        raise ValueError(f"which is {which!r}, expected 'LA', 'SA' or 'LM'")
    if not 1 <= k <= size:
        raise ValueError(f"k is {k}, expected 1…{size} (the number of parameters)")
    limit = min(size, 20 * k + 100 if max_matvecs is None else max_matvecs)
    if limit < k:
        raise ValueError(f"max_matvecs is {max_matvecs}, expected at least k = {k}")

    basis = KrylovBasis(size, device, eps, product, torch.Generator().manual_seed(seed), limit)
    start: Tensor | None = None
    check_at, known = k, None
    while True:
        basis.grow(start)
        start = None
        done = len(basis) == limit
        if len(basis) < check_at and not done:
            continue
        check_at = len(basis) + _CHECK_EVERY
        ritz, coefficients = np.linalg.eigh(basis.projected)
        order = np.argsort({"LA": -ritz, "SA": ritz, "LM": -np.abs(ritz)}[which], kind="stable")[:k]
        values, scale = ritz[order], float(np.abs(ritz).max())
        s = torch.from_numpy(coefficients[:, order]).to(device)
        vectors = basis.vectors.T @ s
        residuals = (basis.images.T @ s - vectors * torch.from_numpy(values).to(device)).norm(dim=0).cpu().numpy()
        converged = residuals <= np.maximum(tol * np.abs(values), 10 * eps * scale)
        if done:
            break
        if converged.all():
            if not search_missed or (known is not None and np.abs(values - known).max() <= tol * scale):
                break
            known, check_at, start = values, 2 * len(basis), basis.fresh()
    if not converged.all():
        _log.warning(
            "%d of %d eigenpairs did not converge in %d products (largest residual %.2g); raise max_matvecs or tol",
            int((~converged).sum()), k, len(basis), residuals.max(),
        )  # fmt: skip
    return EigenResult(
        values=values,
        residuals=residuals,
        converged=converged,
        matvecs=len(basis),
        which=which,
        tol=tol,
        seed=seed,
        vectors=vectors.cpu().numpy(),
    )
