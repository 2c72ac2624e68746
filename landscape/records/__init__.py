"""Result records: frozen, labelled, numpy only; what a record is in :mod:`landscape.records.base`."""

from landscape.records.base import Record, record_type
from landscape.records.course import Course
from landscape.records.curvature import (
    Alignment,
    CurvatureSplit,
    DensityResult,
    DiagonalResult,
    EigenResult,
    LayerSpectra,
    MomentsResult,
    NegativeMass,
    SubspaceOverlap,
    TraceResult,
)
from landscape.records.fields import Parameter, Status, Variable, parameter, variable
from landscape.records.paths import Curve
from landscape.records.samples import SampleCurvature, SampleRises
from landscape.records.sharpness import KeskarSharpness, Sharpness
from landscape.records.summary import Summary
from landscape.records.surfaces import Connection, Line, LineDraws, Plane, PlaneDraws, Surface, Trajectory
from landscape.records.topology import Persistence, PersistenceDraws

__all__ = [
    "Alignment",
    "Connection",
    "Course",
    "CurvatureSplit",
    "Curve",
    "DensityResult",
    "DiagonalResult",
    "EigenResult",
    "KeskarSharpness",
    "LayerSpectra",
    "Line",
    "LineDraws",
    "MomentsResult",
    "NegativeMass",
    "Parameter",
    "Persistence",
    "PersistenceDraws",
    "Plane",
    "PlaneDraws",
    "Record",
    "SampleCurvature",
    "SampleRises",
    "Sharpness",
    "Status",
    "SubspaceOverlap",
    "Summary",
    "Surface",
    "TraceResult",
    "Trajectory",
    "Variable",
    "parameter",
    "record_type",
    "variable",
]
