"""The optimizers as classes: the base optimizer alone, SAM, NCSAM, and the controls that give a comparison meaning."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from ncsam.optimizers.cluster_inversion import ClusterInversion
from ncsam.optimizers.mini_batch import Forward
from ncsam.optimizers.noise_gradient import NoiseGradient, RandomNoise, SimulatedNoise, TrueNoise
from ncsam.optimizers.perturbations import (
    AdaptiveAscent,
    Compensated,
    MatchedAscent,
    NoPerturbation,
    SharpnessAscent,
    TrueLabelAscent,
)
from ncsam.optimizers.sharpness_aware import SharpnessAware


class Plain(SharpnessAware):
    """The base optimizer alone, bitwise, behind the same ``step``: one training loop serves every arm.

    >>> import torch, ncsam
    >>> model = torch.nn.Linear(2, 3)
    >>> opt = ncsam.Plain(model, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> info = opt.step(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]), torch.nn.functional.cross_entropy)
    >>> info.perturbation_norm, info.skipped
    (0.0, None)
    """

    def __init__(
        self, model: nn.Module, base: Optimizer, *, forward: Forward | None = None, synchronised: bool = False
    ) -> None:
        super().__init__(model, base, NoPerturbation(), forward=forward, synchronised=synchronised)


class SAM(SharpnessAware):
    """Sharpness-aware minimisation: descend with the gradient at w + ρ g/‖g‖ (Foret et al. 2021, arXiv 2010.01412).

    Args:
        rho: ρ = ‖ε‖; with ``adaptive`` ρ = ‖T⁻¹ε‖, which is another unit (Kwon et al. use 0.5 and more).
        adaptive: ε = ρ T² g/‖T g‖ with T = |w| + eta, elementwise (Kwon et al. 2021, arXiv 2102.11600).
        eta: only with ``adaptive``.
        forward, synchronised: see :class:`SharpnessAware`.

    >>> import torch, ncsam
    >>> model = torch.nn.Linear(2, 3)
    >>> opt = ncsam.SAM(model, torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
    >>> info = opt.step(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]), torch.nn.functional.cross_entropy)
    >>> round(info.perturbation_norm, 6), info.perturbed_loss > info.loss
    (0.05, True)
    """

    def __init__(
        self,
        model: nn.Module,
        base: Optimizer,
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        eta: float = 0.01,
        forward: Forward | None = None,
        synchronised: bool = False,
    ) -> None:
        perturbation = AdaptiveAscent(rho, eta) if adaptive else SharpnessAscent(rho)
        super().__init__(model, base, perturbation, forward=forward, synchronised=synchronised)


class NCSAM(SharpnessAware):
    """Noise-compensated SAM as in the paper (Xu, Deng, Pang, arXiv 2601.19947): ε = Proj(ρ g/‖g‖ + s(t) g*).

    g* is the gradient on uncertain samples that are given a likely wrong label for the occasion (eq. 16–18). Options
    beyond the paper's are ours, for study: its own are the defaults, except that κ and r_flip are published for some
    settings only and that its warm-up is ``warmup=0.25``. ``step`` needs ``progress``.

    Args:
        rho: ρ, SAM's radius and that of the projection.
        kappa: κ, the height of the schedule s(t).
        flip_ratio: r_flip, share of the batch that g* is computed from.
        sign: +1 adds s g* (eq. 12), −1 subtracts it.
        project: keep ‖ε‖ ≤ ρ (eq. 13).
        label_smoothing: in the loss of g*, with mass/(C − 1) off the label.
        warmup: fraction of ``progress`` without compensation; ``warmup_step`` "base" or "sam" says what is done then.
        schedule: "paper" (eq. 15), "linear", "constant".
        scale: "raw" adds s g*, "relative" adds s ρ g*/‖g*‖.
        forward, seed, synchronised: see :class:`SharpnessAware`.

    Raises:
        ValueError: an option out of range.

    >>> import torch, ncsam
    >>> model = torch.nn.Linear(2, 3)
    >>> opt = ncsam.NCSAM(model, torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, kappa=0.1)
    >>> x, y = torch.ones(5, 2), torch.tensor([0, 1, 2, 0, 1])
    >>> info = opt.step(x, y, torch.nn.functional.cross_entropy, progress=0.5)
    >>> info.picked, info.perturbation_norm <= 0.5 * (1 + 1e-6)
    (2, True)
    """

    def __init__(
        self,
        model: nn.Module,
        base: Optimizer,
        rho: float = 0.05,
        kappa: float = 0.1,
        flip_ratio: float = 0.4,
        sign: int = 1,
        project: bool = True,
        label_smoothing: float = 0.0,
        warmup: float = 0.0,
        forward: Forward | None = None,
        seed: int = 0,
        *,
        schedule: str = "paper",
        scale: str = "raw",
        warmup_step: str = "base",
        synchronised: bool = False,
    ) -> None:
        perturbation = Compensated(
            rho=rho,
            kappa=kappa,
            noise=self._noise(flip_ratio, label_smoothing),
            sign=sign,
            project=project,
            schedule=schedule,
            scale=scale,
            warmup=warmup,
            warmup_step=warmup_step,
            ascent=self._ascent,
        )
        super().__init__(model, base, perturbation, forward=forward, seed=seed, synchronised=synchronised)

    _ascent = True

    def _noise(self, flip_ratio: float, label_smoothing: float) -> NoiseGradient:
        return SimulatedNoise(flip_ratio, label_smoothing)


class NCSAMReleased(SharpnessAware):
    """The variant of the authors' later released code: ε = ρ g/‖g‖ + s(t) g*, not projected, g* by cluster inversion.

    Its coefficient lr₀·k·min(1, …) with k = κ/0.05 is written here as one number, ``kappa`` = lr₀·k, the value that
    s(t) reaches. Their values on CIFAR-10 with 20/40/60 % instance noise: flip_ratio (r_max) .2/.4/.4, kappa
    .10/.25/1.25; on CIFAR-100 .2/.4/.4 and .25/.75/1.5. ``step`` needs ``progress``.

    Args:
        flip_ratio, label_smoothing, clusters, features: see
            :class:`ncsam.optimizers.cluster_inversion.ClusterInversion`.
        rho, kappa, sign, project, warmup, schedule, scale, warmup_step, forward, seed, synchronised: see
            :class:`NCSAM`.

    >>> import torch, ncsam
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> opt = ncsam.NCSAMReleased(model, torch.optim.SGD(model.parameters(), lr=0.1), flip_ratio=1.0)
    >>> x, y = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    >>> opt.step(x, y, torch.nn.functional.cross_entropy, progress=0.5).projected
    False
    """

    def __init__(
        self,
        model: nn.Module,
        base: Optimizer,
        rho: float = 0.05,
        kappa: float = 0.1,
        flip_ratio: float = 0.4,
        sign: int = 1,
        project: bool = False,
        label_smoothing: float = 0.1,
        warmup: float = 0.0,
        forward: Forward | None = None,
        seed: int = 0,
        *,
        clusters: int = 5,
        features: str = "",
        schedule: str = "paper",
        scale: str = "raw",
        warmup_step: str = "base",
        synchronised: bool = False,
    ) -> None:
        perturbation = Compensated(
            rho=rho,
            kappa=kappa,
            noise=ClusterInversion(flip_ratio, label_smoothing, clusters, features),
            sign=sign,
            project=project,
            schedule=schedule,
            scale=scale,
            warmup=warmup,
            warmup_step=warmup_step,
        )
        super().__init__(model, base, perturbation, forward=forward, seed=seed, synchronised=synchronised)


class RandomPicks(NCSAM):
    """Control: NCSAM with samples picked with equal chances; temporary labels as in NCSAM."""

    def _noise(self, flip_ratio: float, label_smoothing: float) -> NoiseGradient:
        return SimulatedNoise(flip_ratio, label_smoothing, uniform_picks=True)


class RandomDirection(NCSAM):
    """Control: NCSAM with a Gaussian direction in place of g*, as long as g* is at that very step."""

    def _noise(self, flip_ratio: float, label_smoothing: float) -> NoiseGradient:
        return RandomNoise(SimulatedNoise(flip_ratio, label_smoothing))


class Oracle(NCSAM):
    """Control: NCSAM with the batch's true noise gradient in place of g*; ``step`` needs ``true_labels``.

    ``flip_ratio`` and ``label_smoothing`` have no effect: it uses all wrong-labelled samples and the training loss.
    """

    def _noise(self, flip_ratio: float, label_smoothing: float) -> NoiseGradient:
        return TrueNoise()


class GStarOnly(NCSAM):
    """Control: ε = Proj(s(t) g*), NCSAM without SAM's part."""

    _ascent = False


class Matched(NCSAM):
    """Control: SAM's direction with the ‖ε‖ that NCSAM with the same options has at that very step.

    Informative for ``project=False``, the default here; where NCSAM projects, ‖ε‖ is ρ nearly always and this is SAM.
    """

    def __init__(self, model: nn.Module, base: Optimizer, rho: float = 0.05, **options: Any) -> None:
        super().__init__(model, base, rho, **{"project": False, **options})
        assert isinstance(self.perturbation, Compensated)
        self.perturbation = MatchedAscent(self.perturbation)


class CleanDirection(SharpnessAware):
    """Control: ε = ρ g(y)/‖g(y)‖ from the true labels, descent on the observed: what perfect compensation would give.

    ``step`` needs ``true_labels``. Where this does not beat SAM, "label noise distorts the perturbation" cannot be the
    mechanism behind NCSAM.
    """

    def __init__(
        self,
        model: nn.Module,
        base: Optimizer,
        rho: float = 0.05,
        *,
        forward: Forward | None = None,
        synchronised: bool = False,
    ) -> None:
        super().__init__(model, base, TrueLabelAscent(rho), forward=forward, synchronised=synchronised)
