"""The optimizers: the base optimizer alone, SAM, NCSAM, and the controls that give a comparison meaning."""

from ncsam.optimizers.first_pass import FirstPass
from ncsam.optimizers.noise_gradient import NoiseEstimate, NoiseGradient
from ncsam.optimizers.options import option
from ncsam.optimizers.perturbations import Perturbation, Perturbed
from ncsam.optimizers.registry import build, options_of, resolve_options
from ncsam.optimizers.sharpness_aware import (
    ProjectionWarning,
    RoundingWarning,
    SharpnessAware,
    SkippedWarning,
)
from ncsam.optimizers.step_info import StepInfo
from ncsam.optimizers.variants import (
    ASAM,
    MSAM,
    NCSAM,
    OPTIMIZERS,
    SAM,
    CleanDirection,
    CleanPartDirection,
    GStarOnly,
    JacobianSAM,
    LogitSAM,
    Matched,
    NCSAMReleased,
    Oracle,
    Plain,
    RandomDirection,
    RandomPicks,
    Replay,
    Variant,
)

__all__ = [
    "ASAM",
    "MSAM",
    "NCSAM",
    "OPTIMIZERS",
    "SAM",
    "CleanDirection",
    "CleanPartDirection",
    "FirstPass",
    "GStarOnly",
    "JacobianSAM",
    "LogitSAM",
    "Matched",
    "NCSAMReleased",
    "NoiseEstimate",
    "NoiseGradient",
    "Oracle",
    "Perturbation",
    "Perturbed",
    "Plain",
    "ProjectionWarning",
    "RandomDirection",
    "RandomPicks",
    "Replay",
    "RoundingWarning",
    "SharpnessAware",
    "SkippedWarning",
    "StepInfo",
    "Variant",
    "build",
    "option",
    "options_of",
    "resolve_options",
]
