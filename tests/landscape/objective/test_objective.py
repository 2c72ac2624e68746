"""The objective is exact against plain evaluation and leaves no trace."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset

import landscape
from landscape.objective.checks import NotDeterministicError
from landscape.objective.objective import EmptyViewError
from tests.reference import CASES, Case, TinyCNN, dense_loss, flat

RTOL64 = 1e-12


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_loss_and_gradient_equal_the_plain_full_batch(case: Case, batch_size: int) -> None:
    model, loss_fn, x, y = case.make()
    obj = landscape.Objective(model, loss_fn, (x, y), batch_size=batch_size)
    w = flat([p.detach() for p in model.parameters() if p.requires_grad]).requires_grad_()
    expected = dense_loss(model, loss_fn, x, y)(w)
    (gradient,) = torch.autograd.grad(expected, w)
    assert obj.loss() == pytest.approx(expected.item(), rel=RTOL64)
    torch.testing.assert_close(obj.gradient(), gradient, rtol=1e-10, atol=1e-14)


@given(batch_size=st.integers(1, 13), order=st.permutations(range(9)))
@settings(max_examples=25, deadline=None)
def test_loss_does_not_depend_on_batch_size_or_order(batch_size: int, order: list[int]) -> None:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(9, 4, generator=g, dtype=torch.float64), torch.arange(9) % 3
    model = nn.Linear(4, 3).double()
    whole = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=9).loss()
    parts = landscape.Objective(model, nn.CrossEntropyLoss(), (x[order], y[order]), batch_size=batch_size).loss()
    assert parts == pytest.approx(whole, rel=RTOL64)


def test_views_share_a_source_and_differ_in_samples_and_labels() -> None:
    torch.manual_seed(3)
    model = nn.Linear(4, 3).double()
    x, observed, true = torch.randn(20, 4).double(), torch.randint(3, (20,)), torch.randint(3, (20,))
    tx, ty = torch.randn(7, 4).double(), torch.randint(3, (7,))
    noisy = torch.nonzero(observed != true).squeeze(1)
    clean = torch.nonzero(observed == true).squeeze(1)
    obj = landscape.Objective(
        model,
        nn.CrossEntropyLoss(),
        {"train": (x, observed), "test": (tx, ty)},
        batch_size=6,
        views=[
            landscape.View("mixed", "train"),
            landscape.View("clean_part", "train", clean),
            landscape.View("noisy_part", "train", noisy),
            landscape.View("true_labels", "train", labels=true),
            landscape.View("none", "train", noisy[:0]),
            landscape.View("test", "test"),
        ],
    )
    found = obj.evaluate()
    ce = nn.CrossEntropyLoss()
    with torch.no_grad():
        expected = {
            "mixed": ce(model(x), observed),
            "clean_part": ce(model(x[clean]), observed[clean]),
            "noisy_part": ce(model(x[noisy]), observed[noisy]),
            "true_labels": ce(model(x), true),
            "test": ce(model(tx), ty),
        }
        accuracy = (model(x[noisy]).argmax(1) == observed[noisy]).double().mean().item()
    for name, value in expected.items():
        assert found.loss[name] == pytest.approx(value.item(), rel=RTOL64)
        assert obj.view(name).loss() == pytest.approx(value.item(), rel=RTOL64)
    assert found.metrics["accuracy"]["noisy_part"] == pytest.approx(accuracy)
    assert np.isnan(found.loss["none"])
    assert np.isnan(found.metrics["accuracy"]["none"])
    with pytest.raises(EmptyViewError, match="'none' has no samples"):
        obj.view("none").loss()
    with pytest.raises(ValueError, match=r"several views \(mixed, .*choose one"):
        obj.loss()
    with pytest.raises(ValueError, match="no view 'typo'; this objective has mixed"):
        obj.view("typo")


def test_one_forward_pass_serves_all_views_of_a_source() -> None:
    calls = []
    model = nn.Linear(4, 3)
    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    views = [landscape.View(f"labels{i}", labels=torch.randint(3, (8,))) for i in range(5)]
    obj = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=8, views=views)
    obj.evaluate()
    model.register_forward_hook(lambda *_: calls.append(1))
    obj.evaluate()
    assert len(calls) == 1


def test_the_model_and_the_random_state_come_back_untouched_also_after_an_exception() -> None:
    model, loss_fn, x, y = CASES[2].make()
    model.train()
    model[1].eval()  # a mixed state must come back as mixed
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    obj = landscape.Objective(model, loss_fn, (x, y), batch_size=4)

    def check() -> None:
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert [m.training for m in model.modules()] == modes
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert torch.equal(torch.get_rng_state(), rng)

    obj.loss(), obj.gradient(), landscape.HessianOperator(obj) @ obj.weights
    obj.at(obj.weights * 2).loss()
    check()

    def explode(*_: object) -> None:
        raise RuntimeError("explode")

    handle = model[5].register_forward_hook(explode)
    for attempt in (obj.loss, obj.gradient, lambda: landscape.HessianOperator(obj) @ obj.weights):
        with pytest.raises(RuntimeError, match="explode"):
            attempt()
        check()
    handle.remove()


def test_buffers_changed_in_forward_stay_the_users() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(x)

    model = Counting()
    landscape.Objective(model, nn.CrossEntropyLoss(), (torch.randn(6, 4), torch.zeros(6, dtype=torch.long))).gradient()
    assert model.calls == 0


@pytest.mark.parametrize("kind", ["functional dropout", "state outside the model"])
def test_two_different_evaluations_at_one_point_are_an_error(kind: str) -> None:
    calls: list[int] = []

    class Random(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            x = nn.functional.dropout(x) if kind == "functional dropout" else x * len(calls)
            return super().forward(x)

    obj = landscape.Objective(Random(4, 3), nn.CrossEntropyLoss(), (torch.randn(6, 4), torch.arange(6) % 3))
    with pytest.raises(NotDeterministicError, match="two evaluations of one batch"):
        obj.loss()


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (nn.CrossEntropyLoss(reduction="sum"), "not a mean over samples"),
        (nn.CrossEntropyLoss(reduction="none"), "expected one number"),
        (lambda o, y: nn.functional.cross_entropy(o, y, weight=torch.tensor([1.0, 9.0, 1.0])), "not a mean"),
    ],
)
def test_a_loss_that_is_not_a_mean_is_refused(loss_fn: nn.Module, message: str) -> None:
    obj = landscape.Objective(nn.Linear(4, 3), loss_fn, (torch.randn(6, 4), torch.tensor([1, 1, 1, 0, 0, 2])))
    with pytest.raises(ValueError, match=message):
        obj.loss()


def test_dict_batches_and_dict_outputs() -> None:
    class DictModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, features: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.head(features) * scale[:, None]}

    model = DictModel().double()
    data = {
        "features": torch.randn(10, 4).double(),
        "scale": torch.rand(10).double(),
        "labels": torch.randint(3, (10,)),
    }
    obj = landscape.Objective(
        model,
        lambda out, y: nn.functional.cross_entropy(out["logits"], y),
        data,
        batch_size=4,
        forward=lambda m, b: m(b["features"], b["scale"]),
        metrics={"accuracy": lambda out, y: (out["logits"].argmax(1) == y).double()},
        views=[landscape.View("data"), landscape.View("head", indices=torch.arange(3))],
    )
    with torch.no_grad():
        logits = model(data["features"], data["scale"])["logits"]
    found = obj.evaluate()
    assert found.loss["data"] == pytest.approx(nn.functional.cross_entropy(logits, data["labels"]).item(), rel=RTOL64)
    correct = (logits.argmax(1) == data["labels"]).double()
    assert found.metrics["accuracy"]["data"] == pytest.approx(correct.mean().item())
    assert found.metrics["accuracy"]["head"] == pytest.approx(correct[:3].mean().item())


def test_regression_has_no_accuracy() -> None:
    model, loss_fn, x, y = CASES[1].make()
    assert landscape.Objective(model, loss_fn, (x, y)).evaluate().metrics == {}


def test_datasets_and_loaders_equal_tensors_and_keep_the_random_state() -> None:
    model = TinyCNN().double()
    x, y = torch.randn(10, 1, 5, 5), torch.randint(3, (10,))
    expected = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y)).loss()
    state = torch.get_rng_state()
    dataset = TensorDataset(x, y)
    for data in (dataset, DataLoader(dataset, batch_size=3), DataLoader(dataset, batch_size=4, shuffle=True)):
        assert landscape.Objective(model, nn.CrossEntropyLoss(), data).loss() == pytest.approx(expected, rel=1e-10)
    assert torch.equal(torch.get_rng_state(), state)


def test_data_too_large_to_keep_are_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = nn.Linear(4, 3).double(), torch.randn(10, 4), torch.randint(3, (10,))
    expected = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y)).loss()
    monkeypatch.setattr("landscape.objective.sources.CACHE_BYTES", 32)
    streamed = landscape.Objective(model, nn.CrossEntropyLoss(), DataLoader(TensorDataset(x, y), batch_size=3))
    assert streamed.loss() == pytest.approx(expected, rel=RTOL64)
    assert streamed.loss() == streamed.loss()


class Augmented(TensorDataset):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        x, y = super().__getitem__(index)
        return x + torch.randn(4), y


@pytest.mark.parametrize("kind", ["shuffle", "subset", "batch sampler", "augmentation"])
def test_large_data_that_are_not_the_same_twice_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = TensorDataset(torch.randn(60, 4), torch.randint(3, (60,)))
    loaders = {
        "shuffle": lambda: DataLoader(data, 20, shuffle=True),
        "subset": lambda: DataLoader(data, 20, sampler=SubsetRandomSampler(range(60))),
        "batch sampler": lambda: DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 20, False)),
        "augmentation": lambda: DataLoader(Augmented(*data.tensors), 20),
    }
    monkeypatch.setattr("landscape.objective.sources.CACHE_BYTES", 100)
    model, state = nn.Linear(4, 3), torch.get_rng_state()
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), loaders[kind]())
    with pytest.raises(ValueError, match="not the same at every pass"):
        objective.loss()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("data", "views", "message"),
    [
        ((torch.zeros(3, 4), torch.zeros(2)), None, r"entry \[0\] has shape \(3, 4\), where the batch has"),
        ((torch.zeros(0, 4), torch.zeros(0)), None, "no samples"),
        ((torch.zeros(3, 4),), None, "holds no labels"),
        ("digits", None, "data is a str, expected"),
        ({"input_ids": torch.zeros(3, 4)}, None, "expected one of labels"),
        ((torch.zeros(3, 4), torch.zeros(3)), [landscape.View("v", "train")], "the data have data"),
        ((torch.zeros(3, 4), torch.zeros(3)), [landscape.View("v", indices=torch.tensor([3]))], r"expected 0…2"),
        ((torch.zeros(3, 4), torch.zeros(3)), [landscape.View("v", indices=torch.tensor([1, 1]))], "twice"),
        ((torch.zeros(3, 4), torch.zeros(3)), [landscape.View("v", labels=torch.zeros(2))], "2 labels, expected"),
    ],
)
def test_bad_data_are_refused_in_one_line(data: object, views: list[landscape.View] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        landscape.Objective(nn.Linear(4, 3), nn.MSELoss(), data, views=views)
    assert "\n" not in str(error.value)


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter with requires_grad=True"):
        landscape.Objective(nn.ReLU(), nn.MSELoss(), (torch.zeros(3, 4), torch.zeros(3)))
