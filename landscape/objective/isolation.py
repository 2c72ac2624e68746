"""A model as a pure function: every forward pass starts from one state, and the caller's model comes back as it was.

:func:`undisturbed` takes charge of a model: eval mode, gradients on, no ambient autocast or inference mode, one thread
at a time. :func:`holding` meanwhile puts tensors in the place of parameters and buffers. Nothing else is set on a
module, and what a forward pass sets on its modules (lazily filled caches, counters, values kept for later, buffers
rebound or written to) is undone before the next one and on leaving, also after an exception.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_DEPTH = 3  # of containers within containers that are looked after
_LONG = 1000  # entries; of a longer container only the length is compared before every forward pass
_COPIED = 2**26  # bytes of a tensor attribute that is copied, so that it can be set back
_CODE = (type, FunctionType, MethodType, BuiltinFunctionType, ModuleType)
_OF_TORCH = frozenset(vars(nn.Module())) - {"training"}
_PLAIN = (str, int, float, bool, type(None), torch.dtype, torch.device)
_LOGGING = ("log", "log_dict")
_MISSING = object()


@contextmanager
def exclusive(model: nn.Module) -> Iterator[_Guard]:
    """Wait until no other thread measures ``model``, and let none begin meanwhile."""
    guard, mine = _guard(model), _MINE.get()
    if guard in mine:
        yield guard
        return
    with guard.lock:
        token = _MINE.set((*mine, guard))
        try:
            yield guard
        finally:
            _MINE.reset(token)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode, gradients on; give everything back on leaving, however one leaves.

    Restored are every module's attributes, containers and mode, the random states of torch, numpy and Python, default
    dtype, number of threads, the deterministic flag and torch's fast path of transformer layers, which computes another
    function and is off inside. Ambient autocast, ``no_grad`` and ``inference_mode`` have no effect inside, and what
    Lightning's modules log reaches no trainer. Other threads that measure the same model wait until this one leaves,
    but for those that it starts in a copy of its context (:mod:`contextvars`).

    >>> model = nn.Dropout()
    >>> with undisturbed(model):
    ...     model.training
    False
    >>> model.training
    True
    """
    with exclusive(model) as guard:
        if guard.state is not None:  # of an outer call
            yield
            return
        parameter = next(model.parameters(), None)
        modules = list(model.modules())
        with _process_state(torch.device("cpu") if parameter is None else parameter.device):
            before = _Snapshot([vars(module) for module in modules], whole=True)
            try:
                for module in modules:
                    module.training = False
                    if _is_of_lightning(module):
                        vars(module).update(dict.fromkeys(_LOGGING, _log_nothing))
                guard.state = HeldState(model, modules)
                yield
            finally:
                state, guard.state = guard.state, None
                if state is not None:
                    state.attributes.restore()
                before.restore()


