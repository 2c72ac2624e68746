"""The check of figures finds what is planted, and nothing in a figure that is sound."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from landscape.figures import DataFigure
from landscape.figures.style import figure
from tests.figure_checks import drawn_texts, faults


def sound() -> DataFigure:
    """Lines, bands, bars, error bars, symbols, levels and regions in two panels of one axis, with a legend."""
    made, (row,) = figure(1, 2, sharey=True)
    for n, ax in enumerate(row):
        ax.plot([0, 1, 2], [1, 3 + n, 2], label="line")
        ax.fill_between([0, 1, 2], [0, 2, 1], [2, 4, 3], alpha=0.2)
        ax.errorbar([0.5], [2], [[0.5], [0.7]], label="bar")
        ax.scatter([1.5], [2.5])
        ax.bar([1], [0.5], 0.2)
        ax.axhline(1.0)
        ax.axvspan(0.2, 0.4, alpha=0.1)
        ax.set(title=f"panel {n}", xlabel="x")
    row[0].set_ylabel("y")
    made.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return made


def test_a_sound_figure_has_no_fault_and_all_its_texts_were_seen() -> None:
    made = sound()
    assert faults(made) == []
    seen = {text.get_text() for text, _ in drawn_texts(made)}
    assert {"panel 0", "panel 1", "x", "y", "line", "bar", "0", "1"} <= seen | {t.rstrip(".0") or "0" for t in seen}


def _limits_of_the_first_panel(made: DataFigure) -> None:
    made.axes[0].set_ylim(0, 3.5)


def _cut_on_the_left(made: DataFigure) -> None:
    made.axes[1].set_xlim(left=0.5)


def _symbol_outside(made: DataFigure) -> None:
    ends = made.axes[0].get_ylim()
    made.axes[0].scatter([1.0], [9.0])
    made.axes[0].set_ylim(ends)


def _band_outside(made: DataFigure) -> None:
    ends = made.axes[1].get_ylim()
    made.axes[1].fill_between([0, 2], [-3, -3], [0, 0])
    made.axes[1].set_ylim(ends)


def _bar_outside(made: DataFigure) -> None:
    ends = made.axes[1].get_ylim()
    made.axes[1].bar([1], [9], 0.2)
    made.axes[1].set_ylim(ends)


def _level_outside(made: DataFigure) -> None:
    ends = made.axes[0].get_ylim()
    made.axes[0].axhline(-7)
    made.axes[0].set_ylim(ends)


def _tick_labels_too_close(made: DataFigure) -> None:
    made.axes[0].set_xticks(np.linspace(0.9, 1.1, 9))
    made.axes[0].xaxis.set_major_formatter("{x:.4f}")


def _note_over_the_title(made: DataFigure) -> None:
    made.axes[0].text(0.5, 1.02, "a note here", transform=made.axes[0].transAxes, ha="center")


def _long_name(made: DataFigure) -> None:
    made.text(0.9, 0.5, "a name that goes on beyond the page")


def _levels_outside(made: DataFigure) -> None:
    ends = made.axes[0].get_xlim()
    made.axes[0].contour([5, 6, 7], [0, 1, 2], np.eye(3))
    made.axes[0].set_xlim(ends)


def _a_panel_of_its_own(made: DataFigure) -> None:
    ax = made.add_axes((0.8, 0.4, 0.1, 0.2))
    ax.plot([0, 1], [5, 9])
    ax.tick_params(labelleft=False, labelbottom=False)


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (_limits_of_the_first_panel, "beyond its top"),
        (_cut_on_the_left, "beyond its left"),
        (_symbol_outside, "beyond its top"),
        (_band_outside, "beyond its bottom"),
        (_bar_outside, "beyond its top"),
        (_level_outside, "beyond its bottom"),
        (_levels_outside, "beyond its right"),
        (_tick_labels_too_close, "overlaps"),
        (_note_over_the_title, "'a note here' overlaps 'panel 0'"),
        (_long_name, "leaves the canvas"),
        (_a_panel_of_its_own, "no panel of its axis y has numbers"),
    ],
    ids=lambda v: v.__name__.strip("_") if callable(v) else "",
)
def test_every_planted_fault_is_found(plant: Callable[[DataFigure], None], told: str) -> None:
    made = sound()
    plant(made)
    assert any(told in fault for fault in faults(made)), faults(made)


def test_data_beyond_a_side_that_the_figure_names_are_no_fault_and_beyond_another_are() -> None:
    made = sound()
    made.axes[0].set_ylim(1.5, None)
    made.clips = {ax: {"bottom"} for ax in made.axes}
    assert faults(made) == []
    made.axes[0].set_ylim(1.5, 3)
    assert all("beyond its top" in fault for fault in faults(made))


def test_data_beyond_an_axis_in_space_are_found() -> None:
    made, axes = figure(1, 1, height=4, subplot_kw={"projection": "3d"})
    made.set_layout_engine("none")
    axes[0, 0].plot([0, 1], [0, 1], [0, 1])
    assert not [fault for fault in faults(made) if "beyond" in fault]
    axes[0, 0].set_zlim(0, 0.5)
    assert any("z axis" in fault for fault in faults(made))
