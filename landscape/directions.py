"""Directions in parameter space along which a surface is drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from landscape.parameters import ParameterLayout


def filter_normalized_direction(model: nn.Module, seed: int = 0) -> Tensor:
    """A Gaussian direction scaled filter by filter to the model's weights, flat, shape (K,).

    Every filter (slice along dim 0 of a tensor with at least two dims) is scaled to d_f·‖w_f‖ / (‖d_f‖ + 1e-10);
    tensors with fewer dims (biases, norm layers) get zero (Li et al. 2018, arXiv 1712.09913, §4). The draw depends
    on the seed and the shapes only, so models that differ in their weights share it. The global RNG is not used.

    >>> model = nn.Linear(3, 2)
    >>> d = filter_normalized_direction(model, seed=0)
    >>> bool(torch.allclose(d[:6].view(2, 3).norm(dim=1), model.weight.norm(dim=1)))
    True
    """
    layout = ParameterLayout(model)
    generator = torch.Generator().manual_seed(seed)
    direction = {}
    for name, weight in layout.unflatten(layout.weights(model)).items():
        # Drawn on the CPU in float64 whatever the model's device and dtype: the same seed, the same draw.
        draw = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        if weight.ndim < 2:
            direction[name] = torch.zeros_like(weight)
            continue
        draw_norms = draw.flatten(1).norm(dim=1)
        weight_norms = weight.double().cpu().flatten(1).norm(dim=1)
        scale = (weight_norms / (draw_norms + 1e-10)).view(-1, *[1] * (weight.ndim - 1))
        direction[name] = (draw * scale).to(weight.device, weight.dtype)
    return layout.flatten(direction)
