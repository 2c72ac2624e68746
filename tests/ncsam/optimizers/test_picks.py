"""Properties of the parts: picks, temporary labels, schedules, projection, clusters."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from ncsam.optimizers import NCSAM, NCSAMReleased
from ncsam.optimizers.cluster_inversion import flip_rates, kmeans
from ncsam.optimizers.noise_gradient import (
    SmoothedCrossEntropy,
    draw,
    margins,
    pick_chances,
    temporary_labels,
)
from ncsam.optimizers.perturbations import SCHEDULES
from tests.ncsam.optimizers.problem import CLASSES, bn, data, loss_fn, make, mlp

quiet = pytest.mark.filterwarnings("ignore:projection keeps")
few = settings(max_examples=40, deadline=None)


def logits(seed: int, batch: int, classes: int, spread: float) -> Tensor:
    return spread * torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed))


@few
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 8), st.sampled_from([0.0, 0.1, 1.0, 50.0]), st.data())
def test_picks_are_distinct_rows_and_as_many_as_asked(
    seed: int, batch: int, classes: int, spread: float, more: st.DataObject
) -> None:
    count = more.draw(st.integers(0, batch))
    rows = draw(pick_chances(logits(seed, batch, classes, spread)), count, torch.Generator().manual_seed(seed))
    assert len(set(rows.tolist())) == len(rows) == count
    assert set(rows.tolist()) <= set(range(batch))


@few
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 8), st.sampled_from([0.0, 0.1, 1.0, 50.0]))
def test_a_temporary_label_is_the_likeliest_that_was_not_observed(
    seed: int, batch: int, classes: int, spread: float
) -> None:
    z = logits(seed, batch, classes, spread)
    y = torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))
    new = temporary_labels(z, y)
    assert bool((new != y).all())
    for i in range(batch):
        assert all(z[i, new[i]] >= z[i, c] for c in range(classes) if c != y[i])


@few
@given(
    rho=st.floats(1e-4, 10),
    kappa=st.floats(0, 100),
    progress=st.floats(0, 1),
    sign=st.sampled_from([1, -1]),
    scale=st.sampled_from(["raw", "relative"]),
    seed=st.integers(0, 1000),
)
@quiet
def test_a_projected_perturbation_stays_in_the_ball(
    rho: float, kappa: float, progress: float, sign: int, scale: str, seed: int
) -> None:
    model = mlp()
    opt = NCSAM(model, torch.optim.SGD(model.parameters(), lr=0.1), rho, kappa=kappa, sign=sign, scale=scale, seed=seed)
    x, y, _ = data(seed=seed)
    info = opt.step(x, y, loss_fn, progress=progress)
    assert info.perturbation_norm <= rho * (1 + 20 * torch.finfo(torch.float32).eps)
    assert info.picked == math.floor(0.4 * len(y))
    assert 0 < info.kept <= 1


@pytest.mark.parametrize(
    ("ratio", "batch", "count"), [(0.29, 100, 29), (0.1, 30, 3), (0.4, 7, 2), (0.0, 9, 0), (1.0, 9, 9)]
)
def test_the_number_of_picks_is_the_floor_of_the_real_product(ratio: float, batch: int, count: int) -> None:
    """0.29 · 100 is 28.999… in binary; it is 29 all the same."""
    x, y, _ = data(batch=batch)
    info = make("ncsam", mlp(), flip_ratio=ratio, rho=5.0).step(x, y, loss_fn, progress=1.0)
    assert info.picked == count
    if count == 0:
        assert (info.compensation_norm, info.cosine) == (0.0, pytest.approx(1.0, rel=1e-6))


def test_chances_are_as_one_over_one_plus_the_margin() -> None:
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 9.0]])
    assert margins(z).tolist() == [0, 1, 3, 9]
    expected = torch.tensor([1, 1 / 2, 1 / 4, 1 / 10]) / 1.85
    torch.testing.assert_close(pick_chances(z), expected)
    generator, n = torch.Generator().manual_seed(0), 20000
    counts = torch.zeros(4)
    for _ in range(n):
        counts[draw(expected, 1, generator)] += 1
    spread = (expected * (1 - expected) * n).sqrt()
    assert bool(((counts - n * expected).abs() < 4.5 * spread).all())


def test_later_picks_are_among_those_left_with_the_same_weights() -> None:
    """P(first i, then j) = pᵢ · pⱼ / (1 − pᵢ): drawing one after the other, without replacement."""
    p = torch.tensor([0.5, 0.3, 0.2])
    generator, n = torch.Generator().manual_seed(0), 20000
    counts = torch.zeros(3, 3)
    for _ in range(n):
        i, j = draw(p, 2, generator).tolist()
        counts[i, j] += 1
    for i in range(3):
        for j in range(3):
            expected = float(p[i] * p[j] / (1 - p[i])) if i != j else 0.0
            assert abs(float(counts[i, j]) / n - expected) <= 4.5 * math.sqrt(expected * (1 - expected) / n)


@few
@given(st.floats(0, 1), st.floats(0, 1))
def test_schedules_rise_from_within_zero_to_one(s: float, t: float) -> None:
    for schedule in SCHEDULES.values():
        assert 0 <= schedule(min(s, t)) <= schedule(max(s, t)) <= 1
        assert schedule(0.5) == schedule(1.0) == 1


def test_smoothing_is_torchs_on_another_scale() -> None:
    """Mass s/(C − 1) off the label is torch's label_smoothing = s·C/(C − 1)."""
    z, y = logits(0, 30, CLASSES, 2.0).double(), torch.arange(30) % CLASSES
    torch_loss = nn.CrossEntropyLoss(label_smoothing=0.1 * CLASSES / (CLASSES - 1))
    torch.testing.assert_close(SmoothedCrossEntropy(0.1)(z, y), torch_loss(z, y))
    torch.testing.assert_close(SmoothedCrossEntropy(0.0)(z, y), loss_fn(z, y))


