"""Interpolation between the measured points of a plane, from which its contours are drawn."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from landscape.records import Plane, Status

_FINE = 121  # points along an axis that contours are drawn from, where fewer were measured


def refined(
    alphas: np.ndarray, betas: np.ndarray, table: np.ndarray, *, log: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A table between its points: local cubics (Akima) along either axis, through every point, within their range.

    Args:
        alphas, betas: where the points are, ascending.
        table: (alpha, beta); cells of the grid with a corner that is not finite stay NaN.
        log: interpolate logarithms; all finite values are positive.

    Returns:
        the finer axes and table, the measured points among them; the same where enough points were measured.

    >>> at = np.linspace(-1, 1, 5)
    >>> a, b, fine = refined(at, at, at[:, None] ** 2 + at**2)
    >>> bool(np.allclose(fine, a[:, None] ** 2 + b**2))
    True
    """
    if min(table.shape) < 3:
        return alphas, betas, table
    finite = np.isfinite(table)
    values = np.log(table, where=finite, out=np.full_like(table, np.nan)) if log else table.copy()
    for row in values.T, values:  # holes take what lies beside them, and are cut out again below
        for line in row:
            there = np.isfinite(line)
            if there.any() and not there.all():
                line[~there] = np.interp(np.flatnonzero(~there), np.flatnonzero(there), line[there])
    if not np.isfinite(values).all():
        return alphas, betas, table
    a, b = _finer(alphas), _finer(betas)
    fine = Akima1DInterpolator(betas, Akima1DInterpolator(alphas, values, axis=0)(a), axis=1)(b)
    fine = np.exp(fine) if log else fine
    fine = np.clip(fine, table[finite].min(), table[finite].max())
    fine[_hole(a, alphas, b, betas, finite)] = np.nan
    return a, b, fine


def _finer(axis: np.ndarray) -> np.ndarray:
    parts = -(-(_FINE - 1) // (len(axis) - 1))
    steps = np.linspace(axis[:-1], axis[1:], parts, endpoint=False).T.ravel()
    return np.append(steps, axis[-1])


def _hole(a: np.ndarray, alphas: np.ndarray, b: np.ndarray, betas: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Mark fine points that lie in, or on the edge of, a cell of the grid with a corner that is not finite."""
    below = [
        np.clip(np.searchsorted(axis, at, "right") - 1, 0, len(axis) - 1) for axis, at in ((alphas, a), (betas, b))
    ]
    above = [np.clip(np.searchsorted(axis, at, "left"), 0, len(axis) - 1) for axis, at in ((alphas, a), (betas, b))]
    corners = [finite[np.ix_(i, j)] for i in (below[0], above[0]) for j in (below[1], above[1])]
    return ~np.logical_and.reduce(corners)


def is_interpolated(plane: Plane, view: str) -> bool:
    """Tell whether contours lie between measured points that are far enough apart to be seen."""
    status = plane.status[plane.views.tolist().index(view)]
    return bool(min(status.shape) > 1 and (max(status.shape) < _FINE // 2 or (status == Status.INTERPOLATED).any()))
