"""Hessian and Gauss–Newton products against dense float64 references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import landscape
from tests.reference import CASES, Case, dense_hessian


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("batch_size", [3, 64])
def test_products_equal_the_dense_hessian(case: Case, batch_size: int) -> None:
    model, loss_fn, x, y = case.make()
    H = landscape.HessianOperator(landscape.Objective(model, loss_fn, (x, y), batch_size=batch_size))
    dense = dense_hessian(model, loss_fn, x, y)
    V = torch.randn(H.shape[0], 3, dtype=torch.float64)
    scale = dense.abs().max()
    torch.testing.assert_close(H @ V, dense @ V, rtol=1e-8, atol=1e-8 * float(scale))
    torch.testing.assert_close(H @ V[:, 0], (H @ V)[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_float32_products_agree_within_rounding(case: Case) -> None:
    model, loss_fn, x, y = case.make(torch.float32)
    H = landscape.HessianOperator(landscape.Objective(model, loss_fn, (x, y)))
    model64, _, x64, y64 = case.make()
    dense = dense_hessian(model64, loss_fn, x64, y64)
    v = torch.randn(H.shape[0], dtype=torch.float64)
    error = (H @ v - dense @ v).norm() / (dense @ v).norm()
    assert error < torch.finfo(torch.float32).eps ** 0.5


def test_a_model_linear_in_its_parameters_has_zero_hessian() -> None:
    obj = landscape.Objective(nn.Linear(3, 1), lambda o, y: o.mean(), (torch.randn(5, 3), torch.zeros(5)))
    H = landscape.HessianOperator(obj)
    assert torch.equal(H @ torch.ones(4), torch.zeros(4))


def dense_ggn(case: Case) -> torch.Tensor:
    """Mean over samples of Jᵀ(∇²ℓ)J from dense Jacobians and loss Hessians, weighted as the loss weights them."""
    model, loss_fn, x, y = case.make()
    model.eval()
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    w = [p.detach() for p in model.parameters() if p.requires_grad]

    def outputs(*parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

    z = outputs(*w)
    blocks = torch.autograd.functional.jacobian(outputs, tuple(w))
    J = torch.cat([b.reshape(z.numel(), -1) for b in blocks], dim=1)
    curvature = torch.autograd.functional.hessian(lambda o: loss_fn(o, y), z).reshape(z.numel(), z.numel())
    return J.T @ curvature @ J


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("batch_size", [3, 64])
def test_gauss_newton_products_equal_the_dense_matrix(case: Case, batch_size: int) -> None:
    model, loss_fn, x, y = case.make()
    G = landscape.GGNOperator(landscape.Objective(model, loss_fn, (x, y), batch_size=batch_size))
    dense = dense_ggn(case)
    V = torch.randn(G.shape[0], 3, dtype=torch.float64)
    torch.testing.assert_close(G @ V, dense @ V, rtol=1e-8, atol=1e-8 * float(dense.abs().max()))
    torch.testing.assert_close(G @ V, dense @ V, rtol=1e-8, atol=1e-8 * float(dense.abs().max()))  # from the kept graph
    assert landscape.top_eigenpairs(G, 1, which="SA", search_missed=True).values[0] > -1e-8 * float(dense.abs().max())


def test_gauss_newton_of_dict_outputs_and_of_a_constant_loss() -> None:
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(6, 3).double(), torch.arange(6) % 2
    plain = landscape.GGNOperator(landscape.Objective(model, nn.CrossEntropyLoss(), (x, y)))
    mapped = landscape.Objective(
        model,
        lambda out, labels: nn.functional.cross_entropy(out["logits"], labels),
        {"x": x, "labels": y},
        forward=lambda m, b: {"logits": m(b["x"]), "unused": b["x"]},
    )
    v = torch.randn(8, dtype=torch.float64)
    torch.testing.assert_close(landscape.GGNOperator(mapped) @ v, plain @ v)
    linear = landscape.Objective(model, lambda o, _: o.mean(), (x, y))
    assert not (landscape.GGNOperator(linear) @ v).any()


def test_operator_refuses_wrong_shapes_and_several_views() -> None:
    data = torch.randn(5, 3), torch.randn(5, 1)
    obj = landscape.Objective(nn.Linear(3, 1), nn.MSELoss(), data)
    with pytest.raises(ValueError, match=r"operand has shape \(3,\), expected \(4,\)"):
        landscape.HessianOperator(obj) @ torch.ones(3)
    two = landscape.Objective(nn.Linear(3, 1), nn.MSELoss(), data, views=[landscape.View("a"), landscape.View("b")])
    with pytest.raises(ValueError, match="several views"):
        landscape.HessianOperator(two)
    with pytest.raises(ValueError, match="expected a square one"):
        landscape.trace(torch.ones(3, 4))


@pytest.mark.parametrize("options", [{}, {"memory_budget": 0}, {"strategy": "lean"}], ids=str)
def test_an_operator_stays_at_weights_and_buffers_of_its_time(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    obj = landscape.Objective(model, nn.CrossEntropyLoss(), (torch.randn(9, 4).double(), torch.arange(9) % 3))
    H, v = landscape.HessianOperator(obj, **options), torch.ones(obj.num_parameters, dtype=torch.float64)
    before = H @ v
    with torch.no_grad():
        model[0].weight.mul_(2)
        model[1].running_mean.add_(1)
    assert torch.equal(H @ v, before)
    assert not torch.allclose(landscape.HessianOperator(obj, **options) @ v, before)


@pytest.mark.parametrize("strategy", ["split", "auto"])
def test_arrays_beside_tensors_belong_to_their_micro_batch(strategy: str) -> None:
    """Long arrays look alike where they are printed; a traced product must not be used again for another one."""
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.standard_normal((40, 4))), torch.arange(40) % 3
    factors = np.zeros((40, 300))
    factors[:, 100] = 1 + np.arange(40) % 7
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    def forward(model: nn.Module, batch: dict[str, object]) -> torch.Tensor:
        return model(batch["x"]) * torch.from_numpy(batch["factors"][:, 100])[:, None]  # type: ignore[index]

    data = {"x": x, "factors": factors, "labels": y}
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), data, forward=forward, batch_size=8)
    H = landscape.HessianOperator(objective, strategy=strategy)
    H.expect(10**9)
    eye = torch.eye(objective.num_parameters, dtype=torch.float64)
    expected = landscape.HessianOperator(objective, strategy="double_backward") @ eye
    torch.testing.assert_close(H @ eye, expected, rtol=1e-9, atol=1e-11)
    assert H.strategy.name == "split"


@pytest.mark.parametrize("scaled", [False, True])
def test_vectors_of_whole_numbers_have_products_in_floating_point(scaled: bool) -> None:
    torch.manual_seed(0)
    objective = landscape.Objective(nn.Linear(4, 3), nn.CrossEntropyLoss(), (torch.randn(40, 4), torch.arange(40) % 3))
    H = landscape.HessianOperator(objective)
    size = objective.num_parameters
    operator = landscape.ScaledOperator(H, torch.ones(size)) if scaled else H
    columns = H @ torch.eye(size)
    one = nn.functional.one_hot(torch.tensor(5), size)
    torch.testing.assert_close((operator @ one).float(), columns[:, 5])
    torch.testing.assert_close((operator @ (one > 0)).float(), columns[:, 5])
    np.testing.assert_allclose(operator @ np.eye(size, dtype=int), columns.numpy(), rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="operand is complex"):
        operator @ torch.ones(size, dtype=torch.complex64)


def test_an_analysis_takes_a_matrix_of_whole_numbers() -> None:
    assert landscape.trace(torch.diag(torch.tensor([1, 2, 3])), 30).value == pytest.approx(6)
