"""Perturbations ε of SAM, NCSAM and their controls, one small class each."""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ncsam.optimizers.first_pass import FirstPass
from ncsam.optimizers.in_place import length, of_length, scaled
from ncsam.optimizers.noise_gradient import NoiseGradient, SimulatedNoise, clean_and_noisy_rows
from ncsam.optimizers.options import fixed, is_finite, option


def paper(t: float) -> float:
    """min(1, 2 t² (3 − 2t)): a smooth rise from 0 that reaches 1 at t = ½ (NCSAM, eq. 15, without its factor κ).

    >>> paper(0.0), paper(0.25), paper(0.5), paper(1.0)
    (0.0, 0.3125, 1.0, 1.0)
    """
    return min(1.0, 2.0 * t * t * (3.0 - 2.0 * t))


def linear(t: float) -> float:
    """min(1, 2t): a straight rise that, like the paper's, reaches 1 at t = ½ (ours).

    >>> linear(0.25), linear(0.75)
    (0.5, 1.0)
    """
    return min(1.0, 2.0 * t)


def constant(t: float) -> float:
    """1 throughout (ours): the compensation without a schedule.

    >>> constant(0.1)
    1.0
    """
    return 1.0


Descent = Literal["all", "logits", "jacobian"]

SCHEDULES: dict[str, Callable[[float], float]] = {"paper": paper, "linear": linear, "constant": constant}
"""Schedules by name; each maps t = epoch / epochs in [0, 1], epochs counted from 1, to [0, 1]."""


@dataclass(slots=True)
class Perturbed:
    """A perturbation and how it came about; scalars are 0-dim tensors, so that nothing waits for an accelerator.

    Attributes:
        epsilon: ε, shape (K,).
        compensation_norm: s‖g*‖, the length of what was added to SAM's perturbation.
        kept: factor in (0, 1] by which the projection onto the ρ-ball shortened ε.
        picked: samples that g* was computed from.
    """

    epsilon: Tensor
    compensation_norm: Tensor | float = 0.0
    kept: Tensor | float = 1.0
    picked: int = 0


class Perturbation(ABC):
    """Turns the first pass of a step into the ε at which the step's gradient is taken.

    A new one is a dataclass, whose fields are the options of its optimizer, and overrides :meth:`__call__`; see
    ``docs/extending.md``.

    Attributes:
        rho: ρ, the nominal length of ε, in the unit of the weights.
        needs_progress, needs_true_labels: whether ``step`` must be given them.
        needs_batch: whether more of the first pass is used than its gradient, weights and step; where not,
            ``step(closure)`` works.
        draws: whether ``first.generator`` is used, so that the optimizer takes a seed.
        reuses_graph: whether :meth:`FirstPass.gradient_of` is used, so that the graph must be kept.
        features_of: name of the layer whose input ``first.features`` shall hold; "" for the last ``nn.Linear``.
        group: samples that share an ε, in groups of the batch that each go through the model alone; all of it if none.
        descent: what of the descent's gradient Σ_i J_iᵀ ∂ℓ_i/∂z_i is taken at w + ε, the rest being taken at w:
            "all", the "logits" (∂ℓ_i/∂z_i) or the "jacobian" (J_i = ∂z_i/∂w).
        adds_to_sam: whether ε contains SAM's, so that a projection which discards most of it deserves a warning.
    """

    rho: float = 0.0
    needs_progress = False
    needs_true_labels = False
    needs_batch = True
    draws = False
    reuses_graph = False
    features_of: str | None = None
    group: int | None = None
    descent: ClassVar[Descent] = "all"
    adds_to_sam = False

    def active(self, progress: float | None) -> bool:
        """Tell whether there is anything to perturb; otherwise the base optimizer steps alone, at its own price."""
        return self.rho > 0

    @abstractmethod
    def __call__(self, first: FirstPass) -> Perturbed:
        """ε at the weights of ``first``."""


@dataclass(frozen=True)
class NoPerturbation(Perturbation):
    """ε = 0: the base optimizer alone."""

    needs_batch = False

    def active(self, progress: float | None) -> bool:
        return False

    def __call__(self, first: FirstPass) -> Perturbed:
        return Perturbed(torch.zeros_like(first.gradient))


