"""Along training: accuracy and memorisation, and angles between gradients and perturbations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, below, figure
from landscape.figures.symbols import Groups, Records, Symbol, by_label, grouped, plain
from ncsam.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    VERMILION,
    band,
    epoch_axis,
    shares,
    symbols,
)
from ncsam.records import Diagnostics, Training
from ncsam.statistics import LEVEL, t_intervals

SHOWN: Mapping[str, Callable[[Training], np.ndarray]] = {
    "clean test accuracy": lambda t: t.of_view("test"),
    "wrong labels memorised": lambda t: t.memorisation,
}
_ALIGNED = {  # of one arm, by row: quantity, symbol
    "T4: g* and others": (
        ("cos_star_noise", Symbol(GREEN, dash="-", name="cos(g*, g_noise)")),
        ("cos_random_noise", Symbol(ORANGE, dash=(0, (5, 1.5)), name="null: random picks")),
        ("cos_star_clean", Symbol(PINK, dash=(0, (1.5, 1.5)), name="null: cos(g*, g_clean)")),
        ("noise_ceiling", Symbol(GREY, dash=(0, (6, 1.5, 1.5, 1.5)), name="ceiling: another g_noise")),
    ),
    "T5: with ε_SAM(y)": (
        ("cos_sam_true", Symbol(VERMILION, dash="-", name="ε_SAM(ỹ)")),
        ("cos_ncsam_true", Symbol(BLUE, dash=(0, (5, 1.5)), name="ε_NCSAM")),
        ("cos_mirrored_true", Symbol(BLACK, dash=(0, (1.5, 1.5)), name="ε_NCSAM, other sign")),
    ),
}
_BY_ARM = {"T2: ε_SAM(ỹ), ε_SAM(y)": "cos_sam_true", "T3: g_clean, g_noise": "cos_clean_noise"}


def training_curves(groups: Groups[Training]) -> DataFigure:
    """Clean test accuracy and memorisation against epoch: the mean of each group with its t-interval.

    Bands end at 0 and 1, as shares do.

    Args:
        groups: one training record, or by label one or, e.g. one a seed, several.
    """
    groups = grouped(groups)
    made, axes = figure(1, len(SHOWN), height=2.7)
    with mpl.rc_context(STYLE):
        for ax, (quantity, values) in zip(axes[0], SHOWN.items(), strict=True):
            _training(made, ax, groups, quantity, values)
            shares(ax)
            ax.set_title(quantity)
            epoch_axis(ax)
        below(made, made.axes)
    return made


def training_by_rate(panels: Mapping[str, Mapping[str, Sequence[Training]]]) -> DataFigure:
    """The same at several noise rates: a column each, accuracy above memorisation, rows sharing their axis.

    Args:
        panels: training records by label, by title of the column.
    """
    made, axes = figure(len(SHOWN), len(panels), height=1.9, sharex=True, sharey="row")
    with mpl.rc_context(STYLE):
        for row, (quantity, values) in zip(axes, SHOWN.items(), strict=True):
            for ax, (title, groups) in zip(row, panels.items(), strict=True):
                _training(made, ax, groups, quantity, values, noise=title)
                ax.set(title=title if ax in axes[0] else "")
            shares(row[0])  # once all of the row is drawn, which shares its axis
            row[0].set_ylabel(quantity)
        for ax in axes[-1]:
            epoch_axis(ax)
        below(made, made.axes)
    return made


def training_of_controls(
    controls: Mapping[str, Sequence[Training]], others: Mapping[str, Sequence[Training]], columns: int = 4
) -> DataFigure:
    """Clean test accuracy along training of one control a panel, with the compared arms as thin lines.

    The axis begins just below what is reached after a quarter of the epochs, not where all begin: what lies below is
    clipped.

    Args:
        controls, others: training records by label, all at one noise rate.
    """
    columns = min(columns, len(controls))
    rows = -(-len(controls) // columns)
    made, axes = figure(rows, columns, height=1.45 + 0.6 / rows, used=len(controls), sharex=True, sharey=True)
    later: list[float] = []
    drawn = symbols([*others, *controls])
    with mpl.rc_context(STYLE):
        for ax, (label, members) in zip(axes.flat, controls.items(), strict=False):
            for other, records in others.items():
                x, mean, *_ = _over_seeds([_evaluated(t, t.of_view("test")) for t in records])
                ax.plot(x, mean, **{**drawn[other].line, "linewidth": 0.9}, alpha=0.7, label=plain(drawn[other].name))
            x, mean, low, high = _over_seeds([_evaluated(t, t.of_view("test")) for t in members])
            band(ax, x, mean, low, high, dataclasses.replace(drawn[label], dash="-", name=""), share=True)
            later.append(mean[x > x[-1] / 4].min())
            made.note(arm=label, epoch=x, mean=mean, low=low, high=high)
            ax.set_title(plain(drawn[label].name), fontsize=7, color=drawn[label].colour)
        shares(axes[0, 0])
        axes[0, 0].set_ylim(bottom=max(0.0, min(later) - 0.1))
        made.clips = {ax: {"bottom"} for ax in axes.flat[: len(controls)]}
        for row in axes:
            row[0].set_ylabel("clean test accuracy")
        for n in range(len(controls)):
            if n + columns >= len(controls):
                epoch_axis(axes.flat[n])
                axes.flat[n].tick_params(labelbottom=True)
        below(made, made.axes)
    return made


def alignment(
    panels: Mapping[str, Mapping[str, Sequence[Diagnostics]]], arm: str = "ncsam", warmup: int = 0
) -> DataFigure:
    """Cosines of gradients and perturbations against epoch, with t-intervals over the seeds; a column a noise rate.

    Rows, all of them cosines: how far wrong labels turn SAM's perturbation (T2) and how clean and noise gradient oppose
    (T3), an arm a line; what NCSAM's g* is like (T4) and where it moves the perturbation (T5), of one arm.

    Args:
        panels: diagnostics of each arm, one record a seed, by title of the column.
        arm: whose g* is shown.
        warmup: epochs that are the same for all arms, shaded: endpoints are means over the later ones.

    Raises:
        ValueError: a column lacks that arm.
    """
    for title, groups in panels.items():
        if arm not in groups:
            raise ValueError(f"{title}: no diagnostics of {arm}; there are {', '.join(groups) or 'none'}")
    return _alignment(panels, dict.fromkeys(panels, arm), warmup)


def alignment_of(records: Records[Diagnostics], warmup: int = 0) -> DataFigure:
    """The same of one record, or of records by label: a column each."""
    found = by_label(records)
    return _alignment({plain(s.name): {k: [found[k]]} for k, s in symbols(found).items()}, None, warmup)


def _alignment(
    panels: Mapping[str, Mapping[str, Sequence[Diagnostics]]], arms: Mapping[str, str] | None, warmup: int
) -> DataFigure:
    """Columns of all arms; the lower rows of the named one, or of a column's only one."""
    made, axes = figure(len(_BY_ARM) + len(_ALIGNED), len(panels), height=1.6, sharex=True, sharey="row")
    with mpl.rc_context(STYLE):
        for column, (title, groups) in zip(axes.T, panels.items(), strict=True):
            column[0].set_title(title)
            epoch_axis(column[-1])
            for ax, (name, quantity) in zip(column, _BY_ARM.items(), strict=False):
                for label, symbol in symbols(groups).items():
                    _diagnosed(made, ax, groups[label], quantity, symbol, noise=title, row=name)
            arm = next(iter(groups)) if arms is None else arms[title]
            for ax, (name, quantities) in zip(column[len(_BY_ARM) :], _ALIGNED.items(), strict=True):
                for quantity, symbol in quantities:
                    _diagnosed(made, ax, groups[arm], quantity, symbol, noise=title, row=name)
            for ax in column:
                ax.axhline(0.0, color="black", linewidth=0.5)
                if warmup:
                    ax.axvspan(0, warmup, color=GREY, alpha=0.1, linewidth=0)
        for row, name in zip(axes, (*_BY_ARM, *_ALIGNED), strict=True):
            row[0].set_ylabel(name)
            handles, labels = row[-1].get_legend_handles_labels()
            row[-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=6.5)
    return made


