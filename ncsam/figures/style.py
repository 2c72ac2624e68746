"""Style that all figures of a study share: the symbol of each arm, bands, and axes of shares and of rates."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from landscape.figures.symbols import COLOURS, DASHES, MARKERS, Symbol, plain
from ncsam.study.arms import ARMS, is_variant, key_of, printed

BLUE, VERMILION, GREEN, PINK, SKY, ORANGE, BLACK = COLOURS
GREY = "#777777"


def symbols(names: Iterable[str]) -> dict[str, Symbol]:
    """A symbol for each arm, or printed name of one: that of :data:`ncsam.study.arms.ARMS` where it is known.

    A variant that a sweep made has another shade of its arm's symbol; unknown arms take what is left, by position.

    >>> found = symbols(["sgd", "SAM", "sam-rho0.2", "mine"])
    >>> found["SAM"].colour, found["sam-rho0.2"].name, found["mine"].marker in "os^"
    ('#D55E00', 'SAM, ρ = 0.2', False)
    """
    found: dict[str, Symbol] = {}
    spare, variants = itertools.cycle(_SPARE), Counter[str]()
    for name in dict.fromkeys(names):
        key = key_of(name)
        if key not in ARMS:
            left = next(spare)
            found[name] = Symbol(left.colour, left.marker, left.dash, left.filled, name)
            continue
        arm = ARMS[key]
        base = Symbol(arm.colour, arm.marker, arm.dash, arm.filled, printed(name))
        variants[key] += is_variant(name)
        found[name] = base.variant(variants[key], printed(name)) if is_variant(name) else base
    return found


def band(
    ax: Axes, x: Any, mean: Any, low: Any, high: Any, symbol: Symbol, *, markers: bool = False, share: bool = False
) -> None:
    """A line through the means with the interval as a band; where there is none (one seed), the line alone.

    Args:
        share: whether the values are shares: the band then ends at 0 and 1.
    """
    ax.plot(x, mean, **(symbol.both if markers else symbol.line), label=plain(symbol.name))
    ends = [np.clip(end, 0.0, 1.0) for end in (low, high)] if share else [low, high]
    ax.fill_between(x, *ends, color=symbol.colour, alpha=0.15, linewidth=0)


def shares(ax: Axes) -> None:
    """Numbers along y are shares, shown in percent; called once all is drawn, since it ends the axis near 0 and 1."""
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -0.02), min(high, 1.02))
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")


def _spare() -> Sequence[Symbol]:
    taken = {(arm.marker, arm.filled) for arm in ARMS.values()}
    free = [(m, f) for m in (*reversed(MARKERS), "d", ">", "H", "8") for f in (True, False) if (m, f) not in taken]
    colours = (SKY, ORANGE, PINK, BLACK, GREEN, VERMILION, BLUE)
    grid = itertools.product(range(len(colours)), range(len(free)))
    ordered = sorted(grid, key=lambda at: ((at[1] - at[0]) % len(free), at[0]))
    return [Symbol(colours[c], free[m][0], DASHES[(c + m) % len(DASHES)], free[m][1]) for c, m in ordered]


_SPARE = _spare()


def epoch_axis(ax: Axes) -> None:
    """Label the x-axis as epochs, with ticks at whole ones."""
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