def test_kmeans_finds_what_is_there_and_is_a_fixed_point() -> None:
    g = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(5, 8)
    truth = torch.arange(100) % 5
    points = centres[truth] + 0.1 * torch.randn(100, 8, generator=g)
    found = kmeans(points, 5, g)
    assert len({(int(a), int(b)) for a, b in zip(truth, found, strict=True)}) == 5
    loose = torch.randn(60, 3, generator=g)
    cluster = kmeans(loose, 5, g)
    means = torch.stack([loose[cluster == k].mean(0) for k in range(5)])
    assert torch.equal(torch.cdist(loose, means).argmin(1), cluster)


def test_kmeans_is_as_good_as_scikit_learns() -> None:
    from sklearn.cluster import KMeans

    def inertia(points: Tensor, cluster: Tensor) -> float:
        return sum(float((points[cluster == k] - points[cluster == k].mean(0)).square().sum()) for k in range(5))

    ours, theirs = [], []
    for seed in range(20):
        points = torch.nn.functional.normalize(torch.randn(128, 16, generator=torch.Generator().manual_seed(seed)))
        ours.append(inertia(points, kmeans(points, 5, torch.Generator().manual_seed(seed))))
        theirs.append(KMeans(5, n_init=1, random_state=seed).fit(points.numpy()).inertia_)
    assert sum(ours) < 1.02 * sum(theirs)


@pytest.mark.parametrize("points", [torch.zeros(6, 3), torch.zeros(1, 3), torch.eye(3)], ids=["equal", "one", "few"])
def test_kmeans_copes_with_fewer_points_than_clusters(points: Tensor) -> None:
    cluster = kmeans(points, 5, torch.Generator().manual_seed(0))
    assert cluster.shape == (len(points),)
    assert len(set(cluster.tolist())) <= len(torch.unique(points, dim=0))


def test_the_least_certain_cluster_is_flipped_most() -> None:
    margin = torch.tensor([0.0, 2.0, 6.0, 10.0])
    rates = flip_rates(margin, torch.tensor([1, 1, 0, 0]), 0.5)
    torch.testing.assert_close(rates, torch.tensor([0.25, 0.25, 0.1, 0.1]))  # ½ (1 − 1/2), ½ (1 − 8/10)
    assert flip_rates(torch.zeros(3), torch.tensor([0, 1, 2]), 0.3).tolist() == pytest.approx([0.3] * 3)


def test_the_released_variant_against_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """ε = ρ g/‖g‖ + κ g*, g* by smoothed cross-entropy on a forward pass of the flipped samples alone."""
    inputs: list[Tensor] = []
    flipped: list[Tensor] = []
    smoothed = SmoothedCrossEntropy(0.1)

    def spy(smoothing: float) -> object:
        assert smoothing == 0.1

        def loss(z: Tensor, labels: Tensor) -> Tensor:
            flipped.append(labels)
            return smoothed(z, labels)

        return loss

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        inputs.append(x)
        return model(x)

    monkeypatch.setattr("ncsam.optimizers.cluster_inversion.SmoothedCrossEntropy", spy)
    model, reference = bn(torch.float64), bn(torch.float64)  # BatchNorm tells a pass of some samples from one of all
    params = list(reference.parameters())
    opt = NCSAMReleased(model, torch.optim.SGD(model.parameters(), lr=0.1), kappa=0.25, forward=forward)
    x, y, _ = data(dtype=torch.float64)
    info = opt.step(x, y, loss_fn, progress=1.0)
    assert [len(x) for x in inputs] == [20, 20, info.picked, 20]  # the second for features
    rows = [next(i for i in range(len(x)) if torch.equal(x[i], row)) for row in inputs[2]]
    assert all(flipped[0][k] != y[i] for k, i in enumerate(rows))

    def gradient(loss: Tensor) -> Tensor:
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, params)])

    g = gradient(loss_fn(reference(x), y))
    star = gradient(smoothed(reference(x[rows]), flipped[0]))
    epsilon = 0.05 * g / g.norm() + 0.25 * star
    tol = 1e4 * torch.finfo(torch.float64).eps
    assert info.perturbation_norm == pytest.approx(float(epsilon.norm()), rel=tol)
    assert info.compensation_norm == pytest.approx(0.25 * float(star.norm()), rel=tol)
    assert not info.projected


def test_released_flips_happen_at_the_rate_of_r_max_at_most_and_never_at_zero() -> None:
    x, y, _ = data(batch=200)
    assert make("ncsam-released", mlp(), flip_ratio=0.0).step(x, y, loss_fn, progress=1.0).picked == 0
    picked = [
        make("ncsam-released", mlp(), flip_ratio=0.4, seed=s).step(x, y, loss_fn, progress=1.0).picked
        for s in range(20)
    ]
    assert 0 < sum(picked) <= 0.4 * 200 * 20


def test_released_needs_features() -> None:
    flat = nn.Bilinear(3, 3, 4)
    with pytest.raises(ValueError, match=r"has no nn.Linear .* features='…'"):  # told before the first step
        make("ncsam-released", flat, forward=lambda m, x: m(x, x))
