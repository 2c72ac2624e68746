"""Layers whose second derivatives torch gets wrong, in plain arithmetic instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Let a model's weight normalisation, whose fused backward pass has a wrong derivative (torch 2.13), be plain.

    >>> with twice_differentiable(nn.Linear(2, 2)):  # nothing to do
    ...     pass
    """
    if any(map(_normalises_weights, model.modules())):
        with PlainWeightNorm():
            yield
    else:
        yield


def _normalises_weights(module: nn.Module) -> bool:
    return type(module).__name__ == "_WeightNorm" or any(
        isinstance(hook, WeightNorm) for hook in module._forward_pre_hooks.values()
    )


class PlainWeightNorm(TorchFunctionMode):
    """While active, ``torch._weight_norm`` is made of operations that can be differentiated any number of times."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._weight_norm:
            return weight_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g·v/‖v‖, the norm over all axes but ``dim``, over all of them for −1 (Salimans & Kingma 2016, eq. 2).

    >>> weight_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([[10.0]]))
    tensor([[6., 8.]])
    """
    axes = tuple(range(v.ndim)) if dim == -1 else tuple(axis for axis in range(v.ndim) if axis != dim % v.ndim)
    if not axes:
        return g * v / v.abs()
    return v * (g / (v * v).sum(axes, keepdim=dim != -1).sqrt())
