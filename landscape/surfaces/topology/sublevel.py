"""Sublevel persistence of a function known on a grid, by the elder rule on a graph (union–find); numpy alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Graph:
    """Points and edges that have the components of every sublevel set of a function on a grid, interpolated bilinearly.

    Within a cell whose two corners on one diagonal are both lower than the two on the other, the lower ones join at the
    cell's own saddle, which is a point between the corners; elsewhere components join along the grid's lines.

    Attributes:
        values: (points,) flat in C order; infinite where a point belongs to no sublevel set.
        ends: (edges, 2) points that an edge joins.
        levels: (edges,) value from which on it does.
        places: (edges, axes) coordinates of the point where it does.
    """

    values: np.ndarray
    ends: np.ndarray
    levels: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, axes: Sequence[np.ndarray], values: np.ndarray) -> Graph:
        """The graph of values on a line or plane; points that are not finite belong to no sublevel set.

        Args:
            axes: ascending coordinates of each of one or two axes.
            values: with one dimension an axis.
        """
        flat = np.where(np.isfinite(values), values, np.inf)
        index = np.arange(values.size).reshape(values.shape)
        ends = [_pairs(np.moveaxis(index, axis, 0)[:-1], np.moveaxis(index, axis, 0)[1:]) for axis in range(flat.ndim)]
        along = np.concatenate(ends)
        coordinates = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
        levels = flat.ravel()[along].max(axis=1)
        highest = along[np.arange(len(along)), flat.ravel()[along].argmax(axis=1)]
        found = [(along, levels, coordinates[highest])]
        if values.ndim == 2:
            found.append(_diagonals(axes, flat, index))
        joined, levels, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
        finite = np.isfinite(levels)
        return cls(flat.ravel(), joined[finite], levels[finite], places[finite])


@dataclasses.dataclass(frozen=True)
class Branches:
    """Branches of a merge tree: components of sublevel sets from the minimum that each begins with to its end.

    Attributes:
        minimum: (branches,) point at which each begins.
        birth, death: (branches,) values; death is infinite for a component that never joins a deeper one.
        parent: (branches,) the deeper branch that it joins, or −1.
        saddle: (branches, axes) coordinates of the point where it does; NaN if it does not.
        size: (branches,) sum of the weights of the points that belong to it just below its end.
        reached: (branches, marks) value at which it first holds a point with each mark; infinite if it does not before
            its end.
        branch_of: (points,) innermost branch of each point, −1 where the value is infinite.
    """

    minimum: np.ndarray
    birth: np.ndarray
    death: np.ndarray
    parent: np.ndarray
    saddle: np.ndarray
    size: np.ndarray
    reached: np.ndarray
    branch_of: np.ndarray


def branches(graph: Graph, weights: np.ndarray, marks: np.ndarray) -> Branches:
    """The branches of a graph's merge tree that last, by persistence (Edelsbrunner & Harer 2010, §VII.1).

    Where two components meet, the one with the higher minimum ends (the elder rule); of equal minima, the one whose
    point comes later.

    Args:
        weights: (points,) what each adds to the size of the components that it belongs to.
        marks: (marks, points) bool.

    >>> x = np.arange(5.0)
    >>> found = branches(Graph.of([x], np.array([0.0, 3.0, 1.0, 2.0, 1.5])), np.ones(5), np.zeros((0, 5), bool))
    >>> found.birth.tolist(), found.death.tolist(), found.parent.tolist(), found.size.tolist()
    ([0.0, 1.0, 1.5], [inf, 3.0, 2.0], [-1, 0, 1], [5.0, 3.0, 1.0])
    """
    values, count = graph.values, len(graph.values)
    root = list(range(count))  # of a union–find with path halving; a root is its component's lowest point
    size, at_level = [0.0] * count, weights.astype(float).tolist()  # of a component below its level, and from it on
    reached = np.where(marks, values, np.inf).T.tolist()
    into, death, edge = [-1] * count, [np.inf] * count, [-1] * count
    key = values.tolist()
    highest = values.tolist()  # level of each component

    def find(point: int) -> int:
        while root[point] != point:
            root[point] = root[root[point]]
            point = root[point]
        return point

    order = np.argsort(graph.levels, kind="stable").tolist()
    ends, levels = graph.ends.tolist(), graph.levels.tolist()
    for e in order:
        a, b = find(ends[e][0]), find(ends[e][1])
        if a == b:
            continue
        elder, younger = (a, b) if (key[a], a) < (key[b], b) else (b, a)
        level = levels[e]
        root[younger] = into[younger] = elder
        death[younger], edge[younger] = level, e
        for v in (elder, younger):
            if highest[v] < level:
                size[v], at_level[v], highest[v] = size[v] + at_level[v], 0.0, level
        at_level[elder] += size[younger] + at_level[younger]
        own, other = reached[elder], reached[younger]
        reached[elder] = [
            mine if mine < np.inf else (level if theirs < np.inf else np.inf)
            for mine, theirs in zip(own, other, strict=True)
        ]
    lasts = [v for v in range(count) if key[v] < np.inf and death[v] > key[v]]
    lasts.sort(key=lambda v: (-(death[v] - key[v]), key[v], v))
    number = {v: n for n, v in enumerate(lasts)}

    def innermost(point: int) -> int:
        while point >= 0 and point not in number:
            point = into[point]
        return number.get(point, -1)

    minimum = np.array(lasts, dtype=np.int64)
    whole = np.where(np.isinf(death), np.add(size, at_level), size)
    saddle = np.full((len(lasts), graph.places.shape[1]), np.nan)
    for n, v in enumerate(lasts):
        if edge[v] >= 0:
            saddle[n] = graph.places[edge[v]]
    return Branches(
        minimum=minimum,
        birth=values[minimum],
        death=np.array(death)[minimum],
        parent=np.array([innermost(into[v]) if into[v] >= 0 else -1 for v in lasts], dtype=np.int64),
        saddle=saddle,
        size=whole[minimum],
        reached=np.array(reached).reshape(count, len(marks))[minimum],
        branch_of=np.array([innermost(v) if key[v] < np.inf else -1 for v in range(count)], dtype=np.int64),
    )


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Loops of sublevel sets, each filled when its level reaches the top that it surrounds.

    Attributes:
        birth: (peaks,) value at the saddle at which the loop closes.
        death: (peaks,) value at the top.
        saddle, top: (peaks, axes) their coordinates.
    """

    birth: np.ndarray
    death: np.ndarray
    saddle: np.ndarray
    top: np.ndarray


