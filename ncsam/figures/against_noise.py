"""Measurements against the noise rate: one line an arm, with a band over the seeds."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, figure, log_scale
from ncsam.figures.style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    Look,
    band as draw_band,
    hide_spare,
    in_order,
    legend_below,
    looks,
    shares,
)
from ncsam.records import Curves

QUANTITIES = {
    "test_accuracy": "test accuracy (last five epochs)",
    "memorisation": "wrong labels memorised",
    "adaptive/mixed": "adaptive sharpness, mixed (nats)",
    "sam/mixed": "SAM sharpness, mixed (nats)",
    "top_eigenvalue/mixed": "top Hessian eigenvalue, mixed",
    "trace/mixed": "Hessian trace, mixed",
}
MEASURES = {
    "adaptive": "adaptive (nats)",
    "sam": "SAM (nats)",
    "top_eigenvalue": "$λ_1$",
    "trace": "trace",
}
VIEWS = ("mixed", "clean_part", "noisy_part", "true_labels", "test")
TERMS = {
    "neighbourhood": ("highest loss nearby / (1−α)", Look(SKY, "s")),
    "sampling": ("1 / ((1−α) √n)", Look(ORANGE, "D")),
    "complexity": ("√(X / (n−1))", Look(VERMILION, "^")),
    "total": ("the bound: their sum", Look(BLACK, "o")),
    "risk": ("clean test risk", Look(BLUE, "v")),
}
_LOWEST_TERM = 1e-3  # a term of nothing has no place on a logarithmic axis
LOSSES = {"error": "0–1 error", "clipped_ce": "clipped cross-entropy"}


def compared(curves: Curves) -> list[str]:
    """The arms that ran at more than one noise rate: those that lines can be drawn of."""
    ran = np.isfinite(curves.value).any(axis=(0, 3)).sum(axis=1)
    return in_order(str(arm) for arm, rates in zip(curves.arms, ran, strict=True) if rates > 1)


def against_noise(curves: Curves, quantities: Sequence[str] = tuple(QUANTITIES)) -> DataFigure:
    """Quantities against noise rate, a line an arm with its t-interval.

    Arms that ran at a single rate are not here: :func:`ncsam.figures.arms_at` sets them beside the others.

    Args:
        curves: of a study.
        quantities: one panel each, three a row; those that were not measured are left out.
    """
    quantities = [quantity for quantity in quantities if quantity in curves.quantities]
    columns = min(3, len(quantities))
    made, axes = figure(-(-len(quantities) // columns), columns, height=2.1, sharex=True)
    with mpl.rc_context(STYLE):
        hide_spare(axes, len(quantities))
        for ax, quantity in zip(axes.flat, quantities, strict=False):
            values = _lines(made, ax, curves, quantity)
            ax.set(title=QUANTITIES.get(quantity, quantity), ylim=(_bottom(ax, values), None))
            if quantity in ("test_accuracy", "memorisation"):
                ax.set_ylim(top=min(1.02, ax.get_ylim()[1]))
                shares(ax)
        _rates_below(axes, len(quantities))
        legend_below(made)
    return made


def sharpness_against_noise(curves: Curves, views: Sequence[str] = VIEWS) -> DataFigure:
    """Sharpness against noise rate: a row a measure, a column a view; rows share their axis.

    Views and measures that were not measured are left out.

    Raises:
        ValueError: the study holds no sharpness at all.
    """
    there = set(curves.quantities.tolist())
    views = [view for view in views if any(f"{measure}/{view}" in there for measure in MEASURES)]
    measures = [measure for measure in MEASURES if any(f"{measure}/{view}" in there for view in views)]
    if not measures:
        raise ValueError(f"the study holds no sharpness; looked for {', '.join(MEASURES)} of {', '.join(VIEWS)}")
    made, axes = figure(len(measures), len(views), height=1.55, sharex=True, sharey="row")
    with mpl.rc_context(STYLE):
        for row, measure in zip(axes, measures, strict=True):
            drawn = []
            for ax, view in zip(row, views, strict=True):
                if f"{measure}/{view}" in there:
                    drawn.append(_lines(made, ax, curves, f"{measure}/{view}", scaled=False))
            every = np.concatenate([values.ravel() for values in drawn])
            log_scale(row[0], float(np.nanmin(every)), float(np.nanmax(every)))
            row[0].set(ylabel=MEASURES[measure], ylim=(_bottom(row[0], every), None))
        for ax, view in zip(axes[0], views, strict=True):
            ax.set_title(view.replace("_", " "))
        _rates_below(axes, axes.size)
        legend_below(made)
    return made


def bound_terms(curves: Curves) -> DataFigure:
    """Theorem 1's terms against noise rate, a row a loss, a column an arm; above the dotted line it says nothing.

    Raises:
        ValueError: the bound was not measured.
    """
    there = set(curves.quantities.tolist())
    losses = [loss for loss in LOSSES if f"bound/{loss}/total" in there]
    arms = [arm for arm in compared(curves) if losses and _any(curves, f"bound/{losses[0]}/total", arm)]
    if not arms:
        raise ValueError("the bound was not measured on any arm that ran at several noise rates")
    made, axes = figure(len(losses), len(arms), height=2.0, sharex=True, sharey=True)
    with mpl.rc_context(STYLE):
        for row, loss in zip(axes, losses, strict=True):
            for ax, arm in zip(row, arms, strict=True):
                for term, (label, look) in TERMS.items():
                    if f"bound/{loss}/{term}" not in there:
                        continue
                    x, mean, low, high = _of(curves, f"bound/{loss}/{term}", arm)
                    draw_band(ax, 100 * x, mean, low, high, look, label, marker=look.marker)
                    made.note(loss=loss, arm=arm, term=term, rate=x, mean=mean, low=low, high=high)
                ax.axhline(1.0, color=GREY, linestyle=":", linewidth=1, label="1: vacuous from here on")
                ax.set(title=arm if ax in axes[0] else "", yscale="log")
            row[0].set_ylabel(LOSSES[loss])
        axes[0, 0].yaxis.set_major_formatter("{x:g}")
        axes[0, 0].set_ylim(bottom=_LOWEST_TERM)
        _rates_below(axes, axes.size)
        legend_below(made, columns=3)
    return made


def _lines(made: DataFigure, ax: Axes, curves: Curves, quantity: str, *, scaled: bool = True) -> np.ndarray:
    """A line for each compared arm; returns the values of every run in it."""
    arms = compared(curves)
    seen = []
    for arm, look in looks(arms).items():
        x, mean, low, high = _of(curves, quantity, arm)
        draw_band(ax, 100 * x, mean, low, high, look, arm, marker=look.marker)
        made.note(quantity=quantity, arm=arm, rate=x, mean=mean, low=low, high=high)
        seen.append(curves.value[curves.quantities.tolist().index(quantity), curves.arms.tolist().index(arm)])
    values = np.stack(seen) if seen else np.zeros((1, 1))
    if scaled and seen:
        log_scale(ax, float(np.nanmin(values)), float(np.nanmax(values)))
    return values


def _of(curves: Curves, quantity: str, arm: str) -> tuple[np.ndarray, ...]:
    """Rates at which it was measured, with mean and interval there."""
    at = curves.quantities.tolist().index(quantity), curves.arms.tolist().index(arm)
    there = np.isfinite(curves.mean[at])
    return tuple(table[there] for table in (curves.rates, curves.mean[at], curves.low[at], curves.high[at]))


def _any(curves: Curves, quantity: str, arm: str) -> bool:
    return len(_of(curves, quantity, arm)[0]) > 0


def _rates_below(axes: np.ndarray, used: int) -> None:
    for n, ax in enumerate(axes.flat[:used]):
        ax.set_xticks([0, 20, 40, 60])
        if n + axes.shape[1] >= used:
            ax.set_xlabel("wrong labels (%)")
            ax.tick_params(labelbottom=True)


def _bottom(ax: Axes, values: np.ndarray) -> float:
    """Zero, or below it where values are negative; on a logarithmic axis just below the least value."""
    least = float(np.nanmin(values))
    return least * 0.8 if ax.get_yscale() == "log" else min(0.0, least)
