"""A model as a pure function: every forward pass starts from one state, and the caller's model comes back as it was.

:func:`undisturbed` takes charge of a model: eval mode, gradients on, no ambient autocast or inference mode, one thread
at a time. :func:`holding` meanwhile puts tensors in the place of parameters and buffers. Nothing else is set on a
module, and what a forward pass sets on its modules (lazily filled caches, counters, values kept for later, buffers
rebound or written to) is undone before the next one and on leaving, also after an exception.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.objective.process_state import SharedSetting, keep_freed_memory, process_state_restored
from landscape.objective.snapshots import Snapshot, WritableTensor, put_back, version_of

_LOGGING = ("log", "log_dict")


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
    but for those that it starts in a copy of its context (:mod:`contextvars`). Freed memory stays with the process
    (:func:`~landscape.objective.process_state.keep_freed_memory`).

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
        keep_freed_memory()
        parameter = next(model.parameters(), None)
        modules = list(model.modules())
        with process_state_restored(torch.device("cpu") if parameter is None else parameter.device):
            before = Snapshot([vars(module) for module in modules], whole=True)
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
def holding(model: nn.Module, tensors: Mapping[str, Tensor], requiring_grad: Sequence[str] = ()) -> Iterator[HeldState]:
    """Let ``model`` hold ``tensors`` in place of its parameters and buffers of those names, tied ones under every name.

    What stands for a parameter has its attributes and counts as an ``nn.Parameter``, since code may ask for these.
    Buffers are held as copies, which a forward pass may write to. What a backward pass runs again (activation
    checkpointing) sees these tensors too.

    Args:
        model: to hold them.
        tensors: by name.
        requiring_grad: names of those that are to say so where no gradient is taken, as the parameters do: a penalty
            on all parameters with ``requires_grad`` is part of the loss.

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
        with state.holding(tensors, requiring_grad):
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
        self._own = {name: table[key] for name, [(table, key, _), *_] in self._places.items()}
        self._buffers: dict[str, WritableTensor] = {}
        self._versions: list[tuple[str, Tensor, int]] = []
        self.attributes = Snapshot(self._modules, whole=False)

    @contextmanager
    def holding(self, tensors: Mapping[str, Tensor], requiring_grad: Sequence[str] = ()) -> Iterator[None]:
        """Hold other tensors; see :func:`holding`."""
        outer = self._contents, self._buffers, self._versions
        in_use = Snapshot(self._modules, whole=False, copies=False)  # by a forward pass whose loss is still to come
        try:
            self._buffers = dict(self._buffers)
            for name, tensor in tensors.items():
                if name not in self._places:
                    raise ValueError(f"the model has lost its parameter or buffer {name!r}; make a new objective")
                _liken(tensor, self._own[name])
                if name in requiring_grad and tensor.is_leaf:
                    tensor.requires_grad_()
                for table, key, is_buffer in self._places[name]:
                    if is_buffer and name not in self._buffers:
                        self._buffers[name] = WritableTensor(tensor.detach().clone(), tensor)
                    table[key] = self._buffers[name].tensor if name in self._buffers else tensor
            self._contents = [dict(table) for table in self._tables]
            self.moved()
            yield
            self.rewind()
        finally:
            self._contents, self._buffers, self._versions = outer
            put_back(self._tables, self._contents)
            in_use.restore()

    def rewind(self) -> None:
        """Undo what a forward pass has left.

        Raises:
            ValueError: it has written to a parameter, or to an attribute too large to be copied.
        """
        self.attributes.restore(quickly=True)
        put_back(self._tables, self._contents)
        for name, buffer in self._buffers.items():
            if buffer.undo() and self.attributes.shares_memory(self._own[name]):
                raise ValueError(
                    f"the model writes to its buffer {name!r} in forward, and an attribute of a module is a view of "
                    "it, which does not see what is written to a copy; take the view in forward"
                )
        for name, tensor, version in self._versions:
            if version_of(tensor) != version:
                raise ValueError(
                    f"the model writes to its parameter {name!r} in forward, so its loss is no plain function of its "
                    "parameters; look for max_norm= of an embedding, or for clipping or normalisation in place"
                )

    def moved(self) -> None:
        """Take the present numbers of parameters for those that a forward pass must leave alone."""
        held = [(name, table[key]) for name, [(table, key, is_buffer), *_] in self._places.items() if not is_buffer]
        self._versions = [(name, tensor, version_of(tensor)) for name, tensor in held]

    def accept_buffers(self) -> None:
        """Take the present numbers of buffers for those that every forward pass starts from."""
        for buffer in self._buffers.values():
            buffer.accept()

    def reset_buffers(self) -> None:
        """Go back to the numbers of buffers that they were held with."""
        for buffer in self._buffers.values():
            buffer.reset()


class _Guard:
    """The lock of a model, and its state while a thread holds it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.state: HeldState | None = None


_PLAIN_KERNEL = SharedSetting(lambda: sdpa_kernel(SDPBackend.MATH))
_GUARDS: WeakKeyDictionary[nn.Module, _Guard] = WeakKeyDictionary()
_GUARDS_LOCK = threading.Lock()
_MINE: ContextVar[tuple[_Guard, ...]] = ContextVar("models that this thread has taken charge of", default=())


def _guard(model: nn.Module) -> _Guard:
    with _GUARDS_LOCK:
        return _GUARDS.setdefault(model, _Guard())


def _is_of_lightning(module: nn.Module) -> bool:
    """Tell whether a module logs to a trainer of Lightning's, which keeps what it is told outside of the module."""
    return any(
        kind.__name__ == "LightningModule" and kind.__module__.partition(".")[0] in ("lightning", "pytorch_lightning")
        for kind in type(module).__mro__
    )


def _log_nothing(*_: Any, **__: Any) -> None:
    """Stand in for a method that logs."""


def _liken(tensor: Tensor, own: Tensor) -> None:
    """Give what stands for a parameter the attributes of it, and let it count as one (``isinstance``)."""
    if isinstance(own, nn.Parameter) and tensor is not own:
        setattr(tensor, "_is_param", True)  # noqa: B010 - by which torch tells parameters
        for name, value in vars(own).items():
            if not hasattr(tensor, name):
                setattr(tensor, name, value)


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
