"""Figures of basins: on the surface, as a merge tree, and as a persistence diagram with the error of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from landscape.figures.data import DataFigure
from landscape.figures.planes import contours
from landscape.figures.style import STYLE, below, figure
from landscape.figures.symbols import COLOURS, Records, by_label, plain
from landscape.records import Persistence, PersistenceDraws, Plane, Status

_GREY = "0.6"  # of what is not certified
_BASIN, _PEAK = COLOURS[0], COLOURS[1]
_NEVER = "never merges"


def persistence_diagrams(records: Records[Persistence]) -> DataFigure:
    """Birth and death of every basin and peak, a panel a record; what is not certified is grey.

    A bar above the diagonal reaches to twice the error of the feature: one that ends within its bar may not exist.
    Basins that never merge with a deeper one stand on the dashed line.
    """
    made = _panels(records, _diagram, "death (loss)")
    for ax in made.axes:
        ax.set_xlabel("birth (loss)")
    return made


def merge_trees(records: Records[Persistence]) -> DataFigure:
    """Merge trees, a panel a record: each basin from its minimum up to the saddle where it joins a deeper one.

    What is not certified is grey; the bar at a certified basin's minimum is twice its error.
    """
    return _panels(records, _tree, "loss")


def basins(record: Persistence, **options: Any) -> DataFigure:
    """The surface with its basins: minima, saddles and borders of those that are certified, the others grey.

    Dots are the points of the surface, between which contours are interpolated; a border joins points.

    Args:
        record: of a plane, which is drawn as contours, or of a line.
        options: of :func:`landscape.figures.contours`, for a plane.
    """
    if record.betas is None:
        return _on_line(record)
    loss = record.grid(record.loss)
    plane = Plane(
        views=np.array([record.view]), alphas=record.alphas, betas=record.betas, loss=loss[None],
        status=np.where(np.isfinite(loss), Status.OK, Status.NONFINITE)[None].astype(np.uint8), weight_norm=np.nan,
        direction_norms=np.full(2, np.nan), cosine=np.nan, seed=None,
    )  # fmt: skip
    made = contours({record.label or "": plane}, **options)
    made.points.clear()
    made.supxlabel("")  # its place is the legend's
    _note(made, record.label or "", record)
    ax, sure = made.axes[0], np.asarray(record.certified, bool)
    with mpl.rc_context(STYLE):
        limits = ax.get_xlim(), ax.get_ylim()
        for k in np.flatnonzero(sure & np.isfinite(record.death)):
            inside = np.isin(record.grid(record.basin_of), _within(record, int(k))).astype(float)
            ax.contour(record.alphas, record.betas, inside.T, [0.5], colors="white", linewidths=1.0)
        for kept, options_of in ((~sure, {"color": _GREY}), (sure, {"color": "white"})):
            shown: dict[str, Any] = {"linestyle": "", "markeredgecolor": "black", "markeredgewidth": 0.5, **options_of}
            name = "certified" if kept is sure else "not certified"
            if kept.any():
                ax.plot(*record.minimum[kept].T, marker="o", markersize=4.0, label=f"minimum, {name}", **shown)
            ended = kept & np.isfinite(record.death)
            if ended.any():
                ax.plot(*record.saddle[ended].T, marker="D", markersize=3.2, label=f"saddle, {name}", **shown)
        ax.set(xlim=limits[0], ylim=limits[1])
        below(made, [ax], columns=2)
    return made


def persistence_spread(records: Records[PersistenceDraws]) -> DataFigure:
    """Every draw's numbers of basins as dots, with the mean and its interval; a panel a quantity, a row a record."""
    found = by_label(records)
    names = next(iter(found.values())).quantities.tolist()
    made, axes = figure(1, len(names), height=1.0 + 0.25 * len(found), sharey=True)
    with mpl.rc_context(STYLE):
        for place, (label, record) in enumerate(found.items()):
            for ax, name in zip(axes[0], names, strict=True):
                row = record.quantities.tolist().index(name)
                draws, mean, low, high = record.values[row], record.mean[row], record.low[row], record.high[row]
                made.note(label=label, quantity=name, draw=record.draws, value=draws, mean=mean, low=low, high=high)
                ax.plot(draws, np.full(len(draws), place), "|", color="0.4", markersize=7)
                if np.isfinite([low, high]).all():
                    ax.errorbar(
                        [mean],
                        [place],
                        xerr=[[mean - low], [high - mean]],
                        fmt="o",
                        capsize=2,
                        color=_BASIN,
                        markersize=3,
                    )
        for ax, name in zip(axes[0], names, strict=True):
            ax.set_xlabel(name.replace("_", " "))
            ax.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
        if any(found):
            axes[0, 0].set_yticks(range(len(found)), [plain(label) for label in found])
        else:
            axes[0, 0].yaxis.set_major_locator(NullLocator())
        axes[0, 0].set_ylim(len(found) - 0.5, -0.5)
    return made


def _panels(
    records: Records[Persistence], draw: Callable[[DataFigure, Axes, str, Persistence], None], label: str
) -> DataFigure:
    """A panel for each record, drawn by ``draw``; ``label`` is that of the y axis."""
    found = by_label(records)
    made, axes = figure(1, len(found), height=2.9, width="icml" if len(found) > 1 else "icml-column")
    with mpl.rc_context(STYLE):
        for ax, (title, record) in zip(axes[0], found.items(), strict=True):
            draw(made, ax, title, record)
            ax.set_title(plain(title))
        axes[0, 0].set_ylabel(label)
        below(made, axes.flat, columns=2)
    return made


