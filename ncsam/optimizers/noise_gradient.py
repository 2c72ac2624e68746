"""Estimators of the gradient that label noise adds to a batch: NCSAM's g*, and what it must be compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ncsam.optimizers.first_pass import FirstPass
from ncsam.optimizers.in_place import length, of_length
from ncsam.optimizers.options import fixed, is_finite, option


class NoiseEstimate(NamedTuple):
    """An estimate of the noise gradient: ``vector`` (K,) and how many samples it is the mean over."""

    vector: Tensor
    picked: int


class Flips(NamedTuple):
    """Picked samples: ``rows`` of the batch (P,), and a temporary label for each, ``labels`` (P,)."""

    rows: Tensor
    labels: Tensor


class NoiseGradient(ABC):
    """Estimates the noise gradient of a batch from its first pass.

    Attributes:
        needs_true_labels, reuses_graph, features_of: as for :class:`ncsam.optimizers.perturbations.Perturbation`.
    """

    needs_true_labels = False
    reuses_graph = True
    features_of: str | None = None

    @abstractmethod
    def __call__(self, first: FirstPass) -> NoiseEstimate:
        """The estimate at the weights of ``first``, in the flat layout of ``first.gradient``."""


@dataclass(frozen=True)
class SimulatedNoise(NoiseGradient):
    """g* of the NCSAM paper: the gradient on samples that are given a likely wrong label (eq. 16–18).

    Of the n samples that count in the loss (those whose label it ignores do not), ⌊flip_ratio·n⌋ are drawn without
    replacement, with chances ∝ 1 / (1 + δ), where δ is the margin between their two largest logits. Each gets the class
    of its largest logit that is not its *observed* label. g* is the gradient of their mean loss, taken through the
    graph of the whole batch. "Without replacement" and "mean" are ours; the paper does not say.

    With ``uniform_picks`` chances are equal (the *random picks* control).
    """

    flip_ratio: float = option(0.4, "r_flip, share of the batch that g* is computed from, in [0, 1].")
    label_smoothing: float = option(
        0.0, "in the loss of g*, mass spread over the C − 1 other classes; 0 uses the training loss itself."
    )
    uniform_picks: bool = fixed(False)

    def __post_init__(self) -> None:
        check_share("flip_ratio", self.flip_ratio)
        check_share("label_smoothing", self.label_smoothing)

    def __call__(self, first: FirstPass) -> NoiseEstimate:
        flips = self.flips(first)
        return NoiseEstimate(self.gradient(first, flips), len(flips.rows))

    def flips(self, first: FirstPass) -> Flips:
        """The samples that are picked, and the temporary label of each."""
        seen = classified(first)
        count = int(self.flip_ratio * len(seen.rows) + 1e-9)  # 0.29 · 100 is 28.999… in binary
        chances = torch.ones_like(seen.logits[:, 0]) if self.uniform_picks else pick_chances(seen.logits)
        picked = draw(chances, count, first.generator)
        return Flips(seen.rows[picked], temporary_labels(seen.logits[picked], seen.labels[picked], seen.classes))

    def gradient(self, first: FirstPass, flips: Flips, *, keep_graph: bool = False) -> Tensor:
        """g* of these picks, (K,)."""
        loss_fn = SmoothedCrossEntropy(self.label_smoothing) if self.label_smoothing else None
        return first.gradient_of(flips.labels, flips.rows, loss_fn=loss_fn, keep_graph=keep_graph)


@dataclass(frozen=True)
class TrueNoise(NoiseGradient):
    """g_noise itself (the *oracle* control): mean gradient over the batch's wrong-labelled samples, observed labels.

    All wrong-labelled samples count, and the loss is the training loss. The options of the simulated noise are
    accepted, so that arms can share them, but have no effect.
    """

    flip_ratio: float = field(default=0.4, repr=False, metadata={"meaning": "no effect."})
    label_smoothing: float = field(default=0.0, repr=False, metadata={"meaning": "no effect."})
    needs_true_labels = True

    def __call__(self, first: FirstPass) -> NoiseEstimate:
        _, rows = clean_and_noisy_rows(first)
        return NoiseEstimate(first.gradient_of(first.labels[rows], rows), len(rows))


@dataclass(frozen=True)
class RandomNoise(NoiseGradient):
    """A Gaussian direction of the length that ``like`` has at this very step (the *random direction* control)."""

    like: NoiseGradient = field(default_factory=SimulatedNoise)

    @property
    def reuses_graph(self) -> bool:  # type: ignore[override]
        return self.like.reuses_graph

    def __call__(self, first: FirstPass) -> NoiseEstimate:
        vector, picked = self.like(first)
        seed = int(torch.randint(2**62, (), generator=first.generator))
        generator = torch.Generator(vector.device).manual_seed(seed)
        gaussian = torch.randn(vector.shape, generator=generator, device=vector.device, dtype=vector.dtype)
        return NoiseEstimate(of_length(length(vector), gaussian), picked)


def clean_and_noisy_rows(first: FirstPass) -> tuple[Tensor, Tensor]:
    """Rows of the batch that are labelled rightly, and those that are not; what the loss leaves out is in neither.

    A row of several labels is wrong if one of them is.

    Raises:
        ValueError: labels are no integer classes.
    """
    known = first.counted & first.counts(first.true_labels, "true_labels")
    wrong = ((first.labels != first.true_labels) & known).reshape(len(first.labels), -1).any(dim=1)
    right = known.reshape(len(first.labels), -1).any(dim=1) & ~wrong
    return right.nonzero().flatten(), wrong.nonzero().flatten()


def margins(logits: Tensor) -> Tensor:
    """δᵢ = zᵢ⁽¹⁾ − zᵢ⁽²⁾, the gap between the two largest logits, shape (B,) from (B, C) (eq. 16).

    >>> margins(torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, 1.0]])).tolist()
    [0.5, 3.0]
    """
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def pick_chances(logits: Tensor) -> Tensor:
    """pᵢ = (1 + δᵢ)⁻¹ / Σⱼ (1 + δⱼ)⁻¹: the less certain a prediction the likelier it is picked, shape (B,) (eq. 17).

    >>> pick_chances(torch.tensor([[1.0, 1.0], [3.0, 0.0]])).tolist()
    [0.800..., 0.200...]
    """
    weight = 1.0 / (1.0 + margins(logits.float()))
    return weight / weight.sum()


def draw(chances: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` distinct indices, drawn one after the other with the given chances among those left, shape (count,).

    The smallest of independent exponential times with rates ``chances`` are such a draw; the times come from the CPU
    generator, so that the same seed picks alike on any device.

    >>> sorted(draw(torch.tensor([0.2, 0.0, 0.3]), 2, torch.Generator().manual_seed(0)).tolist())
    [0, 2]
    """
    times = torch.empty(len(chances), dtype=torch.float32, device="cpu").exponential_(generator=generator)
    times = times.to(chances.device)
    return (times / chances).topk(count, largest=False).indices


