"""Data of any common form as sources of micro-batches: tensors, datasets, loaders, mappings of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from landscape.objective.isolation import ordinary, undisturbed
from landscape.objective.parameters import ParameterLayout

CACHE_BYTES = 4 * 2**30
_LABEL_KEYS = ("labels", "label", "targets", "target", "y")


class Source:
    """Samples in a fixed order, kept in memory while they fit into ``CACHE_BYTES``, read anew otherwise.

    Attributes:
        size: number N of samples.
        cached: whether the samples are kept in memory.
    """

    def __init__(self, chunks: list[Any] | DataLoader[Any], size: int, batch_size: int) -> None:
        self._chunks = chunks
        self._batch_size = batch_size
        self.size = size
        self.cached = isinstance(chunks, list)

    def batched(self, batch_size: int) -> Source:
        """The same samples in micro-batches of up to another size; a loader that is read anew keeps its own."""
        return Source(self._chunks, self.size, batch_size)

    def batches(self, mask: Tensor | None) -> Iterator[tuple[Tensor, Any, Any]]:
        """Yield (positions, batch, labels) of up to ``batch_size`` samples, all or where ``mask`` (N,) is true."""
        start = 0
        for chunk in map(_plain, self._chunks):
            count = _count(chunk)
            rows = torch.arange(count)
            if mask is not None:
                rows = rows[mask[start : start + count]]
                chunk = select(chunk, rows)
            for i in range(0, len(rows), self._batch_size):
                piece = _slice(chunk, i, min(i + self._batch_size, len(rows)))
                yield start + rows[i : i + self._batch_size], piece, labels_of(piece)
            start += count


def _plain(batch: Any) -> Any:
    """A mapping of any class as a dict: torch takes others, such as those of tokenizers, for single objects."""
    return dict(batch) if isinstance(batch, Mapping) else batch


def as_sources(data: Any, batch_size: int) -> dict[str, Source]:
    """Name every source of ``data``; a single one is called ``data``.

    Raises:
        ValueError: empty data, unequal lengths, or a form that cannot be read.
    """
    if isinstance(data, Mapping) and not all(isinstance(v, Tensor) for v in data.values()):
        return {str(name): _as_source(part, batch_size) for name, part in data.items()}
    return {"data": _as_source(data, batch_size)}


def _as_source(data: Any, batch_size: int) -> Source:
    if isinstance(data, DataLoader | Dataset):
        return _from_loader(data, batch_size)
    if isinstance(data, tuple | list):
        data = tuple(torch.as_tensor(part) for part in data)
    elif isinstance(data, Mapping):
        data = _plain(data)
    else:
        raise ValueError(
            f"data is a {type(data).__name__}, expected (x, y) tensors, a mapping of tensors, a Dataset or a DataLoader"
        )
    labels_of(data)
    lengths = {len(part) for part in tree_leaves(data)}
    if len(lengths) != 1:
        raise ValueError(f"data tensors have lengths {sorted(lengths)}, expected one and the same")
    size = lengths.pop()
    if not size:
        raise ValueError("data hold no samples")
    return Source([data], size, batch_size)


def _from_loader(data: Any, batch_size: int) -> Source:
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=batch_size)
    with undisturbed(torch.nn.Module()):  # iterating a loader draws from the global RNG
        chunks: list[Any] | None = []
        size = held = 0
        for batch in map(_plain, loader):
            size += _count(batch)
            held += sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
            if held > CACHE_BYTES:
                chunks = None
            if chunks is not None:
                chunks.append(batch)
    if not size:
        raise ValueError("data hold no samples")
    if chunks is None:
        if isinstance(loader.dataset, IterableDataset) or isinstance(loader.sampler, RandomSampler):
            raise ValueError(
                f"data exceed {CACHE_BYTES} bytes and come in no fixed order; pass a DataLoader with shuffle=False"
            )
        return Source(loader, size, batch_size)
    return Source(_merge(chunks), size, batch_size)


def _merge(chunks: list[Any]) -> list[Any]:
    """One chunk instead of many where shapes allow (padded batches may differ in length)."""
    first = tree_leaves(chunks[0])
    if any(
        len(leaves := tree_leaves(chunk)) != len(first)
        or any(not isinstance(a, Tensor) or a.shape[1:] != b.shape[1:] for a, b in zip(leaves, first, strict=True))
        for chunk in chunks
    ):
        return chunks
    return [tree_map(lambda *parts: torch.cat(parts), *chunks)]


def labels_of(batch: Any) -> Any:
    """The labels of a batch: its last part, or its entry ``labels`` (``label``, ``targets``, ``target``, ``y``)."""
    if isinstance(batch, Mapping):
        for key in _LABEL_KEYS:
            if key in batch:
                return batch[key]
        raise ValueError(f"batch has keys {', '.join(map(str, batch))}, expected one of {', '.join(_LABEL_KEYS)}")
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError("batch holds no labels, expected (x, y) or a mapping with 'labels'")
    return batch[-1]


def copied(tree: Any) -> Any:
    """Copies of all tensors in a nested structure, for code that may write into them."""
    return tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, tree)


def select(tree: Any, rows: Tensor) -> Any:
    """Rows of every tensor in a nested structure."""
    return tree_map(lambda t: t[rows.to(t.device)] if isinstance(t, Tensor) and t.ndim else t, tree)


def to_model(tree: Any, layout: ParameterLayout, memory_format: torch.memory_format = torch.contiguous_format) -> Any:
    """Every tensor on the model's device, floating ones in its dtype; ``channels_last`` applies to four dimensions."""

    def move(t: Any) -> Any:
        if not isinstance(t, Tensor):
            return t
        t = ordinary(t.detach()).to(layout.device, layout.dtype if t.is_floating_point() else t.dtype)
        return t.contiguous(memory_format=memory_format) if memory_format == torch.channels_last and t.ndim == 4 else t

    return tree_map(move, tree)


def _slice(tree: Any, start: int, stop: int) -> Any:
    return tree_map(lambda t: t[start:stop] if isinstance(t, Tensor) and t.ndim else t, tree)


def _count(batch: Any) -> int:
    labels = labels_of(batch)
    return len(labels if isinstance(labels, Tensor) else tree_leaves(labels)[0])
