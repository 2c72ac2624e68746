"""What a step does to the model beside the update, and what it must leave alone; for every arm."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ncsam.optimizers import NCSAM, SAM, Plain, ProjectionWarning
from tests.ncsam.optimizers.problem import (
    ALL,
    BASES,
    BATCH,
    CLASSES,
    FEATURES,
    WHOLE,
    bn,
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

ACTIVE = [name for name in ALL if name != "sgd"]
quiet = pytest.mark.filterwarnings("ignore:projection keeps")


@contextlib.contextmanager
def quiet_projection() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "projection keeps")
        yield


def plain_loop(model: nn.Module, base: torch.optim.Optimizer, steps: int = 3) -> None:
    for i in range(steps):
        x, y, _ = data(seed=i)
        base.zero_grad()
        loss_fn(model(x), y).backward()
        base.step()


@pytest.mark.parametrize("build_model", [mlp, bn, dropout])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {}),
        ("sam", {"rho": 0.0}),
        ("asam", {"rho": 0.0}),
        ("ncsam", {"rho": 0.0}),
        ("ncsam", {"rho": 0.0, "kappa": 0.0, "project": False}),
        ("ncsam", {"warmup": 1.0}),
        ("ncsam-released", {"rho": 0.0, "kappa": 0.0}),
        ("matched", {"rho": 0.0, "kappa": 0.0}),
        ("gstar-only", {"rho": 0.0}),
        ("oracle", {"rho": 0.0}),
        ("clean-direction", {"rho": 0.0}),
        ("clean-part-direction", {"rho": 0.0}),
    ],
    ids=str,
)
def test_without_radius_it_is_the_base_optimizer_bitwise(
    build_model: Callable[[], nn.Module], name: str, options: dict[str, Any]
) -> None:
    a, b = build_model(), build_model()
    torch.manual_seed(5)
    plain_loop(a, sgd(a))
    torch.manual_seed(5)
    infos = train(make(name, b, **options))
    assert same(everything(a), everything(b))
    assert all(info.perturbation_norm == 0 and info.loss == info.perturbed_loss for info in infos)


@quiet
@pytest.mark.parametrize("base", BASES)
def test_any_base_instance_takes_the_gradient_at_the_perturbed_weights(base: str) -> None:
    """The base optimizer, called by hand with the gradient at w + ε, ends up at the same weights, bitwise."""
    a, b = mlp(), mlp()
    opt, by_hand = SAM(a, BASES[base](a), rho=0.1), BASES[base](b)
    for i in range(4):
        x, y, _ = data(seed=i)
        info = opt.step(x, y, loss_fn)
        grads = torch.autograd.grad(loss_fn(b(x), y), list(b.parameters()))
        flat = torch.cat([g.reshape(-1) for g in grads])
        shift = flat * (0.1 / flat.norm())
        kept = everything(b)
        with torch.no_grad():
            for p, e in zip(b.parameters(), shift.split([p.numel() for p in b.parameters()]), strict=True):
                p.add_(e.view_as(p))
        by_hand.zero_grad()
        loss_fn(b(x), y).backward()
        with torch.no_grad():
            for p, k in zip(b.parameters(), kept, strict=True):
                p.copy_(k)
        by_hand.step()
        assert info.skipped is None
        assert same(everything(a), everything(b))


@quiet
@pytest.mark.parametrize("name", WHOLE)
def test_batchnorm_statistics_move_once_a_step(name: str) -> None:
    model, reference = bn(), bn()
    x, y, true = data()
    reference(x)
    make(name, model).step(x, y, loss_fn, progress=0.5, true_labels=true)
    assert same([b.clone() for b in model.buffers()], [b.clone() for b in reference.buffers()])
    assert model[1].num_batches_tracked == 1


@quiet
@pytest.mark.parametrize("name", ALL)
def test_storage_modes_hooks_and_global_random_state_are_left_alone(name: str) -> None:
    model = bn()
    model[1].eval()
    before = [(id(p), p.data_ptr(), p.requires_grad) for p in model.parameters()]
    state = torch.get_rng_state()
    train(make(name, model))
    assert torch.equal(torch.get_rng_state(), state)
    assert [(id(p), p.data_ptr(), p.requires_grad) for p in model.parameters()] == before
    assert [m.training for m in model] == [True, False, True, True]
    assert not any(m._forward_pre_hooks for m in model.modules())


@quiet
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("parts", [2, 3, 20])
def test_microbatches_change_nothing_but_the_rounding(name: str, parts: int) -> None:
    a, b = mlp(torch.float64), mlp(torch.float64)
    x, y, true = data(dtype=torch.float64)
    one = make(name, a).step(x, y, loss_fn, progress=0.5, true_labels=true)
    many = make(name, b).step(x, y, loss_fn, progress=0.5, true_labels=true, microbatches=parts)
    tol = 1e3 * torch.finfo(torch.float64).eps
    torch.testing.assert_close(weights(a), weights(b), rtol=tol, atol=tol)
    torch.testing.assert_close(one.outputs, many.outputs, rtol=tol, atol=tol)
    assert (one.picked, one.correct) == (many.picked, many.correct)
    for figure in ("loss", "perturbed_loss", "gradient_norm", "perturbation_norm", "compensation_norm"):
        assert getattr(one, figure) == pytest.approx(getattr(many, figure), rel=tol)


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (nn.CrossEntropyLoss(reduction="sum"), "reduction='sum', expected a mean over the rows; use microbatches=1"),
        (lambda z, t: loss_fn(z, t, reduction="sum"), r"no plain mean over the rows: .* or use microbatches=1"),
        (lambda z, t: loss_fn(z, t).sqrt(), "no plain mean over the rows"),
        (lambda z, t: loss_fn(z, t, weight=torch.arange(1.0, 6.0)), r"give nn.CrossEntropyLoss\(weight=…, "),
    ],
)
def test_losses_that_do_not_add_up_over_microbatches_are_refused(loss: Any, match: str) -> None:
    x, y, _ = data()
    with pytest.raises(ValueError, match=match):
        make("sam", mlp()).step(x, y, loss, microbatches=2)


@pytest.mark.parametrize("parts", [0, 21, 1.5])
def test_microbatches_out_of_range(parts: Any) -> None:
    x, y, _ = data()
    with pytest.raises(ValueError, match="expected an integer in 1…20"):
        make("sam", mlp()).step(x, y, loss_fn, microbatches=parts)


class WithSpareParts(nn.Module):
    """One frozen layer, one layer that the loss does not reach."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.frozen, self.head = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)
        self.unused = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.frozen(x).tanh())


