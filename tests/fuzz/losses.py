"""Random losses with labels that fit them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 3
IGNORED = -100
Loss = Callable[[Any, Any], Tensor]


@dataclasses.dataclass(frozen=True)
class Task:
    """A loss with labels.

    Attributes:
        loss: of outputs and labels, a mean.
        labels: of all samples.
        weight: labels -> what a batch counts in the mean; its number of samples if none.
        normalizer: what :class:`landscape.Objective` is told of ``weight``; nothing where it is to know.
        refuses: as in :class:`~tests.fuzz.registry.Idiom`.
        accuracy: whether the share of right predictions is defined.
    """

    loss: Loss
    labels: Tensor
    weight: Callable[[Tensor], float] = len
    normalizer: Callable[[Any], float] | None = None
    refuses: Mapping[str, str] = dataclasses.field(default_factory=dict)
    accuracy: bool = False


Maker = Callable[[int, tuple[int, ...]], Task]
LOSSES: dict[str, Maker] = {}
_FISHER = {"fisher*": "single samples|per-sample|per_sample"}


def _loss(make: Maker) -> Maker:
    LOSSES[make.__name__] = make
    return make


def _classes(size: int, tokens: tuple[int, ...]) -> Tensor:
    return torch.randint(CLASSES, (size, *tokens))


def _some_ignored(labels: Tensor) -> Tensor:
    """With about a third ignored, never all."""
    hidden = torch.rand(labels.shape) < 0.3
    hidden.view(-1)[0] = False
    return labels.masked_fill(hidden, IGNORED)


def _class_weights() -> Tensor:
    return torch.tensor([0.5, 2.0, 1.25])


def _kept(labels: Tensor) -> float:
    return float((labels != IGNORED).sum())


def _weighed(labels: Tensor) -> float:
    kept = labels[labels != IGNORED].cpu()
    return float(_class_weights().double()[kept].sum())


@_loss
def cross_entropy(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(nn.CrossEntropyLoss(), _classes(size, tokens), accuracy=not tokens)


@_loss
def cross_entropy_weighted(size: int, tokens: tuple[int, ...]) -> Task:
    loss = nn.CrossEntropyLoss(weight=_class_weights())
    return Task(loss, _classes(size, tokens), _weighed, accuracy=not tokens)


@_loss
def cross_entropy_ignoring(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(nn.CrossEntropyLoss(), _some_ignored(_classes(size, tokens)), _kept, accuracy=not tokens)


@_loss
def cross_entropy_weighted_ignoring(size: int, tokens: tuple[int, ...]) -> Task:
    loss = nn.CrossEntropyLoss(weight=_class_weights())
    return Task(loss, _some_ignored(_classes(size, tokens)), _weighed, accuracy=not tokens)


@_loss
def cross_entropy_smoothed(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(nn.CrossEntropyLoss(label_smoothing=0.2), _classes(size, tokens), accuracy=not tokens)


@_loss
def cross_entropy_smoothed_weighted(size: int, tokens: tuple[int, ...]) -> Task:
    loss = nn.CrossEntropyLoss(weight=_class_weights(), label_smoothing=0.2)
    return Task(loss, _classes(size, tokens), _weighed, accuracy=not tokens)


@_loss
def cross_entropy_soft(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(nn.CrossEntropyLoss(), torch.randn(size, CLASSES, *tokens).softmax(1))


@_loss
def own_cross_entropy(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(lambda o, t: F.cross_entropy(o, t), _classes(size, tokens), accuracy=not tokens)


@_loss
def own_cross_entropy_weighted(size: int, tokens: tuple[int, ...]) -> Task:
    """Not a mean over samples, and the objective is not told."""
    weight = _class_weights()
    return Task(
        lambda o, t: F.cross_entropy(o, t, weight=weight.to(o)),
        _classes(size, tokens),
        _weighed,
        refuses={"*": "not a mean over samples|average"},
        accuracy=not tokens,
    )


@_loss
def own_cross_entropy_weighted_told(size: int, tokens: tuple[int, ...]) -> Task:
    weight = _class_weights()
    return Task(
        lambda o, t: F.cross_entropy(o, t, weight=weight.to(o)),
        _classes(size, tokens),
        _weighed,
        _weighed,
        accuracy=not tokens,
    )


@_loss
def own_cross_entropy_ignoring_told(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(
        lambda o, t: F.cross_entropy(o, t), _some_ignored(_classes(size, tokens)), _kept, _kept, {"fisher*": "."}
    )


@_loss
def negative_log_likelihood(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(nn.NLLLoss(), _classes(size, tokens), accuracy=not tokens)


@_loss
def own_log_likelihood_of_softmax(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(
        lambda o, t: -o.log_softmax(1).gather(1, t[:, None])[:, 0].mean(), _classes(size, tokens), accuracy=not tokens
    )


def _targets(size: int, tokens: tuple[int, ...]) -> Tensor:
    return torch.randn(size, CLASSES, *tokens)


@_loss
def squared_error(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(nn.MSELoss(), _targets(size, tokens))


@_loss
def own_squared_error(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(lambda o, t: ((o - t) ** 2).flatten(1).sum(1).mean(), _targets(size, tokens))


@_loss
def absolute_error(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(nn.L1Loss(), _targets(size, tokens))


@_loss
def huber(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(nn.HuberLoss(delta=0.7), _targets(size, tokens))


@_loss
def smooth_absolute_error(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(nn.SmoothL1Loss(beta=0.5), _targets(size, tokens))


@_loss
def own_log_cosh(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(lambda o, t: torch.log(torch.cosh(o - t)).mean(), _targets(size, tokens))


def _binary(size: int, tokens: tuple[int, ...]) -> Tensor:
    return (torch.rand(size, CLASSES, *tokens) > 0.5).float()


@_loss
def binary_with_logits(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(nn.BCEWithLogitsLoss(), _binary(size, tokens))


@_loss
def binary_with_positive_weight(size: int, tokens: tuple[int, ...]) -> Task:
    weight = torch.tensor([2.0, 0.5, 1.5]).view(-1, *[1] * len(tokens))
    return Task(nn.BCEWithLogitsLoss(pos_weight=weight), _binary(size, tokens))


@_loss
def binary_of_probabilities(size: int, tokens: tuple[int, ...]) -> Task:
    loss = nn.BCELoss()
    return Task(lambda o, t: loss(o.sigmoid() * 0.98 + 0.01, t), _binary(size, tokens))


@_loss
def poisson(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(nn.PoissonNLLLoss(), torch.randint(4, (size, CLASSES, *tokens)).float())


@_loss
def divergence(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(
        lambda o, t: F.kl_div(o.log_softmax(1), t, reduction="batchmean"),
        torch.randn(size, CLASSES, *tokens).softmax(1),
    )


@_loss
def soft_margin(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(nn.SoftMarginLoss(), _binary(size, tokens) * 2 - 1)


@_loss
def focal(size: int, tokens: tuple[int, ...]) -> Task:
    def loss(o: Tensor, t: Tensor) -> Tensor:
        values = F.cross_entropy(o, t, reduction="none")
        return ((1 - torch.exp(-values)) ** 2 * values).mean()

    return Task(loss, _classes(size, tokens), accuracy=not tokens)


@_loss
def quantile_loss(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(lambda o, t: torch.maximum(0.3 * (t - o), 0.7 * (o - t)).mean(), _targets(size, tokens))


class _Module(nn.Module):
    """A loss module of the user's own with a parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor([0.7, 1.3, 1.0]))

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        weight: Any = self.weight
        return ((outputs - labels) ** 2 * weight.to(outputs).view(-1, *[1] * (outputs.ndim - 2))).mean()


@_loss
def own_module(size: int, tokens: tuple[int, ...]) -> Task:
    return Task(_Module(), _targets(size, tokens))