@contextmanager
def holding(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[HeldState]:
    """Let ``model`` hold ``tensors`` in place of its parameters and buffers of those names, tied ones under every name.

    Buffers are held as copies, which a forward pass may write to. What a backward pass runs again (activation
    checkpointing) sees these tensors too.

    Raises:
        ValueError: a forward pass has written to a parameter.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> with holding(layer, {"weight": Tensor([[3.0]])}):
    ...     layer(Tensor([1.0])).item()
    3.0
    """
    with undisturbed(model):
        state = _guard(model).state
        assert state is not None
        with state.holding(tensors):
            yield state


def rewind(model: nn.Module) -> None:
    """Undo what the last forward pass of ``model`` has left in it; without effect outside :func:`undisturbed`."""
    state = _guard(model).state
    if state is not None:
        state.rewind()


@contextmanager
def plain_attention() -> Iterator[None]:
    """Let torch compute attention by its plain kernel, since the fused ones have no second derivative.

    The setting is the process's, so it is given back when the last thread has left.
    """
    with _PLAIN_KERNEL.shared():
        yield


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one made in inference mode, which autograd refuses."""
    return tensor.clone() if tensor.is_inference() else tensor


class HeldState:
    """The state that every forward pass of a model starts from: the tensors that it holds, its modules' attributes.

    Args:
        model: in eval mode.
        modules: all of them.

    Attributes:
        attributes: that a forward pass may change.
    """

    def __init__(self, model: nn.Module, modules: Sequence[nn.Module]) -> None:
        self._modules = [vars(module) for module in modules]
        self._tables = [table for attributes in self._modules for table in _tables(attributes)]
        self._contents = [dict(table) for table in self._tables]
        self._places = _places(model)
        self._buffers: dict[str, _Held] = {}
        self._versions: list[tuple[str, Tensor, int]] = []
        self.attributes = _Snapshot(self._modules, whole=False)

    @contextmanager
    def holding(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Hold other tensors; see :func:`holding`."""
        outer = self._contents, self._buffers, self._versions
        in_use = _Snapshot(self._modules, whole=False, copies=False)  # by a forward pass whose loss is still to come
        try:
            self._buffers = dict(self._buffers)
            for name, tensor in tensors.items():
                if name not in self._places:
                    raise ValueError(f"the model has lost its parameter or buffer {name!r}; make a new objective")
                for table, key, is_buffer in self._places[name]:
                    if is_buffer and name not in self._buffers:
                        self._buffers[name] = _Held(tensor.detach().clone(), tensor)
                    table[key] = self._buffers[name].tensor if name in self._buffers else tensor
            self._contents = [dict(table) for table in self._tables]
            self.moved()
            yield
            self.rewind()
        finally:
            self._contents, self._buffers, self._versions = outer
            _put_back(self._tables, self._contents)
            in_use.restore()

    def rewind(self) -> None:
        """Undo what a forward pass has left.

        Raises:
            ValueError: it has written to a parameter, or to an attribute too large to be copied.
        """
        self.attributes.restore(quickly=True)
        _put_back(self._tables, self._contents)
        for buffer in self._buffers.values():
            buffer.undo()
        for name, tensor, version in self._versions:
            if _version(tensor) != version:
                raise ValueError(
                    f"the model writes to its parameter {name!r} in forward, so its loss is no plain function of its "
                    "parameters; look for max_norm= of an embedding, or for clipping or normalisation in place"
                )

    def moved(self) -> None:
        """Take the present numbers of parameters for those that a forward pass must leave alone."""
        held = [(name, table[key]) for name, [(table, key, is_buffer), *_] in self._places.items() if not is_buffer]
        self._versions = [(name, tensor, _version(tensor)) for name, tensor in held]

    def accept_buffers(self) -> None:
        """Take the present numbers of buffers for those that every forward pass starts from."""
        for buffer in self._buffers.values():
            buffer.accept()

    def reset_buffers(self) -> None:
        """Go back to the numbers of buffers that they were held with."""
        for buffer in self._buffers.values():
            buffer.reset()


class _Held:
    """A tensor that forward passes may write to, with the numbers to set it back to."""

    def __init__(self, tensor: Tensor, numbers: Tensor | None) -> None:
        self.tensor, self._first = tensor, numbers
        self._numbers, self._noted = numbers, _version(tensor)

    def undo(self) -> None:
        if _version(self.tensor) == self._noted:
            return
        if self._numbers is None:
            raise ValueError(
                f"the model writes to an attribute of shape {tuple(self.tensor.shape)} in forward, which is too large "
                "to be set back; register it as a buffer"
            )
        with torch.no_grad():
            self.tensor.copy_(self._numbers)
        self._noted = _version(self.tensor)

    def accept(self) -> None:
        if _version(self.tensor) != self._noted:
            self._numbers, self._noted = self.tensor.clone(), _version(self.tensor)

    def reset(self) -> None:
        if self._numbers is not self._first:
            self._numbers, self._noted = self._first, -1
        self.undo()


class _Snapshot:
    """Attributes of modules, the contents of their containers and the numbers of their plain tensors.

    Args:
        modules: attributes of each.
        whole: also what torch keeps on a module: hooks, submodules, tables of tensors.
        copies: of plain tensors.
    """

    def __init__(self, modules: Sequence[dict[str, Any]], *, whole: bool, copies: bool = True) -> None:
        self._whole, self._copies = whole, copies
        self._attributes = [
            (own, len(own), {k: v for k, v in own.items() if whole or k not in _OF_TORCH}) for own in modules
        ]
        self._containers: list[tuple[Any, Any]] = []
        self._tensors: list[_Held] = []
        self._seen = {id(own) for own in modules}
        for _, _, kept in self._attributes:
            for value in kept.values():
                if not isinstance(value, _PLAIN):
                    self._note(value, _DEPTH)

    def restore(self, *, quickly: bool = False) -> None:
        """Set everything back; ``quickly``: long containers only where their length has changed."""
        for own, size, kept in self._attributes:
            if len(own) != size or _differs(own, kept):
                for key in [k for k in own if k not in kept and (self._whole or k not in _OF_TORCH)]:
                    del own[key]
                own.update(kept)
        for container, contents in self._containers:
            if not (quickly and len(container) == len(contents) > _LONG) and _differ(container, contents):
                _refill(container, contents)
        for tensor in self._tensors:
            tensor.undo()

    def _note(self, value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            if self._copies and id(value) not in self._seen:
                self._seen.add(id(value))
                self._tensors.append(_Held(value, value.detach().clone() if value.nbytes <= _COPIED else None))
            return
        if not isinstance(value, dict | list | set | deque | tuple):
            value = None if isinstance(value, _CODE) else getattr(value, "__dict__", None)
        if not isinstance(value, dict | list | set | deque | tuple) or not depth or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if not isinstance(value, tuple):
            self._containers.append((value, _contents(value)))
        for entry in value.values() if isinstance(value, dict) else value:
            if not isinstance(entry, _PLAIN):
                self._note(entry, depth - 1)


class _Guard:
    """The lock of a model, and its state while a thread holds it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.state: HeldState | None = None


class _Setting:
    """A setting of the process's that threads share: made by the first that needs it, given back by the last.

    Args:
        make: a context in which it holds.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make, self._lock, self._users, self._held = make, threading.Lock(), 0, ExitStack()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Let it hold."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._held.enter_context(self._make())
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._held.close()


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Let torch's transformer layers compute what is differentiated also where no gradient is wanted.

    Their other way writes zeros into padded positions.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_PLAIN_KERNEL = _Setting(lambda: sdpa_kernel(SDPBackend.MATH))
_ONE_PATH = _Setting(_without_fast_path)
_GUARDS: WeakKeyDictionary[nn.Module, _Guard] = WeakKeyDictionary()
_GUARDS_LOCK = threading.Lock()
_MINE: ContextVar[tuple[_Guard, ...]] = ContextVar("models that this thread has taken charge of", default=())


def _guard(model: nn.Module) -> _Guard:
    with _GUARDS_LOCK:
        return _GUARDS.setdefault(model, _Guard())


@contextmanager
def _process_state(device: torch.device) -> Iterator[None]:
    """Gradients on, no autocast, inference mode or fast path; random states and torch's settings are given back."""
    on_device = getattr(torch, device.type) if device.type != "cpu" else None
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - the user's
    device_state = on_device.get_rng_state(device) if on_device is not None else None
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast(device.type, enabled=False),
        _ONE_PATH.shared(),
    ):
        try:
            yield
        finally:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            random.setstate(states[2])
            if on_device is not None:
                on_device.set_rng_state(device_state, device)
            if torch.get_default_dtype() != dtype:
                torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            now = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
            if now != deterministic:
                torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])


