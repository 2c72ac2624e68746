"""The optimizers: the base optimizer alone, SAM, NCSAM, and the controls that give a comparison meaning."""

from ncsam.optimizers.registry import build, options_of, resolve_options
from ncsam.optimizers.sharpness_aware import ProjectionWarning, RoundingWarning, SharpnessAware, StepInfo
from ncsam.optimizers.variants import (
    ASAM,
    MSAM,
    NCSAM,
    OPTIMIZERS,
    SAM,
    CleanDirection,
    CleanPartDirection,
    GStarOnly,
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
    "GStarOnly",
    "Matched",
    "NCSAMReleased",
    "Oracle",
    "Plain",
    "ProjectionWarning",
    "RandomDirection",
    "RandomPicks",
    "Replay",
    "RoundingWarning",
    "SharpnessAware",
    "StepInfo",
    "Variant",
    "build",
    "options_of",
    "resolve_options",
]