@quiet
@pytest.mark.parametrize("name", ALL)
def test_parameters_without_gradient_stay_put(name: str) -> None:
    model = WithSpareParts()
    before = everything(model.frozen) + everything(model.unused)
    head = weights(model.head)
    options = {"features": "head"} if name == "ncsam-released" else {}  # its last linear layer is not in use
    infos = train(make(name, model, **options))
    assert same(before, everything(model.frozen) + everything(model.unused))  # no weight decay either, as in torch
    assert not torch.equal(head, weights(model.head))
    assert all(p.grad is None for p in model.unused.parameters())
    assert all(info.skipped is None for info in infos)


@quiet
@pytest.mark.parametrize("name", ["sam", "ncsam"])
def test_a_group_added_later_is_perturbed_and_trained(name: str) -> None:
    model = mlp()
    opt = make(name, model)
    opt.base.param_groups[0]["params"] = list(model[0].parameters())
    train(opt, 1)
    head = weights(model[2])
    train(opt, 1, first=1)
    assert torch.equal(head, weights(model[2]))
    opt.add_param_group({"params": model[2].parameters(), "lr": 0.3})
    shifts: list[Tensor] = []
    handle = model[2].register_forward_hook(lambda *_: shifts.append(weights(model[2])))
    train(opt, 1, first=2)
    handle.remove()
    assert not torch.equal(shifts[0], shifts[1])  # moved by ε in the second pass
    assert not torch.equal(head, weights(model[2]))
    assert [g["lr"] for g in opt.param_groups] == [0.1, 0.3]


