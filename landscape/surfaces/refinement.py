"""Which points of a grid to evaluate, and in which order: coarse to fine, and no more than a tolerance demands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, product

import numpy as np

BASE_LEVEL = 3  # nine nodes an axis, always evaluated
SAFETY = 2.0  # an error found in a cell may be this many times larger elsewhere in it
_DENSE = 1500  # points up to which the surrogate is fitted to all of them at once
_NEIGHBOURS = 100  # that it is fitted to, point by point, beyond that

Cell = tuple[tuple[int, int], ...]
Point = tuple[int, ...]


def nodes(count: int, level: int) -> list[int]:
    """Both ends of ``range(count)`` and what ``level`` rounds of bisection add, ascending; nested in ``level``.

    >>> nodes(51, 0), nodes(51, 2)
    ([0, 50], [0, 12, 25, 37, 50])
    """
    found = sorted({0, count - 1})
    for _ in range(level):
        found = sorted({*found, *((a + b) // 2 for a, b in pairwise(found))})
    return found


def coarse_to_fine(shape: Sequence[int]) -> list[int]:
    """Every point of a grid as a flat index, such that any beginning of the list is spread over the whole grid.

    >>> coarse_to_fine([5])
    [0, 4, 2, 1, 3]
    """
    flat = np.arange(math.prod(shape)).reshape(shape)
    order: dict[int, None] = {}
    for level in range(max(shape).bit_length() + 1):
        order |= dict.fromkeys(flat[np.ix_(*(nodes(count, level) for count in shape))].ravel().tolist())
    return list(order)


class Refinement:
    """Evaluate a function on a grid only where interpolation is not known to be good enough.

    The grid is cut into cells by a lattice of nine nodes an axis. A cell is tested where it is farthest from its
    corners, at its centre and, on the border of the grid, in the middle of the outer face: what the interpolant says
    there *before* the point is evaluated is compared with the value. If the largest difference exceeds the tolerance
    divided by :data:`SAFETY`, or anything in the cell is not finite, the cell and those that touch it are bisected
    along each axis. So every estimate of the error is a prediction that was put to the test, and the points that
    tested it improve the interpolant afterwards. All decisions follow from the values, so that the same values
    give the same points.

    The interpolant is a quintic polyharmonic spline through all points so far (Wahba 1990, §2.4), which needs no
    lattice; each axis is scaled so that its mean spacing is 1.

    Args:
        axes: ascending coordinates of each axis.
        values: (points, columns), flat in C order; filled by the caller where ``known``, by :meth:`fill` elsewhere.
        known: (points,) bool; the caller sets it as it evaluates the points that :meth:`points` yields.
        governing: (columns,) bool; columns whose errors decide, e.g. losses but not accuracies.
        tolerance: largest error sought, as a share of each governing column's range over the known points.

    Attributes:
        error: (columns,) estimated largest error of what was interpolated; 0 where all is known.

    Raises:
        ValueError: the tolerance is not positive, or an axis does not ascend.

    >>> x = np.linspace(-1, 1, 65)
    >>> values, known = np.full((65, 1), np.nan), np.zeros(65, bool)
    >>> refinement = Refinement([x], values, known, np.array([True]), tolerance=0.01)
    >>> for i in refinement.points():
    ...     values[i], known[i] = np.exp(x[i]), True
    >>> refinement.fill()
    >>> int(known.sum()), bool(np.abs(values[:, 0] - np.exp(x)).max() <= refinement.error[0])
    (17, True)
    """

    def __init__(
        self,
        axes: Sequence[np.ndarray],
        values: np.ndarray,
        known: np.ndarray,
        governing: np.ndarray,
        tolerance: float,
    ) -> None:
        if not (math.isfinite(tolerance) and tolerance > 0):
            raise ValueError(f"tolerance is {tolerance}, expected a finite number > 0 (a share of the loss's range)")
        if any((np.diff(axis) <= 0).any() for axis in axes):
            raise ValueError("a tolerance needs coordinates in strictly ascending order")
        self._shape = tuple(len(axis) for axis in axes)
        self._values, self._known, self._governing, self._tolerance = values, known, governing, tolerance
        long = [_scaled(axis) for axis in axes if len(axis) > 1]
        self._places = np.stack(np.meshgrid(*long, indexing="ij"), -1).reshape(-1, len(long)) if long else None
        self.error = np.zeros(values.shape[1])

    def points(self) -> Iterator[int]:
        """Points to evaluate; each must be known, with its values set, before the next one is asked for."""
        for points in self.rounds():
            yield from points

    def rounds(self) -> Iterator[list[int]]:
        """The same in rounds: all points of a round must be known, in whatever order, before the next is asked for."""
        lattice = [nodes(count, BASE_LEVEL) for count in self._shape]
        yield list(self._unknown(product(*lattice)))
        cells: list[Cell] = [c for c in product(*(_intervals(axis) for axis in lattice)) if _divisible(c)]
        while cells:
            tests = {cell: self._tests(cell) for cell in cells}
            fresh = list(dict.fromkeys(i for points in tests.values() for i in points))
            predicted = self._predict(np.array(fresh, int))
            yield fresh
            found = dict(zip(fresh, np.abs(predicted - self._values[fresh]), strict=True))
            exceeding = {cell for cell in cells if self._exceeds(cell, [found[i] for i in tests[cell]])}
            # A ridge found in one cell may cross the corner of the next, out of its test points' sight.
            split = [cell for cell in cells if cell in exceeding or any(_touch(cell, other) for other in exceeding)]
            halved = (point for cell in split for point in product(*(sorted({a, (a + b) // 2, b}) for a, b in cell)))
            yield list(dict.fromkeys(self._unknown(halved)))
            cells = [
                child for cell in split for child in product(*(_halves(a, b) for a, b in cell)) if _divisible(child)
            ]

    def fill(self) -> None:
        """Interpolate what is not known."""
        missing = np.flatnonzero(~self._known)
        if len(missing):
            self._values[missing] = self._predict(missing)

    def _exceeds(self, cell: Cell, errors: list[np.ndarray]) -> bool:
        """Tell whether a cell is to be split; if not, its errors enter the estimate."""
        corners = [self._flat(corner) for corner in product(*cell)]
        live = self._live()
        if not errors or not np.isfinite(self._values[corners][:, live]).all():
            return True
        worst = SAFETY * np.max(errors, axis=0)
        seen = self._values[self._known][:, live]
        span = _span(seen)
        with np.errstate(invalid="ignore"):
            small = worst[live] <= self._tolerance * span
        if not small.all():  # also where an error is NaN
            return True
        self.error = np.fmax(self.error, worst)
        return False

    def _live(self) -> np.ndarray:
        """Governing columns that hold anything at all."""
        return self._governing & ~np.isnan(self._values[self._known]).all(axis=0)

    def _predict(self, points: np.ndarray) -> np.ndarray:
        """(points, columns) from the finite values so far; NaN where these do not determine an interpolant."""
        predicted = np.full((len(points), self._values.shape[1]), np.nan)
        if self._places is None or not len(points):
            return predicted
        finite = np.isfinite(self._values) & self._known[:, None]
        from scipy.interpolate import RBFInterpolator  # takes half a second, and most surfaces need it not

        for mask in np.unique(finite.T, axis=0):
            columns = np.equal(finite.T, mask).all(axis=1)
            at = self._places[mask]
            if any(len(np.unique(coordinate)) < 3 for coordinate in at.T):
                continue  # the spline's quadratic part would not be determined
            neighbours = None if len(at) <= _DENSE else _NEIGHBOURS
            spline = RBFInterpolator(at, self._values[np.ix_(mask, columns)], neighbours, kernel="quintic")
            predicted[:, columns] = spline(self._places[points])
        return predicted

    def _tests(self, cell: Cell) -> list[int]:
        centre = tuple((a + b) // 2 for a, b in cell)
        points = [centre]
        for axis, (a, b) in enumerate(cell):
            outer = [end for end, border in ((a, 0), (b, self._shape[axis] - 1)) if end == border]
            points += [(*centre[:axis], end, *centre[axis + 1 :]) for end in outer]
        return list(self._unknown(points))

    def _unknown(self, points: Iterable[Point]) -> Iterator[int]:
        for point in points:
            index = self._flat(point)
            if not self._known[index]:
                yield index

    def _flat(self, point: Point) -> int:
        return int(np.ravel_multi_index(point, self._shape))


def _span(values: np.ndarray) -> np.ndarray:
    """Range of the finite values of each column."""
    finite = np.isfinite(values)
    high, low = np.where(finite, values, -np.inf).max(0), np.where(finite, values, np.inf).min(0)
    return np.asarray(np.subtract(high, low, out=np.zeros(values.shape[1]), where=finite.any(0)))


def _scaled(axis: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (axis - axis[0]) / (axis[-1] - axis[0]) * (len(axis) - 1)
    return scaled


def _intervals(axis: list[int]) -> list[tuple[int, int]]:
    return list(pairwise(axis)) or [(axis[0], axis[0])]


def _halves(a: int, b: int) -> list[tuple[int, int]]:
    return [(a, (a + b) // 2), ((a + b) // 2, b)] if b - a > 1 else [(a, b)]


def _touch(cell: Cell, other: Cell) -> bool:
    """Tell whether two cells share a face or a part of one, an edge or a corner."""
    return all(a <= d and c <= b for (a, b), (c, d) in zip(cell, other, strict=True))


def _divisible(cell: Cell) -> bool:
    return any(b - a > 1 for a, b in cell)
