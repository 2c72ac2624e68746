"""Models and losses of other people's forms: what is measured is theirs, or they are told why not."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import landscape
from landscape.objective import checks, cross_entropy, mean_check
from landscape.objective.checks import NotDeterministicError
from landscape.objective.differences import sample


@dataclasses.dataclass
class Answer:
    logits: Tensor
    loss: Tensor


class OwnLoss(nn.Module):
    """Computes its loss from the batch's labels, over those that are not -100."""

    def __init__(self, answer: Any = dict) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(4, 3), answer

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        logits = self.layer(x)
        return self.answer(logits=logits, loss=functional.cross_entropy(logits, labels))


def data(n: int = 50) -> dict[str, Tensor]:
    return {"x": torch.randn(n, 4), "labels": torch.randint(3, (n,))}


def objective(model: nn.Module, batch: Any, **options: Any) -> landscape.Objective:
    forward = lambda model, batch: model(**batch)  # noqa: E731 - as users write it
    return landscape.Objective(model, lambda out, _: out["loss"], batch, batch_size=16, forward=forward, **options)


def test_a_loss_computed_inside_the_model_is_measured_as_one_outside() -> None:
    model, batch = OwnLoss(), data()
    outside = landscape.Objective(model.layer, nn.CrossEntropyLoss(), (batch["x"], batch["labels"]), batch_size=16)
    inside = objective(model, batch)
    assert inside.loss_is_inside
    assert not outside.loss_is_inside
    assert inside.loss() == pytest.approx(outside.loss(), rel=1e-6)
    v = torch.randn(inside.num_parameters)
    torch.testing.assert_close(landscape.HessianOperator(inside) @ v, landscape.HessianOperator(outside) @ v)


@pytest.mark.parametrize("operator", [landscape.GGNOperator, landscape.EmpiricalFisherOperator])
def test_what_needs_outputs_says_so_instead_of_returning_zeros(operator: Any) -> None:
    with pytest.raises(ValueError, match="computed inside the model, but a"):
        operator(objective(OwnLoss(), data()))


def test_views_that_such_a_loss_cannot_serve_are_refused_each_time() -> None:
    batch = data()
    relabelled = landscape.View("other", labels=1 - batch["labels"].clamp(max=1))
    parts = [landscape.View("head", indices=torch.arange(5)), landscape.View("all")]
    for views, message in (([relabelled], "labels of its own"), (parts, "shares its batches")):
        obj = objective(OwnLoss(), batch, views=views)
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                obj.evaluate()


def test_a_single_selection_is_served_by_batches_of_its_samples() -> None:
    model, batch, rows = OwnLoss(), data(), torch.arange(7, 30)
    obj = objective(model, batch, views=[landscape.View("some", indices=rows)])
    expected = functional.cross_entropy(model.layer(batch["x"][rows]), batch["labels"][rows]).item()
    assert obj.loss() == pytest.approx(expected, rel=1e-6)


def test_a_loss_inside_that_averages_over_fewer_samples_is_noticed_and_can_be_weighted() -> None:
    model, batch = OwnLoss(), data()
    batch["labels"][4:14] = -100
    with pytest.raises(ValueError, match="not a mean over samples"):
        objective(model, batch).loss()
    obj = objective(model, batch, normalizer=lambda labels: float((labels != -100).sum()))
    expected = functional.cross_entropy(model.layer(batch["x"]), batch["labels"]).item()
    assert obj.loss() == pytest.approx(expected, rel=1e-6)


def test_an_output_whose_rows_cannot_be_picked_is_named() -> None:
    with pytest.raises(ValueError, match="returns a Answer, whose rows"):
        landscape.Objective(
            OwnLoss(Answer), lambda out, y: functional.cross_entropy(out.logits, y), data(),
            forward=lambda model, batch: model(**batch),
        ).loss()  # fmt: skip


def test_mappings_of_any_class_are_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = OwnLoss(), data()
    expected = objective(model, batch).loss()
    assert objective(model, collections.UserDict(batch)).loss() == expected
    samples = [{name: column[i] for name, column in batch.items()} for i in range(50)]

    def collate(chosen: list[dict[str, Tensor]]) -> Any:
        return collections.UserDict(torch.utils.data.default_collate(chosen))

    # Larger than the objective's own micro-batches, so that it has to cut them.
    loader: Any = DataLoader(samples, batch_size=40, collate_fn=collate)  # type: ignore[arg-type]
    assert np.isclose(objective(model, loader).loss(), expected, rtol=1e-6)
    monkeypatch.setattr("landscape.objective.sources.CACHE_BYTES", 0)
    assert np.isclose(objective(model, loader).loss(), expected, rtol=1e-6)


