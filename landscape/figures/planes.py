"""Figures of 2D surfaces: contours with trajectories, 3D, and differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from landscape.figures.data import DataFigure
from landscape.figures.levels import Scale, symmetric_levels
from landscape.figures.panels import (
    COLOURMAPS,
    Quantity,
    add_colour_bar,
    contour_panel,
    draw_path,
    height_over_width,
    label_outer_axes,
    label_plainly,
    mark_centre,
    mark_points,
    note_table,
    planes_and_view,
    quantity_and_view,
    shared_levels,
    table_of,
    tell_interpolated,
)
from landscape.figures.style import STYLE, Width, figure, inches
from landscape.figures.symbols import Records, Symbol, by_label
from landscape.records import Plane, PlaneDraws, Status, Trajectory

_NAMES = ("α (filter norms)", "β (filter norms)")
_LARGEST = 2.8  # inches, of one panel: a lone plane does not fill a page


def contours(
    planes: Records[Plane],
    view: str | None = None,
    *,
    quantity: Quantity = "loss",
    levels: int = 16,
    scale: Scale = "auto",
    trajectories: Mapping[str, Trajectory] | None = None,
    columns: int = 4,
    names: tuple[str, str] = _NAMES,
    width: Width = "icml",
    symbols: Mapping[str, Symbol] | None = None,
) -> DataFigure:
    """Planes of one view side by side, with levels shared by all.

    Between the measured points, which are dots, contours are interpolated (local cubics, no higher or lower than what
    was measured); where points lie too close to be told apart they are drawn as measured. Points that are not
    finite are crosses on grey. A white cross marks the weights. Checkpoints outside a plane are clipped.

    Args:
        planes: one, or several by label.
        view: of the data; the first if none.
        quantity: ``loss`` or ``accuracy``.
        levels: about how many.
        scale: of the levels: ``linear``, ``log``, or ``auto`` for ``log`` where values span more than a factor of 20.
        trajectories: checkpoints in the coordinates of the plane of the same label, drawn on it.
        columns: at most so many beside each other.
        names: of the two axes.
        width: of the figure, see ``figures.style.WIDTHS``; few planes take less.
        symbols: of labels that are printed under another name.

    Raises:
        ValueError: a plane lacks the view or quantity, or none holds a finite value.
    """
    planes, view, printed = planes_and_view(planes, view, symbols)
    columns = min(columns, len(planes))
    rows = -(-len(planes) // columns)
    tables = {label: table_of(plane, view, quantity) for label, plane in planes.items()}
    steps, norm, _ = shared_levels(tables, view, quantity, levels, scale)
    aspect = height_over_width(next(iter(planes.values())))
    beside = 1.5 + 0.25 * (columns - 1)  # labels, gaps and colour bar
    panel = min((inches(width) - beside) / columns, _LARGEST)
    height = panel * aspect + 0.32 + 0.5 / rows
    made, axes = figure(rows, columns, height=height, width=width, used=len(planes), sharex=True, sharey=True)
    made.set_figwidth(min(inches(width), panel * columns + beside))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        for ax, (label, plane) in zip(axes.flat, planes.items(), strict=False):
            filled = contour_panel(ax, plane, tables[label], steps, norm, COLOURMAPS[quantity])
            mark_points(ax, plane, view)
            if trajectories and label in trajectories:
                draw_path(ax, trajectories[label], plane)
                made.clips[ax] = {"left", "right", "bottom", "top"}
            mark_centre(ax)
            ax.set(title=printed[label], aspect="equal")
            note_table(made, label, view, plane, tables[label], quantity)
        label_outer_axes(axes, len(planes), names)
        add_colour_bar(made, filled, axes, view, quantity)
        tell_interpolated(made, planes.values(), view)
    return made


def surface3d(
    planes: Records[Plane],
    view: str | None = None,
    *,
    quantity: Quantity = "loss",
    scale: Scale = "auto",
    columns: int = 3,
    names: tuple[str, str] = _NAMES,
    width: Width = "icml",
    symbols: Mapping[str, Symbol] | None = None,
) -> DataFigure:
    """Planes of one view as surfaces in space, on one vertical scale; arguments as for :func:`contours`.

    Points that are not finite are holes.
    """
    planes, view, printed = planes_and_view(planes, view, symbols)
    columns = min(columns, len(planes))
    rows = -(-len(planes) // columns)
    tables = {label: table_of(plane, view, quantity) for label, plane in planes.items()}
    steps, norm, log = shared_levels(tables, view, quantity, 6, scale)
    panel = min(inches(width) / columns, 1.3 * _LARGEST)
    row = 0.86 * panel + 0.22  # inches, the title's among them
    below = 0.22 if panel * columns >= 4 else 0.34  # of the line of text, or two
    made, axes = figure(
        rows, columns, height=row + below / rows, width=width, used=len(planes), subplot_kw={"projection": "3d"}
    )
    made.set_figwidth(panel * columns)
    with mpl.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        made.set_layout_engine(None)  # it does not know what 3D axes need
    whole, drawn = rows * row + below, row - 0.22
    made.subplots_adjust(
        left=0.0, right=0.96, bottom=below / whole, top=1 - 0.22 / whole, wspace=0.06, hspace=0.22 / drawn
    )
    height: Any = np.log10 if log else np.asarray
    with mpl.rc_context({**STYLE, "grid.alpha": 0.6}):
        for ax, (label, plane) in zip(axes.flat, planes.items(), strict=False):
            table = np.clip(tables[label], steps[0], steps[-1])
            a, b = np.meshgrid(plane.alphas, plane.betas, indexing="ij")
            ax.plot_surface(
                a, b, height(table), facecolors=mpl.colormaps[COLOURMAPS[quantity]](norm(table)), rstride=1, cstride=1,
                linewidth=0.15, edgecolor=(1, 1, 1, 0.3), antialiased=True, shade=False,
            )  # fmt: skip
            ax.set_title(printed[label], y=1.0)
            note_table(made, label, view, plane, tables[label], quantity)
            ax.set(xlabel="α", ylabel="β", zlim=height([steps[0], steps[-1]]))
            ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            ax.set_zticks(height(steps), [f"{step:.0%}" if quantity == "accuracy" else f"{step:g}" for step in steps])
            ax.tick_params(pad=-2, labelsize=6)
            ax.xaxis.labelpad = ax.yaxis.labelpad = -7
            ax.view_init(elev=28, azim=-55)
            ax.set_box_aspect((1, 1, 0.8), zoom=0.9)
        scaled = " (logarithmic)" if log else ""
        gap = "\n" if panel * columns < 4 else ";  "
        caption = f"height: {quantity_and_view(view, quantity)}{scaled}{gap}{', '.join(names)}"
        made.text(0.5, 0.04 / whole, caption, ha="center", fontsize=STYLE["legend.fontsize"])
    return made


def difference(
    first: tuple[str, Plane],
    second: tuple[str, Plane],
    view: str | None = None,
    *,
    quantity: Quantity = "loss",
    scale: Scale = "auto",
    levels: int = 16,
    names: tuple[str, str] = _NAMES,
    width: Width = "icml",
    symbols: Mapping[str, Symbol] | None = None,
) -> DataFigure:
    """Two runs on one colour scale, and the first minus the second on a diverging one that is symmetric about zero.

    Where losses are drawn on a logarithmic scale, their ratio is: log₁₀ of the first over the second.

    Args:
        first, second: label and plane; measured on the same grid.

    Raises:
        ValueError: the grids differ, or as for :func:`contours`.
    """
    (name1, plane1), (name2, plane2) = first, second
    if not (np.array_equal(plane1.alphas, plane2.alphas) and np.array_equal(plane1.betas, plane2.betas)):
        raise ValueError(f"the planes of {name1!r} and {name2!r} lie on different grids; measure both on one")
    _, view, printed = planes_and_view({name1: plane1, name2: plane2}, view, symbols)
    tables = {0: table_of(plane1, view, quantity), 1: table_of(plane2, view, quantity)}
    steps, norm, log = shared_levels(tables, view, quantity, levels, scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.log10(tables[0] / tables[1]) if log else tables[0] - tables[1]
    change = np.where(np.isfinite(change), change, np.nan)
    spread = symmetric_levels(change[np.isfinite(change)], levels)
    panel = (inches(width) - 2.6) / 3
    made, axes = figure(1, 3, height=panel * height_over_width(plane1) + 0.7, width=width, sharex=True, sharey=True)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        for ax, (label, plane), table in zip(axes[0], (first, second), tables.values(), strict=False):
            filled = contour_panel(ax, plane, table, steps, norm, COLOURMAPS[quantity])
            mark_points(ax, plane, view)
            ax.set(title=printed[label], aspect="equal")
            note_table(made, label, view, plane, table, quantity)
        add_colour_bar(made, filled, axes[0, :2], view, quantity)
        ax = axes[0, 2]
        moved = contour_panel(ax, plane1, change, spread, Normalize(spread[0], spread[-1]), "PuOr")
        mark_points(ax, plane1, view, plane2)
        ax.set(title="left over right" if log else "left minus right", aspect="equal")
        bar = made.colorbar(moved, ax=ax, shrink=0.9, pad=0.02)
        bar.set_label(f"log₁₀ ratio of {quantity}" if log else f"difference in {quantity}")
        label_plainly(bar, spread, percent=quantity == "accuracy")
        for ax in axes[0]:
            mark_centre(ax)
        label_outer_axes(axes, 3, names)
        tell_interpolated(made, [plane1, plane2], view)
    return made


def plane_draws(
    records: Records[PlaneDraws],
    view: str | None = None,
    *,
    symbols: Mapping[str, Symbol] | None = None,
    **options: Any,
) -> DataFigure:
    """Planes along random directions: of one record the median and every draw, of several the medians.

    Other arguments as for :func:`contours`.
    """
    found = by_label(records)
    if len(found) > 1:
        return contours({label: _plane_of(r, None) for label, r in found.items()}, view, symbols=symbols, **options)
    (record,) = found.values()
    drawn = {f"draw {seed}": _plane_of(record, n) for n, seed in enumerate(record.draws.tolist())}
    return contours({"median of the draws": _plane_of(record, None), **drawn}, view, **options)


def _plane_of(record: PlaneDraws, draw: int | None) -> Plane:
    """One draw as a plane, or the median over them; where a draw is not finite, neither is the median."""
    every, statuses = record.loss, record.status
    loss = np.median(every, axis=0) if draw is None else every[draw]
    status = (
        np.where((statuses == Status.OK).all(axis=0), Status.OK, Status.NONFINITE) if draw is None else statuses[draw]
    )
    accuracy = record.accuracy
    if accuracy is not None:
        accuracy = np.median(accuracy, axis=0) if draw is None else accuracy[draw]
    one = 0 if draw is None else draw
    return Plane(
        views=record.views, alphas=record.alphas, betas=record.betas, loss=loss, status=status.astype(np.uint8),
        weight_norm=record.weight_norm, direction_norms=record.direction_norms[one],
        cosine=float(record.cosines[one]), seed=int(record.draws[one]), accuracy=accuracy,
    )  # fmt: skip
