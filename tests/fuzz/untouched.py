"""What of the user's a call must leave as it was: modules with all they hold, data, and the state of the process."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import warnings
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

_DEPTH = 4


@dataclasses.dataclass(frozen=True)
class Seen:
    """A thing with its value at the time, held so that no other object gets its ``id``."""

    thing: Any
    value: Any = None

    def same(self, other: Seen) -> bool:
        if isinstance(self.thing, Tensor) and isinstance(other.thing, Tensor):
            return self.thing is other.thing and _same_values(self.value, other.value)
        if isinstance(self.thing, bool | int | float | str | type(None)):
            return type(self.thing) is type(other.thing) and self.thing == other.thing
        if isinstance(self.thing, list | tuple):  # entries are compared one by one
            return type(self.thing) is type(other.thing) and self.value == other.value
        return self.thing is other.thing and self.value == other.value


def _same_values(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return a[1:] == b[1:] and a[0].shape == b[0].shape and a[0].dtype == b[0].dtype and _bitwise(a[0], b[0])


def _bitwise(a: Tensor, b: Tensor) -> bool:
    if a.is_floating_point() or a.is_complex():
        a, b = torch.view_as_real(a) if a.is_complex() else a, torch.view_as_real(b) if b.is_complex() else b
        return bool(((a == b) | ((a != a) & (b != b))).all())
    return bool(torch.equal(a, b))


def _tensor(t: Tensor) -> tuple[Any, ...]:
    version = None if t.is_inference() else t._version
    grad = None if not t.is_leaf or t.grad is None else id(t.grad)
    return t.detach().clone(), version, t.requires_grad, t.grad_fn is None, grad, t.stride()


def model_state(module: nn.Module, fills: Mapping[str, tuple[str, ...]]) -> dict[str, Seen]:
    """Everything that modules hold, by path; what a block keeps of its own accord is left out.

    Args:
        module: with all those below it.
        fills: for a module's name, attributes of it and below it to leave out.
    """
    found: dict[str, Seen] = {}
    with torch.no_grad():
        for name, part in module.named_modules():
            skipped = {a for prefix, names in fills.items() if f"{name}.".startswith(f"{prefix}.") for a in names}
            for key, value in vars(part).items():
                if key not in skipped:
                    _see(f"{name}.{key}", value, found, skipped, _DEPTH)
    return found


def _see(path: str, value: Any, found: dict[str, Seen], skipped: set[str], depth: int) -> None:
    value = value() if isinstance(value, weakref.ref) else value
    if isinstance(value, Tensor):
        found[path] = Seen(value, _tensor(value))
    elif isinstance(value, Mapping) and depth:
        kept = {k: v for k, v in value.items() if k not in skipped}
        found[path] = Seen(value, list(map(str, kept)))
        for key, inner in kept.items():
            _see(f"{path}.{key}", inner, found, skipped, depth - 1)
    elif isinstance(value, list | tuple) and depth:
        found[path] = Seen(value, len(value))
        for i, inner in enumerate(value):
            _see(f"{path}.{i}", inner, found, skipped, depth - 1)
    elif isinstance(value, set | frozenset):
        found[path] = Seen(value, sorted(map(str, value)))
    else:
        found[path] = Seen(value)


def changed(before: dict[str, Seen], after: dict[str, Seen]) -> list[str]:
    """Paths that are new, gone or different."""
    found = [f"{path} is new" for path in after.keys() - before.keys()]
    found += [f"{path} is gone" for path in before.keys() - after.keys()]
    found += [
        f"{path} changed{_how(before[path], after[path])}"
        for path in before.keys() & after.keys()
        if not before[path].same(after[path])
    ]
    return sorted(found)


def _how(before: Seen, after: Seen) -> str:
    if before.thing is not after.thing:
        return f" (another object: {_told(before.thing)} -> {_told(after.thing)})"
    if isinstance(before.thing, Tensor):
        names = ("values", "version", "requires_grad", "leaf", "grad", "stride")
        old, new = before.value, after.value
        differing = [n for n, a, b in zip(names[1:], old[1:], new[1:], strict=True) if a != b]
        differing += [] if _bitwise(old[0], new[0]) else ["values"]
        return f" ({', '.join(differing)})"
    return f" ({before.value} -> {after.value})"


def _told(thing: Any) -> str:
    return type(thing).__name__ if not isinstance(thing, bool | int | float | str) else repr(thing)


def leftovers(module: nn.Module) -> tuple[list[str], set[str]]:
    """Tensors that modules hold and that cannot be used any more as a user would expect, and those with a graph."""
    found, graphs = [], set()
    for path, t in _tensors_of(module):
        if isinstance(t, FakeTensor):
            found.append(f"{path} is a fake tensor")
        elif torch._C._functorch.is_functorch_wrapped_tensor(t):
            found.append(f"{path} is a wrapper of torch.func")
        elif t.is_inference():
            found.append(f"{path} is an inference tensor")
        if t.grad_fn is not None:
            graphs.add(path)
    return sorted(found), graphs


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    seen: set[int] = set()

    def walk(path: str, value: Any, depth: int) -> Iterator[tuple[str, Tensor]]:
        if isinstance(value, Tensor):
            yield path, value
        elif isinstance(value, nn.Module) or not depth or id(value) in seen:
            return
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(f"{path}.{key}", inner, depth - 1)
        elif isinstance(value, list | tuple | set):
            for i, inner in enumerate(value):
                yield from walk(f"{path}.{i}", inner, depth - 1)
        elif callable(value) and getattr(value, "__closure__", None):
            seen.add(id(value))
            for i, cell in enumerate(value.__closure__):
                yield from walk(f"{path}.<cell {i}>", cell.cell_contents, depth - 1)
        elif type(value).__module__.startswith("tests."):
            seen.add(id(value))
            for key, inner in vars(value).items():
                yield from walk(f"{path}.{key}", inner, depth - 1)

    for name, part in module.named_modules():
        for key, value in vars(part).items():
            yield from walk(f"{name}.{key}", value, _DEPTH)


def process_state() -> dict[str, Any]:
    """What the whole process shares, the thread's own switches of torch's dispatcher included."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one is what users draw from
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "numpy's random state": (numpy_state["state"]["key"].tobytes(), numpy_state["state"]["pos"]),
        "python's random state": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "threads between operations": torch.get_num_interop_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "deterministic warnings": torch.is_deterministic_algorithms_warn_only_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
        "precision of matrix products": torch.get_float32_matmul_precision(),
        "fused attention": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.cudnn_sdp_enabled(),
        ),
        "fast path of attention": torch.backends.mha.get_fastpath_enabled(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "function modes": [type(m).__name__ for m in _get_current_function_mode_stack()],
        "dispatch modes": [type(m).__name__ for m in _get_current_dispatch_mode_stack()],
        "dispatch mode stack": torch._C._len_torch_dispatch_stack(),
        "dispatch keys excluded": str(torch._C._dispatch_tls_local_exclude_set()),
        "dispatch keys included": str(torch._C._dispatch_tls_local_include_set()),
        "torch.func levels": torch._C._functorch.peek_interpreter_stack() is None,
        "forward mode level": forward_ad._current_level,
        "forward mode": torch._C._is_fwd_grad_enabled(),
        "multithreading of autograd": torch._C._is_multithreading_enabled(),
        "view replay": torch._C._is_view_replay_enabled(),
        "saved tensors hooks": torch._C._autograd._saved_tensors_hooks_is_enabled(),
        "warning filters": tuple(warnings.filters),
        "environment": tuple(os.environ.items()),
        "signal": signal.getsignal(signal.SIGINT),
        "print options": dataclasses.astuple(torch._tensor_str.PRINT_OPTS),
    }


def autograd_works() -> bool:
    """Whether operations are recorded; there is a way of losing that which no flag of torch shows."""
    with torch.enable_grad():  # and not inference_mode(False), which would mend it within
        return (torch.ones(2, requires_grad=True) * 2).requires_grad


def process_changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    def short(value: Any) -> str:
        return repr(value)[:60]

    return [f"{name}: {short(before[name])} -> {short(after[name])}" for name in before if before[name] != after[name]]
