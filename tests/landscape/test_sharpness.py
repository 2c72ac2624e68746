"""Sharpness on quadratics whose maxima are known, in the limit where it is the trace, and where it must not change."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.optimize import brentq
from torch import Tensor, nn

import landscape
from landscape import store
from landscape.records import Record, Sharpness
from landscape.sharpness import Ball
from tests.reference import CASES, Case, dense_hessian, dense_loss, flat, symmetric_with

SMOOTH = [CASES[0], CASES[1], CASES[3]]


class Quadratic(nn.Module):
    """½ wᵀAw + bᵀw as an output that does not depend on the data."""

    def __init__(self, A: Tensor, b: Tensor, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())
        self.A, self.b = A, b

    def forward(self, x: Tensor) -> Tensor:
        return (0.5 * self.w @ self.A @ self.w + self.b @ self.w).expand(len(x))


def quadratic(A: Tensor, b: Tensor, w: Tensor) -> landscape.Objective:
    return landscape.Objective(Quadratic(A, b, w), lambda o, _: o.mean(), (torch.zeros(4, 1), torch.zeros(4)))


def largest_rise(A: np.ndarray, g: np.ndarray, rho: float) -> float:
    """max of gᵀε + ½εᵀAε over ‖ε‖ ≤ ρ where A has a positive eigenvalue: (μI − A)ε = g, ‖ε‖ = ρ, μ ≥ λ₁."""
    values, vectors = np.linalg.eigh(A)
    c = vectors.T @ g

    def excess(mu: float) -> float:
        return float(np.linalg.norm(c / (mu - values))) - rho

    low = values[-1] + abs(c[-1]) / rho  # here the norm is at least ρ
    mu = brentq(excess, low, values[-1] + np.linalg.norm(c) / rho + 1e-9, xtol=1e-14, rtol=1e-14)
    e = c / (mu - values)
    return float(c @ e + 0.5 * (values * e) @ e)


@given(seed=st.integers(0, 2**16), rho=st.floats(0.05, 2.0), curvature=st.floats(0.5, 5.0))
@settings(max_examples=10, deadline=None)
def test_ascent_approaches_the_maximum_over_the_ball_from_below(seed: int, rho: float, curvature: float) -> None:
    g = torch.Generator().manual_seed(seed)
    A = symmetric_with([curvature, 0.2, 0.0, -0.5, -2.0], seed)
    w, b = (torch.randn(5, generator=g, dtype=torch.float64) for _ in range(2))
    truth = largest_rise(A.numpy(), (A @ w + b).numpy(), rho)
    obj = quadratic(A, b, w)
    found = landscape.sam_sharpness(obj, rho, steps=40, restarts=2, seed=seed)
    bound = truth * (1 + 1e-9) + 1e-12
    assert found.rises.max() <= bound
    assert found.value >= 0.8 * truth  # slow where the ball is nearly a sphere of equal loss: 1 in 100 misses 2 %
    assert landscape.sam_sharpness(obj, rho).value <= bound


def test_a_lower_bound_it_is_a_start_at_a_saddle_finds_nothing_and_a_restart_does() -> None:
    obj = quadratic(torch.diag(torch.tensor([2.0, -3.0])).double(), torch.zeros(2).double(), torch.zeros(2).double())
    stuck = landscape.sam_sharpness(obj, 0.5, steps=30)
    assert stuck.value == 0.0  # the gradient vanishes, though the ball holds 0.25
    found = landscape.sam_sharpness(obj, 0.5, steps=30, restarts=1, seed=3)
    assert found.value == pytest.approx(0.25, rel=1e-3)
    assert (stuck.seed, found.seed, found.restarts) == (None, 3, 1)


def test_the_record_of_an_ascent_starts_at_the_weights_and_holds_the_value() -> None:
    A = symmetric_with([3.0, 1.0, -1.0])
    obj = quadratic(A, torch.ones(3).double(), torch.zeros(3).double())
    found = landscape.sam_sharpness(obj, 0.3, steps=7, restarts=2)
    assert found.rises.shape == (3, 8)
    assert found.rises[0, 0] == 0.0
    assert (found.rises[1:, 0] != 0).all()
    assert found.value == found.rises.max()
    again = landscape.sam_sharpness(obj, 0.3, steps=7, restarts=2)
    np.testing.assert_array_equal(found.rises, again.rises)
    # The first ascent is the same whether others follow it or not.
    np.testing.assert_array_equal(found.rises[0], landscape.sam_sharpness(obj, 0.3, steps=7).rises[0])


def test_one_step_that_overshoots_says_so() -> None:
    # Downhill lies just beyond a narrow ridge: SAM's own step is what is asked for, and it lowers the loss.
    obj = quadratic(-torch.eye(1).double(), torch.ones(1).double(), torch.zeros(1).double())
    assert landscape.sam_sharpness(obj, 10.0).value == pytest.approx(10 - 50)
    assert landscape.sam_sharpness(obj, 10.0, steps=50).value == pytest.approx(0.5, abs=0.1)


def test_adaptive_ascent_is_the_plain_one_in_stretched_coordinates() -> None:
    A, w = symmetric_with([3.0, 1.0, -1.0]), torch.tensor([2.0, -0.5, 0.1]).double()
    stretched = torch.diag(w.abs()) @ A @ torch.diag(w.abs())
    g = A @ w
    plain = quadratic(stretched, w.abs() * g, torch.zeros(3).double())
    one = landscape.adaptive_sharpness(quadratic(A, torch.zeros(3).double(), w), 0.4, steps=9)
    np.testing.assert_allclose(one.rises, landscape.sam_sharpness(plain, 0.4, steps=9).rises, rtol=1e-9, atol=1e-12)
    assert largest_rise(stretched.numpy(), (w.abs() * g).numpy(), 0.4) == pytest.approx(one.value, rel=1e-2)


def test_keskars_box_and_percentage() -> None:
    # Separable and convex: the maximum is the corner away from the minimum, half width ε(|w| + 1).
    a, w = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([1.0, -0.3, 2.0]).double()
    reach = 0.1 * (w.abs() + 1)
    base, top = (0.5 * (a * w**2).sum(), 0.5 * (a * (w.abs() + reach) ** 2).sum())
    found = landscape.keskar_sharpness(quadratic(torch.diag(a), torch.zeros(3).double(), w), 0.1)
    assert found.value == pytest.approx(float(100 * (top - base) / (1 + base)), rel=1e-10)
    assert found.loss == pytest.approx(float(base))


@pytest.mark.parametrize("box", [False, True])
def test_random_points_are_uniform_in_the_ball(box: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.stack([Ball(2.0, box=box).draw(3, generator) for _ in range(2000)])
    radii = points.abs().amax(1) if box else points.norm(dim=1)
    assert radii.max() <= 2.0
    # In three dimensions the share within half the radius is 1/8; five standard errors.
    assert abs(float((radii <= 1.0).double().mean()) - 1 / 8) < 5 * (7 / 64 / 2000) ** 0.5


@pytest.mark.parametrize("case", SMOOTH, ids=str)
@pytest.mark.parametrize("adaptive", [False, True])
def test_average_sharpness_tends_to_half_the_trace(case: Case, adaptive: bool) -> None:
    model, loss_fn, x, y = case.make()
    obj = landscape.Objective(model, loss_fn, (x, y), batch_size=4)
    H = dense_hessian(model, loss_fn, x, y)
    scale = obj.weights.abs() if adaptive else torch.ones_like(obj.weights)
    errors = []
    for sigma in (1e-2, 1e-3):
        found = landscape.average_sharpness(obj, sigma, num_samples=40, seed=5, adaptive=adaptive)
        generator = torch.Generator().manual_seed(5)
        draws = [torch.randn(len(H), generator=generator, dtype=torch.float64) * scale for _ in range(40)]
        same_draws = np.mean([0.5 * sigma**2 * float(z @ H @ z) for z in draws])
        trace = 0.5 * sigma**2 * float((H.diagonal() * scale**2).sum())
        assert abs(found.value - trace) < 5 * found.stderr
        errors.append(abs(found.value - same_draws) / abs(same_draws))
    # What is left is of fourth order in σ: a hundredth of it at a tenth of σ.
    assert errors[1] < max(0.02 * errors[0], 1e-6)


def test_with_relu_it_does_so_only_below_the_distance_to_the_nearest_kink() -> None:
    # A Hessian does not see the bends between the linear pieces; perturbations that reach across them do.
    model, loss_fn, x, y = CASES[2].make()
    obj = landscape.Objective(model, loss_fn, (x, y))
    H = dense_hessian(model, loss_fn, x, y)
    generator = torch.Generator().manual_seed(5)
    draws = [torch.randn(len(H), generator=generator, dtype=torch.float64) for _ in range(20)]
    form = np.mean([0.5 * float(z @ H @ z) for z in draws])
    far, near = (landscape.average_sharpness(obj, s, seed=5).value / s**2 / form for s in (1e-2, 1e-6))
    assert near == pytest.approx(1, rel=1e-2)  # rounding of the loss, 1e-16, over σ² = 1e-12
    assert abs(far - 1) > 0.3


def test_the_same_seed_draws_the_same_perturbations_for_every_view() -> None:
    model, loss_fn, x, y = CASES[0].make()
    views = [landscape.View("a"), landscape.View("b", indices=torch.arange(6)), landscape.View("same")]
    obj = landscape.Objective(model, loss_fn, (x, y), views=views)
    a, b, same = (landscape.average_sharpness(obj.view(v), 0.05, num_samples=10, seed=2) for v in obj.views)
    assert a.value == same.value != b.value


@pytest.mark.parametrize("make", [landscape.sam_sharpness, landscape.adaptive_sharpness, landscape.keskar_sharpness])
def test_no_perturbation_reaches_beyond_the_ball(make, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    model, loss_fn, x, y = CASES[0].make()
    obj = landscape.Objective(model, loss_fn, (x, y), checks="off")  # which would visit points of their own
    w, visited = obj.weights, []
    at = landscape.Objective.at
    monkeypatch.setattr(landscape.Objective, "at", lambda self, to: visited.append(to - w) or at(self, to))
    make(obj, 0.2, steps=5, restarts=2)
    size = {
        "sam_sharpness": lambda e: e.norm(),
        "adaptive_sharpness": lambda e: (e / w.abs()).norm(),
        "keskar_sharpness": lambda e: (e.abs() / (w.abs() + 1)).max(),
    }[make.__name__]
    assert len(visited) == 2 + 3 * 5
    assert all(size(e) <= 0.2 * (1 + 1e-9) for e in visited)


def test_normalised_logits_against_plain_tensors_and_at_any_scale() -> None:
    model, loss_fn, x, y = CASES[0].make()
    obj = landscape.with_normalized_logits(landscape.Objective(model, loss_fn, (x, y), batch_size=4))

    def plain(z: Tensor, labels: Tensor) -> Tensor:
        z = z - z.mean(1, keepdim=True)
        return nn.functional.cross_entropy(z / z.pow(2).sum(1, keepdim=True).sqrt(), labels)

    w = flat([p.detach() for p in model.parameters()]).requires_grad_()
    (gradient,) = torch.autograd.grad(dense_loss(model, plain, x, y)(w), w)
    torch.testing.assert_close(obj.gradient(), gradient, rtol=1e-8, atol=1e-12)
    # Ten times the last layer is ten times the logits: adaptive sharpness stays where it is.
    before = landscape.adaptive_sharpness(obj, 0.1, steps=3, restarts=1).value
    with torch.no_grad():
        for p in model[2].parameters():
            p *= 10
    assert landscape.adaptive_sharpness(obj, 0.1, steps=3, restarts=1).value == pytest.approx(before, rel=1e-9)


def test_normalised_logits_keep_ignored_labels_and_refuse_what_is_no_logits() -> None:
    x, y = torch.randn(8, 3).double(), torch.arange(8) % 3
    loss = nn.CrossEntropyLoss(ignore_index=2)
    obj = landscape.with_normalized_logits(landscape.Objective(nn.Linear(3, 3).double(), loss, (x, y), batch_size=3))
    kept = landscape.Objective(obj.model, nn.CrossEntropyLoss(), (x[y != 2], y[y != 2]))
    same = landscape.with_normalized_logits(kept)
    assert obj.loss() == pytest.approx(same.loss(), rel=1e-12)
    assert obj.evaluate().metrics["accuracy"]["data"] == kept.evaluate().metrics["accuracy"]["data"]
    flat_outputs = landscape.Objective(nn.Linear(3, 1), nn.MSELoss(), (torch.randn(5, 3), torch.randn(5, 1)))
    with pytest.raises(ValueError, match=r"outputs are \(5, 1\), expected logits"):
        landscape.with_normalized_logits(flat_outputs).loss()


def test_the_worst_case_is_a_lower_bound_without_a_standard_error_and_an_average_the_reverse() -> None:
    obj = quadratic(symmetric_with([3.0, 1.0, -1.0]), torch.ones(3).double(), torch.ones(3).double())
    worst = (
        landscape.sam_sharpness(obj), landscape.adaptive_sharpness(obj), landscape.keskar_sharpness(obj),
        landscape.sharpness_at_rise(obj, 0.1),
    )  # fmt: skip
    assert [(found.stderr, found.bound) for found in worst] == [(None, "lower")] * 4
    average = landscape.average_sharpness(obj, 0.1)
    assert average.bound is None
    assert average.stderr is not None
    assert average.stderr > 0


def test_an_earlier_files_standard_error_of_a_worst_case_is_read_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sharpness, "__post_init__", Record.__post_init__)  # as it was written
    declared = Sharpness.__dataclass_fields__["stderr"].metadata["declares"]
    long_name = "standard error over random perturbations; 0 where none are drawn"
    was = {"declares": dataclasses.replace(declared, long_name=long_name, former="")}
    with monkeypatch.context() as earlier:
        earlier.setattr(Sharpness.__dataclass_fields__["stderr"], "metadata", was)
        old = Sharpness(value=0.5, loss=1.0, stderr=0.0, measure="sam", radius=0.05, steps=1)
        landscape.save(old, tmp_path / "old.h5")
    monkeypatch.undo()
    with h5py.File(tmp_path / "old.h5") as file:
        (stored,) = [d for d in (file[n] for n in found_datasets(file)) if d.name.endswith("/stderr")]
        assert stored.attrs["long_name"].decode() == long_name
    assert landscape.store.verify(tmp_path / "old.h5") == []
    found = landscape.load(tmp_path / "old.h5")
    assert isinstance(found, Sharpness)
    assert (found.stderr, found.bound, float(found)) == (None, "lower", 0.5)


def found_datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def test_records_are_stored(tmp_path: Path) -> None:
    model, loss_fn, x, y = CASES[0].make()
    obj = landscape.Objective(model, loss_fn, (x, y))
    for record in (landscape.sam_sharpness(obj, steps=2, restarts=1), landscape.keskar_sharpness(obj)):
        record.save(tmp_path / f"{record.kind}.h5")
        found = store.load(tmp_path / f"{record.kind}.h5")
        assert type(found) is type(record)
        np.testing.assert_array_equal(found.rises, record.rises)
        assert float(found) == float(record)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda obj: landscape.sam_sharpness(obj, 0.1, steps=0), "steps is 0"),
        (lambda obj: landscape.adaptive_sharpness(obj, 0.1, restarts=-1), "restarts is -1"),
        (lambda obj: landscape.keskar_sharpness(obj, -1e-3), "epsilon is -0.001"),
        (lambda obj: landscape.average_sharpness(obj, 0.1, num_samples=1), "num_samples is 1"),
        (lambda obj: landscape.average_sharpness(obj, float("nan")), "sigma is nan"),
    ],
)
def test_bad_requests(call, message: str) -> None:  # type: ignore[no-untyped-def]
    model, loss_fn, x, y = CASES[0].make()
    with pytest.raises(ValueError, match=message):
        call(landscape.Objective(model, loss_fn, (x, y)))


def test_no_radius_is_looked_for_where_the_loss_is_not_finite() -> None:
    x = torch.ones(4, 2)
    obj = landscape.Objective(nn.Linear(2, 1), nn.MSELoss(), (x, x[:, :1])).at([float("nan"), 0.0, 0.0])
    with pytest.raises(ValueError, match="the loss at the weights is nan, so that it cannot rise"):
        landscape.sharpness_at_rise(obj, 0.1)


@pytest.mark.parametrize("least", [-1.0, -5.0])
def test_keskars_ratio_of_a_loss_of_minus_one_or_less_is_refused(least: float) -> None:
    model, x = nn.Linear(2, 1, bias=False), torch.ones(4, 2)
    obj = landscape.Objective(model, lambda out, _: (out**2).mean() + least, (x, x)).at([0.0, 0.0])
    with pytest.raises(
        ValueError, match=rf"the loss is {least:g}, so that 1 \+ loss, which Keskar's sharpness divides by"
    ):
        landscape.keskar_sharpness(obj, 0.1, restarts=1)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_radius_of_a_stated_rise_is_that_of_the_quadratic(adaptive: bool) -> None:
    values = torch.tensor([4.0, 1.0, 0.5], dtype=torch.float64)
    w = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    A = torch.diag(values)
    objective = quadratic(A, -A @ w, w + 1e-9)  # all but at the minimum, so that there is a direction to begin with
    top = 16.0 if adaptive else 4.0  # the largest entry of D A D, or of A
    for rise in (1e-3, 1.0):
        found = landscape.sharpness_at_rise(objective, rise, adaptive=adaptive, steps=60, tol=1e-3)
        assert found.value == pytest.approx(rise, rel=1e-3)
        assert 2 * found.value / found.radius**2 == pytest.approx(top, rel=2e-2)


@pytest.mark.parametrize(("rise", "told"), [(0.0, "rise is 0"), (math.inf, "rise is inf"), (1e20, "no radius")])
def test_a_rise_that_no_radius_has_is_refused(rise: float, told: str) -> None:
    A = torch.eye(2, dtype=torch.float64)
    with pytest.raises(ValueError, match=told):
        landscape.sharpness_at_rise(quadratic(A, A @ torch.ones(2).double(), torch.ones(2).double()), rise)


def test_m_sharpness_is_the_mean_over_groups_that_hold_every_sample_once() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2).double(), torch.randn(10, 3).double(), torch.arange(10) % 2
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y))
    whole = landscape.m_sharpness(objective, 0.1, m=10)
    assert whole.value == pytest.approx(landscape.sam_sharpness(objective, 0.1).value, rel=1e-9)
    assert whole.stderr is None
    assert whole.bound == "lower"
    found = landscape.m_sharpness(objective, 0.1, m=1)
    alone = [landscape.sam_sharpness(landscape.Objective(model, nn.CrossEntropyLoss(), (x[[i]], y[[i]])), 0.1).value
             for i in range(10)]  # fmt: skip
    assert found.value == pytest.approx(np.mean(alone), rel=1e-9)
    assert found.stderr == pytest.approx(np.std(alone, ddof=1) / 10**0.5, rel=1e-6)
    assert landscape.m_sharpness(objective, 0.1, m=3, groups=2).value != found.value
    again = [landscape.m_sharpness(objective, 0.1, m=5, seed=1).value for _ in range(2)]
    assert again[0] == again[1]
    for m, groups, told in ((11, None, "m is 11"), (0, None, "m is 0"), (4, 3, "groups is 3")):
        with pytest.raises(ValueError, match=told):
            landscape.m_sharpness(objective, 0.1, m=m, groups=groups)


def test_a_group_of_ignored_labels_and_a_place_without_a_slope_are_told() -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(12, 3), torch.arange(12) % 2
    labels[:6] = -100
    objective = landscape.Objective(nn.Linear(3, 2), nn.CrossEntropyLoss(), (x, labels))
    with pytest.raises(ValueError, match="1 samples of view 'data' have only labels that the loss ignores"):
        landscape.m_sharpness(objective, 0.1, m=1)
    flat_at = landscape.Objective(nn.Linear(3, 1), nn.MSELoss(), (x, torch.zeros(12, 1))).at([0.0] * 4)
    for adaptive in (False, True):
        with pytest.raises(ValueError, match="zero at the weights"):
            landscape.sharpness_at_rise(flat_at, 0.1, adaptive=adaptive)
