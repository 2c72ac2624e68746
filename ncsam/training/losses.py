"""Losses to train with: cross-entropy and those that wrong labels are said to harm less."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from landscape._suggest import unknown
from landscape.objective.losses import ClassMean

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, C), labels (B,) int64) ↦ the mean over the batch, a scalar, in nats."""


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """−log p_y, or with smoothing the cross-entropy against (1 − s)·one-hot + s/C (Szegedy et al., arXiv 1512.00567).

    The mass s is spread over all C classes, the label's own included, as in ``torch.nn.CrossEntropyLoss``; the noise
    gradient of the released NCSAM code spreads its own over the C − 1 others.

    Args:
        smoothing: s, in [0, 1].

    >>> round(CrossEntropy()(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)  # log 2
    0.6931
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check(self.smoothing, "smoothing", 0, 1)

    @property
    def class_mean(self) -> ClassMean:
        """The mean that it takes, told so that no optimizer has to find it out."""
        return ClassMean(None, -100)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(_wide(logits), labels, label_smoothing=self.smoothing)


@dataclasses.dataclass(frozen=True)
class GeneralizedCrossEntropy:
    """(1 − p_y^q) / q: cross-entropy for q → 0, mean absolute error for q = 1 (Zhang & Sabuncu 2018, arXiv 1805.07836).

    This is the loss of its eq. 6, without the truncation of eq. 8 onwards.

    Args:
        q: in (0, 1]; the paper trains with 0.7.

    >>> round(GeneralizedCrossEntropy(q=1.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)  # 1 − ½
    0.5
    """

    q: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.q <= 1:
            raise ValueError(f"q is {self.q}, expected 0 < q ≤ 1; for q → 0 use ce")

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        # expm1, because 1 − p^q cancels where p is near 1, which is where a fitted sample is.
        return (-torch.expm1(self.q * _log_p(logits, labels)) / self.q).mean()


@dataclasses.dataclass(frozen=True)
class SymmetricCrossEntropy:
    """α·CE + β·RCE with the reverse cross-entropy RCE = −A (1 − p_y) (Wang et al. 2019, arXiv 1908.06112).

    RCE = −Σ_c p_c log ỹ_c swaps prediction and one-hot label; its log 0 is set to A.

    Args:
        alpha, beta: weights of the two terms, ≥ 0; the paper trains CIFAR-10 with 0.1 and 1, CIFAR-100 with 6 and 0.1.
        log_zero: A < 0. Code in circulation clamps the label at 1e-4 instead, which is A = −9.21.

    >>> loss = SymmetricCrossEntropy(alpha=0.0, beta=1.0)
    >>> round(loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)  # 4 · ½
    2.0
    """

    alpha: float = 0.1
    beta: float = 1.0
    log_zero: float = -4.0

    def __post_init__(self) -> None:
        _check(self.alpha, "alpha", 0, math.inf)
        _check(self.beta, "beta", 0, math.inf)
        if not (math.isfinite(self.log_zero) and self.log_zero < 0):
            raise ValueError(f"log_zero is {self.log_zero}, expected a finite number < 0")

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_p = _log_p(logits, labels)
        reverse = self.log_zero * torch.expm1(log_p)  # −A (1 − p_y)
        return (reverse * self.beta - log_p * self.alpha).mean()


@dataclasses.dataclass(frozen=True)
class EarlyLearning:
    """CE + λ·mean log(1 − ⟨p, t⟩), t the running mean of a sample's predictions p (ELR; Liu et al., arXiv 2007.00151).

    t ← β t + (1 − β) p/Σp at each step, from 0, before it is used; p is clamped to 1e-4 … 1 − 1e-4, as in the authors'
    code, and no gradient goes through t. So it is a loss of a batch of known samples: see :meth:`of_batch`.

    Args:
        weight: λ ≥ 0; the paper trains CIFAR-10 with symmetric noise with 3.
        beta: β in [0, 1); there 0.7.

    >>> targets, both = torch.zeros(5, 2), torch.tensor([0, 3])
    >>> loss = EarlyLearning(weight=3.0, beta=0.7).of_batch(targets, both)
    >>> value = loss(torch.zeros(2, 2), torch.tensor([0, 1]))
    >>> torch.allclose(targets[both], torch.tensor(0.15))  # (1 − 0.7) · ½
    True
    >>> round(value.item(), 4)  # log 2 + 3 log(1 − 0.15)
    0.2056
    """

    weight: float = 3.0
    beta: float = 0.7

    def __post_init__(self) -> None:
        _check(self.weight, "weight", 0, math.inf)
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta is {self.beta}, expected a number in [0, 1)")

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        raise ValueError("the loss elr keeps a memory of every sample; use it with `landscape train` and sweeps only")

    def of_batch(self, targets: Tensor, index: Tensor) -> Loss:
        """The loss of one batch, whose first evaluation moves the targets of its samples.

        Args:
            targets: t of all training samples, (n, C), changed in place.
            index: which of them the batch has, (B,).
        """
        moved = False

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            nonlocal moved
            p = _wide(logits).softmax(dim=1).clamp(1e-4, 1 - 1e-4)
            if not moved:
                q, before = p.detach() / p.detach().sum(dim=1, keepdim=True), targets[index]
                after = self.beta * before + (1 - self.beta) * q
                # A step with such outputs is skipped, and should leave nothing behind.
                targets[index] = after.where(after.isfinite().all(dim=1, keepdim=True), before)
                moved = True
            regularization = torch.log1p(-(targets[index] * p).sum(dim=1)).mean()
            return functional.cross_entropy(_wide(logits), labels) + self.weight * regularization

        return loss


_Known = type[CrossEntropy | GeneralizedCrossEntropy | SymmetricCrossEntropy | EarlyLearning]
_SPELLINGS: dict[str, tuple[_Known, str, range]] = {
    "ce": (CrossEntropy, "ce", range(1)),
    "smooth": (CrossEntropy, "smooth:SHARE", range(1, 2)),
    "gce": (GeneralizedCrossEntropy, "gce or gce:Q", range(2)),
    "elr": (EarlyLearning, "elr or elr:WEIGHT,BETA", range(3)),
    "sce": (SymmetricCrossEntropy, "sce or sce:ALPHA,BETA[,LOG_ZERO]", range(4)),
}


def parse(spec: str) -> Loss:
    """The loss spelled ``spec``.

    =================================  ===========================================================
    ``ce``                             cross-entropy
    ``smooth:0.1``                     :class:`CrossEntropy` with label smoothing
    ``gce`` or ``gce:0.7``             :class:`GeneralizedCrossEntropy`
    ``sce`` or ``sce:0.1,1.0[,-4]``    :class:`SymmetricCrossEntropy`
    ``elr`` or ``elr:3,0.7``           :class:`EarlyLearning`
    =================================  ===========================================================

    Raises:
        ValueError: a spelling that is not in the table, or a number out of range.

    >>> parse("sce:6,0.1")
    SymmetricCrossEntropy(alpha=6.0, beta=0.1, log_zero=-4.0)
    """
    kind, _, rest = spec.partition(":")
    if kind not in _SPELLINGS:
        raise ValueError(unknown("loss", kind, _SPELLINGS))
    make, usage, counts = _SPELLINGS[kind]
    try:
        numbers = [float(text) for text in rest.split(",")] if rest else []
    except ValueError:
        raise ValueError(f"loss {spec!r} does not hold numbers; spell it {usage}") from None
    if len(numbers) not in counts or (kind in ("sce", "elr") and len(numbers) == 1):
        raise ValueError(f"loss {spec!r} has {len(numbers)} numbers; spell it {usage}")
    try:
        return make(*numbers)
    except ValueError as error:
        raise ValueError(f"loss {spec!r}: {error}") from None


def _log_p(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each label, (B,)."""
    return _wide(logits).log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1)


def _wide(logits: Tensor) -> Tensor:
    """bfloat16 has 8 bits of mantissa: good for a product, not for a logarithm of what is left to 1."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _check(value: float, name: str, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} is {value}, expected {'a number ≥ 0' if math.isinf(high) else 'a share in [0, 1]'}")
