"""The optimizers: the base optimizer alone, SAM, NCSAM, and the controls that give a comparison meaning."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from landscape._suggest import REMOVED_IN
from ncsam.optimizers.cluster_inversion import ClusterInversion
from ncsam.optimizers.noise_gradient import RandomNoise, SimulatedNoise, TrueNoise
from ncsam.optimizers.options import COMMON, by_place, documented, signature_of, with_options
from ncsam.optimizers.perturbations import (
    AdaptiveAscent,
    CleanPartAscent,
    Compensated,
    GroupwiseAscent,
    JacobianAscent,
    LogitAscent,
    MatchedAscent,
    NoPerturbation,
    Perturbation,
    ReleasedCompensated,
    ReplayedAscent,
    SharpnessAscent,
    TrueLabelAscent,
)
from ncsam.optimizers.sharpness_aware import SharpnessAware


class Variant(SharpnessAware):
    """A sharpness-aware optimizer with one perturbation, whose options are keywords of the constructor.

    A subclass names the perturbation with its defaults, ``class SAM(Variant, perturbation=SharpnessAscent())``; its
    signature and the meanings in its docstring come from the perturbation's fields.

    Attributes:
        prototype: the perturbation with the default options.
        signature: what the constructor takes.
    """

    prototype: ClassVar[Perturbation] = NoPerturbation()
    signature: ClassVar[inspect.Signature] = signature_of(prototype, False)

    def __init_subclass__(cls, perturbation: Perturbation | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        if perturbation is not None:
            cls.prototype = perturbation
            cls.signature = signature_of(perturbation, perturbation.draws)
            names = [name for name in cls.signature.parameters if name not in ("model", "base")]
            cls.__doc__ = documented(cls.__doc__ or "", perturbation, names)
        own = "__init__" in vars(cls)  # a subclass elsewhere, with a constructor of its own
        cls.__signature__ = None if own else cls.signature  # type: ignore[attr-defined]

    def __init__(self, model: nn.Module, base: Optimizer, *positional: Any, **options: Any) -> None:
        former = by_place(self.prototype)
        further = dict(zip(former[1:], positional[1:], strict=False))
        if further and len(positional) <= len(former) and not further.keys() & options.keys():
            listed = ", ".join(map(repr, further))
            message = f"{type(self).__name__}: give {listed} by name; {REMOVED_IN} no longer takes it by its place"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            positional, options = positional[:1], {**options, **further}
        try:
            given = self.signature.bind(model, base, *positional, **options).arguments
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}; see help({type(self).__name__})") from None
        common = {name: given[name] for name in COMMON if name in given}
        super().__init__(model, base, with_options(self.prototype, given), **common)


class Plain(Variant, perturbation=NoPerturbation()):
    """The base optimizer alone, bitwise, behind the same ``step``: one training loop serves every arm.

    >>> import torch, ncsam
    >>> model = torch.nn.Linear(2, 3)
    >>> opt = ncsam.Plain(model, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> info = opt.step(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]), torch.nn.functional.cross_entropy)
    >>> info.perturbation_norm, info.skipped
    (0.0, None)
    """


class SAM(Variant, perturbation=SharpnessAscent()):
    """Sharpness-aware minimisation: descend with the gradient at w + ρ g/‖g‖ (Foret et al. 2021, arXiv 2010.01412).

    >>> import torch, ncsam
    >>> model = torch.nn.Linear(2, 3)
    >>> opt = ncsam.SAM(model, torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
    >>> info = opt.step(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]), torch.nn.functional.cross_entropy)
    >>> round(info.perturbation_norm, 6), info.perturbed_loss > info.loss
    (0.05, True)
    """


class ASAM(SAM, perturbation=AdaptiveAscent()):
    """Adaptive SAM: ε = ρ T² g/‖T g‖ with T = |w| + η, elementwise (Kwon et al. 2021, arXiv 2102.11600)."""


class MSAM(Variant, perturbation=GroupwiseAscent()):
    """m-SAM: each group of m samples has its own ε, the descent is the mean over groups (Foret et al. 2021).

    m = 1, the default, is the 1-SAM of studies of label noise (Baek et al. 2024, arXiv 2405.03676); m = batch size is
    SAM. Each group goes through the model alone, so that BatchNorm normalises over the group, as on a device of its
    own, and moves its statistics once for each group; a step takes as many passes as SAM on batches of m samples.

    >>> import torch, ncsam
    >>> model = torch.nn.Linear(2, 3)
    >>> opt = ncsam.MSAM(model, torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05, m=2)
    >>> info = opt.step(torch.eye(4, 2), torch.tensor([0, 1, 2, 0]), torch.nn.functional.cross_entropy)
    >>> round(info.perturbation_norm, 6)
    0.05
    """


class LogitSAM(Variant, perturbation=LogitAscent()):
    """Control: SAM's effect on the logits alone, the network's Jacobian being that of w (L-SAM of Baek et al. 2024).

    The gradient of a sample is its Jacobian ∂z/∂w times the slope of its loss in the logits z; SAM takes both at w + ε,
    this the slope there and the Jacobian at w (arXiv 2405.03676). If it does as well as SAM, then SAM acts by weighting
    samples differently. A step takes one forward pass more than a step of SAM. Dropout draws a mask for each pass, so
    slope and Jacobian belong to two different masks.

    >>> import torch, ncsam
    >>> model = torch.nn.Linear(2, 3)
    >>> opt = ncsam.LogitSAM(model, torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
    >>> info = opt.step(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]), torch.nn.functional.cross_entropy)
    >>> round(info.perturbation_norm, 6), info.perturbed_loss > info.loss
    (0.05, True)
    """


class JacobianSAM(Variant, perturbation=JacobianAscent()):
    """Control: SAM's effect on the network's Jacobian alone, samples weighted as at w (J-SAM of Baek et al. 2024).

    If it does as well as SAM (as arXiv 2405.03676 found under label noise), SAM does not act by weighting samples.
    """


class NCSAM(Variant, perturbation=Compensated()):
    """Noise-compensated SAM as in the paper (Xu, Deng, Pang, arXiv 2601.19947): ε = Proj(ρ g/‖g‖ + s(t) g*).

    g* is the gradient on uncertain samples that are temporarily given a likely wrong label (eq. 16–18). Options beyond
    the paper's are ours, for study. The defaults are the paper's settings, except that κ and r_flip are published for
    some settings only, and that the paper's warm-up is ``warmup=0.25``. ``step`` needs ``progress``.

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


