"""Curves between two points: against closed forms, independent evaluation along them, and the straight line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import landscape
from landscape.records import Curve, Status
from landscape.records.paths import weights_at
from landscape.surfaces.recalibration import Recalibration


class Ring(nn.Module):
    """Its squared output is 0 on the unit circle and 1 at the centre: the straight way across has a barrier of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.w @ self.w - 1)


def ring(values: Tensor | None = None) -> tuple[landscape.Objective, landscape.Objective]:
    x = torch.ones(4, 1, dtype=torch.float64) if values is None else values
    start = landscape.Objective(Ring(), nn.MSELoss(), (x, torch.zeros_like(x)))
    return start, start.at([-1.0, 0.0])


@pytest.mark.parametrize(("kind", "bends"), [("bezier", 1), ("bezier", 3), ("polyline", 1), ("polyline", 3)])
def test_a_curve_goes_around_what_the_straight_line_crosses(kind: str, bends: int) -> None:
    start, end = ring()
    straight = landscape.connect(start, end)
    assert straight.barrier.item() == pytest.approx(1)
    found = landscape.curve(start, end, kind, bends=bends, lr=0.05)
    assert found.control_points.shape == (bends + 2, 2)
    np.testing.assert_array_equal(found.control_points[[0, -1]], [[1, 0], [-1, 0]])
    assert found.barrier.item() < (0.06 if kind == "bezier" else 0.2)
    points = np.stack([found.at(t) for t in found.alphas])
    np.testing.assert_allclose(found.loss[0], ((points**2).sum(1) - 1) ** 2, rtol=1e-9, atol=1e-12)
    chords = np.linalg.norm(np.diff(np.stack([found.at(t) for t in np.linspace(0, 1, 200)]), axis=0), axis=1).sum()
    assert found.length == pytest.approx(chords, rel=1e-9)
    assert found.barrier.item() == pytest.approx(found.loss[0].max(), abs=1e-9)  # the ends have loss 0
    assert (found.gradients, len(found.history), found.samples) == (300, 300, None)


def test_basis_functions_add_up_to_one_and_meet_the_ends() -> None:
    for kind in ("bezier", "polyline"):
        for count in (3, 4, 6):
            table = np.stack([weights_at(kind, count, t) for t in np.linspace(0, 1, 21)])
            np.testing.assert_allclose(table.sum(1), 1)
            assert (table >= 0).all()
            np.testing.assert_allclose(table[[0, -1]], np.eye(count)[[0, -1]], atol=1e-15)
    np.testing.assert_allclose(weights_at("polyline", 4, 1 / 3), [0, 1, 0, 0], atol=1e-12)
    t = 0.3
    np.testing.assert_allclose(weights_at("bezier", 3, t), [(1 - t) ** 2, 2 * t * (1 - t), t**2])


def test_the_barrier_has_its_errors() -> None:
    x = torch.tensor([[0.2], [1.0], [2.0], [0.5]], dtype=torch.float64)
    start, end = ring(x)
    found = landscape.curve(start, end, gradients=3, lr=1e-6)  # all but straight
    t = found.peak.item()
    radius = float(np.sum(found.at(t) ** 2)) - 1
    of_samples = (x.numpy()[:, 0] * radius) ** 2
    np.testing.assert_allclose(found.barrier_stderr, of_samples.std(ddof=1) / 2, rtol=1e-6)
    coarse = landscape.curve(start, end, gradients=3, lr=1e-6, alphas=[0.0, 0.3, 0.6, 1.0])
    assert coarse.barrier.item() < found.barrier.item() <= coarse.barrier.item() + coarse.barrier_error.item()
    assert found.barrier_error.item() < coarse.barrier_error.item()


def network(seed: int, norm: bool) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(4, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.ReLU(), nn.Linear(8, 2)]
    model = nn.Sequential(*layers)
    x, y = torch.randn(80, 4, generator=torch.Generator().manual_seed(9)), torch.arange(80) % 2
    x = x + y[:, None]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def trained(norm: bool) -> tuple[landscape.Objective, landscape.Objective]:
    x, y = torch.randn(80, 4, generator=torch.Generator().manual_seed(9)), torch.arange(80) % 2
    x = x + y[:, None]
    views = [landscape.View("train", indices=torch.arange(60)), landscape.View("rest", indices=torch.arange(60, 80))]
    models = [network(seed, norm) for seed in (0, 1)]
    start, end = (landscape.Objective(m, nn.CrossEntropyLoss(), (x, y), batch_size=32, views=views) for m in models)
    return start, end