def peaks(axes: Sequence[np.ndarray], values: np.ndarray) -> Peaks:
    """The H1 persistence of the sublevel sets of values on a plane, by duality: components of superlevel sets.

    A loop around a top is there from the level on at which the part of the superlevel set that holds the top is cut off
    from all higher ones and from the outside of the grid (Edelsbrunner & Harer 2010, §VII.3). Points that are not
    finite count as outside, so a loop around them has no end and is not listed.

    >>> at = np.arange(3.0)
    >>> found = peaks([at, at], np.array([[1.0, 1.0, 1.0], [1.0, 4.0, 2.0], [1.0, 1.0, 1.0]]))
    >>> found.birth.tolist(), found.death.tolist()
    ([2.0], [4.0])
    """
    finite = np.isfinite(values)
    inverted = Graph.of(axes, np.where(finite, -values, np.nan))
    coordinates = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    outside = values.size
    leading = np.flatnonzero(finite & beside(~finite, border=True))
    graph = Graph(
        values=np.append(inverted.values, -np.inf),
        ends=np.concatenate([inverted.ends, _pairs(leading, np.full(len(leading), outside))]),
        levels=np.concatenate([inverted.levels, inverted.values[leading]]),
        places=np.concatenate([inverted.places, coordinates[leading]]),
    )
    found = branches(graph, np.ones(outside + 1), np.zeros((0, outside + 1), bool))
    kept = (found.minimum != outside) & np.isfinite(found.death)
    return Peaks(-found.death[kept], -found.birth[kept], found.saddle[kept], coordinates[found.minimum[kept]])


def beside(marked: np.ndarray, *, border: bool) -> np.ndarray:
    """Points of a grid that are marked or next to a marked one, along a line or a diagonal.

    Args:
        marked: bool, with one dimension an axis.
        border: whether what lies beyond the grid is marked.

    >>> beside(np.array([False, False, False, True]), border=True).tolist()
    [True, False, True, True]
    """
    padded = np.pad(marked, 1, constant_values=border)
    for axis in range(marked.ndim):
        lines = np.moveaxis(padded, axis, 0)
        padded = np.moveaxis(lines[:-2] | lines[1:-1] | lines[2:], 0, axis)
    return np.asarray(padded)


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.stack([first.ravel(), second.ravel()], axis=1)


def _diagonals(
    axes: Sequence[np.ndarray], values: np.ndarray, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges across cells with a saddle of their own: ends, levels and places."""
    a, b, c, d = values[:-1, :-1], values[:-1, 1:], values[1:, :-1], values[1:, 1:]
    low, high = np.maximum(a, d), np.minimum(b, c)
    rising = (low < high) & np.isfinite(np.maximum(b, c))
    falling = (np.maximum(b, c) < np.minimum(a, d)) & np.isfinite(np.maximum(a, d))
    found = []
    for cells, one, other in (
        (rising, index[:-1, :-1], index[1:, 1:]),
        (falling, index[:-1, 1:], index[1:, :-1]),
    ):
        i, j = np.nonzero(cells)
        corners = (a[cells], b[cells], c[cells], d[cells])
        twist = corners[0] + corners[3] - corners[1] - corners[2]
        along, across = ((corners[0] - corners[k]) / twist for k in (1, 2))
        level = corners[0] - (corners[0] - corners[1]) * (corners[0] - corners[2]) / twist
        ends = _pairs(one[cells], other[cells])
        within = np.sort(np.stack(corners), axis=0)[1:3]  # rounding aside, it lies between the two diagonals
        place = np.stack(
            [
                axis[n] + share * (axis[n + 1] - axis[n])
                for axis, n, share in zip(axes, (i, j), (along, across), strict=True)
            ],
            axis=1,
        )
        found.append((ends, np.clip(level, within[0], within[1]), place))
    ends, levels, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return ends, levels, places