@quiet
@pytest.mark.parametrize("name", ALL)
def test_schedulers_reach_the_base(name: str) -> None:
    model = mlp()
    opt = make(name, model)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=4)
    seen = []
    for i in range(4):
        train(opt, 1, first=i)
        cosine.step()
        seen.append(opt.base.param_groups[0]["lr"])
    expected = [0.05 * (1 + torch.cos(torch.tensor(torch.pi * k / 4, dtype=torch.float64)).item()) for k in range(1, 5)]
    assert seen == pytest.approx(expected, abs=1e-12)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=0)
    plateau.step(1.0)
    plateau.step(2.0)
    assert opt.base.param_groups[0]["lr"] == pytest.approx(0.1 * seen[-1], abs=1e-12)


@pytest.mark.parametrize("name", ["ncsam", "matched", "oracle", "ncsam-released"])
def test_ncsam_needs_progress(name: str) -> None:
    x, y, true = data()
    opt = make(name, mlp())
    with pytest.raises(ValueError, match="needs progress=epoch / epochs"):
        opt.step(x, y, loss_fn, true_labels=true)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"progress is .*, expected epoch / epochs in \[0, 1\]"):
            opt.step(x, y, loss_fn, progress=wrong, true_labels=true)


@pytest.mark.parametrize("name", ["oracle", "clean-direction", "clean-part-direction"])
def test_controls_that_know_the_truth_ask_for_it(name: str) -> None:
    x, y, true = data()
    with pytest.raises(ValueError, match="needs true_labels="):
        make(name, mlp()).step(x, y, loss_fn, progress=0.5)
    for wrong in (true[:1], true[:7], true[:, None]):  # which torch would compare with every label
        with pytest.raises(ValueError, match=r"true_labels have shape \(.*\), expected the labels' \(20,\)"):
            make(name, mlp()).step(x, y, loss_fn, progress=0.5, true_labels=wrong)


@pytest.mark.parametrize("name", ALL)
def test_progress_is_ignored_where_nothing_depends_on_it(name: str) -> None:
    if make(name, mlp()).perturbation.needs_progress:
        return
    a, b = mlp(), mlp()
    x, y, true = data()
    make(name, a).step(x, y, loss_fn, true_labels=true)
    make(name, b).step(x, y, loss_fn, true_labels=true, progress=0.9)
    assert torch.equal(weights(a), weights(b))


@quiet
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("fail_in_call", [1, 2])
def test_an_exception_leaves_the_model_as_it_was(name: str, fail_in_call: int) -> None:
    if name == "sgd" and fail_in_call == 2:
        return  # it has one pass only
    model = bn()
    before, calls = everything(model), 0

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        out = model(x)
        if calls == fail_in_call:
            raise KeyboardInterrupt
        return out

    x, y, true = data()
    opt = make(name, model, forward=forward)
    with pytest.raises(KeyboardInterrupt):
        opt.step(x, y, loss_fn, progress=0.5, true_labels=true)
    assert same(before, everything(model))
    assert not opt.state


@quiet
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_skips_the_step_and_says_so(name: str, where: str) -> None:
    model = bn()
    opt = make(name, model)
    train(opt, 1)
    before = everything(model)
    momentum = [s["momentum_buffer"].clone() for s in opt.state.values()]
    x, y, true = data(seed=9)
    if where == "loss":
        x[3, 2] = torch.nan
        info = opt.step(x, y, loss_fn, progress=0.5, true_labels=true)
    else:  # √|z| has a finite value and an infinite slope at 0
        info = opt.step(
            x, y, lambda z, t: loss_fn(z, t) + (z - z.detach()).abs().sqrt().sum(), progress=0.5, true_labels=true
        )
    assert info.skipped is not None
    assert where in info.skipped
    assert same(before, everything(model))  # BatchNorm statistics too
    assert same(momentum, [s["momentum_buffer"] for s in opt.state.values()])
    assert all(p.grad is None for p in model.parameters())
    assert train(opt, 1, first=2)[0].skipped is None


