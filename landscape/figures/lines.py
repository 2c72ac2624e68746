"""Pictures of 1D surfaces: overlays with bands, slices at equal displacement, and the way between two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.data import DataFigure
from landscape.figures.style import COLOURS, DASHES, STYLE, figure, log_scale
from landscape.records import Connection, Line, LineDraws, Status

_LABELS = {"alpha": "α (filter norms)", "distance": "‖Δw‖", "relative": "‖Δw‖ / ‖w‖"}


def lines(
    groups: Mapping[str, Sequence[Line]], views: Sequence[str], *, against: str = "alpha", width: str = "icml"
) -> Figure:
    """1D surfaces overlaid, a panel a view: the mean of each group with the range of its members as a band.

    Args:
        groups: lines by label, e.g. one line a seed by optimizer; a group's members on one grid.
        views: one panel each.
        against: ``alpha``, ``distance`` (α‖d‖) or ``relative`` (α‖d‖/‖w‖). Filter normalisation gives larger weights
            longer directions; against distance, runs are compared at equal ‖Δw‖. A group's members are then put on
            the first one's grid by linear interpolation, as far as all of them reach.
        width: of the figure, see ``figures.style.WIDTHS``.

    Raises:
        ValueError: the lines of a group lie on different grids, or lack a view; an unknown ``against``.
    """
    if against not in _LABELS:
        raise ValueError(f"against is {against!r}; known: {', '.join(_LABELS)}")
    made, axes = _panels(views, width)
    with mpl.rc_context(STYLE):
        for ax, view in zip(axes[0], views, strict=True):
            for i, (label, members) in enumerate(groups.items()):
                colour, dash = _look(i)
                x, losses = _overlaid(label, members, view, against)
                ax.plot(x, losses.mean(0), color=colour, linestyle=dash, label=label)
                made.note(
                    label=label, view=view, **{against: x}, loss=losses.mean(0), lowest=losses.min(0),
                    highest=losses.max(0), members=len(members),
                )  # fmt: skip
                if len(members) > 1:
                    ax.fill_between(x, losses.min(0), losses.max(0), color=colour, alpha=0.15, linewidth=0)
                _mark(ax, members[0], view, x, losses.mean(0), colour)
        first = next(iter(groups.values()))[0]
        what = (first.along or ["random"])[0]
        named = against == "alpha" and not what.startswith("random")
        _finish(made, axes, views, f"α ({what})" if named else _LABELS[against])
    return made


def bands(
    groups: Mapping[str, LineDraws],
    views: Sequence[str],
    *,
    quantiles: tuple[float, float] = (0.1, 0.9),
    width: str = "icml",
) -> Figure:
    """The median over random directions, with a band between two of their quantiles at each point.

    Raises:
        ValueError: a record lacks a view.
    """
    made, axes = _panels(views, width)
    with mpl.rc_context(STYLE):
        for ax, view in zip(axes[0], views, strict=True):
            for i, (label, draws) in enumerate(groups.items()):
                colour, dash = _look(i)
                low, middle, high = draws.quantiles(_known(draws, view), (quantiles[0], 0.5, quantiles[1]))
                name = f"{label} ({len(draws.draws)} draws)"
                ax.plot(draws.alphas, middle, color=colour, linestyle=dash, linewidth=1.6, label=name)
                ax.fill_between(draws.alphas, low, high, color=colour, alpha=0.12, linewidth=0)
                made.note(label=label, view=view, alpha=draws.alphas, low=low, median=middle, high=high)
                ax.plot(draws.alphas, np.transpose([low, high]), color=colour, linestyle=dash, linewidth=0.5, label="_")
        _finish(made, axes, views, _LABELS["alpha"])
    return made


def connections(ways: Mapping[str, Connection], views: Sequence[str], *, width: str = "icml") -> Figure:
    """The loss on the way between two points; dashed what the barrier is measured from, dotted the barrier.

    Raises:
        ValueError: a record lacks a view.
    """
    made, axes = _panels(views, width)
    with mpl.rc_context(STYLE):
        for ax, view in zip(axes[0], views, strict=True):
            for i, (label, way) in enumerate(ways.items()):
                colour = _look(i)[0]
                row = way.views.tolist().index(_known(way, view))
                loss, height, at = way.loss[row], float(way.barrier[row]), float(way.peak[row])
                ends = np.interp([0.0, 1.0], way.alphas, loss)
                ax.plot(way.alphas, loss, color=colour, label=label)
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


def _panels(views: Sequence[str], width: str) -> tuple[DataFigure, np.ndarray]:
    return figure(1, len(views), height=2.3, width=width)


def _finish(made: Figure, axes: np.ndarray, views: Sequence[str], label: str, *, log: bool = True) -> None:
    for ax, view in zip(axes[0], views, strict=True):
        ax.set(title=view.replace("_", " "), xlabel=label)
    if log:
        ends = np.array([ax.dataLim.intervaly for ax in axes[0]])
        for ax in axes[0]:
            log_scale(ax, ends.min(), ends.max())
    axes[0, 0].set_ylabel("loss")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))


def _overlaid(label: str, members: Sequence[Line], view: str, against: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions, and one row of losses a member."""
    if any(not np.array_equal(m.alphas, members[0].alphas) for m in members):
        raise ValueError(f"the lines of {label!r} lie on different grids")
    losses = [m.loss[m.views.tolist().index(_known(m, view))] for m in members]
    if against == "alpha":
        return members[0].alphas, np.stack(losses)
    places = [m.alphas * m.direction_norm / (m.weight_norm if against == "relative" else 1.0) for m in members]
    low, high = max(p.min() for p in places), min(p.max() for p in places)
    x = places[0][(places[0] >= low) & (places[0] <= high)]
    return x, np.stack([np.interp(x, p, loss) for p, loss in zip(places, losses, strict=True)])


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


def _look(i: int) -> tuple[str, Any]:
    """Colour and dashes of group ``i``: dashes, so that one curve does not hide another."""
    return COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]


def _known(record: Any, view: str) -> str:
    names = record.views.tolist()
    if view not in names:
        raise ValueError(f"no view {view!r} in this surface; it has {', '.join(names)}")
    return view
