"""Figures of spectra: densities with bands, eigenvalues along training, layers, and where curvature comes from.

All take panels by title, and in each panel records by label; or records by label, in one panel; or one record. A label
has one symbol throughout a figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import matplotlib as mpl
import numpy as np

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, below, figure
from landscape.figures.symbols import COLOURS, MARKERS, Records, Symbol, by_label, plain, symbols_of
from landscape.records import CurvatureSplit, DensityResult, EigenResult, LayerSpectra

R = TypeVar("R")
Panels: TypeAlias = R | Mapping[str, R] | Mapping[str, Mapping[str, R]]
Symbols = Mapping[str, Symbol] | None
_COLUMNS = 4


def densities(panels: Panels[DensityResult], symbols: Symbols = None) -> DataFigure:
    """Spectral densities overlaid on a logarithmic axis, each with a band of two standard errors over its probes.

    The axis begins at a fifth of the height that a single eigenvalue has: what lies below is no eigenvalue, but the
    quadrature's tail, and is clipped. Eigenvalues that were put in as found are marked above.

    Args:
        panels: densities by label, by panel; NaN in ``stderr`` (a single probe) draws no band.
        symbols: of labels that do not take one by their position.
    """
    panels = _panels(panels)
    made, axes = _grid(len(panels), height=2.2, columns=2, sharey=True)
    drawn = _symbols(panels, symbols)
    with mpl.rc_context(STYLE):
        floors, tops = [], []
        for ax, (title, records) in zip(axes, panels.items(), strict=False):
            for label, d in records.items():
                floor = 0.2 * _height_of_one(d)
                floors.append(floor)
                tops.append(float(d.density.max()))
                made.note(label=label, view=title, eigenvalue=d.grid, density=d.density, stderr=d.stderr)
                shown = {**drawn[label].line, "linewidth": 0.9, "label": plain(drawn[label].name)}
                ax.plot(d.grid, np.maximum(d.density, floor / 10), **shown)
                if np.isfinite(d.stderr).all():
                    low, high = d.density - 2 * d.stderr, d.density + 2 * d.stderr
                    ax.fill_between(
                        d.grid, np.maximum(low, floor / 10), np.maximum(high, floor / 10), color=drawn[label].colour,
                        alpha=0.2, linewidth=0,
                    )  # fmt: skip
            marked = {label: d.outliers for label, d in records.items() if d.outliers is not None}
            for row, (label, values) in enumerate(marked.items()):
                ax.plot(
                    values, np.full(len(values), 0.96 - 0.07 * row), "|", color=drawn[label].colour, markersize=5,
                    markeredgewidth=1, transform=ax.get_xaxis_transform(),
                )  # fmt: skip
            ax.set(title=title, xlabel="eigenvalue", yscale="log")
        for ax in axes[: len(panels)]:
            ax.set_ylim(min(floors), 2 * max(tops))
            made.clips[ax] = {"bottom"}
        _left(axes, len(panels), "density", columns=2)
        below(made, axes)
    return made


def eigenvalues(panels: Panels[Sequence[EigenResult]], epochs: Sequence[int], symbols: Symbols = None) -> DataFigure:
    """Outermost eigenvalues along training: the first as a line with its error, the others as thin lines.

    Values that did not converge are marked by an open symbol.

    Args:
        panels: for each label one record an epoch, by panel; all in the order of ``epochs``.
        epochs: of the records.
        symbols: of labels that do not take one by their position.

    Raises:
        ValueError: a label has not one record for each epoch.
    """
    panels = _panels(panels)
    lowest = np.inf
    made, axes = _grid(len(panels), height=2.3, sharey=True)
    drawn = _symbols(panels, symbols)
    with mpl.rc_context(STYLE):
        for ax, (title, records) in zip(axes, panels.items(), strict=False):
            for label, along in records.items():
                if len(along) != len(epochs):
                    raise ValueError(
                        f"{label!r} has {len(along)} records, expected one for each of {len(epochs)} epochs"
                    )
                values = np.stack([r.values for r in along])
                errors = np.stack([r.residuals if r.errors is None else r.errors for r in along])
                converged = np.stack([r.converged for r in along])
                symbol = drawn[label]
                lowest = min(lowest, float(np.min(values)), float(np.nanmin(values[:, 0] - errors[:, 0])))
                made.note(
                    label=label, view=title, epoch=np.array(epochs)[:, None], number=np.arange(1, values.shape[1] + 1),
                    eigenvalue=values, error=errors, converged=converged,
                )  # fmt: skip
                ax.plot(epochs, values[:, 1:], color=symbol.colour, linewidth=0.5, alpha=0.6)
                ax.errorbar(
                    epochs, values[:, 0], errors[:, 0], label=plain(symbol.name), capsize=2, elinewidth=0.8,
                    **symbol.both,
                )  # fmt: skip
                for pair in range(values.shape[1]):
                    open_ = ~converged[:, pair]
                    at = np.asarray(epochs)[open_]
                    hollow = {"markerfacecolor": "white", "markeredgecolor": symbol.colour, "linestyle": ""}
                    ax.plot(at, values[open_, pair], marker=symbol.marker, **hollow)
            ax.set(title=title, xlabel="epoch")
            ax.axhline(0, color="black", linewidth=0.5)
        if lowest >= 0:
            axes[0].set_ylim(bottom=0)
        _left(axes, len(panels), "eigenvalue")
        below(made, axes)
    return made


def layers(panels: Panels[LayerSpectra], symbols: Symbols = None) -> DataFigure:
    """Largest eigenvalue and, where measured, trace of every layer's diagonal block, as bars with errors.

    The largest eigenvalue's error is its residual, the trace's two standard errors.

    Raises:
        ValueError: the records are of different layers.
    """
    panels = _panels(panels)
    traces = all(r.trace is not None for records in panels.values() for r in records.values())
    named = {tuple(r.layers.tolist()) for records in panels.values() for r in records.values()}
    if len(named) > 1:
        raise ValueError("the records are of different layers; draw models of one architecture together")
    names = named.pop()
    bars = max(map(len, panels.values()))
    rows = 2 if traces else 1
    made, axes = figure(rows, len(panels), height=min(9.0 / rows, 0.7 + 0.11 * len(names) * (bars + 1)), sharey=True)
    drawn = _symbols(panels, symbols)
    with mpl.rc_context(STYLE):
        for column, (title, records) in zip(axes.T, panels.items(), strict=True):
            quantities = [("largest eigenvalue", "values", "residuals", 1), ("trace", "trace", "trace_stderr", 2)]
            for ax, (quantity, value, error, factor) in zip(column, quantities, strict=False):
                for n, (label, r) in enumerate(records.items()):
                    at = np.arange(len(r.layers)) + (n - (len(records) - 1) / 2) * 0.8 / len(records)
                    ax.barh(
                        at, getattr(r, value), 0.8 / len(records), xerr=factor * getattr(r, error),
                        label=plain(drawn[label].name), color=drawn[label].colour,
                        error_kw={"elinewidth": 0.8, "capsize": 1.5},
                    )  # fmt: skip
                    made.note(
                        label=label, view=title, quantity=quantity, layer=r.layers, value=getattr(r, value),
                        error=factor * getattr(r, error),
                    )  # fmt: skip
                ax.set(title=title if ax is column[0] else "", xlabel=quantity)
                ax.grid(axis="y", visible=False)
                ax.set_axisbelow(True)
                ax.axvline(0, color="black", linewidth=0.5)
        for ax in axes[:, 0]:
            ax.set_yticks(range(len(names)), names)
            ax.set_ylim(len(names) - 0.5, -0.5)  # the first layer on top
        below(made, axes.flat)
    return made


def splits(panels: Records[CurvatureSplit]) -> DataFigure:
    """Draw what each part contributes to the curvature along every eigenvector, stacked to the whole.

    Bars are shares times curvature and add up to the black line; symbols are the curvature of each part by itself,
    which is what a sample of that part contributes on average.

    Args:
        panels: one split, or one each by title, of the same parts.
    """
    panels = by_label(panels)
    made, axes = _grid(len(panels), height=2.3, sharey=True)
    parts = list(dict.fromkeys(name for split in panels.values() for name in split.parts.tolist()))
    with mpl.rc_context(STYLE):
        for ax, (title, split) in zip(axes, panels.items(), strict=False):
            at = np.arange(1, len(split.total) + 1)
            up, down = np.zeros(len(at)), np.zeros(len(at))
            for name, contribution, own in zip(split.parts.tolist(), split.contributions, split.curvature, strict=True):
                n = parts.index(name)
                colour = COLOURS[n % len(COLOURS)]
                words = name.replace("_", " ")
                made.note(view=title, part=name, eigenvector=at, contribution=contribution, by_itself=own)
                ax.bar(at, contribution, 0.7, np.where(contribution >= 0, up, down), color=colour, label=words)
                up, down = up + np.maximum(contribution, 0), down + np.minimum(contribution, 0)
                marks = ax.plot(
                    at + 0.12 * (2 * n - 1), own, MARKERS[n % len(MARKERS)], color=colour, markeredgecolor="black",
                    markeredgewidth=0.5, label=f"{words}, by itself",
                )  # fmt: skip
                marks[0].set_zorder(3)
            ax.hlines(split.total, at - 0.4, at + 0.4, color="black", linewidth=1.2, label="whole")
            ax.set(title=title, xlabel="eigenvector", xticks=at)
            ax.grid(axis="x", visible=False)
            ax.set_axisbelow(True)
            ax.axhline(0, color="black", linewidth=0.5)
        _left(axes, len(panels), "curvature along it")
        below(made, axes, columns=5)
    return made


def _height_of_one(d: DensityResult) -> float:
    """Draw what one eigenvalue adds to the density at its own place."""
    every = np.concatenate([d.nodes.ravel(), np.zeros(0) if d.outliers is None else d.outliers])
    sigma = d.broadening * max(float(np.ptp(every)), 1e-300)
    # Without the operator's size, the least weight that a node of the quadrature has.
    weight = 1 / d.size if d.size else float(d.weights[d.weights > 0].min(initial=1.0))
    return weight / (sigma * np.sqrt(2 * np.pi))


def _grid(count: int, *, height: float, columns: int = _COLUMNS, **subplots: Any) -> tuple[DataFigure, np.ndarray]:
    """A figure with ``count`` axes in rows of at most ``columns``, flat; those left over are hidden."""
    columns = min(columns, count)
    made, axes = figure(-(-count // columns), columns, height=height, used=count, **subplots)
    return made, axes.flatten()


def _panels(panels: Any) -> dict[str, dict[str, Any]]:
    """Records by label, by title of the panel, of whatever is given."""
    labelled = by_label(panels)
    if all(isinstance(held, Mapping) for held in labelled.values()):
        return {title: dict(held) for title, held in labelled.items()}
    return {"": labelled}


def _symbols(panels: Mapping[str, Mapping[str, Any]], known: Symbols) -> dict[str, Symbol]:
    return symbols_of((label for records in panels.values() for label in records), known)


def _left(axes: Any, count: int, label: str, columns: int = _COLUMNS) -> None:
    for ax in axes[: count : min(columns, count)]:
        ax.set_ylabel(label)
