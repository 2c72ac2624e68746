"""Costs of a micro-batch's products: operations of its forward pass, and the memory that its graphs hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from landscape.curvature.products import Form
from landscape.objective.micro_batch import BatchLoss
from landscape.objective.parameters import ParameterLayout
from landscape.objective.sources import length

if TYPE_CHECKING:
    from landscape.objective.objective import Objective

_NO_LOOK = ("saved tensor hooks", "invalid python storage")  # what torch says of transforms in a model
_GRAPH = 3  # times the forward pass that the graph of a product by double backward holds
_PART = 8  # of a micro-batch is enough to tell what the whole one would take

T = TypeVar("T")


@dataclasses.dataclass
class Cost:
    """Costs of one micro-batch.

    Attributes:
        flops: operations of matrix products and convolutions in the forward pass.
        forward_bytes: what a training step keeps of the forward pass, beyond parameters and buffers.
        graph_bytes: the same for a product by double backward, whose graph also holds the gradient's.
    """

    flops: int = 0
    forward_bytes: int = 0
    graph_bytes: int = 0


def estimate(form: Form, batch: BatchLoss, layout: ParameterLayout) -> Cost:
    """The cost of a micro-batch, from an eighth of its samples, so that finding it out takes little memory itself.

    Counted, not timed: the same model and sizes always give the same numbers. What does not grow with the samples, such
    as a transposed weight, is overestimated.
    """
    size = length(batch.labels)
    part = next(iter(batch.pieces(min(size, _PART))), batch)
    _, cost = measured(part, lambda: form.linearise(part, layout, form.extras(part)))
    times = size / length(part.labels)
    return Cost(*(round(times * value) for value in dataclasses.astuple(cost)))


def forward_flops(objective: Objective) -> float:
    """Operations of matrix products and convolutions that the forward pass of one sample of the single view takes.

    >>> from landscape.objective.objective import Objective
    >>> forward_flops(Objective(torch.nn.Linear(3, 2), torch.nn.MSELoss(), (torch.ones(8, 3), torch.ones(8, 2))))
    12.0
    """
    with objective.micro_batches() as batches:
        for batch in batches:
            part = next(iter(batch.pieces(min(length(batch.labels), _PART))), batch)
            with torch.no_grad(), _CountFlops(cost := Cost()):
                _ = part.outputs
            return cost.flops / length(part.labels)
    return 0.0


def pieces_needed(cost: Cost, batch: BatchLoss) -> int:
    """Count the pieces whose graphs fit into what a training step keeps of the whole micro-batch's forward pass."""
    return min(length(batch.labels), max(1, math.ceil(cost.graph_bytes / max(1, cost.forward_bytes))))


def measured(batch: BatchLoss, make: Callable[[], T]) -> tuple[T, Cost]:
    """Call ``make``, and measure its cost; the forward pass ends where the batch's outputs have been computed.

    Where the model uses ``torch.func``, which allows no look at what a graph holds, the outputs of all operations stand
    for it.
    """
    cost = Cost()
    known = {t.untyped_storage().data_ptr() for t in (*batch.parameters.values(), *batch.fixed.values())}

    def pack(tensor: Tensor) -> Tensor:
        storage = (tensor if tensor.layout == torch.strided else tensor.coalesce().values()).untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            cost.graph_bytes += storage.nbytes()
        return tensor.detach()

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _CountFlops(cost):
            _ = batch.outputs
            cost.forward_bytes = cost.graph_bytes
            return make(), cost
    except RuntimeError as error:
        if not any(words in str(error) for words in _NO_LOOK):
            raise
    cost = Cost()
    with _CountFlops(cost) as counted:
        _ = batch.outputs
        cost.forward_bytes = counted.nbytes
        found = make()
    cost.graph_bytes = _GRAPH * counted.nbytes
    return found, cost


class _CountFlops(TorchFunctionMode):
    """Counts matrix products and convolutions of forward passes (a dispatch mode would load the whole compiler)."""

    _LAYERS = (functional.linear, functional.conv1d, functional.conv2d, functional.conv3d)
    _PRODUCTS = (torch.matmul, torch.bmm, torch.mm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm)

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self._cost, self.nbytes = cost, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.nbytes += out.nbytes
        if func in self._LAYERS and len(args) > 1:
            self._cost.flops += 2 * out.numel() * args[1][0].numel()
        elif func in self._PRODUCTS:
            self._cost.flops += 2 * out.numel() * args[0].shape[-1]
        return out
