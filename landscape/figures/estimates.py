"""Figures of single records: eigenpairs, estimates with their errors, ascents, diagonals, angles and paths.

All take one record, or records by label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, below, figure
from landscape.figures.symbols import Records, Symbol, by_label, plain, symbols_of
from landscape.records import (
    Alignment,
    Course,
    DiagonalResult,
    EigenResult,
    MomentsResult,
    NegativeMass,
    Record,
    Sharpness,
    Status,
    SubspaceOverlap,
    TraceResult,
    Trajectory,
)

R = TypeVar("R", bound=Record)
Symbols = Mapping[str, Symbol] | None
Estimate = TraceResult | MomentsResult | NegativeMass | Sharpness
_QUANTITIES: Mapping[type, Mapping[str, str]] = {  # by kind of record: fields, and what they are
    TraceResult: {"value": "trace"},
    MomentsResult: {"trace": "trace", "frobenius": "Frobenius norm", "effective_rank": "effective rank"},
    NegativeMass: {"count": "share of eigenvalues below 0", "magnitude": "share of Σ|λ| below 0"},
    Sharpness: {"value": "sharpness"},
}
_ROW = 0.17  # inches


def eigenpairs(records: Records[EigenResult], symbols: Symbols = None) -> DataFigure:
    """Eigenvalues by rank with their error bounds; open symbols did not converge."""
    with _one_panel(records, symbols) as (made, ax, drawn):
        for label, record, symbol in drawn:
            values, converged = record.values, np.asarray(record.converged, bool)
            rank = np.arange(1, len(values) + 1)
            errors = record.residuals if record.errors is None else record.errors
            made.note(label=label, rank=rank, eigenvalue=values, error=errors, converged=record.converged)
            ax.errorbar(
                rank, values, errors, capsize=2, elinewidth=0.8, label=plain(symbol.name),
                **{**symbol.both, "markerfacecolor": symbol.colour, "linewidth": 0.6},
            )  # fmt: skip
            ax.plot(rank[~converged], values[~converged], **{**symbol.points, "markerfacecolor": "white"})
        ax.axhline(0, color="black", linewidth=0.5)
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        ax.set(xlabel="rank", ylabel=f"eigenvalue{_in_units(by_label(records))}")
    return made


def estimates(records: Records[Estimate], symbols: Symbols = None) -> DataFigure:
    """Numbers, with two standard errors if they have one: traces, moments, masses, sharpness.

    A row is a record and a panel a quantity.

    Raises:
        ValueError: the records are of different kinds, or sharpness of different measures.
    """
    found = by_label(records)
    kinds = {next(kind for kind in _QUANTITIES if isinstance(r, kind)) for r in found.values()}
    measures = {r.measure for r in found.values() if isinstance(r, Sharpness)}
    unit = _in_units(found)
    if len(kinds) > 1 or len(measures) > 1:
        named = sorted(measures) if len(measures) > 1 else sorted(kind.__name__ for kind in kinds)
        raise ValueError(f"the records hold {', '.join(named)}; draw those of one kind together")
    quantities = _QUANTITIES[kinds.pop()]
    made, axes = figure(1, len(quantities), height=0.9 + _ROW * len(found), sharey=True)
    drawn = symbols_of(found, symbols)
    with mpl.rc_context(STYLE):
        for ax, (name, title) in zip(axes[0], quantities.items(), strict=True):
            for place, (label, r) in enumerate(found.items()):
                value, error = float(getattr(r, name)), _error(r, name)
                made.note(label=label, quantity=title, value=value, stderr=error)
                bar = None if not np.isfinite(error) else [2 * error]
                ax.errorbar([value], [place], xerr=bar, capsize=2, elinewidth=0.8, **drawn[label].points)
            ax.set_xlabel(f"{next(iter(measures)).replace('_', ' ')} sharpness" if measures else f"{title}{unit}")
            ax.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
        if any(found):
            axes[0, 0].set_yticks(range(len(found)), [plain(symbol.name) for symbol in drawn.values()])
        else:  # one record, without a label
            axes[0, 0].yaxis.set_major_locator(NullLocator())
        axes[0, 0].set_ylim(len(found) - 0.5, -0.5)
    return made


_MEASURES = {
    "top": "largest eigenvalue",
    "sam": "SAM sharpness",
    "adaptive": "adaptive sharpness",
    "average": "average sharpness",
}


def courses(records: Records[Course], symbols: Symbols = None, view: str | None = None) -> DataFigure:
    """Every measure along a training, a panel each, with its errors; open symbols did not converge.

    Args:
        view: by default the first that all records have.

    Raises:
        ValueError: the records are counted in different units, or have no view, or no measure, in common.
    """
    found = by_label(records)
    units = sorted({r.unit for r in found.values()})
    shared = [v for v in next(iter(found.values())).views.tolist() if all(v in r.views for r in found.values())]
    measures = list(dict.fromkeys(m for r in found.values() for m in r.measures.tolist()))
    if len(units) > 1 or not shared or (view is not None and view not in shared):
        wanted = "a view" if view is None else repr(view)
        raise ValueError(f"the courses are counted in {' and '.join(units)}s and must have {wanted} in common")
    shown = view or shared[0]
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    made, axes = figure(rows, columns, height=1.9, used=len(measures), sharex=True)
    with mpl.rc_context(STYLE):
        for ax, measure in zip(axes.flat, measures, strict=False):
            for label, symbol in symbols_of(found, symbols).items():
                r = found[label]
                if measure not in r.measures:
                    continue
                at = r.measures.tolist().index(measure), r.views.tolist().index(shown)
                value, error, status = r.value[at], r.error[at], r.status[at]
                kind = r.errors[at[0]]
                made.note(label=label, view=shown, measure=measure, at=r.at, value=value, error=error, status=status)
                bars = None if kind == "none" else np.nan_to_num(error) * (2 if kind == "standard error" else 1)
                ax.errorbar(r.at, value, bars, capsize=1.5, elinewidth=0.7, label=plain(symbol.name), **symbol.both)
                open_ = status == Status.NOT_CONVERGED
                # Above the line and its error bars
                ax.plot(r.at[open_], value[open_], **{**symbol.points, "markerfacecolor": "white"}, zorder=3)
            ax.set_ylabel(_MEASURES.get(measure, plain(measure)))
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        for ax in list(axes.flat)[: len(measures)][-columns:]:
            ax.set_xlabel(units[0])
            ax.tick_params(labelbottom=True)
        below(made, list(axes.flat)[: len(measures)])
    return made


def ascents(records: Records[Sharpness], symbols: Symbols = None) -> DataFigure:
    """Rise in loss along the ascents of a sharpness, a line a start; a level is the sharpness itself.

    Raises:
        ValueError: a record holds no ascents.
    """
    with _one_panel(records, symbols) as (made, ax, drawn):
        for label, record, symbol in drawn:
            rises = record.rises
            if rises is None:
                raise ValueError(f"{label or 'the record'} holds no ascents; its value is drawn by figures.estimates")
            steps = np.arange(rises.shape[1])
            made.note(label=label, start=np.arange(len(rises))[:, None], step=steps[None], rise=rises)
            for n, rise in enumerate(rises):
                options = {**symbol.line, "linewidth": 1.2 if n == 0 else 0.6, "alpha": 1.0 if n == 0 else 0.7}
                ax.plot(steps, rise, label=plain(symbol.name) if n == 0 else None, **options)
            top = int(np.nanargmax(rises.max(axis=1)))
            best = int(np.nanargmax(rises[top]))
            ax.plot([best], [rises[top, best]], **symbol.points)
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        ax.set(xlabel="ascent step", ylabel="perturbed loss minus loss")
    return made


def diagonals(records: Records[DiagonalResult], symbols: Symbols = None) -> DataFigure:
    """Entries of a diagonal, sorted, against the share of parameters that have larger ones."""
    with _one_panel(records, symbols) as (made, ax, drawn):
        for label, record, symbol in drawn:
            values = np.sort(record.values)[::-1]
            at = np.unique(np.linspace(0, len(values) - 1, 2000).astype(int))  # more no page can show
            share = (at + 0.5) / len(values)
            made.note(label=label, share=share, entry=values[at])
            ax.plot(share, values[at], label=plain(symbol.name), **symbol.line)
        ax.axhline(0, color="black", linewidth=0.5)
        ax.set(xlabel="share of the parameters", ylabel="diagonal entry", xlim=(0, 1))
    return made


def overlaps(records: Records[SubspaceOverlap], symbols: Symbols = None) -> DataFigure:
    """Principal angles between two subspaces, in degrees."""
    with _one_panel(records, symbols, columns=2) as (made, ax, drawn):
        for label, record, symbol in drawn:
            degrees, number = np.degrees(record.angles), np.arange(1, len(record.angles) + 1)
            said = f"{symbol.name}: overlap {record.overlap:.2g}, by chance {record.chance:.2g}".removeprefix(": ")
            made.note(label=label, angle=number, degrees=degrees, overlap=record.overlap, chance=record.chance)
            ax.plot(number, degrees, label=plain(said), **symbol.both)
        ax.set(xlabel="principal angle", ylabel="degrees", ylim=(-3, 93), yticks=[0, 30, 60, 90])
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    return made


def cosines(records: Records[Alignment]) -> DataFigure:
    """Cosines of directions with eigenvectors, a panel a record and a line a direction."""
    found = by_label(records)
    made, axes = figure(1, len(found), height=2.5, sharey=True)
    names = [str(name) for r in found.values() for name in r.directions]
    drawn = symbols_of(names)
    with mpl.rc_context(STYLE):
        for ax, (title, r) in zip(axes[0], found.items(), strict=True):
            number = np.arange(1, r.cosines.shape[1] + 1)
            for name, values in zip(r.directions.tolist(), r.cosines, strict=True):
                made.note(label=title, direction=name, eigenvector=number, cosine=values)
                ax.plot(number, values, label=plain(name.replace("_", " ")), **drawn[name].both)
            ax.set(title=plain(title), xlabel="eigenvector")
            ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        low, high = axes[0, 0].get_ylim()
        axes[0, 0].set_ylim(min(low, 0.0), high)
        axes[0, 0].set_ylabel("|cosine|")
        below(made, axes.flat)
    return made


def trajectories(records: Records[Trajectory], symbols: Symbols = None) -> DataFigure:
    """Paths of training: their coordinates, and how far each checkpoint is from the centre and the plane or line."""
    found = by_label(records)
    made, (row,) = figure(1, 2, height=2.8)
    with mpl.rc_context(STYLE):
        for label, symbol in symbols_of(found, symbols).items():
            r = found[label]
            flat = r.coordinates.shape[1] > 1
            x, y = (r.coordinates[:, 0], r.coordinates[:, 1]) if flat else (r.epochs, r.coordinates[:, 0])
            said = f"{symbol.name} ({r.explained:.0%} of the path)".strip()
            made.note(
                label=label, epoch=r.epochs, **{f"coordinate {n + 1}": c for n, c in enumerate(r.coordinates.T)},
                length=r.length, distance=r.distance,
            )  # fmt: skip
            row[0].plot(x, y, label=plain(said), **symbol.both)
            row[1].plot(r.epochs, r.length, **{**symbol.both, "linestyle": "-"})
            row[1].plot(r.epochs, r.distance, **{**symbol.line, "linestyle": ":"})
        plane = all(r.coordinates.shape[1] > 1 for r in found.values())
        row[0].set(xlabel="coordinate 1" if plane else "epoch", ylabel="coordinate 2" if plane else "coordinate")
        row[1].set(xlabel="epoch", ylabel="distance", title="from the centre; dotted: from the directions")
        below(made, row)
    return made


@contextmanager
def _one_panel(
    records: Records[R], symbols: Symbols, *, columns: int = 4
) -> Iterator[tuple[DataFigure, Axes, list[tuple[str, R, Symbol]]]]:
    """A figure of one panel, with each record, its label and its symbol; the legend is drawn at the end."""
    found = by_label(records)
    made, axes = figure(1, 1, height=2.6)
    with mpl.rc_context(STYLE):
        yield made, axes[0, 0], [(label, found[label], s) for label, s in symbols_of(found, symbols).items()]
        below(made, axes.flat, columns=columns)


def _in_units(records: Mapping[str, Any]) -> str:
    """Say what changes of the parameters are measured in, if not in the parameters' own unit.

    Raises:
        ValueError: in units that differ between the records.
    """
    scales = {getattr(r, "scale", None) for r in records.values()}
    if len(scales) > 1:
        raise ValueError("the records hold curvature in different units of the parameters; draw those of one together")
    scale = next(iter(scales), None)
    return "" if scale is None else f" in units of {scale}"


def _error(record: Any, name: str) -> float:
    error = getattr(record, "stderr" if name == "value" else f"{name}_stderr")
    return float("nan") if error is None else float(error)
