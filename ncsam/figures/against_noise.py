"""Measurements against the noise rate: one line for each arm, with a band over the seeds."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, below, figure, log_numbers, log_scale
from landscape.figures.symbols import Symbol, plain
from ncsam.figures.style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    band,
    shares,
    symbols,
)
from ncsam.records import Curves
from ncsam.study.arms import in_order, printed

QUANTITIES = {
    "test_accuracy": "test accuracy (last five epochs)",
    "memorisation": "wrong labels memorised",
    "adaptive_trace/clean_part": "tr DHD, clean part",
    "adaptive/mixed": "adaptive sharpness, mixed",
    "sam/mixed": "SAM sharpness, mixed",
    "top_eigenvalue/mixed": "top Hessian eigenvalue, mixed",
    "trace/mixed": "Hessian trace, mixed",
}
MEASURES = {
    "adaptive_trace": "tr DHD",
    "adaptive_top": "$λ_1$ of DHD",
    "adaptive": "adaptive (nats)",
    "sam": "SAM (nats)",
    "top_eigenvalue": "$λ_1$",
    "trace": "trace",
}
VIEWS = ("mixed", "clean_part", "noisy_part", "true_labels", "test")
TERMS = {
    "total": Symbol(BLACK, "o", name="the bound: their sum"),
    "neighbourhood": Symbol(SKY, "s", (0, (5, 1.5)), name="highest loss nearby / (1−α)"),
    "sampling": Symbol(ORANGE, "D", (0, (1.5, 1.5)), name="1 / ((1−α) √n)"),
    "complexity": Symbol(VERMILION, "^", (0, (6, 1.5, 1.5, 1.5)), name="√(X / (n−1))"),
    "risk": Symbol(BLUE, "v", (0, (10, 2)), name="clean test risk"),
}
SHARES = ("test_accuracy", "best_accuracy", "memorisation")
LOSSES = {"error": "0–1 error", "clipped_ce": "clipped cross-entropy"}


def compared(curves: Curves) -> list[str]:
    """Arms that ran at more than one noise rate, for which lines can be drawn."""
    ran = np.isfinite(curves.value).any(axis=(0, 3)).sum(axis=1)
    return in_order(str(arm) for arm, rates in zip(curves.arms, ran, strict=True) if rates > 1)


def against_noise(curves: Curves, quantities: Sequence[str] = tuple(QUANTITIES)) -> DataFigure:
    """Quantities against noise rate, a line an arm with its t-interval.

    Arms that ran at a single rate are not here: :func:`ncsam.figures.arms_at` sets them beside the others. Bands of
    shares end at 0 and 1; on a logarithmic axis a band that reaches zero ends where the axis does.

    Args:
        curves: of a study.
        quantities: one panel each, three a row; those that were not measured are left out.
    """
    quantities = [quantity for quantity in quantities if quantity in curves.quantities]
    columns = min(3, len(quantities))
    made, axes = figure(-(-len(quantities) // columns), columns, height=2.1, used=len(quantities), sharex=True)
    with mpl.rc_context(STYLE):
        for ax, quantity in zip(axes.flat, quantities, strict=False):
            _lines(made, [ax], curves, [quantity])
            ax.set_title(QUANTITIES.get(quantity, quantity))
            if quantity in SHARES:
                shares(ax)
            if quantity in ("adaptive/mixed", "sam/mixed"):
                ax.set_ylabel("nats")
        _rates_below(axes, len(quantities), curves.rates)
        below(made, made.axes)
    return made


def sharpness_against_noise(curves: Curves, views: Sequence[str] = VIEWS) -> DataFigure:
    """Sharpness against noise rate: a row a measure, a column a view; rows share their axis.

    On a logarithmic axis a band that reaches zero ends where the axis does.

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
            held = [
                (ax, f"{measure}/{view}") for ax, view in zip(row, views, strict=True) if f"{measure}/{view}" in there
            ]
            _lines(made, [ax for ax, _ in held], curves, [quantity for _, quantity in held])
            row[0].set_ylabel(MEASURES[measure])
        for ax, view in zip(axes[0], views, strict=True):
            ax.set_title(view.replace("_", " "))
        _rates_below(axes, axes.size, curves.rates)
        below(made, made.axes)
    return made


