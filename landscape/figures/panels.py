"""Panels that show planes: their tables and levels, contours, marks, paths, labels and colour bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from landscape.figures.data import DataFigure
from landscape.figures.interpolation import is_interpolated, refined
from landscape.figures.levels import Scale, is_log, levels_between, norm_for
from landscape.figures.symbols import COLOURS, Records, Symbol, by_label, plain, symbols_of
from landscape.records import Plane, Status, Trajectory

Quantity = Literal["loss", "accuracy"]
COLOURMAPS = {"loss": "viridis", "accuracy": "cividis"}
_MISSING = "0.85"  # grey of what was not measured or is not finite


def planes_and_view(
    planes: Records[Plane], view: str | None, symbols: Mapping[str, Symbol] | None
) -> tuple[dict[str, Plane], str, dict[str, str]]:
    """Planes by label, the view, and the name that is printed for each label."""
    found = by_label(planes)
    view = str(next(iter(found.values())).views[0]) if view is None else view
    return found, view, {label: plain(symbol.name) for label, symbol in symbols_of(found, symbols).items()}


def table_of(plane: Plane, view: str, quantity: Quantity) -> np.ndarray:
    """The (alpha, beta) values of one view.

    Raises:
        ValueError: the plane has no such view or quantity.
    """
    names = plane.views.tolist()
    if view not in names:
        raise ValueError(f"no view {view!r} in this surface; it has {', '.join(names)}")
    if quantity not in COLOURMAPS:
        raise ValueError(f"unknown quantity {quantity!r}; known: {', '.join(COLOURMAPS)}")
    values = getattr(plane, quantity)
    if values is None:
        raise ValueError(f"this surface holds no {quantity}")
    return np.asarray(values[names.index(view)])


def shared_levels(
    tables: Mapping[Any, np.ndarray], view: str, quantity: Quantity, levels: int, scale: Scale
) -> tuple[np.ndarray, Normalize, bool]:
    """Levels, colours and whether they are logarithmic, for all tables together."""
    finite = np.concatenate([t[np.isfinite(t)] for t in tables.values()])
    if not finite.size:
        raise ValueError(f"no plane holds a finite {quantity} of view {view!r}")
    if quantity == "accuracy":
        scale = "linear" if scale == "auto" else scale
    log = is_log(finite, scale)
    if log:
        finite = finite[finite > 0]
    steps = levels_between(float(finite.min()), float(finite.max()), levels, log=log)
    return steps, norm_for(steps, log=log), log


def note_table(made: DataFigure, label: str, view: str, plane: Plane, table: np.ndarray, quantity: Quantity) -> None:
    a, b = np.meshgrid(plane.alphas, plane.betas, indexing="ij")
    made.note(label=label, view=view, alpha=a, beta=b, **{quantity: table})


def contour_panel(ax: Axes, plane: Plane, table: np.ndarray, steps: np.ndarray, norm: Normalize, colours: str) -> Any:
    ax.set_facecolor(_MISSING)
    ax.grid(False)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    clipped = np.where(np.isfinite(table), np.clip(table, steps[0], steps[-1]), np.nan)
    a, b, fine = refined(plane.alphas, plane.betas, clipped, log=isinstance(norm, LogNorm))
    shown = np.ma.masked_invalid(fine).T
    filled = ax.contourf(a, b, shown, steps, norm=norm, cmap=colours)
    filled.set_edgecolor("face")  # or viewers of vector files show the seams
    ax.contour(a, b, shown, steps, norm=norm, colors="white", linewidths=0.3, alpha=0.6)
    return filled


def mark_points(ax: Axes, plane: Plane, view: str, *others: Plane) -> None:
    """Dots where a value was measured, crosses where it is not finite."""
    all_status = [p.status[p.views.tolist().index(view)] for p in (plane, *others)]
    bad = np.logical_or.reduce([status == Status.NONFINITE for status in all_status])
    measured = np.logical_and.reduce([status == Status.OK for status in all_status])
    styles: list[tuple[np.ndarray, dict[str, Any]]] = [
        (bad, {"marker": "x", "s": 9.0, "c": COLOURS[1], "linewidths": 0.8, "label": "not finite"})
    ]
    if any(is_interpolated(p, view) for p in (plane, *others)):
        styles.append((measured, {"marker": ".", "s": 1.2, "c": "black", "linewidths": 0, "alpha": 0.6, "label": "_"}))
    for where, style in styles:
        i, j = np.nonzero(where)
        if len(i):
            ax.scatter(plane.alphas[i], plane.betas[j], **style)


def mark_centre(ax: Axes) -> None:
    ax.plot(0, 0, marker="P", color="white", markersize=5, markeredgecolor="black", markeredgewidth=0.6)


def draw_path(ax: Axes, path: Trajectory, plane: Plane) -> None:
    """Checkpoints joined in order, the first and last named by epoch; those outside the plane do not widen it."""
    limits = ax.get_xlim(), ax.get_ylim()
    x, y = path.coordinates[:, 0], path.coordinates[:, 1]
    ax.plot(
        x, y, color="white", marker="o", markersize=2.4, markeredgecolor="black", markeredgewidth=0.4, linewidth=0.9,
        label="checkpoints",
    )  # fmt: skip
    inside = (plane.alphas[0] <= x) & (x <= plane.alphas[-1]) & (plane.betas[0] <= y) & (y <= plane.betas[-1])
    paper: dict[str, Any] = {"fontsize": 6, "bbox": {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}}
    for i in sorted({int(np.flatnonzero(inside)[0]), len(x) - 1} if inside.any() else set()):
        right = x[i] > np.mean(limits[0])
        ax.annotate(
            f"epoch {path.epochs[i]}", (x[i], y[i]), (-4 if right else 4, -9), textcoords="offset points",
            ha="right" if right else "left", **paper,
        )  # fmt: skip
    ax.text(0.03, 0.03, f"{path.explained:.0%} of the path in this plane", transform=ax.transAxes, **paper)
    ax.set(xlim=limits[0], ylim=limits[1])


def height_over_width(plane: Plane) -> float:
    """Height over width of a panel."""
    return float(np.ptp(plane.betas) / np.ptp(plane.alphas)) if np.ptp(plane.alphas) else 1.0


def label_outer_axes(axes: np.ndarray, count: int, names: tuple[str, str]) -> None:
    """The first name below the lowest panel of each column, the second beside each row."""
    for column in range(axes.shape[1]):
        lowest = max((r for r in range(axes.shape[0]) if r * axes.shape[1] + column < count), default=0)
        axes[lowest, column].set_xlabel(names[0])
        axes[lowest, column].tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel(names[1])


def quantity_and_view(view: str, quantity: Quantity) -> str:
    return f"{quantity}, view {view.replace('_', ' ')}"


def add_colour_bar(made: DataFigure, filled: Any, axes: np.ndarray, view: str, quantity: Quantity) -> None:
    bar = made.colorbar(filled, ax=axes, shrink=0.9, pad=0.01)
    bar.set_label(quantity_and_view(view, quantity))
    label_plainly(bar, filled.levels, percent=quantity == "accuracy")


def label_plainly(bar: Any, steps: np.ndarray, *, percent: bool) -> None:
    every, middle = 1 if len(steps) <= 9 else 2, len(steps) // 2
    # Every other label where there are many: zero on a diverging bar, the shorter numbers elsewhere (1, 2, 5, 10).
    begin = middle % every if steps[middle] == 0 else min(range(every), key=lambda i: _letters(steps[i::every]))
    bar.set_ticks(steps[begin::every])
    bar.minorticks_off()
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0) if percent else FuncFormatter(_plain))


def _letters(steps: np.ndarray) -> float:
    return float(np.mean([len(f"{step:g}") for step in steps]))


def _plain(value: float, _position: int) -> str:
    return f"{value:g}"


def tell_interpolated(made: DataFigure, planes: Iterable[Plane], view: str) -> None:
    if any(is_interpolated(plane, view) for plane in planes):
        made.supxlabel("dots: measured; between them interpolated", fontsize=6, color="0.35")
