"""What an objective must be: other people's models and data give the right number or one line that says why not.

One test for each kind of assumption; right values are computed without this package.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

import landscape
from landscape.objective.checks import NotDeterministicError
from landscape.objective.differences import DerivativeError


def hessian_by_differences(model: nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    """∇²L as central differences of gradients in float64, (K, K)."""
    parameters = list(model.parameters())
    point, step = parameters_to_vector(parameters).detach(), 1e-5

    def gradient(at: Tensor) -> Tensor:
        vector_to_parameters(at.clone(), parameters)
        grads = torch.autograd.grad(loss(), parameters, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in grads])

    rows = [
        (gradient(point + step * e) - gradient(point - step * e)) / (2 * step) for e in torch.eye(len(point)).double()
    ]
    vector_to_parameters(point, parameters)
    return torch.stack(rows)


class Square(torch.autograd.Function):
    """As operators with kernels of their own are often written: their backward pass is hidden from autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * gradient * x


class HalfSlope(torch.autograd.Function):
    """A backward pass that is not the derivative of the forward pass, though it can be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 0.5 * gradient * (1 - x.tanh() ** 2)


class Through(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(3, 4), nn.Linear(4, 2), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def classes(n: int = 20, inputs: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(n, inputs, dtype=torch.float64), torch.randint(2, (n,))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# A. Derivatives.


@pytest.mark.parametrize("how", ["parametrisation", "hook", "all axes"])
@pytest.mark.parametrize("strategy", ["double_backward", "split", "lean"])
def test_weight_norm_has_right_second_derivatives(how: str, strategy: str) -> None:
    normed = nn.Linear(3, 4)
    if how == "hook":
        with pytest.warns(FutureWarning):
            normed = nn.utils.weight_norm(normed)
    else:
        normed = nn.utils.parametrizations.weight_norm(normed, dim=None if how == "all axes" else 0)
    model, (x, y) = nn.Sequential(normed, nn.Tanh(), nn.Linear(4, 2)).double(), classes()
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=8)
    operator = landscape.HessianOperator(objective, strategy=strategy)
    right = hessian_by_differences(model, lambda: F.cross_entropy(model(x), y))
    got = operator @ torch.eye(objective.num_parameters, dtype=torch.float64)
    torch.testing.assert_close(got, right, rtol=1e-6, atol=1e-7)
    assert operator.probe.difference < 1e-6


@pytest.mark.parametrize("strategy", ["auto", "double_backward", "split", "lean"])
def test_second_derivatives_that_are_not_the_gradients_are_refused_by_name(strategy: str) -> None:
    objective = landscape.Objective(Through(Square.apply).double(), nn.CrossEntropyLoss(), classes(50))
    with pytest.raises(DerivativeError, match=r"because of Square .* strategy='finite_difference'"):
        landscape.HessianOperator(objective, strategy=strategy) @ torch.ones(objective.num_parameters)


@pytest.mark.parametrize("operator", [landscape.GGNOperator, landscape.EmpiricalFisherOperator])
@pytest.mark.parametrize("strategy", ["auto", "double_backward", "lean"])
def test_products_of_first_derivatives_are_refused_where_jacobians_cannot_be_derived(
    operator: Any, strategy: str
) -> None:
    objective = landscape.Objective(Through(Square.apply).double(), nn.CrossEntropyLoss(), classes(), batch_size=8)
    with pytest.raises(DerivativeError, match=r"are not right .* because of Square"):
        operator(objective, strategy=strategy) @ objective.weights


@pytest.mark.parametrize("operator", [landscape.GGNOperator, landscape.EmpiricalFisherOperator])
def test_a_backward_pass_that_has_no_derivative_at_zero_serves_products_of_first_derivatives(operator: Any) -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).logcumsumexp(1))

    model, (x, y) = Sums().double(), classes()
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=8)
    got = operator(objective) @ torch.eye(objective.num_parameters, dtype=torch.float64)
    parameters = list(model.parameters())
    right = torch.zeros_like(got)
    for row, label in zip(x, y, strict=True):
        outputs = model(row[None])[0]
        rows = [torch.autograd.grad(o, parameters, retain_graph=True) for o in outputs]
        jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        p = outputs.detach().softmax(0)
        slope = (p - F.one_hot(label, 2)) @ jacobian
        ggn = jacobian.T @ (p.diag() - torch.outer(p, p)) @ jacobian
        right += (ggn if operator is landscape.GGNOperator else torch.outer(slope, slope)) / len(x)
    torch.testing.assert_close(got, right, rtol=1e-8, atol=1e-12)


def test_finite_differences_serve_where_nothing_else_does() -> None:
    model, data = Through(Square.apply).double(), classes(50)
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), data, batch_size=16)
    operator = landscape.HessianOperator(objective, strategy="finite_difference")
    right = hessian_by_differences(model, lambda: F.cross_entropy(model(data[0]), data[1]))
    top = landscape.top_eigenpairs(operator, 2, tol=1e-3).values
    np.testing.assert_allclose(top, torch.linalg.eigvalsh(right).flip(0)[:2], rtol=1e-3)
    with pytest.raises(ValueError, match="Hessian alone"):
        landscape.GGNOperator(objective, strategy="finite_difference")


@pytest.mark.parametrize("inner", [torch.float64, torch.float32])
def test_finite_differences_take_the_step_of_the_precision_that_the_loss_has(inner: torch.dtype) -> None:
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double(), classes(50)

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:  # a float64 number of a float32 computation
        return F.cross_entropy(outputs.to(inner), labels).double()

    right = hessian_by_differences(model, lambda: F.cross_entropy(model(x), y))
    H = landscape.HessianOperator(landscape.Objective(model, loss, (x, y), batch_size=16), strategy="finite_difference")
    rounding = torch.finfo(inner).eps ** (2 / 3)  # of central differences at their best step
    v = torch.randn(H.shape[0], dtype=torch.float64)
    torch.testing.assert_close(H @ v, right @ v, rtol=0, atol=20 * rounding * float((right @ v).norm()))
    assert H.probe.deviation < 0.01


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_finite_differences_across_kinks_are_refused(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).to(dtype)
    x, y = classes(50)
    H = landscape.HessianOperator(
        landscape.Objective(model, nn.CrossEntropyLoss(), (x.to(dtype), y)), strategy="finite_difference"
    )
    v = torch.ones(H.shape[0], dtype=dtype)
    if dtype == torch.float64:  # whose steps are small enough to cross none
        assert (H @ v).any()
        return
    with pytest.raises(DerivativeError, match=r"with two steps differ by .*astype\(torch.float64\)"):
        H @ v


def test_finite_differences_of_a_linear_loss_are_zero_to_rounding() -> None:
    model, (x, _) = nn.Linear(3, 1), classes(50)
    objective = landscape.Objective(model, lambda o, y: o.mean(), (x.float(), torch.zeros(50)))
    H = landscape.HessianOperator(objective, strategy="finite_difference")
    assert float((H @ torch.ones(4)).abs().max()) < torch.finfo(torch.float32).eps ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_gradient_that_is_not_the_slope_of_the_loss_is_refused(dtype: torch.dtype) -> None:
    x, y = classes()
    objective = landscape.Objective(Through(HalfSlope.apply).to(dtype), nn.CrossEntropyLoss(), (x, y))
    with pytest.raises(DerivativeError, match=r"not the slope of the loss .* in first\.weight, first\.bias"):
        objective.gradient()


def test_embeddings_whose_gradient_leaves_out_a_row_are_refused_and_pass_without_it() -> None:
    def objective(padding: int | None) -> landscape.Objective:
        model = nn.Sequential(nn.Embedding(5, 4, padding_idx=padding), nn.Flatten(), nn.Linear(8, 2)).double()
        with torch.no_grad():
            model[0].weight.copy_(torch.randn(5, 4))
        return landscape.Objective(
            model, nn.CrossEntropyLoss(), (torch.arange(20).reshape(10, 2) % 5, torch.arange(10) % 2)
        )

    with pytest.raises(DerivativeError, match=r"in 0\.weight; .*padding_idx=None leaves outputs"):
        objective(0).gradient()
    objective(None).gradient()


def test_a_model_of_several_precisions_is_given_inputs_as_they_are() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 3)
            self.phases = nn.Parameter(torch.randn(3, 3, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x).double()
            return (torch.complex(hidden, torch.zeros_like(hidden)) @ self.phases).abs()

    model, x, y = Mixed(), torch.randn(10, 4), torch.arange(10) % 3
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=4)
    expected = nn.functional.cross_entropy(model(x), y)
    assert objective.loss() == pytest.approx(expected.item(), rel=1e-6)
    expected.backward()
    slopes = objective.layout.unflatten(objective.gradient())
    torch.testing.assert_close(slopes["first.weight"], model.first.weight.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(slopes["phases"], model.phases.grad, rtol=1e-5, atol=1e-7)


def test_derivatives_are_checked_on_samples_that_the_loss_counts() -> None:
    labels = torch.full((40,), -100)
    labels[7] = 1
    x, _ = classes(40)
    model = nn.Linear(3, 2).double()
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, labels), batch_size=8)
    expected = torch.autograd.grad(F.cross_entropy(model(x[7:8]), labels[7:8]), list(model.parameters()))
    torch.testing.assert_close(objective.gradient(), torch.cat([g.flatten() for g in expected]))
    wrong = landscape.Objective(Through(HalfSlope.apply).double(), nn.CrossEntropyLoss(), (x, labels), batch_size=8)
    with pytest.raises(DerivativeError):
        wrong.gradient()


def test_a_padding_row_that_only_late_samples_hold_is_noticed() -> None:
    words = torch.randint(1, 9, (40, 3))
    words[35, 1] = 0

    def objective(masked: bool) -> landscape.Objective:
        class Words(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.table, self.head = nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 2)

            def forward(self, words: Tensor) -> Tensor:
                kept = (words != 0)[..., None] if masked else 1
                return self.head((self.table(words) * kept).sum(1))

        return landscape.Objective(
            Words().double(), nn.CrossEntropyLoss(), (words, torch.arange(40) % 2), batch_size=10
        )

    objective(masked=True).gradient()
    with pytest.raises(DerivativeError, match=r"in table\.weight; .*padding_idx=None"):
        objective(masked=False).gradient()


def test_an_embedding_that_divides_its_gradient_by_counts_is_refused_though_the_first_samples_hold_each_word_once() -> (
    None
):
    model = nn.Sequential(nn.Embedding(40, 4, scale_grad_by_freq=True), nn.Linear(4, 2))
    words = torch.cat([torch.arange(36), torch.zeros(4, dtype=torch.long)])
    with pytest.raises(DerivativeError, match="scale_grad_by_freq=True divides"):
        landscape.Objective(model, nn.CrossEntropyLoss(), (words, torch.arange(40) % 2)).gradient()


def test_a_gradient_below_the_rounding_of_the_loss_is_no_fault() -> None:
    model = nn.Linear(3, 2, bias=False).double()
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 2

    def tiny(outputs: Tensor, labels: Tensor) -> Tensor:
        return 1 + 1e-20 * nn.functional.cross_entropy(outputs, labels)

    assert 0 < landscape.Objective(model, tiny, (x, y)).gradient().norm() < 1e-19


def test_a_wrong_gradient_a_million_times_smaller_than_the_loss_is_noticed() -> None:
    def offset(outputs: Tensor, labels: Tensor) -> Tensor:
        return 1 + 1e-6 * nn.functional.cross_entropy(outputs, labels)

    x, y = classes()
    with pytest.raises(DerivativeError, match="not the slope of the loss"):
        landscape.Objective(Through(HalfSlope.apply).double(), offset, (x.double(), y)).gradient()


@pytest.mark.parametrize(
    ("strategy", "checks"), [("auto", "full"), ("split", "full"), ("lean", "full"), ("auto", "off")]
)
def test_a_product_that_is_not_finite_is_refused(strategy: str, checks: Any) -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x).logcumsumexp(-1))

    labels = torch.full((40,), 1)
    labels[30:] = -100  # torch's second derivative takes the logarithm of their cotangents, which are 0
    x = torch.randn(40, 4)
    objective = landscape.Objective(Sums(), nn.CrossEntropyLoss(), (x, labels), batch_size=8, checks=checks)
    with pytest.raises(DerivativeError, match=r"not finite, .* strategy='finite_difference'"):
        landscape.HessianOperator(objective, strategy=strategy) @ torch.randn(objective.num_parameters)
    by_differences = landscape.HessianOperator(objective, strategy="finite_difference")
    assert torch.isfinite(by_differences @ torch.randn(objective.num_parameters)).all()


@pytest.mark.parametrize("kind", [landscape.HessianOperator, landscape.GGNOperator])
def test_a_padding_row_is_noticed_by_products_too(kind: type[landscape.HessianOperator]) -> None:
    model = nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Tanh(), nn.Linear(16, 2)).double()
    nn.init.normal_(model[0].weight)
    x, y = torch.arange(160).reshape(40, 4) % 6 + 1, torch.arange(40) % 2
    x[17, 3:] = 0
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=7)
    with pytest.raises(DerivativeError, match=r"not the slope of the loss .* in 0.weight; .*padding_idx=None"):
        kind(objective) @ objective.weights


@pytest.mark.parametrize("strategy", ["auto", "lean", "split"])
def test_a_buffer_that_appears_in_the_first_forward_pass_is_no_loss(strategy: str) -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "scale"):
                self.register_buffer("scale", torch.full((4,), 0.5, dtype=x.dtype))
            return self.last(torch.tanh(self.first(x)) * self.scale)

    model, (x, y) = Late().double(), classes()
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=8)
    got = landscape.HessianOperator(objective, strategy=strategy) @ torch.eye(26, dtype=torch.float64)
    assert not hasattr(model, "scale")
    right = hessian_by_differences(model, lambda: F.cross_entropy(model(x), y))
    torch.testing.assert_close(got, right, rtol=1e-6, atol=1e-7)


def test_sparse_gradients_are_gradients() -> None:
    sparse, dense = (nn.Sequential(nn.Embedding(5, 4, sparse=s), nn.Flatten(), nn.Linear(8, 2)) for s in (True, False))
    dense.load_state_dict(sparse.state_dict())
    data = torch.arange(20).reshape(10, 2) % 5, torch.arange(10) % 2
    got, right = (landscape.Objective(m, nn.CrossEntropyLoss(), data).gradient() for m in (sparse, dense))
    torch.testing.assert_close(got, right)


@pytest.mark.parametrize("strategy", ["double_backward", "split", "lean"])
@pytest.mark.parametrize("kind", [landscape.HessianOperator, landscape.GGNOperator, landscape.EmpiricalFisherOperator])
def test_sparse_gradients_have_products(kind: Any, strategy: str) -> None:
    x, y = torch.randint(5, (20, 3)), torch.arange(20) % 2
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Tanh(), nn.Linear(9, 2)).double()
    dense = copy.deepcopy(model)
    dense[0].sparse = False
    objectives = [landscape.Objective(m, nn.CrossEntropyLoss(), (x, y), batch_size=7) for m in (model, dense)]
    v = torch.randn(objectives[0].num_parameters, dtype=torch.float64)
    found, right = kind(objectives[0], strategy=strategy) @ v, kind(objectives[1], strategy="double_backward") @ v
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-12)


def test_a_network_of_kinks_is_not_taken_for_wrong() -> None:
    layers = [nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)]
    for layer in layers[::2]:
        nn.init.zeros_(layer.bias)
    x, y = torch.zeros(40, 3), torch.randint(2, (40,))  # every unit lies on its kink
    x[::2] = torch.randn(20, 3)
    objective = landscape.Objective(nn.Sequential(*layers), nn.CrossEntropyLoss(), (x, y))
    objective.gradient()
    assert landscape.HessianOperator(objective).probe.difference < 1e-3


# B. One function for loss and gradient.


class Force(nn.Module):
    """Outputs that are derivatives by the inputs, as those of force fields."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "functional":
            energy = lambda r: self.net(r).sum()  # noqa: E731
            return torch.autograd.functional.jacobian(energy, x, create_graph=torch.is_grad_enabled())
        if self.how == "func":
            return torch.func.vmap(torch.func.grad(lambda r: self.net(r)[0]))(x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]


