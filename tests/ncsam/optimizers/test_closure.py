"""``step(closure)`` and ``backward(closure)``: what ``step(x, y, loss_fn)`` does, or a refusal."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ncsam.optimizers import SAM, SharpnessAware, SkippedWarning
from tests.ncsam.optimizers.problem import (
    ALL,
    BASES,
    CLASSES,
    FEATURES,
    bn,
    build,
    data,
    dropout,
    everything,
    loss_fn,
    make,
    mlp,
    same,
    sgd,
    train,
    weights,
)

BY_GRADIENT = ["sgd", "sam", "asam", "replay"]
"""Those whose ε depends on the gradient alone."""


def closure_of(opt: Any, model: nn.Module, x: Tensor, y: Tensor, **zero: Any) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        opt.zero_grad(**zero)
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss

    return closure


def record(info: Any) -> dict[str, Any]:
    """A step's record without its batch; NaNs as text, so that they compare equal."""
    fields = dataclasses.asdict(dataclasses.replace(info, outputs=None, labels=None, ignored=None))
    return {key: str(value) for key, value in fields.items()}


@pytest.mark.parametrize("base", sorted(BASES))
@pytest.mark.parametrize("build_model", [mlp, bn, dropout])
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_is_bitwise_the_step_with_a_batch(name: str, build_model: Callable[[], nn.Module], base: str) -> None:
    one, other = build_model(), build_model()
    by_batch, by_closure = build(name, one, BASES[base](one)), build(name, other, BASES[base](other))
    assert isinstance(by_batch, SharpnessAware)
    for i in range(3):
        x, y, _ = data(seed=i)
        torch.manual_seed(i)
        info = by_batch.step(x, y, loss_fn)
        torch.manual_seed(i)
        loss = by_closure.step(closure_of(by_closure, other, x, y, set_to_none=i == 1))
        assert loss.item() == info.loss
        assert record(by_closure.info) == record(info)
        grads = [[p.grad for p in m.parameters()] for m in (one, other)]
        assert same(*grads)
        assert not by_closure.perturbed
    assert same(everything(one), everything(other))
    mine, theirs = by_closure.state_dict(), by_batch.state_dict()
    assert mine["ncsam"]["steps"] == theirs["ncsam"]["steps"] == 3
    torch.testing.assert_close(mine["state"], theirs["state"], rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1.0, 2.0**12])
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_backward_leaves_the_gradient_that_a_step_uses(name: str, scale: float) -> None:
    """Scaled by a power of two, it is that multiple of it bitwise; weights stay, the base optimizer did nothing."""
    one, other = bn(), bn()
    by_batch, opt = make(name, one), make(name, other)
    x, y, _ = data()
    info = by_batch.step(x, y, loss_fn)
    before = weights(other)

    def closure() -> Tensor:
        loss = loss_fn(other(x), y) * scale
        loss.backward()
        return loss

    assert opt.backward(closure).item() == scale * info.loss
    assert torch.equal(weights(other), before)
    assert not opt.base.state
    assert same([p.grad / scale for p in other.parameters()], [p.grad for p in one.parameters()])
    opt.base.step() if scale == 1.0 else None
    assert scale != 1.0 or same(everything(one), everything(other))
    assert int(other[1].num_batches_tracked) == 1


def test_backward_accumulates_batches_each_with_its_own_perturbation() -> None:
    model = mlp(torch.float64)
    opt = SAM(model, sgd(model), rho=0.1)
    batches = [data(seed=i, dtype=torch.float64)[:2] for i in range(2)]
    for x, y in batches:
        opt.backward(lambda x=x, y=y: _backward(loss_fn(model(x), y)))
    expected = torch.zeros_like(weights(model))
    for x, y in batches:  # the definition, with a copy that is moved by hand
        there = copy.deepcopy(model)
        g = torch.cat([g.flatten() for g in torch.autograd.grad(loss_fn(model(x), y), list(model.parameters()))])
        moved = weights(model) + 0.1 * g / g.norm()
        nn.utils.vector_to_parameters(moved, there.parameters())
        grads = torch.autograd.grad(loss_fn(there(x), y), list(there.parameters()))
        expected += torch.cat([g.flatten() for g in grads])
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def _backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss


def test_a_closure_that_clips_clips_the_update_and_leaves_the_direction() -> None:
    model = mlp(torch.float64)
    opt = SAM(model, torch.optim.SGD(model.parameters(), lr=1.0), rho=0.1)
    x, y, _ = data(dtype=torch.float64)
    free = copy.deepcopy(opt)
    free.step(x, y, loss_fn)
    before = weights(model)
    plain = closure_of(opt, model, x, y)

    def clipped() -> Tensor:
        loss = plain()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        return loss

    opt.step(clipped)
    update, unclipped = weights(model) - before, weights(free.model) - before
    assert float(update.norm()) == pytest.approx(1e-3, rel=1e-5)  # torch adds 1e-6 to the norm
    assert float(torch.dot(update, unclipped) / update.norm() / unclipped.norm()) == pytest.approx(1.0, abs=1e-9)


