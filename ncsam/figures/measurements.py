"""Figures of the measurements on runs: sharpness and Theorem 1's terms along training, samples, and label noise.

All take one record, or records by label.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from landscape.figures.data import DataFigure
from landscape.figures.estimates import eigenpairs
from landscape.figures.style import STYLE, below, figure, log_numbers, log_scale
from landscape.figures.symbols import Records, by_label, plain, symbols_of
from landscape.records import Status
from ncsam.figures.against_noise import LOSSES, TERMS
from ncsam.figures.style import GREY, band, epoch_axis, symbols
from ncsam.records import BoundTable, Labels, SampleHistory, SharpnessTable, Spectrum

_MEASURES = {
    "sam": "SAM (nats)",
    "adaptive": "adaptive (nats)",
    "average": "average (nats)",
    "adaptive_average": "adaptive average (nats)",
    "keskar": "Keskar’s (%)",
}


def sharpness_along(records: Records[SharpnessTable]) -> DataFigure:
    """Every measured sharpness by epoch, by measure (rows), record (columns) and view (lines)."""
    found = by_label(records)
    measures = [m for m in _MEASURES if any(getattr(r, m) is not None for r in found.values())]
    drawn = symbols_of(dict.fromkeys(str(view) for r in found.values() for view in r.views))
    titles = symbols(found)
    made, axes = figure(len(measures), len(found), height=1.7, sharex=True, sharey="row")
    with mpl.rc_context(STYLE):
        for row, measure in zip(axes, measures, strict=True):
            seen = []
            for ax, (label, r) in zip(row, found.items(), strict=True):
                for view, values in zip(r.views.tolist(), np.transpose(_of(r, measure)), strict=True):
                    made.note(label=label, measure=measure, view=view, epoch=r.epochs, sharpness=values)
                    ax.plot(r.epochs, values, label=plain(view.replace("_", " ")), **drawn[view].both)
                    seen.append(values)
            every = np.concatenate(seen)
            if (every := every[np.isfinite(every)]).size:
                log_scale(row[0], float(every.min()), float(every.max()))
            row[0].set_ylabel(_MEASURES[measure])
        for ax, label in zip(axes[0], found, strict=True):
            ax.set_title(plain(titles[label].name))
        for ax in axes[-1]:
            epoch_axis(ax)
        below(made, axes.flat)
    return made


def spectra_at_the_end(records: Records[Spectrum], view: str | None = None) -> DataFigure:
    """Eigenvalues at the last measured epoch by rank: of one record all views, of several the same one.

    Args:
        view: this one alone; of several records the first one's first if none.
    """
    found = by_label(records)
    first = next(iter(found.values()))
    if view is None and len(found) == 1:
        measured = first.status[int(np.argmax(first.epochs))] != Status.EMPTY
        return eigenpairs({name: first.at("last", name) for name in first.views[measured].tolist()})
    chosen = str(first.views[0]) if view is None else view
    return eigenpairs({label: record.at("last", chosen) for label, record in found.items()})


def bound_along(records: Records[BoundTable]) -> DataFigure:
    """Theorem 1's terms by epoch, by loss (rows) and record (columns); vacuous above the dotted line.

    A term of zero is left out of the logarithmic axis.
    """
    found = by_label(records)
    losses = list(dict.fromkeys(str(loss) for r in found.values() for loss in r.losses))
    titles = symbols(found)
    made, axes = figure(len(losses), len(found), height=2.0, sharex=True, sharey=True)
    with mpl.rc_context(STYLE):
        for row, loss in zip(axes, losses, strict=True):
            for ax, (label, r) in zip(row, found.items(), strict=True):
                if loss in r.losses:
                    for term, symbol in TERMS.items():
                        values = getattr(r, term)[:, r.losses.tolist().index(loss)]
                        made.note(label=label, loss=loss, term=term, epoch=r.epochs, value=values)
                        shown = np.where(values > 0, values, np.nan)
                        ax.plot(r.epochs, shown, label=plain(symbol.name), **symbol.both)
                ax.axhline(1.0, color=GREY, linestyle=":", linewidth=1, label="1: vacuous from here on")
                ax.set(title=plain(titles[label].name) if ax in axes[0] else "", yscale="log")
            row[0].set_ylabel(LOSSES.get(loss, loss))
        for ax in axes[-1]:
            epoch_axis(ax)
        log_numbers(axes[0, 0].yaxis, *axes[0, 0].get_ylim())
        below(made, axes.flat, columns=3)
    return made


def confusion(records: Records[Labels]) -> DataFigure:
    """Label noise as it was drawn: of each true class (rows), the share that got each label, a panel a record."""
    found = by_label(records)
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    made, axes = figure(rows, columns, height=min(3.0, 6.0 / columns), used=len(found), sharex=True, sharey=True)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        for ax, (label, r) in zip(axes.flat, found.items(), strict=False):
            classes = int(max(r.true.max(), r.observed.max())) + 1
            counts = np.zeros((classes, classes))
            np.add.at(counts, (r.true, r.observed), 1)
            total = counts.sum(axis=1, keepdims=True)
            shares = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
            made.note(
                label=label, true=np.arange(classes)[:, None], observed=np.arange(classes)[None], share=shares
            )  # fmt: skip
            shown = ax.imshow(shares, vmin=0, vmax=1, cmap="Blues")
            ax.set(title=plain(label), xlabel="observed label")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=2))
        for row in axes:
            row[0].set_ylabel("true label")
        made.colorbar(shown, ax=axes, shrink=0.9, pad=0.01).set_label("share of the true class")
    return made


def samples_along(records: Records[SampleHistory]) -> DataFigure:
    """Margins of the training samples by epoch, median and middle four fifths; and the area under each, sorted."""
    found = by_label(records)
    made, (row,) = figure(1, 2, height=2.6)
    with mpl.rc_context(STYLE):
        for label, symbol in symbols(found).items():
            r = found[label]
            low, middle, high = np.quantile(r.margin, (0.1, 0.5, 0.9), axis=1)
            band(row[0], r.epochs, middle, low, high, symbol)
            areas = np.sort(r.aum)
            share = (np.arange(len(areas)) + 0.5) / len(areas)
            row[1].plot(share, areas, **symbol.line)
            made.note(label=label, epoch=r.epochs, margin=middle, low=low, high=high)
            made.note(label=label, share=share, area=areas)
        row[0].set_ylabel("margin")
        epoch_axis(row[0])
        row[1].set(xlabel="share of the samples", ylabel="area under the margin")
        for ax in row:
            ax.axhline(0, color="black", linewidth=0.5)
        below(made, row)
    return made


def _of(record: SharpnessTable, measure: str) -> np.ndarray:
    values = getattr(record, measure)
    return np.full_like(record.loss, np.nan) if values is None else np.asarray(values)
