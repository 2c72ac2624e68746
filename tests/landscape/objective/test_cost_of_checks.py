"""What the checks cost: passes of the model, set-ups of its state, and calls of what they do not need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import landscape

DERIVATIVES: dict[str, Callable[[landscape.Objective], object]] = {
    "gradient": lambda objective: objective.gradient(),
    "product": lambda objective: landscape.HessianOperator(objective) @ torch.ones(objective.num_parameters),
}


class Counted:
    """An objective of 20 samples in two micro-batches, whose forward passes and calls of a metric are counted."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.samples: list[int] = []
        self.metrics = 0
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        self.data = torch.randn(20, 3), torch.arange(20) % 2

    def objective(self, checks: str) -> landscape.Objective:
        loss: Any = lambda outputs, labels: nn.functional.cross_entropy(outputs, labels)  # noqa: E731
        return landscape.Objective(
            self.model,
            loss,
            self.data,
            batch_size=10,
            forward=self.forward,
            metrics={"mean": self.metric},
            checks=checks,
        )

    def forward(self, model: nn.Module, batch: Any) -> Any:
        self.samples.append(len(batch[0]))
        return model(batch[0])

    def metric(self, outputs: Tensor, labels: Tensor) -> Tensor:
        self.metrics += 1
        return outputs.mean()

    def passes(self, checks: str, job: Callable[[landscape.Objective], object]) -> int:
        """Forward passes over the four samples that derivatives are checked on."""
        self.samples.clear()
        job(self.objective(checks))
        return self.samples.count(4)


@pytest.mark.parametrize(("job", "passes"), [("gradient", 3), ("product", 3)])
def test_a_derivative_is_checked_with_one_look_and_the_two_sides_of_a_difference(job: str, passes: int) -> None:
    counted = Counted()
    assert counted.passes("off", DERIVATIVES[job]) == 0
    assert counted.passes("full", DERIVATIVES[job]) == passes  # a product is its own look


@pytest.mark.parametrize("job", DERIVATIVES)
def test_a_derivative_is_checked_without_the_metrics(job: str) -> None:
    counted = Counted()
    DERIVATIVES[job](counted.objective("full"))
    assert counted.metrics == 0


@pytest.mark.parametrize("job", DERIVATIVES)
def test_the_checks_set_the_state_of_the_model_aside_once_more_at_most(
    job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, own = {}, torch.get_rng_state
    for checks in ("off", "full"):
        calls: list[int] = []
        monkeypatch.setattr(torch, "get_rng_state", lambda calls=calls: (calls.append(1), own())[1])
        DERIVATIVES[job](Counted().objective(checks))
        times[checks] = len(calls)
    assert times["full"] <= times["off"] + 1


def test_an_objective_without_metrics_has_the_same_loss() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(16, 3), torch.arange(16) % 2
    model = nn.Linear(3, 2)
    plain = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=5).evaluate()
    without = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=5, metrics={}).evaluate()
    assert without.loss == plain.loss
    assert set(plain.metrics) == {"accuracy"}
    assert without.metrics == {}


def test_every_sample_is_run_twice_by_the_halves_of_the_first_batch_and_only_where_these_do_not_tell_by_all() -> None:
    counted = Counted()
    counted.objective("full").loss()
    assert counted.samples == [10, 5, 5, 1, 1, 1, 8, 10, 2, 1, 10, 10]
    counted.samples.clear()
    beside = counted.forward
    counted.forward = lambda model, batch: (beside(model, batch), torch.ones(()))  # type: ignore[method-assign]
    loss: Any = lambda outputs, labels: nn.functional.cross_entropy(outputs[0], labels)  # noqa: E731
    counted.objective("full").with_loss(loss).gradient()
    assert counted.samples[:7] == [10, 5, 5, 1, 1, 1, 10]  # an output that no half can be compared in


def test_a_new_surface_has_its_plain_losses_from_the_checks_and_a_later_one_the_same_from_a_pass() -> None:
    counted = Counted()
    objective = counted.objective("full")
    direction, found, passes = torch.ones(objective.num_parameters), [], []
    for _ in range(2):
        counted.samples.clear()
        found.append(landscape.line(objective, direction, [-1.0, 0.0, 1.0]))
        passes.append(counted.samples.count(10))
    assert passes[0] == passes[1]
    assert found[0].plain_loss.tolist() == found[1].plain_loss.tolist() == [objective.loss()]
