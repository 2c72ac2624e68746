"""Figures that store the numbers they show, and writing these beside the picture."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from matplotlib.text import Text

from landscape._files import replacing
from landscape.store.escaping import csv_cell


class DataFigure(Figure):
    """A figure with the numbers it shows; code that draws a curve also notes its arrays.

    Attributes:
        points: one mapping a point, in the order of drawing.
        clips: sides (left, right, bottom, top) of axes beyond which data are drawn on purpose, and so not seen; what is
            not named here lies inside its axes.

    >>> made = DataFigure()
    >>> made.note(arm="sam", rate=[0.0, 0.4], accuracy=[0.9, 0.8])
    >>> made.points[1]
    {'arm': 'sam', 'rate': 0.4, 'accuracy': 0.8}
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.points: list[dict[str, Any]] = []
        self.clips: dict[Axes, set[str]] = {}

    def draw(self, renderer: Any) -> None:
        """Draw; text that is no valid mathematics, such as a name with dollar signs, is drawn as it is written.

        Letters are not fitted to pixels: a text is then as wide at every resolution as where the layout was found.
        """
        self.lay_out()
        with mpl.rc_context({"text.hinting": "no_hinting"}):
            super().draw(renderer)

    def lay_out(self, passes: int = 1) -> None:
        """Find the layout, as drawing does once more: tick labels that a first pass changes need the second."""
        for text in self.findobj(Text):
            if text.get_parse_math() and text.get_text().count("$") > 1 and not _is_mathematics(text.get_text()):
                text.set_parse_math(False)
        if (layout := self.get_layout_engine()) is not None:
            with mpl.rc_context({"text.hinting": "no_hinting"}):
                for _ in range(passes):
                    layout.execute(self)

    def note(self, **columns: Any) -> None:
        """Add points: arrays of one shape, or single values that hold for all of them.

        Raises:
            ValueError: the shapes do not fit together.
        """
        arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(column)) for column in columns.values()))
        for values in zip(*(array.ravel().tolist() for array in arrays), strict=True):
            self.points.append(dict(zip(columns, values, strict=True)))


def _is_mathematics(text: str) -> bool:
    try:
        MathTextParser("path").parse(text)
    except ValueError:
        return False
    return True


def save_data(made: Figure, stem: str | Path) -> Path | None:
    """Write what a figure shows as ``stem.csv``, in one step; nothing, and None, where it notes no points.

    Numbers are written in full; NaN, and what one curve has and another lacks, is left empty. Text is written as
    :func:`landscape.store.escaping.csv_cell` says.

    Raises:
        OSError: the folder is missing or full.
    """
    if not isinstance(made, DataFigure) or not made.points:
        return None
    path = Path(stem).with_name(f"{Path(stem).name}.csv")
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for point in made.points for name in point)), restval="")
        writer.writeheader()
        writer.writerows({k: "" if v != v else csv_cell(v) for k, v in point.items()} for point in made.points)
    return path