@pytest.mark.parametrize("norm", [False, True])
def test_all_views_are_evaluated_along_the_curve_as_by_the_model_itself(norm: bool) -> None:
    start, end = trained(norm)
    before = {n: t.clone() for n, t in start.model.state_dict().items()}
    state = torch.get_rng_state()
    found = landscape.curve(start, end, gradients=40, samples=20, alphas=np.linspace(0, 1, 5))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(t, before[n]) for n, t in start.model.state_dict().items())
    assert found.views.tolist() == ["train", "rest"]
    assert found.accuracy is not None
    assert found.buffers == ("recalibrated" if norm else "none")
    assert (found.status == Status.OK).all()
    for column, t in ((0, 0.0), (2, 0.5), (4, 1.0)):
        here = start.at(found.at(t))
        if norm:
            with here.along([], Recalibration(start)) as evaluate:
                expected = evaluate([])
        else:
            expected = here.evaluate()
        for row, view in enumerate(found.views.tolist()):
            assert found.loss[row, column] == pytest.approx(expected.loss[view], rel=1e-5)
            assert found.accuracy[row, column] == pytest.approx(expected.metrics["accuracy"][view])
    assert found.loss[0, 0] == pytest.approx(start.evaluate().loss["train"], rel=0.2 if norm else 1e-6)
    straight = landscape.connect(start, end, buffers="recalibrated" if norm else "interpolated")
    assert found.loss[0].max() <= straight.loss[0].max() + 0.02


def test_a_budget_lowers_the_loss_and_the_same_seed_gives_the_same_curve() -> None:
    start, end = trained(False)
    few, many = (landscape.curve(start, end, gradients=n, view="train") for n in (1, 150))
    assert many.loss[0].mean() < few.loss[0].mean()
    assert landscape.curve(start, end, gradients=5, samples=10, seed=3) == landscape.curve(
        start, end, gradients=5, samples=10, seed=3
    )


def test_frozen_statistics_are_interpolated_if_asked_for() -> None:
    start, end = trained(True)
    found = landscape.curve(start, end, gradients=2, buffers="interpolated", alphas=[0.0, 0.5, 1.0])
    assert found.buffers == "interpolated"
    assert found.loss[0, 0] == pytest.approx(start.evaluate().loss["train"], rel=1e-6)
    assert found.loss[0, 2] == pytest.approx(end.evaluate().loss["train"], rel=1e-6)


def test_impossible_curves_are_refused() -> None:
    start, end = ring()
    for asked, told in (
        ({"kind": "spline"}, "expected bezier or polyline"),
        ({"bends": 0}, "bends is 0"),
        ({"gradients": 0}, "gradients is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"lr": 0.0}, "lr is 0"),
        ({"alphas": [0.0, 0.5]}, "ascend from 0 to 1"),
        ({"buffers": "frozen"}, "buffers is 'frozen'"),
        ({"view": "test"}, "no view 'test'"),
        ({"buffers": "recalibrated"}, "no BatchNorm"),
    ):
        with pytest.raises(ValueError, match=told):
            landscape.curve(start, end, **asked)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same weights"):
        landscape.curve(start, start)
    with pytest.raises(ValueError, match="different parameters"):
        landscape.curve(start, trained(False)[0])


def test_a_curve_is_stored_and_drawn_beside_the_straight_line(tmp_path: Path) -> None:
    start, end = ring()
    found = landscape.curve(start, end, gradients=5)
    landscape.save(found, tmp_path / "curve.h5")
    assert landscape.load(tmp_path / "curve.h5", Curve) == found
    drawn = landscape.plot({"straight": landscape.connect(start, end), "curved": found})
    assert {point["label"] for point in drawn.points} == {"straight", "curved"}
