"""Cross-entropy of many classes in little memory: a loss whose second derivative is made a few rows at a time.

The graph of torch's own cross-entropy, differentiated twice, holds about ten tensors of the size of the logits, which
for a language model of 50,000 words is more than all else. Here it holds the logits and their gradient, and what comes
of both is computed from softmax(z) = exp(z − logsumexp z) anew, some rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

MANY = 2**20  # logits, for which it is worth its calls
_ROWS = 2**20  # numbers of the rows that are computed at a time


class FewCopies(TorchFunctionMode):
    """While active, ``torch.nn.functional.cross_entropy`` of many logits and class labels is :func:`cross_entropy`.

    With class weights, label smoothing, probabilities as labels or another reduction than the mean it is torch's own.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.cross_entropy and _takes(*args, **kwargs):
            logits, labels = args[:2]
            return cross_entropy(logits, labels, kwargs.get("ignore_index", -100))
        return func(*args, **kwargs)


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """Mean cross-entropy of logits (n, classes, …) with labels (n, …), differentiable twice.

    >>> z, y = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True), torch.tensor([[0, 2]] * 4)
    >>> bool(torch.isclose(cross_entropy(z, y), functional.cross_entropy(z, y)))
    True
    >>> torch.autograd.gradgradcheck(lambda z: cross_entropy(z, y), z)
    True
    """
    rows, flat = logits.movedim(1, -1).flatten(0, -2), labels.flatten()
    counts = flat != ignore_index
    flat = torch.where(counts, flat, 0)
    outside = (flat < 0) | (flat >= rows.shape[1])
    if bool(outside.any()):
        raise IndexError(f"Target {int(flat[outside][0])} is out of bounds.")  # as torch says it
    differentiable = torch.is_grad_enabled() and rows.requires_grad
    losses: Tensor = _Losses.apply(rows, flat) if differentiable else _norms(rows) - _picked(rows, flat)
    return torch.where(counts, losses, 0).sum() / counts.sum()


def _takes(logits: Any, labels: Any, weight: Any = None, *other: Any, **kwargs: Any) -> bool:
    """Tell whether these arguments of torch's function are of the kind that is meant."""
    if not isinstance(logits, Tensor) or other or weight is not None or logits.ndim != labels.ndim + 1:
        return False
    plain = {"size_average": None, "reduce": None, "reduction": "mean", "label_smoothing": 0.0}
    asked = all(kwargs.get(name, value) == value for name, value in plain.items())
    many = logits.numel() >= MANY and logits.dtype in (torch.float32, torch.float64)
    transformed = torch._C._functorch.is_functorch_wrapped_tensor(logits)  # which has no place for a function of ours
    return asked and many and logits.ndim > 1 and not labels.is_floating_point() and not transformed


class _Losses(torch.autograd.Function):
    """logsumexp z − z_y of every row."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        norms = _norms(logits)
        ctx.save_for_backward(logits, labels, norms)
        return norms - _picked(logits, labels)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        return _Gradient.apply(slopes, *ctx.saved_tensors), None


class _Gradient(torch.autograd.Function):
    """s (softmax z − e_y) of every row, for its slope s."""

    @staticmethod
    def forward(ctx: Any, slopes: Tensor, logits: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        ctx.save_for_backward(slopes, logits, labels, norms)
        found = torch.empty_like(logits, memory_format=torch.contiguous_format)
        for at in _pieces(logits):
            torch.sub(logits[at], norms[at, None], out=found[at]).exp_().mul_(slopes[at, None])
        return found.scatter_add_(1, labels[:, None], -slopes[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor, Tensor, None, None]:
        slopes, logits, labels, norms = ctx.saved_tensors
        curved = torch.empty_like(logits, memory_format=torch.contiguous_format)
        means = torch.empty_like(slopes)
        for at in _pieces(logits):
            p = torch.sub(logits[at], norms[at, None], out=curved[at]).exp_()
            means[at] = (p * along[at]).sum(1)
            p.mul_(slopes[at, None]).mul_(along[at] - means[at, None])
        return means - _picked(along, labels), curved, None, None


def _norms(logits: Tensor) -> Tensor:
    """logsumexp z of every row."""
    return torch.cat([logits[at].logsumexp(1) for at in _pieces(logits)])


def _picked(rows: Tensor, labels: Tensor) -> Tensor:
    """The label's entry of every row."""
    return rows.gather(1, labels[:, None])[:, 0]


def _pieces(logits: Tensor) -> Iterator[slice]:
    """Slices of rows that together have all of them."""
    step = max(1, _ROWS // max(1, logits.shape[1]))
    return (slice(start, start + step) for start in range(0, len(logits), step))
