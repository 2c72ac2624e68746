"""Matching of channels: networks that are renumberings of each other meet, functions stay, all else is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

import landscape
from landscape.surfaces.channels import Channels, NotRenumberableError, channels_of, renumbered
from ncsam.models import build


class Plain(nn.Module):
    """Convolutions of which the last map is flattened, a pooling, and layers that are called by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.norm, self.hidden, self.last = nn.BatchNorm2d(3), nn.Linear(12, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.gelu(self.first(x)), 2)
        x = functional.avg_pool2d(torch.relu(self.norm(self.second(x))), 2)
        return self.last(torch.tanh(self.hidden(torch.flatten(x, 1))))


class Shared(nn.Module):
    """A layer that is applied twice, so that its inputs and outputs are one group."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(64, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x.flatten(1)))
        return self.last(x + torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Tied(Shared):
    """Two layers with one weight, and a bias of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(5, 5)
        self.other.weight = self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x.flatten(1)))
        return self.last(torch.tanh(self.other(torch.tanh(self.inner(x)))))


def of_shape(*shape: int) -> Callable[..., nn.Module]:
    return lambda name, **options: build(name, shape, 3, seed=0, **options)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: build("mlp", (1, 8, 8), 3, seed=0, hidden=(9, 7)),
    "cnn": lambda: build("cnn", (1, 8, 8), 3, seed=0, width=4),
    "resnet": lambda: build("resnet18", (1, 8, 8), 3, seed=0, width=3),
    "preactivation resnet": lambda: build("preact-resnet18", (1, 8, 8), 3, seed=0, width=3),
    "plain": Plain,
    "norm after flattening": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 4, stride=2), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(27), nn.Linear(27, 3)
    ),
}


def objective_of(model: nn.Module) -> landscape.Objective:
    x = torch.randn(20, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        model.double().train()(x)  # statistics that differ from channel to channel
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, dtype=torch.float64)  # no two channels alike
    return landscape.Objective(model.eval(), nn.CrossEntropyLoss(), (x, torch.arange(20) % 3), batch_size=8)


def shuffled(objective: landscape.Objective, seed: int) -> tuple[landscape.Objective, dict[str, np.ndarray]]:
    groups = channels_of(objective.model)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(group.size, generator=generator) for group in groups]
    weights = renumbered(objective.layout.unflatten(objective.weights), groups, orders)
    moved = objective.at(objective.layout.flatten(weights))
    moved = moved.with_buffers(renumbered(objective.buffers(), groups, orders))
    return moved, {g.axes[0].name: o.numpy() for g, o in zip(groups, orders, strict=True)}


@pytest.mark.parametrize("name", MODELS)
def test_a_renumbered_network_computes_the_same_and_is_matched_back(name: str) -> None:
    torch.manual_seed(0)
    objective = objective_of(MODELS[name]())
    moved, orders = shuffled(objective, 1)
    assert float((moved.weights - objective.weights).norm()) > 0.5
    assert moved.loss() == pytest.approx(objective.loss(), rel=1e-12)
    found = landscape.align(objective, moved)
    assert found.distance_after < 1e-12
    assert found.distance_before == pytest.approx(float((moved.weights - objective.weights).norm()))
    for group, order in found.orders.items():
        np.testing.assert_array_equal(orders[group][order], np.arange(len(order)))
    for buffer, value in found.objective.buffers().items():
        torch.testing.assert_close(value, objective.buffers()[buffer])
    way = landscape.connect(objective, found.objective, [0.0, 0.5, 1.0])
    assert way.barrier[0] < 1e-12


def test_the_residual_sums_of_a_resnet_are_one_group() -> None:
    groups = channels_of(build("resnet18", (1, 8, 8), 3, seed=0, width=3))
    stem = next(group for group in groups if any(axis.name == "stem.weight" for axis in group.axes))
    names = {axis.name for axis in stem.axes}
    assert {"stem.weight", "stem_norm.running_mean", "blocks.0.conv2.weight", "blocks.1.norm2.weight"} <= names
    assert "blocks.0.conv1.weight" in names  # along its inputs
    assert sum(axis.name == "blocks.0.conv1.weight" for group in groups for axis in group.axes) == 2


