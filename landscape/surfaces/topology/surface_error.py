"""The error of a surface that is interpolated between the points of its grid, cell by cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import product

import numpy as np

SAFETY = 2.0  # a second difference between the points may be this many times larger than at them


@dataclasses.dataclass(frozen=True)
class CellErrors:
    """Cells of a grid with finite corners: how far the function may be from what is interpolated in each.

    Attributes:
        error: (cells,) in units of the loss; infinite where the points do not tell.
        lowest, highest: (cells,) smallest and largest value of a corner.
    """

    error: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    @classmethod
    def of(cls, axes: Sequence[np.ndarray], values: np.ndarray, point_error: np.ndarray) -> CellErrors:
        """The errors of (bi)linear interpolation, h²/8 · |second derivative| along each axis (de Boor 2001, §III).

        Second derivatives are the largest second differences at the cell's corners, times :data:`SAFETY`; next to
        points that are not finite, the largest of all along that axis.

        Args:
            axes: ascending coordinates of each axis, three at least.
            values: with one dimension an axis.
            point_error: of the values themselves, of their shape.

        >>> x = np.linspace(0, 1, 5)
        >>> found = CellErrors.of([x], x**2, np.zeros(5))
        >>> found.error.tolist()  # the largest error of the chords is 1/64
        [0.03125, 0.03125, 0.03125, 0.03125]
        """
        bent = [_second_derivative(x, values, axis) for axis, x in enumerate(axes)]
        every = range(values.ndim)
        # Where a neighbour is not finite, components still join along single lines, in no whole cell.
        pieces = [tuple(every)] + [(axis,) for axis in every if values.ndim > 1]
        found = [_of_pieces(piece, axes, values, point_error, bent) for piece in pieces]
        return cls(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    @property
    def largest(self) -> float:
        """The largest error of all cells."""
        return float(self.error.max(initial=0.0))

    def below(self, level: float) -> float:
        """Largest distance of function and interpolant after both are cut off at ``level``.

        Where a cell's lowest corner lies above the level, only what its error exceeds that by counts.

        >>> x = np.array([0.0, 1.0, 2.0])
        >>> errors = CellErrors.of([x], np.array([0.0, 8.0, 0.0]), np.zeros(3))
        >>> errors.largest, errors.below(0.0), errors.below(-1.0)
        (4.0, 4.0, 3.0)
        """
        return float(np.maximum(self.error - np.maximum(self.lowest - level, 0), 0).max(initial=0.0))

    def above(self, level: float) -> float:
        """The same after both are cut off from below."""
        return float(np.maximum(self.error - np.maximum(level - self.highest, 0), 0).max(initial=0.0))


def _of_pieces(
    along: Sequence[int],
    axes: Sequence[np.ndarray],
    values: np.ndarray,
    point_error: np.ndarray,
    bent: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Error, smallest and largest corner of all cells, or of all edges, that extend along these axes."""
    ends = [(slice(None, -1), slice(1, None)) if axis in along else (slice(None),) for axis in range(values.ndim)]
    corners = list(product(*ends))

    def largest(table: np.ndarray) -> np.ndarray:
        return np.asarray(np.max([table[corner] for corner in corners], axis=0))

    total = largest(point_error)
    for axis in along:
        width = np.diff(axes[axis]).reshape([-1 if k == axis else 1 for k in range(values.ndim)])
        total = total + SAFETY * width**2 / 8 * largest(bent[axis])
    every = np.stack([values[corner] for corner in corners])
    whole = np.isfinite(every).all(axis=0)
    return total[whole], every.min(axis=0)[whole], every.max(axis=0)[whole]


def _second_derivative(x: np.ndarray, values: np.ndarray, axis: int) -> np.ndarray:
    """|second divided difference| · 2 along an axis; at the ends that of the next point, else the largest of all."""
    v = np.moveaxis(np.where(np.isfinite(values), values, np.nan), axis, 0)
    h = np.diff(x).reshape(-1, *[1] * (v.ndim - 1))
    slopes = np.diff(v, axis=0) / h
    inner = np.abs(2 * np.diff(slopes, axis=0) / (h[:-1] + h[1:]))
    found = np.moveaxis(np.concatenate([inner[:1], inner, inner[-1:]]), 0, axis)
    known = found[np.isfinite(found)]
    return np.where(np.isfinite(found), found, known.max() if known.size else np.inf)