@pytest.mark.parametrize("how", ["functional", "grad", "func"])
def test_models_that_differentiate_inside(how: str) -> None:
    model, x, y = Force(how).double(), torch.randn(20, 3).double(), torch.randn(20, 3).double()
    objective = landscape.Objective(model, nn.MSELoss(), (x, y), batch_size=8)
    right = F.mse_loss(model(x), y).item()
    assert objective.loss() == pytest.approx(right, rel=1e-12)
    assert landscape.line(objective, objective.gradient(), [0.0, -1.0]).loss[0, 0] == pytest.approx(right, rel=1e-12)
    assert landscape.sam_sharpness(objective, 0.5).value > 0
    expected = hessian_by_differences(model, lambda: F.mse_loss(model(x), y))
    got = landscape.HessianOperator(objective) @ torch.eye(objective.num_parameters, dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


# C. What is a mean.


class OneStep(nn.Module):
    """Classifies with weights that are a step of training on held samples away from its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        self.register_buffer("x", torch.randn(6, 3))
        self.register_buffer("y", torch.arange(6) % 2)

    def forward(self, x: Tensor) -> Tensor:
        own = dict(self.net.named_parameters())
        loss = F.cross_entropy(torch.func.functional_call(self.net, own, (self.x,)), self.y)
        slopes = torch.autograd.grad(loss, list(own.values()), create_graph=True)
        moved = {name: p - 0.1 * slope for (name, p), slope in zip(own.items(), slopes, strict=True)}
        return torch.func.functional_call(self.net, moved, (x,))


def test_models_that_differentiate_by_their_own_parameters() -> None:
    torch.manual_seed(0)
    model, (x, y) = OneStep().double(), classes()
    loss = F.cross_entropy(model(x), y)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=6)
    v = torch.randn(len(gradient), dtype=torch.float64)
    assert objective.loss() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(objective.gradient(), gradient)
    hessian = hessian_by_differences(model, lambda: F.cross_entropy(model(x), y))
    torch.testing.assert_close(landscape.HessianOperator(objective) @ v, hessian @ v, rtol=1e-6, atol=1e-8)
    vector_to_parameters(objective.weights + 0.1 * v, model.parameters())
    assert objective.loss() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)
    assert all(p.requires_grad for p in model.parameters())
    moved = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=6)
    line = landscape.line(moved.at(moved.weights - 0.1 * v), v, [0.1])
    assert line.loss.item() == pytest.approx(moved.loss(), rel=1e-10)


def test_class_weights_of_a_function_are_noticed_wherever_classes_lie() -> None:
    model, x = nn.Linear(3, 2), torch.randn(60, 3)
    y, weight = (torch.arange(60) >= 30).long(), torch.tensor([1.0, 9.0])  # sorted by class, as folders are
    loss = lambda o, t: F.cross_entropy(o, t, weight=weight)  # noqa: E731
    for size in (1, 15, 30):
        with pytest.raises(ValueError, match="not a mean over samples"):
            landscape.Objective(model, loss, (x, y), batch_size=size).loss()
    right = loss(model(x), y).item()
    weighted = landscape.Objective(
        model, loss, (x, y), batch_size=15, normalizer=lambda labels: float(weight[labels].sum())
    )
    assert weighted.loss() == pytest.approx(right, rel=1e-6)
    assert landscape.Objective(model, nn.CrossEntropyLoss(weight), (x, y), batch_size=15).loss() == pytest.approx(right)


@pytest.mark.parametrize("size", [15, 30, 60])
def test_ignored_labels_of_a_function_are_noticed_in_any_batch(size: int) -> None:
    model, x, y = nn.Linear(3, 2), torch.randn(60, 3), torch.randint(2, (60,))
    y[30:55] = -100
    with pytest.raises(ValueError, match=r"not a mean over samples|gives nan on micro-batch 2"):
        landscape.Objective(model, lambda o, t: F.cross_entropy(o, t), (x, y), batch_size=size).loss()
    counted = landscape.Objective(
        model,
        lambda o, t: F.cross_entropy(o, t),
        (x, y),
        batch_size=size,
        normalizer=lambda t: float((t != -100).sum()),
    )
    assert counted.loss() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-6)


def test_a_normalizer_that_is_a_little_wrong_is_refused_even_where_all_losses_are_alike() -> None:
    class Words(nn.Module):
        """A language model that was just made: every token's loss is nearly the same."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 50)
            nn.init.normal_(self.head.weight, std=1e-3)
            nn.init.zeros_(self.head.bias)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids))

    def shifted(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    ids = torch.randint(50, (12, 9))
    labels = ids.clone()
    for row in range(12):
        labels[row, 2 + row % 7 :] = -100
    right = lambda t: float((t[:, 1:] != -100).sum())  # noqa: E731
    wrong = lambda t: float((t != -100).sum())  # noqa: E731
    model = Words()
    objective = landscape.Objective(model, shifted, (ids, labels), batch_size=4, normalizer=right)
    assert objective.loss() == pytest.approx(shifted(model(ids), labels).item(), rel=1e-6)
    with pytest.raises(ValueError, match="weighted by the given normalizer"):
        landscape.Objective(model, shifted, (ids, labels), batch_size=4, normalizer=wrong).loss()


@dataclasses.dataclass(frozen=True)
class OneByOne:
    """Sentences of unequal lengths, each a batch of its own, and a loss that is the mean over the words it predicts."""

    inside: bool
    ignored: int = -100

    def data(self) -> list[dict[str, Tensor]]:
        torch.manual_seed(0)
        rows = [torch.randint(1, 9, (1, length)) for length in (3, 7, 4, 6, 9)]
        batches = [{"ids": row, "labels": row.clone()} for row in rows]
        batches[1]["labels"][0, 2] = self.ignored
        return batches

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        shifted = labels[:, 1:].flatten()
        return F.cross_entropy(outputs[:, :-1].flatten(0, 1), shifted, ignore_index=self.ignored)

    def counted(self, labels: Tensor) -> float:
        return float((labels[:, 1:] != self.ignored).sum())

    def objective(self, model: nn.Module, normalizer: Callable[[Any], float] | None) -> landscape.Objective:
        if not self.inside:
            return landscape.Objective(
                model, self.loss, self.data(), batch_size=1, forward=lambda m, b: m(b["ids"]), normalizer=normalizer
            )
        return landscape.Objective(
            model,
            lambda loss, labels: loss,
            self.data(),
            batch_size=1,
            forward=lambda m, b: self.loss(m(b["ids"]), b["labels"]),
            normalizer=normalizer,
        )


@pytest.mark.parametrize("case", [OneByOne(False), OneByOne(True), OneByOne(False, -1), OneByOne(True, 0)], ids=str)
def test_a_mean_over_words_is_noticed_where_every_sentence_is_a_batch_of_its_own(case: OneByOne) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9)).double()
    for wrong in (None, lambda labels: float((labels != case.ignored).sum()), lambda labels: float(labels.numel())):
        with pytest.raises(ValueError, match="loss_fn is not a mean over samples weighted by the"):
            case.objective(model, wrong).loss()
    total = sum(case.loss(model(b["ids"]), b["labels"]).item() * case.counted(b["labels"]) for b in case.data())
    right = total / sum(case.counted(b["labels"]) for b in case.data())
    assert case.objective(model, case.counted).loss() == pytest.approx(right, rel=1e-12)