def bound_terms(curves: Curves) -> DataFigure:
    """Theorem 1's terms against noise rate, by loss (rows) and arm (columns); vacuous above the dotted line.

    A term of zero is left out of the logarithmic axis; a band that reaches zero ends where the axis does.

    Raises:
        ValueError: the bound was not measured.
    """
    there = set(curves.quantities.tolist())
    losses = [loss for loss in LOSSES if f"bound/{loss}/total" in there]
    arms = [arm for arm in compared(curves) if losses and _any(curves, f"bound/{losses[0]}/total", arm)]
    if not arms:
        raise ValueError("the bound was not measured on any arm that ran at several noise rates")
    means = [_of(curves, f"bound/{loss}/{t}", arm)[1] for loss in losses for t in TERMS for arm in arms
             if f"bound/{loss}/{t}" in there]  # fmt: skip
    every = np.concatenate(means)
    lowest = 0.5 * every[every > 0].min()
    made, axes = figure(len(losses), len(arms), height=2.0, sharex=True, sharey=True)
    with mpl.rc_context(STYLE):
        for row, loss in zip(axes, losses, strict=True):
            for ax, arm in zip(row, arms, strict=True):
                for term, symbol in TERMS.items():
                    if f"bound/{loss}/{term}" not in there:
                        continue
                    x, mean, low, high = _of(curves, f"bound/{loss}/{term}", arm)
                    made.note(loss=loss, arm=arm, term=term, rate=x, mean=mean, low=low, high=high)
                    shown = mean > 0  # a term of nothing has no place on a logarithmic axis
                    mean, low, high = (np.where(shown, end, np.nan) for end in (mean, np.maximum(low, lowest), high))
                    band(ax, 100 * x, mean, low, high, symbol, markers=True)
                ax.axhline(1.0, color=GREY, linestyle=":", linewidth=1, label="1: vacuous from here on")
                ax.set(title=plain(printed(arm)) if ax in axes[0] else "", yscale="log")
            row[0].set_ylabel(LOSSES[loss])
        log_numbers(axes[0, 0].yaxis, *axes[0, 0].get_ylim())
        _rates_below(axes, axes.size, curves.rates)
        below(made, made.axes, columns=3)
    return made


def _lines(made: DataFigure, panels: Sequence[Axes], curves: Curves, quantities: Sequence[str]) -> None:
    """A line for each compared arm in panels of one axis, a quantity each: logarithmic where their means span much."""
    drawn = {(quantity, arm): _of(curves, quantity, arm) for quantity in quantities for arm in compared(curves)}
    means = np.concatenate([mean for _, mean, *_ in drawn.values()]) if drawn else np.zeros(0)
    lowest = -np.inf
    if means.size and log_scale(panels[0], float(means.min()), float(means.max())):
        lowest = 0.5 * float(means.min())
    for ax, quantity in zip(panels, quantities, strict=True):
        for arm, symbol in symbols(compared(curves)).items():
            x, mean, low, high = drawn[quantity, arm]
            band(ax, 100 * x, mean, np.maximum(low, lowest), high, symbol, markers=True, share=quantity in SHARES)
            made.note(quantity=quantity, arm=arm, rate=x, mean=mean, low=low, high=high)
    if means.size and lowest == -np.inf and (means >= 0).all():
        panels[0].set_ylim(bottom=min(0.0, panels[0].get_ylim()[0]))


def _of(curves: Curves, quantity: str, arm: str) -> tuple[np.ndarray, ...]:
    """Rates at which it was measured, with mean and interval there."""
    at = curves.quantities.tolist().index(quantity), curves.arms.tolist().index(arm)
    there = np.isfinite(curves.mean[at])
    return tuple(table[there] for table in (curves.rates, curves.mean[at], curves.low[at], curves.high[at]))


def _any(curves: Curves, quantity: str, arm: str) -> bool:
    return len(_of(curves, quantity, arm)[0]) > 0


def _rates_below(axes: np.ndarray, used: int, rates: np.ndarray) -> None:
    """The noise rates that there are as numbers along x, where they stand apart; else round numbers."""
    percent = 100 * np.unique(rates)
    apart = len(percent) > 1 and np.diff(percent).min() >= 0.15 * np.ptp(percent)
    for n, ax in enumerate(axes.flat[:used]):
        if apart:
            ax.set_xticks(percent, [f"{rate:g}" for rate in percent])
        if n + axes.shape[1] >= used:
            ax.set_xlabel("wrong labels (%)")
            ax.tick_params(labelbottom=True)
