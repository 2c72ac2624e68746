"""One check of any figure: all data lie inside their axes, no text is in the way of another, shared axes agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.spines import Spine
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, NullLocator
from matplotlib.transforms import Bbox, BlendedGenericTransform, IdentityTransform, Transform

SLACK = 1.0  # pixels: what antialiasing and rounding take
SIDES = ("left", "right", "bottom", "top")


def faults(made: Figure) -> list[str]:
    """What is wrong with a figure as it is drawn, one line each; empty where nothing is."""
    texts = drawn_texts(made)
    return [*_clipped(made), *_texts(made, texts), *_disagreeing(made, texts)]


def drawn_texts(made: Figure) -> list[tuple[Text, Bbox]]:
    """Every text that the figure really draws, tick labels and legends too, with its box in pixels."""
    found: dict[int, tuple[Text, Bbox]] = {}
    draw = Text.draw

    def note(self: Text, renderer: Any) -> None:
        draw(self, renderer)
        if self.get_visible() and self.get_text().strip():
            found[id(self)] = (self, Text.get_window_extent(self, renderer))

    with mock.patch.object(Text, "draw", note):
        made.canvas.draw()  # once, as saving does: what a second pass of the layout would mend is a fault
    return list(found.values())


def points_of(ax: Axes) -> Iterator[tuple[Artist, np.ndarray, tuple[bool, bool]]]:
    """What is drawn by the data: the artist, its finite points in pixels, (n, 2), and which of x and y count."""
    for artist in ax.get_children():
        if not artist.get_visible() or artist is ax.patch:
            continue
        if isinstance(artist, Line2D):
            found, counts = [(artist.get_transform(), artist.get_xydata())], _counts(artist.get_transform(), ax)
        elif isinstance(artist, Collection):
            found, counts = _of_collection(artist, ax)
        elif isinstance(artist, AxesImage):
            left, right, bottom, top = artist.get_extent()
            found, counts = [(ax.transData, np.array([[left, bottom], [right, top]]))], (True, True)
        elif isinstance(artist, Patch) and not isinstance(artist, Spine):
            path = artist.get_patch_transform().transform_path(artist.get_path())
            found, counts = [(artist.get_data_transform(), path.vertices)], _counts(artist.get_data_transform(), ax)
        else:
            continue
        for transform, points in found:
            points = np.asarray(np.ma.filled(points, np.nan), float)
            points = points[np.isfinite(points).all(axis=1)]
            if len(points) and any(counts):
                pixels = transform.transform(points)
                pixels = pixels[np.isfinite(pixels).all(axis=1)]
                if len(pixels):
                    yield artist, pixels, counts


def _of_collection(artist: Collection, ax: Axes) -> tuple[list[tuple[Any, Any]], tuple[bool, bool]]:
    offsets = _counts(artist.get_offset_transform(), ax)
    if any(offsets):  # scatter: the places are offsets, the paths are symbols
        return [(artist.get_offset_transform(), artist.get_offsets())], offsets
    counts = _counts(artist.get_transform(), ax)
    return [(artist.get_transform(), path.vertices) for path in artist.get_paths() if len(path.vertices)], counts


def _counts(transform: Transform, ax: Axes) -> tuple[bool, bool]:
    """Tell whether the transform takes x, and y, from the data's coordinates, also if it moves them on afterwards."""
    if transform.contains_branch(ax.transData):
        return True, True
    if transform in (ax.transAxes, ax.figure.transFigure, ax.figure.transSubfigure) or isinstance(
        transform, IdentityTransform
    ):
        return False, False
    if isinstance(transform, BlendedGenericTransform):
        x, y = transform.contains_branch_seperately(ax.transData)
        return bool(x), bool(y)
    raise NotImplementedError(f"{transform!r}: teach this check whether data are drawn by it")