@dataclass(frozen=True, repr=False)
class SharpnessAscent(Perturbation):
    """ε = ρ g / ‖g‖, the steepest ascent within the ρ-ball (SAM; Foret et al. 2021, arXiv 2010.01412, eq. 2).

    With ``adaptive`` it is :class:`AdaptiveAscent`, to which alone ``eta`` matters.
    """

    rho: float = option(0.05, "ρ = ‖ε‖; with ``adaptive`` ρ = ‖T⁻¹ε‖, another unit (Kwon et al. use 0.5 and more).")
    _: KW_ONLY
    adaptive: bool = option(
        False, "ε = ρ T² g/‖T g‖ with T = |w| + eta, elementwise (Kwon et al. 2021, arXiv 2102.11600)."
    )
    eta: float = option(0.01, "only with ``adaptive``.")
    needs_batch = False

    def __post_init__(self) -> None:
        _check_size("rho", self.rho)
        _check_size("eta", self.eta)

    def __call__(self, first: FirstPass) -> Perturbed:
        if self.adaptive:
            return AdaptiveAscent(self.rho, eta=self.eta)(first)
        return Perturbed(of_length(self.rho, first.gradient))

    def __repr__(self) -> str:  # by which saved states know their kind: what has an effect, and nothing else
        return repr(AdaptiveAscent(self.rho, eta=self.eta)) if self.adaptive else f"SharpnessAscent(rho={self.rho!r})"


@dataclass(frozen=True)
class AdaptiveAscent(Perturbation):
    """ε = ρ T² g / ‖T g‖ with T = |w| + η, elementwise (adaptive SAM; Kwon et al. 2021, arXiv 2102.11600, eq. 10).

    ρ bounds ‖T⁻¹ε‖, not ‖ε‖. η keeps weights that are zero from being left out.
    """

    rho: float = option(0.5, "ρ = ‖T⁻¹ε‖, T = |w| + eta elementwise; another unit than SAM's.")
    _: KW_ONLY
    eta: float = option(0.01, "η, keeps weights that are zero from being left out.")
    needs_batch = False

    def __post_init__(self) -> None:
        _check_size("rho", self.rho)
        _check_size("eta", self.eta)

    def __call__(self, first: FirstPass) -> Perturbed:
        scale = first.weights().abs_().add_(self.eta)
        return Perturbed(of_length(self.rho, scaled(first.gradient).vector * scale).mul_(scale))


@dataclass(frozen=True)
class GroupwiseAscent(Perturbation):
    """ε_k = ρ g_k / ‖g_k‖ of each group k of m samples: m-SAM (Foret et al. 2021, arXiv 2010.01412, on m-sharpness).

    The step descends with the mean over the groups of ∇L_k(w + ε_k), each group counting what it weighs in the loss.
    """

    rho: float = option(0.05, "ρ = ‖ε_k‖.")
    _: KW_ONLY
    m: int = option(1, "samples of a group; a batch that m does not divide is cut into equal groups of fewer.")

    def __post_init__(self) -> None:
        _check_size("rho", self.rho)
        _check_group(self.m)

    @property
    def group(self) -> int:  # type: ignore[override]
        return self.m

    def __call__(self, first: FirstPass) -> Perturbed:
        return Perturbed(of_length(self.rho, first.gradient))


@dataclass(frozen=True)
class LogitAscent(Perturbation):
    """ε of SAM, whose effect is left to the loss's slope in the logits (L-SAM; Baek et al. 2024, arXiv 2405.03676).

    The step descends with Σ_i J_i(w)ᵀ ∂ℓ_i/∂z (w + ε): samples are weighted as SAM weights them, by their logits at
    w + ε, and the network's Jacobian stays that of w.
    """

    rho: float = option(0.05, "ρ = ‖ε‖.")
    _: KW_ONLY
    m: int | None = option(None, "samples that share an ε, as in m-SAM (Baek et al. take 1); none: the whole batch.")
    descent: ClassVar[Descent] = "logits"

    def __post_init__(self) -> None:
        _check_size("rho", self.rho)
        if self.m is not None:
            _check_group(self.m)

    @property
    def group(self) -> int | None:  # type: ignore[override]
        return self.m

    def __call__(self, first: FirstPass) -> Perturbed:
        return Perturbed(of_length(self.rho, first.gradient))


