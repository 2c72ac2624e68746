"""The verdicts on sharpness under every measure and view, as a forest."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, figure
from ncsam.figures.style import BLUE, GREEN, GREY, VERMILION
from ncsam.records import ByMeasure

_COLOURS = {"supported": GREEN, "contradicted": VERMILION, "undecided": BLUE}
_ROW, _HEAD = 0.17, 0.75  # inches


def by_measure_forest(found: ByMeasure) -> DataFigure:
    """Draw the effect of each measure and view with its interval, a column for each statement.

    The declared measure is a filled square, the others are open circles; green is where an interval would support the
    statement, the colours are what each measure alone would say.
    """
    statements = list(dict.fromkeys(found.statement.tolist()))
    pairs = list(zip(found.measure.tolist(), found.view.tolist(), strict=True))
    rows = list(dict.fromkeys(pairs))
    made, axes = figure(1, len(statements), height=_HEAD + _ROW * len(rows), sharey=True)
    with mpl.rc_context(STYLE):
        for ax, statement in zip(axes[0], statements, strict=True):
            here = np.flatnonzero(found.statement == statement)
            m = float(found.smallest_effect[here[0]])
            ends = np.array([*found.low[here], *found.high[here], *found.estimate[here], 0.0, m])
            ends = ends[np.isfinite(ends)]
            reach = 0.08 * (ends.max() - ends.min())
            limits = ends.min() - reach, ends.max() + reach
            ax.axvspan(m, limits[1], color=GREEN, alpha=0.1, linewidth=0)
            ax.axvline(0.0, color="black", linewidth=0.5)
            ax.axvline(m, color=GREEN, linestyle=":", linewidth=1)
            for i in here:
                estimate, low, high = (float(a[i]) for a in (found.estimate, found.low, found.high))
                verdict, primary = str(found.verdict[i]), bool(found.primary[i])
                made.note(
                    statement=statement, measure=found.measure[i], view=found.view[i], estimate=estimate, low=low,
                    high=high, m=m, verdict=verdict, primary=primary, seeds=int(found.pairs[i]),
                )  # fmt: skip
                colour = _COLOURS.get(verdict.split()[0], GREY)
                bars = [[estimate - low], [high - estimate]] if np.isfinite(low) else None
                ax.errorbar(
                    [estimate], [rows.index(pairs[i])], xerr=bars, color=colour, elinewidth=1.2,
                    marker="s" if primary else "o", markersize=4.5 if primary else 3.5,
                    markerfacecolor=colour if primary else "white",
                )  # fmt: skip
            ax.set(xlim=limits, ylim=(len(rows) - 0.5, -0.5), title=statement)
            ax.set_yticks(range(len(rows)), [f"{measure}, {view.replace('_', ' ')}" for measure, view in rows])
            ax.tick_params(labelsize=6)
            ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
            ax.grid(axis="x")
    return made
