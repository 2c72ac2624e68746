"""Figures of 2D surfaces: contours with trajectories, 3D, and differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from scipy.interpolate import Akima1DInterpolator

from landscape.figures.data import DataFigure
from landscape.figures.levels import Scale, is_log, levels_between, norm_for, symmetric_levels
from landscape.figures.style import STYLE, Width, figure, inches
from landscape.figures.symbols import COLOURS, Records, Symbol, by_label, plain, symbols_of
from landscape.records import Plane, PlaneDraws, Status, Trajectory

Quantity = Literal["loss", "accuracy"]
_COLOURMAPS = {"loss": "viridis", "accuracy": "cividis"}
_NAMES = ("α (filter norms)", "β (filter norms)")
_LARGEST = 2.8  # inches, of one panel: a lone plane does not fill a page
_MISSING = "0.85"  # grey of what was not measured or is not finite
_FINE = 121  # points along an axis that contours are drawn from, where fewer were measured


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
    planes, view, printed = _named(planes, view, symbols)
    columns = min(columns, len(planes))
    rows = -(-len(planes) // columns)
    tables = {label: table_of(plane, view, quantity) for label, plane in planes.items()}
    steps, norm, _ = _shared(tables, view, quantity, levels, scale)
    aspect = _aspect(next(iter(planes.values())))
    beside = 1.5 + 0.25 * (columns - 1)  # labels, gaps and colour bar
    panel = min((inches(width) - beside) / columns, _LARGEST)
    height = panel * aspect + 0.32 + 0.5 / rows
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
                made.clips[ax] = {"left", "right", "bottom", "top"}
            _centre(ax)
            ax.set(title=printed[label], aspect="equal")
            _note(made, label, view, plane, tables[label], quantity)
        _outer_labels(axes, len(planes), names)
        _colour_bar(made, filled, axes, view, quantity)
        _say_interpolated(made, planes.values(), view)
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
    planes, view, printed = _named(planes, view, symbols)
    columns = min(columns, len(planes))
    rows = -(-len(planes) // columns)
    tables = {label: table_of(plane, view, quantity) for label, plane in planes.items()}
    steps, norm, log = _shared(tables, view, quantity, 6, scale)
    panel = min(inches(width) / columns, 1.3 * _LARGEST)
    row = 0.86 * panel + 0.22  # inches, the title's among them
    below = 0.22 if panel * columns >= 4 else 0.34  # of the line of text, or two
    made, axes = figure(rows, columns, height=row + below / rows, width=width, subplot_kw={"projection": "3d"})
    made.set_figwidth(panel * columns)
    with mpl.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        made.set_layout_engine(None)  # it does not know what 3D axes need
    whole, drawn = rows * row + below, row - 0.22
    made.subplots_adjust(
        left=0.0, right=0.96, bottom=below / whole, top=1 - 0.22 / whole, wspace=0.06, hspace=0.22 / drawn
    )
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
            ax.set_title(printed[label], y=1.0)
            _note(made, label, view, plane, tables[label], quantity)
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
        caption = f"height: {_title(view, quantity)}{scaled}{gap}{', '.join(names)}"
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
    _, view, printed = _named({name1: plane1, name2: plane2}, view, symbols)
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
            ax.set(title=printed[label], aspect="equal")
            _note(made, label, view, plane, table, quantity)
        _colour_bar(made, filled, axes[0, :2], view, quantity)
        ax = axes[0, 2]
        moved = _panel(ax, plane1, change, spread, Normalize(spread[0], spread[-1]), "PuOr")
        _mark(ax, plane1, view, plane2)
        ax.set(title="left over right" if log else "left minus right", aspect="equal")
        bar = made.colorbar(moved, ax=ax, shrink=0.9, pad=0.02)
        bar.set_label(f"log₁₀ ratio of {quantity}" if log else f"difference in {quantity}")
        _plain_bar(bar, spread, percent=quantity == "accuracy")
        for ax in axes[0]:
            _centre(ax)
        _outer_labels(axes, 3, names)
        _say_interpolated(made, [plane1, plane2], view)
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


def _named(
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
    if quantity not in _COLOURMAPS:
        raise ValueError(f"unknown quantity {quantity!r}; known: {', '.join(_COLOURMAPS)}")
    values = getattr(plane, quantity)
    if values is None:
        raise ValueError(f"this surface holds no {quantity}")
    return np.asarray(values[names.index(view)])


def _shared(
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


def _note(made: DataFigure, label: str, view: str, plane: Plane, table: np.ndarray, quantity: Quantity) -> None:
    a, b = np.meshgrid(plane.alphas, plane.betas, indexing="ij")
    made.note(label=label, view=view, alpha=a, beta=b, **{quantity: table})


def _panel(ax: Axes, plane: Plane, table: np.ndarray, steps: np.ndarray, norm: Normalize, colours: str) -> Any:
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


def refined(
    alphas: np.ndarray, betas: np.ndarray, table: np.ndarray, *, log: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A table between its points: local cubics (Akima) along either axis, through every point, within their range.

    Args:
        alphas, betas: where the points are, ascending.
        table: (alpha, beta); cells of the grid with a corner that is not finite stay NaN.
        log: interpolate logarithms; all finite values are positive.

    Returns:
        the finer axes and table, the measured points among them; the same where enough points were measured.

    >>> at = np.linspace(-1, 1, 5)
    >>> a, b, fine = refined(at, at, at[:, None] ** 2 + at**2)
    >>> bool(np.allclose(fine, a[:, None] ** 2 + b**2))
    True
    """
    if min(table.shape) < 3:
        return alphas, betas, table
    finite = np.isfinite(table)
    values = np.log(table, where=finite, out=np.full_like(table, np.nan)) if log else table.copy()
    for row in values.T, values:  # holes take what lies beside them, and are cut out again below
        for line in row:
            there = np.isfinite(line)
            if there.any() and not there.all():
                line[~there] = np.interp(np.flatnonzero(~there), np.flatnonzero(there), line[there])
    if not np.isfinite(values).all():
        return alphas, betas, table
    a, b = _finer(alphas), _finer(betas)
    fine = Akima1DInterpolator(betas, Akima1DInterpolator(alphas, values, axis=0)(a), axis=1)(b)
    fine = np.exp(fine) if log else fine
    fine = np.clip(fine, table[finite].min(), table[finite].max())
    fine[_hole(a, alphas, b, betas, finite)] = np.nan
    return a, b, fine


