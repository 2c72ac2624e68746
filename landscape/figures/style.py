"""One look for all figures: sizes, fonts, and colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from landscape._files import replacing
from landscape.figures.data import DataFigure

# Okabe & Ito, without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), "-", (0, (5, 1.5)), (0, (1.5, 1.5)))
# Inches; the text blocks of the style files of ICML (two columns) and NeurIPS (one).
WIDTHS = {"icml": 6.75, "icml-column": 3.25, "neurips": 5.5}

STYLE: Any = {  # rcParams; their keys are a closed set of literals to type checkers
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "svg.hashsalt": "landscape",  # else every file has names of its own for its parts
}


def figure(
    rows: int, columns: int, *, height: float = 2.2, width: str = "icml", **subplots: Any
) -> tuple[DataFigure, np.ndarray]:
    """A figure with (rows, columns) axes, outside pyplot, so that the user's figures are not touched.

    Args:
        height: of a row, in inches.
        width: of the figure, a name in ``WIDTHS``.

    Raises:
        ValueError: an unknown width.
    """
    with mpl.rc_context(STYLE):
        made = DataFigure(figsize=(inches(width), height * rows))
        FigureCanvasAgg(made)
        return made, made.subplots(rows, columns, squeeze=False, **subplots)


def inches(width: str) -> float:
    """A named width in inches.

    >>> inches("neurips")
    5.5
    """
    if width not in WIDTHS:
        raise ValueError(f"unknown width {width!r}; known: {', '.join(WIDTHS)}")
    return WIDTHS[width]


def log_scale(ax: Axes, low: float, high: float) -> None:
    """Make the y axis logarithmic with plain numbers at its ticks, where [low, high] spans more than a factor of 20."""
    if not (low > 0 and high > 20 * low):
        return
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    steps = [1, 2, 5] if high < 100 * low else [1]
    ax.yaxis.set_major_locator(LogLocator(subs=steps))
    ax.yaxis.set_minor_formatter(NullFormatter())


# What would differ between two files of one figure: when and by what they were made
_UNDATED: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None}, "png": {"Software": None}, "svg": {"Date": None, "Creator": None},
}  # fmt: skip


def save(
    made: Figure, stem: str | Path, formats: Sequence[str] = ("pdf", "png"), dpi: int = STYLE["savefig.dpi"]
) -> list[Path]:
    """Write ``stem.pdf`` and ``stem.png``, each in one step; the same figure gives the same bytes.

    Raises:
        OSError: the folder is missing or full.
    """
    written = []
    with mpl.rc_context(STYLE):
        made.draw_without_rendering()
        layout = made.get_layout_engine()
        made.set_layout_engine("none")  # the layout stands; finding it again for every format takes longest
    for extension in formats:
        path = Path(stem).with_name(f"{Path(stem).name}.{extension}")
        metadata = _UNDATED.get(extension)
        # Saving sets the engine back by itself, and takes none for the settings' own.
        settings = {**STYLE, "figure.constrained_layout.use": False, "figure.autolayout": False}
        with mpl.rc_context(settings), replacing(path) as temporary:
            made.savefig(temporary, format=extension, metadata=metadata, dpi=dpi)
        written.append(path)
    if layout is not None:  # None would mean the default of the settings
        made.set_layout_engine(layout)
    return written