def _training(
    made: DataFigure, ax: Any, groups: Mapping[str, Sequence[Training]], quantity: str,
    values: Callable[[Training], np.ndarray], **where: Any,
) -> None:  # fmt: skip
    for label, symbol in symbols(groups).items():
        x, mean, low, high = _over_seeds([_evaluated(t, values(t)) for t in groups[label]])
        band(ax, x, mean, low, high, symbol, share=True)
        made.note(quantity=quantity, **where, arm=label, epoch=x, mean=mean, low=low, high=high)
    if not ax.lines or not np.isfinite(np.concatenate([line.get_ydata() for line in ax.lines])).any():
        ax.text(0.5, 0.5, "no wrong labels", transform=ax.transAxes, ha="center", va="center", color=GREY, fontsize=7)


def _diagnosed(
    made: DataFigure, ax: Any, records: Sequence[Diagnostics], quantity: str, symbol: Symbol, **where: Any
) -> None:
    x, mean, low, high = _over_seeds([(d.epochs, _mean_of(d, quantity)) for d in records])
    if not np.isfinite(mean).any():
        return
    band(ax, x, mean, np.clip(low, -1, 1), np.clip(high, -1, 1), symbol)
    made.note(**where, shown=symbol.name, quantity=quantity, epoch=x, mean=mean, low=low, high=high)


def _mean_of(record: Diagnostics, quantity: str) -> np.ndarray:
    """A quantity's mean over the batches of each epoch; the ceiling follows from the halves, see docs/theory.md."""
    names = record.quantities.tolist()
    if quantity == "noise_ceiling":
        half = record.mean[:, names.index("cos_noise_halves")]
        return 2 * half / (1 + half)
    found: np.ndarray = record.mean[:, names.index(quantity)]
    return found


def _evaluated(record: Training, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The epochs whose views were evaluated, with the values there: a line joins them."""
    return record.epochs[record.evaluated], values[record.evaluated]


def _over_seeds(members: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, ...]:
    """Epochs that all members have, with mean and t-interval over them."""
    epochs = sorted(set.intersection(*(set(epochs.tolist()) for epochs, _ in members)))
    table = np.stack([values[np.isin(at, epochs)] for at, values in members], axis=-1)
    return np.array(epochs), *t_intervals(table, LEVEL)
