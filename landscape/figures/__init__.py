"""Figures of the analysis, from records only; each function returns a matplotlib ``Figure`` and shows nothing."""

from landscape.figures.style import COLOURS, figure, save
from landscape.figures.surfaces import contours, lines

__all__ = ["COLOURS", "contours", "figure", "lines", "save"]
