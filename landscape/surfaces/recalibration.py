"""BatchNorm statistics recomputed at every point of a surface, instead of those of the trained weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.objective.evaluation.evaluate import Forward
from landscape.objective.objective import Objective
from landscape.objective.sources import labels_of, length, to_model

SAMPLES = 1024


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers of a model that have running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


class Recalibration:
    """Recompute the running statistics of a model's BatchNorm layers where it is.

    It is a ``prepare`` for :meth:`landscape.Objective.along`.

    The statistics are the mean over micro-batches of equal size, as ``torch.optim.swa_utils.update_bn`` takes it, on
    evenly spaced samples of the source of the objective's first view: the same at every point.

    Args:
        objective: whose model and data.
        samples: how many to use at most; rounded down to whole micro-batches where there are several.

    Attributes:
        samples: how many are used.

    Raises:
        ValueError: the model has no BatchNorm layer with running statistics, ``samples`` or the size of a micro-batch
            is less than 2, or the samples make no micro-batches of equal size.
    """

    def __init__(self, objective: Objective, samples: int = SAMPLES) -> None:
        if samples < 2:
            raise ValueError(f"BatchNorm statistics need at least 2 samples, got {samples}")
        self._layers = batch_norms(objective.model)
        if not self._layers:
            raise ValueError("the model has no BatchNorm layer with running statistics; use batchnorm='frozen'")
        source = objective.source_of(objective.views[0])
        count = min(samples, source.size)
        size = min(objective.batch_size, count)
        if size < 2:
            raise ValueError("micro-batches of one sample give no BatchNorm statistics; take a larger batch_size")
        self.samples = count // size * size
        mask = torch.zeros(source.size, dtype=torch.bool)
        mask[torch.linspace(0, source.size - 1, self.samples, dtype=torch.float64).round().long()] = True
        batches = source.batched(size).picked(mask, size)
        if any(length(labels_of(batch)) != size for batch in batches):
            raise ValueError(
                "the data are batches of different shapes, which give no micro-batches of equal size for BatchNorm "
                "statistics; pad all alike, or keep the statistics that the model has"
            )
        self._batches: list[Any] = [to_model(batch, objective.layout, objective.memory_format) for batch in batches]

    def __call__(self, forward: Forward) -> None:
        momenta = [layer.momentum for layer in self._layers]
        try:
            for layer in self._layers:
                layer.reset_running_stats()
                layer.momentum = None  # the plain mean over micro-batches
                nn.Module.train(layer)
            for batch in self._batches:
                forward(batch)
        finally:
            for layer, momentum in zip(self._layers, momenta, strict=True):
                layer.momentum = momentum
                nn.Module.eval(layer)
