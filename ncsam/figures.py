"""Pictures of runs and studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.style import COLOURS, MARKERS, STYLE, figure, log_scale
from ncsam.schema import Curves, RadiusControl, Training

QUANTITIES = {
    "test_accuracy": "test accuracy (last five epochs)",
    "memorisation": "wrong labels memorised",
    "adaptive/mixed": "adaptive sharpness, mixed (nats)",
    "sam/mixed": "SAM sharpness, mixed (nats)",
    "top_eigenvalue/mixed": "top Hessian eigenvalue, mixed",
    "trace/mixed": "Hessian trace, mixed",
}


def training_curves(groups: Mapping[str, Sequence[Training]]) -> Figure:
    """Clean test accuracy and memorisation against epoch: the mean of each group with the range over its members.

    Args:
        groups: training records by label, e.g. one record a seed by optimizer.
    """
    made, axes = figure(1, 2, height=2.7)
    panels = (
        ("clean test accuracy", lambda t: t.of_view("test")),
        ("wrong labels memorised", lambda t: t.memorisation),
    )
    with mpl.rc_context(STYLE):
        for ax, (title, values) in zip(axes[0], panels, strict=True):
            for i, (label, members) in enumerate(groups.items()):
                table = np.stack([values(m) for m in members])
                colour = COLOURS[i % len(COLOURS)]
                ax.plot(members[0].epochs, table.mean(0), color=colour, label=label)
                if len(members) > 1:
                    ax.fill_between(
                        members[0].epochs, table.min(0), table.max(0), color=colour, alpha=0.15, linewidth=0
                    )
            ax.set(title=title, xlabel="epoch")
            ax.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
        handles, labels = axes[0, 0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    return made


def against_noise(curves: Curves, quantities: Sequence[str] = tuple(QUANTITIES)) -> Figure:
    """Quantities against noise rate, a line an arm with its t-interval; arms run at one rate are single points.

    Args:
        curves: of a study.
        quantities: one panel each, three a row; those that were not measured are left out.
    """
    quantities = [quantity for quantity in quantities if quantity in curves.quantities]
    columns = min(3, len(quantities))
    rows = -(-len(quantities) // columns)
    made, axes = figure(rows, columns, height=2.1, sharex=True)
    names = curves.quantities.tolist()
    with mpl.rc_context(STYLE):
        for ax in axes.flat[len(quantities) :]:
            ax.set_visible(False)
        for ax, quantity in zip(axes.flat, quantities, strict=False):
            q = names.index(quantity)
            single = 0
            for a, arm in enumerate(curves.arms):
                colour, marker = COLOURS[a % len(COLOURS)], MARKERS[a % len(MARKERS)]
                mean, low, high = (table[q, a] for table in (curves.mean, curves.low, curves.high))
                there = ~np.isnan(mean)
                rates = 100 * curves.rates[there]
                if np.isfinite(curves.value[:, a]).any(axis=(0, 2)).sum() > 1:
                    ax.plot(rates, mean[there], color=colour, marker=marker, label=arm)
                    ax.fill_between(rates, low[there], high[there], color=colour, alpha=0.15, linewidth=0)
                else:
                    # Controls share one rate: set them side by side instead of on top of each other.
                    single += 1
                    error = np.stack([mean - low, high - mean])[:, there]
                    ax.errorbar(
                        rates + 2.5 * single, mean[there], error, color=colour, marker=marker, linestyle="", label=arm,
                        capsize=2, elinewidth=0.8,
                    )  # fmt: skip
            log_scale(ax, np.nanmin(curves.mean[q]), np.nanmax(curves.mean[q]))
            ax.set(title=QUANTITIES.get(quantity, quantity), ylim=(_bottom(ax, curves.value[q]), None))
            if quantity in ("test_accuracy", "memorisation"):
                ax.set_ylim(top=min(1.02, ax.get_ylim()[1]))
                ax.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
        for ax in axes[-1]:
            ax.set_xlabel("wrong labels (%)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    return made


def radius_figure(control: RadiusControl) -> Figure:
    """Clean test accuracy and memorisation against the realised ‖ε‖: SAM over ρ as a line, all else as points.

    SGD, which has no ‖ε‖, is a dashed level. Bars are t-intervals over the seeds, in both directions.
    """
    made, axes = figure(1, 2, height=3.2)
    panels = (("accuracy", "clean test accuracy"), ("memorisation", "wrong labels memorised"))
    families = list(dict.fromkeys(control.family.tolist()))
    with mpl.rc_context(STYLE):
        for ax, (quantity, title) in zip(axes[0], panels, strict=True):
            for i, family in enumerate(families):
                colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
                here = np.flatnonzero(control.family == family)
                here = here[np.argsort(control.radius[here])]
                x, y = control.radius[here], getattr(control, quantity)[here]
                if family == "SGD":
                    ax.axhline(y.mean(), color=colour, linestyle="--", linewidth=1, label=family)
                    continue
                bars = {
                    axis: np.stack(
                        [
                            centre - getattr(control, f"{name}_low")[here],
                            getattr(control, f"{name}_high")[here] - centre,
                        ]
                    )
                    for axis, name, centre in (("xerr", "radius", x), ("yerr", quantity, y))
                }
                ax.errorbar(
                    x, y, **bars, color=colour, marker=marker, linestyle="-" if family == "SAM" else "", label=family,
                    capsize=2, elinewidth=0.8, markerfacecolor=colour if i < len(COLOURS) else "white",
                )  # fmt: skip
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=[1, 2, 5]))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
            ax.set(title=title, xlabel="realised mean ‖ε‖")
            ax.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
        handles, labels = axes[0, 0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    return made


def _bottom(ax: Axes, values: np.ndarray) -> float:
    """Zero, or below it where values are negative; on a logarithmic axis just below the least value."""
    least = float(np.nanmin(values))
    return least * 0.8 if ax.get_yscale() == "log" else min(0.0, least)
