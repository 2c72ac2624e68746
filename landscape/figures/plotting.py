"""One call that draws any record, or several of one kind."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from landscape.figures.data import DataFigure
from landscape.figures.estimates import cosines, courses, diagonals, eigenpairs, estimates, overlaps, trajectories
from landscape.figures.lines import bands, connections, lines
from landscape.figures.planes import contours, plane_draws
from landscape.figures.spectra import densities, layers, splits
from landscape.figures.topology import persistence_diagrams, persistence_spread
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

Draw = Callable[..., DataFigure]


def _of_views(draw: Draw) -> Draw:
    """The function with an option ``view`` for a single one of its ``views``."""

    def drawn(records: Any, view: str | None = None, **options: Any) -> DataFigure:
        return draw(records, **({} if view is None else {"views": [view]}), **options)

    return drawn


def _one_alone(draw: Draw) -> Draw:
    """The function, which takes one record, also given that one under a label."""

    def drawn(records: Any, **options: Any) -> DataFigure:
        if isinstance(records, Mapping):
            if len(records) > 1:
                raise ValueError(f"{len(records)} of these records do not share a figure; plot each by itself")
            (records,) = records.values()
        return draw(records, **options)

    return drawn


_DRAWN: dict[type[Record], Draw] = {
    Line: _of_views(lines),
    LineDraws: _of_views(bands),
    Connection: _of_views(connections),
    Plane: contours,
    PlaneDraws: plane_draws,
    Persistence: persistence_diagrams,
    PersistenceDraws: persistence_spread,
    EigenResult: eigenpairs,
    TraceResult: estimates,
    MomentsResult: estimates,
    NegativeMass: estimates,
    Sharpness: estimates,
    DiagonalResult: diagonals,
    SubspaceOverlap: overlaps,
    Alignment: cosines,
    Trajectory: trajectories,
    Course: courses,
    DensityResult: densities,
    LayerSpectra: layers,
    CurvatureSplit: splits,
}


def drawn_by(kind: type[Record], draw: Draw, *, several: bool = True) -> None:
    """Let :func:`plot` draw records of a kind by ``draw``, which takes one, or ``several`` by label.

    A package that defines records does so in its module ``figures``, which :func:`plot` imports.
    """
    _DRAWN[kind] = draw if several else _one_alone(draw)


def plot(records: Record | Sequence[Record] | Mapping[str, Record], **options: Any) -> DataFigure:
    """A figure of a record, or of several of one kind on shared scales.

    Args:
        records: one; several by label; or a list, labelled by their own ``label`` (the name of their objective) and,
            where they have none, by their position from 1.
        options: of the function in :mod:`landscape.figures` that draws that kind: ``view`` of a surface, by default
            the sole or first one, ``quantity`` of a plane.

    Raises:
        ValueError: there are no records, they are of several kinds, no figure shows them, or two have one label.

    >>> import numpy as np
    >>> from landscape.records import TraceResult
    >>> one, two = (
    ...     TraceResult(value=v, stderr=0.1, matvecs=2, samples=np.ones(2), seed=0, label=n)
    ...     for v, n in ((1.0, "sgd"), (2.0, "sam"))
    ... )
    >>> [point["label"] for point in plot([one, two]).points]
    ['sgd', 'sam']
    """
    if isinstance(records, Record):
        found = {"": records}
    elif isinstance(records, Mapping):
        found = dict(records)
    else:
        found = _labelled(list(records))
    if not found:
        raise ValueError("there is nothing to draw; give at least one record")
    for record in found.values():
        if not isinstance(record, Record):
            raise TypeError(f"expected records such as Plane or Line to draw, got {type(record).__name__}")
    draws = {figure_function(type(record)) for record in found.values()}
    if len(draws) > 1:
        kinds = ", ".join(dict.fromkeys(type(record).__name__ for record in found.values()))
        raise ValueError(f"records of several kinds ({kinds}) do not share a figure; plot each kind by itself")
    (draw,) = draws
    return draw(next(iter(found.values())) if isinstance(records, Record) else found, **options)


def _labelled(records: list[Record]) -> dict[str, Record]:
    labels = [getattr(record, "label", None) or str(n) for n, record in enumerate(records, 1)]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(
            f"several records are labelled {', '.join(twice)}; give a mapping of labels to records, or the objectives "
            "different names: Objective(…, name=…)"
        )
    return dict(zip(labels, records, strict=True))


def figure_function(kind: type[Record]) -> Draw:
    """The function that draws records of a kind: one, or several by label.

    Raises:
        ValueError: no figure shows such a record.

    >>> figure_function(TraceResult).__name__
    'estimates'
    """
    package = kind.__module__.partition(".")[0]
    if package != "landscape" and kind not in _DRAWN:
        try:
            importlib.import_module(f"{package}.figures")
        except ModuleNotFoundError as error:
            if error.name not in (package, f"{package}.figures"):
                raise
    for known in kind.__mro__:
        if known in _DRAWN:
            return _DRAWN[known]
    raise ValueError(f"no figure shows a record of kind {kind.kind!r}; landscape.figures.drawn_by can name one")
