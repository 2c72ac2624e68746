"""Extreme eigenpairs of a symmetric operator by Lanczos with full reorthogonalisation."""

from __future__ import annotations

import dataclasses
import logging
import math
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.operand import SymmetricOperator, operand
from landscape.curvature.progress import Progress, watched
from landscape.objective.objective import check_seed
from landscape.records import EigenResult
from landscape.spectrum.error_bounds import Unseen, certified_errors, explore
from landscape.spectrum.krylov import BASIS_BYTES, KrylovBasis, place_of

_EXPECTED = 4  # products for a well separated pair, and ten besides
_log = logging.getLogger(__name__)
_START_NOISE = 10.0  # times the unit hint; see _warm

Which = Literal["LA", "SA", "LM", "both"]
"""End of the spectrum, see :func:`top_eigenpairs`."""


def top_eigenpairs(
    H: SymmetricOperator,
    k: int = 5,
    *,
    which: Which = "LA",
    tol: float = 1e-3,
    max_matvecs: int | None = None,
    seed: int = 0,
    search_missed: bool = False,
    start: Any = None,
    block: int = 1,
    max_basis: int | None = None,
    basis_bytes: int | None = None,
    keep_basis: bool = False,
    progress: Progress = iter,
) -> EigenResult:
    """The k extreme eigenpairs of a symmetric operator, each with its residual and an error bound.

    The operator is projected onto a :class:`landscape.spectrum.krylov.KrylovBasis`, restarted with its best half where
    it outgrows ``max_basis`` (thick restart, Wu & Simon 2000). The run stops when every wanted pair has
    ‖Hv − λv‖ ≤ tol·|λ|, or lies at the rounding level of the products. Residuals are taken from the products
    themselves, not from the recurrence; an eigenvalue of H lies within its residual of every returned value. Where
    products are made in bfloat16 or by finite differences, that is one of the matrix of these products; ``errors`` then
    include what ``H.probe.product_error`` tells of their error, which is an estimate.

    **What is not promised without** ``search_missed``: in exact arithmetic one Krylov sequence meets each eigenvalue
    once. So a run of ``block`` vectors finds at most ``block`` copies of a multiple eigenvalue, and residuals cannot
    show that others are missing. A search explores the complement of what was found from a fresh start until nothing
    new appears; it takes about as many products again and yields ``unseen_lower`` and ``unseen_upper``. All but
    ``len(values)`` eigenvalues lie between them, with probability 0.999 over the fresh start. Only then are the gaps to
    other eigenvalues known, and errors of residual²/gap possible (``sharp``).

    Args:
        H: :class:`landscape.HessianOperator`, tensor, array or scipy ``LinearOperator``, (K, K), symmetric.
        k: number of pairs, at most K.
        which: ``"LA"`` algebraically largest (descending), ``"SA"`` smallest (ascending), ``"LM"`` largest magnitude
            (by magnitude, descending), ``"both"`` the k largest and the k smallest, 2k pairs, descending.
        tol: relative residual at which a pair counts as converged.
        max_matvecs: products at most; if none, 20 for every pair and 100 more, or K where that is less, and four times
            as many with a search.
        seed: of the random start vectors.
        search_missed: look for pairs that the first run missed.
        start: vectors (K, j) to start from, such as the ``vectors`` of an earlier checkpoint. They are only a hint,
            mixed into a random vector ten times as long: it saves a few products, and what is new since then is seen.
        block: vectors multiplied at once. More find multiple eigenvalues and share passes over the data, but take more
            products for the same accuracy.
        max_basis: vectors (8 K bytes each) held at once; by default what fits 2 GiB, at least ``2 k + 2 block + 8``.
            On an accelerator that they would fill by more than half they are kept in CPU memory instead.
        basis_bytes: in place of ``max_basis``, the memory that these vectors may take. Few of them mean more restarts
            and more products. With a search, two bases share it.
        keep_basis: keep the basis in the result's ``basis``, for :func:`landscape.trace` and others to deflate by.
        progress: wraps the iteration over products, of which 4k + 10 are expected, e.g. ``tqdm.auto.tqdm``.

    Returns:
        EigenResult: ``values`` (k,), ``vectors`` (K, k), ``residuals`` (k,), ``converged`` (k,), ``matvecs``,
        ``errors`` (k,) and more. What did not converge is returned as such and logged.

    Raises:
        ValueError: an argument is out of range, ``basis_bytes`` hold too few vectors, or ``start`` is not (K, j),
            finite and without zero columns.
        FloatingPointError: a product is not finite.

    >>> r = top_eigenpairs(torch.diag(torch.tensor([9.0, 2.0, -1.0], dtype=torch.float64)), k=2)
    >>> r.values.round(6), bool(r.converged.all())
    (array([9., 2.]), True)
    """
    check_seed(seed)
    if not isinstance(k, Integral):
        raise TypeError(f"k is {k!r}, expected a whole number of eigenpairs")
    generator = torch.Generator().manual_seed(seed)
    with watched(H, _EXPECTED * k + 10, progress) as observed:
        given = operand(observed, _EXPECTED * k + 10)
        size, device = given.size, given.device
        if basis_bytes is not None:
            max_basis = vectors_in(basis_bytes, size, k, which, block, search_missed, max_basis)
        run = _Run.of(size, k, which, tol, block, max_basis)
        room = min(run.max_basis, size)
        basis = KrylovBasis(observed, generator, capacity=room, device=place_of(size, room, device))
        limit = (
            min(basis.size, 20 * run.wanted + 100) * (4 if search_missed else 1) if max_matvecs is None else max_matvecs
        )
        if limit < run.wanted:
            raise ValueError(f"max_matvecs is {max_matvecs}, expected at least k = {run.wanted}")
        basis.append(basis.fresh(block) if start is None else _warm(start, block, basis))
        found = run.converge(basis, limit)
        first, unseen = basis.products, Unseen()
        spent = first
        if search_missed:
            basis, found, unseen, searched = _search(observed, run, basis, found, limit - first)
            spent += searched
        if basis.complete:
            unseen = Unseen.of_complete(basis, found.order)
        if not found.converged.all():
            _log.warning(
                "%d of %d eigenpairs did not converge in %d products (largest residual %.2g); raise max_matvecs or tol",
                int((~found.converged).sum()), run.wanted, spent, found.residuals.max(),
            )  # fmt: skip
    errors, sharp = certified_errors(found.values, found.residuals, unseen, basis.rounding)
    errors = errors + float(getattr(H, "product_error", 0.0)) * basis.largest
    return EigenResult(
        values=found.values,
        residuals=found.residuals,
        converged=found.converged,
        matvecs=spent,
        which=which,
        tol=tol,
        seed=seed,
        vectors=basis.combine(found.coefficients).cpu().numpy(),
        errors=errors,
        sharp=sharp,
        unseen_lower=unseen.lower if unseen.any else None,
        unseen_upper=unseen.upper if unseen.any else None,
        search_matvecs=spent - first,
        block=block,
        checks=getattr(H, "checks", None),
        label=getattr(H, "label", None),
        basis=basis if keep_basis else None,
    )


