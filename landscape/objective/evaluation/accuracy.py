"""The accuracy that belongs to a loss, where there is one: observed from its gradient, never from shapes alone."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import torch
from torch import Tensor, nn

from landscape.objective.losses import MeanLoss, Metric, NormalizedLogits
from landscape.objective.sources import select

_SAMPLES, _NUMBERS = 8, 2**22  # that the gradient is looked at on, at most
_FAR = 3.0  # logits that no loss of targets 0 and 1 takes for right on the wrong side


def accuracy_of(criterion: MeanLoss, outputs: Tensor, labels: Tensor) -> Metric | None:
    """The share of right predictions that a loss belongs to, or none where it is unknown.

    Labels that are classes belong to logits with one axis more, over the classes: the axis along which the loss's
    gradient sums up to zero, while only the entry of the label has a negative one, as that of cross-entropy. Labels 0
    and 1 belong to one logit each where the gradient pushes it to the label's side, wherever it is. Labels that the
    loss ignores do not count.

    >>> logits, labels = torch.tensor([[2.0], [-1.0]]), torch.tensor([1, 1])
    >>> loss = MeanLoss.of(lambda o, t: nn.functional.binary_cross_entropy_with_logits(o[:, 0], t.float()))
    >>> accuracy_of(loss, logits, labels)(logits, labels)
    tensor([1., 0.])
    """
    if not outputs.is_floating_point() or labels.is_complex() or outputs.ndim == 0:
        return None
    while isinstance(criterion.fn, NormalizedLogits):  # has the same order of classes
        criterion = dataclasses.replace(criterion, fn=criterion.fn.loss_fn)
    fn = criterion.fn
    if isinstance(fn, nn.CrossEntropyLoss | nn.NLLLoss):
        right = not labels.is_floating_point() and outputs.ndim == labels.ndim + 1
        return partial(_of_classes, axis=1, ignored=fn.ignore_index) if right else None
    few = _few(outputs, labels)
    if outputs.ndim == labels.ndim + 1 and not labels.is_floating_point():
        for axis in dict.fromkeys((1, outputs.ndim - 1)):
            rest = (*outputs.shape[:axis], *outputs.shape[axis + 1 :])
            if rest == tuple(labels.shape) and _scores_classes(criterion, *few, axis):
                return partial(_of_classes, axis=axis, ignored=None)
    one_each = not labels.is_floating_point() and outputs.shape in (labels.shape, (*labels.shape, 1))
    if one_each and bool(((labels == 0) | (labels == 1)).all()) and _scores_two_classes(criterion, *few):
        return _of_two_classes
    return None


def _few(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    count = len(outputs)
    rows = torch.arange(min(count, _SAMPLES, max(1, _NUMBERS * count // max(1, outputs.numel()))))
    return select(outputs, rows, count), select(labels, rows, len(labels))


def _gradient(criterion: MeanLoss, outputs: Tensor, labels: Tensor) -> Tensor | None:
    """The loss's gradient in the outputs; none where it takes no such outputs."""
    leaf = outputs.detach().requires_grad_()
    try:
        with torch.enable_grad():
            loss = criterion(leaf, labels)
            (found,) = torch.autograd.grad(loss, leaf)
    except Exception:  # whatever a loss may raise on outputs that it does not expect
        return None
    return found if bool(torch.isfinite(found).all()) else None


def _random(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)


def _scores_classes(criterion: MeanLoss, outputs: Tensor, labels: Tensor, axis: int) -> bool:
    gradient = _gradient(criterion, _random(outputs), labels)
    if gradient is None or bool((labels >= outputs.shape[axis]).any()):
        return False
    counted = labels >= 0
    own = gradient.gather(axis, labels.clamp_min(0).long().unsqueeze(axis)).squeeze(axis)
    size, total = gradient.abs().sum(axis), gradient.sum(axis).abs()
    balanced = total <= torch.finfo(gradient.dtype).eps ** 0.5 * size
    others = (gradient < 0).sum(axis) <= 1
    return bool(counted.any() and (own[counted] < 0).all() and (balanced & others).all() and not size[~counted].any())


def _scores_two_classes(criterion: MeanLoss, outputs: Tensor, labels: Tensor) -> bool:
    sides = torch.where(_random(outputs) > 0, _FAR, -_FAR).to(outputs)
    wanted = torch.where(labels.reshape(outputs.shape) == 1, -1.0, 1.0).to(outputs)
    gradients = [_gradient(criterion, s, labels) for s in (sides, -sides)]
    return all(g is not None and bool((g * wanted > 0).all()) for g in gradients)


def _of_classes(outputs: Tensor, labels: Tensor, *, axis: int, ignored: int | None) -> Tensor:
    counted = labels >= 0 if ignored is None else labels != ignored
    right = (outputs.argmax(axis) == labels).float()
    return right.masked_fill(~outputs.amax(axis).isfinite(), math.nan)[counted]  # then nothing is predicted


def _of_two_classes(outputs: Tensor, labels: Tensor) -> Tensor:
    outputs = outputs.reshape(labels.shape)
    return ((outputs > 0) == (labels == 1)).float().masked_fill(outputs.isnan(), math.nan)
