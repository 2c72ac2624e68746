"""Figures of the analysis, from records only; each function returns a matplotlib ``Figure`` and shows nothing."""

from landscape.figures.animation import Animation, animated
from landscape.figures.data import DataFigure, save_data
from landscape.figures.estimates import (
    ascents,
    cosines,
    courses,
    diagonals,
    eigenpairs,
    estimates,
    overlaps,
    trajectories,
)
from landscape.figures.lines import bands, barriers, connections, lines
from landscape.figures.planes import contours, difference, plane_draws, surface3d
from landscape.figures.plotting import drawn_by, figure_function, plot
from landscape.figures.spectra import densities, eigenvalues, layers, splits
from landscape.figures.style import WIDTHS, figure, save
from landscape.figures.symbols import COLOURS, Symbol
from landscape.figures.topology import basins, merge_trees, persistence_diagrams, persistence_spread

__all__ = [
    "COLOURS",
    "WIDTHS",
    "Animation",
    "DataFigure",
    "Symbol",
    "animated",
    "ascents",
    "bands",
    "barriers",
    "basins",
    "connections",
    "contours",
    "cosines",
    "courses",
    "densities",
    "diagonals",
    "difference",
    "drawn_by",
    "eigenpairs",
    "eigenvalues",
    "estimates",
    "figure",
    "figure_function",
    "layers",
    "lines",
    "merge_trees",
    "overlaps",
    "persistence_diagrams",
    "persistence_spread",
    "plane_draws",
    "plot",
    "save",
    "save_data",
    "splits",
    "surface3d",
    "trajectories",
]
