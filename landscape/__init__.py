"""Loss-landscape analysis of any differentiable PyTorch objective.

The public names are loaded on first use, so that reading a result file does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from landscape._version import __version__

if TYPE_CHECKING:
    from landscape.density import spectral_density
    from landscape.directions import filter_normalized_direction
    from landscape.eigen import top_eigenpairs
    from landscape.objective import Objective
    from landscape.operators import GGNOperator, HessianOperator
    from landscape.records import DensityResult, EigenResult, Line, Plane, Sharpness, Status, TraceResult
    from landscape.sharpness import adaptive_sharpness, average_sharpness, sam_sharpness
    from landscape.store import load
    from landscape.surface import line, plane
    from landscape.traces import trace
    from landscape.views import View

_HOME = {
    "DensityResult": "records",
    "EigenResult": "records",
    "GGNOperator": "operators",
    "HessianOperator": "operators",
    "Line": "records",
    "Objective": "objective",
    "Plane": "records",
    "Sharpness": "records",
    "Status": "records",
    "TraceResult": "records",
    "View": "views",
    "adaptive_sharpness": "sharpness",
    "average_sharpness": "sharpness",
    "filter_normalized_direction": "directions",
    "line": "surface",
    "load": "store",
    "plane": "surface",
    "sam_sharpness": "sharpness",
    "spectral_density": "density",
    "top_eigenpairs": "eigen",
    "trace": "traces",
}

__all__ = [
    "DensityResult",
    "EigenResult",
    "GGNOperator",
    "HessianOperator",
    "Line",
    "Objective",
    "Plane",
    "Sharpness",
    "Status",
    "TraceResult",
    "View",
    "__version__",
    "adaptive_sharpness",
    "average_sharpness",
    "filter_normalized_direction",
    "line",
    "load",
    "plane",
    "sam_sharpness",
    "spectral_density",
    "top_eigenpairs",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"landscape.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