def _is_of_lightning(module: nn.Module) -> bool:
    """Tell whether a module logs to a trainer of Lightning's, which keeps what it is told outside of the module."""
    return any(
        kind.__name__ == "LightningModule" and kind.__module__.partition(".")[0] in ("lightning", "pytorch_lightning")
        for kind in type(module).__mro__
    )


def _log_nothing(*_: Any, **__: Any) -> None:
    """Stand in for a method that logs."""


def _tables(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return attributes["_parameters"], attributes["_buffers"]


def _places(model: nn.Module) -> dict[str, list[tuple[dict[str, Any], str, bool]]]:
    """By each of its names, the places of a tensor, a tied one's several: table, key, and whether it is a buffer."""
    tensors: dict[str, Tensor] = {}
    places: dict[int, dict[tuple[int, str], tuple[dict[str, Any], str, bool]]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for table, is_buffer in zip(_tables(vars(module)), (False, True), strict=True):
            for key, tensor in table.items():
                if tensor is not None:
                    tensors[f"{prefix}.{key}" if prefix else key] = tensor
                    places.setdefault(id(tensor), {})[id(table), key] = table, key, is_buffer
    return {name: list(places[id(tensor)].values()) for name, tensor in tensors.items()}


def _put_back(tables: Sequence[dict[str, Any]], contents: Sequence[dict[str, Any]]) -> None:
    for table, content in zip(tables, contents, strict=True):
        if len(table) != len(content) or _differs(table, content):
            _refill(table, content)


def _contents(container: Any) -> Any:
    if isinstance(container, dict):
        return dict(container)
    return set(container) if isinstance(container, set) else list(container)


def _differ(container: Any, contents: Any) -> bool:
    if len(container) != len(contents):
        return True
    if isinstance(container, dict):
        return _differs(container, contents)
    if isinstance(container, set):
        return bool(container != contents)
    return any(a is not b for a, b in zip(container, contents, strict=True))


def _differs(table: dict[Any, Any], contents: dict[Any, Any]) -> bool:
    """Tell whether an entry is another object; in plain steps, since this runs before every forward pass."""
    for key, value in contents.items():  # noqa: SIM110
        if table.get(key, _MISSING) is not value:
            return True
    return False


def _refill(container: Any, contents: Any) -> None:
    container.clear()
    if isinstance(container, list | deque):
        container.extend(contents)
    else:
        container.update(contents)


def _version(tensor: Tensor) -> int:
    """Count of writes to a tensor; inference tensors, which autograd does not know, are not counted."""
    return -1 if tensor.is_inference() else tensor._version
