"""Normalising layers in plain arithmetic, where torch's own derivatives of second derivatives are wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class PlainNorms(TorchFunctionMode):
    """While active, normalisation layers are made of operations that have every derivative.

    The fused ones of layers and instances keep mean and deviation of their inputs as constants (torch 2.13), so that a
    second derivative by forward mode, or of single samples by backward passes, is wrong where that by double backward
    of one loss is right; that of groups has no forward mode. That of batches is right, but its forward mode computes
    derivatives of statistics that stay as they are, for half of the time of a whole network.

    >>> x = torch.tensor([[1.0, 3.0]])
    >>> with PlainNorms():
    ...     torch.nn.functional.layer_norm(x, [2], eps=0.0)
    tensor([[-1.,  1.]])
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _PLAIN.get(func, func)(*args, **(kwargs or {}))


def _standardised(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _by_channel(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (1, -1, *[1] * (x.ndim - 2))
    return _affine(x, *(None if part is None else part.view(shape) for part in (weight, bias)))


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Compute ``torch.layer_norm`` in plain arithmetic."""
    return _affine(_standardised(x, tuple(range(-len(normalized_shape), 0)), eps), weight, bias)


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Compute ``functional.group_norm`` in plain arithmetic."""
    groups = x.reshape(len(x), num_groups, -1)
    return _by_channel(_standardised(groups, (2,), eps).reshape(x.shape), weight, bias)


def _instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    if not use_input_stats:
        return torch.instance_norm(
            x, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn_enabled
        )
    return _by_channel(_standardised(x, tuple(range(2, x.ndim)), eps), weight, bias)


def _functional_instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    return _instance_norm(x, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, True)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute ``functional.batch_norm`` with running statistics in plain arithmetic; torch's own with the batch's."""
    if training or running_mean is None or running_var is None:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return _by_channel(x, *scale_and_shift(running_mean, running_var, weight, bias, eps))


def scale_and_shift(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Factor and summand of every channel, (C,) each, by which batch normalisation with running statistics acts.

    >>> scale_and_shift(torch.tensor([1.0]), torch.tensor([4.0]), None, None, 0.0)
    (tensor([0.5000]), tensor([-0.5000]))
    """
    scale = torch.rsqrt(var + eps) if weight is None else torch.rsqrt(var + eps) * weight
    return scale, -mean * scale if bias is None else bias - mean * scale


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    return batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


_PLAIN: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    functional.layer_norm: layer_norm,
    functional.group_norm: group_norm,
    functional.instance_norm: _functional_instance_norm,
    functional.batch_norm: batch_norm,
    torch.batch_norm: _batch_norm,
    torch.layer_norm: layer_norm,
    torch.instance_norm: _instance_norm,
}
