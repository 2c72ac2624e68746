"""The optimizers: the base optimizer alone, SAM, NCSAM, and the controls that give a comparison meaning."""

from ncsam.optimizers.sharpness_aware import ProjectionWarning, SharpnessAware
from ncsam.optimizers.step_info import StepInfo
from ncsam.optimizers.variants import (
    NCSAM,
    OPTIMIZERS,
    SAM,
    CleanDirection,
    GStarOnly,
    Matched,
    NCSAMReleased,
    Oracle,
    Plain,
    RandomDirection,
    RandomPicks,
    build,
    options_of,
    resolve_options,
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
