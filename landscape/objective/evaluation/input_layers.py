"""Layers fed with the data themselves: their outputs at any point follow from a few that are computed once.

Where the weights are W + Σ cᵢ·Dᵢ and the bias b + Σ cᵢ·dᵢ, a linear layer's output on fixed inputs x is y₀ + Σ cᵢ·yᵢ,
with y₀ = x·Wᵀ + b and yᵢ = x·Dᵢᵀ + dᵢ. Adding these up reads a number for each direction and output, where the layer
multiplies as many as it has inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from landscape.objective.evaluation.packed_point import PackedPoint

if TYPE_CHECKING:
    from landscape.objective.views import Plan

INPUTS = 16  # that a layer must have for each direction: with fewer, running it is as cheap
MEMORY = 2**29  # bytes that the outputs kept for all layers may take up

_Term = tuple[Tensor, Tensor | None]


@contextmanager
def combined(model: nn.Module, point: PackedPoint, plan: Plan) -> Iterator[None]:
    """Within the context, ``nn.Linear`` layers called on a micro-batch's inputs combine outputs kept for each term.

    What a layer is called on is looked at in every call: a contiguous view of a floating tensor of one of ``plan``'s
    micro-batches, in inference mode, is combined, and anything else runs as usual. Which layers keep outputs depends on
    the sizes of model and data alone, and what they keep not on the points visited, so results do not depend on their
    order. They differ from those of the running layer by rounding.

    Args:
        model: holds ``point.parameters``; its layers get their own ``forward`` back on leaving.
        point: that moves.
        plan: the micro-batches; without effect where they are not kept in memory.

    >>> from landscape.objective.objective import Objective
    >>> obj = Objective(nn.Linear(16, 2), nn.MSELoss(), (torch.ones(3, 16), torch.zeros(3, 2)))
    >>> obj.explore([torch.ones(34)], lambda evaluate: print(type(obj.model.forward).__name__))
    _Combined
    """
    names = {id(tensor): name for name, tensor in point.parameters.items()}
    directions, left = len(point.coordinates), MEMORY
    candidates = [m for m in model.modules() if type(m) is nn.Linear and _eligible(m, names, directions)]
    sizes, terms = (_sizes(plan), point.terms()) if candidates else ({}, [])
    patched = []
    try:
        for layer in candidates:
            rows = sum(sizes.values()) // layer.in_features
            needed = rows * layer.out_features * layer.weight.element_size() * len(terms)
            if rows and needed <= left:
                left -= needed
                forward = _Combined(layer, point, _terms(layer, names, terms), frozenset(sizes))
                layer.forward = forward  # type: ignore[method-assign]
                patched.append(layer)
        yield
    finally:
        for layer in patched:
            del layer.forward


class _Combined:
    """The ``forward`` of a linear layer while its parameters move along directions."""

    def __init__(self, layer: nn.Linear, point: PackedPoint, terms: Sequence[_Term], storages: frozenset[int]) -> None:
        self._layer, self._point, self._terms, self._storages = layer, point, terms, storages
        self._kept: dict[tuple[Any, ...], list[Tensor]] = {}

    def __call__(self, input: Tensor) -> Tensor:
        if not self._is_data(input):
            return nn.Linear.forward(self._layer, input)
        key = input.data_ptr(), input.shape
        outputs = self._kept.get(key)
        if outputs is None:
            outputs = self._kept[key] = [nn.functional.linear(input, weight, bias) for weight, bias in self._terms]
        found, *others = outputs
        for i, (c, other) in enumerate(zip(self._point.coordinates, others, strict=True)):
            found = found.add_(other, alpha=c) if i else torch.add(found, other, alpha=c)
        return found

    def _is_data(self, x: Tensor) -> bool:
        return (
            _storage(x) in self._storages
            and x.is_contiguous()
            and x.dtype == self._layer.weight.dtype
            and torch.is_inference_mode_enabled()
            and not torch.is_autocast_enabled(x.device.type)
        )


def _eligible(layer: nn.Linear, names: Mapping[int, str], directions: int) -> bool:
    """Whether its weight moves, it has inputs enough, and nobody gave it a forward of its own."""
    moves = directions > 0 and id(layer.weight) in names
    return moves and layer.in_features >= INPUTS * directions and "forward" not in vars(layer)


def _terms(layer: nn.Linear, names: Mapping[int, str], terms: Sequence[Mapping[str, Tensor]]) -> list[_Term]:
    """A layer's weight and bias in each term; a bias that stays where it is belongs to the first, the centre."""
    weights = [term[names[id(layer.weight)]] for term in terms]
    if id(layer.bias) in names:
        return [(weight, term[names[id(layer.bias)]]) for weight, term in zip(weights, terms, strict=True)]
    return [(weight, None if i else layer.bias) for i, weight in enumerate(weights)]


def _sizes(plan: Plan) -> dict[int, int]:
    """Floating numbers of the micro-batches in each place of memory; nothing where they are not kept."""
    found: dict[int, int] = {}
    for batch, _ in plan if plan.kept else ():
        for leaf in tree_leaves(batch):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                place = _storage(leaf)
                if place is not None:
                    found[place] = found.get(place, 0) + leaf.numel()
    return found


def _storage(x: Tensor) -> int | None:
    """Where a tensor's memory begins; none where it is a wrapper of ``torch.func``, which has no memory of its own."""
    try:
        return x.untyped_storage().data_ptr()
    except RuntimeError:
        return None
