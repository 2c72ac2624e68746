"""A point that is moved in place: the same numbers as the sum, from wherever it comes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from landscape.objective.evaluation.packed_point import PackedPoint
from landscape.objective.parameters import ParameterLayout


@pytest.mark.parametrize("axes", [0, 1, 2, 3])
def test_every_point_is_the_sum_whatever_came_before(axes: int) -> None:
    layout = ParameterLayout(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(5, 4)))
    centre, *directions = torch.randn(1 + axes, layout.size)
    point = PackedPoint(layout, centre, directions, torch.contiguous_format)
    values = [0.0, 1.0, -0.3]
    grid = torch.tensor(list(itertools.product(values, repeat=axes)))
    for coordinates in (*grid, *grid[torch.randperm(len(grid))], *grid.flip(0)):
        point.move(coordinates.tolist())
        expected = centre
        for c, direction in zip(coordinates.tolist(), directions, strict=True):
            expected = torch.add(expected, direction, alpha=c)
        assert torch.equal(layout.flatten(point.parameters), expected)
    with pytest.raises(ValueError, match=f"expected one for each of {axes} directions"):
        point.move([0.0] * (axes + 1))