@dataclass(frozen=True)
class JacobianAscent(LogitAscent):
    """ε of SAM, whose effect is left to the network's Jacobian (J-SAM; Baek et al. 2024, arXiv 2405.03676).

    The step descends with Σ_i J_i(w + ε)ᵀ ∂ℓ_i/∂z (w): samples are weighted as without SAM.
    """

    descent: ClassVar[Descent] = "jacobian"


@dataclass(frozen=True)
class TrueLabelAscent(Perturbation):
    """ε = ρ g(y) / ‖g(y)‖ with the *true* labels y: what perfect compensation would give (*clean direction*)."""

    rho: float = option(0.05, "ρ = ‖ε‖.")
    needs_true_labels = True
    reuses_graph = True

    def __post_init__(self) -> None:
        _check_size("rho", self.rho)

    def __call__(self, first: FirstPass) -> Perturbed:
        # A sample that the training loss leaves out stays out, whatever its true label.
        counted, true = first.counted, first.true_labels
        first.counts(true, "true_labels")
        labels = true if counted.all() else true.where(counted, first.labels)
        return Perturbed(of_length(self.rho, first.gradient_of(labels)))


@dataclass(frozen=True)
class CleanPartAscent(Perturbation):
    """ε = ρ g_clean / ‖g_clean‖, g_clean the mean gradient over the batch's rightly labelled samples.

    That is the direction which the paper's eq. 9 calls clean; ε = 0 where no sample of the batch is labelled rightly.
    """

    rho: float = option(0.05, "ρ = ‖ε‖.")
    needs_true_labels = True
    reuses_graph = True

    def __post_init__(self) -> None:
        _check_size("rho", self.rho)

    def __call__(self, first: FirstPass) -> Perturbed:
        rows, _ = clean_and_noisy_rows(first)
        return Perturbed(of_length(self.rho, first.gradient_of(first.labels[rows], rows)))


@dataclass(frozen=True)
class Compensated(Perturbation):
    """ε = Proj_{‖ε‖ ≤ ρ}(ρ g/‖g‖ + s(t) g*), NCSAM's perturbation (Xu, Deng, Pang, arXiv 2601.19947, eq. 10–13 and 15).

    ``noise`` estimates g*; without ``ascent`` SAM's part is left out (*g\\*-only*).
    """

    rho: float = option(0.05, "ρ, SAM's radius and that of the projection.")
    kappa: float = option(
        0.1, "κ, the height of the schedule s(t); below 0 it subtracts, as ``sign=-1`` does with |κ|."
    )
    _: KW_ONLY
    noise: NoiseGradient = field(default_factory=SimulatedNoise)
    sign: int = option(1, "+1 adds s g* (eq. 12), −1 subtracts it.")
    project: bool = option(True, "keep ‖ε‖ ≤ ρ (eq. 13).")
    schedule: str = option("paper", '"paper" (eq. 15), "linear", "constant".')
    scale: str = option("raw", '"raw" adds s g*, "relative" adds s ρ g*/‖g*‖.')
    warmup: float = option(0.0, "fraction of ``progress`` without compensation.")
    warmup_step: str = option("base", 'what is done in the warm-up: "base" for base-optimizer steps, "sam" for SAM\'s.')
    ascent: bool = fixed(True)
    needs_progress = True
    draws = True

    def __post_init__(self) -> None:
        _check_size("rho", self.rho)
        if not is_finite(self.kappa):
            raise ValueError(f"kappa is {self.kappa!r}, expected a finite number")
        if self.sign not in (1, -1):
            raise ValueError(f"sign is {self.sign!r}, expected +1 (the paper's) or -1")
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("scale", self.scale, ("raw", "relative"))
        _check_choice("warmup_step", self.warmup_step, ("base", "sam"))
        if not (is_finite(self.warmup) and 0.0 <= self.warmup <= 1.0):
            raise ValueError(f"warmup is {self.warmup!r}, expected a fraction of training in [0, 1]")

    @property
    def needs_true_labels(self) -> bool:  # type: ignore[override]
        return self.noise.needs_true_labels

    @property
    def features_of(self) -> str | None:  # type: ignore[override]
        return self.noise.features_of

    @property
    def reuses_graph(self) -> bool:  # type: ignore[override]
        return self.noise.reuses_graph

    @property
    def adds_to_sam(self) -> bool:  # type: ignore[override]
        return self.ascent

    def active(self, progress: float | None) -> bool:
        if self._warming_up(progress) and self.warmup_step == "base":
            return False
        return self.rho > 0 or (self.kappa != 0 and not self.project)

    def __call__(self, first: FirstPass) -> Perturbed:
        ascent = of_length(self.rho, first.gradient)
        if self._warming_up(first.progress):
            return Perturbed(ascent)
        assert first.progress is not None
        noise = self.noise(first)
        s, sign = (
            abs(self.kappa) * SCHEDULES[self.schedule](first.progress),
            self.sign if self.kappa > 0 else -self.sign,
        )
        shift = of_length(s * self.rho, noise.vector) if self.scale == "relative" else noise.vector * s
        added = length(shift)
        epsilon = ascent.add_(shift, alpha=sign) if self.ascent else shift.mul_(sign)
        if not self.project:
            return Perturbed(epsilon, added, 1.0, noise.picked)
        kept = (self.rho / length(epsilon)).clamp(max=1.0)
        return Perturbed(epsilon.mul_(kept), added, kept, noise.picked)

    def _warming_up(self, progress: float | None) -> bool:
        # Epochs are counted from 1, so the last warm-up epoch has progress = warmup.
        return progress is not None and self.warmup > 0 and progress <= self.warmup * (1 + 1e-9)


