"""Training under label noise: NCSAM, the optimizers it must be compared with, and the study of what it does.

The public names are loaded on first use, so that reading a run file does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from landscape._version import __version__

if TYPE_CHECKING:
    from ncsam import data, figures, models, noise
    from ncsam.bound import theorem1_bound
    from ncsam.config import TrainConfig
    from ncsam.optimizer import (
        NCSAM,
        SAM,
        CleanDirection,
        GStarOnly,
        Matched,
        NCSAMReleased,
        Oracle,
        Plain,
        ProjectionWarning,
        RandomDirection,
        RandomPicks,
        SharpnessAware,
    )
    from ncsam.run import Run, train_run
    from ncsam.training import Trainer

_HOME = {
    "CleanDirection": "optimizer",
    "GStarOnly": "optimizer",
    "Matched": "optimizer",
    "NCSAM": "optimizer",
    "NCSAMReleased": "optimizer",
    "Oracle": "optimizer",
    "Plain": "optimizer",
    "ProjectionWarning": "optimizer",
    "RandomDirection": "optimizer",
    "RandomPicks": "optimizer",
    "Run": "run",
    "SAM": "optimizer",
    "SharpnessAware": "optimizer",
    "TrainConfig": "config",
    "Trainer": "training",
    "theorem1_bound": "bound",
    "train_run": "run",
}
_MODULES = ("data", "figures", "models", "noise", "optimizer", "theory")

__all__ = [
    "NCSAM",
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
    "Run",
    "SharpnessAware",
    "TrainConfig",
    "Trainer",
    "__version__",
    "data",
    "figures",
    "models",
    "noise",
    "theorem1_bound",
    "train_run",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ncsam.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"ncsam.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
