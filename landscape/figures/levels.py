"""Contour levels at round numbers, on a linear or logarithmic scale."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import MaxNLocator

Scale = Literal["auto", "log", "linear"]
SCALES = get_args(Scale)
_STEPS = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))


def is_log(values: np.ndarray, scale: Scale) -> bool:
    """Tell whether to draw finite ``values`` on a logarithmic scale: ``auto`` where they span more than a factor of 20.

    Raises:
        ValueError: an unknown scale, or a logarithmic one without positive values.

    >>> is_log(np.array([0.1, 3.0]), "auto"), is_log(np.array([0.1, 1.0]), "auto")
    (True, False)
    """
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; known: {', '.join(SCALES)}")
    positive = values[values > 0]
    if scale == "log" and not positive.size:
        raise ValueError("a logarithmic scale needs positive values, and there are none")
    if scale != "auto":
        return scale == "log"
    return bool((values >= 0).all() and positive.size and values.max() > 20 * positive.min())


def levels_between(low: float, high: float, count: int, *, log: bool) -> np.ndarray:
    """Round numbers, ascending, about ``count`` at most, from at or below ``low`` to at or above ``high``.

    >>> levels_between(0.03, 4.0, 12, log=True).tolist()
    [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
    >>> levels_between(0.0, 2.0, 6, log=False).tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    if not log:
        if low == high:
            high = low + (abs(low) or 1.0) * 1e-3
        return np.asarray(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    stride = max(1, -(-(last - first) // count))
    decades = range(first - 1, last + stride + 1)
    found = np.empty(0)
    for steps in _STEPS:
        every = stride if steps == (1,) else 1
        candidates = np.array([float(f"{m}e{d}") for d in decades[1 - (every == 1) :: every] for m in steps])
        inside = candidates[(candidates > low) & (candidates < high)]
        below, above = candidates[candidates <= low], candidates[candidates >= high]
        found = np.concatenate([below[-1:], inside, above[:1]])
        if len(found) <= count:
            break
    return found


def norm_for(levels: np.ndarray, *, log: bool) -> Normalize:
    """Colours spread evenly over the scale from the first level to the last."""
    return LogNorm(levels[0], levels[-1]) if log else Normalize(levels[0], levels[-1])


def symmetric_levels(values: np.ndarray, count: int) -> np.ndarray:
    """Round levels about zero that reach as far to either side, for a diverging colour map.

    >>> symmetric_levels(np.array([-0.3, 1.9]), 9).tolist()
    [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]
    """
    furthest = float(np.abs(values).max()) or 1.0
    half = np.asarray(MaxNLocator(max(2, count // 2), steps=[1, 2, 2.5, 5, 10]).tick_values(0, furthest))
    half = half[half > 0]
    return np.concatenate([-half[::-1], [0.0], half])
