"""Error bounds: how far off the eigenvalues found are, and where those not found must lie."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from landscape.spectrum.krylov import KrylovBasis, eigh

FAILURE = 1e-3
"""Chance that the bounds of :class:`Unseen` do not hold, over the random start of the search."""


@dataclasses.dataclass(frozen=True)
class Unseen:
    """All eigenvalues but as many as were found lie in [lower, upper]; ``None`` where nothing is known.

    ``coupling`` is how far the eigenvalues found may lie from their values.
    """

    lower: float | None = None
    upper: float | None = None
    coupling: float = 0.0

    @property
    def any(self) -> bool:
        """Tell whether there is, as far as known, something between the bounds."""
        return self.lower is not None and self.upper is not None and self.lower <= self.upper

    @staticmethod
    def of_complete(basis: KrylovBasis, found: np.ndarray) -> Unseen:
        """Certain: the Ritz values of a complete basis that are not among the ``found`` indices."""
        rest = np.delete(basis.ritz()[0], found)
        dropped = float(np.linalg.norm(basis.dropped)) + basis.rounding
        if not len(rest):
            return Unseen(math.inf, -math.inf, dropped)
        return Unseen(float(rest[0]) - dropped, float(rest[-1]) + dropped, dropped)


def explore(basis: KrylovBasis, values: np.ndarray, residuals: np.ndarray, steps: int, block: int) -> Unseen:
    """Bound what lies outside the pairs that ``basis`` is locked to, by ``steps`` products from a fresh start.

    With P the projection onto the complement of the locked vectors, s Lanczos steps on PHP from a uniformly random
    start give Ritz values whose extremes miss either end of the spectrum of PHP by more than ε·(λ_max − λ_min) with
    probability at most 1.648 √n exp(−√ε (2s − 1)), n = dim PHP (Kuczyński & Woźniakowski 1992, theorem 4.1; a block
    does no worse). H differs from diag(Λ, PHP) by at most the norm of the locked residuals (Weyl). Stops early once
    nothing unseen can lie among ``values``.
    """
    known = len(values)
    coupling = float(np.linalg.norm(residuals)) + basis.rounding
    unseen = Unseen()
    while basis.products < steps and not basis.complete:
        basis.advance(min(block, steps - basis.products))
        ritz = eigh(basis.projected[known:, known:])[0]
        unseen = _bounds(ritz, basis.size - known, -(-len(ritz) // block), coupling)
        if unseen.upper is not None and unseen.lower is not None:
            outside = (values - coupling > unseen.upper) | (values + coupling < unseen.lower)
            if outside.all():
                break
    return unseen


def _bounds(ritz: np.ndarray, dimension: int, steps: int, coupling: float) -> Unseen:
    epsilon = 0.0
    if len(ritz) < dimension:
        epsilon = (math.log(2 * 1.648 * math.sqrt(dimension) / FAILURE) / (2 * steps - 1)) ** 2
    if epsilon >= 0.5:
        return Unseen()
    # Each end may be off by ε times the true spread, itself at most 1/(1 − 2ε) of the one seen.
    slack = epsilon / (1 - 2 * epsilon) * float(ritz[-1] - ritz[0]) + coupling
    return Unseen(float(ritz[0]) - slack, float(ritz[-1]) + slack, coupling)


def certified_errors(
    values: np.ndarray, residuals: np.ndarray, unseen: Unseen, rounding: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on |λ − value|, and where they are the sharper residual²/gap.

    An eigenvalue lies within the residual of every Ritz value, and within residual²/gap where no other eigenvalue is
    nearer than the gap (Parlett, *The Symmetric Eigenvalue Problem*, theorem 11.7.1). The gap is known where the
    unseen eigenvalues are bounded: it reaches to them and to the other found values, less what those may be off.
    """
    errors, sharp = residuals + rounding, np.zeros(len(values), dtype=bool)
    if unseen.lower is None or unseen.upper is None:
        return errors, sharp
    between = np.abs(values[:, None] - values) + np.diag(np.full(len(values), np.inf))
    coupling = max(unseen.coupling, float(np.linalg.norm(residuals)) + rounding)
    others = (
        between.min(axis=1) - 2 * coupling
    )  # as far as an eigenvalue may lie from its value at the search and since
    gap = np.minimum(others, np.maximum(values - unseen.upper, unseen.lower - values))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # Divided first: the square of a very small residual would be 0, and no error.
        quadratic = np.where(gap > 0, residuals * (residuals / gap), np.inf) + rounding
    sharp = quadratic < errors
    return np.where(sharp, quadratic, errors), sharp
