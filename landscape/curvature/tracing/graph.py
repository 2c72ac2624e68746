"""Rewriting of traced graphs: no mutation, nothing twice, and cut in two by what depends on the last inputs."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

_aten = torch.ops.aten
_SAME = (_aten.alias.default, _aten.detach.default)
_MADE = (_aten.new_zeros.default, _aten._new_zeros_with_same_feature_meta.default)


class NotSplittableError(RuntimeError):
    """A traced graph does something that cannot be moved or repeated safely."""


def simplify(graph: fx.Graph) -> None:
    """Drop what is unused, is only another name, or is computed twice; write in-place operations out of place.

    Raises:
        NotSplittableError: the graph draws random numbers or writes into a view or an input.
    """
    _functional(graph)
    seen: dict[object, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _SAME:
            twin = node.args[0]
        else:
            # The textual form tells nodes, numbers, dtypes and layouts apart.
            twin = seen.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
        if twin is not node:
            node.replace_all_uses_with(twin)
            graph.erase_node(node)
    graph.eliminate_dead_code()


def cut(module: fx.GraphModule, num_late: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Two graphs for one: the first does all that needs only the early inputs, the second the rest.

    ``second(*first(*early), *late)`` equals ``module(*early, *late)``, whose last ``num_late`` inputs are the late
    ones.
    """
    graph = module.graph
    inputs = graph.find_nodes(op="placeholder")
    (output,) = graph.find_nodes(op="output")
    late = set(inputs[len(inputs) - num_late :])
    for node in graph.nodes:
        if node is not output and any(source in late for source in node.all_input_nodes):
            late.add(node)
    kept = [
        node
        for node in graph.nodes
        if node not in late and node is not output and any(user in late or user is output for user in node.users)
    ]

    first, copied = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        if node not in late and node is not output:
            copied[node] = first.node_copy(node, copied.__getitem__)
    first.output(tuple(copied[node] for node in kept))
    first.eliminate_dead_code()

    second, copied = fx.Graph(), {}
    for node in kept:
        copied[node] = second.placeholder(node.name)
    for node in graph.nodes:
        if node in late:
            copied[node] = second.node_copy(node, copied.__getitem__)
    second.output(tuple(copied[node] for node in output.args[0]))
    second.eliminate_dead_code()
    return fx.GraphModule(module, first), fx.GraphModule(module, second)


def _functional(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        target = node.target
        if node.op != "call_function" or not isinstance(target, OpOverload):
            continue
        if torch.Tag.nondeterministic_seeded in target.tags and node.users:
            raise NotSplittableError(f"{target} draws random numbers")
        if target._schema.is_mutable:
            _out_of_place(graph, node, target)


def _out_of_place(graph: fx.Graph, node: fx.Node, target: OpOverload) -> None:
    changed = node.args[0]
    if target is _aten.copy_.default and isinstance(changed, fx.Node) and _fills(changed, node):
        _filled(graph, node, changed)
        return
    name = target._schema.name.removeprefix("aten::")
    if not isinstance(changed, fx.Node) or not _owned(changed, node) or not name.endswith("_"):
        raise NotSplittableError(f"{target} writes into a tensor that others may see")
    plain = getattr(getattr(_aten, name[:-1]), target._overloadname)
    with graph.inserting_before(node):
        result = graph.call_function(plain, node.args, node.kwargs)
    for user in list(changed.users):
        if user > node:
            user.replace_input_with(changed, result)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _fills(view: fx.Node, write: fx.Node) -> bool:
    """Tell whether a write is the first into memory made for it, all of which a strided view of it covers.

    Forward mode makes tangents so whose layout must be that of their primals.
    """
    if view.target is not _aten.as_strided.default or len(view.users) != 1:
        return False
    arguments: Any = view.args
    memory, size, stride, *offset = arguments
    if not isinstance(memory, fx.Node) or memory.target not in _MADE or any(offset):
        return False
    if not isinstance(size, list) or not isinstance(stride, list):
        return False
    dense = sorted((step, count) for step, count in zip(stride, size, strict=True) if count > 1)
    whole = all(step == math.prod(count for _, count in dense[:i]) for i, (step, _) in enumerate(dense))
    earlier = [user for user in memory.users if user < write]
    return whole and memory.meta["val"].numel() == math.prod(size) and earlier == [view]


def _filled(graph: fx.Graph, write: fx.Node, view: fx.Node) -> None:
    """Write a copy in place of memory that is made and filled; later views of the memory are views of the copy."""
    arguments: Any = view.args
    (memory, size, stride, *_), source = arguments, write.args[1]
    order = sorted(range(len(size)), key=lambda axis: (-stride[axis], -size[axis]))
    back = [order.index(axis) for axis in range(len(order))]
    own = memory.meta["val"]
    with graph.inserting_before(write):
        expanded = graph.call_function(_aten.expand.default, (source, size))  # as copy_ does
        ordered = graph.call_function(_aten.permute.default, (expanded, order))
        kind: dict[str, Any] = {"memory_format": torch.contiguous_format}
        copied = graph.call_function(_aten.clone.default, (ordered,), kind)
        result = graph.call_function(_aten.permute.default, (copied, back))
        whole = graph.call_function(_aten.as_strided.default, (copied, list(own.shape), list(own.stride()), 0))
        whole.meta = dict(memory.meta)
    for user in list(memory.users):
        if user > write:
            user.replace_input_with(memory, whole)
    write.replace_all_uses_with(result)
    graph.erase_node(write)
    graph.erase_node(view)


def _owned(node: fx.Node, before: fx.Node) -> bool:
    """Tell whether a node made its own memory, and no view of it was taken before another node."""
    earlier = (user for user in node.users if user < before)
    return node.op == "call_function" and not any(_is_view(n) for n in (node, *earlier))


def _is_view(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return _is_view(node.all_input_nodes[0])
    if not isinstance(node.target, OpOverload):
        return False
    aliases = (argument.alias_info for argument in node.target._schema.arguments)
    return any(alias is not None and not alias.is_write for alias in aliases)


def kept_bytes(kept: tuple[Tensor, ...], inputs: list[Tensor]) -> int:
    """Memory that ``kept`` holds beyond the inputs, each storage counted once."""
    known = {t.untyped_storage().data_ptr() for t in inputs}
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(size for pointer, size in sizes.items() if pointer not in known)
