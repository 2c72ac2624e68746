"""Figures are drawn from records, return matplotlib objects, and leave the user's matplotlib alone."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from landscape import figures
from landscape.records import Line, Plane
from ncsam.figures import against_noise, training_curves
from ncsam.schema import Curves, Training
from ncsam.statistics import t_interval

VIEWS = ("mixed", "test")


def line(scale: float = 1.0, points: int = 5) -> Line:
    alphas = np.linspace(-1, 1, points)
    loss = np.stack([scale * (0.1 + alphas**2), scale * (0.5 + alphas**2)])
    return Line(
        views=np.array(VIEWS), alphas=alphas, loss=loss, status=np.ones(loss.shape, np.uint8),
        weight_norm=1.0, direction_norm=1.0, seed=0,
    )  # fmt: skip


def plane(loss: np.ndarray) -> Plane:
    grid = np.linspace(-1, 1, loss.shape[-1])
    return Plane(
        views=np.array(["mixed"]), alphas=grid, betas=grid, loss=loss[None], status=np.ones((1, *loss.shape), np.uint8),
        weight_norm=1.0, direction_norms=np.ones(2), cosine=0.0, seed=0,
    )  # fmt: skip


def training(epochs: int = 4) -> Training:
    values = {
        name: np.linspace(0, 1, epochs)
        for name, declared in Training.variables().items()
        if declared.dims == ("epoch",) and not declared.coordinate
    }
    table = np.linspace(0, 1, epochs * 2).reshape(epochs, 2)
    return Training(epochs=np.arange(1, epochs + 1), views=np.array(VIEWS), loss=table, accuracy=table, **values)


def curves() -> Curves:
    rng = np.random.default_rng(0)
    value = rng.uniform(0.1, 1.0, (2, 3, 2, 4))
    value[:, 2, 0] = np.nan  # a control, run at one rate only
    ends = [t_interval(v) for v in value.reshape(-1, 4)]
    mean, low, high = (np.array([getattr(i, e) for i in ends]).reshape(2, 3, 2) for e in ("mean", "low", "high"))
    return Curves(
        quantities=np.array(["test_accuracy", "memorisation"]), arms=np.array(["sgd", "sam", "matched"]),
        rates=np.array([0.0, 0.4]), seeds=np.arange(4), value=value, mean=mean, low=low, high=high, level=0.95,
    )  # fmt: skip


def test_lines_show_the_mean_and_the_range_of_each_group() -> None:
    drawn = figures.lines({"sgd": [line(1.0), line(3.0)], "sam": [line(2.0)]}, VIEWS)
    mixed, test = drawn.axes
    assert [ax.get_title() for ax in drawn.axes] == ["mixed", "test"]
    np.testing.assert_allclose(mixed.lines[0].get_ydata(), 2.0 * (0.1 + np.linspace(-1, 1, 5) ** 2))
    assert len(mixed.collections) == 1  # one band: the group with two members
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["sgd", "sam"]
    assert mixed.get_yscale() == test.get_yscale() == "log"  # 0.1 … 6.6 spans more than a factor of 20


def test_lines_that_cannot_be_overlaid_are_refused() -> None:
    with pytest.raises(ValueError, match="'sgd' lie on different grids"):
        figures.lines({"sgd": [line(points=5), line(points=7)]}, VIEWS)
    with pytest.raises(ValueError, match="no view 'val' in this surface; it has mixed, test"):
        figures.lines({"sgd": [line()]}, ["val"])


def test_contours_share_their_levels_and_mask_what_is_not_finite() -> None:
    low, high = np.full((5, 5), 1.0), np.full((5, 5), 100.0)
    low[0, 0], high[0, 0] = np.nan, np.inf
    low[2, 2] = 0.5
    drawn = figures.contours({"a": plane(low), "b": plane(high)}, "mixed", levels=6)
    filled = [c for ax in drawn.axes[:2] for c in ax.collections if c.get_array() is not None]
    levels = [c.levels for c in filled if hasattr(c, "levels")]
    assert len(levels) >= 2
    np.testing.assert_array_equal(levels[0], levels[-1])
    assert levels[0][0] == pytest.approx(0.5)
    assert levels[0][-1] == pytest.approx(100.0)


def test_contours_without_a_finite_loss_are_refused() -> None:
    with pytest.raises(ValueError, match="no plane holds a finite, positive loss"):
        figures.contours({"a": plane(np.full((3, 3), np.nan))}, "mixed")


def test_study_figures_draw_arms_over_rates_and_controls_as_points() -> None:
    drawn = against_noise(curves(), ("test_accuracy", "memorisation"))
    ax = drawn.axes[0]
    assert {text.get_text() for text in drawn.legends[0].get_texts()} == {"sgd", "sam", "matched"}
    assert len(ax.containers) == 1  # the control has error bars of its own
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0, 40])


def test_training_curves_plot_test_accuracy_and_memorisation() -> None:
    record = training()
    drawn = training_curves({"sgd": [record]})
    np.testing.assert_array_equal(drawn.axes[0].lines[0].get_ydata(), record.of_view("test"))
    np.testing.assert_array_equal(drawn.axes[1].lines[0].get_ydata(), record.memorisation)


def test_the_same_figure_gives_the_same_bytes_and_matplotlib_is_left_as_it_was(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    first, second = (figures.save(figures.lines({"sgd": [line()]}, VIEWS), tmp_path / stem) for stem in ("a", "b"))
    assert [p.name for p in first] == ["a.pdf", "a.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert dict(mpl.rcParams) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pdf", "a.png", "b.pdf", "b.png"]
