"""A run that stopped and was resumed is bitwise the run that never stopped; copies are whole and independent."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch

from ncsam.optimizers import NCSAM, SAM
from tests.ncsam.optimizers.problem import ALL, BASES, UNSEEDED, bn, build, everything, make, mlp, same, sgd, train

pytestmark = pytest.mark.filterwarnings("ignore:projection keeps")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_resume_is_bitwise(name: str, base: str) -> None:
    whole, part, resumed = bn(), bn(), bn()
    train(build(name, whole, BASES[base](whole)), 5)
    first = build(name, part, BASES[base](part))
    train(first, 2)
    file = io.BytesIO()
    torch.save({"model": part.state_dict(), "optimizer": first.state_dict()}, file)
    train(first, 1, first=4)  # going on must not change what was saved
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed.load_state_dict(saved["model"])
    second = build(
        name,
        resumed,
        BASES[base](resumed),
        **({} if name in UNSEEDED else {"seed": 99}),
    )
    second.load_state_dict(saved["optimizer"])
    train(second, 3, first=2)
    assert same(everything(whole), everything(resumed))


NOISE = "SimulatedNoise(flip_ratio=0.4, label_smoothing=0.0, uniform_picks={})"
REST = "schedule='paper', scale='raw', warmup=0.0, warmup_step='base', ascent={}"
EARLIER = {
    "sgd": "NoPerturbation()",
    "sam": "SharpnessAscent(rho=0.05)",
    "asam": "AdaptiveAscent(rho=0.5, eta=0.01)",
    "clean-direction": "TrueLabelAscent(rho=0.05)",
    **{
        name: f"Compensated(rho=0.05, kappa=0.1, noise={noise}, sign=1, project=True, {REST.format(ascent)})"
        for name, noise, ascent in (
            ("ncsam", NOISE.format(False), True),
            ("random-picks", NOISE.format(True), True),
            ("random-direction", f"RandomNoise(like={NOISE.format(False)})", True),
            ("oracle", "TrueNoise()", True),
            ("gstar-only", NOISE.format(False), False),
        )
    },
    "matched": f"MatchedAscent(like=Compensated(rho=0.05, kappa=0.1, noise={NOISE.format(False)}, sign=1, "
    f"project=False, {REST.format(True)}))",
}
"""What states saved before options were read from the fields say of their perturbation."""


@pytest.mark.parametrize("name", EARLIER)
def test_states_saved_by_earlier_versions_load(name: str) -> None:
    whole, part = mlp(), mlp()
    train(make(name, whole), 3)
    first = make(name, part)
    train(first, 1)
    saved = first.state_dict()
    earlier = {
        **saved,
        "ncsam": {"perturbation": EARLIER[name], "generator": saved["ncsam"]["generator"], "warned": True},
    }
    resumed = make(name, part)
    resumed.load_state_dict(earlier)
    train(resumed, 2, first=1)
    assert same(everything(whole), everything(part))


def test_the_state_holds_what_torch_expects_and_what_is_ours() -> None:
    model = mlp()
    opt = make("ncsam", model)
    train(opt, 1)
    state = opt.state_dict()
    assert sorted(state) == ["ncsam", "param_groups", "state"]
    assert len(state["state"]) == 4
    assert "rho=0.05, kappa=0.1" in state["ncsam"]["perturbation"]


def earlier_released(model: torch.nn.Module) -> dict[str, Any]:
    """The released variant of earlier versions, whose flip rates were others."""
    noise = "ClusterInversion(flip_ratio=0.4, label_smoothing=0.1, clusters=5, features='')"
    given = f"Compensated(rho=0.05, kappa=0.1, noise={noise}, sign=1, project=False, {REST.format(True)})"
    state = make("ncsam-released", model).state_dict()
    return {**state, "ncsam": {**state["ncsam"], "perturbation": given}}


@pytest.mark.parametrize(
    ("state", "match"),
    [
        (lambda model: sgd(model).state_dict(), "has no 'ncsam' entry: it is a plain optimizer's; load it into .base"),
        (
            lambda model: earlier_released(model),
            r"state_dict is of Compensated\(.*ClusterInversion\(.*, this optimizer has",
        ),
        (lambda model: make("sam", model, rho=0.1).state_dict(), r"state_dict is of SharpnessAscent\(rho=0.1\), this"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state: Any, match: str) -> None:
    model = mlp()
    for name in ("ncsam", "ncsam-released"):
        with pytest.raises(ValueError, match=match):
            make(name, model).load_state_dict(state(model))


def test_groups_state_and_defaults_stay_the_bases_after_loading_and_copying() -> None:
    model = mlp()
    opt = make("ncsam", model)
    train(opt, 2)
    saved = opt.state_dict()
    opt.load_state_dict(saved)  # replaces the base's objects
    twin_model, twin = copy.deepcopy((model, opt))
    for o, m in ((opt, model), (twin, twin_model)):
        assert o.param_groups is o.base.param_groups
        assert o.state is o.base.state
        assert o.defaults is o.base.defaults
        assert [id(p) for g in o.param_groups for p in g["params"]] == [id(p) for p in m.parameters()]
    opt.param_groups[0]["lr"] = 0.7
    assert opt.base.param_groups[0]["lr"] == 0.7
    assert twin.base.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("name", ALL)
def test_a_copy_goes_its_own_way_and_the_same_way(name: str, duplicate: Any) -> None:
    model = bn()
    opt = make(name, model)
    torch.optim.lr_scheduler.StepLR(opt, 1)  # wraps opt.step; the copy must not call the original's
    train(opt, 2)
    twin_model, twin = duplicate((model, opt))
    before = everything(model)
    train(twin, 2, first=2)
    assert same(before, everything(model))
    train(opt, 2, first=2)
    assert same(everything(twin_model), everything(model))


def test_hooks_registered_here_are_the_bases() -> None:
    model = mlp()
    opt, calls = make("sam", model), []
    opt.register_step_pre_hook(lambda o, args, kwargs: calls.append(o is opt.base))
    opt.register_step_post_hook(
        lambda o, args, kwargs: calls.append(all(p.grad is not None for p in model.parameters()))
    )
    train(opt, 1)
    assert calls == [True, True]
    opt.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_it_is_an_optimizer_and_shows_what_it_is() -> None:
    model = mlp()
    assert isinstance(SAM(model, sgd(model)), torch.optim.Optimizer)
    assert repr(SAM(model, sgd(model), rho=0.1)) == "SAM(SharpnessAscent(rho=0.1), base=SGD)"
    assert repr(NCSAM(model, sgd(model))).startswith("NCSAM(Compensated(rho=0.05, kappa=0.1, noise=SimulatedNoise(")


def test_hooks_around_states_see_the_whole_optimizer() -> None:
    """As torch's own optimizers call them: this optimizer and its whole state, which a hook may replace."""
    model = mlp()
    opt, calls = make("ncsam", model), []
    train(opt, 1)

    def note(what: str, *given: Any) -> None:
        assert given[0] is opt
        assert len(given) == 1 or "ncsam" in given[1]
        calls.append(what)

    handles = [
        opt.register_state_dict_pre_hook(lambda *a: note("before saving", *a)),
        opt.register_state_dict_post_hook(lambda *a: note("after saving", *a)),
        opt.register_state_dict_post_hook(lambda o, state: {**state, "epoch": 7}),
        opt.register_load_state_dict_pre_hook(lambda *a: note("before loading", *a)),
        opt.register_load_state_dict_pre_hook(lambda o, state: {k: v for k, v in state.items() if k != "epoch"}),
        opt.register_load_state_dict_post_hook(lambda *a: note("after loading", *a)),
    ]
    saved = opt.state_dict()
    assert (sorted(saved), calls) == (["epoch", "ncsam", "param_groups", "state"], ["before saving", "after saving"])
    twin = pickle.loads(pickle.dumps(opt))  # copies have no hooks, as torch's; a lambda does not stand in the way
    assert "epoch" not in copy.deepcopy(opt).state_dict()
    twin.register_state_dict_post_hook(lambda o, state: {"twin": o is twin})
    assert twin.state_dict() == {"twin": True}
    given = dict(saved)
    opt.load_state_dict(given)
    assert calls[2:] == ["before loading", "after loading"]
    assert given == saved  # hooks work on a shallow copy
    for handle in handles:
        handle.remove()
    assert "epoch" not in opt.state_dict()
    assert len(calls) == 4