def test_one_hidden_layer_is_matched_as_by_trying_all_orders() -> None:
    torch.manual_seed(1)
    one, other = (objective_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3))) for _ in "ab")
    groups = channels_of(one.model)
    best = min(
        float(
            (
                one.weights - one.layout.flatten(renumbered(other.layout.unflatten(other.weights), groups, [order]))
            ).norm()
        )
        for order in map(torch.tensor, itertools.permutations(range(5)))
    )
    assert landscape.align(one, other).distance_after == pytest.approx(best, rel=1e-12)


def test_different_networks_come_nearer_and_keep_their_function() -> None:
    torch.manual_seed(2)
    one, other = (objective_of(build("cnn", (1, 8, 8), 3, width=4)) for _ in "ab")
    found = landscape.align(one, other, seed=3)
    assert found.distance_after < found.distance_before
    assert found.objective.loss() == pytest.approx(other.loss(), rel=1e-9)
    torch.testing.assert_close(one.weights, one.at(one.weights).weights)


def differing(name: str) -> tuple[landscape.Objective, landscape.Objective]:
    torch.manual_seed(4)
    one, other = (objective_of({**MODELS, "shared": Shared}[name]()) for _ in "ab")
    generator = torch.Generator().manual_seed(6)
    for objective in (one, other):  # far apart, unlike what one seed builds twice
        for parameter in objective.model.parameters():
            parameter.data += torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return one, other


def likeness_of(group: Channels, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
    """Sums of inner products of every channel with every other, from the tensors as they are."""
    return sum(
        torch.tensordot(
            *(t[a.name].movedim(a.axis, 0).reshape(group.size, -1) for t in (ours, theirs)), dims=([1], [1])
        )
        for a in group.axes
        if a.name in ours
    ) + torch.zeros(group.size, group.size, dtype=torch.float64)


def matched_anew(one: landscape.Objective, other: landscape.Objective, seed: int) -> dict[str, np.ndarray]:
    """The algorithm as it is written down: every assignment from renumbered tensors, until a sweep changes nothing."""
    groups = channels_of(one.model)
    ours, theirs = (o.layout.unflatten(o.weights) for o in (one, other))
    orders = [torch.arange(group.size) for group in groups]
    generator, changed = np.random.default_rng(seed), True
    while changed:
        changed = False
        for g in generator.permutation(len(groups)).tolist():
            columns = torch.from_numpy(linear_sum_assignment(likeness_of(groups[g], ours, theirs), maximize=True)[1])
            proposed = renumbered(theirs, [groups[g]], [columns])
            gain = sum(float((ours[n] * (proposed[n] - theirs[n])).sum()) for n in ours)
            if gain > 1e-9:
                theirs, changed, orders[g] = proposed, True, orders[g][columns]
    return {group.axes[0].name: order.numpy() for group, order in zip(groups, orders, strict=True)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [*MODELS, "shared"])
def test_what_is_kept_between_assignments_changes_no_order(name: str, seed: int) -> None:
    one, other = differing(name)
    found = landscape.align(one, other, seed=seed)
    expected = matched_anew(one, other, seed)
    assert {group: order.tolist() for group, order in found.orders.items()} == {
        group: order.tolist() for group, order in expected.items()
    }
    assert any(not np.array_equal(order, np.arange(len(order))) for order in found.orders.values())


@pytest.mark.parametrize("name", MODELS)
def test_no_group_alone_can_be_improved_at_the_end(name: str) -> None:
    one, other = differing(name)
    found = landscape.align(one, other, seed=1)
    assert found.converged
    ours, theirs = (o.layout.unflatten(o.weights) for o in (one, found.objective))
    for group in channels_of(one.model):
        likeness = likeness_of(group, ours, theirs)
        rows, columns = linear_sum_assignment(likeness, maximize=True)
        assert float(likeness.trace()) == pytest.approx(float(likeness[rows, columns].sum()), rel=1e-10)
    assert landscape.align(one, found.objective, seed=1).distance_after == pytest.approx(found.distance_after)


def test_sweeps_that_were_too_few_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = differing("resnet")
    monkeypatch.setattr("landscape.surfaces.matching._MOST_SWEEPS", 1)
    stopped = landscape.align(one, other)
    assert (stopped.sweeps, stopped.converged) == (1, False)
    assert stopped.distance_after < stopped.distance_before


@pytest.mark.parametrize("kind", [Shared, Tied])
def test_a_layer_or_weight_applied_twice_is_matched_through_both(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(3)
    objective = objective_of(kind())
    moved, _ = shuffled(objective, 2)
    assert moved.loss() == pytest.approx(objective.loss(), rel=1e-12)
    found = landscape.align(objective, moved)
    assert found.distance_after <= found.distance_before
    assert found.objective.loss() == pytest.approx(objective.loss(), rel=1e-12)


def test_a_trace_that_misses_something_is_found_by_outputs_however_low_the_loss() -> None:
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))

    def made(seed: int, *, hook: bool) -> landscape.Objective:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
        model[2].weight.data *= 0.01
        model[2].bias.data.zero_()
        if hook:  # which no trace shows
            model[1].register_forward_hook(lambda _module, _inputs, found: found * torch.arange(6.0))
        return landscape.Objective(model, nn.MSELoss(), (x, torch.zeros(20, 1)))

    with pytest.raises(NotRenumberableError, match="more with channels than its trace shows"):
        landscape.align(made(0, hook=True), made(1, hook=True))
    assert not np.array_equal(landscape.align(made(0, hook=False), made(1, hook=False)).orders["0.weight"], range(6))