@dataclass(frozen=True)
class ReleasedCompensated(Compensated):
    """NCSAM's perturbation with the warm-up rule of the released code: epoch < T_w, so 49 epochs for T_w = 50."""

    def _warming_up(self, progress: float | None) -> bool:
        return progress is not None and progress < self.warmup * (1 - 1e-9)


@dataclass(frozen=True)
class MatchedAscent(Perturbation):
    """SAM's direction with the ‖ε‖ that ``like`` has at this very step (*matched*): tells direction from size."""

    like: Compensated = field(default_factory=lambda: Compensated(project=False))
    needs_progress = True
    draws = True

    @property
    def reuses_graph(self) -> bool:  # type: ignore[override]
        return self.like.reuses_graph

    @property
    def rho(self) -> float:  # type: ignore[override]
        return self.like.rho

    @property
    def needs_true_labels(self) -> bool:  # type: ignore[override]
        return self.like.needs_true_labels

    @property
    def features_of(self) -> str | None:  # type: ignore[override]
        return self.like.features_of

    def active(self, progress: float | None) -> bool:
        return self.like.active(progress)

    def __call__(self, first: FirstPass) -> Perturbed:
        perturbed = self.like(first)
        perturbed.epsilon = of_length(length(perturbed.epsilon), first.gradient)
        return perturbed


@dataclass(frozen=True, repr=False)
class ReplayedAscent(Perturbation):
    """SAM's direction with a ‖ε‖ that is given for each step (*replay*): what another run had at the same step."""

    norms: tuple[float, ...] = option((), "‖ε‖ of each step, in order; as many as there are steps, or more.")
    needs_batch = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "norms", tuple(map(float, self.norms)))
        for step, norm in enumerate(self.norms, 1):
            _check_size(f"norm of step {step}", norm)

    def active(self, progress: float | None) -> bool:
        return True

    def __call__(self, first: FirstPass) -> Perturbed:
        if first.step >= len(self.norms):
            raise ValueError(f"norms are given for {len(self.norms)} steps, this is step {first.step + 1}; give more")
        return Perturbed(of_length(self.norms[first.step], first.gradient))

    def __repr__(self) -> str:  # by which saved states know their kind, so that it says which norms they are
        digest = hashlib.sha256(struct.pack(f"<{len(self.norms)}d", *self.norms)).hexdigest()
        return f"ReplayedAscent({len(self.norms)} norms, sha256={digest[:16]})"


def _check_size(name: str, value: float) -> None:
    if not (is_finite(value) and value >= 0):
        raise ValueError(f"{name} is {value!r}, expected a finite number ≥ 0")


def _check_group(m: object) -> None:
    if isinstance(m, bool) or not isinstance(m, int) or m < 1:
        raise ValueError(f"m is {m!r}, expected a whole number of samples ≥ 1")


def _check_choice(name: str, value: object, known: object) -> None:
    choices = list(known)  # type: ignore[call-overload]
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")
