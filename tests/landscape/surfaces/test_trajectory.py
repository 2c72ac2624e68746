"""Principal planes against numpy's SVD, coordinates against least squares, distances against both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import landscape
from landscape.surfaces.trajectory import principal_directions, project_path


def walk(count: int, size: int, seed: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, size, generator=g, dtype=torch.float64).cumsum(0))


@pytest.mark.parametrize("centred", [False, True])
def test_principal_directions_are_numpys(centred: bool) -> None:
    points = walk(7, 40, seed=1)
    directions, ratios = principal_directions(points, points[-1], centred=centred)
    rows = torch.stack(points).numpy() - points[-1].numpy()
    rows = rows - rows.mean(0) if centred else rows
    _, singular, right = np.linalg.svd(rows, full_matrices=False)
    for mine, expected in zip(directions, right[:2], strict=True):
        assert abs(mine.numpy() @ expected) == pytest.approx(1, abs=1e-12)
        assert mine[mine.abs().argmax()] > 0
    np.testing.assert_allclose(ratios, singular**2 / (singular**2).sum(), atol=1e-14)
    assert float(directions[0] @ directions[1]) == pytest.approx(0, abs=1e-13)


def test_explained_share_and_distances_of_the_principal_plane(tmp_path: Path) -> None:
    points = walk(7, 40, seed=2)
    directions, ratios = principal_directions(points, points[-1])
    found = project_path(points, range(7), points[-1], directions, ratios=ratios)
    assert found.explained == pytest.approx(ratios[:2].sum())
    np.testing.assert_allclose(found.coordinates[-1], 0, atol=1e-12)
    np.testing.assert_allclose(found.distance**2 + (found.coordinates**2).sum(1), found.length**2, atol=1e-10)
    assert (found.distance[:-1] > 0).all()
    found.save(tmp_path / "t.h5")
    again = landscape.load(tmp_path / "t.h5")
    np.testing.assert_array_equal(again.coordinates, found.coordinates)
    assert again.hashes.tolist() == found.hashes.tolist()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_coordinates_are_the_least_squares_solution_for_skew_directions(seed: int, scale: float) -> None:
    points = walk(6, 12, seed)
    basis = walk(2, 12, seed + 1)
    basis = [basis[0], scale * (basis[0] + basis[1])]
    found = project_path(points, range(6), points[3], basis)
    A = torch.stack(basis, 1).numpy()
    steps = (torch.stack(points) - points[3]).numpy()
    expected, *_ = np.linalg.lstsq(A, steps.T, rcond=None)
    np.testing.assert_allclose(found.coordinates, expected.T, rtol=1e-7, atol=1e-9 / min(scale, 1))
    np.testing.assert_allclose(found.distance, np.linalg.norm(steps.T - A @ expected, axis=0), rtol=1e-7, atol=1e-9)


def test_a_path_inside_a_plane_has_no_distance_from_it() -> None:
    corner, e1, e2 = (torch.randn(30).double() for _ in range(3))
    points = [corner + a * e1 + b * e2 for a, b in ((0, 0), (1, 0), (1, 2), (-3, 1))]
    directions, ratios = principal_directions(points, corner)
    found = project_path(points, range(4), corner, directions, ratios=ratios)
    assert found.distance.max() < 1e-12 * found.length.max() * 100
    assert found.explained == pytest.approx(1)


def test_what_spans_no_plane_is_refused() -> None:
    points = walk(2, 10, seed=0)
    with pytest.raises(ValueError, match="2 checkpoints span 1 directions, expected at least 2; keep more checkpoints"):
        principal_directions(points, points[-1])
    with pytest.raises(ValueError, match="linearly dependent"):
        project_path(points, [1, 2], points[0], [points[0], 2 * points[0]])
    with pytest.raises(ValueError, match="not finite"):
        principal_directions([torch.full((3,), torch.nan), torch.zeros(3)], torch.zeros(3))
