"""State that a measurement must give back, or must notice: arrays, generators, views of buffers, changed data."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import landscape

X, Y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


class Counting(nn.Module):
    """A layer that counts its calls in an array, and changes with the fiftieth."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 3), np.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) * (1 if self.calls[0] < 50 else 2)


def test_a_counter_in_an_array_is_set_back_before_every_pass() -> None:
    model = Counting()
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (X, Y))
    line = landscape.line(objective, torch.zeros(15), torch.linspace(-1, 1, 61))
    assert len(set(line.loss[0].tolist())) == 1
    assert model.calls.tolist() == [0.0]


class Drawing(nn.Module):
    """A layer with generators of its own, which do not change the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.of_torch, self.of_numpy = torch.Generator().manual_seed(0), np.random.default_rng(0)
        self.legacy, self.of_python = np.random.RandomState(0), random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1, generator=self.of_torch), self.of_numpy.random(), self.legacy.rand(), self.of_python.random()
        return self.layer(x)

    def states(self) -> list[str]:
        legacy = self.legacy.get_state()
        states = self.of_torch.get_state().tolist(), self.of_numpy.bit_generator.state, self.of_python.getstate()
        return [*map(repr, states), repr((legacy[1].tolist(), legacy[2:]))]


def test_generators_of_modules_are_given_back() -> None:
    model = Drawing()
    before = model.states()
    landscape.Objective(model, nn.CrossEntropyLoss(), (X, Y)).gradient()
    assert model.states() == before


def test_noise_of_a_generator_of_its_own_is_noticed() -> None:
    class Noisy(Drawing):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x + torch.randn(x.shape, generator=self.of_torch))

    with pytest.raises(RuntimeError, match="two evaluations of one batch at one point differ"):
        landscape.Objective(Noisy(), nn.CrossEntropyLoss(), (X, Y)).loss()


@pytest.mark.parametrize("shuffles", [True, False])
def test_the_generator_of_a_loader_is_given_back(shuffles: bool) -> None:
    def order(measure: bool) -> list[int]:
        generator = torch.Generator().manual_seed(1)
        data = TensorDataset(X, torch.arange(40) % 3)
        loader = DataLoader(data, 8, shuffle=shuffles, generator=generator)
        if measure:
            landscape.Objective(nn.Linear(4, 3), nn.CrossEntropyLoss(), loader).loss()
        return generator.get_state().tolist()

    assert order(True) == order(False)


def test_a_view_of_a_buffer_that_forward_writes_to_is_refused() -> None:
    class Workspace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("work", torch.zeros(6))
            self.gain = self.work[:3]

        def forward(self, x: Tensor) -> Tensor:
            self.work.fill_(2.0)
            return self.layer(x) * self.gain

    objective = landscape.Objective(Workspace(), nn.CrossEntropyLoss(), (X, Y))
    with pytest.raises(ValueError, match="writes to its buffer 'work' in forward, and an attribute of a module is a"):
        objective.loss()


def test_a_view_of_a_constant_buffer_is_right() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("table", torch.arange(6.0))
            self.gain = self.table[:3]

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.gain

    model = Table()
    found = landscape.Objective(model, nn.CrossEntropyLoss(), (X, Y)).loss()
    assert found == pytest.approx(functional.cross_entropy(model(X), Y).item(), rel=1e-6)


@pytest.mark.parametrize("measure", [landscape.Objective.loss, landscape.Objective.gradient])
def test_data_that_are_written_to_are_refused(measure: Callable[[landscape.Objective], object]) -> None:
    labels = Y.clone()
    objective = landscape.Objective(nn.Linear(4, 3), nn.CrossEntropyLoss(), (X, labels))
    measure(objective)
    labels.add_(1).remainder_(3)
    with pytest.raises(ValueError, match="the data were written to after the objective was made"):
        measure(objective.batched(8))
    with pytest.raises(ValueError, match="the data were written to after the objective was made"):
        measure(objective)


@pytest.mark.parametrize("kind", ["array", "data", "view", "indices", "lazy"])
def test_labels_are_compared_by_their_numbers(kind: str) -> None:
    array = Y.numpy().copy()
    labels = torch.from_numpy(array)
    data = {
        "array": (X.numpy(), array),
        "data": (X, labels),
        "view": (X, Y),
        "indices": (X, Y),
        "lazy": (landscape.LazyInputs(lambda rows: X[rows], tuple(X.shape), X.dtype), labels),
    }[kind]
    part = {"labels": labels} if kind == "view" else {"indices": labels[:1]} if kind == "indices" else {}
    views = [landscape.View("all", **part)]
    objective = landscape.Objective(nn.Linear(4, 3), nn.CrossEntropyLoss(), data, views=views)
    objective.loss()
    if kind == "data":
        labels.data[0] = 2
    else:
        array[0] = 2
    with pytest.raises(ValueError, match="the data were written to after the objective was made"):
        objective.loss()


@pytest.mark.parametrize("change", ["written", "replaced", "removed", "ignored"])
def test_a_loss_whose_mean_has_changed_is_refused(change: str) -> None:
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    objective = landscape.Objective(nn.Linear(4, 3), loss_fn, (X, Y))
    objective.loss()
    if change == "written":
        loss_fn.weight.data[0] = 50.0  # type: ignore[union-attr]
    elif change == "ignored":
        loss_fn.ignore_index = 0
    else:
        loss_fn.weight = None if change == "removed" else torch.ones(3)
    for measure in (landscape.Objective.loss, landscape.Objective.gradient):
        with pytest.raises(ValueError, match="were changed after the objective was made; make a new one"):
            measure(objective.astype(torch.float64))


def test_a_schedule_of_label_smoothing_is_followed() -> None:
    loss_fn, model = nn.CrossEntropyLoss(), nn.Linear(4, 3)
    objective = landscape.Objective(model, loss_fn, (X, Y))
    objective.loss()
    loss_fn.label_smoothing = 0.3
    expected = functional.cross_entropy(model(X), Y, label_smoothing=0.3).item()
    assert objective.loss() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("labels", [Y.numpy(), Y.tolist()], ids=["array", "list"])
def test_a_view_takes_labels_of_any_kind(labels: Any) -> None:
    model = nn.Linear(4, 3)
    objective = landscape.Objective(
        model, nn.CrossEntropyLoss(), (X, 0 * Y), views=[landscape.View("a", labels=labels)]
    )
    assert objective.loss() == pytest.approx(functional.cross_entropy(model(X), Y).item(), rel=1e-6)


def test_positions_that_are_no_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="sample positions, whole numbers and not a mask"):
        landscape.Objective(
            nn.Linear(4, 3),
            nn.CrossEntropyLoss(),
            (X, Y),
            views=[landscape.View("a", indices=torch.tensor([0.0, 1.5]))],
        )


@pytest.mark.parametrize("indices", [[0, 1, 2], range(3), np.arange(3), torch.arange(3)], ids=repr)
def test_a_view_takes_positions_of_any_kind(indices: object) -> None:
    model = nn.Linear(4, 3)
    views = [landscape.View("few", indices=indices)]  # type: ignore[arg-type]
    found = landscape.Objective(model, nn.CrossEntropyLoss(), (X, Y), views=views).loss()
    assert found == pytest.approx(functional.cross_entropy(model(X[:3]), Y[:3]).item(), rel=1e-6)


def test_two_views_of_one_name_are_refused() -> None:
    views = [landscape.View("a", indices=torch.arange(5)), landscape.View("a")]
    with pytest.raises(ValueError, match="several views are named 'a'"):
        landscape.Objective(nn.Linear(4, 3), nn.CrossEntropyLoss(), (X, Y), views=views)
    with pytest.raises(ValueError, match="several views are named 'a'"):
        landscape.Objective(nn.Linear(4, 3), nn.CrossEntropyLoss(), (X, Y)).with_views(views)


def test_a_loss_that_is_rounded_to_nothing_has_a_gradient() -> None:
    """Every margin is above 40, so the loss is 0 in floating point and differences of it say nothing."""
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-40.0, 0.0], [40.0, 0.0]]))
    x = torch.tensor([[1.5, 0.3], [-1.2, 0.7], [1.1, -0.2], [-2.0, 0.1]])
    labels = (x[:, 0] > 0).long()
    objective = landscape.Objective(model.double(), nn.CrossEntropyLoss(), (x.double(), labels))
    assert objective.loss() == 0.0
    expected = torch.autograd.grad(functional.cross_entropy(model(x.double()), labels), model.weight)[0]
    assert torch.equal(objective.gradient(), expected.reshape(-1))
    landscape.m_sharpness(objective, 0.05, m=1)


def test_a_wrong_gradient_of_a_loss_that_is_nothing_is_refused() -> None:
    class Pretending(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        return Pretending.apply(outputs).mean()  # type: ignore[no-untyped-call]

    with pytest.raises(ValueError, match="the gradient is not the slope of the loss"):
        landscape.Objective(nn.Linear(4, 3), loss_fn, (X, Y)).gradient()
