"""Groups of channels that can be renumbered without changing a network's function, from a trace of its forward pass.

Known are linear and convolutional layers, batch normalisation, functions of single entries, pooling, flattening, means
over positions, and sums of two such: multilayer perceptrons, plain convolutional networks and ResNets. All else is
refused.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.pooling import (
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _MaxPoolNd,
)

from landscape.objective.isolation import undisturbed

_ENTRYWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Dropout, nn.Dropout2d, nn.Identity,
)  # fmt: skip
_POOLING_MODULES = (_AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd)
_ENTRYWISE = {
    torch.relu, torch.tanh, torch.sigmoid, functional.relu, functional.leaky_relu, functional.elu, functional.gelu,
    functional.silu, functional.tanh, functional.sigmoid, functional.softplus, functional.dropout, functional.relu6,
}  # fmt: skip
_POOLING = {
    functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d,
    functional.max_pool1d, functional.avg_pool1d, torch.max_pool2d,
}  # fmt: skip
_ADDING = {operator.add, operator.iadd, torch.add}


class NotRenumberableError(ValueError):
    """A network whose channels this package does not know how to renumber."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis of a parameter or buffer along which channels lie, ``block`` entries each.

    Attributes:
        name: of the tensor.
        axis: of it.
        block: neighbouring entries that belong to one channel, those of its positions where a map was flattened.
    """

    name: str
    axis: int
    block: int = 1


@dataclasses.dataclass(frozen=True)
class Channels:
    """A group of channels that can be renumbered together.

    Attributes:
        size: number of channels.
        axes: of all tensors that they lie along.
    """

    size: int
    axes: tuple[Axis, ...]


@dataclasses.dataclass(frozen=True)
class _Value:
    """A tensor in the forward pass: its group of channels, and whether it has positions or is flat."""

    group: int
    positions: bool


def channels_of(model: nn.Module) -> list[Channels]:
    """The groups of channels that can be renumbered: all but inputs, outputs, and what is added to these.

    Raises:
        NotRenumberableError: the forward pass cannot be traced, or does something that is not known here.

    >>> groups = channels_of(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)))
    >>> groups[0].size, [(axis.name, axis.axis) for axis in groups[0].axes]
    (5, [('0.weight', 0), ('0.bias', 0), ('2.weight', 1)])
    """
    try:
        with undisturbed(model):
            graph = fx.Tracer().trace(model)
    except Exception as error:
        told = (str(error).splitlines() or [""])[0][:150]
        raise NotRenumberableError(f"the forward pass of {type(model).__name__} cannot be traced ({told})") from error
    walk = _Walk(model)
    for node in graph.nodes:
        walk.visit(node)
    return walk.groups()


class _Walk:
    """Goes through the operations of a forward pass in their order."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._names = {id(p): n for n, p in (*model.named_parameters(), *model.named_buffers())}
        self._values: dict[fx.Node, _Value] = {}
        self._root: list[int] = []  # union–find over groups
        self._sizes: dict[int, int] = {}
        self._axes: list[tuple[int, Axis]] = []
        self._fixed: list[int] = []
        self._groups: dict[tuple[str, int], tuple[int, int]] = {}  # group and block of each axis of a tensor

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._values[node] = _Value(self._new(fixed=True), positions=True)
        elif node.op == "output":
            for value in self._arguments(node):
                self._fixed.append(value.group)
        elif node.op == "call_module":
            self._values[node] = self._call(node, self._modules[str(node.target)])
        elif node.op == "call_function":
            self._values[node] = self._function(node)
        elif node.op == "call_method":
            self._values[node] = self._method(node)
        else:
            raise NotRenumberableError(f"the network uses the tensor {node.target} by itself; {_KNOWN}")

    def groups(self) -> list[Channels]:
        """The groups that are not fixed, in the order of their first tensor."""
        seen = {axis.name for _, axis in self._axes}
        if unused := [n for n, _ in self._model.named_parameters() if n not in seen]:
            raise NotRenumberableError(f"parameter {unused[0]} is in no layer that is known here; {_KNOWN}")
        fixed = {self._find(group) for group in self._fixed}
        found: dict[int, dict[Axis, None]] = {}
        for group, axis in self._axes:
            root = self._find(group)
            if root not in fixed:
                found.setdefault(root, {})[axis] = None
        return [Channels(self._sizes[root], tuple(axes)) for root, axes in found.items()]

    def _call(self, node: fx.Node, module: nn.Module) -> _Value:
        (value,) = self._arguments(node)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            return self._layer(value, module)
        if isinstance(module, _BatchNorm):
            return self._norm(value, module)
        if isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
            return _Value(value.group, positions=False)
        if isinstance(module, (*_ENTRYWISE_MODULES, *_POOLING_MODULES)):
            return value
        raise NotRenumberableError(f"layer {node.target} is a {type(module).__name__}; {_KNOWN}")

    def _layer(self, value: _Value, module: nn.Linear | nn.Conv1d | nn.Conv2d) -> _Value:
        if not isinstance(module, nn.Linear) and module.groups != 1:
            raise NotRenumberableError(f"a convolution has {module.groups} groups of channels; {_KNOWN}")
        size, width = module.weight.shape[0], module.weight.shape[1]
        block = self._block(value, width, flat=isinstance(module, nn.Linear))
        group = self._new(size)
        self._note(group, module.weight, 0)
        if module.bias is not None:
            self._note(group, module.bias, 0)
        self._note(value.group, module.weight, 1, block)
        return _Value(group, positions=not isinstance(module, nn.Linear))

    def _block(self, value: _Value, width: int, *, flat: bool) -> int:
        """Number of neighbouring entries, of ``width``, that belong to one channel: one unless a map is flat."""
        before = self._sizes.get(self._find(value.group), width)
        block, rest = divmod(width, before)
        if rest or (block > 1 and not flat):
            raise NotRenumberableError(f"a layer takes {width} entries of {before} channels; {_KNOWN}")
        return block

    def _norm(self, value: _Value, module: _BatchNorm) -> _Value:
        block = self._block(value, module.num_features, flat=not value.positions)
        for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
            if tensor is not None:
                self._note(value.group, tensor, 0, block)
        return value

    def _function(self, node: fx.Node) -> _Value:
        if node.target in _ADDING:
            return self._sum(node)
        if node.target in _ENTRYWISE or node.target in _POOLING:
            return self._first(node)
        if node.target is torch.flatten:
            return self._flat(node)
        if node.target is torch.mean:
            return self._mean(node)
        raise NotRenumberableError(f"the network calls {getattr(node.target, '__name__', node.target)}; {_KNOWN}")

    def _method(self, node: fx.Node) -> _Value:
        known: Mapping[str, Callable[[fx.Node], _Value]] = {
            **dict.fromkeys(("relu", "tanh", "sigmoid", "contiguous", "relu_"), self._first),
            **dict.fromkeys(("add", "add_"), self._sum),
            "flatten": self._flat,
            "mean": self._mean,
        }
        if node.target not in known:
            raise NotRenumberableError(f"the network calls the method {node.target}; {_KNOWN}")
        return known[str(node.target)](node)

    def _sum(self, node: fx.Node) -> _Value:
        values = self._arguments(node)
        if len(values) != 2 or len(node.args) != 2 or node.kwargs or len({v.positions for v in values}) > 1:
            raise NotRenumberableError(f"the network adds other things than two maps of channels; {_KNOWN}")
        self._join(values[0].group, values[1].group)
        return values[0]

    def _flat(self, node: fx.Node) -> _Value:
        arguments = [*node.args[1:], *node.kwargs.values()]
        if arguments not in ([1], [1, -1]):
            raise NotRenumberableError(f"the network flattens from another axis than 1; {_KNOWN}")
        return _Value(self._first(node).group, positions=False)

    def _mean(self, node: fx.Node) -> _Value:
        value = self._first(node)
        axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        axes = [axes] if isinstance(axes, int) else list(axes or [])  # type: ignore[arg-type]
        if not axes or not value.positions or not set(axes) <= {2, 3, -1, -2}:
            raise NotRenumberableError(f"the network takes a mean over other axes than positions; {_KNOWN}")
        return value

    def _first(self, node: fx.Node) -> _Value:
        return self._arguments(node)[0]

    def _arguments(self, node: fx.Node) -> list[_Value]:
        return [self._values[n] for n in node.all_input_nodes]

    def _note(self, group: int, tensor: Tensor, axis: int, block: int = 1) -> None:
        if id(tensor) not in self._names:
            raise NotRenumberableError(f"a weight is computed from others, as parametrisations do; {_KNOWN}")
        name = self._names[id(tensor)]
        first, its_block = self._groups.setdefault((name, axis), (group, block))
        if its_block != block:
            raise NotRenumberableError(
                f"{name} is used twice, with {its_block} and {block} entries a channel; {_KNOWN}"
            )
        self._join(group, first)  # a tensor that is used again is of the same groups
        self._axes.append((group, Axis(name, axis, block)))

    def _new(self, size: int | None = None, *, fixed: bool = False) -> int:
        self._root.append(len(self._root))
        if size is not None:
            self._sizes[self._root[-1]] = size
        if fixed:
            self._fixed.append(self._root[-1])
        return self._root[-1]

    def _find(self, group: int) -> int:
        while self._root[group] != group:
            group = self._root[group]
        return group

    def _join(self, one: int, other: int) -> None:
        a, b = self._find(one), self._find(other)
        if a == b:
            return
        sizes = {self._sizes[g] for g in (a, b) if g in self._sizes}
        if len(sizes) > 1:
            numbers = " and ".join(map(str, sizes))
            raise NotRenumberableError(f"the network adds or shares maps of {numbers} channels; {_KNOWN}")
        self._root[b] = a
        for size in sizes:
            self._sizes[a] = size


_KNOWN = (
    "channels are matched in networks of linear and convolutional layers, BatchNorm, functions of single entries, "
    "pooling, flattening and sums alone"
)


def renumbered(tensors: Mapping[str, Any], groups: list[Channels], orders: list[Tensor]) -> dict[str, Any]:
    """Tensors by name whose channels are those of ``orders``: channel j is what orders[g][j] was before."""
    found = dict(tensors)
    for group, order in zip(groups, orders, strict=True):
        for axis in group.axes:
            if axis.name in found:
                found[axis.name] = taken(found[axis.name], axis, order)
    return found


def taken(tensor: Tensor, axis: Axis, order: Tensor) -> Tensor:
    """A tensor with those channels along an axis alone, in that order."""
    if axis.block > 1:
        order = (order[:, None] * axis.block + torch.arange(axis.block, device=order.device)).reshape(-1)
    return tensor.index_select(axis.axis, order.to(tensor.device))
