"""The radius control as a picture: what every arm reaches against the perturbation that it really took."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, figure
from ncsam.figures.style import legend_below, looks, plain, shares
from ncsam.records import RadiusControl

_BESIDE = 0.04  # radii that differ by less are drawn side by side, as far apart as this


def radius_figure(control: RadiusControl) -> DataFigure:
    """Clean test accuracy and memorisation against the realised ‖ε‖: SAM over ρ as a line, all else as points.

    SGD, which has no ‖ε‖, is a dashed level. Bars are t-intervals over the seeds, in both
    directions; arms of about the same ‖ε‖ are set side by side.
    """
    made, axes = figure(1, 2, height=3.4)
    panels = (("accuracy", "clean test accuracy"), ("memorisation", "wrong labels memorised"))
    families = looks(control.family.tolist())
    beside = _beside(control)
    with mpl.rc_context(STYLE):
        for ax, (quantity, title) in zip(axes[0], panels, strict=True):
            for family, look in families.items():
                here = np.flatnonzero(control.family == family)
                here = here[np.argsort(control.radius[here])]
                x, y = _interval(control, "radius", here), _interval(control, quantity, here)
                place = x[0] * beside[here]
                made.note(
                    quantity=quantity, family=family, arm=control.arms[here], seeds=control.seeds[here],
                    radius=x[0], radius_low=x[1], radius_high=x[2], mean=y[0], low=y[1], high=y[2],
                )  # fmt: skip
                if family == "SGD":
                    ax.axhline(y[0].mean(), color=look.colour, linestyle="--", linewidth=1, label=family)
                    continue
                bars = {  # as lists: matplotlib 3.8 takes an array of one bar for a number
                    axis: [(middle - low).tolist(), (high - middle).tolist()]
                    for axis, (middle, low, high) in (("xerr", x), ("yerr", y))
                }
                ax.errorbar(
                    place, y[0], **bars, color=look.colour, marker=look.marker, label=plain(family), capsize=2,
                    linestyle="-" if family == "SAM" else "", elinewidth=0.8, markersize=5,
                )  # fmt: skip
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=[1, 2, 5]))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
            ax.set(title=title, xlabel="realised mean ‖ε‖")
            shares(ax)
        legend_below(made)
    return made


def _beside(control: RadiusControl) -> np.ndarray:
    """Factors on the radius that set arms of about the same one side by side; 1 for SAM, which is a line."""
    factors = np.ones(len(control.arms))
    sam = control.radius[control.family == "SAM"]
    groups: list[list[int]] = []
    for i in np.argsort(control.radius):
        if control.family[i] in ("SAM", "SGD") or not control.radius[i] > 0:
            continue
        if groups and control.radius[i] < (1 + _BESIDE) * control.radius[groups[-1][-1]]:
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    for group in groups:
        steps = np.arange(len(group)) - (len(group) - 1) / 2
        if (np.abs(sam / control.radius[group].mean() - 1) < _BESIDE).any():
            steps += np.where(steps >= 0, 0.5 + 0.5 * (len(group) % 2), 0.0)  # SAM's own point stays free
        factors[group] = (1 + _BESIDE) ** steps
    return factors


def _interval(control: RadiusControl, name: str, here: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, low, high = (getattr(control, f"{name}{end}")[here] for end in ("", "_low", "_high"))
    return mean, low, high
