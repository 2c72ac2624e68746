"""Programs: a curvature product traced once for given shapes, cut into what the vector touches and what it does not.

A product is forward-over-reverse: the gradient (or Jᵀu) computed on dual numbers whose tangent is the vector. Its
graph takes everything as input — parameters, buffers, batch, labels, vector — so one program serves every point, view
and micro-batch of the same shapes. The part before the vector comes in is run once for a micro-batch and kept; each
product then costs the rest, twice a gradient by operation count instead of three to four times.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from landscape.curvature.products import Form, Product
from landscape.curvature.tracing.graph import cut, kept_bytes, simplify
from landscape.curvature.tracing.rewriting import Rewriting
from landscape.objective.isolation import plain_attention
from landscape.objective.losses import Identity
from landscape.objective.micro_batch import BatchLoss
from landscape.objective.parameters import ParameterLayout
from landscape.objective.sources import constant_key

_VALUES = (int, float, complex, str, bytes, np.ndarray, np.generic, torch.dtype, torch.device)
Direction = Callable[[Form, BatchLoss, Sequence[Tensor], dict[str, Tensor], ParameterLayout], Sequence[Tensor | None]]


_ONE_TRACE = threading.Lock()  # torch's settings for a trace are the process's


class NotTraceableError(RuntimeError):
    """No way of tracing a product worked."""


class Program:
    """A form's product for micro-batches of one shape.

    Args:
        form: kind of curvature.
        batch: an example.
        layout: of the parameters.

    Attributes:
        traced: how: forward over reverse, with convolutions channels last or not, or reverse over reverse, which is
            slower; and why not in a better way.

    Raises:
        NotTraceableError: no way of tracing it works for this model.
    """

    def __init__(self, form: Form, batch: BatchLoss, layout: ParameterLayout) -> None:
        self._form = form
        traced, self.traced = _first_traced(form, batch, layout)
        self._first, self._second = cut(traced, len(batch.parameters))
        self._compiled: Callable[..., Sequence[Tensor]] | None = None

    def product(self, batch: BatchLoss, layout: ParameterLayout, *, compiled: bool = False) -> KeptProduct:
        """The product of a micro-batch, with all that does not depend on the vector computed.

        Args:
            batch: of the shapes that the program was made for.
            layout: of the parameters.
            compiled: compile the rest by torch's inductor, once for the program.
        """
        early = _Packed(self._form, batch).tensors
        with torch.no_grad():
            kept = tuple(t.detach() for t in self._first(*early))
            if compiled and self._compiled is None:
                vector = [torch.zeros_like(p, memory_format=torch.contiguous_format) for p in batch.parameters.values()]
                self._compiled = _compiled(self._second, [*kept, *vector])
        code = self._compiled if compiled and self._compiled is not None else self._second
        return KeptProduct(code, kept, layout, kept_bytes(kept, early))


class KeptProduct(Product):
    """The part of a micro-batch that its products need, and the code that makes them.

    Attributes:
        nbytes: memory held.
    """

    def __init__(
        self, code: Callable[..., Sequence[Tensor]], kept: Sequence[Tensor], layout: ParameterLayout, nbytes: int
    ) -> None:
        self._code, self._kept, self._layout, self.nbytes = code, kept, layout, nbytes

    def __call__(self, column: Tensor, *, keep: bool = True) -> Tensor:
        with torch.no_grad():
            parts = self._code(*self._kept, *self._layout.unflatten(column).values())
            return self._layout.flatten(dict(zip(self._layout.names, parts, strict=True)))


def shape_key(form: Form, batch: BatchLoss) -> Any:
    """Name all that a program depends on: form, model, loss, their plain attributes, shapes and dtypes of tensors."""
    leaves, spec = tree_flatten((batch.batch, batch.labels))
    tensors = (*batch.parameters.items(), *batch.fixed.items())
    described = tuple((tuple(t.shape), t.dtype) if isinstance(t, Tensor) else _constant(t) for t in leaves)
    held = tuple((name, tuple(t.shape), t.dtype) for name, t in tensors)
    return (
        function_key(form, batch),
        _attributes(batch.call.model),
        tuple(batch.parameters),
        held,
        repr(spec),
        described,
    )


def _constant(leaf: Any) -> Any:
    """Name what is no tensor in a batch, and therefore fixed in a program: by its value, or as the object it is."""
    return constant_key(leaf) if leaf is None or isinstance(leaf, _VALUES) else Identity(leaf)


def function_key(form: Form, batch: BatchLoss) -> Any:
    """The function whose products a program makes, whatever the shapes."""
    return form.key, batch.call.key, batch.criterion.key


def _attributes(model: nn.Module) -> Any:
    """Numbers, flags and plain tensors that modules keep beside parameters and buffers, and how many hooks."""
    found: list[Any] = []
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, int | float | str):
                found.append((name, value))
            elif isinstance(value, np.ndarray):
                found.append((name, constant_key(value)))
            elif isinstance(value, Tensor):
                found.append((name, id(value), -1 if value.is_inference() else value._version))
        found.append((id(module), len(module._forward_hooks), len(module._forward_pre_hooks)))
    return tuple(found)


class _Packed:
    """A micro-batch's tensors as one list, and the micro-batch again from such a list."""

    def __init__(self, form: Form, batch: BatchLoss) -> None:
        self._batch = batch
        self._leaves, self._spec = tree_flatten((batch.batch, batch.labels))
        data = [t for t in self._leaves if isinstance(t, Tensor)]
        groups = [[p.detach() for p in batch.parameters.values()], list(batch.fixed.values()), data, form.extras(batch)]
        self.sizes = [len(group) for group in groups]
        self.tensors = [t for group in groups for t in group]

    def unpack(self, tensors: Sequence[Tensor]) -> tuple[BatchLoss, list[Tensor]]:
        """The micro-batch made of ``tensors``, and the form's extras."""
        rest = iter(tensors)
        parameters, fixed, data, extras = ([next(rest) for _ in range(size)] for size in self.sizes)
        supply = iter(data)
        leaves = [next(supply) if isinstance(t, Tensor) else t for t in self._leaves]
        inputs, labels = tree_unflatten(leaves, self._spec)
        replaced = dataclasses.replace(
            self._batch,
            parameters=dict(zip(self._batch.parameters, parameters, strict=True)),
            fixed=dict(zip(self._batch.fixed, fixed, strict=True)),
            batch=inputs,
            labels=labels,
        )
        return replaced, extras


