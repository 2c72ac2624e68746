"""Loss-landscape analysis of any differentiable PyTorch objective.

The public names are loaded on first use, so that reading a result file does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from landscape._version import __version__

if TYPE_CHECKING:
    from landscape import figures, records, store
    from landscape.blocks import layer_spectra
    from landscape.connectivity import connect
    from landscape.decomposition import alignment, split_curvature, subspace_overlap
    from landscape.density import negative_mass, spectral_density
    from landscape.directions import eigen_direction, filter_normalized_direction, gradient_direction
    from landscape.distributed import sharded
    from landscape.draws import line_draws, plane_draws
    from landscape.eigen import top_eigenpairs
    from landscape.logits import with_normalized_logits
    from landscape.moments import diagonal, spectral_moments
    from landscape.objective import Objective
    from landscape.operators import EmpiricalFisherOperator, GGNOperator, HessianOperator
    from landscape.precision import PrecisionError, precision_error
    from landscape.records import (
        Alignment,
        Connection,
        CurvatureSplit,
        DensityResult,
        DiagonalResult,
        EigenResult,
        KeskarSharpness,
        LayerSpectra,
        Line,
        LineDraws,
        MomentsResult,
        NegativeMass,
        Plane,
        PlaneDraws,
        Sharpness,
        Status,
        SubspaceOverlap,
        TraceResult,
        Trajectory,
    )
    from landscape.scaled import ScaledOperator
    from landscape.sharpness import adaptive_sharpness, average_sharpness, keskar_sharpness, sam_sharpness
    from landscape.store import load
    from landscape.surface import line, plane
    from landscape.traces import trace
    from landscape.trajectory import principal_directions, project_path
    from landscape.views import View

_HOME = {
    "Alignment": "records",
    "Connection": "records",
    "CurvatureSplit": "records",
    "DensityResult": "records",
    "DiagonalResult": "records",
    "EigenResult": "records",
    "EmpiricalFisherOperator": "operators",
    "GGNOperator": "operators",
    "HessianOperator": "operators",
    "KeskarSharpness": "records",
    "LayerSpectra": "records",
    "Line": "records",
    "LineDraws": "records",
    "MomentsResult": "records",
    "NegativeMass": "records",
    "Objective": "objective",
    "Plane": "records",
    "PlaneDraws": "records",
    "PrecisionError": "precision",
    "ScaledOperator": "scaled",
    "Sharpness": "records",
    "Status": "records",
    "SubspaceOverlap": "records",
    "TraceResult": "records",
    "Trajectory": "records",
    "View": "views",
    "adaptive_sharpness": "sharpness",
    "alignment": "decomposition",
    "average_sharpness": "sharpness",
    "connect": "connectivity",
    "diagonal": "moments",
    "eigen_direction": "directions",
    "filter_normalized_direction": "directions",
    "gradient_direction": "directions",
    "keskar_sharpness": "sharpness",
    "layer_spectra": "blocks",
    "line": "surface",
    "line_draws": "draws",
    "load": "store",
    "negative_mass": "density",
    "plane": "surface",
    "plane_draws": "draws",
    "precision_error": "precision",
    "principal_directions": "trajectory",
    "project_path": "trajectory",
    "sam_sharpness": "sharpness",
    "sharded": "distributed",
    "spectral_density": "density",
    "spectral_moments": "moments",
    "split_curvature": "decomposition",
    "subspace_overlap": "decomposition",
    "top_eigenpairs": "eigen",
    "trace": "traces",
    "with_normalized_logits": "logits",
}
_MODULES = ("figures", "records", "store")

__all__ = [
    "Alignment",
    "Connection",
    "CurvatureSplit",
    "DensityResult",
    "DiagonalResult",
    "EigenResult",
    "EmpiricalFisherOperator",
    "GGNOperator",
    "HessianOperator",
    "KeskarSharpness",
    "LayerSpectra",
    "Line",
    "LineDraws",
    "MomentsResult",
    "NegativeMass",
    "Objective",
    "Plane",
    "PlaneDraws",
    "PrecisionError",
    "ScaledOperator",
    "Sharpness",
    "Status",
    "SubspaceOverlap",
    "TraceResult",
    "Trajectory",
    "View",
    "__version__",
    "adaptive_sharpness",
    "alignment",
    "average_sharpness",
    "connect",
    "diagonal",
    "eigen_direction",
    "figures",
    "filter_normalized_direction",
    "gradient_direction",
    "keskar_sharpness",
    "layer_spectra",
    "line",
    "line_draws",
    "load",
    "negative_mass",
    "plane",
    "plane_draws",
    "precision_error",
    "principal_directions",
    "project_path",
    "records",
    "sam_sharpness",
    "sharded",
    "spectral_density",
    "spectral_moments",
    "split_curvature",
    "store",
    "subspace_overlap",
    "top_eigenpairs",
    "trace",
    "with_normalized_logits",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"landscape.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"landscape.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
