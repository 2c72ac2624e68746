"""An orthonormal basis grown by products with a symmetric operator: what eigenpairs and densities are read off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class KrylovBasis:
    """Lanczos vectors in float64 with two passes of Gram–Schmidt against all earlier ones, so no ghost copies appear.

    The operator is projected onto the basis from the products themselves, not from the three-term recurrence (Golub &
    Van Loan, *Matrix Computations*, §10; twice is enough: Giraud et al. 2005).

    Args:
        size: dimension K of the operator.
        device: of the vectors.
        eps: machine epsilon of the products.
        product: ``v -> H v`` for (K,) vectors.
        generator: of the start vectors.
        limit: most vectors there will be.
    """

    def __init__(
        self,
        size: int,
        device: torch.device,
        eps: float,
        product: Callable[[Tensor], Tensor],
        generator: torch.Generator,
        limit: int,
    ) -> None:
        self._size, self._device, self._eps = size, device, eps
        self._product, self._generator = product, generator
        self._vectors = torch.empty(0, size, dtype=torch.float64, device=device)
        self._images = torch.empty_like(self._vectors)
        self._projected = np.zeros((limit, limit))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def vectors(self) -> Tensor:
        """The orthonormal basis, (m, K)."""
        return self._vectors[: self._count]

    @property
    def images(self) -> Tensor:
        """Products of the operator with the basis vectors, (m, K)."""
        return self._images[: self._count]

    @property
    def projected(self) -> np.ndarray:
        """The operator in the basis, (m, m), symmetric."""
        return self._projected[: self._count, : self._count]

    def grow(self, start: Tensor | None = None) -> None:
        """Add one vector: the last product made orthogonal, ``start``, or a fresh one where that vanishes.

        Raises:
            FloatingPointError: the product is not finite.
        """
        q = self._next() if start is None else start
        if self._count == len(self._vectors):
            room = torch.empty(max(16, self._count), self._size, dtype=torch.float64, device=self._device)
            self._vectors, self._images = torch.cat([self._vectors, room]), torch.cat([self._images, room])
        image = self._product(q)
        if not torch.isfinite(image).all():
            raise FloatingPointError(
                "an operator-vector product is not finite; the loss has no finite curvature at these weights"
            )
        j = self._count
        self._vectors[j], self._images[j] = q, image
        self._count += 1
        self._projected[: j + 1, j] = self._projected[j, : j + 1] = (self.vectors @ image).cpu().numpy()

    def fresh(self) -> Tensor:
        """A random unit vector orthogonal to the basis, (K,)."""
        draw = torch.randn(self._size, generator=self._generator, dtype=torch.float64).to(self._device)
        draw = self._orthogonal(draw)
        return draw / draw.norm()

    def _next(self) -> Tensor:
        if not self._count:
            return self.fresh()
        image = self.images[-1]
        rest = self._orthogonal(image)
        norm = float(rest.norm())
        # An invariant subspace: go on in a fresh direction, so that multiple eigenvalues are found too.
        return rest / norm if norm > 10 * self._eps * float(image.norm()) else self.fresh()

    def _orthogonal(self, vector: Tensor) -> Tensor:
        for _ in range(2):
            vector = vector - self.vectors.T @ (self.vectors @ vector)
        return vector