def test_a_scaler_backs_off_from_a_gradient_that_overflows() -> None:
    """``backward`` with a scaler is ``step(…, scaler=)``: the same weights, and the same scale after an overflow."""
    one, other = mlp(), mlp()
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2) for _ in range(2)]
    by_batch, opt = SAM(one, sgd(one), rho=0.1), SAM(other, sgd(other), rho=0.1)
    for i in range(4):
        x, y, _ = data(seed=i)
        x = x * math.inf if i == 2 else x
        info = by_batch.step(x, y, loss_fn, scaler=scalers[0])
        opt.zero_grad()
        opt.backward(lambda x=x, y=y: _backward(scalers[1].scale(loss_fn(other(x), y))))
        scalers[1].step(opt.base)
        scalers[1].update()
        assert (info.skipped is not None) == (i == 2) == (opt.info.skipped is not None)
        assert scalers[0].get_scale() == scalers[1].get_scale()
    assert same(everything(one), everything(other))


def test_a_step_that_is_not_finite_is_skipped_and_said_once() -> None:
    model = bn()
    opt = make("sam", model)
    train(opt, 1)
    before, momentum = everything(model), copy.deepcopy(opt.base.state_dict())
    x, y, _ = data()
    broken = closure_of(opt, model, x * math.inf, y)
    with pytest.warns(SkippedWarning, match=r"step 2 made no update: loss is nan at w"):
        assert math.isnan(opt.step(broken).item())
    opt.step(broken)
    assert opt.info.skipped == "loss is nan at w"
    assert same(everything(model), before)
    torch.testing.assert_close(opt.base.state_dict(), momentum, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())
    rises = make("sam", model)
    with pytest.warns(SkippedWarning, match="loss is inf"):  # at w + ε alone
        rises.step(lambda: _backward(loss_fn(model(x), y) * (math.inf if rises.perturbed else 1.0)))


@pytest.mark.parametrize("at", [1, 2])
def test_an_error_in_the_closure_leaves_the_model_as_it_was(at: int) -> None:
    model = bn()
    opt = make("sam", model)
    train(opt, 1)
    before = everything(model)
    calls = []

    def closure() -> Tensor:
        calls.append(opt.perturbed)
        opt.zero_grad()
        loss = loss_fn(model(data()[0]), data()[1])
        if len(calls) == at:
            raise ZeroDivisionError
        return _backward(loss)

    with pytest.raises(ZeroDivisionError):
        opt.step(closure)
    assert calls == [False, True][:at]
    assert same(everything(model), before)
    assert not opt.perturbed


@pytest.mark.parametrize("name", sorted(set(ALL) - set(BY_GRADIENT)))
def test_what_needs_the_batch_says_why_and_what_to_write(name: str) -> None:
    model = mlp()
    opt = make(name, model)
    before = everything(model)
    why = {"m-sam": "perturbs groups of the batch one by one"}.get(name, "needs the batch's (true|outputs and) labels")
    write = r", which a closure hides; instead of step\(closure\) write step\(x, y, loss_fn, progress="
    x, y, _ = data()
    for take in (opt.step, opt.backward):
        with pytest.raises(TypeError, match=why + write):
            take(closure_of(opt, model, x, y))
    with pytest.raises(TypeError, match=r"step\(x, y, loss_fn, progress="):
        opt.step()
    assert same(everything(model), before)


def test_wrong_calls_are_refused_in_a_line() -> None:
    model = mlp()
    opt = make("sam", model)
    x, y, _ = data()
    closure = closure_of(opt, model, x, y)
    with pytest.raises(TypeError, match=r"SAM.step got neither a closure nor .* call backward\(closure\) in place of"):
        opt.step()
    with pytest.raises(TypeError, match="got a closure and a batch"):
        opt.step(x, y, loss_fn, closure=closure)
    with pytest.raises(TypeError, match="got a closure and a scaler; scale the loss in the closure, call backward"):
        opt.step(closure, scaler=torch.amp.GradScaler("cpu"))
    for wrong, got in ((torch.ones(2), r"Tensor of shape \(2,\)"), ("x", "str"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"the closure returned a {got}, expected the loss"):
            opt.step(lambda wrong=wrong: (closure(), wrong)[1])


def test_gradients_accumulated_at_w_are_refused() -> None:
    """A trainer's accumulation would add gradients at w to the one at w + ε."""
    model = mlp()
    opt = make("sam", model)
    x, y, _ = data()
    before = weights(model)
    _backward(loss_fn(model(x), y))
    with pytest.raises(ValueError, match=r"adds to the gradients of earlier batches.*accumulate with backward"):
        opt.step(lambda: _backward(loss_fn(model(x), y)))
    assert torch.equal(weights(model), before)
    assert all(p.grad is None for p in model.parameters())
    opt.step(lambda: _backward(loss_fn(model(x), y)))  # none to add to
    assert opt.info.skipped is None


def test_a_batch_that_is_left_out_makes_no_update() -> None:
    model = mlp()
    opt = make("sam", model)
    before = weights(model)
    assert opt.step(closure=lambda: opt.zero_grad()) is None  # as Lightning's closure for training_step → None
    assert torch.equal(weights(model), before)
    assert opt.info.skipped == "the closure gave no loss and no gradient"


def test_a_scheduler_and_no_grad_around_it_make_no_difference() -> None:
    one, other = mlp(), mlp()
    plain, opt = make("sam", one), make("sam", other)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (plain, opt)]
    for i in range(2):
        x, y, _ = data(seed=i)
        plain.step(x, y, loss_fn)
        with torch.no_grad():
            opt.step(closure=closure_of(opt, other, x, y))
        for schedule in schedules:
            schedule.step()
    assert same(everything(one), everything(other))


