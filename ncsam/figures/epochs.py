"""Along training: accuracy and memorisation, and how gradients and perturbations lie to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE, figure
from ncsam.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    VERMILION,
    Look,
    band,
    legend_below,
    looks,
    plain,
    shares,
)
from ncsam.records import Diagnostics, Training
from ncsam.statistics import LEVEL, t_intervals

SHOWN: Mapping[str, Callable[[Training], np.ndarray]] = {
    "clean test accuracy": lambda t: t.of_view("test"),
    "wrong labels memorised": lambda t: t.memorisation,
}
_ALIGNED = {  # of one arm, by row: quantity, label, look
    "T4: g* and others": (
        ("cos_star_noise", "cos(g*, g_noise)", Look(GREEN, "")),
        ("cos_random_noise", "null: random picks", Look(ORANGE, "")),
        ("cos_star_clean", "null: cos(g*, g_clean)", Look(PINK, "")),
        ("noise_ceiling", "ceiling: another g_noise", Look(GREY, "")),
    ),
    "T5: with ε_SAM(y)": (
        ("cos_sam_true", "ε_SAM(ỹ)", Look(VERMILION, "")),
        ("cos_ncsam_true", "ε_NCSAM", Look(BLUE, "")),
        ("cos_mirrored_true", "ε_NCSAM, other sign", Look(BLACK, "")),
    ),
}
_BY_ARM = {"T2: ε_SAM(ỹ), ε_SAM(y)": "cos_sam_true", "T3: g_clean, g_noise": "cos_clean_noise"}


def training_curves(groups: Mapping[str, Sequence[Training]]) -> DataFigure:
    """Clean test accuracy and memorisation against epoch: the mean of each group with its t-interval.

    Args:
        groups: training records by label, e.g. one record a seed by optimizer.
    """
    made, axes = figure(1, len(SHOWN), height=2.7)
    with mpl.rc_context(STYLE):
        for ax, (quantity, values) in zip(axes[0], SHOWN.items(), strict=True):
            _training(made, ax, groups, quantity, values)
            ax.set(title=quantity, xlabel="epoch")
        legend_below(made)
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
            row[0].set_ylabel(quantity)
        for ax in axes[-1]:
            ax.set_xlabel("epoch")
        legend_below(made)
    return made


def training_of_controls(
    controls: Mapping[str, Sequence[Training]], others: Mapping[str, Sequence[Training]], columns: int = 4
) -> DataFigure:
    """Clean test accuracy along training of one control a panel, with the compared arms in grey tones behind it.

    Args:
        controls, others: training records by label, all at one noise rate.
    """
    columns = min(columns, len(controls))
    made, axes = figure(-(-len(controls) // columns), columns, height=1.5, sharex=True, sharey=True)
    later: list[float] = []
    behind = dict(zip(others, ("-", "--", ":", "-."), strict=False))
    with mpl.rc_context(STYLE):
        for ax in axes.flat[len(controls) :]:
            ax.set_visible(False)
        for ax, (label, members) in zip(axes.flat, controls.items(), strict=False):
            for other, dashes in behind.items():
                ax.plot(
                    others[other][0].epochs, np.mean([t.of_view("test") for t in others[other]], axis=0), color=GREY,
                    linestyle=dashes, linewidth=0.9, label=plain(other),
                )  # fmt: skip
            x, mean, low, high = _over_seeds([(t.epochs, t.of_view("test")) for t in members])
            band(ax, x, mean, np.maximum(low, 0.0), np.minimum(high, 1.0), Look(VERMILION, ""), "the control")
            later.append(mean[len(mean) // 4 :].min())
            made.note(arm=label, epoch=x, mean=mean, low=low, high=high)
            ax.set_title(plain(label), fontsize=7)
            shares(ax)
        axes[0, 0].set_ylim(bottom=max(0.0, min(later) - 0.1))  # not down to where all begin
        for n in range(len(controls)):
            if n + columns >= len(controls):
                axes.flat[n].set_xlabel("epoch")
                axes.flat[n].tick_params(labelbottom=True)
        legend_below(made)
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
    made, axes = figure(len(_BY_ARM) + len(_ALIGNED), len(panels), height=1.6, sharex=True, sharey="row")
    with mpl.rc_context(STYLE):
        for column, (title, groups) in zip(axes.T, panels.items(), strict=True):
            column[0].set_title(title)
            column[-1].set_xlabel("epoch")
            for ax, (name, quantity) in zip(column, _BY_ARM.items(), strict=False):
                for label, look in looks(groups).items():
                    _diagnosed(made, ax, groups[label], quantity, look, label, noise=title, row=name)
            for ax, (name, quantities) in zip(column[len(_BY_ARM) :], _ALIGNED.items(), strict=True):
                for quantity, label, look in quantities:
                    _diagnosed(made, ax, groups[arm], quantity, look, label, noise=title, row=name)
            for ax in column:
                ax.axhline(0.0, color="black", linewidth=0.5)
                if warmup:
                    ax.axvspan(0, warmup, color=GREY, alpha=0.1, linewidth=0)
        for row, name in zip(axes, (*_BY_ARM, *_ALIGNED), strict=True):
            row[0].set_ylabel(name)
            low, high = row[0].get_ylim()
            row[0].set_ylim(max(low, -1.05), min(high, 1.05))
            handles, labels = row[-1].get_legend_handles_labels()
            row[-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=6.5)
    return made


def _training(
    made: DataFigure, ax: Any, groups: Mapping[str, Sequence[Training]], quantity: str,
    values: Callable[[Training], np.ndarray], **where: Any,
) -> None:  # fmt: skip
    for label, look in looks(groups).items():
        x, mean, low, high = _over_seeds([(t.epochs, values(t)) for t in groups[label]])
        band(ax, x, mean, np.maximum(low, 0.0), np.minimum(high, 1.0), look, label)
        made.note(quantity=quantity, **where, arm=label, epoch=x, mean=mean, low=low, high=high)
    if not ax.lines or not np.isfinite(np.concatenate([line.get_ydata() for line in ax.lines])).any():
        ax.text(0.5, 0.5, "no wrong labels", transform=ax.transAxes, ha="center", va="center", color=GREY, fontsize=7)
    shares(ax)


def _diagnosed(
    made: DataFigure, ax: Any, records: Sequence[Diagnostics], quantity: str, look: Look, label: str, **where: Any
) -> None:
    x, mean, low, high = _over_seeds([(d.epochs, _mean_of(d, quantity)) for d in records])
    if not np.isfinite(mean).any():
        return
    band(ax, x, mean, low, high, look, label)
    made.note(**where, shown=label, quantity=quantity, epoch=x, mean=mean, low=low, high=high)


def _mean_of(record: Diagnostics, quantity: str) -> np.ndarray:
    """A quantity's mean over the batches of each epoch; the ceiling follows from the halves, see docs/theory.md."""
    names = record.quantities.tolist()
    if quantity == "noise_ceiling":
        half = record.mean[:, names.index("cos_noise_halves")]
        return 2 * half / (1 + half)
    found: np.ndarray = record.mean[:, names.index(quantity)]
    return found


def _over_seeds(members: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, ...]:
    """Epochs that all members have, with mean and t-interval over them."""
    epochs = sorted(set.intersection(*(set(epochs.tolist()) for epochs, _ in members)))
    table = np.stack([values[np.isin(at, epochs)] for at, values in members], axis=-1)
    return np.array(epochs), *t_intervals(table, LEVEL)
