"""Which points a surface evaluates: order, error, and what it does where values are not finite."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from landscape.surfaces.refinement import Refinement, coarse_to_fine


def refined(
    axes: list[np.ndarray], function: Callable[..., np.ndarray], tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Refinement, list[int]]:
    """Interpolated and true values (points, columns), which are known, the refinement, and the order of points."""
    truth = np.stack(np.broadcast_arrays(*function(*np.meshgrid(*axes, indexing="ij"))), -1)
    truth = truth.reshape(-1, truth.shape[-1]).astype(float)
    values, known = np.full(truth.shape, np.nan), np.zeros(len(truth), bool)
    refinement = Refinement(axes, values, known, np.ones(truth.shape[1], bool), tolerance)
    order = []
    for i in refinement.points():
        assert not known[i]
        values[i], known[i] = truth[i], True
        order.append(i)
    refinement.fill()
    return values, truth, known, refinement, order


@given(shape=st.lists(st.integers(1, 12), min_size=1, max_size=2))
@settings(max_examples=30, deadline=None)
def test_coarse_to_fine_names_every_point_once(shape: list[int]) -> None:
    assert sorted(coarse_to_fine(shape)) == list(range(int(np.prod(shape))))


def test_any_beginning_of_the_order_is_spread_over_the_plane() -> None:
    first = np.stack(np.unravel_index(coarse_to_fine([51, 51])[:25], (51, 51)), 1)
    assert sorted(set(first[:, 0])) == sorted(set(first[:, 1])) == [0, 12, 25, 37, 50]


SURFACES: dict[str, Callable[..., list[np.ndarray]]] = {
    "bowl": lambda x, y: [x**2 + 3 * y**2 + x * y, np.exp(x)],
    "wave": lambda x, y: [np.sin(3 * x) * np.cos(2 * y), x + 0 * y],
    "kink": lambda x, y: [np.abs(x + 0.3 * y - 0.1) + 0.2 * y**2],
    "wall": lambda x, y: [np.maximum(np.exp(4 * x), 1) + y**2],
    "well": lambda x, y: [-np.exp(-20 * ((x - 0.4) ** 2 + y**2))],
}


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("tolerance", [0.05, 0.01])
def test_the_error_is_within_tolerance_and_estimate_for_fewer_points(name: str, tolerance: float) -> None:
    axes = [np.linspace(-1, 1, 51), np.linspace(-2, 1, 41)]
    values, truth, known, refinement, _ = refined(axes, SURFACES[name], tolerance)
    span, error = np.ptp(truth, axis=0), np.abs(values - truth).max(0)
    assert (error <= tolerance * span).all()
    assert (refinement.error <= tolerance * span * (1 + 1e-12)).all()
    assert (values[known] == truth[known]).all()
    assert known.sum() < 0.4 * len(truth)  # sharp kinks and wells cost most; surfaces of networks a tenth


def test_a_feature_narrower_than_the_lattice_is_missed() -> None:
    """Where the method stops working: what lies between all points looked at cannot be known."""
    x = np.linspace(-1, 1, 51)
    spike = (x == x[14]).astype(float)  # neither on the lattice nor among the tests
    values, truth, known, refinement, _ = refined([x], lambda _: [spike, x], 0.01)
    assert not known[14]
    assert np.abs(values - truth).max() > 0.9 > refinement.error.max()


def test_a_finer_tolerance_evaluates_a_superset() -> None:
    axes = [np.linspace(-1, 1, 33)] * 2
    *_, coarse = refined(axes, SURFACES["kink"], 0.02)
    *_, fine = refined(axes, SURFACES["kink"], 0.002)
    assert set(coarse) < set(fine)


def test_what_is_not_finite_is_never_interpolated_over() -> None:
    axes = [np.linspace(-1, 1, 65)] * 2

    def blown_up(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        return [np.where(x + y > 1.2, np.inf, x**2 + y**2), np.where(x < -0.9, np.nan, y)]

    values, truth, known, _, _ = refined(axes, blown_up, 0.01)
    assert (np.isfinite(values) == np.isfinite(truth)).all()
    assert known[~np.isfinite(truth).all(1)].all()
    finite = np.isfinite(truth)
    assert np.abs(values[finite] - truth[finite]).max() < 0.01 * 2
    assert known.mean() < 0.7


def test_an_empty_column_asks_for_nothing() -> None:
    axes = [np.linspace(-1, 1, 51)]
    values, _, known, refinement, _ = refined(axes, lambda x: [x**2, np.full_like(x, np.nan)], 0.01)
    assert known.sum() == 17
    assert np.isnan(values[:, 1]).all()
    assert refinement.error[1] == 0


@pytest.mark.parametrize("shape", [(1,), (2,), (2, 51), (1, 51), (3, 3), (9, 10)])
def test_thin_and_small_grids(shape: tuple[int, ...]) -> None:
    axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape]
    values, truth, _, _, order = refined(axes, lambda *c: [sum(x**2 for x in c)], 0.01)
    assert len(set(order)) == len(order)
    np.testing.assert_allclose(values, truth, atol=0.02)


def test_uneven_coordinates_in_one_dimension() -> None:
    x = np.sort(np.random.default_rng(0).uniform(-1, 1, 60))
    values, truth, known, _, _ = refined([x], lambda c: [np.cos(2 * c)], 0.01)
    assert np.abs(values - truth).max() < 0.01 * np.ptp(truth)
    assert not known.all()


@pytest.mark.parametrize(
    ("tolerance", "axis", "message"),
    [(0.0, [0.0, 1.0], "tolerance is 0"), (np.nan, [0.0, 1.0], "tolerance is nan"), (0.1, [0.0, 0.0], "ascending")],
)
def test_bad_refinements(tolerance: float, axis: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Refinement([np.array(axis)], np.zeros((2, 1)), np.zeros(2, bool), np.ones(1, bool), tolerance)