class Longest(nn.Module):
    """Cannot be padded: what it says of a sequence depends on how long it is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(1, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(self.scale(x[..., None])[..., 0] + x.shape[1], y)


def test_a_mean_that_cannot_be_established_is_asked_for() -> None:
    torch.manual_seed(0)
    data = [(torch.randn(1, n), torch.randn(1, n)) for n in (3, 5, 4)]
    model = Longest()

    def objective(normalizer: Callable[[Any], float] | None) -> landscape.Objective:
        return landscape.Objective(
            model, lambda loss, _: loss, data, batch_size=1, forward=lambda m, batch: m(*batch), normalizer=normalizer
        )

    with pytest.raises(ValueError, match=r"comes one sample at a time, .* give normalizer="):
        objective(None).loss()
    right = sum(float(model(x, y).detach()) for x, y in data) / 3
    assert objective(lambda labels: float(len(labels))).loss() == pytest.approx(right, rel=1e-6)


def test_images_of_unequal_sizes_one_at_a_time_have_the_mean_over_samples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    data = [(torch.randn(1, 1, n, n + 1, dtype=torch.float64), torch.tensor([n % 3])) for n in (3, 5, 4, 7)]
    objective = landscape.Objective(model, lambda o, y: F.cross_entropy(o, y), data, batch_size=1)
    right = sum(float(F.cross_entropy(model(x), y).detach()) for x, y in data) / 4
    assert objective.loss() == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_loss_that_casts_is_not_refused(dtype: torch.dtype) -> None:
    model, (x, y) = nn.Linear(3, 2).to(dtype), classes(40)
    objective = landscape.Objective(model, lambda o, t: F.cross_entropy(o.float(), t), (x, y), batch_size=16)
    held = nn.Linear(3, 2)
    held.load_state_dict({n: t.float() for n, t in model.state_dict().items()})
    assert objective.loss() == pytest.approx(F.cross_entropy(held(x.float()), y).item(), rel=1e-5)


# D. What is a row.


class OfSequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, sequences: list[Tensor]) -> Tensor:
        return torch.stack([self.layer(s).cumsum(0)[-1] / 10 for s in sequences])


def test_lists_of_sequences_keep_their_lengths() -> None:
    samples = [(torch.randn(30 + i, 3), i % 2) for i in range(8)]
    collate = lambda b: ([s for s, _ in b], torch.tensor([t for _, t in b]))  # noqa: E731
    model, seen = OfSequences(), []

    def forward(called: nn.Module, batch: Any) -> Tensor:
        seen.extend(len(s) for s in batch[0])
        return called(batch[0])

    sequences, labels = collate(samples)
    for size in (8, 3):
        objective = landscape.Objective(
            model, nn.CrossEntropyLoss(), DataLoader(samples, 4, collate_fn=collate), batch_size=size, forward=forward
        )
        right = F.cross_entropy(model(sequences), labels).item()
        assert objective.loss() == pytest.approx(right, rel=1e-6)
    assert set(seen) == set(range(30, 38))


def test_what_all_samples_share_is_passed_through() -> None:
    shared, x, y = torch.randn(5, 3), torch.randn(8, 5), torch.randint(2, (8,))
    batches = [(x[i : i + 4], shared, torch.tensor(0.5), y[i : i + 4]) for i in (0, 4)]
    model = nn.Linear(3, 2)
    objective = landscape.Objective(
        model, nn.CrossEntropyLoss(), batches, batch_size=3, forward=lambda m, b: m(b[0] @ b[1]) * b[2]
    )
    assert objective.loss() == pytest.approx(F.cross_entropy(model(x @ shared) * 0.5, y).item(), rel=1e-6)
    assert objective.with_views([landscape.View("some", indices=torch.tensor([1, 6]))]).loss() > 0


def boxes(*numbers: int) -> list[dict[str, Tensor]]:
    """Targets of a detector: a mapping for each image."""
    return [{"boxes": torch.zeros(number, 4)} for number in numbers]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([(torch.zeros(4, 2), torch.zeros(3), torch.zeros(4))], r"entry \[1\] has shape \(3,\)"),
        ([{"x": torch.zeros(4, 2), "m": torch.rand(5), "y": torch.zeros(4)}] * 1, r"entry \['m'\] has shape \(5,\)"),
        (
            [(torch.eye(4), torch.zeros(4, 2), torch.arange(4.0) + i) for i in range(2)],
            r"entry \[0\] is as long as every batch and the same in all",
        ),
        ((torch.eye(4).to_sparse(), torch.zeros(4)), r"entry \[0\] is a sparse"),
        ((nn.utils.rnn.pack_sequence([torch.zeros(2, 1)] * 4), torch.zeros(4)), "PackedSequence, .* lengths"),
        ([(torch.zeros(2, 3), [torch.zeros(1), torch.zeros(2)])], "labels are a list with tensors of unequal lengths"),
        ((torch.zeros(2, 3), boxes(1, 2)), "labels are a list with tensors of unequal lengths"),
        ([(torch.zeros(2, 3), tuple(boxes(1, 2)))], "labels are a tuple with tensors of unequal lengths"),
        ([(object(), torch.zeros(4))], r"entry \[0\] is a object, whose rows"),
    ],
)
def test_entries_that_are_no_rows_are_named(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        landscape.Objective(nn.Linear(2, 1), nn.MSELoss(), data)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_labels_in_a_nested_tensor_are_refused(layout: torch.layout) -> None:
    labels = torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)], layout=layout)
    with pytest.raises(ValueError, match="nested tensor, whose rows cannot be picked; make it dense"):
        landscape.Objective(nn.Linear(2, 1), nn.MSELoss(), (torch.zeros(2, 2), labels))


def test_inputs_that_the_model_does_not_take_are_told_from_its_own_errors() -> None:
    x = torch.randn(8, 3)
    with pytest.raises(ValueError, match=r"all of its 3 entries but the last, the labels .* forward=lambda") as error:
        landscape.Objective(nn.Linear(3, 2), nn.MSELoss(), (x, x, torch.zeros(8, 2))).loss()
    assert "\n" not in str(error.value)

    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + None

    with pytest.raises(TypeError, match="unsupported operand"):
        landscape.Objective(Broken(3, 2), nn.MSELoss(), (x, torch.zeros(8, 2))).loss()


def test_pairs_and_mappings_of_labels_and_outputs_with_a_state() -> None:
    x, y, z = torch.randn(8, 5, 3), torch.randint(2, (8,)), torch.randn(8)
    model = nn.LSTM(3, 3, batch_first=True)

    def loss(outputs: Any, labels: Any) -> Tensor:
        last = outputs[0][:, -1]
        labels = labels if isinstance(labels, dict) else dict(zip("yz", labels, strict=True))
        return F.cross_entropy(last[:, :2], labels["y"]) + F.mse_loss(last[:, 2], labels["z"])

    right = loss(model(x), (y, z)).item()
    for labels in ((y, z), {"y": y, "z": z}):
        assert landscape.Objective(model, loss, (x, labels), batch_size=3).loss() == pytest.approx(right, rel=1e-6)
    loader = DataLoader([(x[i], (y[i], z[i])) for i in range(8)], 4)
    assert landscape.Objective(model, loss, loader).loss() == pytest.approx(right, rel=1e-6)


# E. Accuracy.


def test_the_accuracy_of_one_logit() -> None:
    x = torch.randn(100, 3)
    y, model = (x[:, 0] > 0).long(), nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[5.0, 0, 0]])), model.bias.fill_(2.0)
    loss = lambda o, t: F.binary_cross_entropy_with_logits(o[:, 0], t.float())  # noqa: E731
    right = ((model(x)[:, 0] > 0) == y).float().mean().item()
    assert landscape.Objective(model, loss, (x, y)).evaluate().metrics["accuracy"]["data"] == pytest.approx(right)
    wrong_way = lambda o, t: F.mse_loss(o[:, 0], t.float())  # noqa: E731
    assert landscape.Objective(model, wrong_way, (x, y)).evaluate().metrics == {}


@pytest.mark.parametrize("tokens", [5, 7])
@pytest.mark.parametrize("first", [False, True])
def test_the_accuracy_of_tokens(tokens: int, first: bool) -> None:
    model, ids = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 7)), torch.randint(7, (12, tokens))
    labels = ids.clone()
    labels[:, -1] = -100
    logits = model(ids)
    counted = labels >= 0
    right = (logits.argmax(-1) == labels)[counted].float().mean().item()
    if first:
        called, loss = nn.Sequential(model, _Transposed()), lambda o, t: F.cross_entropy(o, t)
    else:
        called, loss = model, lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten())
    objective = landscape.Objective(called, loss, (ids, labels), normalizer=lambda t: float((t >= 0).sum()))
    assert objective.evaluate().metrics["accuracy"]["data"] == pytest.approx(right)


class _Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def test_no_accuracy_where_labels_are_shifted_inside_the_loss() -> None:
    model, ids = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 7)), torch.randint(7, (12, 5))
    loss = lambda o, t: F.cross_entropy(o[:, :-1].flatten(0, 1), t[:, 1:].flatten())  # noqa: E731
    assert landscape.Objective(model, loss, (ids, ids)).evaluate().metrics == {}


# F. Dtypes.


class Sample(NamedTuple):
    x: Tensor
    y: Tensor


def test_batches_may_be_named_tuples() -> None:
    model, (x, y) = nn.Linear(3, 2).double(), classes()
    rows = [Sample(*row) for row in zip(x, y, strict=True)]
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), DataLoader(rows, 6), batch_size=6)
    assert objective.loss() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)


def test_outputs_in_a_list_as_long_as_the_batch_are_no_rows() -> None:
    model, (x, y) = nn.Linear(3, 2).double(), classes()

    def forward(called: nn.Module, batch: Any) -> Any:
        return [called(batch[0]), None, "beside", 3]

    def loss(outputs: Any, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs[0], labels)

    objective = landscape.Objective(model, loss, (x, y), batch_size=4, forward=forward)
    assert objective.loss() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)


def test_parameters_of_two_precisions_keep_theirs() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head = nn.Linear(3, 4), nn.Linear(4, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.trunk(x.float()).tanh().double())

    torch.manual_seed(0)
    model, (x, y) = Mixed(), classes()
    loss = F.cross_entropy(model(x), y)
    right = torch.cat([g.double().flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=6)
    tolerance = 100 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(objective.gradient(), right, rtol=0, atol=tolerance * float(right.norm()))
    whole = copy.deepcopy(model).double()
    whole.forward = lambda x: whole.head(whole.trunk(x).tanh())  # type: ignore[method-assign]
    v = torch.randn(len(right), dtype=torch.float64)
    hessian = hessian_by_differences(whole, lambda: F.cross_entropy(whole(x), y))
    found = landscape.HessianOperator(objective) @ v
    torch.testing.assert_close(found, hessian @ v, rtol=0, atol=tolerance * float((hessian @ v).norm()))


class Spectral(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.weight.is_complex() else torch.view_as_complex(self.weight)
        return (x.to(weight.dtype) @ weight).abs()


@pytest.mark.parametrize("strategy", ["double_backward", "split", "lean", "finite_difference"])
def test_complex_parameters_are_pairs_of_real_ones(strategy: str) -> None:
    weight, x, y = torch.randn(4, 3, dtype=torch.complex128), torch.randn(30, 4).double(), torch.randint(3, (30,))
    found = []
    for model in (Spectral(weight), Spectral(torch.view_as_real(weight).clone())):
        objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=8)
        vector = torch.linspace(-1, 1, 24).double()
        found.append(
            [
                objective.gradient(),
                landscape.HessianOperator(objective, strategy=strategy) @ vector,
                torch.from_numpy(landscape.line(objective, vector, [-1.0, 0.5]).loss),
                objective.at(objective.weights + vector).gradient(),
            ]
        )
    for complex_one, real_one in zip(*found, strict=True):
        torch.testing.assert_close(complex_one, real_one, rtol=1e-5, atol=1e-8)


def test_inputs_keep_a_precision_that_the_model_can_use() -> None:
    class Phase(nn.Module):
        """Reduces large times to a phase before anything is computed in float32."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 2)

        def forward(self, t: Tensor) -> Tensor:
            return self.layer(torch.remainder(t, 1.0).float())

    times, y = 1e9 + torch.rand(20, 1).double(), torch.randint(2, (20,))
    model = Phase()
    right = F.cross_entropy(model(times), y).item()
    assert landscape.Objective(model, nn.CrossEntropyLoss(), (times, y)).loss() == pytest.approx(right, rel=1e-6)
    plain = nn.Linear(1, 2)  # takes no float64
    assert landscape.Objective(plain, nn.CrossEntropyLoss(), (times - 1e9, y)).loss() > 0


