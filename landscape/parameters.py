"""Flat parameter vectors: one (K,) tensor for all trainable parameters of a model, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class ParameterLayout:
    """Where each trainable parameter of ``model`` sits in the flat vector.

    Parameters appear in the order of ``model.named_parameters()``, shared (tied) ones once, those with
    ``requires_grad=False`` not at all.

    Raises:
        ValueError: the model has no trainable parameter, or its parameters lie on several devices.

    >>> layout = ParameterLayout(nn.Linear(3, 2))
    >>> layout.size, layout.names
    (8, ('weight', 'bias'))
    >>> {name: tuple(t.shape) for name, t in layout.unflatten(torch.zeros(8)).items()}
    {'weight': (2, 3), 'bias': (2,)}
    """

    def __init__(self, model: nn.Module) -> None:
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
        self.names = tuple(trainable)
        self.shapes = tuple(p.shape for p in trainable.values())
        self.dtypes = tuple(p.dtype for p in trainable.values())
        self.sizes = tuple(p.numel() for p in trainable.values())
        self.size = sum(self.sizes)
        self.device = devices.pop()
        self.dtype = self.dtypes[0]
        for dtype in self.dtypes:
            self.dtype = torch.promote_types(self.dtype, dtype)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Concatenate named tensors to one (K,) vector (a copy)."""
        return torch.cat([tensors[name].reshape(-1).to(self.dtype) for name in self.names])

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Cut a (K,) vector into named tensors of the parameters' shapes; views where dtypes agree."""
        if flat.shape != (self.size,):
            raise ValueError(f"flat vector has shape {tuple(flat.shape)}, expected ({self.size},)")
        parts = flat.split(self.sizes)
        return {
            name: part.view(shape).to(dtype)
            for name, part, shape, dtype in zip(self.names, parts, self.shapes, self.dtypes, strict=True)
        }

    def weights(self, model: nn.Module) -> Tensor:
        """The model's present weights as a detached (K,) copy."""
        current = dict(model.named_parameters())
        return self.flatten({name: current[name].detach() for name in self.names})

    def as_vector(self, values: object) -> Tensor:
        """A (K,) array or tensor as a tensor of the layout's dtype and device."""
        vector = torch.as_tensor(values, dtype=self.dtype, device=self.device)
        if vector.shape != (self.size,):
            raise ValueError(f"vector has shape {tuple(vector.shape)}, expected ({self.size},): one entry a parameter")
        return vector