@quiet
@pytest.mark.parametrize("name", ["sam", "ncsam"])
def test_what_is_not_finite_only_at_the_perturbed_weights_skips_too(name: str) -> None:
    model = bn()
    before, calls = everything(model), 0

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return model(x) * (torch.inf if calls == 2 else 1.0)

    x, y, _ = data()
    info = make(name, model, forward=forward).step(x, y, loss_fn, progress=0.5)
    assert info.skipped == "loss is nan"
    assert info.perturbation_norm == pytest.approx(0.05, rel=1e-6)
    assert same(before, everything(model))


def test_a_gradient_of_zero_is_no_reason_to_stop() -> None:
    model = mlp()
    before = everything(model)
    opt = SAM(model, torch.optim.SGD(model.parameters(), lr=0.1))
    x, y, _ = data()
    info = opt.step(x, y, lambda z, t: (z * 0).sum())
    assert (info.skipped, info.perturbation_norm) == (None, 0.0)
    assert info.cosine != info.cosine
    assert same(before, everything(model))


@pytest.mark.parametrize(("name", "options"), [("sam", {}), ("ncsam", {"rho": 0.01}), ("ncsam", {"project": False})])
@quiet
def test_info_is_what_happened(name: str, options: dict[str, Any]) -> None:
    model, reference = mlp(), mlp()
    x, y, _ = data()
    info = make(name, model, **options).step(x, y, loss_fn, progress=0.5)
    z = reference(x)
    assert info.loss == loss_fn(z, y).item()
    assert torch.equal(info.outputs, z)
    assert not info.outputs.requires_grad
    assert info.correct == int((z.argmax(1) == y).sum())
    assert info.relative_perturbation == info.perturbation_norm / info.rho
    assert info.relative_compensation == info.compensation_norm / info.rho
    assert info.projected == (info.kept < 1) == (options == {"rho": 0.01})
    if info.projected:
        assert info.perturbation_norm == pytest.approx(0.01, rel=1e-6)
    else:
        assert info.perturbation_norm == pytest.approx(0.05, rel=1e-6) or info.compensation_norm > 0


def test_the_projection_warning_comes_once_per_optimizer_and_after_the_update() -> None:
    model = mlp()
    before = weights(model)
    opt = NCSAM(model, sgd(model), rho=0.01, kappa=1.0)
    x, y, _ = data()
    with pytest.warns(ProjectionWarning, match=r"projection keeps \d% of SAM's part .* s‖g\*‖ is \d+\.\d ρ"):
        opt.step(x, y, loss_fn, progress=0.5)
    assert not torch.equal(before, weights(model))
    assert opt.step(x, y, loss_fn, progress=0.5).kept < 0.5  # warnings are errors here: a second one would raise


def test_regression_and_batches_that_are_dicts() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    batch, target = {"features": torch.randn(10, 3)}, torch.randn(10, 1)
    for optimizer in (Plain, SAM):
        opt = optimizer(model, sgd(model), forward=lambda m, b: m(b["features"]))
        info = opt.step(batch, target, nn.functional.mse_loss, microbatches=2)
        assert info.correct is None
        assert opt.step(batch, target, nn.functional.mse_loss).loss < info.loss
    with pytest.raises(ValueError, match=r"outputs are \(10, 1\), expected logits .* for other tasks use SAM"):
        make("ncsam", nn.Linear(3, 1)).step(batch["features"], target, nn.functional.mse_loss, progress=0.5)


def test_outputs_that_are_no_tensor_come_back_whole_and_without_their_graph() -> None:
    model = mlp()
    z = model(data()[0]).detach()
    opt = make("sam", model, forward=lambda m, x: {"logits": m(x), "pair": (x, m[0](x))})
    x, y, _ = data()
    info = opt.step(x, y, lambda out, t: loss_fn(out["logits"], t), microbatches=2)
    assert torch.allclose(info.outputs["logits"], z, rtol=1e-6)
    assert not info.outputs["logits"].requires_grad
    assert [o.shape for o in info.outputs["pair"]] == [(BATCH, FEATURES), (BATCH, 8)]
    assert not info.outputs["pair"][1].requires_grad


class Answer(collections.OrderedDict):  # type: ignore[type-arg]
    """Outputs as transformers' models return them: a mapping whose entries are attributes."""

    def __setitem__(self, key: str, value: Tensor) -> None:
        super().__setitem__(key, value)
        setattr(self, key, value)


