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