def weighted(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, torch.tensor([1.0, 2.0, 5.0]).to(outputs))


def total(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, reduction="sum")


def of_probabilities(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.nll_loss(outputs.log(), labels, torch.tensor([1.0, 2.0, 5.0]).to(outputs))


@pytest.mark.parametrize("loss", [weighted, total, of_probabilities])
@pytest.mark.parametrize("sizes", [(16, 16), (2, 30), (9,)], ids=str)
def test_a_mean_over_something_else_shows_on_a_few_rows_of_large_outputs(
    loss: Any, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mean_check, "_NUMBERS", 1)
    torch.manual_seed(0)
    batches = [(torch.randn(n, 4), torch.randint(3, (n,))) for n in sizes]
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1) if loss is of_probabilities else nn.Identity())
    with pytest.raises(ValueError, match="not a mean over samples"):
        landscape.Objective(model, loss, batches).loss()
    right = landscape.Objective(model, lambda o, y: functional.cross_entropy(o, y), batches)
    expected = sum(len(y) * functional.cross_entropy(model(x), y).item() for x, y in batches) / sum(sizes)
    assert right.loss() == pytest.approx(expected, rel=1e-6)


class Coupled(nn.Module):
    """Adds a little of one number of the last sample's outputs to those of another."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x).unflatten(1, (3, 2))
        change = torch.zeros_like(out)
        change[:, 2, 1] = 0.01 * out[-1, 0, 0]
        return out + change


@pytest.mark.parametrize("numbers", [1, 3, 5, 2**22])
def test_outputs_are_compared_everywhere_in_pieces_of_any_size(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_NUMBERS", numbers)
    x, y = torch.randn(12, 4), torch.randint(3, (12, 2))
    with pytest.raises(ValueError, match="depend on the others in its batch"):
        landscape.Objective(Coupled(), nn.CrossEntropyLoss(), (x, y)).loss()
    free = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (3, 2)))
    found = landscape.Objective(free, nn.CrossEntropyLoss(), (x, y)).loss()
    assert found == pytest.approx(functional.cross_entropy(free(x), y).item(), rel=1e-6)


def test_what_changes_from_call_to_call_is_no_coupling_of_samples() -> None:
    model, x, y = nn.Linear(4, 3), torch.randn(12, 4), torch.randint(3, (12,))
    noisy = lambda model, batch: model(batch[0]) + 0.1 * torch.randn(len(batch[0]), 3)  # noqa: E731
    with pytest.raises(NotDeterministicError, match="two evaluations of one batch"):
        landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), forward=noisy).loss()
    calls: list[int] = []

    def counting(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        return functional.cross_entropy(outputs, labels) * (1 + 0.01 * len(calls))

    with pytest.raises(NotDeterministicError, match="two evaluations of one batch"):
        landscape.Objective(model, counting, (x, y)).loss()


def test_a_loss_that_torch_func_differentiates_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "MANY", 0)
    model, x, y = nn.Linear(4, 3).double(), torch.randn(12, 4).double(), torch.randint(3, (12,))

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        each = torch.func.vmap(lambda o, t: functional.cross_entropy(o[None], t[None]))
        return (each(outputs, labels) ** 2).mean()

    objective = landscape.Objective(model, loss, (x, y))
    expected = (functional.cross_entropy(model(x), y, reduction="none") ** 2).mean()
    assert objective.loss() == pytest.approx(expected.item(), rel=1e-12)
    gradient = torch.autograd.grad(expected, list(model.parameters()))
    torch.testing.assert_close(objective.gradient(), torch.cat([g.flatten() for g in gradient]))


@pytest.mark.parametrize(("batch_size", "few"), [(1, 1), (2, 2), (3, 2), (16, 8)])
def test_derivatives_are_checked_on_half_a_micro_batch_and_on_single_samples_where_these_are_all(
    batch_size: int, few: int
) -> None:
    x, y = torch.randn(64, 4), torch.randint(3, (64,))
    objective = landscape.Objective(nn.Linear(4, 3), nn.CrossEntropyLoss(), (x, y), batch_size=batch_size)
    assert sample(objective).batch_size == few
