"""All arms at one noise rate: each beside the others, and sharpness against generalisation."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, below, figure, log_numbers, log_scale
from landscape.figures.symbols import plain
from ncsam.figures.style import symbols
from ncsam.records import Curves
from ncsam.statistics import Interval, kendall_tau, t_interval
from ncsam.study.arms import printed
from ncsam.study.effects import CONTRAST_RATE

COLUMNS = {
    "test_accuracy": ("test accuracy (%)", 100),
    "memorisation": ("memorised (%)", 100),
    "perturbation_norm": ("realised ‖ε‖", 1),
    "adaptive/mixed": ("adaptive sharpness", 1),
}
MEASURES = {
    "adaptive/mixed": "adaptive sharpness (nats)",
    "sam/mixed": "SAM sharpness (nats)",
    "top_eigenvalue/mixed": "top eigenvalue $λ_1$",
    "trace/mixed": "Hessian trace",
}


def arms_at(curves: Curves, rate: float = CONTRAST_RATE) -> DataFigure:
    """Every arm at one noise rate: accuracy, memorisation, realised ‖ε‖ and sharpness, with t-intervals.

    Intervals of shares end at 0 and 100 %; on a logarithmic axis one that reaches zero ends where the axis does.

    Args:
        curves: of a study.
        rate: of the noise.

    Raises:
        ValueError: nothing was measured at that rate.
    """
    at = _rate(curves, rate)
    quantities = [name for name in COLUMNS if name in curves.quantities]
    arms = [a for a in range(len(curves.arms)) if np.isfinite(_column(curves, quantities, at)[:, a]).any()]
    made, axes = figure(1, len(quantities), height=0.9 + 0.17 * len(arms), sharey=True)
    drawn = symbols(curves.arms.tolist())
    with mpl.rc_context(STYLE):
        for ax, quantity in zip(axes[0], quantities, strict=True):
            q = curves.quantities.tolist().index(quantity)
            label, factor = COLUMNS[quantity]
            # A norm of exactly zero is that of an arm without perturbation: nothing to show.
            means = {a: float(curves.mean[q, a, at]) for a in arms}
            means = {a: mean for a, mean in means.items() if quantity != "perturbation_norm" or mean > 0}
            positive = [mean for mean in means.values() if np.isfinite(mean)]
            spread = bool(positive) and max(positive) > 20 * min(positive) > 0
            log = (quantity == "perturbation_norm" and len(means) > 0) or (factor == 1 and spread)
            lowest = 0.5 * min(positive) if log else 0.0 if factor == 100 else -np.inf
            for place, a in enumerate(arms):
                mean, low, high = (table[q, a, at] for table in (curves.mean, curves.low, curves.high))
                made.note(arm=curves.arms[a], quantity=quantity, rate=rate, mean=mean, low=low, high=high)
                if a in means and np.isfinite(mean):
                    ends = np.array([max(low, lowest), min(high, 1.0) if factor == 100 else high])
                    ax.plot(factor * ends, [place, place], "|-", color=drawn[str(curves.arms[a])].colour, linewidth=0.8)
                    ax.plot([factor * mean], [place], **drawn[str(curves.arms[a])].points)
            if log:
                ax.set_xscale("log")
                low, high = ax.get_xlim()
                log_numbers(ax.xaxis, low, high, 3)
            else:
                ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
            ax.set_xlabel(label)
        axes[0, 0].set_yticks(range(len(arms)), [plain(printed(str(curves.arms[a]))) for a in arms])
        axes[0, 0].set_ylim(len(arms) - 0.5, -0.5)
    return made


def sharpness_against_gap(
    curves: Curves, rate: float = CONTRAST_RATE, families: Mapping[str, str] | None = None
) -> DataFigure:
    """Sharpness against generalisation gap at one noise rate, a symbol an arm, a dot a run; Kendall's τ in the title.

    Arms of one family share its symbol and are joined in the order of their realised ‖ε‖. τ is that over the arms of a
    seed, averaged over the seeds, with its t-interval, as T9 has it.

    Args:
        curves: of a study.
        families: what each arm is shown as, e.g. by :func:`ncsam.study.arms.family_of`; its own name if none.

    Raises:
        ValueError: no sharpness, or no gap, was measured at that rate.
    """
    at = _rate(curves, rate)
    names = curves.quantities.tolist()
    measures = [name for name in MEASURES if name in names]
    if "gap" not in names or not measures:
        raise ValueError(f"the study holds no gap or no sharpness ({', '.join(MEASURES)})")
    families = families or {}
    shown = [families.get(str(arm), str(arm)) for arm in curves.arms]
    columns = min(2, len(measures))
    made, axes = figure(-(-len(measures) // columns), columns, height=2.3, used=len(measures), sharey=True)
    gap = curves.value[names.index("gap"), :, at]
    order = (
        curves.mean[names.index("perturbation_norm"), :, at] if "perturbation_norm" in names else np.zeros(len(shown))
    )
    with mpl.rc_context(STYLE):
        for ax, measure in zip(axes.flat, measures, strict=False):
            sharpness = curves.value[names.index(measure), :, at]
            for family, symbol in symbols(shown).items():
                here = [a for a, of in enumerate(shown) if of == family and np.isfinite(sharpness[a] + gap[a]).any()]
                if not here:
                    continue
                here = sorted(here, key=lambda a: order[a])
                x, y = sharpness[here], gap[here]
                ax.plot(x.ravel(), y.ravel(), ".", color=symbol.colour, alpha=0.3, markersize=3)
                ax.plot(
                    np.nanmean(x, axis=1), np.nanmean(y, axis=1), label=plain(symbol.name),
                    **{**symbol.points, "linestyle": "-" if len(here) > 1 else "", "linewidth": 0.5, "markersize": 5.5},
                )  # fmt: skip
                made.note(
                    measure=measure, rate=rate, family=family, arm=curves.arms[here][:, None],
                    seed=curves.seeds[None, :], sharpness=x, gap=y,
                )  # fmt: skip
            if np.nanmax(sharpness) > 20 * np.nanmin(sharpness) > 0:
                ax.set_xscale("log")
                log_numbers(ax.xaxis, *ax.get_xlim())
            ax.set(xlabel=MEASURES[measure], title=_tau(tau_over_arms(sharpness, gap)))
        for row in axes:
            row[0].set_ylabel("generalisation gap (nats)")
        values = gap[np.isfinite(gap)]
        log_scale(axes[0, 0], values.min(), values.max())
        below(made, made.axes)
    return made


def tau_over_arms(x: np.ndarray, y: np.ndarray) -> Interval:
    """Kendall's τ over the arms of each seed, (arms, seeds) each, with its interval over the seeds."""
    return t_interval([kendall_tau(a, b) for a, b in zip(x.T, y.T, strict=True)])


def _tau(found: Interval) -> str:
    if not found.n:
        return "τ: fewer than four arms"
    ends = f" [{found.low:+.2f}, {found.high:+.2f}]" if np.isfinite(found.low) else ""
    return f"τ = {found.mean:+.2f}{ends}"


def _rate(curves: Curves, rate: float) -> int:
    found = np.flatnonzero(np.isclose(curves.rates, rate))
    if not len(found):
        raise ValueError(f"the study has no runs at {rate:.0%} noise, only at {', '.join(map(str, curves.rates))}")
    return int(found[0])


def _column(curves: Curves, quantities: list[str], at: int) -> np.ndarray:
    rows = [curves.quantities.tolist().index(name) for name in quantities]
    found: np.ndarray = curves.mean[rows, :, at]
    return found