def test_small_displacements_of_coarse_weights_count() -> None:
    model, (x, y) = nn.Linear(3, 2).to(torch.bfloat16), classes(40)
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y))
    fine = nn.Linear(3, 2)
    fine.load_state_dict({n: t.float() for n, t in model.state_dict().items()})
    right = landscape.sam_sharpness(landscape.Objective(fine, nn.CrossEntropyLoss(), (x, y)), rho=1e-3).value
    assert landscape.sam_sharpness(objective, rho=1e-3).value == pytest.approx(right, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_objective_follows_its_model_in_any_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    data = classes(40)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)
    model[2].bias.requires_grad_(False)
    whole = landscape.Objective(model, nn.CrossEntropyLoss(), data)
    there = whole.weights
    whole.loss()
    with torch.no_grad():
        for tensor in (*model.parameters(), model[1].running_mean):
            tensor.mul_(2).add_(0.5)
    new = landscape.Objective(model, nn.CrossEntropyLoss(), data)
    assert new.weights.dtype == torch.float32
    assert not torch.equal(there, new.weights)
    for old, now in ((whole, new), (whole.at(there), new.at(there))):
        assert old.loss() == now.loss()
        assert torch.equal(old.gradient(), now.gradient())
    for name, buffer in whole.buffers().items():
        assert torch.equal(buffer, new.buffers()[name])
        assert not buffer.is_floating_point() or buffer.dtype == torch.float32
    held = whole.astype(torch.float64)
    with torch.no_grad():
        model[0].weight.zero_()
    assert held.loss() == pytest.approx(new.at(held.weights).loss(), rel=1e-5)
    assert held.loss() != pytest.approx(new.loss(), rel=1e-3)


