"""The radius control: accuracy and memorisation of every arm against its realised perturbation norm."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, below, figure, log_numbers
from landscape.figures.symbols import Symbol, plain
from ncsam.figures.style import shares, symbols
from ncsam.records import RadiusControl

_SPAN = 2.5  # least ratio of the axis' ends: radii that hardly differ stand close together
_BESIDE = 3.4  # points of the page that upright bars of one radius spread over: less than a symbol is wide


def radius_figure(control: RadiusControl) -> DataFigure:
    """Clean test accuracy and memorisation against the realised ‖ε‖: SAM over ρ as a line, all else as points.

    Arms without ‖ε‖, SGD and rivals with another loss, are levels, each with the dashes of its arm. Bars are
    t-intervals over the seeds, in both directions; along y they end at 0 and 1, along x one that reaches zero ends
    where the axis does. Symbols stand at the true radii, and a tick on the axis marks each; upright bars of about the
    same radius are a hair apart, each still within its symbol.
    """
    made, axes = figure(1, 2, height=3.4)
    panels = (("accuracy", "clean test accuracy"), ("memorisation", "wrong labels memorised"))
    drawn, own = symbols(control.family.tolist()), symbols(control.arms.tolist())
    reach = _reach(control)
    beside = _beside(control, np.log(reach[1] / reach[0]) / 200)  # a panel is some 200 points wide
    with mpl.rc_context(STYLE):
        for ax, (quantity, title) in zip(axes[0], panels, strict=True):
            for family, symbol in drawn.items():
                here = np.flatnonzero(control.family == family)
                here = here[np.argsort(control.radius[here])]
                x, y = _interval(control, "radius", here), _interval(control, quantity, here)
                made.note(
                    quantity=quantity, family=family, arm=control.arms[here], seeds=control.seeds[here],
                    radius=x[0], radius_low=x[1], radius_high=x[2], mean=y[0], low=y[1], high=y[2],
                )  # fmt: skip
                if not (x[0] > 0).any():
                    for arm, level in zip(control.arms[here].tolist(), y[0].tolist(), strict=True):
                        look = own[arm] if len(here) > 1 else symbol
                        dash = "--" if look.dash == "-" else look.dash
                        ax.axhline(level, color=look.colour, linestyle=dash, linewidth=1, label=plain(look.name))
                    continue
                if family == "SAM":
                    ax.plot(x[0], y[0], color=symbol.colour, linewidth=1)
                for n, i in enumerate(here):
                    ends = np.clip([x[1][n], x[2][n]], *reach)
                    label = plain(symbol.name) if n == 0 else None
                    _bars(ax, (x[0][n], *ends), (y[0][n], y[1][n], y[2][n]), beside[i], symbol, label)
            ax.plot(control.radius[control.radius > 0], np.zeros((control.radius > 0).sum()), "|", color="black",
                    markersize=7, transform=ax.get_xaxis_transform(), clip_on=False)  # fmt: skip
            ax.set(title=title, xlabel="realised mean ‖ε‖", xscale="log", xlim=reach)
            log_numbers(ax.xaxis, *reach)
            shares(ax)
        below(made, made.axes)
    return made


def _bars(
    ax: Axes, x: tuple[float, ...], y: tuple[float, ...], beside: float, symbol: Symbol, label: str | None
) -> None:
    """One arm: its symbol with a bar along each axis, the upright one at ``beside`` times its radius."""
    bar: dict[str, Any] = {"color": symbol.colour, "linewidth": 0.8, "markersize": 3}
    ax.plot(x[1:], [y[0]] * 2, "|-", **bar)
    ax.plot([beside * x[0]] * 2, np.clip(y[1:], 0.0, 1.0), "_-", **bar)
    ax.plot([x[0]], [y[0]], label=label, **{**symbol.points, "markersize": 5})


def _reach(control: RadiusControl) -> tuple[float, float]:
    """Ends of the axis: all intervals that are above zero, the ratio of the ends at least ``_SPAN``, and a margin."""
    ends = np.concatenate([control.radius, control.radius_low, control.radius_high])
    ends = ends[np.isfinite(ends) & (ends > 0)]
    if not len(ends):
        return 0.01, 1.0
    ends = ends[ends >= 0.3 * control.radius[control.radius > 0].min()]
    middle, half = np.sqrt(ends.max() * ends.min()), np.sqrt(max(ends.max() / ends.min(), _SPAN)) * 1.08
    return float(middle / half), float(middle * half)


def _beside(control: RadiusControl, point: float) -> np.ndarray:
    """Factors on the radius for upright bars, (arm,): those within ``_BESIDE`` points of each other are spread over it.

    Args:
        control: with the radii.
        point: what a point of the page is on the logarithm of the axis.
    """
    factors = np.ones(len(control.arms))
    groups: list[list[int]] = []
    for i in np.argsort(control.radius):
        if not control.radius[i] > 0:
            continue
        if groups and np.log(control.radius[i] / control.radius[groups[-1][0]]) < _BESIDE * point:
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    for group in groups:
        if len(group) > 1:
            factors[group] = np.exp(_BESIDE * point * np.linspace(-0.5, 0.5, len(group)))
    return factors


def _interval(control: RadiusControl, name: str, here: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, low, high = (getattr(control, f"{name}{end}")[here] for end in ("", "_low", "_high"))
    return mean, low, high