def vectors_in(
    basis_bytes: int,
    size: int,
    k: int,
    which: Which,
    block: int = 1,
    search: bool = False,
    max_basis: int | None = None,
) -> int:
    """Vectors of ``size`` that the basis of :func:`top_eigenpairs` may hold in so many bytes.

    Raises:
        ValueError: they hold too few, are no whole number, or ``max_basis`` is given too.
    """
    if max_basis is not None:
        raise ValueError(f"max_basis is {max_basis} and basis_bytes {basis_bytes}; give one of the two")
    if isinstance(basis_bytes, bool) or not isinstance(basis_bytes, int):
        raise ValueError(f"basis_bytes is {basis_bytes!r}, expected a whole number of bytes")
    each, bases = 8 * size, 2 if search else 1
    smallest = (2 * k if which == "both" else k) + 2 * block + 1
    if basis_bytes < each * smallest * bases:
        raise ValueError(
            f"basis_bytes is {basis_bytes}, expected at least {each * smallest * bases}: {smallest} vectors of {each} "
            f"bytes{' in each of two bases' if search else ''}"
        )
    return basis_bytes // (each * bases)


def default_basis(size: int, wanted: int, block: int = 1) -> int:
    """Vectors of ``size`` that the basis of :func:`top_eigenpairs` holds at most for so many pairs, where none says."""
    return max(2 * wanted + 2 * block + 8, BASIS_BYTES // (8 * size))


def _search(
    H: Any, run: _Run, basis: KrylovBasis, found: _Found, budget: int
) -> tuple[KrylovBasis, _Found, Unseen, int]:
    """Look for missed pairs in the complement of those found, until one search finds nothing new; products spent."""
    effort, spent = max(basis.products, 20), 0
    while not basis.complete and spent < budget:
        again = KrylovBasis(H, basis.generator, capacity=min(run.max_basis, basis.size), device=basis.device)
        again.lock(basis.combine(found.coefficients), found.values, found.residuals)
        again.append(again.fresh(run.block))
        room = min(effort, budget - spent, run.max_basis - run.wanted - run.block - 1)
        unseen = explore(again, found.values, found.residuals, room, run.block)
        more = run.converge(again, budget - spent)
        spent += again.products
        news = run.differ(more, found, again.rounding)
        basis, found = again, more
        if not news:
            return basis, found, unseen, spent
    return basis, found, Unseen(), spent  # what the last search found may not be all


def _warm(start: Any, block: int, basis: KrylovBasis) -> Tensor:
    """Start vectors (K, block): sums of the given ones, and random vectors ten times as long.

    The sum of j nearly right eigenvectors spans, with its products, what they span; against starting with all of them
    this took fewer products wherever they were not exact already. With less randomness the run is over before an
    eigenvalue that is new is seen (of 50 000 parameters a tenth missed it in 19 of 32 runs, one in 5, three in 2, ten
    in none), and saves only one or two products more.
    """
    vectors = torch.as_tensor(start).detach().cpu().double()
    vectors = vectors.reshape(len(vectors), -1) if vectors.ndim else vectors.reshape(1, 1)
    if len(vectors) != basis.size or not vectors.shape[1]:
        raise ValueError(f"start has shape {tuple(np.shape(start))}, expected ({basis.size}, j) with j >= 1")
    norms = vectors.norm(dim=0)
    if not (torch.isfinite(norms).all() and norms.all()):
        raise ValueError("start has a column that is zero or not finite; leave it out")
    vectors = vectors / norms
    noise = basis.fresh(block)
    noise = noise / noise.norm(dim=0)
    groups = [vectors[:, i::block].sum(1) for i in range(min(block, vectors.shape[1]))]
    for i, group in enumerate(groups):
        noise[:, i] = group / group.norm().clamp_min(1e-8) + _START_NOISE * noise[:, i]
    return noise


@dataclasses.dataclass(frozen=True)
class _Found:
    """The wanted Ritz pairs of a basis, by their coefficients in it (m, k)."""

    values: np.ndarray
    coefficients: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    order: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Run:
    """Grow a basis until the wanted pairs have converged."""

    which: Which
    wanted: int
    tol: float
    block: int
    max_basis: int

    @classmethod
    def of(cls, size: int, k: int, which: Which, tol: float, block: int, max_basis: int | None) -> _Run:
        """Check what was asked for, and complete it."""
        if which not in get_args(Which):
            raise ValueError(f"which is {which!r}, expected 'LA', 'SA', 'LM' or 'both'")
        half, most = ("half ", size // 2) if which == "both" else ("", size)
        if not 1 <= k <= most:
            raise ValueError(f"k is {k}, expected 1…{most} ({half}the number of parameters)")
        if not (np.isfinite(tol) and tol >= 0):
            raise ValueError(f"tol is {tol}, expected a finite number >= 0")
        if not 1 <= block <= size:
            raise ValueError(f"block is {block}, expected 1…{size} (the number of parameters)")
        wanted = 2 * k if which == "both" else k
        smallest = wanted + 2 * block + 1
        if max_basis is None:
            max_basis = default_basis(size, wanted, block)
        elif max_basis < smallest:
            raise ValueError(
                f"max_basis is {max_basis}, expected at least {smallest} for {wanted} pairs and block {block}"
            )
        return cls(which, wanted, tol, block, max_basis)

    def converge(self, basis: KrylovBasis, budget: int) -> _Found:
        """The wanted pairs, when they have converged or ``budget`` products are spent."""
        while True:
            done = basis.complete or basis.products >= budget
            if len(basis) >= self.wanted:
                values, s = basis.ritz()
                order = self._order(values)
                found = self._judge(basis, values, s, order[: self.wanted])
                if done or found.converged.all():
                    return found
                if self._full(basis):
                    basis.compress(s[:, order[: (self.wanted + len(order)) // 2]])
            # Large projections are diagonalised more seldom; they cost m³.
            for _ in range(1 + len(basis) // 32):
                if basis.complete or basis.products >= budget or self._full(basis):
                    break
                basis.advance(min(self.block, budget - basis.products))

    def differ(self, new: _Found, old: _Found, rounding: float) -> bool:
        """Tell whether ``new`` holds another eigenvalue than ``old``, not only a better value of the same."""
        a, b = (np.abs(f.values) if self.which == "LM" else f.values for f in (new, old))
        return bool((np.abs(np.sort(a) - np.sort(b)) > old.residuals.max() + 2 * rounding).any())

    def _full(self, basis: KrylovBasis) -> bool:
        return basis.stored + self.block > self.max_basis

    def _judge(self, basis: KrylovBasis, ritz: np.ndarray, s: np.ndarray, chosen: np.ndarray) -> _Found:
        if self.which == "both":
            chosen = chosen[np.argsort(-ritz[chosen], kind="stable")]
        values, coefficients = ritz[chosen], s[:, chosen]
        residuals = basis.residuals(values, coefficients)
        # In a complete basis the residual is rounding alone, that of sums over as many vectors.
        floor = basis.rounding * (math.sqrt(len(basis)) if basis.complete else 1.0)
        converged = residuals <= np.maximum(self.tol * np.abs(values), floor)
        return _Found(values, coefficients, residuals, converged, chosen)

    def _order(self, ritz: np.ndarray) -> np.ndarray:
        """Indices into ascending Ritz values, the most wanted first."""
        up = np.arange(len(ritz))
        if self.which == "LM":
            return np.argsort(-np.abs(ritz), kind="stable")
        if self.which == "both":
            return np.stack([up[::-1], up], axis=1).reshape(-1)[: len(ritz)]
        return up if self.which == "SA" else up[::-1]
