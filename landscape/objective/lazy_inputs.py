"""Inputs that are read when a micro-batch needs them, for data larger than memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.inputs import limits


class LazyInputs:
    """Inputs of a map-style data set, read when they are needed: ``inputs[rows]`` is a tensor, as of an array.

    Rows that were read are kept as long as they fit into the memory that ``--limits memory=`` allows (2 GiB by
    default); others are read anew each time. A digest of every row is kept, so that a row which has changed is noticed.

    Args:
        read: inputs, (m, …), of the rows (m,) int64, the same whenever it is called.
        shape: of all inputs, (n, …).
        dtype: of the inputs.
        digest: text that identifies these data in records of what was used, such as a hash of file names.

    >>> squares = LazyInputs(lambda rows: (rows**2)[:, None], (10**6, 1), torch.int64)
    >>> squares[torch.tensor([3, 5])].tolist(), squares.select(torch.tensor([7, 8, 9]))[-1:].tolist()
    ([[9], [25]], [[81]])
    """

    def __init__(
        self, read: Callable[[Tensor], Tensor], shape: tuple[int, ...], dtype: torch.dtype, digest: str = ""
    ) -> None:
        self.shape, self.dtype, self.digest = tuple(shape), dtype, digest
        self._rows: Tensor | None = None
        self._kept = _Kept(read, self.shape[1:], dtype, shape[0])

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def numel(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def __getitem__(self, rows: Any) -> Tensor:
        """The inputs of these rows: positions (m,), a slice, or a mask (n,) of booleans.

        Raises:
            TypeError: anything else.
            IndexError: rows that there are not.
        """
        return self._kept.of(self._positions(rows))

    def select(self, rows: Any) -> LazyInputs:
        """These rows as inputs of their own, read from the same place and kept in the same memory."""
        found = object.__new__(LazyInputs)
        found._kept, found._rows, found.dtype = self._kept, self._positions(rows), self.dtype
        found.shape = (len(found._rows), *self.shape[1:])
        chosen = hashlib.sha256(self.digest.encode())
        chosen.update(found._rows.numpy().data)
        found.digest = chosen.hexdigest()
        return found

    def _positions(self, rows: Any) -> Tensor:
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(len(self)))
        found = torch.as_tensor(rows).cpu()
        if found.dtype == torch.bool and found.shape == (len(self),):
            found = found.nonzero().squeeze(1)
        whole = not found.numel() or not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
        if found.ndim != 1 or not whole:
            raise TypeError(
                f"rows are {found.dtype} of shape {tuple(found.shape)}, expected positions (m,), a slice or a mask of "
                f"shape ({len(self)},)"
            )
        found = found.long()
        if len(found) and not (int(found.min()) >= 0 and int(found.max()) < len(self)):
            raise IndexError(f"rows {int(found.min())}…{int(found.max())}, expected 0…{len(self) - 1}")
        return found if self._rows is None else self._rows[found]


class _Kept:
    """Rows that were read, the first that fit into memory, and digests of all of them."""

    def __init__(self, read: Callable[[Tensor], Tensor], shape: tuple[int, ...], dtype: torch.dtype, size: int) -> None:
        self._read, self._shape, self._dtype = read, shape, dtype
        self._held: dict[int, Tensor] = {}
        self._digests = np.zeros(size, np.uint64)  # 0: not read yet
        self._most = limits().memory // max(math.prod(shape) * dtype.itemsize, 1)

    def of(self, rows: Tensor) -> Tensor:
        found = torch.empty((len(rows), *self._shape), dtype=self._dtype)
        lacking = []
        for i, row in enumerate(rows.tolist()):
            if row in self._held:
                found[i] = self._held[row]
            else:
                lacking.append(i)
        if lacking:
            wanted = rows[lacking]
            fresh = self._checked(wanted)
            for i, row, values in zip(lacking, wanted.tolist(), fresh, strict=True):
                found[i] = values
                if len(self._held) < self._most:
                    self._held[row] = values.clone()
        return found

    def _checked(self, rows: Tensor) -> Tensor:
        """The rows as they are read now.

        Raises:
            ValueError: of another shape or dtype than was said, or others than when they were read before.
        """
        fresh = self._read(rows)
        expected = (len(rows), *self._shape)
        if not isinstance(fresh, Tensor) or fresh.shape != expected or fresh.dtype != self._dtype:
            got = f"{fresh.dtype} of shape {tuple(fresh.shape)}" if isinstance(fresh, Tensor) else type(fresh).__name__
            raise ValueError(f"inputs that are read are {got}, expected {self._dtype} of shape {expected}")
        fresh = fresh.detach().cpu()
        found, at = np.array([_digest(values) for values in fresh], np.uint64), rows.numpy()
        others = (self._digests[at] != 0) & (self._digests[at] != found)
        if others.any():
            raise ValueError(f"inputs of row {at[others][0]} are not those read before; data must stay as they are")
        self._digests[at] = found
        return fresh


def _digest(values: Tensor) -> int:
    content: np.ndarray = values.contiguous().flatten().view(torch.uint8).numpy()
    return int.from_bytes(hashlib.blake2b(content.data, digest_size=8).digest(), "little") or 1