# G. State that leaks.


def test_a_penalty_on_captured_parameters_is_refused_and_one_read_from_the_model_is_right() -> None:
    model, (x, y) = nn.Linear(3, 2).double(), classes()
    captured = list(model.parameters())

    def penalty(parameters: Any) -> Callable[[Any, Any], Tensor]:
        return lambda o, t: F.cross_entropy(o, t) + 0.5 * sum((p**2).sum() for p in parameters())

    read = landscape.Objective(model, penalty(model.parameters), (x, y))
    assert landscape.top_eigenpairs(landscape.HessianOperator(read), 1, which="SA").values[0] == pytest.approx(
        1, abs=1e-6
    )
    with pytest.raises(ValueError, match="has captured the model's parameter"):
        landscape.Objective(model, penalty(lambda: captured), (x, y)).loss()


@pytest.mark.parametrize("checks", ["full", "first", "off"])
def test_results_say_how_thoroughly_was_checked(checks: str) -> None:
    objective = landscape.Objective(nn.Linear(3, 2).double(), nn.CrossEntropyLoss(), classes(), checks=checks)
    operator = landscape.HessianOperator(objective)
    assert np.isfinite(operator.probe.difference) == (checks != "off")
    results = [
        landscape.top_eigenpairs(operator, 1),
        landscape.trace(operator, 4),
        landscape.spectral_density(operator, num_steps=4),
        landscape.sam_sharpness(objective),
        landscape.average_sharpness(objective, 0.1, num_samples=2),
        landscape.line(objective, objective.weights, [0.0, 1.0]),
    ]
    assert [result.checks for result in results] == [checks] * len(results)


