"""Pictures of 1D and 2D surfaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from landscape.figures.style import COLOURS, STYLE, figure, log_scale
from landscape.records import Line, Plane


def lines(groups: Mapping[str, Sequence[Line]], views: Sequence[str]) -> Figure:
    """1D surfaces overlaid, a panel a view: the mean of each group with the range of its members as a band.

    Args:
        groups: lines by label, e.g. one line a seed by optimizer; all on one grid.
        views: one panel each.

    Raises:
        ValueError: the lines of a group lie on different grids, or lack a view.
    """
    made, axes = figure(1, len(views), height=2.5)
    with mpl.rc_context(STYLE):
        for ax, view in zip(axes[0], views, strict=True):
            for colour, (label, members) in zip(_colours(len(groups)), groups.items(), strict=True):
                alphas = members[0].alphas
                if any(not np.array_equal(m.alphas, alphas) for m in members):
                    raise ValueError(f"the lines of {label!r} lie on different grids")
                losses = np.stack([m.loss[_view(m, view)] for m in members])
                ax.plot(alphas, losses.mean(0), color=colour, label=label)
                if len(members) > 1:
                    ax.fill_between(alphas, losses.min(0), losses.max(0), color=colour, alpha=0.15, linewidth=0)
            ax.set(title=view.replace("_", " "), xlabel="α (filter norms)")
        ends = np.array([ax.dataLim.intervaly for ax in axes[0]])
        for ax in axes[0]:
            log_scale(ax, ends.min(), ends.max())
        axes[0, 0].set_ylabel("loss")
        _legend_below(made, axes[0, 0])
    return made


def contours(planes: Mapping[str, Plane], view: str, *, levels: int = 12) -> Figure:
    """2D surfaces of one view side by side, with levels shared by all and spaced in the logarithm of the loss.

    Args:
        planes: by label.
        view: which view of each.
        levels: number of contour levels.

    Raises:
        ValueError: a plane lacks the view or holds no finite loss.
    """
    columns = min(4, len(planes))
    rows = -(-len(planes) // columns)
    made, axes = figure(rows, columns, height=1.7, sharex=True, sharey=True)
    tables = {label: plane.loss[_view(plane, view)] for label, plane in planes.items()}
    finite = np.concatenate([t[np.isfinite(t) & (t > 0)] for t in tables.values()])
    if not finite.size:
        raise ValueError(f"no plane holds a finite, positive loss of view {view!r}")
    steps = np.geomspace(finite.min(), finite.max() * (1 + 1e-9), levels)
    norm = LogNorm(steps[0], steps[-1])
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        for ax in axes.flat[len(planes) :]:
            ax.set_visible(False)
        for ax, (label, plane) in zip(axes.flat, planes.items(), strict=False):
            table = np.ma.masked_invalid(tables[label]).T
            filled = ax.contourf(plane.alphas, plane.betas, table, steps, norm=norm, cmap="viridis")
            ax.contour(plane.alphas, plane.betas, table, steps, norm=norm, colors="white", linewidths=0.3, alpha=0.6)
            ax.plot(0, 0, marker="x", color="white", markersize=5, markeredgewidth=1.2)
            ax.set(title=label, aspect="equal")
            ax.grid(False)
        for ax in axes[-1]:
            ax.set_xlabel("α (filter norms)")
        for ax in axes[:, 0]:
            ax.set_ylabel("β (filter norms)")
        bar = made.colorbar(filled, ax=axes, shrink=0.9, pad=0.01, format="%.3g")
        bar.set_label(f"loss, view {view.replace('_', ' ')}")
        bar.minorticks_off()
    return made


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _view(record: Line | Plane, view: str) -> int:
    names = record.views.tolist()
    if view not in names:
        raise ValueError(f"no view {view!r} in this surface; it has {', '.join(names)}")
    return int(names.index(view))


def _legend_below(made: Figure, ax: object) -> None:
    handles, labels = ax.get_legend_handles_labels()  # type: ignore[attr-defined]
    made.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
