"""Losses that do not see the scale of the logits."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from landscape.objective.objective import Loss, Objective


def with_normalized_logits(objective: Objective) -> Objective:
    """The same objective with every sample's logits centred over the classes and brought to unit Euclidean norm.

    A network that separates its data can lower cross-entropy, and shrink every sharpness, by scaling its logits up
    alone. Logit normalisation takes that freedom away (Andriushchenko et al. 2023, arXiv 2302.07011, §3; centred and
    divided by the ℓ2 norm as in their released code). The loss it leaves is another one, bounded away from zero:
    compare its values only with each other.

    Raises:
        ValueError: (on first use) the outputs are no tensor with a class axis, (samples, classes, …).

    >>> x, y = torch.randn(10, 3), torch.arange(10) % 3
    >>> model = torch.nn.Linear(3, 3)
    >>> obj = with_normalized_logits(Objective(model, torch.nn.CrossEntropyLoss(), (x, y)))
    >>> abs(obj.at(5 * obj.weights).loss() - obj.loss()) < 1e-6
    True
    """
    clone = copy.copy(objective)
    clone.loss_fn = _OfNormalizedLogits(objective.loss_fn)
    return clone


class _OfNormalizedLogits:
    """A loss of normalised logits; says, as the loss does, which label is ignored."""

    def __init__(self, loss_fn: Loss) -> None:
        self._loss_fn = loss_fn
        if hasattr(loss_fn, "ignore_index"):
            self.ignore_index = loss_fn.ignore_index

    def __call__(self, outputs: Any, labels: Any) -> Tensor:
        if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(
                f"outputs are {got}, expected logits (samples, classes ≥ 2); there is nothing to normalise"
            )
        centred = outputs - outputs.mean(dim=1, keepdim=True)
        return self._loss_fn(centred / torch.linalg.vector_norm(centred, dim=1, keepdim=True).clamp_min(1e-10), labels)
