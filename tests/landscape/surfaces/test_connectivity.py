"""The way between two points: barriers whose height is known, ends that are exactly the models, buffers as stated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import landscape
from landscape.surfaces.connectivity import barrier, connect
from tests.reference import TinyCNN


class DoubleWell(nn.Module):
    """L(w) = (w₀² − 1)² + w₁², with minima at (±1, 0) and a saddle of height 1 between them."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return ((self.w[0] ** 2 - 1) ** 2 + self.w[1] ** 2).expand(len(x))


def double_well() -> landscape.Objective:
    return landscape.Objective(DoubleWell(), lambda out, _: out.mean(), (torch.zeros(4, 1), torch.zeros(4)))


def test_barrier_of_a_double_well() -> None:
    obj = double_well()
    found = connect(obj.at([-1.0, 0.0]), obj.at([1.0, 0.0]), np.linspace(0, 1, 11), names=("left", "right"))
    assert found.barrier[0] == pytest.approx(1.0, abs=1e-14)
    assert found.peak[0] == 0.5
    assert found.distance == 2.0
    assert found.cosine == pytest.approx(-1.0)
    assert (found.start, found.end, found.buffers) == ("left", "right", "none")
    np.testing.assert_allclose(found.loss[0], ((2 * found.alphas - 1) ** 2 - 1) ** 2, atol=1e-14)
    same_well = connect(obj.at([0.9, 0.0]), obj.at([1.1, 0.0]))
    assert same_well.barrier[0] == 0  # convex there: the ends are the highest points over the straight line


def test_barrier_is_measured_over_the_line_between_unequal_ends_and_only_between_them() -> None:
    a = np.linspace(-0.5, 1.5, 9)
    assert barrier(a, 2 * a + 7) == (0.0, 0.0)  # a slope is no barrier
    height, at = barrier(a, np.where(a == 0.25, 10.0, 2 * a + 7))
    assert height == pytest.approx(10 - 7.5)
    assert at == 0.25
    assert barrier(a, np.where(a > 1, 99.0, 2 * a + 7)) == (0.0, 0.0)
    assert barrier(a, np.where(a == 0.5, np.inf, 1.0)) == (np.inf, 0.5)
    assert np.isnan(barrier(a, np.where(a == 0.5, np.nan, 1.0))).all()


def trained_cnns() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    x, y = torch.randn(20, 1, 5, 5).double(), torch.arange(20) % 3
    models = []
    for seed, shift in ((1, 0.0), (2, 3.0)):
        torch.manual_seed(seed)
        model = TinyCNN().double()
        model(x + shift)  # running statistics of its own
        models.append(model.eval())
    return models[0], models[1], x, y


def test_with_interpolated_buffers_both_ends_are_the_models_themselves() -> None:
    first, second, x, y = trained_cnns()
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in (first, second)]
    a, b = (landscape.Objective(m, nn.CrossEntropyLoss(), (x, y)) for m in (first, second))
    found = connect(a, b, [0.0, 0.5, 1.0])
    assert found.loss[0, 0] == a.loss()
    assert found.loss[0, 2] == b.loss()
    assert found.buffers == "interpolated"
    frozen = connect(a, b, [0.0, 0.5, 1.0], buffers="start")
    assert frozen.loss[0, 0] == a.loss()
    assert frozen.loss[0, 2] != b.loss()
    assert frozen.buffers == "start"
    middle = TinyCNN().double().eval()
    middle.load_state_dict({n: (t + before[1][n]) / 2 if t.is_floating_point() else t for n, t in before[0].items()})
    assert found.loss[0, 1] == pytest.approx(nn.CrossEntropyLoss()(middle(x), y).item(), rel=1e-12)
    for model, state in zip((first, second), before, strict=True):
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def test_recalibrated_statistics_are_those_of_the_point() -> None:
    first, second, x, y = trained_cnns()
    a, b = (landscape.Objective(m, nn.CrossEntropyLoss(), (x, y), batch_size=20) for m in (first, second))
    found = connect(a, b, [0.0, 0.5, 1.0], buffers="recalibrated")
    middle = TinyCNN().double()
    pairs = zip(first.state_dict().items(), second.state_dict().values(), strict=True)
    middle.load_state_dict({n: (t + u) / 2 if t.is_floating_point() else t for (n, t), u in pairs})
    middle[1].reset_running_stats()
    middle[1].momentum = None
    middle(x)  # one batch in training mode: its own statistics
    assert found.loss[0, 1] == pytest.approx(nn.CrossEntropyLoss()(middle.eval()(x), y).item(), rel=1e-10)
    assert found.buffers == "recalibrated"
    assert found.loss[0, 0] != a.loss()  # the ends are recalibrated too


