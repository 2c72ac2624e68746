"""All arms at one noise rate: each beside the others, and sharpness against generalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, below, figure, log_numbers, log_scale
from landscape.figures.symbols import plain
from ncsam.figures.style import shares, symbols
from ncsam.records import Curves
from ncsam.statistics import Interval, kendall_interval, kendall_tau, t_interval
from ncsam.study.arms import printed
from ncsam.study.effects import CONTRAST_RATE

COLUMNS = {
    "test_accuracy": ("test accuracy (%)", 100),
    "memorisation": ("memorised (%)", 100),
    "perturbation_norm": ("realised ‖ε‖", 1),
}
SHARPNESS = {"adaptive_trace/clean_part": "tr DHD, clean part", "adaptive/mixed": "adaptive, mixed (nats)"}
"""The first of them that was measured is shown."""
MEASURES = {
    "adaptive/mixed": "adaptive sharpness (nats)",
    "sam/mixed": "SAM sharpness (nats)",
    "top_eigenvalue/mixed": "top eigenvalue $λ_1$",
    "trace/mixed": "Hessian trace",
}
TRACES = {"adaptive_trace/clean_part": "tr DHD, clean part", "adaptive_trace/mixed": "tr DHD, mixed"}


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
    measured = [name for name in SHARPNESS if name in curves.quantities][:1]
    shown = COLUMNS | {name: (SHARPNESS[name], 1) for name in measured}
    quantities = [name for name in shown if name in curves.quantities]
    arms = [a for a in range(len(curves.arms)) if np.isfinite(_column(curves, quantities, at)[:, a]).any()]
    made, axes = figure(1, len(quantities), height=0.9 + 0.17 * len(arms), sharey=True)
    drawn = symbols(curves.arms.tolist())
    with mpl.rc_context(STYLE):
        for ax, quantity in zip(axes[0], quantities, strict=True):
            q = curves.quantities.tolist().index(quantity)
            label, factor = shown[quantity]
            # A norm of exactly zero is that of an arm without perturbation, and has no place on a logarithmic axis.
            means = {a: float(curves.mean[q, a, at]) for a in arms}
            means = {a: mean for a, mean in means.items() if quantity != "perturbation_norm" or mean > 0}
            positive = [mean for mean in means.values() if np.isfinite(mean)]
            spread = bool(positive) and max(positive) > 20 * min(positive) > 0
            log = (quantity == "perturbation_norm" and len(means) > 0) or (factor == 1 and spread)
            lowest = 0.5 * min(positive) if log else 0.0 if factor == 100 else -np.inf
            for place, a in enumerate(arms):
                mean, low, high = (table[q, a, at] for table in (curves.mean, curves.low, curves.high))
                made.note(arm=curves.arms[a], quantity=quantity, rate=rate, mean=mean, low=low, high=high)
                if quantity == "perturbation_norm" and mean == 0:
                    ax.text(0.03, place, "0", transform=ax.get_yaxis_transform(), ha="left", va="center", fontsize=7)
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
    seed, averaged over the seeds, with its t-interval, as version 1 of T9 has it.

    Args:
        curves: of a study.
        families: what each arm is shown as, e.g. by :func:`ncsam.study.arms.family_of`; its own name if none.

    Raises:
        ValueError: no sharpness, or no gap, was measured at that rate.
    """
    measures = {name: label for name, label in MEASURES.items() if name in curves.quantities}
    if "gap" not in curves.quantities or not measures:
        raise ValueError(f"the study holds no gap or no sharpness ({', '.join(MEASURES)})")
    made, axes = _over_arms(curves, rate, families, measures, "gap", lambda x, y, _: tau_over_arms(x, y))
    gap = curves.value[curves.quantities.tolist().index("gap"), :, _rate(curves, rate)]
    with mpl.rc_context(STYLE):
        for row in axes:
            row[0].set_ylabel("generalisation gap (nats)")
        values = gap[np.isfinite(gap)]
        log_scale(axes[0, 0], values.min(), values.max())
    return made


def sharpness_against_error(
    curves: Curves, rate: float = CONTRAST_RATE, families: Mapping[str, str] | None = None
) -> DataFigure:
    """tr DHD against clean test error at one noise rate, drawn as :func:`sharpness_against_gap` is.

    τ is the mean over the seeds, its interval that over families of arms and seeds at random, as T9 has it.

    Args:
        curves: of a study.
        families: as for :func:`sharpness_against_gap`.

    Raises:
        ValueError: no tr DHD, or no test error, was measured at that rate.
    """
    measures = {name: label for name, label in TRACES.items() if name in curves.quantities}
    if "test_error" not in curves.quantities or not measures:
        raise ValueError(f"the study holds no test_error or no tr DHD ({', '.join(TRACES)})")

    def tau(x: np.ndarray, y: np.ndarray, shown: Sequence[str]) -> Interval:
        return kendall_interval(x.T, y.T, families=shown)

    made, axes = _over_arms(curves, rate, families, measures, "test_error", tau)
    with mpl.rc_context(STYLE):
        for row in axes:
            row[0].set_ylabel("clean test error")
            shares(row[0])
    return made


def _over_arms(
    curves: Curves,
    rate: float,
    families: Mapping[str, str] | None,
    measures: Mapping[str, str],
    against: str,
    tau: Callable[[np.ndarray, np.ndarray, Sequence[str]], Interval],
) -> tuple[DataFigure, np.ndarray]:
    """Measures, a panel each, against another quantity, by arm and run; the titles say ``tau`` of the two."""
    at = _rate(curves, rate)
    names = curves.quantities.tolist()
    families = families or {}
    shown = [families.get(str(arm), str(arm)) for arm in curves.arms]
    columns = min(2, len(measures))
    made, axes = figure(-(-len(measures) // columns), columns, height=2.3, used=len(measures), sharey=True)
    other = curves.value[names.index(against), :, at]
    order = (
        curves.mean[names.index("perturbation_norm"), :, at] if "perturbation_norm" in names else np.zeros(len(shown))
    )
    with mpl.rc_context(STYLE):
        for ax, (measure, label) in zip(axes.flat, measures.items(), strict=False):
            sharpness = curves.value[names.index(measure), :, at]
            for family, symbol in symbols(shown).items():
                here = [a for a, of in enumerate(shown) if of == family and np.isfinite(sharpness[a] + other[a]).any()]
                if not here:
                    continue
                here = sorted(here, key=lambda a: order[a])
                x, y = sharpness[here], other[here]
                ax.plot(x.ravel(), y.ravel(), ".", color=symbol.colour, alpha=0.3, markersize=3)
                ax.plot(
                    np.nanmean(x, axis=1), np.nanmean(y, axis=1), label=plain(symbol.name),
                    **{**symbol.points, "linestyle": "-" if len(here) > 1 else "", "linewidth": 0.5, "markersize": 5.5},
                )  # fmt: skip
                made.note(
                    measure=measure, rate=rate, family=family, arm=curves.arms[here][:, None],
                    seed=curves.seeds[None, :], sharpness=x, **{against: y},
                )  # fmt: skip
            if np.nanmax(sharpness) > 20 * np.nanmin(sharpness) > 0:
                ax.set_xscale("log")
                log_numbers(ax.xaxis, *ax.get_xlim())
            ax.set(xlabel=label, title=_tau(tau(sharpness, other, shown)))
        below(made, made.axes)
    return made, axes


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