def test_buffers_survive_another_precision() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[1].register_buffer("scratch", torch.tensor(2.0), persistent=False)
    model(torch.randn(30, 3))
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), classes())
    assert objective.astype(torch.float64).loss() == pytest.approx(objective.loss(), rel=1e-6)
    assert objective.astype(torch.float64).buffers()["1.scratch"].dtype == torch.float64


def test_a_key_names_the_loss_so_that_another_one_is_traced_anew(caplog: pytest.LogCaptureFixture) -> None:
    data = torch.randn(20, 3).double(), torch.randint(3, (20,))
    objective = landscape.Objective(nn.Linear(3, 3).double(), nn.CrossEntropyLoss(), data)
    vector = torch.ones(objective.num_parameters).double()
    landscape.HessianOperator(objective, strategy="split") @ vector
    other = landscape.with_normalized_logits(objective)
    operator = landscape.HessianOperator(other, strategy="split")
    torch.testing.assert_close(operator @ vector, landscape.HessianOperator(other, strategy="double_backward") @ vector)
    assert operator.strategy.name == "split"
    assert operator.strategy.fallback == ""
    assert not [record for record in caplog.records if record.name.startswith("landscape")]


# H. Coupled samples.


def test_class_weights_are_noticed_where_both_halves_of_a_batch_weigh_the_same() -> None:
    weight, y = torch.tensor([0.5, 2.0]).double(), torch.tensor([0, 1] * 6)
    for seed in range(20):  # of 12 samples in two halves; one of these orders, at least, has halves of equal weight
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        objective = landscape.Objective(
            nn.Linear(3, 2).double(),
            lambda o, t: F.cross_entropy(o, t, weight=weight),
            (torch.randn(12, 3).double(), y[order]),
        )
        with pytest.raises(ValueError, match="not a mean over samples"):
            objective.loss()


