"""The verdicts as a forest plot: each effect with its interval and the smallest relevant effect, in its own unit."""

from __future__ import annotations

import textwrap
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib.layout_engine import ConstrainedLayoutEngine

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, figure
from ncsam.figures.style import BLUE, GREEN, GREY, VERMILION
from ncsam.records import Verdicts
from ncsam.study.statements import VERSIONS

_COLOURS = {"supported": GREEN, "contradicted": VERMILION, "undecided": BLUE}


def forest(verdicts: Verdicts) -> DataFigure:
    """Draw each effect with its interval in a row, the dotted line at m, green where an interval would support it.

    Every row has an axis of its own, since effects have different units, which are named; zero is the thin line.
    """
    rows = len(verdicts.statements)
    contrasts = [""] * rows if verdicts.contrast is None else verdicts.contrast.tolist()
    decided = ["decided by" in str(note) for note in verdicts.note]  # one of several
    made, axes = figure(rows, 1, height=0.43)
    engine = made.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, 0, 1, 1 - 0.08 / made.get_figheight()))  # the first row's words are higher than its axis
    with mpl.rc_context(STYLE):
        for i, ax in enumerate(axes[:, 0]):
            estimate, m = float(verdicts.estimate[i]), float(verdicts.smallest_effect[i])
            low, high = float(verdicts.low[i]), float(verdicts.high[i])
            found = str(verdicts.verdict[i])
            factor, unit = VERSIONS[verdicts.version][str(verdicts.statements[i])].unit
            made.note(
                statement=verdicts.statements[i], verdict=found, estimate=estimate, low=low, high=high, m=m,
                seeds=verdicts.pairs[i], shown_times=factor, unit=unit,
            )  # fmt: skip
            known = [v for v in (estimate, low, high, m, 0.0) if np.isfinite(v)]
            reach = max(known) - min(known)
            ends = min(known) - 0.15 * reach, max(known) + 0.15 * reach
            ax.axvspan(m, ends[1], color=GREEN, alpha=0.1, linewidth=0)
            ax.axvline(0.0, color="black", linewidth=0.5)
            ax.axvline(m, color=GREEN, linestyle=":", linewidth=1)
            colour = _COLOURS.get(found.split()[0], GREY)
            if np.isfinite(estimate):
                ends_of = [[estimate - low], [high - estimate]] if np.isfinite(low) else None
                ax.errorbar([estimate], [0], xerr=ends_of, color=colour, marker="o", capsize=3, elinewidth=1.5)
            ax.set(xlim=ends, ylim=(-1, 1))
            ax.yaxis.set_major_locator(mpl.ticker.NullLocator())
            ax.spines["left"].set_visible(False)
            ax.tick_params(labelsize=6, length=2, pad=1)
            ax.grid(visible=False)
            ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6))
            ax.xaxis.set_major_formatter(partial(_scaled, factor))
            by = f" (by {contrasts[i]})" if decided[i] else ""
            said = textwrap.fill(f"{verdicts.statements[i]}  {_short(str(verdicts.text[i]))}{by} ({unit})", 44)
            ax.set_ylabel(said, rotation=0, ha="left", va="center", fontsize=7, labelpad=170)
            star = "*" if np.isfinite(estimate) and verdicts.preliminary[i] else ""
            ax.text(
                1.01, 0.5, textwrap.fill(found, 14) + star, transform=ax.transAxes, va="center", fontsize=7,
                color=colour, fontweight="bold",
            )  # fmt: skip
    return made


def _scaled(factor: float, value: float, _position: int) -> str:
    return f"{factor * value:.4g}".replace("-", "−")


def _short(text: str) -> str:
    return text.partition(" (")[0]
