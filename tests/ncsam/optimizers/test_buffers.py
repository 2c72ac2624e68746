"""Buffers that a forward pass writes to, or replaces: they move once a step, and not at all in a step that fails."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ncsam.optimizers import SAM
from tests.ncsam.optimizers.problem import CLASSES, FEATURES, WHOLE, data, loss_fn, make, same, sgd

F64 = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:projection keeps")


class Running(nn.Module):
    """A layer with a running mean of what it gives, which each training pass renews in the way of ``how``."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.first, self.head = how, nn.Linear(FEATURES, 8, dtype=F64), nn.Linear(8, CLASSES, dtype=F64)
        self.mean: Tensor | None
        self.register_buffer("mean", {"none before": None, "resized": torch.zeros(0, dtype=F64)}.get(how, zeros()))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.training:
            self.renew(h.detach().mean(0))
        out: Tensor = self.head((h - self.mean).tanh())
        return out

    @torch.no_grad()
    def renew(self, seen: Tensor) -> None:
        if self.mean is None:
            self.mean = zeros()
        if self.how == "resized" and not len(self.mean):
            self.mean.resize_(8).zero_()
        if self.how == "data":
            self.mean.data = 0.9 * self.mean + 0.1 * seen
        elif self.how in ("assigned", "none before"):
            self.mean = 0.9 * self.mean + 0.1 * seen
        else:
            self.mean.mul_(0.9).add_(seen, alpha=0.1)


def zeros() -> Tensor:
    return torch.zeros(8, dtype=F64)


def one_update(model: Running, x: Tensor) -> list[float]:
    """0.1 of the mean output of the first layer, as a plain loop has it."""
    w, b = model.first.weight.tolist(), model.first.bias.tolist()
    outputs = [[sum(map(math.prod, zip(row, r, strict=True))) + c for r, c in zip(w, b, strict=True)] for row in x]
    return [0.1 * float(sum(column)) / len(x) for column in zip(*outputs, strict=True)]


WAYS = ["in place", "assigned", "data", "none before", "resized"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", WHOLE)
def test_a_buffer_moves_once_a_step(name: str, how: str) -> None:
    model = Running(how)
    x, y, true = data(dtype=F64)
    expected = one_update(model, x)
    assert make(name, model).step(x, y, loss_fn, progress=1.0, true_labels=true).skipped is None
    assert model.mean is not None
    assert model.mean.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("by", ["step", "backward"])
def test_and_once_where_a_closure_is_called_twice(by: str, how: str) -> None:
    model = Running(how)
    opt = SAM(model, sgd(model), rho=0.5)
    x, y, _ = data(dtype=F64)
    expected = one_update(model, x)
    getattr(opt, by)(lambda: (loss := loss_fn(model(x), y), loss.backward())[0])
    assert model.mean is not None
    assert model.mean.tolist() == pytest.approx(expected, rel=1e-12)


def nan_at_w(model: nn.Module, x: Tensor, calls: int) -> Tensor:
    out: Tensor = model(x) * math.nan
    return out


def nan_there(model: nn.Module, x: Tensor, calls: int) -> Tensor:
    out: Tensor = model(x) * (math.nan if calls == 2 else 1.0)
    return out


def raises_there(model: nn.Module, x: Tensor, calls: int) -> Tensor:
    out: Tensor = model(x)
    if calls == 2:
        raise ZeroDivisionError
    return out


@pytest.mark.parametrize("forward", [nan_at_w, nan_there, raises_there])
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", ["sam", "ncsam", "m-sam"])
def test_a_step_that_fails_leaves_the_same_tensor_with_the_same_numbers(
    name: str, how: str, forward: Callable[..., Tensor]
) -> None:
    model, calls = Running(how), 0

    def counting(model: nn.Module, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(model, x, calls)

    before, numbers = model.mean, None if model.mean is None else model.mean.clone()
    opt = make(name, model, forward=counting)
    x, y, _ = data(dtype=F64)
    try:
        assert opt.step(x, y, loss_fn, progress=1.0).skipped is not None
    except ZeroDivisionError:
        assert forward is raises_there
    assert model.mean is before
    if numbers is not None:
        assert model.mean is not None
        assert torch.equal(model.mean, numbers)


def test_a_buffer_that_two_layers_share_stays_shared() -> None:
    model = nn.ModuleList([Running("assigned"), Running("in place")])
    model[1].mean = shared = model[0].mean
    opt: Any = make("sam", model, forward=lambda m, x: (m[0](x) + m[1](x)) * math.inf)
    assert opt.step(*data(dtype=F64)[:2], loss_fn).skipped is not None
    assert model[0].mean is shared
    assert model[1].mean is shared
    assert torch.equal(shared, zeros())


class Scriptable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(FEATURES, 8, dtype=F64), nn.Linear(8, CLASSES, dtype=F64)
        self.register_buffer("mean", zeros())
        self.register_buffer("unused", None)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return self.head((h - self.mean).tanh())


def test_scripted_models_assign_their_buffers_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        model: Any = torch.jit.script(Scriptable())
    x, y, _ = data(dtype=F64)
    expected = one_update(model, x)
    assert make("sam", model).step(x, y, loss_fn).skipped is None
    assert model.mean.tolist() == pytest.approx(expected, rel=1e-12)
    before = [b.clone() for b in model.buffers()]
    assert make("sam", model).step(x * math.inf, y, loss_fn).skipped is not None
    assert same(before, list(model.buffers()))


@pytest.mark.parametrize("name", WHOLE)
def test_the_pass_at_the_perturbed_weights_starts_from_buffers_that_moved_once(name: str) -> None:
    """Also where the perturbation runs the model for its own purposes in between, as the released NCSAM does."""

    class Watched(Running):
        def forward(self, x: Tensor) -> Tensor:
            starts.append(zeros() if self.mean is None else self.mean.clone())
            return super().forward(x)

    starts: list[Tensor] = []
    model = Watched("in place")
    x, y, true = data(dtype=F64)
    expected = one_update(model, x)
    make(name, model).step(x, y, loss_fn, progress=1.0, true_labels=true)
    of_last = zeros().tolist() if len(starts) == 1 else expected  # the base optimizer has one pass
    assert starts[-1].tolist() == pytest.approx(of_last, rel=1e-12)
