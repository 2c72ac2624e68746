"""The wrappers of docs/input-space.md: derivatives by inputs and activations are those of autograd."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import landscape

PAGE = Path(__file__).parents[3] / "docs" / "input-space.md"


@pytest.fixture
def wrappers() -> dict[str, Any]:
    """The classes that the page shows, from its own text."""
    namespace: dict[str, Any] = {"torch": torch}
    for source in re.findall(r"^class .*?(?=^\S|^```)", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        exec(source, namespace)
    return namespace


def network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)).double()
    return model, torch.randn(7, 1, 4, 4, dtype=torch.float64), torch.arange(7) % 4


def test_a_surface_over_inputs_is_that_of_the_moved_inputs(wrappers: dict[str, Any]) -> None:
    model, x, y = network()
    whole = landscape.Objective(
        wrappers["Shifted"](model, (1, 4, 4)).double(), nn.CrossEntropyLoss(), (x, y), batch_size=3
    )
    objective = whole.restricted("shift")
    moved = x.clone().requires_grad_()
    functional.cross_entropy(model(moved), y).backward()
    gradient = moved.grad.sum(0).reshape(-1)
    torch.testing.assert_close(objective.gradient(), gradient, rtol=1e-10, atol=1e-14)
    adversarial = landscape.gradient_direction(objective)
    assert abs(functional.cosine_similarity(adversarial, gradient, dim=0)) == pytest.approx(1)
    random = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    surface = landscape.plane(objective, adversarial, random, [-0.5, 0.0, 1.0], [-1.0, 0.0, 0.5])
    with torch.no_grad():
        for i, a in enumerate(surface.alphas):
            for j, b in enumerate(surface.betas):
                step = (a * adversarial + b * random).view(1, 4, 4)
                assert surface.loss[0, i, j] == pytest.approx(functional.cross_entropy(model(x + step), y).item())
    assert landscape.sam_sharpness(objective, rho=0.3, steps=5).value > 0


def test_the_hessian_by_an_activation_is_that_of_autograd_and_the_model_keeps_no_hook(wrappers: dict[str, Any]) -> None:
    model, x, y = network()
    probed = wrappers["Probed"](model, "1", (3, 2, 2)).double()
    objective = landscape.Objective(probed, nn.CrossEntropyLoss(), (x, y), batch_size=3).restricted("shift")
    H = objective.hessian() @ torch.eye(12, dtype=torch.float64)

    def loss(shift: Tensor) -> Tensor:
        return functional.cross_entropy(model[2:](model[:2](x) + shift.view(3, 2, 2)), y)

    expected = torch.autograd.functional.hessian(loss, torch.zeros(12, dtype=torch.float64))
    torch.testing.assert_close(H, expected, rtol=1e-10, atol=1e-13)
    vectors = torch.linalg.eigh(expected).eigenvectors[:, -2:]
    found = landscape.sample_curvature(objective, vectors)
    np.testing.assert_allclose(found.total, torch.linalg.eigvalsh(expected)[-2:], rtol=1e-9)
    assert not model[1]._forward_hooks
