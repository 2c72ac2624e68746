"""Layers fed with the data: what they combine is what they would compute, and they come back as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import landscape
from landscape.objective.evaluation import input_layers
from landscape.objective.evaluation.evaluate import Evaluation
from landscape.objective.objective import Objective
from landscape.surfaces.line_and_plane import surface_fields
from landscape.surfaces.rows import MemoryRows

INPUTS, CLASSES, SAMPLES = 40, 3, 23


class Nested(nn.Module):
    """A layer fed with images flattened by the model, one called twice, a frozen bias, and no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, INPUTS)
        self.again = nn.Linear(INPUTS, INPUTS, bias=False)
        self.skip = nn.Linear(INPUTS, CLASSES)
        self.skip.bias.requires_grad_(False)
        self.last = nn.Linear(INPUTS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        hidden = self.again(self.first(flat).relu_()) + self.again(flat)
        return self.last(hidden.tanh()) + self.skip(flat)


class Changed(nn.Module):
    """Feeds its layer with what is no view of the data, or none in a row."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.layer = change, nn.Linear(INPUTS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.change(x.flatten(1)))


def objective_of(model: nn.Module, dtype: torch.dtype = torch.float64) -> Objective:
    x, y = torch.randn(SAMPLES, 1, 5, INPUTS // 5, dtype=dtype), torch.arange(SAMPLES) % CLASSES
    views = [landscape.View("all"), landscape.View("some", indices=torch.arange(0, SAMPLES, 2), labels=y.flip(0))]
    return Objective(model.to(dtype), nn.CrossEntropyLoss(), (x, y), batch_size=7, views=views)


def running_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_layers, "MEMORY", 0)


def patched(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def losses(objective: Objective, directions: Sequence[Tensor], points: Iterable[Sequence[float]]) -> np.ndarray:
    found: list[list[float]] = []

    def run(evaluate: Callable[[Sequence[float]], Evaluation]) -> None:
        found.extend(list(evaluate(point).loss.values()) for point in points)

    objective.explore(directions, run)
    return np.array(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2])
def test_combined_outputs_give_the_losses_of_running_layers(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, count: int
) -> None:
    objective = objective_of(Nested(), dtype)
    directions = [torch.randn(objective.num_parameters, dtype=dtype) for _ in range(count)]
    points = [[0.0] * count, [0.3] * count, [-1.0, 2.0][:count]]
    combined = losses(objective, directions, points)
    assert combined[0] == pytest.approx(list(objective.evaluate().loss.values()), rel=0)  # bitwise at the centre
    running_layers(monkeypatch)
    tolerance = 100 * torch.finfo(dtype).eps
    np.testing.assert_allclose(combined, losses(objective, directions, points), rtol=tolerance)


def test_which_layers_combine(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Nested()
    objective = objective_of(model)
    d = torch.ones(objective.num_parameters).double()
    seen: list[list[str]] = []
    for count in (0, 1, 2, 3):
        objective.explore([d] * count, lambda evaluate: seen.append(patched(model)))
    everything = ["first", "again", "skip", "last"]
    assert seen == [[], everything, everything, []]  # 3 × 16 inputs are more than 40
    objective.restricted("last").explore([d[: 3 * INPUTS + 3]], lambda evaluate: seen.append(patched(model)))
    assert seen[-1] == ["last"]  # the others do not move
    running_layers(monkeypatch)
    objective.explore([d], lambda evaluate: seen.append(patched(model)))
    assert seen[-1] == patched(model) == []


def test_layers_with_a_forward_of_their_own_are_left_alone() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = nn.Sequential(nn.Flatten(), Own(INPUTS, CLASSES))
    wrapped = nn.Linear(INPUTS, CLASSES)
    wrapped.forward = lambda x: nn.Linear.forward(wrapped, 3 * x)
    for tested in (model, nn.Sequential(nn.Flatten(), wrapped)):
        objective = objective_of(tested)
        d = torch.randn(objective.num_parameters).double()
        moved = objective.at(objective.weights + 0.5 * d)
        expected = [list(moved.evaluate().loss.values())]
        np.testing.assert_allclose(losses(objective, [d], [[0.5]]), expected, rtol=1e-12)
    assert "forward" in vars(wrapped)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * 2,
        lambda x: x.reshape(-1, 2, INPUTS // 2).transpose(1, 2).reshape(-1, INPUTS),
        lambda x: x.flip(0),
        lambda x: x[:1].expand(len(x), INPUTS),
        lambda x: torch.vmap(lambda row: row)(x),
    ],
    ids=["changed", "transposed", "turned", "expanded", "mapped"],
)
def test_other_inputs_run_as_usual(change: Callable[[Tensor], Tensor]) -> None:
    model = Changed(change)
    objective = objective_of(model)
    d = torch.randn(objective.num_parameters).double()
    moved = objective.at(objective.weights - 0.7 * d)
    np.testing.assert_allclose(losses(objective, [d], [[-0.7]])[0], list(moved.evaluate().loss.values()), rtol=1e-12)


def test_layers_within_torch_func_run_as_usual() -> None:
    class Sloped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(INPUTS, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            slopes = torch.func.vmap(torch.func.grad(lambda v: self.layer(v).square().sum()))(flat)
            return slopes[:, :CLASSES]

    objective = objective_of(Sloped())
    d = torch.randn(objective.num_parameters).double()
    moved = objective.at(objective.weights + 0.1 * d)
    np.testing.assert_allclose(losses(objective, [d], [[0.1]])[0], list(moved.evaluate().loss.values()), rtol=1e-12)


def test_planes_do_not_depend_on_order_or_interruption_and_leave_the_model_alone() -> None:
    model = Nested()
    objective = objective_of(model, torch.float32)
    d1, d2 = (landscape.filter_normalized_direction(model, seed=i) for i in (0, 1))
    grid = np.linspace(-1, 1, 5)
    before = {n: (t.clone(), t.data_ptr()) for n, t in model.state_dict().items()}
    whole = landscape.plane(objective, d1, d2, grid, grid, check=False)
    rows = MemoryRows(25, surface_fields(objective))

    def stopping(points: Iterable[int]) -> Iterable[int]:
        for i, point in enumerate(points):
            if i == 9:
                assert patched(model)
                raise KeyboardInterrupt
            yield point

    with pytest.raises(KeyboardInterrupt):
        landscape.plane(objective, d1, d2, grid, grid, check=False, rows=rows, progress=stopping)
    assert patched(model) == []
    resumed = landscape.plane(objective, d1, d2, grid, grid, check=False, rows=rows)
    np.testing.assert_array_equal(whole.loss, resumed.loss)
    np.testing.assert_array_equal(whole.accuracy, resumed.accuracy)
    backwards = landscape.plane(objective, d1, d2, grid[::-1], grid[::-1], check=False)
    np.testing.assert_array_equal(whole.loss, backwards.loss[:, ::-1, ::-1])
    assert all(torch.equal(t, model.state_dict()[n]) for n, (t, _) in before.items())
    assert all(place == model.state_dict()[n].data_ptr() for n, (_, place) in before.items())
