"""Data of any common form as sources of micro-batches: tensors, datasets, loaders, mappings, lists of batches.

A *row* is what belongs to one sample. Entries of a batch as long as its labels have rows: tensors along their first
dimension, and lists of one item a sample, whatever the items' lengths. Others are *shared* by all samples, which the
data must bear out: they are the same in every batch.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset

from landscape.objective.batch_roles import Roles, is_list_of_rows
from landscape.objective.isolation import ordinary, undisturbed
from landscape.objective.lazy_inputs import LazyInputs
from landscape.objective.parameters import ParameterLayout
from landscape.objective.process_state import GENERATORS, setting_back
from landscape.objective.snapshots import version_of

_log = logging.getLogger(__name__)
_PASSES = itertools.count(1)
CACHE_BYTES = 4 * 2**30
_TOLD = 16  # samples by which the data of processes are compared
_COMPARED = 2**20  # numbers of labels that are compared at every use
_LABEL_KEYS = ("labels", "label", "targets", "target", "y")


class Noted:
    """Tensors of data as they were, so that it is noticed when they are written to.

    Torch counts what it writes itself. Labels are compared by their numbers too, of very many by some, since arrays
    that share memory with a tensor, and ``.data``, count nothing.

    >>> numbers = np.zeros(3)
    >>> noted = Noted([], torch.from_numpy(numbers))
    >>> numbers[1] = 1
    >>> noted.check()
    Traceback (most recent call last):
    ValueError: the data were written to after the objective was made; make a new objective of them
    """

    def __init__(self, data: Any, labels: Any) -> None:
        self._versions = [(t, version_of(t)) for t in tree_leaves(data) if isinstance(t, Tensor)]
        leaves = [t for t in tree_leaves(labels) if isinstance(t, Tensor) and t.ndim and t.layout == torch.strided]
        self._labels = [(t, _checksum(t)) for t in leaves if t.device.type == "cpu"]

    def check(self) -> None:
        """Refuse tensors that were written to since; what was computed of them would be stale.

        Raises:
            ValueError: one was.
        """
        written = any(version_of(tensor) != version for tensor, version in self._versions)
        if written or any(_checksum(tensor) != found for tensor, found in self._labels):
            raise ValueError("the data were written to after the objective was made; make a new objective of them")


class Source:
    """Samples in a fixed order, kept in memory while they fit into ``CACHE_BYTES``, read anew otherwise.

    Args:
        chunks: batches in memory, or what is iterated over at every pass.
        size: number N of samples.
        batch_size: of micro-batches.
        digests: of the batches that are read anew, in their order.
        noted: the tensors as they were at first; as they are now if none.

    Attributes:
        size: number N of samples.
        cached: whether the samples are kept in memory.
    """

    def __init__(
        self,
        chunks: list[Any] | DataLoader[Any],
        size: int,
        batch_size: int,
        digests: Sequence[bytes] = (),
        noted: Noted | None = None,
    ) -> None:
        self._chunks, self._digests = chunks, digests
        in_memory = chunks if isinstance(chunks, list) else []
        self._noted = noted or Noted(in_memory, [labels_of(chunk) for chunk in in_memory])
        self._batch_size = batch_size
        self.size = size
        self.cached = isinstance(chunks, list)

    def batched(self, batch_size: int) -> Source:
        """The same samples in micro-batches of up to another size; a loader that is read anew keeps its own."""
        return Source(self._chunks, self.size, batch_size, self._digests, self._noted)

    def check_unchanged(self) -> None:
        """Refuse tensors that were written to since the source was made; what was computed of them would be stale.

        Raises:
            ValueError: one was.
        """
        self._noted.check()

    def digest(self) -> bytes:
        """Digest of some samples, evenly spaced, or of all that are read anew; it differs for another order, too."""
        if self._digests:
            return digest_of(list(self._digests))
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[torch.linspace(0, self.size - 1, _TOLD, dtype=torch.float64).round().long()] = True
        return digest_of([batch for _, batch, _ in self.batches(mask)])

    def batches(self, mask: Tensor | None) -> Iterator[tuple[Tensor, Any, Any]]:
        """Yield (positions, batch, labels) of up to ``batch_size`` samples, all or where ``mask`` (N,) is true.

        Raises:
            ValueError: data that are read anew are others than at the first pass.
        """
        start = 0
        for chunk in self._chunks if self.cached else self._unseen():
            count = length(labels_of(chunk))
            rows = torch.arange(count)
            if mask is not None:
                rows = rows[mask[start : start + count]]
                chunk = select(chunk, rows, count)
            for i in range(0, len(rows), self._batch_size):
                inside = torch.arange(i, min(i + self._batch_size, len(rows)))
                piece = chunk if len(inside) == len(rows) else select(chunk, inside, len(rows))
                yield start + rows[inside], piece, labels_of(piece)
            start += count

    def picked(self, mask: Tensor, batch_size: int) -> list[Any]:
        """Micro-batches of ``batch_size`` of the samples where ``mask`` (N,) is true, cut from all of them together.

        Those whose shapes differ lie in different ones, which are smaller then.
        """
        chunks = [_plain(batch) for _, batch, _ in self.batches(mask)]
        return [batch for _, batch, _ in Source(_merge(chunks), int(mask.sum()), batch_size).batches(None)]

    def _unseen(self) -> Iterator[Any]:
        """Batches read anew, which leaves the random states alone."""
        with undisturbed(nn.Module()), _generators_set_back(self._chunks):
            chunks = self._read_anew()
            first = next(chunks, None)
        yield from () if first is None else itertools.chain([first], chunks)

    def _read_anew(self) -> Iterator[Any]:
        seed, read = next(_PASSES), 0
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)  # noqa: NPY002 - so that chance would show
        for chunk, expected in zip(map(_plain, self._chunks), self._digests, strict=False):
            if digest_of(chunk) != expected:
                break
            read += 1
            yield chunk
        if read < len(self._digests):
            raise ValueError(
                f"data exceed {CACHE_BYTES} bytes and are not the same at every pass (batch {read} differs); pass a "
                "DataLoader with shuffle=False and without random augmentation"
            )


class LazySource(Source):
    """Samples whose inputs are read for each micro-batch, by every pass those that it needs.

    Args:
        inputs: of all samples.
        labels: with a row for each of them.
        batch_size: of micro-batches.
        noted: the labels as they were at first; as they are now if none.
    """

    def __init__(
        self,
        inputs: LazyInputs,
        labels: Tensor,
        batch_size: int,
        noted: Noted | None = None,
    ) -> None:
        if len(labels) != len(inputs) or not len(inputs):
            raise ValueError(f"there are {len(inputs)} inputs and {len(labels)} labels, expected as many, and some")
        self._inputs, self._labels, self._batch_size = inputs, labels, batch_size
        self.size, self.cached, self._digests = len(inputs), False, ()
        self._noted = noted or Noted(labels, labels)

    def batched(self, batch_size: int) -> LazySource:
        """The same samples in micro-batches of up to another size."""
        return LazySource(self._inputs, self._labels, batch_size, self._noted)

    def batches(self, mask: Tensor | None) -> Iterator[tuple[Tensor, Any, Any]]:
        """Yield (positions, batch, labels) of up to ``batch_size`` samples, all or where ``mask`` (N,) is true."""
        rows = torch.arange(self.size) if mask is None else mask.nonzero().squeeze(1)
        for positions in rows.split(self._batch_size):
            labels = self._labels[positions]
            yield positions, (self._inputs[positions], labels), labels


def as_sources(data: Any, batch_size: int) -> dict[str, Source]:
    """Name every source of ``data``; a single one is called ``data``.

    Raises:
        ValueError: empty data, entries that are neither rows nor shared, or a form that cannot be read.
    """
    if isinstance(data, Mapping) and not all(isinstance(v, Tensor) for v in data.values()) and not _has_labels(data):
        return {str(name): _as_source(part, batch_size) for name, part in data.items()}
    return {"data": _as_source(data, batch_size)}


def _has_labels(data: Mapping[Any, Any]) -> bool:
    """Tell a batch from a mapping of sources."""
    return any(isinstance(data.get(key), Tensor) for key in _LABEL_KEYS)


def _as_source(data: Any, batch_size: int) -> Source:
    if isinstance(data, DataLoader | Dataset):
        return _from_loader(data, batch_size)
    if _is_list_of_batches(data):
        return _from_batches(data, batch_size)
    if isinstance(data, tuple | list) and any(isinstance(part, LazyInputs) for part in data):
        return _lazy(data, batch_size)
    if isinstance(data, tuple | list):
        data = tuple(map(_as_tensors, data))
    elif isinstance(data, Mapping):
        data = _plain(data)
    else:
        raise ValueError(
            f"data is a {type(data).__name__}, expected (x, y) tensors, a mapping of tensors, a list of batches, a "
            "Dataset or a DataLoader"
        )
    return _from_batches([data], batch_size)


def _is_list_of_batches(data: Any) -> bool:
    """Tell a list of batches from inputs and labels; a loader's batches are lists themselves.

    Raises:
        ValueError: it may be both.
    """
    if not isinstance(data, list) or not data:
        return False
    if all(isinstance(batch, tuple | Mapping) for batch in data):
        return True
    collated = all(isinstance(batch, list) and len(batch) > 1 and isinstance(batch[-1], Tensor) for batch in data)
    if collated and len(data) == 2:
        raise ValueError(
            "data is a list of two lists of tensors, which may be two batches or inputs and labels; make the batches "
            "tuples, [(x, y), (x, y)], or give inputs and labels as a tuple"
        )
    return collated


def _lazy(data: Sequence[Any], batch_size: int) -> LazySource:
    labels = _as_tensors(data[1]) if len(data) == 2 else None
    if not isinstance(data[0], LazyInputs) or not isinstance(labels, Tensor) or not labels.dim():
        raise ValueError("lazy inputs are given as (inputs, labels) with a tensor of labels, and nothing else")
    return LazySource(data[0], labels, batch_size)


def _as_tensors(part: Any) -> Any:
    if any(isinstance(leaf, Tensor) for leaf in tree_leaves(part)) or isinstance(part, PackedSequence):
        return part
    try:
        return torch.as_tensor(part)
    except (TypeError, ValueError, RuntimeError):
        return part


def _from_batches(batches: Sequence[Any], batch_size: int) -> Source:
    roles = Roles()
    chunks = [_noted(batch, roles) for batch in batches]
    roles.check()
    return Source(_merge(chunks), roles.size, batch_size)


def _from_loader(data: Any, batch_size: int) -> Source:
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=batch_size)
    if isinstance(loader.dataset, IterableDataset) and loader.num_workers:  # every worker would yield every sample
        loader = DataLoader(
            loader.dataset, loader.batch_size, collate_fn=loader.collate_fn, drop_last=bool(loader.drop_last)
        )
    roles, chunks, held, digests = Roles(), list[Any](), 0, list[bytes]()
    with undisturbed(nn.Module()), _generators_set_back(loader):  # iterating a loader draws from the global RNG
        for batch in loader:
            chunk = _noted(batch, roles)
            held += sum(leaf.nbytes for leaf in tree_leaves(chunk) if isinstance(leaf, Tensor))
            digests.append(digest_of(chunk))
            if held <= CACHE_BYTES:
                chunks.append(chunk)
            else:
                chunks.clear()
    roles.check()
    _tell_of_left_out(loader, roles.size)
    if held <= CACHE_BYTES:
        return Source(_merge(chunks), roles.size, batch_size)
    if isinstance(loader.dataset, IterableDataset):
        raise ValueError(f"data exceed {CACHE_BYTES} bytes and come from an iterable; pass a map-style Dataset")
    return Source(loader, roles.size, batch_size, digests)


def _noted(batch: Any, roles: Roles) -> Any:
    batch = _plain(batch)
    labels = labels_of(batch)
    roles.note(batch, labels, length(labels))
    return batch


@contextmanager
def _generators_set_back(loader: Any) -> Iterator[None]:
    """Give back the state of the generators that a loader and its samplers draw its order from."""
    batches = getattr(loader, "batch_sampler", None)
    drawers = loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)
    own = (getattr(drawer, "generator", None) for drawer in drawers)
    before = [setting_back(generator) for generator in own if isinstance(generator, GENERATORS)]
    try:
        yield
    finally:
        for set_back in before:
            set_back()


def _tell_of_left_out(loader: DataLoader[Any], size: int) -> None:
    whole = len(loader.dataset) if hasattr(loader.dataset, "__len__") else size
    if size < whole and not isinstance(loader.dataset, IterableDataset):
        chosen_by = loader.batch_sampler if loader.batch_size is None else loader.sampler
        what = "drop_last" if loader.drop_last else f"its {type(chosen_by).__name__}"
        _log.warning("of a loader, %s leaves %d of %d samples out of all results", what, whole - size, whole)


def digest_of(batch: Any) -> bytes:
    """Digest of a batch, or of anything that consists of tensors and plain values."""
    found = hashlib.blake2b(digest_size=16)
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor):
            leaf = leaf.detach().cpu().contiguous()
            found.update(repr((leaf.dtype, leaf.shape)).encode())
            found.update(leaf.flatten().view(torch.uint8).numpy().data)
        else:
            found.update(repr(constant_key(leaf)).encode())
    return found.digest()


def _checksum(labels: Tensor) -> int:
    """Checksum of labels, of very many of some; much faster than a digest, since it is made at every use."""
    some = labels.detach()[:: max(1, labels.numel() // _COMPARED)].resolve_conj().contiguous()
    return zlib.crc32(some.flatten().view(torch.uint8).numpy().data)


def constant_key(leaf: Any) -> Any:
    """Name the value of what is no tensor in a batch: an array by all of its entries, which ``repr`` leaves out.

    >>> constant_key(np.arange(2000)) == constant_key(np.arange(2000)), constant_key("text")
    (True, "'text'")
    >>> days = np.arange("2020-01-01", "2026-01-01", dtype="datetime64[D]")
    >>> constant_key(days) == constant_key(days[::-1])
    False
    """
    if isinstance(leaf, np.ndarray) and not leaf.dtype.hasobject:
        return leaf.dtype.str, leaf.shape, hashlib.blake2b(leaf.tobytes(), digest_size=16).digest()
    return repr(leaf.tolist() if isinstance(leaf, np.ndarray) else leaf)


def _plain(batch: Any) -> Any:
    """A mapping of any class as a dict: torch takes others, such as those of tokenizers, for single objects."""
    return dict(batch) if isinstance(batch, Mapping) else batch


def _merge(chunks: list[Any]) -> list[Any]:
    """One chunk instead of many where shapes allow (padded batches may differ in length)."""
    counts = [length(labels_of(chunk)) for chunk in chunks]
    joinable = (_joinable((chunks[0], counts[0]), other) for other in zip(chunks[1:], counts[1:], strict=True))
    return [joined(chunks, counts)] if len(chunks) > 1 and all(joinable) else chunks


def _joinable(one: tuple[Any, int], other: tuple[Any, int]) -> bool:
    """Tell whether two batches, or entries of theirs, of so many samples each make a single one."""
    (a, m), (b, n) = one, other
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape[1:] == b.shape[1:] and a.dtype == b.dtype
    if is_list_of_rows(a, m) and is_list_of_rows(b, n):
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_joinable((a[k], m), (b[k], n)) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(_joinable((x, m), (y, n)) for x, y in zip(a, b, strict=True))
    return not isinstance(a, np.ndarray)


def joined(parts: Sequence[Any], counts: Sequence[int]) -> Any:
    """One batch of several, of so many samples each; what is shared is taken from the first."""
    first = parts[0]
    if is_list_of_rows(first, counts[0]):
        return [item for part in parts for item in part]
    if isinstance(first, Mapping):
        return {key: joined([part[key] for part in parts], counts) for key in first}
    if isinstance(first, tuple | list):
        entries = (joined([part[i] for part in parts], counts) for i in range(len(first)))
        return type(first)(*entries) if hasattr(first, "_fields") else type(first)(entries)
    rows = isinstance(first, Tensor) and all(
        part.ndim > 0 and len(part) == count for part, count in zip(parts, counts, strict=True)
    )
    return torch.cat(list(parts)) if rows else first


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


def length(labels: Any) -> int:
    """Number of samples that labels belong to: a tensor, or a list, tuple or mapping that holds one.

    Raises:
        ValueError: there is no tensor with rows among them, or it is a nested one.
    """
    nested = isinstance(labels, list) and any(isinstance(item, tuple | list | Mapping) for item in labels)
    if isinstance(labels, list) and not nested and not all(isinstance(t, Tensor) and t.ndim for t in labels):
        return len(labels)
    several = isinstance(labels, list) or (
        isinstance(labels, tuple) and all(isinstance(item, tuple | list | Mapping) for item in labels)
    )
    if several and len({len(t) for t in tree_leaves(labels) if isinstance(t, Tensor) and t.ndim}) > 1:
        raise ValueError(
            f"labels are a {type(labels).__name__} with tensors of unequal lengths, whose rows cannot be told apart; "
            "pad them to one tensor, or pass the samples' numbers as labels, and let loss_fn= look up what belongs to "
            "them"
        )
    for leaf in tree_leaves(labels):
        if isinstance(leaf, Tensor) and leaf.is_nested:
            raise ValueError("labels are a nested tensor, whose rows cannot be picked; make it dense")
        if isinstance(leaf, Tensor | np.ndarray) and leaf.ndim:
            return len(leaf)
    raise ValueError(f"labels are a {type(labels).__name__} without a row for each sample; expected tensors")


def copied(tree: Any) -> Any:
    """Copies of all tensors in a nested structure, for code that may write into them."""
    if isinstance(tree, Tensor):
        return tree.clone()
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind([copied(part) for part in tree])
    if kind is dict:
        return {key: copied(part) for key, part in tree.items()}
    return tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, tree)


def select(tree: Any, rows: Tensor, count: int) -> Any:
    """Rows of a batch of ``count`` samples, or of its labels or outputs; what has no rows stays as it is.

    >>> select((torch.arange(3), [torch.ones(1), torch.ones(2), torch.ones(5)], torch.ones(2)), torch.tensor([2]), 3)
    (tensor([2]), [tensor([1., 1., 1., 1., 1.])], tensor([1., 1.]))
    """
    if isinstance(tree, Tensor):
        return tree[rows.to(tree.device)] if tree.ndim and len(tree) == count else tree
    if isinstance(tree, np.ndarray):
        return tree[rows.cpu().numpy()] if tree.ndim and len(tree) == count else tree
    if is_list_of_rows(tree, count):
        return [tree[i] for i in rows.tolist()]
    if isinstance(tree, Mapping):
        return _rebuilt(tree, {key: select(value, rows, count) for key, value in tree.items()})
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(select(value, rows, count) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(select(value, rows, count) for value in tree)
    return tree


def _rebuilt(like: Mapping[Any, Any], entries: dict[Any, Any]) -> Mapping[Any, Any]:
    return entries if type(like) is dict else type(like)(entries)  # type: ignore[call-arg]


def to_model(
    tree: Any,
    layout: ParameterLayout,
    memory_format: torch.memory_format = torch.contiguous_format,
    *,
    keeps_precision: bool = False,
) -> Any:
    """Every tensor on the model's device, floating ones in its dtype; ``channels_last`` applies to four dimensions.

    Args:
        tree: a batch or labels.
        layout: of the parameters.
        memory_format: of images.
        keeps_precision: leave tensors as they are that :func:`is_other` tells.
    """

    def move(t: Any) -> Any:
        if not isinstance(t, Tensor):
            return t
        t = ordinary(t.detach())
        wanted = t.dtype if keeps_precision and _is_other(t, layout) else _dtype_for(t, layout.dtype)
        t = t.to(layout.device, wanted)
        return t.contiguous(memory_format=memory_format) if memory_format == torch.channels_last and t.ndim == 4 else t

    return tree_map(move, tree)


def is_other(tree: Any, layout: ParameterLayout) -> bool:
    """Tell whether a tensor has more precision than the parameters, or another one where those have several."""
    return any(isinstance(t, Tensor) and _is_other(t, layout) for t in tree_leaves(tree))


def _is_other(tensor: Tensor, layout: ParameterLayout) -> bool:
    wanted = _dtype_for(tensor, layout.dtype)
    if len({dtype.to_real() for dtype in layout.dtypes}) > 1:
        return tensor.dtype != wanted
    return torch.promote_types(tensor.dtype, wanted) != wanted


def _dtype_for(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    if tensor.is_complex():
        return dtype.to_complex()
    return dtype if tensor.is_floating_point() else tensor.dtype
