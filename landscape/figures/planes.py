"""Pictures of 2D surfaces: contours with trajectories, 3D, and differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from landscape.figures.data import DataFigure
from landscape.figures.levels import is_log, levels_between, norm_for, symmetric_levels
from landscape.figures.style import COLOURS, STYLE, figure, inches
from landscape.records import Plane, Status, Trajectory

_COLOURMAPS = {"loss": "viridis", "accuracy": "cividis"}
_NAMES = ("α (filter norms)", "β (filter norms)")
_LARGEST = 2.8  # inches, of one panel: a lone plane does not fill a page
_MISSING = "0.85"  # grey of what was not measured or is not finite


def contours(
    planes: Mapping[str, Plane],
    view: str,
    *,
    quantity: str = "loss",
    levels: int = 16,
    scale: str = "auto",
    trajectories: Mapping[str, Trajectory] | None = None,
    columns: int = 4,
    names: tuple[str, str] = _NAMES,
    width: str = "icml",
) -> Figure:
    """Planes of one view side by side, with levels shared by all.

    Points that are not finite are crosses on grey, interpolated ones dots. A cross marks the weights.

    Args:
        planes: by label.
        quantity: ``loss`` or ``accuracy``.
        levels: about how many.
        scale: of the levels: ``linear``, ``log``, or ``auto`` for ``log`` where values span more than a factor of 20.
        trajectories: checkpoints in the coordinates of the plane of the same label, drawn on it.
        columns: at most so many beside each other.
        names: of the two axes.
        width: of the figure, see ``figures.style.WIDTHS``; few planes take less.

    Raises:
        ValueError: a plane lacks the view or quantity, or none holds a finite value.
    """
    columns = min(columns, len(planes))
    rows = -(-len(planes) // columns)
    tables = {label: table_of(plane, view, quantity) for label, plane in planes.items()}
    steps, norm, _ = _shared(tables, view, quantity, levels, scale)
    aspect = _aspect(next(iter(planes.values())))
    beside = 1.5 + 0.25 * (columns - 1)  # labels, gaps and colour bar
    panel = min((inches(width) - beside) / columns, _LARGEST)
    height = panel * aspect + 0.32 + 0.36 / rows
    made, axes = figure(rows, columns, height=height, width=width, sharex=True, sharey=True)
    made.set_figwidth(min(inches(width), panel * columns + beside))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        for ax in axes.flat[len(planes) :]:
            ax.set_visible(False)
        for ax, (label, plane) in zip(axes.flat, planes.items(), strict=False):
            filled = _panel(ax, plane, tables[label], steps, norm, _COLOURMAPS[quantity])
            _mark(ax, plane, view)
            if trajectories and label in trajectories:
                _path(ax, trajectories[label], plane)
            _centre(ax)
            ax.set(title=label, aspect="equal")
            _note(made, label, view, plane, tables[label], quantity)
        _outer_labels(axes, len(planes), names)
        _colour_bar(made, filled, axes, view, quantity)
    return made


def surface3d(
    planes: Mapping[str, Plane],
    view: str,
    *,
    quantity: str = "loss",
    scale: str = "auto",
    columns: int = 3,
    names: tuple[str, str] = _NAMES,
    width: str = "icml",
) -> Figure:
    """Planes of one view as surfaces in space, on one vertical scale; arguments as for :func:`contours`.

    Points that are not finite are holes.
    """
    columns = min(columns, len(planes))
    rows = -(-len(planes) // columns)
    tables = {label: table_of(plane, view, quantity) for label, plane in planes.items()}
    steps, norm, log = _shared(tables, view, quantity, 6, scale)
    panel = min(inches(width) / columns, 1.3 * _LARGEST)
    made, axes = figure(rows, columns, height=0.9 * panel + 0.1, width=width, subplot_kw={"projection": "3d"})
    made.set_figwidth(panel * columns)
    with mpl.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        made.set_layout_engine(None)  # it does not know what 3D axes need
    made.subplots_adjust(left=0.0, right=0.97, bottom=0.12 / rows, top=1.0, wspace=0.06, hspace=0.0)
    height: Any = np.log10 if log else np.asarray
    with mpl.rc_context({**STYLE, "grid.alpha": 0.6}):
        for ax in axes.flat[len(planes) :]:
            ax.remove()
        for ax, (label, plane) in zip(axes.flat, planes.items(), strict=False):
            table = np.clip(tables[label], steps[0], steps[-1])
            a, b = np.meshgrid(plane.alphas, plane.betas, indexing="ij")
            ax.plot_surface(
                a, b, height(table), facecolors=mpl.colormaps[_COLOURMAPS[quantity]](norm(table)), rstride=1, cstride=1,
                linewidth=0.15, edgecolor=(1, 1, 1, 0.3), antialiased=True, shade=False,
            )  # fmt: skip
            ax.set_title(label, y=0.95)
            _note(made, label, view, plane, tables[label], quantity)
            ax.set(xlabel="α", ylabel="β", zlim=height([steps[0], steps[-1]]))
            ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            ax.set_zticks(height(steps), [f"{step:.0%}" if quantity == "accuracy" else f"{step:g}" for step in steps])
            ax.tick_params(pad=-2, labelsize=6)
            ax.xaxis.labelpad = ax.yaxis.labelpad = -7
            ax.view_init(elev=28, azim=-55)
            ax.set_box_aspect((1, 1, 0.8), zoom=0.98)
        scaled = " (logarithmic)" if log else ""
        gap = "\n" if panel * columns < 4 else ";  "
        caption = f"height: {_title(view, quantity)}{scaled}{gap}{', '.join(names)}"
        made.text(0.5, 0.015, caption, ha="center", fontsize=STYLE["legend.fontsize"])
    return made


def difference(
    first: tuple[str, Plane],
    second: tuple[str, Plane],
    view: str,
    *,
    quantity: str = "loss",
    scale: str = "auto",
    levels: int = 16,
    names: tuple[str, str] = _NAMES,
    width: str = "icml",
) -> Figure:
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
    tables = {0: table_of(plane1, view, quantity), 1: table_of(plane2, view, quantity)}
    steps, norm, log = _shared(tables, view, quantity, levels, scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.log10(tables[0] / tables[1]) if log else tables[0] - tables[1]
    change = np.where(np.isfinite(change), change, np.nan)
    spread = symmetric_levels(change[np.isfinite(change)], levels)
    panel = (inches(width) - 2.6) / 3
    made, axes = figure(1, 3, height=panel * _aspect(plane1) + 0.7, width=width, sharex=True, sharey=True)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        for ax, (label, plane), table in zip(axes[0], (first, second), tables.values(), strict=False):
            filled = _panel(ax, plane, table, steps, norm, _COLOURMAPS[quantity])
            _mark(ax, plane, view)
            ax.set(title=label, aspect="equal")
            _note(made, label, view, plane, table, quantity)
        _colour_bar(made, filled, axes[0, :2], view, quantity)
        ax = axes[0, 2]
        moved = _panel(ax, plane1, change, spread, Normalize(spread[0], spread[-1]), "PuOr")
        ax.set(title="left over right" if log else "left minus right", aspect="equal")
        bar = made.colorbar(moved, ax=ax, shrink=0.9, pad=0.02)
        bar.set_label(f"log₁₀ ratio of {quantity}" if log else f"difference in {quantity}")
        _plain_bar(bar, spread, percent=quantity == "accuracy")
        for ax in axes[0]:
            _centre(ax)
        _outer_labels(axes, 3, names)
    return made


def table_of(plane: Plane, view: str, quantity: str) -> np.ndarray:
    """The (alpha, beta) values of one view.

    Raises:
        ValueError: the plane has no such view or quantity.
    """
    names = plane.views.tolist()
    if view not in names:
        raise ValueError(f"no view {view!r} in this surface; it has {', '.join(names)}")
    if quantity not in _COLOURMAPS:
        raise ValueError(f"unknown quantity {quantity!r}; known: {', '.join(_COLOURMAPS)}")
    values = getattr(plane, quantity)
    if values is None:
        raise ValueError(f"this surface holds no {quantity}")
    return np.asarray(values[names.index(view)])


def _shared(
    tables: Mapping[Any, np.ndarray], view: str, quantity: str, levels: int, scale: str
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


def _note(made: DataFigure, label: str, view: str, plane: Plane, table: np.ndarray, quantity: str) -> None:
    a, b = np.meshgrid(plane.alphas, plane.betas, indexing="ij")
    made.note(label=label, view=view, alpha=a, beta=b, **{quantity: table})


def _panel(ax: Axes, plane: Plane, table: np.ndarray, steps: np.ndarray, norm: Normalize, colours: str) -> Any:
    shown = np.ma.masked_invalid(np.where(np.isfinite(table), np.clip(table, steps[0], steps[-1]), np.nan)).T
    ax.set_facecolor(_MISSING)
    ax.grid(False)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    filled = ax.contourf(plane.alphas, plane.betas, shown, steps, norm=norm, cmap=colours)
    filled.set_edgecolor("face")  # or viewers of vector files show the seams
    ax.contour(plane.alphas, plane.betas, shown, steps, norm=norm, colors="white", linewidths=0.3, alpha=0.6)
    return filled


def _mark(ax: Axes, plane: Plane, view: str) -> None:
    """Crosses where a value is not finite, dots where it was interpolated."""
    status = plane.status[plane.views.tolist().index(view)]
    styles: tuple[tuple[Status, dict[str, Any]], ...] = (
        (Status.INTERPOLATED, {"marker": ".", "s": 1.0, "c": "black", "linewidths": 0, "alpha": 0.5}),
        (Status.NONFINITE, {"marker": "x", "s": 9.0, "c": COLOURS[1], "linewidths": 0.8}),
    )
    for code, style in styles:
        i, j = np.nonzero(status == code)
        if len(i):
            label = str(code.name).lower().replace("nonfinite", "not finite")
            ax.scatter(plane.alphas[i], plane.betas[j], label=label, **style)


def _centre(ax: Axes) -> None:
    ax.plot(0, 0, marker="P", color="white", markersize=5, markeredgecolor="black", markeredgewidth=0.6)


def _aspect(plane: Plane) -> float:
    """Height over width of a panel."""
    return float(np.ptp(plane.betas) / np.ptp(plane.alphas)) if np.ptp(plane.alphas) else 1.0


def _path(ax: Axes, path: Trajectory, plane: Plane) -> None:
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


def _outer_labels(axes: np.ndarray, count: int, names: tuple[str, str]) -> None:
    """The first name below the lowest panel of each column, the second beside each row."""
    for column in range(axes.shape[1]):
        lowest = max((r for r in range(axes.shape[0]) if r * axes.shape[1] + column < count), default=0)
        axes[lowest, column].set_xlabel(names[0])
        axes[lowest, column].tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel(names[1])


def _title(view: str, quantity: str) -> str:
    return f"{quantity}, view {view.replace('_', ' ')}"


def _colour_bar(made: Figure, filled: Any, axes: np.ndarray, view: str, quantity: str) -> None:
    bar = made.colorbar(filled, ax=axes, shrink=0.9, pad=0.01)
    bar.set_label(_title(view, quantity))
    _plain_bar(bar, filled.levels, percent=quantity == "accuracy")


def _plain_bar(bar: Any, steps: np.ndarray, *, percent: bool) -> None:
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