def test_autocast_around_or_inside_the_closure_is_that_of_the_step() -> None:
    models = [mlp() for _ in range(3)]
    opts = [make("sam", model) for model in models]
    for i in range(2):
        x, y, _ = data(seed=i)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            opts[0].step(x, y, loss_fn)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            opts[1].step(closure_of(opts[1], models[1], x, y))

        def inside(x: Tensor = x, y: Tensor = y) -> Tensor:
            opts[2].zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_fn(models[2](x), y)
            return _backward(loss)

        opts[2].step(inside)
    assert same(everything(models[0]), everything(models[1]))
    assert same(everything(models[0]), everything(models[2]))


def test_parameters_that_take_no_part_stay() -> None:
    model = nn.ModuleDict({"used": nn.Linear(FEATURES, CLASSES), "not": nn.Linear(2, 2)})
    opt = SAM(model, sgd(model), rho=0.1)
    x, y, _ = data()
    before = weights(model["not"])
    opt.step(lambda: _backward(loss_fn(model["used"](x), y)))
    assert torch.equal(weights(model["not"]), before)
    opt.zero_grad()
    with pytest.raises(ValueError, match=r"the closure left no gradient .* call loss\.backward"):
        opt.step(lambda: torch.ones(()))


@pytest.mark.parametrize("clears", ["nothing", "its own", "all"])
@pytest.mark.parametrize("by", ["backward", "step"])
def test_parameters_of_another_optimizer_get_the_gradient_of_one_pass(by: str, clears: str) -> None:
    """SAM moves the body, something else the head: its gradient is that at w + ε, added to an earlier one."""
    model = mlp(torch.float64)
    opt = SAM(model, torch.optim.SGD(model[0].parameters(), lr=0.0), rho=0.3)
    x, y, _ = data(dtype=torch.float64)
    there = copy.deepcopy(model)
    g = torch.autograd.grad(loss_fn(there(x), y), list(there[0].parameters()))
    length = math.sqrt(sum(float(piece.square().sum()) for piece in g))
    with torch.no_grad():
        for p, piece in zip(there[0].parameters(), g, strict=True):
            p += 0.3 * piece / length
    loss_fn(there(x), y).backward()
    earlier = [torch.ones_like(p) for p in model[2].parameters()]
    for p, grad in zip(model[2].parameters(), earlier, strict=True):
        p.grad = grad.clone()

    def closure() -> Tensor:
        if clears != "nothing":
            (opt if clears == "its own" else model).zero_grad()
        return _backward(loss_fn(model(x), y))

    getattr(opt, by)(closure)
    kept = by == "backward" or clears != "all"  # backward adds whatever the closure clears, as to its own gradients
    for mine, theirs, grad in zip(model[2].parameters(), there[2].parameters(), earlier, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad + kept * grad, rtol=1e-12, atol=1e-14)
    for mine, theirs in zip(model[0].parameters(), there[0].parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss_at_w", [math.nan, None])
def test_backward_that_stops_at_w_leaves_other_gradients_whole(loss_at_w: float | None) -> None:
    model = mlp(torch.float64)
    opt = SAM(model, torch.optim.SGD(model[0].parameters(), lr=0.1), rho=0.1)
    x, y, _ = data(dtype=torch.float64)
    alone = copy.deepcopy(model)
    loss_fn(alone(x), y).backward()
    for p in model.parameters():
        p.grad = torch.ones_like(p)

    def closure() -> Any:
        _backward(loss_fn(model(x), y))
        if loss_at_w is None:
            raise ZeroDivisionError
        return loss_at_w

    if loss_at_w is None:
        with pytest.raises(ZeroDivisionError):
            opt.backward(closure)
    else:
        opt.backward(closure)
        assert opt.info.skipped == "loss is nan at w"
    for mine, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        at_w = 0 if loss_at_w is None else theirs.grad
        torch.testing.assert_close(mine.grad, torch.ones_like(mine) + at_w, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_layer_frozen_in_mid_training_stays_put_whatever_the_closure_clears(name: str) -> None:
    model = mlp()
    opt = make(name, model)
    train(opt, 1)
    model[0].requires_grad_(False)
    frozen, head = weights(model[0]), weights(model[2])
    for i in range(2):
        x, y, _ = data(seed=i)
        opt.step(lambda x=x, y=y: (model[2].zero_grad(), _backward(loss_fn(model(x), y)))[1])
    assert torch.equal(weights(model[0]), frozen)
    assert not torch.equal(weights(model[2]), head)