class NCSAMReleased(Variant, perturbation=ReleasedCompensated(noise=ClusterInversion(), project=False)):
    """The variant of the authors' later released code: ε = ρ g/‖g‖ + s(t) g*, not projected, g* by cluster inversion.

    Its coefficient lr₀·k·min(1, …) with k = κ/0.05 is written here as one number, ``kappa`` = lr₀·k, the value that
    s(t) reaches. Their values on CIFAR-10 with 20/40/60 % instance noise: flip_ratio (r_max) .2/.4/.4, kappa
    .10/.25/1.25; on CIFAR-100 .2/.4/.4 and .25/.75/1.5. Its warm-up ends an epoch earlier than the paper's: it lasts
    while progress < ``warmup``, 49 of 200 epochs for 0.25. ``step`` needs ``progress``.

    >>> import torch, ncsam
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> opt = ncsam.NCSAMReleased(model, torch.optim.SGD(model.parameters(), lr=0.1), flip_ratio=1.0)
    >>> x, y = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    >>> opt.step(x, y, torch.nn.functional.cross_entropy, progress=0.5).projected
    False
    """


class RandomPicks(NCSAM, perturbation=Compensated(noise=SimulatedNoise(uniform_picks=True))):
    """Control: NCSAM with samples picked with equal chances; temporary labels as in NCSAM."""


class RandomDirection(NCSAM, perturbation=Compensated(noise=RandomNoise())):
    """Control: NCSAM with a Gaussian direction in place of g*, of the same length as g* at each step."""


class Oracle(NCSAM, perturbation=Compensated(noise=TrueNoise())):
    """Control: NCSAM with the batch's true noise gradient in place of g*; ``step`` needs ``true_labels``."""


class GStarOnly(NCSAM, perturbation=Compensated(ascent=False)):
    """Control: ε = Proj(s(t) g*), NCSAM without SAM's part."""


class Matched(NCSAM, perturbation=MatchedAscent()):
    """Control: SAM's direction with the ‖ε‖ that NCSAM with the same options has at the same step.

    It is informative only for ``project=False``, the default here: if NCSAM projects, ‖ε‖ is nearly always ρ, and this
    is SAM.
    """


class CleanDirection(Variant, perturbation=TrueLabelAscent()):
    """Control: ε = ρ g(y)/‖g(y)‖ from the true labels, descent on the observed: what perfect compensation would give.

    ``step`` needs ``true_labels``. Where this does not beat SAM, "label noise distorts the perturbation" cannot be the
    mechanism behind NCSAM.
    """


class CleanPartDirection(Variant, perturbation=CleanPartAscent()):
    """Control: ε = ρ g_clean/‖g_clean‖ from the batch's rightly labelled samples, descent on all observed labels.

    ``step`` needs ``true_labels``. This is the ε that eq. 9 of the paper calls clean, where :class:`CleanDirection`
    also counts the other samples, with their true labels. A batch without a rightly labelled sample gets ε = 0.
    """


class Replay(Variant, perturbation=ReplayedAscent()):
    """Control: SAM's direction with the ‖ε‖ that another run had at the same step, given as ``norms``.

    :class:`Matched` has the ‖ε‖ that NCSAM would have on the trajectory of ``matched``; this has the one that NCSAM
    really had.

    >>> import torch, ncsam
    >>> model = torch.nn.Linear(2, 3)
    >>> opt = ncsam.Replay(model, torch.optim.SGD(model.parameters(), lr=0.1), norms=[0.2, 0.3])
    >>> x, y = torch.ones(4, 2), torch.tensor([0, 1, 2, 0])
    >>> [round(opt.step(x, y, torch.nn.functional.cross_entropy).perturbation_norm, 6) for _ in range(2)]
    [0.2, 0.3]
    """


OPTIMIZERS: dict[str, type[Variant]] = {
    "sgd": Plain,
    "sam": SAM,
    "asam": ASAM,
    "m-sam": MSAM,
    "logit-sam": LogitSAM,
    "jacobian-sam": JacobianSAM,
    "ncsam": NCSAM,
    "ncsam-released": NCSAMReleased,
    "clean-direction": CleanDirection,
    "clean-part-direction": CleanPartDirection,
    "matched": Matched,
    "replay": Replay,
    "random-direction": RandomDirection,
    "random-picks": RandomPicks,
    "gstar-only": GStarOnly,
    "oracle": Oracle,
}
"""Every arm of a comparison by its command-line name. What is added here, training, sweeps and tuning know."""
