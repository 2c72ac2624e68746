"""Flat parameter vectors: one (K,) tensor for all trainable parameters of a model or some of them, and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.objective.isolation import exclusive


class ParameterLayout:
    """Positions of a model's trainable parameters in the flat vector.

    Parameters appear in the order of ``model.named_parameters()``, shared (tied) ones once, those with
    ``requires_grad=False`` not at all. A complex parameter counts as pairs of real ones.

    Raises:
        ValueError: the model has no trainable parameter, or its parameters lie on several devices.

    >>> layout = ParameterLayout(nn.Linear(3, 2))
    >>> layout.size, layout.names
    (8, ('weight', 'bias'))
    >>> {name: tuple(t.shape) for name, t in layout.unflatten(torch.zeros(8)).items()}
    {'weight': (2, 3), 'bias': (2,)}
    """

    def __init__(self, model: nn.Module) -> None:
        with exclusive(model):
            trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ValueError(
                f"{type(model).__name__} has no parameter with requires_grad=True; nothing to differentiate by"
            )
        devices = {p.device for p in trainable.values()}
        if len(devices) > 1:
            raise ValueError(
                f"parameters lie on several devices ({', '.join(sorted(map(str, devices)))}); move the model to one"
            )
        self.device = devices.pop()
        self._hold({n: (p.shape, p.dtype) for n, p in trainable.items()})

    def _hold(self, parameters: Mapping[str, tuple[torch.Size, torch.dtype]]) -> None:
        self.names = tuple(parameters)
        self.shapes = tuple(shape for shape, _ in parameters.values())
        self.dtypes = tuple(dtype for _, dtype in parameters.values())
        self.sizes = tuple(
            s.numel() * (2 if d.is_complex else 1) for s, d in zip(self.shapes, self.dtypes, strict=True)
        )
        self.size = sum(self.sizes)
        self.dtype = self.dtypes[0].to_real()
        for dtype in self.dtypes:
            self.dtype = torch.promote_types(self.dtype, dtype.to_real())

    def astype(self, dtype: torch.dtype) -> ParameterLayout:
        """The same layout of parameters that all have another dtype.

        >>> ParameterLayout(nn.Linear(3, 2)).astype(torch.float64).dtype
        torch.float64
        """
        layout = copy.copy(self)
        kinds = (dtype.to_complex() if own.is_complex else dtype for own in self.dtypes)
        layout._hold({n: (s, d) for n, s, d in zip(self.names, self.shapes, kinds, strict=True)})
        return layout

    def only(self, names: Sequence[str]) -> ParameterLayout:
        """The layout of some of these parameters, kept in their order.

        >>> ParameterLayout(nn.Linear(3, 2)).only(["bias"]).shapes
        (torch.Size([2]),)
        """
        layout = copy.copy(self)
        layout._hold(
            {n: (s, d) for n, s, d in zip(self.names, self.shapes, self.dtypes, strict=True) if n in set(names)}
        )
        return layout

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Concatenate named tensors to one (K,) vector (a copy); of a complex one, real and imaginary parts in turn."""
        return torch.cat([_real(tensors[name]).reshape(-1).to(self.dtype) for name in self.names])

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Cut a (K,) vector into named tensors of the parameters' shapes, see :meth:`shaped`."""
        if flat.shape != (self.size,):
            raise ValueError(f"flat vector has shape {tuple(flat.shape)}, expected ({self.size},)")
        parts = flat.split(self.sizes)
        return {
            name: self.shaped(part, shape, dtype)
            for name, part, shape, dtype in zip(self.names, parts, self.shapes, self.dtypes, strict=True)
        }

    @staticmethod
    def shaped(part: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A parameter of a stretch of a flat vector; a view where dtypes agree.

        Pairs at an odd place, which models too may take for complex numbers, get memory of their own.
        """
        own = part.to(dtype.to_real() if dtype.is_complex else dtype)
        if own.storage_offset() % 2 and own.numel() % 2 == 0:
            own = own.clone()
        return torch.view_as_complex(own.view(*shape, 2)) if dtype.is_complex else own.view(shape)

    def weights(self, model: nn.Module) -> Tensor:
        """The model's present weights as a detached (K,) copy."""
        with exclusive(model):
            current = dict(model.named_parameters())
            return self.flatten({name: current[name].detach() for name in self.names})

    def as_vector(self, values: Any) -> Tensor:
        """A (K,) array or tensor as a tensor of the layout's dtype and device.

        Raises:
            ValueError: it is complex, or of another shape.
        """
        if values.is_complex() if isinstance(values, Tensor) else np.iscomplexobj(values):
            raise ValueError("vector is complex, expected real numbers; a complex parameter has two of them an entry")
        vector = torch.as_tensor(values, dtype=self.dtype, device=self.device)
        if vector.shape != (self.size,):
            raise ValueError(f"vector has shape {tuple(vector.shape)}, expected ({self.size},): one entry a parameter")
        return vector


def _real(tensor: Tensor) -> Tensor:
    tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def matching(model: nn.Module, layout: ParameterLayout, patterns: Sequence[str]) -> tuple[str, ...]:
    """Those of the layout's parameters that any pattern matches, by its own name or by that of a module above it.

    Patterns are shell-style (``fnmatch``, upper and lower case distinguished); a tied parameter answers to each of its
    names.

    Raises:
        ValueError: a pattern matches nothing.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    >>> matching(model, ParameterLayout(model), ["0", "*.bias"])
    ('0.weight', '0.bias', '2.bias')
    """
    aliases = _aliases(model, layout)
    found = set()
    for pattern in patterns:
        hits = {n for n, known in aliases.items() if any(_matches(alias, pattern) for alias in known)}
        if not hits:
            raise ValueError(
                f"{pattern!r} matches no trainable parameter or module; there are {', '.join(layout.names)}"
            )
        found |= hits
    if not found:
        raise ValueError("no pattern given; name parameters or modules, such as 'layer1*'")
    return tuple(n for n in layout.names if n in found)


def layers(layout: ParameterLayout) -> dict[str, tuple[str, ...]]:
    """Modules that own parameters of the layout, in the model's order, each with the names of those.

    A tied parameter belongs to the first module that has it; one that the model itself owns, to ``""``.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    >>> layers(ParameterLayout(model))
    {'0': ('0.weight', '0.bias'), '2': ('2.weight', '2.bias')}
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in layout.names:
        owner = name.rpartition(".")[0]
        found[owner] = (*found.get(owner, ()), name)
    return found


def _aliases(model: nn.Module, layout: ParameterLayout) -> dict[str, list[str]]:
    """Every name that each of the layout's parameters has in the model."""
    known: dict[int, list[str]] = {}
    canonical = {id(p): n for n, p in model.named_parameters()}
    for alias, parameter in model.named_parameters(remove_duplicate=False):
        known.setdefault(id(parameter), []).append(alias)
    return {n: known[key] for key, n in canonical.items() if n in layout.names}


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    above = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return any(prefix == pattern or fnmatchcase(prefix, pattern) for prefix in above)
