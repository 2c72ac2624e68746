"""Figures of 1D surfaces: overlays with bands, slices at equal displacement, and paths between two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from landscape.figures.data import DataFigure
from landscape.figures.matrices import matrices
from landscape.figures.style import STYLE, Width, below, figure, log_scale
from landscape.figures.symbols import Groups, Records, Symbol, by_label, grouped, plain, symbols_of
from landscape.records import Connection, Line, LineDraws, Status

Against = Literal["alpha", "distance", "relative"]
_LABELS = {"alpha": "α (filter norms)", "distance": "‖Δw‖", "relative": "‖Δw‖ / ‖w‖"}


def lines(
    groups: Groups[Line],
    views: Sequence[str] | None = None,
    *,
    against: Against = "alpha",
    width: Width = "icml",
    symbols: Mapping[str, Symbol] | None = None,
) -> DataFigure:
    """1D surfaces overlaid, a panel a view: the mean of each group with the range of its members as a band.

    Args:
        groups: one line, or by label one or several, e.g. one a seed by optimizer; a group's members on one grid.
        views: one panel each; those that all have in common, four at most, if none.
        against: ``alpha``, ``distance`` (α‖d‖) or ``relative`` (α‖d‖/‖w‖). Filter normalisation gives larger weights
            longer directions; against distance, runs are compared at equal ‖Δw‖. A group's members are then put on
            the first one's grid by linear interpolation, as far as all of them reach.
        width: of the figure, see ``figures.style.WIDTHS``.
        symbols: of labels that do not take one by their position.

    Raises:
        ValueError: the lines of a group lie on different grids, or lack a view; an unknown ``against``.
    """
    if against not in _LABELS:
        raise ValueError(f"against is {against!r}; known: {', '.join(_LABELS)}")
    groups = grouped(groups)
    views = _shared(views, [member for members in groups.values() for member in members])
    made, axes = _panels(views, width)
    drawn = symbols_of(groups, symbols)
    with mpl.rc_context(STYLE):
        for ax, view in zip(axes[0], views, strict=True):
            for label, members in groups.items():
                symbol = drawn[label]
                x, losses = _overlaid(label, members, view, against)
                ax.plot(x, losses.mean(0), label=plain(symbol.name), **symbol.line)
                made.note(
                    label=label, view=view, **{against: x}, loss=losses.mean(0), lowest=losses.min(0),
                    highest=losses.max(0), members=len(members),
                )  # fmt: skip
                if len(members) > 1:
                    ax.fill_between(x, losses.min(0), losses.max(0), color=symbol.colour, alpha=0.15, linewidth=0)
                _mark(ax, members[0], view, x, losses.mean(0), symbol.colour)
        first = next(iter(groups.values()))[0]
        what = (first.along or ["random"])[0]
        named = against == "alpha" and not what.startswith("random")
        _finish(made, axes, views, f"α ({what})" if named else _LABELS[against])
    return made


def bands(
    groups: Records[LineDraws],
    views: Sequence[str] | None = None,
    *,
    quantiles: tuple[float, float] = (0.1, 0.9),
    width: Width = "icml",
    symbols: Mapping[str, Symbol] | None = None,
) -> DataFigure:
    """The median over random directions, with a band between two of their quantiles at each point.

    Takes one record, or records by label; other arguments as for :func:`landscape.figures.lines`.

    Raises:
        ValueError: a record lacks a view.
    """
    groups = by_label(groups)
    views = _shared(views, list(groups.values()))
    made, axes = _panels(views, width)
    drawn = symbols_of(groups, symbols)
    with mpl.rc_context(STYLE):
        for ax, view in zip(axes[0], views, strict=True):
            for label, draws in groups.items():
                colour, dash = drawn[label].colour, drawn[label].dash
                low, middle, high = draws.quantiles(_known(draws, view), (quantiles[0], 0.5, quantiles[1]))
                name = plain(f"{drawn[label].name} ({len(draws.draws)} draws)".strip())
                ax.plot(draws.alphas, middle, color=colour, linestyle=dash, linewidth=1.6, label=name)
                ax.fill_between(draws.alphas, low, high, color=colour, alpha=0.12, linewidth=0)
                made.note(label=label, view=view, alpha=draws.alphas, low=low, median=middle, high=high)
                ax.plot(draws.alphas, np.transpose([low, high]), color=colour, linestyle=dash, linewidth=0.5, label="_")
        _finish(made, axes, views, _LABELS["alpha"])
    return made


def connections(
    ways: Records[Connection],
    views: Sequence[str] | None = None,
    *,
    width: Width = "icml",
    symbols: Mapping[str, Symbol] | None = None,
) -> DataFigure:
    """Draw the loss on a path between two points; dashed: the baseline of the barrier, dotted: the barrier.

    Takes one record, or records by label; other arguments as for :func:`landscape.figures.lines`.

    Raises:
        ValueError: a record lacks a view.
    """
    ways = by_label(ways)
    views = _shared(views, list(ways.values()))
    made, axes = _panels(views, width)
    drawn = symbols_of(ways, symbols)
    with mpl.rc_context(STYLE):
        for ax, view in zip(axes[0], views, strict=True):
            for label, way in ways.items():
                colour = drawn[label].colour
                row = way.views.tolist().index(_known(way, view))
                loss, height, at = way.loss[row], float(way.barrier[row]), float(way.peak[row])
                ends = np.interp([0.0, 1.0], way.alphas, loss)
                ax.plot(way.alphas, loss, color=colour, label=plain(drawn[label].name))
                made.note(label=label, view=view, position=way.alphas, loss=loss)
                ax.plot([0, 1], ends, color=colour, linestyle="--", marker="o", markersize=3, linewidth=0.7, label="_")
                if np.isfinite(height) and height > 0:
                    foot = ends[0] + at * (ends[1] - ends[0])
                    ax.plot([at, at], [foot, foot + height], color=colour, linestyle=":", linewidth=1.0, label="_")
                    ax.annotate(
                        f"{height:.2g}", (at, foot + height), (0, 5), textcoords="offset points", ha="center",
                        fontsize=6, color=colour,
                    )  # fmt: skip
                _mark(ax, way, view, way.alphas, loss, colour)
            ax.margins(y=0.12)
        _finish(made, axes, views, "position on the way", log=False)
    return made


def barriers(
    ways: Mapping[str, Mapping[tuple[str, str], Connection]],
    view: str | None = None,
    *,
    width: Width = "icml",
    symbols: Mapping[str, Symbol] | None = None,
) -> DataFigure:
    """Matrices of barriers between runs on one scale, a panel for each kind of way: straight, curved, matched.

    Args:
        ways: by kind, and then by the labels of the two ends; curves are ways, too. Missing pairs stay grey.
        view: of the data; the first of the first record if none.

    Raises:
        ValueError: there are no ways, or one lacks the view.
    """
    every = [way for pairs in ways.values() for way in pairs.values()]
    if not every:
        raise ValueError("there are no ways to draw the barriers of")
    view = str(every[0].views[0]) if view is None else view
    labels = list(dict.fromkeys(label for pairs in ways.values() for pair in pairs for label in pair))
    names = [plain(symbol.name) for symbol in symbols_of(labels, symbols).values()]
    tables = {kind: np.full((len(labels), len(labels)), np.nan) for kind in ways}
    for kind, pairs in ways.items():
        for (one, other), way in pairs.items():
            height = float(way.barrier[way.views.tolist().index(_known(way, view))])
            tables[kind][labels.index(one), labels.index(other)] = height
    made = matrices(tables, names, f"barrier, view {view.replace('_', ' ')}", width=width)
    for kind, table in tables.items():
        for i, j in np.argwhere(np.isfinite(table)):
            made.note(kind=kind, view=view, start=labels[i], end=labels[j], barrier=table[i, j])
    return made


def _panels(views: Sequence[str], width: Width) -> tuple[DataFigure, np.ndarray]:
    return figure(1, len(views), height=2.3, width=width)


def _finish(made: DataFigure, axes: np.ndarray, views: Sequence[str], label: str, *, log: bool = True) -> None:
    for ax, view in zip(axes[0], views, strict=True):
        ax.set(title=view.replace("_", " "), xlabel=label)
    if log:
        ends = np.array([ax.dataLim.intervaly for ax in axes[0]])
        for ax in axes[0]:
            log_scale(ax, ends.min(), ends.max())
    axes[0, 0].set_ylabel("loss")
    below(made, axes.flat)


def _overlaid(label: str, members: Sequence[Line], view: str, against: Against) -> tuple[np.ndarray, np.ndarray]:
    """Positions, and one row of losses a member."""
    if any(not np.array_equal(m.alphas, members[0].alphas) for m in members):
        raise ValueError(f"the lines of {label!r} lie on different grids")
    losses = [m.loss[m.views.tolist().index(_known(m, view))] for m in members]
    if against == "alpha":
        return members[0].alphas, np.stack(losses)
    places = [m.alphas * m.direction_norm / (m.weight_norm if against == "relative" else 1.0) for m in members]
    low, high = max(p.min() for p in places), min(p.max() for p in places)
    x = places[0][(places[0] >= low) & (places[0] <= high)]
    order = np.argsort(members[0].alphas)  # np.interp takes ascending places alone
    return x, np.stack([np.interp(x, p[order], loss[order]) for p, loss in zip(places, losses, strict=True)])


def _mark(ax: Axes, record: Line | Connection, view: str, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """Open circles where a value was interpolated, crosses at the foot of the panel where it is not finite."""
    status = record.status[record.views.tolist().index(view)]
    if len(status) != len(x):
        return
    guessed, bad = status == Status.INTERPOLATED, status == Status.NONFINITE
    if guessed.any():
        ax.plot(x[guessed], y[guessed], "o", color=colour, markerfacecolor="white", markersize=2.5, label="_")
    if bad.any():
        feet = np.zeros(int(bad.sum()))
        ax.plot(x[bad], feet, "x", color=colour, transform=ax.get_xaxis_transform(), clip_on=False, label="_")


def _shared(views: Sequence[str] | None, records: Sequence[Any]) -> Sequence[str]:
    """The views asked for; else those that all records have, in the order of the first, four at most."""
    if views is not None:
        return views
    found = [v for v in records[0].views.tolist() if all(v in record.views for record in records)] if records else []
    if not found:
        raise ValueError("the records have no view in common; name the views, or draw the records by themselves")
    return found[:4]


def _known(record: Any, view: str) -> str:
    names = record.views.tolist()
    if view not in names:
        raise ValueError(f"no view {view!r} in this surface; it has {', '.join(names)}")
    return view
