"""Curvature in relative changes: against dense matrices, average sharpness, and rescaled networks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import landscape


def network() -> tuple[nn.Sequential, Tensor, Tensor]:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    return model, torch.randn(30, 4, dtype=torch.float64), torch.arange(30) % 3


def objective_of(model: nn.Module, x: Tensor, y: Tensor) -> landscape.Objective:
    views = [landscape.View("some", indices=torch.arange(20)), landscape.View("all")]
    return landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=8, views=views)


def dense(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """D H D by plain double backward, column by column."""
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradient])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in flat]
    scale = torch.cat([p.detach().flatten() for p in parameters]).abs()
    return scale[:, None] * torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]) * scale


@pytest.mark.parametrize(("view", "count"), [("some", 20), ("all", 30)])
def test_trace_and_eigenvalues_are_those_of_the_dense_matrix(view: str, count: int) -> None:
    model, x, y = network()
    matrix = dense(model, x[:count], y[:count])
    objective = objective_of(model, x, y).view(view)
    found = landscape.adaptive_trace(objective, num_matvecs=objective.num_parameters)
    assert found.value == pytest.approx(float(matrix.trace()), rel=1e-9)
    assert found.stderr == 0
    top = landscape.adaptive_top(objective, 3, tol=1e-8)
    np.testing.assert_allclose(top.values, torch.linalg.eigvalsh(matrix).flip(0)[:3], rtol=1e-8)


def test_an_estimate_of_the_trace_lies_within_its_error() -> None:
    model, x, y = network()
    objective = objective_of(model, x, y).view("all")
    found = landscape.adaptive_trace(objective, num_matvecs=30, seed=3)
    assert 0 < found.stderr < abs(found.value)
    assert abs(found.value - float(dense(model, x, y).trace())) < 4 * found.stderr
    assert found.checks == "full"


def test_average_adaptive_sharpness_tends_to_it() -> None:
    model, x, y = network()
    objective = objective_of(model, x, y).view("all")
    sigma = 1e-3
    found = landscape.average_sharpness(objective, sigma=sigma, num_samples=1000, adaptive=True)
    expected = float(landscape.adaptive_trace(objective, num_matvecs=objective.num_parameters).value)
    value, error = (2 / sigma**2 * float(np.squeeze(part)) for part in (found.value, found.stderr))
    assert abs(value - expected) < 5 * error


def test_moving_a_layers_scale_into_the_next_changes_neither() -> None:
    model, x, y = network()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved[0].weight.mul_(7.0)
        moved[0].bias.mul_(7.0)
        moved[2].weight.div_(7.0)
    torch.testing.assert_close(moved(x), model(x))
    first, second = (objective_of(m, x, y).view("all") for m in (model, moved))
    count = first.num_parameters
    traces = [landscape.adaptive_trace(o, num_matvecs=count).value for o in (first, second)]
    assert traces[0] == pytest.approx(traces[1], rel=1e-9)
    tops = [landscape.adaptive_top(o, tol=1e-9).values[0] for o in (first, second)]
    assert tops[0] == pytest.approx(tops[1], rel=1e-8)
    raw = [landscape.trace(landscape.HessianOperator(o), num_matvecs=count).value for o in (first, second)]
    assert raw[0] != pytest.approx(raw[1], rel=0.1)