def _finer(axis: np.ndarray) -> np.ndarray:
    parts = -(-(_FINE - 1) // (len(axis) - 1))
    steps = np.linspace(axis[:-1], axis[1:], parts, endpoint=False).T.ravel()
    return np.append(steps, axis[-1])


def _hole(a: np.ndarray, alphas: np.ndarray, b: np.ndarray, betas: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Mark fine points that lie in, or on the edge of, a cell of the grid with a corner that is not finite."""
    below = [
        np.clip(np.searchsorted(axis, at, "right") - 1, 0, len(axis) - 1) for axis, at in ((alphas, a), (betas, b))
    ]
    above = [np.clip(np.searchsorted(axis, at, "left"), 0, len(axis) - 1) for axis, at in ((alphas, a), (betas, b))]
    corners = [finite[np.ix_(i, j)] for i in (below[0], above[0]) for j in (below[1], above[1])]
    return ~np.logical_and.reduce(corners)


def _interpolated(plane: Plane, view: str) -> bool:
    """Tell whether contours lie between measured points that are far enough apart to be seen."""
    status = plane.status[plane.views.tolist().index(view)]
    return bool(min(status.shape) > 1 and (max(status.shape) < _FINE // 2 or (status == Status.INTERPOLATED).any()))


def _say_interpolated(made: DataFigure, planes: Iterable[Plane], view: str) -> None:
    if any(_interpolated(plane, view) for plane in planes):
        made.supxlabel("dots: measured; between them interpolated", fontsize=6, color="0.35")


def _mark(ax: Axes, plane: Plane, view: str, *others: Plane) -> None:
    """Dots where a value was measured, crosses where it is not finite."""
    all_status = [p.status[p.views.tolist().index(view)] for p in (plane, *others)]
    bad = np.logical_or.reduce([status == Status.NONFINITE for status in all_status])
    measured = np.logical_and.reduce([status == Status.OK for status in all_status])
    styles: list[tuple[np.ndarray, dict[str, Any]]] = [
        (bad, {"marker": "x", "s": 9.0, "c": COLOURS[1], "linewidths": 0.8, "label": "not finite"})
    ]
    if any(_interpolated(p, view) for p in (plane, *others)):
        styles.append((measured, {"marker": ".", "s": 1.2, "c": "black", "linewidths": 0, "alpha": 0.6, "label": "_"}))
    for where, style in styles:
        i, j = np.nonzero(where)
        if len(i):
            ax.scatter(plane.alphas[i], plane.betas[j], **style)


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


def _title(view: str, quantity: Quantity) -> str:
    return f"{quantity}, view {view.replace('_', ' ')}"


def _colour_bar(made: DataFigure, filled: Any, axes: np.ndarray, view: str, quantity: Quantity) -> None:
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