def test_complex_channels_are_matched_by_both_parts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6, dtype=torch.complex64), nn.Tanh(), nn.Linear(6, 2, dtype=torch.complex64))
    for parameter in model.parameters():
        parameter.data = torch.complex(torch.ones(parameter.shape), parameter.data.imag)
    x = torch.randn(8, 3, dtype=torch.complex64)
    objective = landscape.Objective(model, lambda out, y: (out - y).abs().square().mean(), (x, x[:, :2]))
    moved, _ = shuffled(objective, 1)
    assert landscape.align(objective, moved).distance_after < 1e-6


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) if float(x.sum()) > 0 else self.a(-x))


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(4, 3)), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(x @ self.w)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)), "is a LayerNorm"),
        (
            nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(4, 2)),
            "Unflatten",
        ),
        (nn.TransformerEncoderLayer(4, 2, 4, batch_first=True), r"cannot be traced|channels are matched in"),
        (Branching(), "cannot be traced"),
        (Own(), "channels are matched in"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.Linear(3, 2)),
            "channels are matched in",
        ),
    ],
    ids=["layer norm", "unflatten", "attention", "branching", "own weights", "weight norm"],
)
def test_other_networks_are_refused(model: nn.Module, told: str) -> None:
    with pytest.raises(NotRenumberableError, match=told):
        channels_of(model)


def test_grouped_convolutions_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(NotRenumberableError, match="2 groups of channels"):
        channels_of(model)


def test_other_architectures_and_frozen_parameters_are_refused() -> None:
    x, y = torch.randn(6, 4), torch.arange(6) % 2

    def made(width: int) -> landscape.Objective:
        model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
        return landscape.Objective(model, nn.CrossEntropyLoss(), (x, y))

    with pytest.raises(ValueError, match="different parameters"):
        landscape.align(made(3), made(5))
    part, other = (made(3).restricted("0") for _ in "ab")
    with pytest.raises(ValueError, match="frozen or left out"):
        landscape.align(part, other)
    whole = made(3)
    with pytest.raises(ValueError, match="weights hold values that are not finite"):
        landscape.align(whole, whole.at(whole.weights * float("inf")))


def test_channels_that_are_all_unlike_come_to_an_end_too() -> None:
    """With one channel a layer there is nothing to choose, and the likeness stays negative."""
    x, y = torch.randn(6, 2), torch.randn(6, 1)
    first, second = (
        nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)) for _ in "ab"
    )
    with torch.no_grad():
        for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
            ours.fill_(3.0)
            theirs.fill_(-3.0)
    found = landscape.align(*(landscape.Objective(m, nn.MSELoss(), (x, y)) for m in (first, second)))
    assert found.converged
    assert found.sweeps == 1
