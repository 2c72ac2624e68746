"""Layers rewritten while a product is traced: BatchNorm folded into the layer before it, others in plain arithmetic.

In eval mode BatchNorm is an affine map, so ``norm(conv(x, W))`` is ``conv(x, W′)``: no pass over the activations is
left of it, in any derivative. GroupNorm's backward pass has no forward-mode derivative in torch; written out it has.
What comes of it is compared with double backward before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from landscape.curvature.plain_norms import group_norm, layer_norm, scale_and_shift
from landscape.curvature.twice_differentiable import weight_norm

_LAYERS = (functional.conv1d, functional.conv2d, functional.conv3d, functional.linear)


class Rewriting(TorchFunctionMode):
    """While active, torch's functional layers are replaced by equal ones whose derivatives are cheaper or exist."""

    def __init__(self) -> None:
        super().__init__()
        self._layers: dict[int, tuple[Tensor, int, Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]] = {}
        self._rewrites: dict[Any, Callable[..., Tensor]] = {
            functional.batch_norm: self._batch_norm,
            functional.group_norm: group_norm,
            functional.layer_norm: layer_norm,
            torch._weight_norm: weight_norm,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._rewrites:
            return self._rewrites[func](*args, **kwargs)
        out = func(*args, **kwargs)
        if func in _LAYERS:
            self._layers[id(out)] = out, out._version, func, args, kwargs
        return out

    def _batch_norm(
        self,
        x: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training or mean is None or var is None:  # statistics of the batch, which eval mode can keep too
            return functional.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
        scale, shift = scale_and_shift(mean, var, weight, bias, eps)
        made = self._layers.get(id(x))
        if made is not None and made[1] == x._version and x.ndim == _bound(*made[3:])[1].ndim:  # a batch of outputs
            _, _, layer, args, kwargs = made
            source, kernel, offset, *rest = _bound(args, kwargs)
            kernel = kernel * scale.view(-1, *[1] * (kernel.ndim - 1))
            return layer(source, kernel, shift if offset is None else shift + offset * scale, *rest)
        shape = [1, -1] + [1] * (x.ndim - 2)
        return x * scale.view(shape) + shift.view(shape)


def _bound(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Input, weight, bias and what follows, however a layer was called."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, args, strict=False)) | kwargs
    defaults = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    wanted = names if len(given) > 3 else names[:3]
    return [given.get(name, defaults.get(name)) for name in wanted]
