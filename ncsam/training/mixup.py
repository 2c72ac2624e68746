"""Mixup: training on mixtures of two samples of a batch and of their losses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ncsam.training.losses import Loss


def mixed(x: Tensor, labels: Tensor, loss_fn: Loss, share: float, partner: Tensor) -> tuple[Tensor, Loss]:
    """Inputs share·x + (1 − share)·x[partner], and the loss that mixes those of both labels alike.

    Zhang et al. 2018, arXiv 1710.09412, as in their code: one share and one permutation a batch; the loss of a mixture
    is share·L(z, y) + (1 − share)·L(z, y[partner]), which for cross-entropy is the loss against the mixed labels.

    Args:
        x: inputs, (B, ...).
        labels: observed, (B,).
        share: of each sample itself, in [0, 1].
        partner: permutation of the batch, (B,).

    >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    >>> inputs, loss = mixed(x, y, torch.nn.functional.cross_entropy, 0.75, torch.tensor([1, 0]))
    >>> inputs.tolist()
    [[0.25], [0.75]]
    >>> round(loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), y).item(), 4)  # 0.75 log(1 + 1/e) + 0.25 log(1 + e)
    0.5633
    """
    other = labels[partner]

    def loss(logits: Tensor, observed: Tensor) -> Tensor:
        return share * loss_fn(logits, observed) + (1 - share) * loss_fn(logits, other)

    return share * x + (1 - share) * x[partner], loss


class Mixtures:
    """Draws of an epoch's mixtures, a function of (seed, epoch) alone, so that resuming needs no state.

    Args:
        alpha: of the Beta(alpha, alpha) that shares are drawn from, > 0; the paper trains CIFAR-10 with 1.
    """

    def __init__(self, alpha: float, seed: int, epoch: int) -> None:
        self._alpha, self._draw = alpha, np.random.default_rng([seed, epoch, 1])  # [seed, epoch] draws the order

    def next(self, size: int) -> tuple[float, Tensor]:
        """The share and the partners of the next batch, which has ``size`` samples."""
        share = float(self._draw.beta(self._alpha, self._alpha))
        return share, torch.from_numpy(self._draw.permutation(size))
