"""List the figures that a set of stored surfaces has the data for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from landscape import figures
from landscape.figures.levels import Scale
from landscape.figures.style import Width
from landscape.records import Connection, Line, LineDraws, Plane, PlaneDraws, Record, Trajectory
from ncsam.figures.style import symbols
from ncsam.runs.run import Run
from ncsam.study.arms import printed

from .drawing_spectra import with_documents

LINE_VIEWS = ("mixed", "clean_part", "noisy_part", "test")
PLANE_VIEWS = ("mixed", "test")
_SHOWN = 0.05  # share of a path that must lie in a plane for it to be drawn there
_PAIRS = 3  # labels up to which the first is compared with each other one

FigureFunctions = dict[str, Callable[[], Any]]  # functions that draw a figure, by its name


@dataclasses.dataclass(frozen=True)
class DrawingOptions:
    """Options for drawing surfaces: page width, scale of the levels, interactive HTML, and moving paths of training."""

    width: Width = "icml"
    scale: Scale = "auto"
    interactive: bool = False
    animate: bool = False


def figures_of_runs(runs: Sequence[Run], suffix: str, drawing: DrawingOptions) -> FigureFunctions:
    """Figures of the surfaces that runs of one noise rate hold, by name; surfaces of one name share a figure."""
    drawn: FigureFunctions = {}
    for name in sorted({name for run in runs for name in run.names if name.startswith("surface/")}):
        own = name.partition("/")[2].replace("/", "-")
        drawn |= _of_groups(by_arm(runs, name), by_arm(runs, f"{name}_path"), own, suffix, drawing)
    return drawn


def figures_of_records(records: Mapping[str, Record], drawing: DrawingOptions) -> FigureFunctions:
    """Figures of saved surfaces by name, with all lines in one figure and all planes in one."""
    planes: dict[str, list[Record]] = {k: [record] for k, record in records.items() if isinstance(record, Plane)}
    others: dict[str, list[Record]] = {k: [record] for k, record in records.items() if k not in planes}
    return {**_of_groups(others, {}, "line", "", drawing), **_of_groups(planes, {}, "plane", "", drawing)}


def _of_groups(
    groups: Mapping[str, Sequence[Record]],
    paths: Mapping[str, Sequence[Record]],
    own: str,
    suffix: str,
    drawing: DrawingOptions,
) -> FigureFunctions:
    """Figures of the surfaces of one name; the records of one label differ only in their seed."""
    drawn: FigureFunctions = {}
    known = symbols(groups)
    if lines := of_kind(groups, Line):
        stem = "line" if own == "line" else f"line_{own}"
        common = _common(lines, LINE_VIEWS)
        drawn[f"{stem}{suffix}"] = partial(figures.lines, lines, common, width=drawing.width, symbols=known)
        if len(lines) > 1:
            relative = partial(figures.lines, lines, common, against="relative", width=drawing.width, symbols=known)
            drawn[f"{stem.replace('line', 'slices', 1)}{suffix}"] = relative
    if draws := _firsts(of_kind(groups, LineDraws)):
        views = _common({k: [v] for k, v in draws.items()}, LINE_VIEWS)
        drawn[f"bands_{own}{suffix}"] = partial(figures.bands, draws, views, width=drawing.width, symbols=known)
    if ways := _firsts(of_kind(groups, Connection)):
        named = {f"{printed(label)} to {printed(way.end)}": way for label, way in ways.items()}
        views = _common({k: [v] for k, v in ways.items()}, LINE_VIEWS)
        drawn[f"way_{own}{suffix}"] = partial(figures.connections, named, views, width=drawing.width)
    if drawn_planes := _firsts(of_kind(groups, PlaneDraws)):
        views = _common({k: [v] for k, v in drawn_planes.items()}, PLANE_VIEWS)
        drawn[f"draws_{own}{suffix}"] = partial(
            figures.plane_draws, drawn_planes, views[0], width=drawing.width, scale=drawing.scale, symbols=known
        )
    if planes := _firsts(of_kind(groups, Plane)):
        trajectories = _firsts(of_kind(paths, Trajectory))
        drawn |= _planes(planes, trajectories, suffix if own == "plane" else f"_{own}{suffix}", drawing)
    return drawn


def _planes(
    planes: Mapping[str, Plane], paths: Mapping[str, Trajectory], suffix: str, drawing: DrawingOptions
) -> FigureFunctions:
    drawn: FigureFunctions = {}
    for kind in _same_grid(planes):
        tag = suffix if len(kind) == len(planes) else f"{suffix}_{next(iter(kind))}"
        shared = _common({k: [v] for k, v in kind.items()}, PLANE_VIEWS)
        options: dict[str, Any] = {
            "width": drawing.width, "names": _axis_names(next(iter(kind.values()))), "symbols": symbols(planes),
        }  # fmt: skip
        shown = {k: p for k, p in paths.items() if k in kind and p.explained >= _SHOWN}
        scaled = {**options, "scale": drawing.scale}
        for view in shared:
            drawn[f"contours{tag}_{view}"] = partial(figures.contours, kind, view, trajectories=shown, **scaled)
        if all(plane.accuracy is not None for plane in kind.values()):
            view = "test" if "test" in shared else shared[0]
            drawn[f"accuracy{tag}_{view}"] = partial(
                figures.contours, kind, view, quantity="accuracy", trajectories=shown, **options
            )
        drawn[f"surface3d{tag}_{shared[0]}"] = partial(figures.surface3d, kind, shared[0], **scaled)
        first, *others = kind.items()
        # Only random draws are shared by runs; each has eigenvectors and principal components of its own.
        comparable = len(kind) <= _PAIRS and all(_random(plane) for plane in kind.values())
        for other in others if comparable else []:
            pair = f"{first[0]}-{other[0]}"
            drawn[f"difference{tag}_{pair}_{shared[0]}"] = partial(
                figures.difference, first, other, shared[0], **scaled
            )
        for label, path in shown.items() if drawing.animate else ():
            moving = partial(
                figures.animated,
                {label: path},
                kind[label],
                shared[0],
                names=options["names"],
                symbols=symbols([label]),
            )
            drawn[f"moving{tag}_{label}_{shared[0]}"] = moving
        if drawing.interactive:
            from landscape.figures.interactive import interactive

            drawn[f"interactive{tag}_{shared[0]}"] = partial(interactive, kind, shared[0], scale=drawing.scale)
    return drawn


def _same_grid(planes: Mapping[str, Plane]) -> Iterator[dict[str, Plane]]:
    """Planes that lie on one grid along directions of one kind, together."""
    left = dict(planes)
    while left:
        first = next(iter(left.values()))
        same = {
            label: plane
            for label, plane in left.items()
            if np.array_equal(plane.alphas, first.alphas)
            and np.array_equal(plane.betas, first.betas)
            and _axis_names(plane) == _axis_names(first)
        }
        yield same
        left = {label: plane for label, plane in left.items() if label not in same}


def _random(plane: Plane) -> bool:
    return all(what.startswith("random") for what in plane.along or ["random"])


def _axis_names(plane: Plane) -> tuple[str, str]:
    names = [
        f"{letter} (filter norms)" if what.startswith("random") else what
        for letter, what in zip("αβ", plane.along or ("random", "random"), strict=True)
    ]
    return names[0], names[1]


def by_arm(runs: Sequence[Run], name: str) -> dict[str, list[Record]]:
    """The results of this name, or of a former one, by the arm of their run."""
    groups: dict[str, list[Record]] = {}
    for run in runs:
        if (stored := run.stored(name)) is not None:
            groups.setdefault(str(run.attrs.get("arm", run.config.optimizer)), []).append(run.result(stored))
    return groups


def of_kind(groups: Mapping[str, Sequence[Record]], kind: type) -> dict[str, list[Any]]:
    """The records of one kind by label; labels that have none are left out."""
    found = {label: [record for record in records if isinstance(record, kind)] for label, records in groups.items()}
    return {label: records for label, records in found.items() if records}


def _firsts(groups: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the first record of each label: of runs that differ only in their seed, one surface is drawn."""
    return {label: records[0] for label, records in groups.items()}


def _common(groups: Mapping[str, Sequence[Any]], wanted: Sequence[str]) -> list[str]:
    """Views that every surface holds: the wanted ones among them and sets of documents, else up to four."""
    held = [set(member.views.tolist()) for members in groups.values() for member in members]
    shared = set.intersection(*held)
    return with_documents(wanted, shared) or sorted(shared)[:4]
