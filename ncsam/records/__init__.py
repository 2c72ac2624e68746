"""The groups of a run file and of a study file, as records."""

from ncsam.records.audit import AUDIT, AuditTable
from ncsam.records.measurements import (
    BoundTable,
    Diagnostics,
    SharpnessTable,
    Spectrum,
    density_at,
    eigenpairs_at,
    layers_at,
    split_at,
)
from ncsam.records.run import IMPORT, Labels, SampleHistory, Steps, Training
from ncsam.records.samples import SampleCurvatures
from ncsam.records.study import Barriers, ByMeasure, CellTable, Curves, RadiusControl, Secondary, Verdicts

__all__ = [
    "AUDIT",
    "IMPORT",
    "AuditTable",
    "Barriers",
    "BoundTable",
    "ByMeasure",
    "CellTable",
    "Curves",
    "Diagnostics",
    "Labels",
    "RadiusControl",
    "SampleCurvatures",
    "SampleHistory",
    "Secondary",
    "SharpnessTable",
    "Spectrum",
    "Steps",
    "Training",
    "Verdicts",
    "density_at",
    "eigenpairs_at",
    "layers_at",
    "split_at",
]
