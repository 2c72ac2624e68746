"""The style of all figures: sizes, fonts, and colours that colour-blind readers can distinguish."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from landscape._files import replacing
from landscape._suggest import former_arguments
from landscape.figures.data import DataFigure

# Inches; the text blocks of the style files of ICML (two columns) and NeurIPS (one).
Width = Literal["icml", "icml-column", "neurips"]
WIDTHS: dict[str, float] = {"icml": 6.75, "icml-column": 3.25, "neurips": 5.5}

STYLE: Any = {  # rcParams; their keys are a closed set of literals to type checkers
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
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
    rows: int, columns: int, *, height: float = 2.2, width: Width = "icml", used: int | None = None, **subplots: Any
) -> tuple[DataFigure, np.ndarray]:
    """A figure with (rows, columns) axes, outside pyplot, so that the user's figures are not touched.

    Args:
        height: of a row, in inches.
        width: of the figure, a name in ``WIDTHS``.
        used: axes of the grid, counted row by row, that are drawn in; the others are hidden.

    Raises:
        ValueError: an unknown width.
    """
    with mpl.rc_context(STYLE):
        made = DataFigure(figsize=(inches(width), height * rows))
        FigureCanvasAgg(made)
        axes = made.subplots(rows, columns, squeeze=False, **subplots)
    for ax in axes.flat[rows * columns if used is None else used :]:
        ax.set_visible(False)
    return made, axes


def inches(width: Width) -> float:
    """A named width in inches.

    >>> inches("neurips")
    5.5
    """
    if width not in WIDTHS:
        raise ValueError(f"unknown width {width!r}; known: {', '.join(WIDTHS)}")
    return WIDTHS[width]


def log_scale(ax: Axes, low: float, high: float) -> bool:
    """Make the y axis logarithmic with plain numbers at its ticks, where [low, high] spans more than a factor of 20.

    Returns:
        whether it did.
    """
    if not (low > 0 and high > 20 * low):
        return False
    ax.set_yscale("log")
    log_numbers(ax.yaxis, low, high)
    return True


def log_numbers(axis: Axis, low: float, high: float, most: int = 6) -> None:
    """Set about ``most`` round numbers, written plainly, along a logarithmic axis that reaches from low to high."""
    axis.set_major_locator(FixedLocator(log_ticks(low, high, most)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two positive ones, evenly spread on a logarithmic axis, ``most`` at most.

    >>> log_ticks(0.04, 0.09), log_ticks(0.01, 3.0)
    ([0.04, 0.05, 0.06, 0.07, 0.08, 0.09], [0.01, 0.03, 0.1, 0.3, 1.0, 3.0])
    """
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    for steps in (range(1, 10), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [float(f"{m}e{d}") for d in range(first, last + 1) for m in steps]
        found = [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if 1 < len(found) <= most:
            return found
        if len(found) < 2:  # too short an axis for round numbers of that kind
            ticks = MaxNLocator(most - 1).tick_values(low, high)
            return [float(tick) for tick in ticks if low <= tick <= high]
    return found[:: -(-len(found) // most)]


def below(made: Figure, axes: Iterable[Axes], columns: int = 4) -> None:
    """One legend for all axes, each label once, bars before lines; in as many columns as its longest label allows."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    found = dict(sorted(found.items(), key=lambda item: hasattr(item[1], "get_marker")))
    room = max(1, int(made.get_figwidth() / (0.5 + 0.055 * max(map(len, found)))))  # inches of a sample and a letter
    columns = min(len(found), columns, room)
    made.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns)


# What would differ between two files of one figure: when and by what they were made
_UNDATED: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None}, "png": {"Software": None}, "svg": {"Date": None, "Creator": None},
}  # fmt: skip


@former_arguments(positional=["dpi"])
def save(
    made: Figure, stem: str | Path, formats: Sequence[str] = ("pdf", "png"), *, dpi: int = STYLE["savefig.dpi"]
) -> list[Path]:
    """Write ``stem.pdf`` and ``stem.png``, each in one step; the same figure gives the same bytes.

    Raises:
        OSError: the folder is missing or full.
    """
    written = []
    with laid_out(made):
        for extension in formats:
            path = Path(stem).with_name(f"{Path(stem).name}.{extension}")
            with replacing(path) as temporary:
                made.savefig(temporary, format=extension, metadata=_UNDATED.get(extension), dpi=dpi)
            written.append(path)
    return written


@contextmanager
def laid_out(made: Figure) -> Iterator[None]:
    """Find the layout of a figure, and have no engine meanwhile, so that it stands for several formats or frames.

    With any engine, even one that does nothing, matplotlib draws twice for every file.
    """
    with mpl.rc_context(STYLE):
        if isinstance(made, DataFigure):
            made.lay_out(passes=2)
        else:
            made.draw_without_rendering()
    layout = made.get_layout_engine()
    try:
        # Saving sets back the engine, or where there is none, that of these settings
        with mpl.rc_context({**STYLE, "figure.constrained_layout.use": False, "figure.autolayout": False}):
            made.set_layout_engine(None)
            yield
    finally:
        if layout is not None:  # None would mean the default of the settings
            made.set_layout_engine(layout)
