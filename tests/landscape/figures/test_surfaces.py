"""What is on the pictures of surfaces: axes, levels, legends, marks, and that no two scales are mixed up."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from landscape import figures
from landscape.figures.interactive import interactive, save_html
from landscape.figures.interpolation import refined
from landscape.figures.levels import levels_between, symmetric_levels
from landscape.figures.style import inches
from landscape.records import Connection, Line, LineDraws, Plane, Status, Trajectory
from landscape.surfaces.connectivity import barrier

VIEWS = ("mixed", "test")
GRID = np.linspace(-1, 1, 5)


def line(scale: float = 1.0, points: int = 5, norm: float = 1.0) -> Line:
    alphas = np.linspace(-1, 1, points)
    loss = np.stack([scale * (0.1 + alphas**2), scale * (0.5 + alphas**2)])
    return Line(
        views=np.array(VIEWS), alphas=alphas, loss=loss, status=np.ones(loss.shape, np.uint8),
        weight_norm=2.0, direction_norm=norm, seed=0,
    )  # fmt: skip


def plane(loss: np.ndarray, status: np.ndarray | None = None) -> Plane:
    a, b = (np.linspace(-1, 1, n) for n in loss.shape)
    status = np.where(np.isfinite(loss), Status.OK, Status.NONFINITE) if status is None else status
    return Plane(
        views=np.array(["mixed"]), alphas=a, betas=b, loss=loss[None], status=status[None].astype(np.uint8),
        weight_norm=1.0, direction_norms=np.ones(2), cosine=0.0, seed=0, accuracy=1 / (1 + loss[None]),
    )  # fmt: skip


def bowl(height: float = 1.0, floor: float = 0.01) -> np.ndarray:
    return floor + height * (GRID[:, None] ** 2 + 2 * np.linspace(-1, 1, 7) ** 2)


def path(inside: bool = True) -> Trajectory:
    coordinates = np.array([[-0.9, 0.5], [-0.3, 0.2], [0.0, 0.0]]) * (1 if inside else 9)
    return Trajectory(
        epochs=np.array([1, 5, 40]), coordinates=coordinates, distance=np.zeros(3), length=np.ones(3), explained=0.93,
        hashes=np.array(["a", "b"]),
    )  # fmt: skip


def way() -> Connection:
    alphas = np.linspace(-0.5, 1.5, 9)
    loss = np.stack([1 + np.exp(-20 * (alphas - 0.5) ** 2), 2 + alphas])
    heights, places = zip(*(barrier(alphas, row) for row in loss), strict=True)
    return Connection(
        views=np.array(VIEWS), alphas=alphas, loss=loss, status=np.ones(loss.shape, np.uint8),
        barrier=np.array(heights), peak=np.array(places), distance=3.0, cosine=0.5, buffers="none", start="a", end="b",
    )  # fmt: skip


def draws(count: int = 4) -> LineDraws:
    loss = np.stack([np.stack([(i + 1) * (0.1 + GRID**2)] * 2) for i in range(count)])
    return LineDraws(
        draws=np.arange(count), views=np.array(VIEWS), alphas=GRID, loss=loss, status=np.ones(loss.shape, np.uint8),
        weight_norm=1.0, direction_norms=np.ones((count, 1)), hashes=np.array([[str(i)] for i in range(count)]),
    )  # fmt: skip


def legend(drawn: Figure) -> list[str]:
    return [text.get_text() for text in drawn.legends[0].get_texts()]


def levels(ax: Any) -> np.ndarray:
    return next(c.levels for c in ax.collections if isinstance(c, ContourSet))


def texts(ax: Any) -> str:
    return " ".join(text.get_text() for text in ax.texts)


@settings(max_examples=100, deadline=None)
@given(low=st.floats(1e-9, 1e3), factor=st.floats(1.01, 1e12), count=st.integers(4, 15), log=st.booleans())
def test_levels_are_few_ascending_and_hold_all_values(low: float, factor: float, count: int, log: bool) -> None:
    found = levels_between(low, low * factor, count, log=log)
    assert found[0] <= low * (1 + 1e-12)
    assert found[-1] >= low * factor * (1 - 1e-12)
    assert (np.diff(found) > 0).all()
    assert 2 <= len(found) <= count + 3


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5))
def test_symmetric_levels_reach_as_far_to_either_side(values: list[float]) -> None:
    found = symmetric_levels(np.array(values), 12)
    np.testing.assert_array_equal(found, -found[::-1])
    assert found[-1] >= np.abs(values).max() * (1 - 1e-12)


def test_lines_show_the_mean_and_the_range_of_each_group() -> None:
    drawn = figures.lines({"sgd": [line(1.0), line(3.0)], "sam": [line(2.0)]}, VIEWS)
    mixed, test = drawn.axes
    assert [ax.get_title() for ax in drawn.axes] == ["mixed", "test"]
    assert mixed.get_xlabel() == "α (filter norms)"
    np.testing.assert_allclose(mixed.lines[0].get_ydata(), 2.0 * (0.1 + np.linspace(-1, 1, 5) ** 2))
    assert len(mixed.collections) == 1  # one band: the group with two members
    assert legend(drawn) == ["sgd", "sam"]
    assert mixed.get_yscale() == test.get_yscale() == "log"  # 0.1 … 6.6 spans more than a factor of 20


def test_slices_compare_runs_at_equal_displacement() -> None:
    drawn = figures.lines({"sgd": [line(norm=3.0)], "sam": [line(norm=1.0)]}, ["mixed"], against="distance")
    wide, narrow = drawn.axes[0].lines
    assert drawn.axes[0].get_xlabel() == "‖Δw‖"
    np.testing.assert_allclose(wide.get_xdata(), 3 * GRID)
    np.testing.assert_allclose(narrow.get_xdata(), GRID)
    group = figures.lines({"sgd": [line(norm=3.0, points=7), line(norm=2.0, points=7)]}, ["mixed"], against="relative")
    x = group.axes[0].lines[0].get_xdata()
    assert np.abs(x).max() <= 1.0  # ‖d‖/‖w‖ of the shorter one: nothing beyond its reach is made up
    assert group.axes[0].get_xlabel() == "‖Δw‖ / ‖w‖"
    down = [
        dataclasses.replace(line(norm=norm, points=7), alphas=np.linspace(1, -1, 7), loss=line(points=7).loss[:, ::-1])
        for norm in (3.0, 2.0)
    ]
    turned = figures.lines({"sgd": down}, ["mixed"], against="relative").axes[0].lines[0]
    np.testing.assert_allclose(turned.get_xdata()[::-1], x)
    np.testing.assert_allclose(turned.get_ydata()[::-1], group.axes[0].lines[0].get_ydata())
    with pytest.raises(ValueError, match="against is 'time'; known: alpha, distance, relative"):
        figures.lines({"sgd": [line()]}, VIEWS, against="time")


def test_lines_that_cannot_be_overlaid_are_refused() -> None:
    with pytest.raises(ValueError, match="'sgd' lie on different grids"):
        figures.lines({"sgd": [line(points=5), line(points=7)]}, VIEWS)
    with pytest.raises(ValueError, match="no view 'val' in this surface; it has mixed, test"):
        figures.lines({"sgd": [line()]}, ["val"])


def test_points_of_a_line_that_are_not_measured_are_marked() -> None:
    record = line()
    status = record.status.copy()
    status[0, 1], status[0, 3] = Status.INTERPOLATED, Status.NONFINITE
    loss = record.loss.copy()
    loss[0, 3] = np.inf
    marked = dataclasses.replace(record, status=status, loss=loss)
    curve, circles, crosses = figures.lines({"sgd": [marked]}, ["mixed"]).axes[0].lines
    assert circles.get_xdata().tolist() == [GRID[1]]
    assert crosses.get_xdata().tolist() == [GRID[3]]
    assert np.isinf(curve.get_ydata()[3])


def test_bands_are_quantiles_over_draws() -> None:
    drawn = figures.bands({"sgd": draws()}, VIEWS)
    ax = drawn.axes[0]
    assert legend(drawn) == ["sgd (4 draws)"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 2.5 * (0.1 + GRID**2))
    assert len(ax.lines) == 3  # the median and the two ends of the band
    band = ax.collections[0].get_paths()[0].get_extents()
    np.testing.assert_allclose(
        (band.y0, band.y1), (np.quantile([1, 2, 3, 4], 0.1) * 0.1, np.quantile([1, 2, 3, 4], 0.9) * 1.1)
    )


def test_connections_name_the_barrier_where_there_is_one() -> None:
    drawn = figures.connections({"sgd – sam": way()}, VIEWS)
    hill, slope = drawn.axes
    assert hill.get_xlabel() == "position on the way"
    assert texts(hill) == f"{way().barrier[0]:.2g}"
    assert texts(slope) == ""  # a slope has none
    assert any(curve.get_linestyle() == "--" for curve in slope.lines)


def test_contours_share_their_levels_and_mark_what_is_not_finite() -> None:
    low, high = np.full((5, 5), 1.0), np.full((5, 5), 100.0)
    low[0, 0], high[0, 0] = np.nan, np.inf
    low[2, 2] = 0.5
    drawn = figures.contours({"a": plane(low), "b": plane(high)}, "mixed", levels=6)
    first, second, bar = drawn.axes
    np.testing.assert_array_equal(levels(first), levels(second))
    assert levels(first)[0] <= 0.5
    assert levels(first)[-1] == 100.0
    crosses = [c for c in first.collections if c.get_label() == "not finite"]
    assert crosses[0].get_offsets().tolist() == [[-1.0, -1.0]]
    assert bar.get_ylabel() == "loss, view mixed"
    assert [tick.get_text() for tick in bar.get_yticklabels()] == [f"{v:g}" for v in levels(first)]
    assert len(bar.get_yticklabels()) == len(levels(first)) == 6


def test_contours_are_the_right_way_round_and_named() -> None:
    loss = bowl()
    loss[4, 0] = 50.0  # the largest: α = 1, β = −1
    drawn = figures.contours({"a": plane(loss)}, "mixed", scale="log")
    ax = drawn.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("α (filter norms)", "β (filter norms)", "a")
    filled = next(c for c in ax.collections if isinstance(c, ContourSet))
    top = next(p for p in reversed(filled.get_paths()) if len(p.vertices))
    assert top.vertices[:, 0].max() == 1.0
    assert top.vertices[:, 1].min() == -1.0
    assert top.vertices[:, 0].min() > 0


def test_measured_points_are_dots_and_those_interpolated_are_not() -> None:
    status = np.full((5, 7), Status.OK)
    status[1, 2] = Status.INTERPOLATED
    ax = figures.contours({"a": plane(bowl(), status)}, "mixed").axes[0]
    dots = {
        tuple(np.round(at, 9)) for c in ax.collections for at in np.asarray(c.get_offsets()) if len(c.get_offsets()) > 1
    }
    every = {(round(a, 9), round(b, 9)) for a in GRID for b in np.linspace(-1, 1, 7)}
    assert every - dots == {(round(GRID[1], 9), round(np.linspace(-1, 1, 7)[2], 9))}


def test_contours_between_few_points_follow_the_bowl_and_not_a_polygon() -> None:
    at = np.linspace(-1, 1, 13)
    a, b, fine = refined(at, at, 0.05 + at[:, None] ** 2 + 0.5 * at**2, log=True)
    assert set(at) <= set(a)
    assert set(at) <= set(b)
    np.testing.assert_allclose(fine, 0.05 + a[:, None] ** 2 + 0.5 * b**2, rtol=0.05)
    ax = figures.contours(Plane(
        views=np.array(["x"]), alphas=at, betas=at, loss=(0.05 + at[:, None] ** 2 + at**2)[None], weight_norm=1.0,
        status=np.ones((1, 13, 13), np.uint8), direction_norms=np.ones(2), cosine=0.0, seed=0,
    )).axes[0]  # fmt: skip
    ring = max((path for c in ax.collections for path in c.get_paths()), key=lambda path: len(path.vertices))
    assert len(ring.vertices) > 60


def test_holes_stay_holes_between_the_points() -> None:
    table = np.ones((5, 5))
    table[2, 2] = np.nan
    a, b, fine = refined(np.arange(5.0), np.arange(5.0), table)
    inside = (np.abs(a[:, None] - 2) < 1) & (np.abs(b - 2) < 1)
    assert np.isnan(fine[inside]).all()
    assert np.isfinite(fine[~inside]).all()
    measured = np.ix_(np.isin(a, np.arange(5)), np.isin(b, np.arange(5)))
    np.testing.assert_array_equal(np.isnan(fine[measured]), np.isnan(table))


@pytest.mark.parametrize("inside", [True, False])
def test_a_trajectory_is_drawn_with_its_share_and_does_not_widen_the_plane(inside: bool) -> None:
    ax = figures.contours({"a": plane(bowl())}, "mixed", trajectories={"a": path(inside)}).axes[0]
    assert ax.get_xlim() == (-1, 1)
    curve = next(c for c in ax.lines if len(c.get_xdata()) == 3)
    np.testing.assert_allclose(curve.get_ydata(), path(inside).coordinates[:, 1])
    assert "93% of the path in this plane" in texts(ax)
    assert ("epoch 1 " in texts(ax)) == inside  # the first checkpoint is named where it can be seen
    assert "epoch 40" in texts(ax)


def test_accuracy_is_linear_in_percent() -> None:
    drawn = figures.contours({"a": plane(bowl(100.0))}, "mixed", quantity="accuracy")
    assert drawn.axes[-1].get_ylabel() == "accuracy, view mixed"
    assert all(t.get_text().endswith("%") for t in drawn.axes[-1].get_yticklabels())
    np.testing.assert_allclose(np.diff(levels(drawn.axes[0])), np.diff(levels(drawn.axes[0]))[0])


def test_difference_is_symmetric_about_zero_and_says_ratio_where_scales_are_logarithmic() -> None:
    one, other = ("sgd", plane(bowl(2.0))), ("sam", plane(bowl(1.0)))
    linear = figures.difference(one, other, "mixed", scale="linear")
    change = levels(linear.axes[2])
    np.testing.assert_array_equal(change, -change[::-1])
    assert [ax.get_title() for ax in linear.axes[:3]] == ["sgd", "sam", "left minus right"]
    np.testing.assert_array_equal(levels(linear.axes[0]), levels(linear.axes[1]))
    ratio = figures.difference(one, other, "mixed", scale="log")
    assert ratio.axes[2].get_title() == "left over right"
    assert levels(ratio.axes[2])[-1] >= np.log10(2.01 / 1.01)
    assert "log₁₀ ratio of loss" in [ax.get_ylabel() for ax in ratio.axes]
    with pytest.raises(ValueError, match="'sgd' and 'sam' lie on different grids"):
        figures.difference(one, ("sam", plane(np.ones((3, 3)))), "mixed")


def test_surfaces_in_space_share_their_height() -> None:
    drawn = figures.surface3d({"a": plane(bowl(10.0)), "b": plane(bowl(1.0))}, "mixed")
    first, second = drawn.axes
    assert first.get_zlim() == second.get_zlim()
    ticks = [tick.get_text() for tick in first.get_zticklabels()]
    assert "0.1" in ticks  # losses, though the height is their logarithm
    assert "1" in ticks
    assert (first.get_xlabel(), first.get_ylabel()) == ("α", "β")
    assert "height: loss, view mixed (logarithmic)" in texts(drawn)


def test_saving_leaves_the_layout_of_3d_panels_alone(tmp_path: Path) -> None:
    planes = {label: plane(bowl(h)) for label, h in zip("abcd", (1.0, 2.0, 3.0, 4.0), strict=True)}  # two panels unused
    figures.save(figures.surface3d(planes, "mixed"), tmp_path / "alone", ["png"])
    figures.save(figures.surface3d(planes, "mixed"), tmp_path / "after", ["pdf", "png"])
    assert (tmp_path / "alone.png").read_bytes() == (tmp_path / "after.png").read_bytes()


@pytest.mark.parametrize("width", sorted(figures.WIDTHS))
def test_widths_are_those_of_the_venues(width: str) -> None:
    planes = {label: plane(bowl()) for label in "abc"}
    for drawn in (
        figures.contours(planes, "mixed", width=width),
        figures.lines({"sgd": [line()]}, ["mixed"], width=width),
        figures.surface3d(planes, "mixed", width=width),
        figures.difference(("a", planes["a"]), ("b", planes["b"]), "mixed", width=width),
    ):
        assert drawn.get_figwidth() == inches(width)
    assert figures.contours({"a": plane(bowl())}, "mixed").get_figwidth() < 5  # a lone plane does not fill a page
    with pytest.raises(ValueError, match="unknown width 'a4'; known: icml"):
        figures.figure(1, 1, width="a4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "val"}, "no view 'val' in this surface; it has mixed"),
        ({"quantity": "loss per class"}, "unknown quantity 'loss per class'; known: loss, accuracy"),
        ({"scale": "sqrt"}, "unknown scale 'sqrt'; known: auto, log, linear"),
    ],
)
def test_what_a_plane_does_not_hold_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        figures.contours({"a": plane(bowl())}, **{"view": "mixed", **options})
    with pytest.raises(ValueError, match="no plane holds a finite loss of view 'mixed'"):
        figures.contours({"a": plane(np.full((3, 3), np.nan))}, "mixed")
    with pytest.raises(ValueError, match="needs positive values"):
        figures.contours({"a": plane(-bowl())}, "mixed", scale="log")


def test_interactive_surfaces_are_one_file_without_the_network(tmp_path: Path) -> None:
    status = np.full((5, 7), Status.OK)
    status[1, 2] = Status.INTERPOLATED
    loss = bowl()
    loss[0, 0] = np.inf
    made = interactive({"a": plane(loss, status), "b": plane(bowl(3.0))}, "mixed")
    surface, marks, other = made.data
    np.testing.assert_allclose(surface.z[3], loss[:, 3])  # rows are β
    assert np.isnan(surface.z[0][0])
    assert len(marks.x) == 1
    assert (surface.visible, marks.visible, other.visible) == (True, True, False)
    assert made.layout.scene.zaxis.type == "log"
    assert [button.label for button in made.layout.updatemenus[0].buttons] == ["a", "b"]
    page = save_html(made, tmp_path / "plane.html").read_text(encoding="utf-8")
    assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)=["\']?http', page)
    assert [p.name for p in tmp_path.iterdir()] == ["plane.html"]
