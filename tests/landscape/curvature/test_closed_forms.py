"""Curvature of models whose matrices are known in closed form, with no derivative taken by torch in the reference.

Situations as in the test suites of curvlinops (loss × reduction × shape), hessian-eigenthings (regressions) and matfree
(estimates of known matrices).
"""

from __future__ import annotations

import dataclasses
from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import landscape
from tests.reference import symmetric_with

N, D = 7, 4
f64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=f64, generator=torch.Generator().manual_seed(seed))


def close(got: Any, right: Tensor, tolerance: float = 1e-11) -> None:
    """Equal within a share of the largest entry: products of a few thousand sums in float64."""
    torch.testing.assert_close(torch.as_tensor(got), right, rtol=0, atol=tolerance * float(right.abs().max()))


# --- linear models: mean of A_i ⊗ x_i x_iᵀ, where A_i is the loss's curvature in the outputs of row i ---


@dataclasses.dataclass(frozen=True)
class Regression:
    """A linear layer and a loss, and the curvature of the *mean* loss in the outputs of every row.

    Attributes:
        rows: shape of what one output vector belongs to, (N,) or (N, tokens).
        outputs: their length; 0 for a single output without a dimension of its own.
        labels: of a generator.
        curvature: outputs and labels as (rows, outputs) to (rows, outputs, outputs), summing to that of the mean.
        slopes: the same to (rows, outputs), gradients of each row's own loss; none where it has none.
        last: whether outputs come last; else they are dimension 1.
    """

    name: str
    loss: nn.Module
    outputs: int
    labels: Callable[[tuple[int, ...], int], Tensor]
    curvature: Callable[[Tensor, Tensor], Tensor]
    rows: tuple[int, ...] = (N,)
    bias: bool = False
    last: bool = True
    slopes: Callable[[Tensor, Tensor], Tensor] | None = None

    def __str__(self) -> str:
        return self.name

    def make(self) -> tuple[nn.Module, Tensor, Tensor]:
        layer = nn.Linear(D, max(self.outputs, 1), bias=self.bias).double()
        with torch.no_grad():
            for seed, p in enumerate(layer.parameters()):
                p.copy_(randn(*p.shape, seed=seed + 5))
        shape = nn.Identity() if self.last else Moved(-1, 1)
        if not self.outputs:
            shape = nn.Flatten(0)
        return nn.Sequential(layer, shape), randn(*self.rows, D, seed=1), self.labels(self.rows, self.outputs)

    def flat(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, outputs and labels with one row each."""
        inputs = x.reshape(-1, D)
        layer = model[0]
        z = inputs @ layer.weight.detach().T + (layer.bias.detach() if self.bias else 0)
        inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=f64)], 1) if self.bias else inputs
        return inputs, z, y.reshape(-1, z.shape[1]) if y.is_floating_point() else y.reshape(-1)

    def order(self) -> Tensor:
        """Where the weights, row by row with their bias last, lie in the flat vector."""
        size = max(self.outputs, 1)
        weights = torch.arange(size * D).reshape(size, D)
        return (
            torch.cat([weights, size * D + torch.arange(size)[:, None]], 1).flatten()
            if self.bias
            else weights.flatten()
        )

    def matrix(self) -> Tensor:
        """The Hessian, which is also the GGN."""
        inputs, z, y = self.flat(*self.make())
        return self.scattered(
            sum(torch.kron(a, torch.outer(x, x)) for a, x in zip(self.curvature(z, y), inputs, strict=True))
        )

    def scattered(self, matrix: Any) -> Tensor:
        where = self.order()
        found = torch.zeros_like(matrix)
        found[where[:, None], where] = matrix
        return found


class Moved(nn.Module):
    """The outputs' dimension moved to where the loss wants it."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.source, self.target = source, target

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(self.source, self.target)


def real(rows: tuple[int, ...], outputs: int) -> Tensor:
    return randn(*rows, *([outputs] if outputs else []), seed=2)


def bits(rows: tuple[int, ...], outputs: int) -> Tensor:
    return (real(rows, outputs) > 0).double()


def counts(rows: tuple[int, ...], outputs: int) -> Tensor:
    return (3 * real(rows, outputs).abs()).round()


def classes(rows: tuple[int, ...], outputs: int) -> Tensor:
    return torch.randint(outputs, rows, generator=torch.Generator().manual_seed(3))


def some_ignored(rows: tuple[int, ...], outputs: int) -> Tensor:
    """Ignored labels, unevenly: a whole sample of them where there are tokens."""
    y = classes(rows, outputs)
    y[0] = -100
    y.reshape(-1)[-2] = -100
    return y


def soft(rows: tuple[int, ...], outputs: int) -> Tensor:
    return real(rows, outputs).softmax(-1)


def squares(z: Tensor, y: Tensor) -> Tensor:
    return 2 * torch.eye(z.shape[1], dtype=f64).expand(len(z), -1, -1) / z.numel()


def logistic(z: Tensor, y: Tensor) -> Tensor:
    p = z.sigmoid()
    return torch.diag_embed(p * (1 - p)) / z.numel()


def poisson(z: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(z.exp()) / z.numel()


def softmax(z: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    p = z.softmax(1)
    share = torch.ones(len(z), dtype=f64)
    if not y.is_floating_point():
        share = (y != -100).double() * (1 if weight is None else weight[y.clamp(min=0)])
    return (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) * (share / share.sum())[:, None, None]


WEIGHT = torch.tensor([0.5, 3.0, 1.0], dtype=f64)


def weighted(z: Tensor, y: Tensor) -> Tensor:
    return softmax(z, y, WEIGHT)


MSE, BCE, CE = nn.MSELoss(), nn.BCEWithLogitsLoss(), nn.CrossEntropyLoss()
REGRESSIONS = [
    Regression("mse", MSE, 1, real, squares, slopes=lambda z, y: 2 * (z - y)),
    Regression("mse-no-output-dimension", MSE, 0, real, squares),
    Regression("mse-three-outputs-bias", MSE, 3, real, squares, bias=True),
    Regression("mse-tokens", MSE, 3, real, squares, rows=(N, 5)),
    Regression("huber-within", nn.HuberLoss(delta=1e3), 2, real, lambda z, y: squares(z, y) / 2),
    Regression("bce", BCE, 1, bits, logistic, slopes=lambda z, y: z.sigmoid() - y),
    Regression("bce-no-output-dimension", BCE, 0, bits, logistic),
    Regression("bce-two-outputs-bias", BCE, 2, bits, logistic, bias=True),
    Regression("bce-tokens", BCE, 2, bits, logistic, rows=(N, 5)),
    Regression(
        "bce-positive-weight",
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([4.0], dtype=f64)),
        1,
        bits,
        lambda z, y: logistic(z, y) * (1 + 3 * y)[:, :, None],
    ),
    Regression("poisson", nn.PoissonNLLLoss(), 1, counts, poisson, slopes=lambda z, y: z.exp() - y),
    Regression("ce", CE, 3, classes, softmax, slopes=lambda z, y: z.softmax(1) - F.one_hot(y, 3)),
    Regression("ce-bias", CE, 3, classes, softmax, bias=True),
    Regression("ce-smoothed", nn.CrossEntropyLoss(label_smoothing=0.2), 3, classes, softmax),
    Regression("ce-probabilities", CE, 3, soft, softmax),
    Regression("ce-ignored", CE, 3, some_ignored, softmax),
    Regression("ce-weighted", nn.CrossEntropyLoss(weight=WEIGHT), 3, classes, weighted),
    Regression("ce-weighted-ignored", nn.CrossEntropyLoss(weight=WEIGHT), 3, some_ignored, weighted),
    Regression("ce-tokens", CE, 3, classes, softmax, rows=(N, 5), last=False),
    Regression("ce-tokens-ignored", CE, 3, some_ignored, softmax, rows=(N, 5), last=False),
    Regression(
        "ce-tokens-weighted-ignored",
        nn.CrossEntropyLoss(weight=WEIGHT),
        3,
        some_ignored,
        weighted,
        rows=(N, 5),
        last=False,
    ),
]


@pytest.mark.parametrize("batch_size", [1, 4, N])
@pytest.mark.parametrize("case", REGRESSIONS, ids=str)
def test_linear_models_have_their_closed_form(case: Regression, batch_size: int) -> None:
    model, x, y = case.make()
    obj = landscape.Objective(model, case.loss, (x, y), batch_size=batch_size)
    right = case.matrix()
    identity = torch.eye(len(right), dtype=f64)
    close(landscape.HessianOperator(obj) @ identity, right)
    close(landscape.GGNOperator(obj) @ identity, right)
    assert obj.loss() == pytest.approx(case.loss(model(x), y).item(), rel=1e-12)


@pytest.mark.parametrize("case", [c for c in REGRESSIONS if c.slopes], ids=str)
def test_the_empirical_fisher_matrix_is_the_mean_of_squared_slopes(case: Regression) -> None:
    assert case.slopes is not None
    model, x, y = case.make()
    inputs, z, labels = case.flat(model, x, y)
    gradients = torch.einsum("no,nd->nod", case.slopes(z, labels), inputs).flatten(1)
    right = case.scattered(gradients.T @ gradients / len(gradients))
    operator = landscape.EmpiricalFisherOperator(landscape.Objective(model, case.loss, (x, y), batch_size=4))
    close(operator @ torch.eye(len(right), dtype=f64), right)


@pytest.mark.parametrize(
    ("loss", "outputs", "labels"),
    [(nn.MSELoss, 3, real), (nn.MSELoss, 1, real), (nn.BCEWithLogitsLoss, 2, bits), (nn.CrossEntropyLoss, 3, classes)],
)
def test_sums_and_unreduced_losses_are_refused(loss: Any, outputs: int, labels: Any) -> None:
    case = Regression("", loss(reduction="sum"), outputs, labels, squares)
    model, x, y = case.make()
    with pytest.raises(ValueError, match="not a mean over samples"):
        landscape.HessianOperator(landscape.Objective(model, case.loss, (x, y))) @ torch.ones(outputs * D, dtype=f64)
    with pytest.raises(ValueError, match="expected one number"):
        landscape.Objective(model, loss(reduction="none"), (x, y)).loss()


class NamedInputs(Dataset[Any]):
    """Samples that are mappings of another class than dict, as tokenizers and graph libraries make them."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[UserDict[str, Tensor], Tensor]:
        return UserDict({"x": self.x[i]}), self.y[i]


@pytest.mark.parametrize("case", [c for c in REGRESSIONS if c.name in ("mse", "bce", "ce")], ids=str)
def test_inputs_in_mappings_make_no_difference(case: Regression) -> None:
    model, x, y = case.make()
    loader = DataLoader(NamedInputs(x, y), batch_size=3)  # 3, 3 and 1
    obj = landscape.Objective(model, case.loss, loader, forward=lambda m, batch: m(batch[0]["x"]))
    right = case.matrix()
    close(landscape.HessianOperator(obj) @ torch.eye(len(right), dtype=f64), right)


# --- beyond linear models: where Hessian and GGN differ ---


class Neuron(nn.Module):
    """tanh(w·x)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(randn(D, seed=4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.w)


@pytest.mark.parametrize("batch_size", [3, N])
def test_one_neuron(batch_size: int) -> None:
    x, y, model = randn(N, D, seed=1), randn(N, seed=2), Neuron()
    t = torch.tanh(x @ model.w.detach())
    slope, bend = 1 - t**2, -2 * t * (1 - t**2)
    gauss_newton = 2 / N * (x.T * slope**2) @ x
    hessian = gauss_newton + 2 / N * (x.T * ((t - y) * bend)) @ x
    obj = landscape.Objective(model, nn.MSELoss(), (x, y), batch_size=batch_size)
    identity = torch.eye(D, dtype=f64)
    close(landscape.HessianOperator(obj) @ identity, hessian)
    close(landscape.GGNOperator(obj) @ identity, gauss_newton)


class TwoLayers(nn.Module):
    """W₂ W₁ x, without biases."""

    def __init__(self, hidden: int, outputs: int, scale: float) -> None:
        super().__init__()
        self.first = nn.Parameter(scale * randn(hidden, D, seed=5))
        self.second = nn.Parameter(scale * randn(outputs, hidden, seed=6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.first.T @ self.second.T


def two_layers(model: TwoLayers, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Hessian and GGN of the mean square, from the gradient's formula 2/(n·o)·(W₂ᵀRX, RXW₁ᵀ), moved by hand."""
    w1, w2, c = model.first.detach(), model.second.detach(), 2 / y.numel()
    residual, inner = (w2 @ w1 @ x.T - y.T) @ x, x.T @ x
    hessian, gauss_newton = [], []
    for v in torch.eye(w1.numel() + w2.numel(), dtype=f64):
        v1, v2 = v[: w1.numel()].view_as(w1), v[w1.numel() :].view_as(w2)
        moved = (v2 @ w1 + w2 @ v1) @ inner
        first, second = c * w2.T @ moved, c * moved @ w1.T
        gauss_newton.append(torch.cat([first.flatten(), second.flatten()]))
        own = torch.cat([(v2.T @ residual).flatten(), (residual @ v1.T).flatten()])
        hessian.append(gauss_newton[-1] + c * own)
    return torch.stack(hessian), torch.stack(gauss_newton)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("batch_size", [2, N])
def test_two_linear_layers(outputs: int, batch_size: int) -> None:
    model, x, y = TwoLayers(3, outputs, 0.7), randn(N, D, seed=1), randn(N, outputs, seed=2)
    hessian, gauss_newton = two_layers(model, x, y)
    obj = landscape.Objective(model, nn.MSELoss(), (x, y), batch_size=batch_size)
    identity = torch.eye(len(hessian), dtype=f64)
    close(landscape.HessianOperator(obj) @ identity, hessian)
    close(landscape.GGNOperator(obj) @ identity, gauss_newton)
    top = landscape.top_eigenpairs(landscape.HessianOperator(obj), k=2, which="both", tol=1e-9)
    values = torch.linalg.eigvalsh(hessian)
    close(top.values, torch.stack([values[-1], values[-2], values[1], values[0]]), 1e-8)


def test_the_saddle_of_two_linear_layers() -> None:
    """At zero, eigenvalues are ± the singular values of 2/(n·o)·Yᵀ X, each once for every hidden unit."""
    hidden, outputs = 2, 3
    model, x, y = TwoLayers(hidden, outputs, 0.0), randn(N, D, seed=1), randn(N, outputs, seed=2)
    singular = torch.linalg.svdvals(2 / y.numel() * y.T @ x)
    H = landscape.HessianOperator(landscape.Objective(model, nn.MSELoss(), (x, y), batch_size=3))
    found = landscape.top_eigenpairs(H, k=2 * outputs, which="LA", block=hidden, tol=1e-9)
    close(found.values, singular.repeat_interleave(hidden), 1e-8)
    found = landscape.top_eigenpairs(H, k=2, which="SA", block=hidden, tol=1e-9)
    close(found.values, -singular[:1].repeat(2), 1e-8)
    size = H.shape[0]
    moments = landscape.spectral_moments(H, num_matvecs=2 * size)
    assert moments.trace == pytest.approx(0, abs=1e-10)
    assert moments.frobenius == pytest.approx(float((2 * hidden * singular**2).sum().sqrt()), rel=1e-8)
    G = landscape.GGNOperator(H.objective)
    assert not (G @ torch.ones(size, dtype=f64)).any()


# --- a matrix of one's own as the Hessian, for what estimates it ---


class Quadratic(nn.Module):
    """½ (w − x)ᵀ A (w − x), the loss itself as the output of every sample."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(randn(len(matrix), seed=7))
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        off = self.w - x
        return 0.5 * ((off @ self.matrix) * off).sum(1)


def mean_output(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs.mean()


@pytest.mark.parametrize("eigenvalues", [[9.0], [9.0, 3.0, 3.0, 1.0, *[0.5] * 6], [5.0, 2.0, *[0.0] * 7, -4.0]])
def test_everything_about_a_quadratic(eigenvalues: list[float]) -> None:
    A, size = symmetric_with(eigenvalues), len(eigenvalues)
    x = randn(N, size, seed=1)
    model = Quadratic(A)
    obj = landscape.Objective(model, mean_output, (x, torch.zeros(N)), batch_size=3, metrics={})
    w, H = model.w.detach(), landscape.HessianOperator(obj)
    close(obj.gradient(), A @ (w - x.mean(0)))
    close(H @ torch.eye(size, dtype=f64), A)
    assert not (landscape.GGNOperator(obj) @ w).any()  # the loss is linear in the outputs

    found = landscape.top_eigenpairs(H, k=1, which="both" if size > 1 else "LA")
    assert found.values[0] == pytest.approx(max(eigenvalues))
    assert found.values[-1] == pytest.approx(min(eigenvalues))
    moments = landscape.spectral_moments(H, num_matvecs=2 * size)
    assert moments.trace == pytest.approx(sum(eigenvalues))
    assert moments.frobenius == pytest.approx(np.linalg.norm(eigenvalues))
    estimate = landscape.trace(H, num_matvecs=max(2, size // 2))
    assert abs(estimate.value - sum(eigenvalues)) <= 5 * estimate.stderr + 1e-9

    rho, g = 0.3, A @ (w - x.mean(0))
    step = rho * g / g.norm()
    rise = float(g @ step + 0.5 * step @ A @ step)
    assert float(landscape.sam_sharpness(obj, rho=rho)) == pytest.approx(rise)
    average = landscape.average_sharpness(obj, sigma=0.2, num_samples=50)
    assert abs(average.value - 0.5 * 0.04 * sum(eigenvalues)) <= 5 * average.stderr + 1e-12

    d, alphas = randn(size, seed=8), np.array([-1.0, 0.0, 2.0])
    curve = obj.loss() + alphas * float(g @ d) + 0.5 * alphas**2 * float(d @ A @ d)
    np.testing.assert_allclose(landscape.line(obj, d, alphas).loss[0], curve, rtol=1e-11)
