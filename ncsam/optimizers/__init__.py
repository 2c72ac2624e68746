"""The optimizers: the base optimizer alone, SAM, NCSAM, and the controls that give a comparison meaning."""

from ncsam.optimizers.registry import OPTIMIZERS, build, options_of, resolve_options
from ncsam.optimizers.sharpness_aware import ProjectionWarning, SharpnessAware, StepInfo
from ncsam.optimizers.variants import (
    NCSAM,
    SAM,
    CleanDirection,
    GStarOnly,
    Matched,
    NCSAMReleased,
    Oracle,
    Plain,
    RandomDirection,
    RandomPicks,
)

__all__ = [
    "NCSAM",
    "OPTIMIZERS",
    "SAM",
    "CleanDirection",
    "GStarOnly",
    "Matched",
    "NCSAMReleased",
    "Oracle",
    "Plain",
    "ProjectionWarning",
    "RandomDirection",
    "RandomPicks",
    "SharpnessAware",
    "StepInfo",
    "build",
    "options_of",
    "resolve_options",
]