def _diagram(made: DataFigure, ax: Axes, label: str, record: Persistence) -> None:
    _note(made, label, record)
    ends = [record.birth, record.death[np.isfinite(record.death)]]
    if record.peak_birth is not None and record.peak_death is not None:
        ends += [record.peak_birth, record.peak_death]
    every = np.concatenate(ends)
    low, high = float(every.min()), float(every.max())
    span = (high - low) or abs(high) or 1.0
    never = high + 0.12 * span
    ax.plot([low, high], [low, high], color="black", linewidth=0.6)
    kinds: list[tuple[str, str, str, Any, Any, Any, Any]] = [
        ("basin", "o", _BASIN, record.birth, record.death, record.error, record.certified)
    ]
    if record.peak_birth is not None:
        kinds.append(
            ("peak", "^", _PEAK, record.peak_birth, record.peak_death, record.peak_error, record.peak_certified)
        )
    for kind, marker, colour, birth, death, error, certified in kinds:
        for b, top in zip(birth, np.minimum(birth + 2 * error, never), strict=True):
            ax.plot([b, b], [b, max(b, top)], color="0.85", linewidth=2.5, zorder=0)
        sure, y = np.asarray(certified, bool), np.where(np.isfinite(death), death, never)
        for kept, shown, told in ((~sure, _GREY, "not certified"), (sure, colour, "certified")):
            if kept.any():
                face = shown if told == "certified" else "white"
                ax.plot(
                    birth[kept], y[kept], marker, color=shown, markerfacecolor=face, markersize=4,
                    label=f"{kind}, {told}",
                )  # fmt: skip
    ax.axhline(never, color="black", linewidth=0.5, linestyle="--")
    ax.annotate(_NEVER, (low, never), (0, 3), textcoords="offset points", fontsize=6)
    ax.set_ylim(low - 0.06 * span, never + 0.14 * span)
    ax.margins(x=0.08)


def _tree(made: DataFigure, ax: Axes, label: str, record: Persistence) -> None:
    _note(made, label, record)
    place = {k: x for x, k in enumerate(_order(record))}
    finite = record.death[np.isfinite(record.death)]
    high = float(finite.max(initial=float(record.birth.max())))
    span = (high - float(record.birth.min())) or abs(high) or 1.0
    told = set()
    for k, x in place.items():
        sure, parent = bool(record.certified[k]), int(record.parent[k])
        colour, name = (_BASIN, "certified") if sure else (_GREY, "not certified")
        top = record.death[k] if parent >= 0 else high + 0.15 * span
        style: dict[str, Any] = {"color": colour, "linewidth": 1.4 if sure else 0.7}
        ax.plot([x, x], [record.birth[k], top], label="_" if name in told else f"basin, {name}", **style)
        told.add(name)
        if parent >= 0:
            ax.plot([x, place[parent]], [top, top], **style)
        if sure:
            reach = min(2 * float(record.error[k]), top - float(record.birth[k]))
            ax.plot([x, x], [record.birth[k], record.birth[k] + reach], color="0.75", linewidth=4.5, zorder=0)
            ax.plot([x], [record.birth[k]], "o", color=colour, markersize=4)
    ax.xaxis.set_major_locator(NullLocator())
    ax.grid(False, axis="x")
    ax.set_xlabel("basins")
    ax.margins(x=0.1)


def _order(record: Persistence) -> list[int]:
    """Basins from left to right such that no branch crosses another: each before those that join it, lowest first."""
    children: dict[int, list[int]] = {}
    for k, parent, _ in record.merge_tree():
        children.setdefault(parent, []).append(k)
    waiting = [k for k in range(len(record.birth) - 1, -1, -1) if record.parent[k] < 0]
    found: list[int] = []
    while waiting:
        k = waiting.pop()
        found.append(k)
        waiting.extend(reversed(children.get(k, [])))
    return found


def _within(record: Persistence, basin: int) -> list[int]:
    """A basin and all that end in it."""
    found = [basin]
    for k in found:
        found.extend(np.flatnonzero(record.parent == k).tolist())
    return found


def _on_line(record: Persistence) -> DataFigure:
    made, axes = figure(1, 1, height=2.6, width="icml-column")
    ax = axes[0, 0]
    _note(made, record.label or "", record)
    with mpl.rc_context(STYLE):
        ax.plot(record.alphas, record.loss, color="black", linewidth=0.8)
        told = set()
        for k, (birth, death) in enumerate(zip(record.birth, record.death, strict=True)):
            sure = bool(record.certified[k])
            colour, name = (_BASIN, "certified") if sure else (_GREY, "not certified")
            x = float(record.minimum[k, 0])
            ax.plot([x], [birth], "o", color=colour, label="_" if name in told else f"minimum, {name}")
            told.add(name)
            if np.isfinite(death):
                ax.plot([x, x, record.saddle[k, 0]], [birth, death, death], color=colour, linewidth=0.7, linestyle=":")
        ax.set(xlabel="α (filter norms)", ylabel="loss", title=plain(record.label or record.view))
        below(made, [ax], columns=2)
    return made


def _note(made: DataFigure, label: str, record: Persistence) -> None:
    made.note(
        label=label, feature="basin", birth=record.birth, death=record.death, error=record.error,
        certified=np.asarray(record.certified, bool), area=record.area,
    )  # fmt: skip
    if record.peak_birth is not None and len(record.peak_birth):
        made.note(
            label=label, feature="peak", birth=record.peak_birth, death=record.peak_death, error=record.peak_error,
            certified=np.asarray(record.peak_certified, bool),
        )  # fmt: skip