def _first_traced(form: Form, batch: BatchLoss, layout: ParameterLayout) -> tuple[torch.fx.GraphModule, str]:
    """The product's graph by the cheapest way that the model allows, and which that is."""
    convolutions = any(isinstance(module, nn.Conv2d) for module in batch.call.model.modules())
    ways: list[tuple[str, Direction, bool]] = [
        ("forward over reverse", _forward_over_reverse, False),
        ("reverse over reverse", _reverse_over_reverse, False),
    ]
    fragile = layout.dtype == torch.float64 and any(isinstance(m, nn.GroupNorm) for m in batch.call.model.modules())
    if convolutions and not fragile:  # torch 2.13 crashes in GroupNorm's backward on such tensors
        ways.insert(0, ("forward over reverse, channels last", _forward_over_reverse, True))
    errors: list[str] = []
    _load_compiler()
    for name, direction, channels_last in ways:
        found = _in_a_thread(partial(_trace, form, batch, layout, direction, channels_last=channels_last))
        if isinstance(found, torch.fx.GraphModule):
            return found, f"{name} ({' | '.join(errors)})" if errors else name
        errors.append(found)
    raise NotTraceableError(" | ".join(errors))


def _in_a_thread(trace: Callable[[], torch.fx.GraphModule]) -> torch.fx.GraphModule | str:
    """A graph, or why there is none, with nothing left of its making.

    A trace that fails leaves frames behind, in cycles, whose guards set grad mode and dispatch keys of the thread that
    collects them, possibly much later (torch 2.13). So it has a thread of its own, which collects them.
    """
    found: list[torch.fx.GraphModule | str] = []

    def run() -> None:
        try:
            found.append(trace())
        except Exception as error:  # whatever it is, double backward is left
            found.append(f"{type(error).__name__}: {_first_line(error)}")
        gc.collect()

    thread = threading.Thread(target=copy_context().run, args=(run,))
    with _ONE_TRACE, _quiet():
        thread.start()
        thread.join()
    return found[0]


def _trace(
    form: Form, batch: BatchLoss, layout: ParameterLayout, direction: Direction, *, channels_last: bool
) -> torch.fx.GraphModule:
    packed = _Packed(form, batch)
    count = len(packed.tensors)

    def product(*inputs: Tensor) -> list[Tensor]:
        early, vector = list(inputs[:count]), inputs[count:]
        if channels_last:
            early = [_channels_last(t) for t in early]
        with torch.enable_grad(), Rewriting():
            plain, extras = packed.unpack(early)
            parts = direction(form, plain, extras, dict(zip(layout.names, vector, strict=True)), layout)
            return [torch.zeros_like(v) if part is None else part for part, v in zip(parts, vector, strict=True)]

    vector = [torch.zeros_like(p, memory_format=torch.contiguous_format) for p in packed.tensors[: packed.sizes[0]]]
    # Fake tensors compute nothing, and refuse code whose course depends on values instead of fixing that course.
    tracer = make_fx(product, tracing_mode="fake", _allow_non_fake_inputs=True)
    # From its second trace in a process on, torch 2.13 takes views of dual numbers out of this cache wrongly and fails.
    uncached = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    with plain_attention(), uncached:
        traced: torch.fx.GraphModule = tracer(*packed.tensors, *vector)
    simplify(traced.graph)
    for node in traced.graph.nodes:
        node.meta.clear()  # holds fake tensors
    return traced


def _forward_over_reverse(
    form: Form, batch: BatchLoss, extras: Sequence[Tensor], vector: dict[str, Tensor], layout: ParameterLayout
) -> Sequence[Tensor | None]:
    with forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(p.detach().requires_grad_(), vector[name])
            for name, p in batch.parameters.items()
        }
        dual = dataclasses.replace(batch, parameters=duals)
        with dual.held():
            return form.along(dual, extras)


def _reverse_over_reverse(
    form: Form, batch: BatchLoss, extras: Sequence[Tensor], vector: dict[str, Tensor], layout: ParameterLayout
) -> Sequence[Tensor | None]:
    leaves = {name: p.detach().requires_grad_() for name, p in batch.parameters.items()}
    linked = dataclasses.replace(batch, parameters=leaves)
    with linked.held():
        product = form.linearise(linked, layout, extras)
        return list(layout.unflatten(product(layout.flatten(vector), keep=False)).values())


def _channels_last(tensor: Tensor) -> Tensor:
    if tensor.ndim != 4 or not tensor.is_floating_point():
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def _compiled(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    import torch._inductor

    with _quiet():
        code: Callable[..., Sequence[Tensor]] = torch._inductor.compile(module, list[Any](inputs))
        return code


def _load_compiler() -> None:
    """Import what make_fx imports on its first use, in a thread: the import leaves a cycle that holds its callers."""
    with _quiet():
        thread = threading.Thread(target=importlib.import_module, args=("torch._dynamo",))
        thread.start()
        thread.join()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, and no tracebacks that torch logs of what we handle."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled
