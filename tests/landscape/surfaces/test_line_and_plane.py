"""Directions, surfaces and sharpness on functions whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import landscape
from landscape.surfaces.line_and_plane import row_fields
from landscape.surfaces.scan import MemoryRows
from tests.reference import CASES, Case, TinyCNN, dense_loss, flat


class Quadratic(nn.Module):
    """L(w) = ½ wᵀAw + bᵀw, written as the mean of a column of outputs."""

    def __init__(self, A: Tensor, b: Tensor, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)
        self.register_buffer("A", A)
        self.register_buffer("b", b)

    def forward(self, x: Tensor) -> Tensor:
        return (0.5 * self.w @ self.A @ self.w + self.b @ self.w).expand(len(x))


def quadratic() -> tuple[landscape.Objective, Tensor, Tensor, Tensor]:
    A = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, -1.0]], dtype=torch.float64)
    b, w = torch.tensor([0.3, -0.2, 0.1]).double(), torch.tensor([1.0, -2.0, 0.5]).double()
    obj = landscape.Objective(Quadratic(A, b, w), lambda o, _: o.mean(), (torch.zeros(4, 1), torch.zeros(4)))
    return obj, A, b, w


def value(A: Tensor, b: Tensor, w: Tensor) -> float:
    return float(0.5 * w @ A @ w + b @ w)


def test_surfaces_of_a_quadratic_on_asymmetric_grids() -> None:
    obj, A, b, w = quadratic()
    d1, d2 = torch.tensor([1.0, 0.0, 2.0]).double(), torch.tensor([0.0, -1.0, 1.0]).double()
    alphas, betas = np.array([-0.7, 0.0, 0.2, 1.5]), np.array([-1.0, 0.4, 3.0])
    p = landscape.plane(obj, d1, d2, alphas, betas)
    expected = [[value(A, b, w + a * d1 + c * d2) for c in betas] for a in alphas]
    np.testing.assert_allclose(p.loss[0], expected, rtol=1e-13)
    assert p.loss.shape == (1, 4, 3)
    assert p.cosine == pytest.approx(2 / np.sqrt(10))
    s = landscape.line(obj, d1, alphas)
    np.testing.assert_allclose(s.loss[0], [value(A, b, w + a * d1) for a in alphas], rtol=1e-13)
    assert s.direction_norm == pytest.approx(np.sqrt(5))
    assert s.accuracy is None


@pytest.mark.parametrize("case", CASES, ids=str)
def test_surface_equals_plain_evaluation_at_the_displaced_weights(case: Case) -> None:
    model, loss_fn, x, y = case.make()
    obj = landscape.Objective(model, loss_fn, (x, y), batch_size=4)
    d = landscape.filter_normalized_direction(model, seed=5)
    s = landscape.line(obj, d, [-1.0, 0.0, 0.5], seed=5)
    w = flat([p.detach() for p in model.parameters() if p.requires_grad])
    plain = dense_loss(model, loss_fn, x, y)
    np.testing.assert_allclose(s.loss[0], [float(plain(w + a * d)) for a in s.alphas], rtol=1e-11)
    assert s.loss[0, 1] == obj.loss()
    assert s.seed == 5


def test_nonfinite_points_are_kept_and_marked() -> None:
    obj, *_ = quadratic()
    s = landscape.line(obj, [1.0, 0.0, 0.0], [0.0, 1e200])
    assert np.isinf(s.loss[0, 1])
    assert s.status[0].tolist() == [landscape.Status.OK, landscape.Status.NONFINITE]


def test_points_already_there_are_not_computed_again() -> None:
    obj, *_ = quadratic()
    rows = MemoryRows.pending_all(3, row_fields(obj))
    rows.write(1, loss=[-42.0], accuracy=[np.nan])
    asked = []

    def progress(pending: list[int]) -> list[int]:
        asked.extend(pending)
        return pending

    s = landscape.line(obj, [1.0, 0.0, 0.0], [0.0, 1.0, 2.0], rows=rows, progress=progress)
    assert s.loss[0, 1] == -42.0
    assert asked == [0, 2]


def test_views_on_a_surface() -> None:
    model = nn.Linear(3, 2)
    x, y = torch.randn(8, 3), torch.randint(2, (8,))
    views = [landscape.View("a"), landscape.View("flipped", labels=1 - y), landscape.View("none", indices=y[:0])]
    obj = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), views=views)
    p = landscape.plane(obj, obj.weights, obj.weights, [0.0, 1.0], [0.0])
    assert p.views.tolist() == ["a", "flipped", "none"]
    assert p.accuracy is not None
    np.testing.assert_allclose(p.accuracy[0] + p.accuracy[1], 1.0)
    assert (p.status[2] == landscape.Status.EMPTY).all()
    assert np.isnan(p.loss[2]).all()


@pytest.mark.parametrize(
    ("alphas", "message"),
    [([[0.0]], r"shape \(1, 1\), expected \(n,\)"), ([], "expected"), ([np.nan], "not finite")],
)
def test_bad_grids(alphas: object, message: str) -> None:
    obj, *_ = quadratic()
    with pytest.raises(ValueError, match=message):
        landscape.line(obj, [1.0, 0.0, 0.0], alphas)
    with pytest.raises(ValueError, match=r"shape \(2,\), expected \(3,\)"):
        landscape.line(obj, [1.0, 0.0], [0.0])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 3),
        nn.Conv1d(2, 3, 3),
        nn.Conv2d(2, 3, 3),
        nn.Conv3d(2, 3, 2),
        nn.ConvTranspose2d(2, 3, 3),
        nn.Embedding(5, 3),
    ],
    ids=lambda m: type(m).__name__,
)
def test_every_filter_of_a_direction_has_the_norm_of_its_weights(layer: nn.Module) -> None:
    model = nn.Sequential(layer, nn.BatchNorm1d(3)).double()
    direction = landscape.filter_normalized_direction(model, seed=2)
    d = direction[: layer.weight.numel()].view_as(layer.weight)
    torch.testing.assert_close(d.flatten(1).norm(dim=1), layer.weight.detach().flatten(1).norm(dim=1))
    assert not direction[layer.weight.numel() :].any()  # biases and norm layers


def test_the_same_seed_is_the_same_draw_for_other_weights_and_dtypes() -> None:
    a, b = TinyCNN(), TinyCNN()
    da, db = (landscape.filter_normalized_direction(m, seed=9)[:27].view(3, 9) for m in (a, b))
    cosines = nn.functional.cosine_similarity(da, db)
    torch.testing.assert_close(cosines, torch.ones(3))
    other = landscape.filter_normalized_direction(a, seed=10)[:27].view(3, 9)
    assert (nn.functional.cosine_similarity(da, other).abs() < 0.99).all()
    single, double = TinyCNN(), TinyCNN().double()
    double.load_state_dict(single.state_dict())
    torch.testing.assert_close(
        landscape.filter_normalized_direction(single, 1).double(),
        landscape.filter_normalized_direction(double, 1),
        rtol=1e-6,
        atol=1e-7,
    )


def test_a_zero_filter_stays_in_place() -> None:
    model = nn.Linear(4, 2)
    nn.init.zeros_(model.weight)
    assert not landscape.filter_normalized_direction(model).any()


def test_surface_does_not_change_when_a_filter_before_batchnorm_is_rescaled() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3, eps=1e-30), nn.Flatten(), nn.LazyLinear(2))
    x, y = torch.randn(12, 1, 5, 5).double(), torch.arange(12) % 2
    model(x.float())
    model = model.double()

    def surface() -> np.ndarray:
        obj = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y))
        return landscape.line(obj, landscape.filter_normalized_direction(model, 3), [-0.5, 0.0, 0.5]).loss

    before = surface()
    with torch.no_grad():
        model[0].weight[1] *= 7.0
        model[1].running_mean[1] *= 7.0
        model[1].running_var[1] *= 49.0
    np.testing.assert_allclose(surface(), before, rtol=1e-8)


def test_sam_sharpness_of_a_quadratic_is_the_step_along_the_gradient() -> None:
    obj, A, b, w = quadratic()
    g = A @ w + b
    r = landscape.sam_sharpness(obj, rho=0.3)
    assert r.value == pytest.approx(value(A, b, w + 0.3 * g / g.norm()) - value(A, b, w), rel=1e-10)
    assert r.loss == pytest.approx(value(A, b, w))


def test_projected_ascent_finds_the_maximum_on_the_ball() -> None:
    obj, A, b, w = quadratic()
    rho = 0.5
    theta = torch.linspace(0, torch.pi, 200).double()
    phi = torch.linspace(0, 2 * torch.pi, 400).double()
    t, f = torch.meshgrid(theta, phi, indexing="ij")
    sphere = rho * torch.stack([t.sin() * f.cos(), t.sin() * f.sin(), t.cos()], -1).reshape(-1, 3)
    points = w + sphere
    grid = (0.5 * (points @ A * points).sum(1) + points @ b).max()
    r = landscape.sam_sharpness(obj, rho=rho, steps=400)
    assert r.value == pytest.approx(float(grid) - value(A, b, w), rel=1e-4)
    assert r.value >= landscape.sam_sharpness(obj, rho=rho).value


def test_adaptive_sharpness_follows_its_formula_and_ignores_rescaling() -> None:
    obj, A, b, w = quadratic()
    g = A @ w + b
    epsilon = 0.2 * w**2 * g / (w.abs() * g).norm()
    expected = value(A, b, w + epsilon) - value(A, b, w)
    assert landscape.adaptive_sharpness(obj, rho=0.2).value == pytest.approx(expected, rel=1e-10)

    D = torch.diag(torch.tensor([10.0, 0.1, 3.0], dtype=torch.float64))
    Di = torch.linalg.inv(D)
    scaled = landscape.Objective(
        Quadratic(Di @ A @ Di, Di @ b, D @ w), lambda o, _: o.mean(), (torch.zeros(4, 1), torch.zeros(4))
    )
    assert landscape.adaptive_sharpness(scaled, rho=0.2).value == pytest.approx(expected, rel=1e-10)
    assert landscape.sam_sharpness(scaled, rho=0.2).value != pytest.approx(landscape.sam_sharpness(obj, rho=0.2).value)


def test_average_sharpness_of_a_quadratic_is_half_sigma_squared_times_the_trace() -> None:
    obj, A, _, _ = quadratic()
    sigma = 0.2
    r = landscape.average_sharpness(obj, sigma=sigma, num_samples=400, seed=1)
    assert abs(r.value - 0.5 * sigma**2 * float(torch.trace(A))) < 4 * r.stderr
    assert r.value == landscape.average_sharpness(obj, sigma=sigma, num_samples=400, seed=1).value


@pytest.mark.parametrize("rho", [-1.0, float("nan"), float("inf")])
def test_bad_radius(rho: float) -> None:
    obj, *_ = quadratic()
    with pytest.raises(ValueError, match="expected a finite number ≥ 0"):
        landscape.sam_sharpness(obj, rho=rho)
    with pytest.raises(ValueError, match="expected a finite number ≥ 0"):
        landscape.average_sharpness(obj, sigma=rho)


def test_zero_gradient_has_zero_sharpness() -> None:
    obj = landscape.Objective(
        Quadratic(torch.eye(2), torch.zeros(2), torch.zeros(2)),
        lambda o, _: o.mean(),
        (torch.zeros(2, 1), torch.zeros(2)),
    )
    assert landscape.sam_sharpness(obj, rho=0.1).value == 0
