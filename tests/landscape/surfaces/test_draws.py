"""Several random draws in one record: each is the line or plane of its seed, and a seed is one draw for every model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import landscape
from landscape.surfaces.draws import drawn_directions, line_draws, plane_draws
from landscape.surfaces.scan import MemoryRows, row_fields
from tests.reference import TinyCNN

GRID = [-1.0, 0.0, 0.5]


def objective() -> landscape.Objective:
    x, y = torch.randn(10, 1, 5, 5), torch.arange(10) % 3
    views = [landscape.View("a"), landscape.View("none", indices=y[:0])]
    return landscape.Objective(TinyCNN().eval(), nn.CrossEntropyLoss(), (x, y), views=views)


def test_every_draw_is_the_line_and_the_plane_of_its_seed() -> None:
    obj = objective()
    lines, planes = line_draws(obj, GRID, draws=3, seed=4), plane_draws(obj, GRID, [0.0, 1.0], draws=2, seed=4)
    assert lines.draws.tolist() == [4, 5, 6]
    for i, seed in enumerate(lines.draws):
        direction = landscape.filter_normalized_direction(obj.model, seed=2 * seed)
        np.testing.assert_array_equal(lines.loss[i], landscape.line(obj, direction, GRID).loss)
    d1, d2 = drawn_directions(obj, 5, 2)
    one = landscape.plane(obj, d1, d2, GRID, [0.0, 1.0])
    np.testing.assert_array_equal(planes.loss[1], one.loss)
    np.testing.assert_array_equal(planes.accuracy[1], one.accuracy)
    assert planes.cosines[1] == pytest.approx(one.cosine)
    np.testing.assert_array_equal(planes.loss[:, 0, :, 0], lines.loss[:2, 0])  # β = 0 is the line
    assert (planes.status[:, 1] == landscape.Status.EMPTY).all()
    assert lines.hashes.shape == (3, 1)
    assert len(set(planes.hashes.ravel())) == 4


def test_quantiles_over_draws_and_storage(tmp_path: Path) -> None:
    lines = line_draws(objective(), GRID, draws=5)
    np.testing.assert_array_equal(lines.quantiles("a", 0.5), np.median(lines.loss[:, 0], axis=0))
    lines.save(tmp_path / "draws.h5")
    again = landscape.load(tmp_path / "draws.h5")
    np.testing.assert_array_equal(again.loss, lines.loss)
    assert again.hashes.tolist() == lines.hashes.tolist()


def test_points_that_are_there_are_not_measured_again() -> None:
    obj = objective()
    rows = MemoryRows.pending_all(6, row_fields(obj))
    rows.write(4, loss=[-7.0, np.nan], accuracy=[0.5, np.nan])
    assert line_draws(obj, GRID, draws=2, rows=rows).loss[1, 0, 1] == -7.0


def test_rows_of_another_scan_are_refused() -> None:
    obj = objective()
    for rows in (
        MemoryRows.pending_all(7, row_fields(obj)),
        MemoryRows.pending_all(3, {"loss": (1,), "accuracy": (1,)}),
    ):
        for scan in (
            lambda rows: line_draws(obj, GRID, draws=1, rows=rows),
            lambda rows: landscape.line(obj, obj.weights, GRID, rows=rows),
            lambda rows: landscape.connect(obj, obj.at(-obj.weights), [0.0, 0.5, 1.0], rows=rows),
        ):
            with pytest.raises(ValueError, match="give those of this scan"):
                scan(rows)


def test_draws_within_a_restricted_objective_move_its_parameters_alone() -> None:
    obj = objective()
    part = obj.restricted("6")
    (d,) = drawn_directions(part, 1, 1)
    whole = landscape.filter_normalized_direction(obj.model, seed=2, layers="6")
    torch.testing.assert_close(d, part.extract(whole), rtol=0, atol=0)
    np.testing.assert_allclose(
        line_draws(part, GRID, draws=1, seed=1).loss[0], landscape.line(obj, whole, GRID).loss, rtol=1e-6
    )


def test_draws_at_another_point_have_the_norms_of_its_filters() -> None:
    obj = objective()
    moved = obj.at(3 * obj.weights)
    lines = line_draws(moved, [-1.0, 0.0, 1.0], draws=2, seed=1)
    np.testing.assert_allclose(lines.direction_norms, 3 * line_draws(obj, GRID, draws=2, seed=1).direction_norms)
    np.testing.assert_array_equal(lines.loss[1], moved.line(points=3, seed=2).loss)


def test_no_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="draws is 0, expected at least 1"):
        line_draws(objective(), GRID, draws=0)