class Pair(NamedTuple):
    logits: Tensor
    hidden: Tensor


def answer(model: nn.Module, x: Tensor) -> Answer:
    found = Answer()
    found["logits"] = model(x)
    return found


@pytest.mark.parametrize("forward", [answer, lambda m, x: Pair(m(x), x)], ids=["mapping", "named tuple"])
@pytest.mark.parametrize("name", ["sgd", "sam", "m-sam", "logit-sam", "jacobian-sam"])
def test_outputs_keep_their_class_in_parts(name: str, forward: Any) -> None:
    x, y, _ = data()
    parts = 1 if name == "m-sam" else 4
    found, plain = mlp(), mlp()
    info = make(name, found, forward=forward).step(x, y, lambda out, t: loss_fn(out.logits, t), microbatches=parts)
    expected = make(name, plain).step(x, y, loss_fn, microbatches=parts)
    assert info.perturbed_loss == pytest.approx(expected.perturbed_loss, rel=1e-6)
    assert isinstance(info.outputs, Answer | Pair)
    assert torch.equal(info.outputs.logits, expected.outputs)
    torch.testing.assert_close(weights(found), weights(plain))


@dataclasses.dataclass
class Opaque:
    logits: Tensor


@pytest.mark.parametrize("name", ["sgd", "sam", "m-sam"])
def test_outputs_that_cannot_be_joined_are_refused_in_parts(name: str) -> None:
    """Whether the loss is a mean is found from the joined outputs; class weights, for one, make it another."""
    x, y, _ = data()
    weight = torch.arange(1.0, CLASSES + 1)
    model = mlp()
    opt, before = make(name, model, forward=lambda m, x: Opaque(m(x))), weights(model)
    parts = {} if name == "m-sam" else {"microbatches": 4}
    with pytest.raises(ValueError, match="cannot be computed on the outputs of all parts of the batch together"):
        opt.step(x, y, lambda out, t: loss_fn(out.logits, t, weight=weight), **parts)
    assert torch.equal(weights(model), before)


def test_a_loss_per_sample_is_refused() -> None:
    x, y, _ = data()
    with pytest.raises(ValueError, match=rf"loss_fn returned shape \({BATCH},\), expected a scalar"):
        make("sam", mlp()).step(x, y, nn.CrossEntropyLoss(reduction="none"))


def test_soft_labels_are_refused_by_ncsam() -> None:
    x, y, _ = data()
    soft = nn.functional.one_hot(y, CLASSES).float()
    with pytest.raises(
        ValueError, match=r"labels are \(20, 5\) torch.float32, expected integer classes of shape \(20,\)"
    ):
        make("ncsam", mlp()).step(x, soft, loss_fn, progress=0.5)


def test_sparse_gradients_are_perturbed_like_dense_ones() -> None:
    ids, y = torch.arange(12).reshape(4, 3) % 7, torch.tensor([0, 1, 2, 0])
    after = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 4, sparse=sparse), nn.Flatten(), nn.Linear(12, 3))
        opt = SAM(model, torch.optim.SGD(model.parameters(), lr=0.1))
        assert opt.step(ids, y, loss_fn).perturbation_norm == pytest.approx(0.05, rel=1e-6)
        after.append(weights(model))
    torch.testing.assert_close(*after, rtol=1e-6, atol=1e-7)


def test_nothing_to_train_is_said() -> None:
    model = mlp()
    opt = make("sam", model)
    model.requires_grad_(False)
    x, y, _ = data()
    with pytest.raises(ValueError, match="no parameter of the optimizer requires a gradient"):
        opt.step(x, y, loss_fn)


def test_arguments_in_another_order_and_losses_that_are_none_are_named() -> None:
    x, y, _ = data()
    opt = make("sam", mlp())
    for loss, got in ((y, "a Tensor"), ("ce", "a str"), (nn.CrossEntropyLoss, "the class CrossEntropyLoss")):
        with pytest.raises(TypeError, match=rf"SAM\.step got {got} as loss_fn, expected a function"):
            opt.step(x, y, loss)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"SAM\.step got a Tensor as loss_fn"):
        opt.step(loss_fn, x, y)  # type: ignore[arg-type]


