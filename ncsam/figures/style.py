"""Style that all figures of a study share: a colour and a symbol for each arm, bands, and axes of shares."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.style import COLOURS, MARKERS

BLUE, VERMILION, GREEN, PINK, SKY, ORANGE, BLACK = COLOURS
GREY = "#777777"


class Look(NamedTuple):
    """Colour and symbol of an arm, the same in every figure."""

    colour: str
    marker: str


_LOOKS: Mapping[str, Look] = {
    "sgd": Look(BLUE, "o"),
    "sam": Look(VERMILION, "s"),
    "ncsam": Look(GREEN, "^"),
    "ncsam-unprojected": Look(GREEN, "v"),
    "ncsam-minus": Look(PINK, "^"),
    "ncsam-minus-unprojected": Look(PINK, "v"),
    "matched": Look(VERMILION, "D"),
    "random-direction": Look(SKY, "X"),
    "random-picks": Look(SKY, "P"),
    "gstar-only": Look(ORANGE, "D"),
    "oracle": Look(BLACK, "P"),
    "clean-direction": Look(BLACK, "o"),
    "adaptive-sam": Look(ORANGE, "s"),
}
_FAMILIES = {  # names of ncsam.study.radius_control.family_of that are not their arm's with other dashes
    "NCSAM +": "ncsam",
    "NCSAM +, unprojected": "ncsam-unprojected",
    "NCSAM −": "ncsam-minus",
    "NCSAM −, unprojected": "ncsam-minus-unprojected",
    "g* only": "gstar-only",
}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each arm, or each family of arms; no two of them share one, as far as there are looks.

    >>> looks(["sgd", "mine", "SAM"])
    {'sgd': Look(colour='#0072B2', marker='o'), 'mine': Look(colour='#D55E00', marker='X'),
     'SAM': Look(colour='#D55E00', marker='s')}
    """
    names = list(dict.fromkeys(names))
    found = {name: _LOOKS[known] for name in names if (known := _known(name)) in _LOOKS}
    rest = [
        Look(colour, marker)
        for marker, colour in itertools.product(reversed(MARKERS), (*COLOURS[1:], COLOURS[0]))
        if Look(colour, marker) not in _LOOKS.values()
    ]
    spare = itertools.cycle(rest)
    return {name: found.get(name) or next(spare) for name in names}


def _known(name: str) -> str:
    return _FAMILIES.get(name, name.lower().replace(" ", "-"))


def base(arm: str) -> str:
    """The arm whose settings a sweep varied: arms of one base are told apart by their names, not by their looks.

    >>> base("clean-direction-rho0.05"), base("sam")
    ('clean-direction', 'sam')
    """
    return re.sub(r"-(rho|kappa|flip_ratio)[\d.e-]+", "", arm)


def in_order(arms: Iterable[str]) -> list[str]:
    """Arms that have a look of their own first, in its order, so that the others change nothing about them."""
    known = list(_LOOKS)
    return sorted(arms, key=lambda arm: known.index(arm) if arm in known else len(known))


def plain(text: object) -> str:
    """A label as it is written: no mathematics, and not hidden from legends.

    >>> plain("_a$b$")
    ' _a\\\\$b\\\\$'
    """
    shown = str(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def band(ax: Axes, x: Any, mean: Any, low: Any, high: Any, look: Look, label: str, **line: Any) -> None:
    """A line through the means with the interval as a band; where there is none (one seed), the line alone."""
    ax.plot(x, mean, color=look.colour, label=plain(label), **line)
    ax.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)


def shares(ax: Axes) -> None:
    """Numbers along y are shares, shown in percent; the axis ends where shares end, though an interval may go on."""
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -0.02), min(high, 1.02))
    ax.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))


def legend_below(made: Figure, columns: int = 4) -> None:
    """One legend for all axes, each label once."""
    found: dict[str, Any] = {}
    for ax in made.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        made.legend(list(found.values()), list(found), loc="outside lower center", ncols=min(len(found), columns))


def hide_spare(axes: np.ndarray, used: int) -> None:
    """Take away the axes of a grid that nothing is drawn in."""
    for ax in axes.flat[used:]:
        ax.set_visible(False)
