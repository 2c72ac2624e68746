"""Extreme eigenpairs of a symmetric operator by Lanczos with full reorthogonalisation."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

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

    A Krylov basis is grown in float64 with two passes of Gram–Schmidt against all earlier vectors (so no ghost copies
    appear), and the operator is projected onto it (Golub & Van Loan, *Matrix Computations*, §10). The run stops
    when every wanted pair has ‖Hv − λv‖ ≤ tol·|λ|, or lies at the rounding level of the products. Residuals are
    taken from the products themselves, not from the recurrence. For symmetric H an eigenvalue lies within the
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

    generator = torch.Generator().manual_seed(seed)
    basis = _Rows(size, device)
    images = _Rows(size, device)
    projected = np.zeros((limit, limit))
    q = _fresh(basis, generator)
    check_at, known = k, None
    while True:
        basis.append(q)
        w = product(q)
        if not torch.isfinite(w).all():
            raise FloatingPointError(
                "an operator-vector product is not finite; the loss has no finite curvature at these weights"
            )
        images.append(w)
        j = len(basis) - 1
        projected[: j + 1, j] = projected[j, : j + 1] = (basis.rows @ w).cpu().numpy()
        done = j + 1 == limit
        if j + 1 >= check_at or done:
            check_at = j + 1 + _CHECK_EVERY
            values, coefficients = _select(projected[: j + 1, : j + 1], k, which)
            s = torch.from_numpy(coefficients).to(device)
            vectors = basis.rows.T @ s
            residual = images.rows.T @ s - vectors * torch.from_numpy(values).to(device)
            residuals = residual.norm(dim=0).cpu().numpy()
            scale = float(np.abs(np.linalg.eigvalsh(projected[: j + 1, : j + 1])).max())
            converged = residuals <= np.maximum(tol * np.abs(values), 10 * eps * scale)
            if done:
                break
            if converged.all():
                if not search_missed or (known is not None and np.abs(values - known).max() <= tol * scale):
                    break
                known, check_at = values, 2 * (j + 1)
                q = _fresh(basis, generator)
                continue
        w = _orthogonalise(w, basis.rows)
        norm = float(w.norm())
        # An invariant subspace: go on in a fresh direction, so that multiple eigenvalues are found too.
        q = w / norm if norm > 10 * eps * float(images.rows[j].norm()) else _fresh(basis, generator)
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


class _Rows:
    """Rows of equal length in one growing float64 tensor."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._store = torch.empty(16, size, dtype=torch.float64, device=device)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> Tensor:
        return self._store[: self._count]

    def append(self, row: Tensor) -> None:
        if self._count == len(self._store):
            self._store = torch.cat([self._store, torch.empty_like(self._store)])
        self._store[self._count] = row
        self._count += 1


def _fresh(basis: _Rows, generator: torch.Generator) -> Tensor:
    size, device = basis.rows.shape[1], basis.rows.device
    vector = torch.randn(size, generator=generator, dtype=torch.float64).to(device)
    vector = _orthogonalise(vector, basis.rows)
    return vector / vector.norm()


def _orthogonalise(vector: Tensor, rows: Tensor) -> Tensor:
    """Gram–Schmidt twice, which is enough (Giraud et al. 2005)."""
    for _ in range(2):
        vector = vector - rows.T @ (rows @ vector)
    return vector


def _select(matrix: np.ndarray, k: int, which: str) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(matrix)
    key = {"LA": -values, "SA": values, "LM": -np.abs(values)}[which]
    order = np.argsort(key, kind="stable")[:k]
    return values[order], vectors[:, order]
