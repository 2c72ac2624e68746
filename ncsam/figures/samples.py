"""Figure of the samples that hold the curvature of a run, and of how well it tells wrong labels from right ones."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, below, figure
from landscape.figures.symbols import Records, Symbol, by_label, plain, symbols_of
from ncsam.records import SampleCurvatures
from ncsam.statistics import auc

_MANY = 400  # points of a curve that a page can show


def curvature_of_samples(records: Records[SampleCurvatures]) -> DataFigure:
    """Draw how few samples hold the largest eigenvalue, and what finds wrong labels, at the last epoch; a row a record.

    On the left the share of the eigenvalue that the samples of largest curvature hold together, and the share of wrong
    labels among these. On the right the ROC curves of the record's scores, each with its area.
    """
    found = by_label(records)
    made, axes = figure(len(found), 2, height=2.7)
    with mpl.rc_context(STYLE):
        for row, (label, record) in zip(axes, found.items(), strict=True):
            drawn = symbols_of(["held", "wrong", *record.scores()])
            _shares(made, row[0], label, record, drawn)
            _roc(made, row[1], label, record, drawn)
            row[0].set_title(plain(label))
        below(made, axes.flat, columns=3)
    return made


def _shares(made: DataFigure, ax: Axes, label: str, record: SampleCurvatures, drawn: dict[str, Symbol]) -> None:
    shares = record.contributions[-1, 0]
    order = np.argsort(-shares)
    count = np.arange(1, len(order) + 1)
    held = np.cumsum(shares[order])
    at = np.unique(np.linspace(0, len(order) - 1, _MANY).astype(int))
    part = count[at] / len(order)
    made.note(label=label, quantity="share of the eigenvalue", samples=part, value=held[at])
    ax.plot(part, held[at], label="share of λ₁ that they hold", **drawn["held"].line)
    flipped = np.asarray(record.flipped, bool)
    if flipped.any():
        wrong = np.cumsum(flipped[order]) / count
        made.note(label=label, quantity="share of wrong labels", samples=part, value=wrong[at])
        ax.plot(part, wrong[at], label="share of wrong labels among them", **drawn["wrong"].line)
        ax.axhline(flipped.mean(), color="0.6", linewidth=0.7, linestyle=":", label="share of wrong labels in all")
    ax.set(xlabel="samples of largest curvature", xlim=(0, 1), ylim=(min(0.0, held.min()), max(1.0, held.max()) * 1.04))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _roc(made: DataFigure, ax: Axes, label: str, record: SampleCurvatures, drawn: dict[str, Symbol]) -> None:
    flipped = np.asarray(record.flipped, bool)
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=0.7, linestyle=":")
    for name, score in record.scores().items():
        area = auc(score, flipped)
        if not np.isfinite(area.mean):
            continue
        order = np.argsort(-score, kind="stable")
        last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)  # of each group of ties
        hits, misses = np.cumsum(flipped[order])[last], np.cumsum(~flipped[order])[last]
        x, y = (np.append(0, counts / counts[-1]) for counts in (misses, hits))
        at = np.unique(np.linspace(0, len(x) - 1, _MANY).astype(int))
        made.note(label=label, quantity=f"ROC of {name}", samples=x[at], value=y[at])
        ax.plot(x[at], y[at], label=f"{name}, area {area.mean:.3f}", **drawn[name].line)
    ax.set(xlabel="right labels taken for wrong", ylabel="wrong labels found", xlim=(0, 1), ylim=(0, 1.04))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
