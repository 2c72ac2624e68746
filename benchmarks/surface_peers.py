"""A loss plane by other means: a loop written the obvious way, and published tools; for ``surface_cost.py``."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MODULES = {"loss-landscapes": "loss_landscapes", "landscaper": "landscaper.compute"}
DISTANCE = 0.2  # relative to the weights' norm, to which landscaper scales directions


def obvious(model: nn.Module, x: Tensor, y: Tensor, d1: list[Tensor], d2: list[Tensor], steps: int) -> np.ndarray:
    """Set the weights, loop over batches of 256, sum the losses."""
    start = [p.detach().clone() for p in model.parameters()]
    values = np.empty((steps, steps))
    with torch.no_grad():
        for i in range(steps):
            for j in range(steps):
                for p, w, a, b in zip(model.parameters(), start, d1, d2, strict=True):
                    p.copy_(w + i * a + j * b)
                total = 0.0
                for batch, labels in zip(x.split(256), y.split(256), strict=True):
                    total += nn.functional.cross_entropy(model(batch), labels, reduction="sum").item()
                values[i, j] = total / len(y)
        for p, w in zip(model.parameters(), start, strict=True):
            p.copy_(w)
    return values


def loss_landscapes(
    model: nn.Module, x: Tensor, y: Tensor, d1: list[Tensor], d2: list[Tensor], steps: int
) -> np.ndarray:
    """``planar_interpolation``; column i holds the points j = 1 … steps where i is even, 0 … steps - 1 where odd."""
    import loss_landscapes as peer
    from loss_landscapes.metrics import Loss

    ends = []
    for direction in (d1, d2):
        end = copy.deepcopy(model)
        with torch.no_grad():
            for p, d in zip(end.parameters(), direction, strict=True):
                p.add_(steps * d)
        ends.append(end)
    metric = Loss(nn.functional.cross_entropy, x, y)
    found: np.ndarray = peer.planar_interpolation(model, *ends, metric, steps, deepcopy_model=True)
    return found


def landscaper_directions(model: nn.Module, vectors: list[list[Tensor]], steps: int) -> list[list[Tensor]]:
    """What landscaper makes of directions: it rescales every tensor."""
    from landscaper.compute import get_model_norm, normalize_direction, scale_direction

    weights = [p.detach() for p in model.parameters()]
    made = []
    for vector in vectors:
        copied = normalize_direction([t.clone() for t in vector], weights)
        scale_direction(copied, ((get_model_norm(weights) * DISTANCE) / (steps / 2)) / get_model_norm(copied))
        made.append(copied)
    return made


def landscaper(model: nn.Module, x: Tensor, y: Tensor, d1: list[Tensor], d2: list[Tensor], steps: int) -> np.ndarray:
    """``compute_loss_landscape``; it starts steps // 2 below the centre, and adds noise to the largest value."""
    from landscaper.compute import compute_loss_landscape

    def scalar(network: nn.Module, data: Any) -> float:
        return nn.functional.cross_entropy(network(data[0]), data[1]).item()

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        values, _ = compute_loss_landscape(model, (x, y), [d1, d2], scalar, steps, DISTANCE, 2, "cpu")
    found: np.ndarray = values
    return found
