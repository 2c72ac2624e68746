"""Random probes of a symmetric operator, once the part of it that is known has been taken out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.operand import operand
from landscape.objective.objective import check_seed
from landscape.records import EigenResult
from landscape.spectrum.krylov import BASIS_BYTES, KrylovBasis

_BLOCK_BYTES = 256 << 20
_MOST_AT_ONCE = 16
_FEW = 12  # entries, of which two probes may well have the same signs


def memory_of_probes(count: int, size: int) -> int:
    """Bytes that ``count`` probes of ``size`` hold at the most, block by block.

    A block has its signs, their images as they come and in double precision, and a projection with its temporary, while
    signs and images of the block before are still held.

    >>> memory_of_probes(2, 1000)
    104000
    """
    at_once = min(count, max(1, min(_MOST_AT_ONCE, _BLOCK_BYTES // (8 * size))))
    return (8 + 4 + 8 + 2 * 8 + 2 * 8) * size * at_once


class DeflatedProbes:
    """H = [T, C*; C, B] in a known subspace and its complement: T and C exactly, B by random probes.

    What is known costs no variance, and what curvature operators have outside a small Krylov space is little (Meyer,
    Musco, Musco, Woodruff 2021, arXiv 2010.09649; here the space is a Krylov space and is mostly paid for already).

    Args:
        operator: symmetric, (K, K).
        num_matvecs: products to spend.
        deflate: what is known: an :class:`EigenResult` (its whole ``basis`` where it was kept, else its vectors), or
            vectors (K, m), which cost m of the products. The basis is grown until as many dimensions are known as
            products are left for probes, within 2 GiB.
        seed: of probes and start vectors.
        coupled: whether C is needed; known vectors without their products then cost these products.

    With ``num_matvecs >= K`` everything is computed exactly by K products, and there are no probes.

    Raises:
        ValueError: fewer than two products are left for probes, or ``deflate`` is not of this operator's size, or has
            a vector that is zero or not finite.
    """

    def __init__(self, operator: Any, num_matvecs: int, deflate: Any, seed: int, *, coupled: bool) -> None:
        # Not the stream that top_eigenpairs draws its start from: probes must not depend on what they are deflated by.
        check_seed(seed)
        self._generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]))
        self._order: Tensor | None = None
        given = operand(operator, num_matvecs)
        size, self._product = given.size, given.product
        if not isinstance(num_matvecs, int | np.integer) or num_matvecs < 2:
            raise ValueError(f"num_matvecs is {num_matvecs}, expected at least 2 to give a standard error")
        self.basis = basis = self._known(operator, num_matvecs, deflate, coupled)
        if num_matvecs >= size:
            while not basis.complete:
                basis.advance()
        # Half: as good as the best share or nearly so on spectra with outliers, and enough probes to tell the error.
        room = BASIS_BYTES // (8 * size) - 1
        goal = min(room, (len(basis) + num_matvecs - basis.products) // 2)
        while len(basis) < goal and basis.products < num_matvecs - 2 and not basis.complete:
            basis.advance()
        self.count = 0 if self.basis.complete else num_matvecs - self.basis.products
        self.matvecs = self.basis.products + self.count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Random signs z and B z, (K, b) each, in blocks, with B = (I − QQᵀ) H (I − QQᵀ)."""
        size, done = self.basis.size, 0
        most = max(1, min(_MOST_AT_ONCE, _BLOCK_BYTES // (8 * size)))
        while done < self.count:
            count = min(most, self.count - done)
            signs = self._signs(done, count).to(self.basis.device).T
            images = self._product(self.basis.project(signs))
            if not torch.isfinite(images).all():
                raise FloatingPointError(
                    "an operator-vector product is not finite; the loss has no finite curvature at these weights"
                )
            yield signs, self.basis.project(images.double())
            done += count

    def _signs(self, done: int, count: int) -> Tensor:
        """The next random signs, (count, K)."""
        size = self.basis.size
        if size > _FEW:
            bits = torch.randint(0, 2, (count, size), generator=self._generator, dtype=torch.int8)
        else:  # without replacement, as equal probes would show no error
            if self._order is None:
                self._order = torch.randperm(2 ** (size - 1), generator=self._generator)
            bits = self._order[done : done + count, None] >> torch.arange(size) & 1
        return bits.double() * 2 - 1

    @property
    def known_trace(self) -> float:
        """tr T."""
        return float(np.trace(self.basis.projected))

    @property
    def known_square(self) -> float:
        """‖T‖² + 2 ‖C‖², Frobenius."""
        images = float((self.basis.coefficients**2).sum() + (self.basis.dropped**2).sum())
        return 2 * images - float((self.basis.projected**2).sum())

    def known_diagonal(self) -> Tensor:
        """Diagonal of H − B, (K,)."""
        m = len(self.basis)
        inside = self.basis.combine(self.basis.projected).T * self.basis.vectors
        coupling = torch.from_numpy(self.basis.coefficients[m:].copy()).to(self.basis.device)
        outside = (self.basis.waiting.T @ coupling).T * self.basis.vectors
        return (inside + 2 * outside).sum(0)

    def _known(self, operator: Any, num_matvecs: int, deflate: Any, coupled: bool) -> KrylovBasis:
        """A basis of what is known."""
        basis = KrylovBasis(operator, self._generator)
        if deflate is None:
            return basis
        given = deflate.vectors if isinstance(deflate, EigenResult) else deflate
        if given is None:
            raise ValueError("the eigenpairs to deflate by hold no vectors; compute them anew")
        vectors = torch.as_tensor(given)
        if vectors.ndim != 2 or len(vectors) != basis.size:
            raise ValueError(f"deflate has vectors of shape {tuple(vectors.shape)}, expected ({basis.size}, m)")
        norms = vectors.double().norm(dim=0)
        if not bool((torch.isfinite(norms) & (norms > 0)).all()):
            raise ValueError("deflate has a vector that is zero or not finite; leave it out")
        if num_matvecs >= basis.size:
            return basis
        if isinstance(deflate, EigenResult):
            kept = deflate.basis
            if isinstance(kept, KrylovBasis) and not (coupled and kept.truncated):
                basis.adopt(kept)
                return basis
            if not coupled:
                basis.lock(vectors.to(basis.device), deflate.values, deflate.residuals)
                return basis
        basis.append(vectors)
        if basis.stored > num_matvecs - 2:
            raise ValueError(
                f"num_matvecs is {num_matvecs}, expected at least {basis.stored + 2}: {basis.stored} for the vectors "
                "to deflate by, two for a standard error"
            )
        basis.advance(basis.stored)
        return basis
