"""Square tables of numbers as images on one scale, with the numbers in their cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FixedFormatter

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, Width, figure, inches
from landscape.figures.symbols import plain

_FEW = 4  # rows of a table that can stand beside others


def matrices(
    tables: Mapping[str, np.ndarray],
    names: Sequence[str],
    label: str,
    *,
    second_lines: Mapping[str, Sequence[Sequence[str]]] | None = None,
    ends: tuple[str, str] = ("", ""),
    width: Width = "icml",
) -> DataFigure:
    """Draw a panel for each table by its title, on one scale from 0; cells without a number stay grey.

    Small tables stand side by side, others below each other.

    Args:
        tables: (n, n) each.
        names: of rows and columns.
        label: of the colour scale.
        second_lines: text below the number of each cell, by title.
        ends: what rows and columns are.
        width: of the figure.
    """
    highest = max((float(np.nanmax(t)) for t in tables.values() if np.isfinite(t).any()), default=0.0) or 1.0
    beside = len(names) <= _FEW
    across = len(tables) if beside else 1
    side = min(2.6, (inches(width) - 1.4) / across) if beside else min(0.6 * len(names), 0.7 * inches(width))
    down = 1 if beside else len(tables)
    made, axes = figure(down, across, height=side + 0.9, width=width, sharex=True, sharey=True)
    small = min(7.0, 72 * side / len(names) / 6.5)  # points; numbers with an error below fill a cell
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        for ax, (title, table) in zip(axes.flat, tables.items(), strict=True):
            ax.grid(False)
            ax.set_facecolor("0.9")
            shown = ax.imshow(np.ma.masked_invalid(table), cmap="viridis", vmin=0, vmax=highest)
            for i, j in np.argwhere(np.isfinite(table)):
                colour = "white" if table[i, j] < 0.6 * highest else "black"
                below = second_lines[title][i][j] if second_lines else ""
                text = {"ha": "center", "color": colour}
                ax.text(j, i, f"{table[i, j]:.2g}", va="bottom" if below else "center", fontsize=small + 0.5, **text)
                ax.text(j, i, below, va="top", fontsize=small - 0.5, **text)
            ax.set(title=plain(title), xticks=range(len(names)), yticks=range(len(names)))
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(FixedFormatter(list(names)))
            ax.tick_params("x", rotation=45 if beside else 90)
            for tick in ax.get_xticklabels() if beside else []:
                tick.set(ha="right", rotation_mode="anchor")
            ax.label_outer()
        for ax in axes[-1]:
            ax.set_xlabel(ends[1])
        for ax in axes[:, 0]:
            ax.set_ylabel(ends[0])
        made.colorbar(shown, ax=axes, shrink=0.8, pad=0.01).set_label(label)
    return made
