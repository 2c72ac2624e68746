"""Nested structures of tensors: tensors in mappings, tuples and lists, as models take and return them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor


def leaves(tree: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Everything that is no mapping, tuple or list, with its place in the structure.

    >>> [at for at, _ in leaves({"ids": torch.zeros(2), "pair": (1, 2)})]
    ["['ids']", "['pair'][0]", "['pair'][1]"]
    """
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{at}[{key!r}]")
    elif isinstance(tree, (tuple, list)):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{at}[{i}]")
    else:
        yield at, tree


def mapped(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same structure with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return _with_entries(tree, {key: mapped(value, change) for key, value in tree.items()})
    if isinstance(tree, (tuple, list)):
        return _with_items(tree, [mapped(value, change) for value in tree])
    return tree


def take(tree: Any, index: Tensor | slice) -> Any:
    """Rows ``index`` of every tensor in the structure; scalars stay as they are.

    >>> take({"ids": torch.arange(4), "scale": torch.tensor(2.0)}, slice(1, 3))
    {'ids': tensor([1, 2]), 'scale': tensor(2.)}
    """
    return mapped(tree, lambda t: t[index] if t.dim() else t)


def join(parts: list[Any]) -> Any:
    """The structures of all parts as one, detached, tensors joined along the rows; scalars are the first part's."""
    first = parts[0]
    if isinstance(first, Tensor):
        return first.detach() if len(parts) == 1 or not first.dim() else torch.cat([p.detach() for p in parts])
    if isinstance(first, Mapping):
        return _with_entries(first, {key: join([p[key] for p in parts]) for key in first})
    if isinstance(first, (tuple, list)):
        return _with_items(first, [join(list(column)) for column in zip(*parts, strict=True)])
    return first


def _with_entries(tree: Mapping[Any, Any], entries: dict[Any, Any]) -> Mapping[Any, Any]:
    """Entries as a mapping of the same class, whose attributes a loss may read: ``outputs.logits``."""
    if type(tree) is dict or not isinstance(tree, MutableMapping):
        return entries
    like = copy.copy(tree)
    for key, value in entries.items():
        like[key] = value
    return like


def _with_items(tree: tuple[Any, ...] | list[Any], items: list[Any]) -> Any:
    return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)


def rows_in(tree: Any) -> int:
    """Number of samples that labels or inputs belong to: the rows of the first tensor that has any.

    Raises:
        ValueError: there is none.
    """
    for _, leaf in leaves(tree):
        if isinstance(leaf, Tensor) and leaf.dim():
            return len(leaf)
    raise ValueError(f"labels are a {type(tree).__name__} without a tensor whose rows are samples; use microbatches=1")