def _clipped(made: Figure) -> list[str]:
    said: dict[Axes, set[str]] = getattr(made, "clips", {})
    found = []
    for ax in made.axes:
        if not ax.get_visible():
            continue
        if hasattr(ax, "get_zlim"):
            found += _clipped_in_space(ax)
            continue
        box = ax.bbox
        seen: tuple[list[float], list[float]] = ([], [])
        for artist, pixels, counts in points_of(ax):
            (left, bottom), (right, top) = pixels.min(axis=0), pixels.max(axis=0)
            beyond = {
                "left": counts[0] and left < box.x0 - SLACK,
                "right": counts[0] and right > box.x1 + SLACK,
                "bottom": counts[1] and bottom < box.y0 - SLACK,
                "top": counts[1] and top > box.y1 + SLACK,
            }
            hidden = [side for side in SIDES if beyond[side] and side not in said.get(ax, ())]
            if hidden:
                found.append(f"data of {artist} in {_name(ax)} lie beyond its {', '.join(hidden)}")
            seen[0].extend((left, right) if counts[0] else ())
            seen[1].extend((bottom, top) if counts[1] else ())
        # What matplotlib scales the axes by must be among what was looked at: else a kind of artist is unknown here.
        known = ax.transData.transform(ax.dataLim.get_points()) if np.isfinite(ax.dataLim.get_points()).all() else None
        for way, ends in enumerate(seen):
            if known is None or not np.isfinite(known[:, way]).all():
                continue
            low, high = min(ends, default=np.inf), max(ends, default=-np.inf)
            if known[:, way].min() < low - SLACK or known[:, way].max() > high + SLACK:
                found.append(f"{_name(ax)} has data along {'xy'[way]} that were not looked at")
    return found


def _clipped_in_space(ax: Any) -> list[str]:
    limits = (ax.get_xlim(), ax.get_ylim(), ax.get_zlim())
    data = (ax.xy_dataLim.intervalx, ax.xy_dataLim.intervaly, ax.zz_dataLim.intervalx)
    return [
        f"data in {_name(ax)} lie beyond its {name} axis"
        for name, (low, high), (least, most) in zip("xyz", limits, data, strict=True)
        if least < low - 1e-6 * (high - low) or most > high + 1e-6 * (high - low)
    ]


def _texts(made: Figure, texts: list[tuple[Text, Bbox]]) -> list[str]:
    found = ["nothing is written"] if not texts else []
    canvas = made.bbox
    for text, box in texts:
        if box.x0 < -SLACK or box.y0 < -SLACK or box.x1 > canvas.x1 + SLACK or box.y1 > canvas.y1 + SLACK:
            found.append(f"{text.get_text()!r} leaves the canvas")
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if width > SLACK and height > SLACK:
            found.append(f"{one.get_text()!r} overlaps {other.get_text()!r}")
    return found


def _disagreeing(made: Figure, texts: list[tuple[Text, Bbox]]) -> list[str]:
    """Panels of a shared axis with other limits or scales; panels whose axis has its numbers nowhere."""
    found, written = [], {id(text) for text, _ in texts}
    for way in ("x", "y"):
        for ax in made.axes:
            if not ax.get_visible() or not ax.axison or hasattr(ax, "get_zlim"):
                continue
            axis: Axis = getattr(ax, f"{way}axis")
            siblings = [other for other in _siblings(ax, way) if other.get_visible()]
            for other in siblings:
                same = np.allclose(_limits(ax, way), _limits(other, way), rtol=1e-12, atol=0)
                if not same or _scale(ax, way) != _scale(other, way):
                    found.append(f"{_name(ax)} and {_name(other)} share {way}, but end at other numbers")
            if ax.get_label() == "<colorbar>" and way == "x":
                continue
            if isinstance(axis.get_major_locator(), NullLocator) or not axis.get_visible():
                continue
            numbers = max(
                sum(id(label) in written for label in getattr(other, f"{way}axis").get_ticklabels())
                for other in siblings
            )
            low, high = sorted(_limits(ax, way))
            single = isinstance(axis.get_major_formatter(), FixedFormatter) or (high - low < 1.5 and low < 1 < high)
            if numbers < (1 if single else 2):  # names, or the first of a count
                found.append(f"{_name(ax)}: no panel of its axis {way} has numbers enough to read it by")
    return found


def _siblings(ax: Axes, way: str) -> list[Axes]:
    shared = ax.get_shared_x_axes() if way == "x" else ax.get_shared_y_axes()
    return list(shared.get_siblings(ax))


def _limits(ax: Axes, way: str) -> tuple[float, float]:
    return ax.get_xlim() if way == "x" else ax.get_ylim()


def _scale(ax: Axes, way: str) -> str:
    return ax.get_xscale() if way == "x" else ax.get_yscale()


def _name(ax: Axes) -> str:
    said = ", ".join(filter(None, (ax.get_title(), ax.get_ylabel(), ax.get_xlabel()))) or "unnamed"
    return f"panel {ax.figure.axes.index(ax)} ({said})"
