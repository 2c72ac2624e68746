"""An orthonormal basis grown by products with a symmetric operator: what spectra are read off."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.operand import operand

BASIS_BYTES = 2 << 30
"""Memory that the vectors of one basis may take, unless the caller says otherwise."""
_AT_ONCE = 256 << 20  # bytes from which on a basis gets all its room at once
_FIRST = 16  # vectors that a smaller basis has room for at first
_SLICE = 1 << 20  # entries of each vector that a restart works on at a time
_TINY = 1e-140  # norms above it come out right without scaling


def memory_of_basis(vectors: int, size: int) -> int:
    """Bytes that a basis of so many vectors of ``size`` has room for, having grown by copying or in one piece.

    >>> memory_of_basis(20, 1000), memory_of_basis(6, 10**8)  # room for 32 at once, and for 6
    (256000, 4800000000)
    """
    vectors, room = min(vectors, size), _FIRST
    while room < vectors and 16 * room * size <= _AT_ONCE:
        room *= 2
    return 8 * size * (max(room, vectors) if 8 * room * size <= _AT_ONCE else vectors) if vectors else 0


def place_of(size: int, vectors: int, device: torch.device) -> torch.device:
    """Choose where a basis of so many vectors of ``size`` is kept: the operator's device, or CPU memory.

    Too large is more than half of an accelerator's memory, which the model and its products need too. The rule looks at
    the memory that the device has, not at what is free, so that the same machine always chooses alike.

    >>> place_of(10**9, 20, torch.device("cpu"))
    device(type='cpu')
    """
    if device.type == "cuda" and 8 * size * vectors > torch.cuda.get_device_properties(device).total_memory // 2:
        return torch.device("cpu")
    return device


class KrylovBasis:
    """Orthonormal vectors Q with H Q_m = Q T, where H has been applied to the first m of them and the others wait.

    Every product is made orthogonal to all vectors in two passes of Gram–Schmidt (twice is enough: Giraud et al.
    2005), so no ghost copies of eigenvalues appear, and what remains of it is appended as a waiting vector. One waiting
    vector gives the Lanczos algorithm, b of them its block form (Golub & Van Loan, *Matrix Computations*, §10). T is
    filled with the coefficients of that orthogonalisation, so residuals follow from T alone and are those of the
    products as they were computed. All vectors are float64, (K,) each.

    Args:
        operator: symmetric, (K, K); anything :func:`landscape.curvature.operand.operand` takes.
        generator: of fresh vectors.
        capacity: vectors that it will hold at most, if known: large ones then get their room at once, since growing
            copies them.
        device: where the vectors are kept and worked on, if not on the operator's device; see :func:`place_of`.

    Raises:
        ValueError: the operator is not square.
    """

    def __init__(
        self,
        operator: object,
        generator: torch.Generator,
        *,
        capacity: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        given = operand(operator)
        self.size, self._home, self.eps, self._product = given.size, given.device, given.eps, given.product
        self.device = self._home if device is None else device
        self.generator = generator
        self._capacity = capacity
        self._rows = torch.empty(0, self.size, dtype=torch.float64, device=self.device)
        self._coefficients = np.zeros((0, 0))
        self._dropped = np.zeros(0)
        self._multiplied = self._stored = self._locked = self.products = 0
        self._largest = 0.0

    def __len__(self) -> int:
        return self._multiplied

    @property
    def stored(self) -> int:
        """Vectors held, those that wait for their product included."""
        return self._stored

    @property
    def complete(self) -> bool:
        """True if the basis spans the whole space and every product is known."""
        return self._multiplied == self.size

    @property
    def vectors(self) -> Tensor:
        """The vectors whose products are known, (m, K)."""
        return self._rows[: self._multiplied]

    @property
    def waiting(self) -> Tensor:
        """The vectors whose products are not known yet, (stored − m, K)."""
        return self._rows[self._multiplied : self._stored]

    @property
    def coefficients(self) -> np.ndarray:
        """T, (stored, m): products of the operator with :attr:`vectors`, in terms of all vectors."""
        return self._coefficients[: self._stored, : self._multiplied]

    @property
    def projected(self) -> np.ndarray:
        """The operator in the basis, (m, m), symmetric."""
        square = self._coefficients[: self._multiplied, : self._multiplied]
        return (square + square.T) / 2

    @property
    def dropped(self) -> np.ndarray:
        """Norm of what each product has outside the stored vectors, (m,): rounding, or the residuals of a lock."""
        return self._dropped[: self._multiplied]

    @property
    def truncated(self) -> bool:
        """True if part of a product is known by its norm only."""
        return bool((self.dropped > self.rounding).any())

    @property
    def largest(self) -> float:
        """The norm ‖H‖, as far as the products so far show it."""
        return self._largest

    @property
    def rounding(self) -> float:
        """Size below which a difference of products is rounding: 10 ε ‖H‖, the norm taken from the products so far."""
        return 10 * self.eps * self._largest

    def lock(self, vectors: Tensor, values: np.ndarray, residuals: np.ndarray) -> None:
        """Begin with known eigenpairs, ``vectors`` (K, k): all that follows stays orthogonal to them."""
        count = len(values)
        self._reserve(count)
        self._rows[:count] = vectors.T
        np.fill_diagonal(self._coefficients[:count, :count], values)
        self._dropped[:count] = residuals
        self._multiplied = self._stored = self._locked = count
        self._largest = float(np.abs(values).max(initial=0.0))

    def adopt(self, other: KrylovBasis) -> None:
        """Begin with what ``other`` knows of the same operator, which stays as it is."""
        self._reserve(other._stored)
        self._rows[: other._stored] = other._rows[: other._stored]
        self._coefficients[: other._stored, : other._multiplied] = other.coefficients
        self._dropped[: other._multiplied] = other.dropped
        self._multiplied, self._stored, self._locked = other._multiplied, other._stored, other._locked
        self._largest = other._largest

    def append(self, vectors: Tensor) -> None:
        """Let the parts of ``vectors`` (K, b) that are new wait for their products."""
        for column in vectors.to(self.device, torch.float64).T:
            self._append(column / column.norm(), threshold=1e-8)

    def fresh(self, count: int = 1) -> Tensor:
        """Random directions, (K, count), Gaussian."""
        return torch.randn(self.size, count, generator=self.generator, dtype=torch.float64)

    def advance(self, count: int = 1) -> None:
        """Apply the operator to ``count`` vectors at once, or to as many as wait; to fresh ones where none does.

        Raises:
            FloatingPointError: a product is not finite.
        """
        while self._stored == self._multiplied and not self.complete:
            self.append(self.fresh(min(count, self.size - self._stored)))
        first, last = self._multiplied, min(self._multiplied + count, self._stored)
        # A single vector goes as (K,): an operator of the caller's own may know no other shape.
        block = self._rows[first:last].T.to(self._home)
        images = self._product(block[:, 0]).reshape(-1, 1) if last == first + 1 else self._product(block)
        images = images.to(self.device)
        if not torch.isfinite(images).all():
            raise FloatingPointError(
                "an operator-vector product is not finite; the loss has no finite curvature at these weights"
            )
        self.products += last - first
        self._largest = max(self._largest, float(_norms(images).max()))
        for j in range(first, last):
            self._multiplied = j + 1
            self._reserve(self._stored + 1)
            weights, rest = self._append(images[:, j - first].double(), threshold=self.rounding)
            self._coefficients[: len(weights), j] = weights
            self._dropped[j] = rest
            if self._locked:  # what a locked pair's product has along this vector, by symmetry
                shared = self._coefficients[: self._locked, j]
                self._coefficients[j, : self._locked] = shared
                known, size = self._dropped[: self._locked], np.abs(shared)
                self._dropped[: self._locked] = np.sqrt(np.maximum(known - size, 0)) * np.sqrt(known + size)

    def ritz(self) -> tuple[np.ndarray, np.ndarray]:
        """Ritz values (m,), ascending, and their coefficients in the basis (m, m)."""
        return eigh(self.projected)

    def residuals(self, values: np.ndarray, s: np.ndarray) -> np.ndarray:
        """‖H y − θ y‖ of the pairs with the given Ritz values (k,) and coefficients (m, k), without a product."""
        images = self.coefficients @ s
        images[: len(s)] -= s * values
        return _norms(torch.from_numpy(images)).numpy() + self.dropped @ np.abs(s)

    def combine(self, s: np.ndarray) -> Tensor:
        """The vectors with coefficients ``s`` (m, k), (K, k)."""
        return self.vectors.T @ torch.from_numpy(np.ascontiguousarray(s)).to(self.device)

    def compress(self, s: np.ndarray) -> None:
        """Keep of the multiplied vectors only the span of the orthonormal ``s`` (m, p): a thick restart.

        What waits stays, so H Q_p = Q T goes on to hold (Wu & Simon 2000; Stewart 2001).
        """
        m, count, waiting = self._multiplied, s.shape[1], self._stored - self._multiplied
        new = np.zeros((count + waiting, count))
        new[:count] = s.T @ self._coefficients[:m, :m] @ s
        new[count:] = self._coefficients[m : self._stored, :m] @ s
        self._dropped[:count] = self._dropped[:m] @ np.abs(s)
        mix = torch.from_numpy(np.ascontiguousarray(s.T)).to(self.device)
        for rows in self._rows.split(_SLICE, dim=1):  # in slices, as a copy of all would double the memory
            held = rows[m : self._stored].clone()
            rows[:count] = mix @ rows[:m]
            rows[count : count + waiting] = held
        self._coefficients[:] = 0
        self._coefficients[: count + waiting, :count] = new
        self._multiplied, self._stored, self._locked = count, count + waiting, 0

    def project(self, vectors: Tensor) -> Tensor:
        """The part of ``vectors`` (K, b) orthogonal to :attr:`vectors`."""
        return vectors - self.vectors.T @ (self.vectors @ vectors)

    def _append(self, vector: Tensor, threshold: float) -> tuple[np.ndarray, float]:
        """Coefficients of ``vector`` in the basis, its rest appended to it; and the norm of a rest too small for that.

        An invariant subspace leaves no rest; the next vector is then a fresh one, so that multiple eigenvalues are
        found too.
        """
        old = self._rows[: self._stored]
        first = old @ vector
        rest = torch.addmv(vector, old.T, first, alpha=-1)
        second = old @ rest
        rest.addmv_(old.T, second, alpha=-1)
        weights = (first + second).cpu().numpy()
        norm = float(_norms(rest[:, None])[0])
        if norm <= threshold or self._stored == self.size:
            return weights, norm
        self._reserve(self._stored + 1)
        self._rows[self._stored] = rest.div_(norm)
        self._stored += 1
        return np.append(weights, norm), 0.0

    def _reserve(self, count: int) -> None:
        """Room for ``count`` vectors."""
        if count <= len(self._rows):
            return
        room = max(count, min(max(_FIRST, 2 * len(self._rows)), self.size, self._capacity or self.size))
        if self._capacity and 8 * room * self.size > _AT_ONCE:
            room = max(count, self._capacity)
        rows = torch.empty(room, self.size, dtype=torch.float64, device=self.device)
        rows[: self._stored] = self._rows[: self._stored]
        square, dropped = np.zeros((room, room)), np.zeros(room)
        old = len(self._dropped)
        square[:old, :old], dropped[:old] = self._coefficients, self._dropped
        self._rows, self._coefficients, self._dropped = rows, square, dropped


def eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix, on as many threads as torch was told to use."""
    values, vectors = torch.linalg.eigh(torch.from_numpy(np.ascontiguousarray(matrix)))
    return values.numpy(), vectors.numpy()


def _norms(columns: Tensor) -> Tensor:
    """Norms of the columns (K, b), also where squares of the entries would underflow or overflow."""
    norms = columns.norm(dim=0)
    if bool(((norms > _TINY) & torch.isfinite(norms)).all()):
        return norms
    largest = columns.abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)
    return (columns / largest).norm(dim=0) * largest
