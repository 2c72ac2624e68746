"""Records of a step of a sharpness-aware optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class StepInfo:
    """Record of one step. Norms are global Euclidean norms, in the unit of the weights or of the gradient.

    Of a perturbation by groups, norms and cosine are means over the groups.

    Attributes:
        loss: L_B(w), before the step; under DDP of this rank's part.
        perturbed_loss: L_B(w + ε), equal to ``loss`` where nothing was perturbed.
        gradient_norm: ‖g_B‖ at w; of ``backward(closure)`` scaled as the closure scales its loss.
        rho: the nominal ρ.
        perturbation_norm: ‖ε‖ as applied; weights in half precision round it.
        wanted_norm: ‖ε‖ before that rounding.
        compensation_norm: s‖g*‖, 0 without compensation.
        cosine: between ε and SAM's direction g_B; NaN without ε.
        projected: whether the projection shortened ε.
        kept: the factor by which it did, which is also the share of SAM's part that is left; 1 if not projected.
        picked: samples that g* was computed from.
        skipped: why there was no update, None where there was one. Weights and buffers are then as they were.
        outputs: detached outputs of the unperturbed forward pass.
        labels: the labels as given.
        ignored: the label that the loss leaves out, beside negative ones; None where it names none.
    """

    loss: float
    perturbed_loss: float
    gradient_norm: float
    rho: float = 0.0
    perturbation_norm: float = 0.0
    compensation_norm: float = 0.0
    cosine: float = math.nan
    projected: bool = False
    kept: float = 1.0
    picked: int = 0
    skipped: str | None = None
    wanted_norm: float = 0.0
    outputs: Any = field(default=None, repr=False)
    labels: Any = field(default=None, repr=False)
    ignored: int | None = field(default=None, repr=False)

    @property
    def relative_perturbation(self) -> float:
        """‖ε‖ / ρ; NaN where ρ = 0."""
        return self.perturbation_norm / self.rho if self.rho else math.nan

    @property
    def relative_compensation(self) -> float:
        """s‖g*‖ / ρ; NaN where ρ = 0."""
        return self.compensation_norm / self.rho if self.rho else math.nan

    @cached_property
    def correct(self) -> int | None:
        """Predictions of the unperturbed pass that agree with labels that are not ignored; None for other tasks."""
        z, y = self.outputs, self.labels
        if not isinstance(z, Tensor) or not isinstance(y, Tensor) or y.is_floating_point() or z.dim() != y.dim() + 1:
            return None
        right = z.argmax(dim=1) == y
        return int((right if self.ignored is None else right & (y != self.ignored)).sum())


class Ascent(NamedTuple):
    """A perturbation (K,) and its numbers, on the host."""

    epsilon: Tensor
    picked: int
    loss: float
    gradient_norm: float
    perturbation_norm: float
    wanted_norm: float
    cosine: float
    compensation_norm: float
    kept: float

    @property
    def not_finite(self) -> str | None:
        """Say which quantity is not finite at w; None if all are."""
        if not math.isfinite(self.loss):
            return f"loss is {self.loss} at w"
        if not (math.isfinite(self.gradient_norm) and math.isfinite(self.perturbation_norm)):
            return f"gradient has norm {self.gradient_norm}, perturbation {self.perturbation_norm}, at w"
        return None

    def info(self, rho: float, perturbed_loss: float, skipped: str | None) -> StepInfo:
        """The record of the step, without its batch."""
        return StepInfo(
            loss=self.loss,
            perturbed_loss=perturbed_loss,
            gradient_norm=self.gradient_norm,
            rho=rho,
            perturbation_norm=self.perturbation_norm,
            wanted_norm=self.wanted_norm,
            compensation_norm=self.compensation_norm,
            cosine=self.cosine,
            projected=self.kept < 1.0,
            kept=self.kept,
            picked=self.picked,
            skipped=skipped,
        )


def merged(infos: Sequence[StepInfo], shares: Sequence[float]) -> StepInfo:
    """One record of the parts of a batch: losses weighted by the parts' shares, norms and cosines as plain means.

    Cosines are those of the parts that were perturbed. What has no mean is the first part's.

    >>> parts = [StepInfo(1.0, 2.0, 3.0, cosine=0.5), StepInfo(2.0, 3.0, 5.0)]
    >>> info = merged(parts, [0.25, 0.75])
    >>> info.loss, info.gradient_norm, info.cosine
    (1.75, 4.0, 0.5)
    """

    def mean(name: str) -> float:
        values = [value for info in infos if not math.isnan(value := getattr(info, name)) or name != "cosine"]
        return math.fsum(values) / len(values) if values else math.nan

    def total(name: str) -> float:
        return math.fsum(share * getattr(info, name) for info, share in zip(infos, shares, strict=True))

    return replace(
        infos[0],
        loss=total("loss"),
        perturbed_loss=total("perturbed_loss"),
        gradient_norm=mean("gradient_norm"),
        perturbation_norm=mean("perturbation_norm"),
        wanted_norm=mean("wanted_norm"),
        compensation_norm=mean("compensation_norm"),
        cosine=mean("cosine"),
        kept=mean("kept"),
        projected=any(info.projected for info in infos),
        picked=sum(info.picked for info in infos),
    )
