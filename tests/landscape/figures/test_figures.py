"""Figures are drawn from records, return matplotlib objects, and leave the user's matplotlib alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from landscape import figures
from landscape.figures.data import DataFigure
from landscape.records import Line
from ncsam.figures import against_noise, training_curves
from ncsam.records import Curves, Training
from ncsam.statistics import t_interval

VIEWS = ("mixed", "test")


def line(scale: float = 1.0, points: int = 5) -> Line:
    alphas = np.linspace(-1, 1, points)
    loss = np.stack([scale * (0.1 + alphas**2), scale * (0.5 + alphas**2)])
    return Line(
        views=np.array(VIEWS), alphas=alphas, loss=loss, status=np.ones(loss.shape, np.uint8),
        weight_norm=1.0, direction_norm=1.0, seed=0,
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


def test_study_figures_draw_arms_over_rates_and_leave_controls_of_one_rate_out() -> None:
    drawn = against_noise(curves(), ("test_accuracy", "memorisation"))
    ax = drawn.axes[0]
    assert {text.get_text() for text in drawn.legends[0].get_texts()} == {"SGD", "SAM"}
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


@pytest.mark.parametrize("extension", ["svg", "pdf", "png"])
def test_the_same_data_give_the_same_bytes(extension: str, tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from landscape import figures\n"
        "from landscape.records import Line\n"
        "line = Line(['a'], [0.0, 0.5, 1.0], [[0.5, 0.2, 0.7]], np.ones((1, 3), np.uint8), 1.0, 1.0, None)\n"
        "figures.save(figures.lines({'x': [line]}, ['a']), sys.argv[1], [sys.argv[2]])"
    )
    for name in ("a", "b"):  # in processes of their own, at different times
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name), extension], check=True)
        time.sleep(1.1)
    assert (tmp_path / f"a.{extension}").read_bytes() == (tmp_path / f"b.{extension}").read_bytes()


def test_a_text_is_as_wide_at_every_resolution_so_that_none_leaves_the_page(tmp_path: Path) -> None:
    made, axes = figures.figure(1, 1)
    axes[0, 0].set_yticks([0, 1], ["a name of some length, ρ = 0.05", "another"])
    for dpi in (72, 110, 200):
        (path,) = figures.save(made, tmp_path / f"at{dpi}", ["png"], dpi=dpi)
        ink = (mpl.image.imread(path)[..., :3].min(axis=2) < 0.8).any(axis=0)
        assert 0.02 < np.flatnonzero(ink)[0] / dpi < 0.08  # inches: the margin of the layout


def test_saving_draws_each_format_once_where_drawing_would_have_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, drawn = (figures.lines({"sgd": [line()], "sam": [line(2.0)]}, VIEWS) for _ in range(2))
    drawn.draw_without_rendering()
    layout, draws, draw = made.get_layout_engine(), [], DataFigure.draw
    monkeypatch.setattr(DataFigure, "draw", lambda *given: draws.append(given) or draw(*given))
    figures.save(made, tmp_path / "saved", ["pdf", "png", "svg"])
    assert len(draws) == 3
    assert made.get_layout_engine() is layout
    for own, other in zip(made.axes, drawn.axes, strict=True):
        assert own.get_position().bounds == other.get_position().bounds


def test_a_figure_that_cannot_be_saved_keeps_its_layout_engine(tmp_path: Path) -> None:
    made = figures.lines({"sgd": [line()]}, VIEWS)
    layout = made.get_layout_engine()
    with pytest.raises(OSError, match="missing"):
        figures.save(made, tmp_path / "missing" / "figure")
    assert made.get_layout_engine() is layout