class Picked(nn.Module):
    """A layer on some entries of its inputs, with a count that has no part in the loss, behind a layer."""

    def __init__(self, seed: int, entries: list[int]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first, self.last = (nn.Linear(3, 3).double() for _ in "ab")
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        self.register_buffer("entries", torch.tensor(entries))
        self.register_buffer("seen", torch.tensor(seed))
        self.register_buffer("turn", torch.polar(torch.ones(3), torch.arange(3.0) + seed).to(torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x)[:, self.entries] * self.turn).real)


@pytest.mark.parametrize("how", [landscape.connect, lambda a, b: landscape.curve(a, b, gradients=1)])
def test_both_ends_are_the_models_or_the_way_is_refused(how: Callable[..., landscape.Connection]) -> None:
    x, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double(), torch.arange(12) % 3

    def ends(*models: nn.Module) -> list[landscape.Objective]:
        return [landscape.Objective(m, nn.CrossEntropyLoss(), (x, y)) for m in models]

    found = how(*ends(Picked(1, [2, 0, 1]), Picked(2, [2, 0, 1])))
    own = [obj.loss() for obj in ends(Picked(1, [2, 0, 1]), Picked(2, [2, 0, 1]))]
    assert (found.loss[0, 0], found.loss[0, -1]) == pytest.approx(own, rel=1e-12)
    with pytest.raises(ValueError, match="buffer 'entries' holds no floating-point numbers"):
        how(*ends(Picked(1, [2, 0, 1]), Picked(2, [0, 1, 2])))
    frozen = [Picked(seed, [2, 0, 1]) for seed in (1, 2)]
    for model in frozen:
        model.first.requires_grad_(False)
    with pytest.raises(ValueError, match=r"parameter 'first.weight' is frozen and not the same"):
        how(*ends(*frozen))
    frozen[1].first.load_state_dict(frozen[0].first.state_dict())  # as of a common pretrained network
    assert how(*ends(*frozen)).loss[0, -1] == pytest.approx(ends(*frozen)[1].loss(), rel=1e-12)


def test_what_restricted_objectives_hold_constant_stays_that_of_the_start() -> None:
    x, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double(), torch.arange(12) % 3
    a, b = (landscape.Objective(Picked(s, [2, 0, 1]), nn.CrossEntropyLoss(), (x, y)) for s in (1, 2))
    found = connect(a.restricted("last"), b.restricted("last"))
    mixed = a.layout.flatten(
        {**a.layout.unflatten(b.weights), **a.restricted("first").layout.unflatten(a.restricted("first").weights)}
    )
    assert found.loss[0, -1] == pytest.approx(a.at(mixed).with_buffers({"turn": b.buffers()["turn"]}).loss(), rel=1e-12)


def test_connection_is_stored_and_read_back(tmp_path: Path) -> None:
    obj = double_well()
    found = connect(obj.at([-1.0, 0.0]), obj.at([1.0, 0.0]))
    found.save(tmp_path / "way.h5")
    again = landscape.load(tmp_path / "way.h5")
    np.testing.assert_array_equal(again.loss, found.loss)
    assert again.barrier[0] == found.barrier[0]


def test_what_cannot_be_connected_is_refused() -> None:
    obj = double_well()
    other = landscape.Objective(nn.Linear(1, 1), nn.MSELoss(), (torch.zeros(4, 1), torch.zeros(4, 1)))
    with pytest.raises(ValueError, match="different parameters"):
        connect(obj, other)
    with pytest.raises(ValueError, match="hold 0 and 1"):
        connect(obj, obj, [0.0, 0.5])
    with pytest.raises(ValueError, match="buffers is 'mine'"):
        connect(obj, obj, buffers="mine")
    with pytest.raises(ValueError, match=r"no buffer 'x' of shape \(1,\) in this model; it has none"):
        obj.with_buffers({"x": torch.zeros(1)})