def temporary_labels(logits: Tensor, observed: Tensor, classes: Tensor | None = None) -> Tensor:
    """ŷ*ᵢ = argmax over c ≠ ỹᵢ of zᵢ⁽ᶜ⁾: the likeliest class that is not the *observed* label, shape (B,) (eq. 18).

    Args:
        classes: (C,) bool, those that may be given: a label that the loss ignores is none of them; all if None.

    >>> temporary_labels(torch.tensor([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5]]), torch.tensor([0, 1])).tolist()
    [2, 0]
    """
    barred = torch.arange(logits.shape[1], device=logits.device) == observed[:, None]
    if classes is not None:
        barred = barred | ~classes
    return logits.masked_fill(barred, -torch.inf).argmax(dim=1)


@dataclass(frozen=True)
class SmoothedCrossEntropy:
    """Mean cross-entropy against 1 − smoothing on the label and smoothing / (C − 1) on each other class.

    This is the released NCSAM code's form; ``torch``'s ``label_smoothing`` spreads its mass over all C classes.

    >>> loss = SmoothedCrossEntropy(0.1)
    >>> round(float(loss(torch.tensor([[0.9, 0.05, 0.05]]).log(), torch.tensor([0]))), 4)
    0.3944
    """

    smoothing: float
    mean_over_rows = True

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_p = logits.log_softmax(dim=1)
        on_label = log_p.gather(1, labels[:, None]).squeeze(1)
        elsewhere = (log_p.sum(dim=1) - on_label) / (logits.shape[1] - 1)
        return -((1.0 - self.smoothing) * on_label + self.smoothing * elsewhere).mean()


class Classified(NamedTuple):
    """The n samples of a classification batch that count in its loss.

    Attributes:
        rows: their places in the batch, (n,).
        logits: (n, C).
        labels: observed, (n,).
        classes: which labels count in the loss, (C,) bool.
    """

    rows: Tensor
    logits: Tensor
    labels: Tensor
    classes: Tensor


def classified(first: FirstPass) -> Classified:
    """The samples that count; a ValueError unless there are logits (B, C) and integer labels (B,) in 0…C−1."""
    logits, labels = first.outputs, first.labels
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"outputs are {shape}, expected logits (batch, classes ≥ 2): let forward= return them; for other tasks use "
            "SAM"
        )
    if not isinstance(labels, Tensor) or labels.shape != logits.shape[:1] or labels.is_floating_point():
        got = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels are {got}, expected integer classes of shape ({len(logits)},)")
    rows = first.counted.nonzero().flatten()
    if int(first.counted_classes.sum()) < 2:
        raise ValueError("the loss ignores all classes but one, so that no other label can be given; use SAM")
    if len(rows) < len(labels):  # picking all of them would be a copy
        logits, labels = logits[rows], labels[rows]
    return Classified(rows, logits, labels, first.counted_classes)


def check_share(name: str, value: float) -> None:
    """A ValueError unless ``value`` is in [0, 1]."""
    if not (is_finite(value) and 0.0 <= value <= 1.0):
        raise ValueError(f"{name} is {value!r}, expected a share in [0, 1]")