def test_a_base_that_maximises_is_refused_where_there_is_a_perturbation() -> None:
    """ε would lead uphill, to the best place nearby instead of the worst."""
    x, y, _ = data()

    def closure() -> Tensor:
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss

    model = mlp()
    base = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    before, opt = weights(model), SAM(model, base)
    for step in (lambda: opt.step(x, y, loss_fn), lambda: opt.step(closure), lambda: opt.backward(closure)):
        with pytest.raises(ValueError, match="SAM's base has maximize=True"):
            step()
    assert torch.equal(weights(model), before)
    assert Plain(model, base).step(x, y, loss_fn).loss < Plain(model, base).step(x, y, loss_fn).loss


def test_constructor_errors() -> None:
    model, other = mlp(), mlp()
    with pytest.raises(TypeError, match=r"model is a generator, expected a torch.nn.Module"):
        SAM(model.parameters(), sgd(model))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"base is SGD, expected a plain optimizer instance"):
        SAM(model, torch.optim.SGD)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="base is SAM"):
        SAM(model, SAM(model, sgd(model)))
    with pytest.raises(ValueError, match="base holds no parameter of the model"):
        SAM(model, sgd(other))


@quiet
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_a_layer_frozen_in_mid_training_stays_put(name: str, scaled: bool) -> None:
    model = mlp()
    opt = make(name, model)
    train(opt, 1)
    model[0].requires_grad_(False)
    frozen, head = weights(model[0]), weights(model[2])
    train(opt, 2, first=1, **({"scaler": torch.amp.GradScaler("cpu", init_scale=4.0)} if scaled else {}))
    assert torch.equal(weights(model[0]), frozen)
    assert not torch.equal(weights(model[2]), head)


def clear(p: Tensor) -> None:
    assert p.grad is not None
    p.grad.zero_()


HOOKED = "a parameter has a hook of register_post_accumulate_grad_hook, which the first pass .* does not call, .* use "


@pytest.mark.parametrize("name", ACTIVE)
def test_hooks_that_one_pass_of_two_would_call_are_refused(name: str) -> None:
    model = mlp()
    opt = make(name, model)
    handle = model[0].weight.register_post_accumulate_grad_hook(clear)
    before = everything(model)
    by_closure = r"step\(closure\), or " if name in ("sam", "asam", "replay") else ""
    with pytest.raises(ValueError, match=HOOKED + by_closure + r"Tensor\.register_hook, which both passes call$"):
        train(opt, 1)
    assert same(before, everything(model))
    handle.remove()
    with quiet_projection():
        train(opt, 1)


def test_hooks_that_every_pass_calls_are_not() -> None:
    plain, reduced, twins = mlp(), mlp(), [mlp(), mlp()]
    plain[0].weight.register_post_accumulate_grad_hook(clear)
    before = weights(plain[0])
    opt = Plain(plain, torch.optim.SGD([plain[0].weight], lr=0.1))
    assert train(opt, 1)[0].skipped is None  # it has one pass
    assert torch.equal(weights(plain[0]), before)

    def reduce(p: Tensor) -> None: ...

    reduce.__module__ = "torch.nn.parallel.distributed"  # as DDP's own, which add ranks up
    reduced[0].weight.register_post_accumulate_grad_hook(functools.partial(reduce))
    assert train(make("sam", reduced), 1)[0].skipped is None

    # A mask of the gradient, as a hook of either kind: the same ε, the same update.
    def mask(g: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(g[:4]), g[4:]])

    def mask_in_place(p: Tensor) -> None:
        assert p.grad is not None
        p.grad = mask(p.grad)

    x, y, _ = data()
    by_batch, by_closure = (SAM(model, sgd(model), rho=0.5) for model in twins)
    twins[0][0].weight.register_hook(mask)
    by_batch.step(x, y, loss_fn)
    twins[1][0].weight.register_post_accumulate_grad_hook(mask_in_place)
    by_closure.step(lambda: (loss := loss_fn(twins[1](x), y), loss.backward())[0])
    assert same(everything(twins[0]), everything(twins[1]))