def test_noise_is_told_by_outputs_where_the_loss_hardly_moves() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 2e-3 * torch.randn(len(x), self.out_features)

    x, y = torch.randn(30, 3), torch.randint(2, (30,))
    with pytest.raises(NotDeterministicError, match="two evaluations of one batch"):
        landscape.Objective(Noisy(3, 2), nn.CrossEntropyLoss(), (x, y)).loss()


def test_noise_is_told_where_the_loss_ignores_the_first_batches() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.randn(len(x), self.out_features)

    x, y = torch.randn(6, 3), torch.tensor([-100, -100, 0, 1, 1, 0])
    with pytest.raises(NotDeterministicError, match="two evaluations of one batch"):
        landscape.Objective(Noisy(3, 2), nn.CrossEntropyLoss(), (x, y), batch_size=1).loss()


class Pairs(nn.Module):
    """A complex matrix kept as pairs of real numbers, behind an odd number of others."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.pairs = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(4, 3, 2))
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        matrix = torch.view_as_complex(self.pairs)
        return self.last((x.to(matrix.dtype) @ matrix).abs() + self.shift)


@pytest.mark.parametrize("strategy", ["double_backward", "lean", "split"])
def test_pairs_of_real_numbers_may_be_taken_for_complex_ones(strategy: str) -> None:
    model, (x, y) = Pairs().double(), classes(10, 4)
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=4)
    assert objective.loss() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)
    parameters = list(model.parameters())
    slopes = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, create_graph=True)
    entries = [entry for slope in slopes for entry in slope.reshape(-1)]
    right = torch.stack([parameters_to_vector(torch.autograd.grad(s, parameters, retain_graph=True)) for s in entries])
    found = landscape.HessianOperator(objective, strategy=strategy) @ torch.eye(objective.num_parameters).double()
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)
    v = torch.ones(objective.num_parameters).double()
    landscape.GGNOperator(objective, strategy=strategy) @ v
    landscape.line(objective, v, [0.0, 1.0])


@pytest.mark.parametrize("size", [60, 20, 7, 1])
def test_outputs_that_depend_on_the_batch_are_refused(size: int) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(
        ValueError, match=r"depend on the others in its batch|takes its statistics from the batch"
    ) as error:
        landscape.Objective(model.double(), nn.CrossEntropyLoss(), classes(60), batch_size=size).loss()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(6))
def test_a_limit_that_only_some_batches_meet_is_noticed(seed: int) -> None:
    """Experts that take at most so many samples of a batch: whether one is left out depends on the others."""

    class Limited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.route, self.head = nn.Linear(3, 4), nn.Linear(3, 2)
            self.experts = nn.ModuleList(nn.Linear(3, 3) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            chosen, out = self.route(x).argmax(1), x
            for number, expert in enumerate(self.experts):
                rows = (chosen == number).nonzero()[:, 0][: len(x) // 2]
                out = out.index_add(0, rows, expert(x[rows]))
            return self.head(out)

    torch.manual_seed(seed)
    model, (x, y) = Limited().double(), classes(64)
    parts = [F.cross_entropy(model(a), b, reduction="sum") for a, b in zip(x.split(8), y.split(8), strict=True)]
    alone = [F.cross_entropy(model(x[i : i + 2]), y[i : i + 2], reduction="sum") for i in range(0, 64, 2)]
    coupled = abs(float(sum(parts).detach()) - float(sum(alone).detach())) > 1e-9  # type: ignore[union-attr]
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=8)
    if coupled:
        with pytest.raises(ValueError, match="depend on the others in its batch"):
            objective.loss()
    else:
        objective.loss()


@pytest.mark.parametrize("call", ["gradient", "hessian", "sharpness"])
def test_a_derivative_asked_for_first_is_refused_in_the_same_words(call: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 2))
    objective = landscape.Objective(model.double(), nn.CrossEntropyLoss(), classes(7), batch_size=3)
    calls = {
        "gradient": lambda: objective.gradient(),
        "hessian": lambda: landscape.HessianOperator(objective) @ objective.weights,
        "sharpness": lambda: landscape.sam_sharpness(objective),
    }
    with pytest.raises(ValueError, match=r"depend on the others in its batch|takes its statistics from the batch"):
        calls[call]()


class Routed(nn.Module):
    """Experts with room for some samples of a batch, or with a penalty on how a batch spreads over them."""

    def __init__(self, room: int | None) -> None:
        super().__init__()
        self.room, self.router = room, nn.Linear(3, 3)
        self.experts = nn.ModuleList(nn.Linear(3, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        weights = self.router(x).softmax(1)
        out, chosen = torch.zeros(len(x), 2, dtype=x.dtype), weights.argmax(1)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().flatten()[: self.room]
            out = out.index_add(0, rows, weights[rows, number, None] * expert(x[rows]))
        return out if self.room else {"scores": out, "spread": weights.mean(0).square().sum()}


def test_experts_with_room_for_some_of_a_batch_are_refused() -> None:
    torch.manual_seed(0)
    objective = landscape.Objective(Routed(2).double(), nn.CrossEntropyLoss(), classes(60), batch_size=20)
    with pytest.raises(ValueError, match="outputs of a sample depend on the others in its batch"):
        objective.loss()


def test_a_penalty_on_averages_over_the_batch_is_refused_unless_the_loss_leaves_it_out() -> None:
    torch.manual_seed(0)
    model, (x, y) = Routed(None).double(), classes(60)

    def loss(share: float) -> Callable[[Any, Tensor], Tensor]:
        return lambda o, t: F.cross_entropy(o["scores"], t) + (share * o["spread"] if share else 0)

    with pytest.raises(ValueError, match="an output that the loss uses depends on the batch as a whole"):
        landscape.Objective(model, loss(0.1), (x, y), batch_size=20).loss()
    without = landscape.Objective(model, loss(0.0), (x, y), batch_size=20)
    assert without.loss() == pytest.approx(loss(0.0)(model(x), y).item(), rel=1e-12)


def test_a_loss_of_a_state_without_rows_is_told_to_turn_it() -> None:
    class Last(nn.GRU):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[1]

    x, y = torch.randn(20, 4, 3), torch.arange(20) % 2
    with pytest.raises(ValueError, match=r"output of shape .* state.transpose\(0, 1\)"):
        landscape.Objective(
            Last(3, 2, batch_first=True), lambda h, t: F.cross_entropy(h[-1], t), (x, y), batch_size=8
        ).loss()


def test_all_samples_together_by_their_numbers() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 2))
    model, (x, y) = model.double(), classes(60)
    right = F.cross_entropy(model(x), y).item()
    for size in (60, 7):
        objective = landscape.Objective(
            model, nn.CrossEntropyLoss(), (torch.arange(60), y), batch_size=size, forward=lambda m, b: m(x)[b[0]]
        )
        assert objective.loss() == pytest.approx(right, rel=1e-12)


# I. Order.


def test_iterable_data_with_workers_are_read_once() -> None:
    class Stream(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return ((torch.full((3,), float(i)), i % 2) for i in range(12))

    objective = landscape.Objective(nn.Linear(3, 2), nn.CrossEntropyLoss(), DataLoader(Stream(), 4, num_workers=2))
    assert objective.num_samples("data") == 12


def test_samples_that_a_loader_drops_are_told(caplog: pytest.LogCaptureFixture) -> None:
    samples = [(torch.zeros(3), 0)] * 10
    landscape.Objective(nn.Linear(3, 2), nn.CrossEntropyLoss(), DataLoader(samples, 4, drop_last=True))
    assert "drop_last leaves 2 of 10 samples out" in caplog.text


@pytest.mark.parametrize("by", ["sampler", "batch_sampler"])
def test_samples_that_a_sampler_leaves_out_are_told(by: str, caplog: pytest.LogCaptureFixture) -> None:
    sampler = DistributedSampler(range(10), num_replicas=2, rank=0)  # what a training on two processes has
    chosen: dict[str, Any] = {"sampler": sampler} if by == "sampler" else {"batch_sampler": [[0, 3], [4]]}
    samples = [(torch.zeros(3), 0)] * 10
    landscape.Objective(nn.Linear(3, 2), nn.CrossEntropyLoss(), DataLoader(samples, **chosen))
    told = "its DistributedSampler leaves 5" if by == "sampler" else "its list leaves 7"
    assert f"of a loader, {told} of 10 samples out of all results" in caplog.text


@pytest.mark.parametrize("size", [4, 7, 20])
def test_the_batches_of_a_loader_may_be_given_as_a_list(size: int) -> None:
    x, y = classes(20)
    model = nn.Linear(3, 2).double()
    batches = list(DataLoader(TensorDataset(x, y), size))
    right = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y))
    found = landscape.Objective(model, nn.CrossEntropyLoss(), batches)
    assert found.num_samples("data") == 20
    assert found.loss() == pytest.approx(right.loss(), rel=1e-12)


def test_two_lists_that_may_be_batches_or_inputs_and_labels_are_refused() -> None:
    batches = list(DataLoader(TensorDataset(*classes(20)), 10))
    with pytest.raises(ValueError, match="may be two batches or inputs and labels"):
        landscape.Objective(nn.Linear(3, 2).double(), nn.CrossEntropyLoss(), batches)


# K. Models of other kinds.


@pytest.mark.parametrize("kind", ["scripted", "lazy", "meta", "function"])
def test_models_that_cannot_be_measured_are_refused(kind: str) -> None:
    with pytest.warns() if kind == "scripted" else _nothing():
        model: Any = {
            "scripted": lambda: torch.jit.script(nn.Linear(3, 2)),
            "lazy": lambda: nn.LazyLinear(2),
            "meta": lambda: nn.Linear(3, 2, device="meta"),
            "function": lambda: torch.tanh,
        }[kind]()
    words = {
        "scripted": "pass the module it was made from",
        "lazy": "on one batch first",
        "meta": "'weight' is on the meta device",
        "function": "expected a torch",
    }
    with pytest.raises((ValueError, TypeError), match=words[kind]):
        landscape.Objective(model, nn.CrossEntropyLoss(), classes())


@pytest.mark.filterwarnings("ignore::UserWarning")  # that one process shards nothing
def test_sharded_models_are_refused(tmp_path: Path) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    x, y = classes()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        nn.functional.cross_entropy(
            model(x), y
        ).backward()  # from then on it ran, at its own weights whatever the point
        with pytest.raises(ValueError, match=r"'0\.weight' is sharded over processes"):
            landscape.Objective(model, nn.CrossEntropyLoss(), (x, y))
        wrapped = FullyShardedDataParallel(
            nn.Linear(3, 2).double(), device_id=torch.device("cpu"), use_orig_params=True
        )
        with pytest.raises(ValueError, match="is sharded over processes"):
            landscape.Objective(nn.Sequential(wrapped), nn.CrossEntropyLoss(), (x, y))
    finally:
        dist.destroy_process_group()


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_is_measured_as_the_one_it_was_made_of() -> None:
    model, data = nn.Linear(3, 2).double(), classes()
    right = landscape.Objective(model, nn.CrossEntropyLoss(), data).loss()
    objective = landscape.Objective(torch.compile(model), nn.CrossEntropyLoss(), data)
    assert objective.loss() == right
    assert objective.model is model
