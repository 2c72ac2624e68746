"""Roles of what batches hold: entries with a row for each sample, and entries that all samples share.

What is shared must be the same in every batch; an entry that may be either is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

_PLAIN = (str, bytes, int, float, complex, bool, type(None), np.generic)


class Roles:
    """Roles of the entries of batches, learned from one batch after the other.

    Attributes:
        size: number of samples so far.
    """

    def __init__(self) -> None:
        self.size, self._number = 0, 0
        self._first: dict[str, Any] = {}
        self._rows: dict[str, bool] = {}
        self._same: dict[str, bool] = {}
        self._labels: set[str] = set()

    def note(self, batch: Any, labels: Any, count: int) -> None:
        """Look at a batch of ``count`` samples; ``labels`` is the part of it that holds theirs.

        Raises:
            ValueError: it holds something without rows that is no plain value either.
        """
        self.size, self._number = self.size + count, self._number + 1
        own = next(k for k, v in (batch.items() if isinstance(batch, Mapping) else enumerate(batch)) if v is labels)
        for name, entry in _entries(batch, count):
            if name.startswith(f"[{own!r}]"):
                self._labels.add(name)
            self._rows[name] = self._rows.get(name, True) and _has_rows(entry, count)
            if name not in self._first:
                self._first[name], self._same[name] = entry, True
            else:
                self._same[name] = self._same[name] and _equal(self._first[name], entry)

    def check(self) -> None:
        """Refuse entries that are neither rows nor the same in every batch.

        Raises:
            ValueError: there are some, or no samples at all.
        """
        if not self.size:
            raise ValueError("data hold no samples")
        several, repeated = self._number > 1, all(self._same[name] for name, rows in self._rows.items() if rows)
        for name, has_rows in self._rows.items():
            first = self._first[name]
            constant = has_rows and several and not repeated and self._same[name] and name not in self._labels
            if constant and isinstance(first, Tensor) and not _uniform(first):
                raise ValueError(
                    f"entry {name} is as long as every batch and the same in all of them, so it may be rows or shared; "
                    "if it is shared by all samples, let forward= close over it"
                )
            if not has_rows and not (self._same[name] and (several or not _is_long(first))):
                got = f"shape {tuple(first.shape)}" if isinstance(first, Tensor) else f"{len(first)} items"
                raise ValueError(
                    f"entry {name} has {got}, where the batch has another number of samples; give it a row for each "
                    "sample, or, if it is shared by all of them, let forward= close over it"
                )


def _entries(batch: Any, count: int, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of what a batch consists of."""
    if isinstance(batch, PackedSequence):
        raise ValueError(
            f"entry {name or 'data'} is a PackedSequence, whose rows cannot be picked; pass padded sequences and their "
            "lengths, and pack them in forward="
        )
    if isinstance(batch, Tensor | np.ndarray):
        if isinstance(batch, Tensor) and (batch.layout != torch.strided or batch.is_nested):
            raise ValueError(f"entry {name} is a sparse or nested tensor, whose rows cannot be picked; make it dense")
        yield name, batch
    elif is_list_of_rows(batch, count) or isinstance(batch, _PLAIN):
        yield name, batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from _entries(value, count, f"{name}[{key!r}]")
    elif isinstance(batch, tuple | list):
        for i, value in enumerate(batch):
            yield from _entries(value, count, f"{name}[{i}]")
    else:
        raise ValueError(
            f"entry {name or 'data'} is a {type(batch).__name__}, whose rows cannot be picked; pass tensors, lists of "
            "one item a sample or mappings of these, and build other objects in forward="
        )


def is_list_of_rows(value: Any, count: int) -> bool:
    """Tell whether a list holds one item a sample: no tensors, or tensors that have no rows themselves."""
    if not isinstance(value, list) or len(value) != count:
        return False
    if all(isinstance(item, Tensor) for item in value):
        return any(item.ndim == 0 or len(item) != count for item in value)
    return not any(isinstance(item, Tensor | tuple | list | Mapping) for item in value)


def _has_rows(value: Any, count: int) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0 and len(value) == count
    return isinstance(value, list)


def _is_long(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _uniform(value: Tensor) -> bool:
    """Tell whether all rows are the same, as those of a mask without holes."""
    return bool((value == value[:1]).all())


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, list) or isinstance(b, list):
        return False
    return type(a) is type(b) and bool(np.array_equal(a, b))
