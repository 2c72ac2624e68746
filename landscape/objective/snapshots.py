"""Snapshots of modules: attributes, containers and tensors that a forward pass may change, to be set back.

All is compared in plain steps and by identity, since this runs before every forward pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.objective.process_state import GENERATORS, setting_back

_DEPTH = 3  # of containers within containers that are looked after
_LONG = 1000  # entries; of a longer container only the length is compared before every forward pass
_COPIED = 2**26  # bytes of a tensor attribute that is copied, so that it can be set back
_COMPARED = 2**20  # bytes of an array, which does not count what is written to it
_CODE = (type, FunctionType, MethodType, BuiltinFunctionType, ModuleType)
_OF_TORCH = frozenset(vars(nn.Module())) - {"training"}
_PLAIN = (str, int, float, bool, type(None), torch.dtype, torch.device)
_MISSING = object()


class WritableTensor:
    """A tensor that forward passes may write to, with the numbers to set it back to."""

    def __init__(self, tensor: Tensor, numbers: Tensor | None) -> None:
        self.tensor, self._first = tensor, numbers
        self._numbers, self._noted = numbers, version_of(tensor)

    def undo(self) -> bool:
        """Set the numbers back where they were written to; returns whether they were.

        Raises:
            ValueError: they were, and there is no copy of them.
        """
        if version_of(self.tensor) == self._noted:
            return False
        if self._numbers is None:
            raise ValueError(
                f"the model writes to an attribute of shape {tuple(self.tensor.shape)} in forward, which is too large "
                "to be set back; register it as a buffer"
            )
        with torch.no_grad():
            self.tensor.copy_(self._numbers)
        self._noted = version_of(self.tensor)
        return True

    def accept(self) -> None:
        """Take the present numbers for those to set back to."""
        if version_of(self.tensor) != self._noted:
            self._numbers, self._noted = self.tensor.clone(), version_of(self.tensor)

    def reset(self) -> None:
        """Go back to the first numbers."""
        if self._numbers is not self._first:
            self._numbers, self._noted = self._first, -1
        self.undo()


class Snapshot:
    """Attributes of modules, contents of their containers, numbers of their plain tensors and arrays, and generators.

    A generator of random numbers is set back only in the end, so that chance in a forward pass shows in the results.

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
        self._tensors: list[WritableTensor] = []
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._generators: list[Callable[[], Any]] = []
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
        for array, numbers in self._arrays:
            if array.flags.writeable and not np.array_equal(array, numbers, equal_nan=array.dtype.kind in "fc"):
                array[...] = numbers
        for set_back in () if quickly else self._generators:
            set_back()

    def shares_memory(self, tensor: Tensor) -> bool:
        """Tell whether one of the plain tensors lies in the memory of ``tensor``."""
        return any(
            plain.tensor.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() for plain in self._tensors
        )

    def _note(self, value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            if self._copies and id(value) not in self._seen:
                self._seen.add(id(value))
                self._tensors.append(WritableTensor(value, value.detach().clone() if value.nbytes <= _COPIED else None))
            return
        if isinstance(value, np.ndarray) and not value.dtype.hasobject and value.nbytes <= _COMPARED:
            if id(value) not in self._seen:
                self._seen.add(id(value))
                self._arrays.append((value, value.copy()))
            return
        if isinstance(value, GENERATORS):
            self._generators.append(setting_back(value))
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


def put_back(tables: Sequence[dict[str, Any]], contents: Sequence[dict[str, Any]]) -> None:
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


def version_of(tensor: Tensor) -> int:
    """Count of writes to a tensor; inference tensors, which autograd does not know, are not counted."""
    return -1 if tensor.is_inference() else tensor._version
