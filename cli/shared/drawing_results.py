"""List the figures that saved records have the data for; records of one kind share a figure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from landscape import figures
from landscape.records import (
    Alignment,
    Connection,
    Course,
    CurvatureSplit,
    DensityResult,
    DiagonalResult,
    EigenResult,
    LayerSpectra,
    Line,
    LineDraws,
    MomentsResult,
    NegativeMass,
    Persistence,
    PersistenceDraws,
    Plane,
    PlaneDraws,
    Record,
    Sharpness,
    SubspaceOverlap,
    TraceResult,
    Trajectory,
)
from ncsam.figures.catalogue import figures_of_study, suffixes
from ncsam.figures.style import symbols
from ncsam.records import (
    Barriers,
    BoundTable,
    ByMeasure,
    CellTable,
    Curves,
    Diagnostics,
    Labels,
    RadiusControl,
    SampleCurvatures,
    SampleHistory,
    SharpnessTable,
    Spectrum,
    Training,
    Verdicts,
)
from ncsam.study.verdicts import studies_of

from . import drawing_surfaces
from .drawing_spectra import spectra_figures
from .drawing_surfaces import DrawingOptions, FigureFunctions

_SURFACES = (Line, LineDraws, Connection, Plane, PlaneDraws)
# Names of the figures; what draws them is what ``landscape.plot`` takes, in the one table of landscape.figures.
_SYMBOLS: Mapping[type[Record], str] = {  # labels are told apart in one panel
    EigenResult: "eigenpairs",
    DensityResult: "density",
    LayerSpectra: "layers",
    TraceResult: "trace",
    MomentsResult: "moments",
    NegativeMass: "negative_mass",
    DiagonalResult: "diagonal",
    SubspaceOverlap: "overlap",
    Trajectory: "trajectory",
    Course: "course",
}
_PANELS: Mapping[type[Record], str] = {
    CurvatureSplit: "split",
    Alignment: "cosines",
    Persistence: "persistence",
    PersistenceDraws: "persistence_draws",
    SharpnessTable: "sharpness",
    BoundTable: "bound",
    Training: "training",
    SampleHistory: "samples",
    SampleCurvatures: "curvature_of_samples",
    Labels: "labels",
    Diagnostics: "alignment",
}
_ALONE: Mapping[type[Record], str] = {
    Verdicts: "verdicts",
    ByMeasure: "by_measure",
    RadiusControl: "radius",
    Barriers: "barriers",
}


def figures_of_records(records: Mapping[str, Record], drawing: DrawingOptions) -> FigureFunctions:
    """Figures of saved records by name.

    Raises:
        ValueError: no figure shows a record of that kind.
    """
    known: tuple[type[Record], ...] = (*_SURFACES, Sharpness, Spectrum, Curves, CellTable, *_SYMBOLS, *_PANELS, *_ALONE)
    for label, record in records.items():
        if not isinstance(record, known):
            kinds = ", ".join(sorted({kind.kind.replace("_", " ") for kind in known}))
            raise ValueError(
                f"{label}: holds {record.kind.replace('_', ' ')}, which no figure shows; drawn are {kinds}"
            )
    drawn = drawing_surfaces.figures_of_records(_of(records, *_SURFACES), drawing)
    for kind, name in {**_SYMBOLS, **_PANELS}.items():
        for suffix, found in _by_scale(_of(records, kind)).items():
            draw = figures.figure_function(kind)
            drawn[name + suffix] = partial(draw, found, symbols(found)) if kind in _SYMBOLS else partial(draw, found)
    for kind, name in _ALONE.items():
        draw = figures.figure_function(kind)
        drawn |= {_named(name, label, records): partial(draw, r) for label, r in _of(records, kind).items()}
    if found := _of(records, Persistence):
        drawn["merge_tree"] = partial(figures.merge_trees, found)
        drawn |= {_named("basins", label, found): partial(figures.basins, r) for label, r in found.items()}
    if spectra := _of(records, Spectrum):
        drawn |= spectra_figures(spectra, "")
    for measure, found in _by_measure(_of(records, Sharpness)).items():
        drawn[f"sharpness_{measure}"] = partial(figures.estimates, found, symbols(found))
        if rising := {label: r for label, r in found.items() if r.rises is not None}:
            drawn[f"ascents_{measure}"] = partial(figures.ascents, rising, symbols(rising))
    return drawn | _of_studies(records)


def _of_studies(records: Mapping[str, Record]) -> FigureFunctions:
    drawn: FigureFunctions = {}
    for label, table in _of(records, Curves, CellTable).items():
        found = studies_of(table)
        for study, suffix in zip(found, suffixes(found), strict=True):
            drawn |= {f"{_named(name, label, records)}{suffix}": draw for name, draw in figures_of_study(study).items()}
    return drawn


def _of(records: Mapping[str, Record], *kinds: type[Record]) -> dict[str, Any]:
    return {label: record for label, record in records.items() if isinstance(record, kinds)}


def _by_scale(records: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The records by what ends the name of their figure: nothing, unless there is curvature in two units."""
    found: dict[str, dict[str, Any]] = {}
    for label, record in records.items():
        found.setdefault("" if getattr(record, "scale", None) is None else "_relative", {})[label] = record
    return {"": dict(records)} if len(found) == 1 else found


def _by_measure(records: Mapping[str, Sharpness]) -> dict[str, dict[str, Sharpness]]:
    found: dict[str, dict[str, Sharpness]] = {}
    for label, record in records.items():
        found.setdefault(record.measure, {})[label] = record
    return found


def _named(name: str, label: str, records: Mapping[str, Record]) -> str:
    return name if len(records) == 1 else f"{name}_{label}"
