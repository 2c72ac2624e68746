"""Names and options as the command line spells them."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from ncsam import TrainConfig, Trainer, optimizers
from ncsam.optimizers import OPTIMIZERS, SharpnessAware, Variant, build, options_of, resolve_options
from ncsam.optimizers.first_pass import FirstPass
from ncsam.optimizers.options import COMMON, option, options_in
from ncsam.optimizers.perturbations import Compensated, Perturbation, Perturbed
from tests.ncsam.optimizers.problem import make, mlp, sgd, train


def test_every_arm_of_the_comparison_is_there() -> None:
    assert list(OPTIMIZERS) == [
        *("sgd", "sam", "asam", "m-sam", "logit-sam", "jacobian-sam", "ncsam", "ncsam-released", "clean-direction"),
        *("clean-part-direction", "matched", "replay", "random-direction", "random-picks", "gstar-only", "oracle"),
    ]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nscam", {}, "unknown optimizer 'nscam', did you mean 'ncsam'? known: sgd, sam, "),
        ("lion", {}, "unknown optimizer 'lion'; known: sgd, sam, "),
        ("sam", {"roh": 1}, "unknown option of sam 'roh', did you mean 'rho'? known: rho, adaptive, eta, forward"),
        ("sgd", {"rho": 1}, "unknown option of sgd 'rho'"),
        ("matched", {"kapa": 1}, "unknown option of matched 'kapa', did you mean 'kappa'?"),
        ("sam", {"rho": -1}, "rho is -1, expected a finite number ≥ 0"),
        ("replay", {"norms": [0.1, float("nan")]}, "norm of step 2 is nan, expected a finite number ≥ 0"),
        ("m-sam", {"m": 0}, "m is 0, expected a whole number of samples ≥ 1"),
        ("m-sam", {"m": 2.0}, "m is 2.0, expected a whole number of samples ≥ 1"),
        ("ncsam", {"kappa": float("inf")}, "kappa is inf, expected a finite number"),
        ("ncsam", {"flip_ratio": 1.2}, "flip_ratio is 1.2, expected a share in [0, 1]"),
        ("ncsam", {"sign": 0}, "sign is 0, expected +1 (the paper's) or -1"),
        ("ncsam", {"schedule": "cosine"}, "schedule is 'cosine', expected one of 'paper', 'linear', 'constant'"),
        ("ncsam", {"scale": "log"}, "scale is 'log', expected one of 'raw', 'relative'"),
        ("ncsam", {"warmup": 50}, "warmup is 50, expected a fraction of training in [0, 1]"),
        ("ncsam", {"warmup_step": "adam"}, "warmup_step is 'adam', expected one of 'base', 'sam'"),
        ("ncsam-released", {"clusters": 0}, "clusters is 0, expected a whole number ≥ 1"),
        ("ncsam-released", {"clusters": "5"}, "clusters is '5', expected a whole number ≥ 1"),
        ("sam", {"rho": "0.05"}, "rho is '0.05', expected a finite number ≥ 0"),
        ("sam", {"rho": None}, "rho is None, expected a finite number ≥ 0"),
        ("ncsam", {"kappa": "0.1"}, "kappa is '0.1', expected a finite number"),
        ("ncsam", {"flip_ratio": [0.4]}, "flip_ratio is [0.4], expected a share in [0, 1]"),
        ("ncsam", {"warmup": "50"}, "warmup is '50', expected a fraction of training in [0, 1]"),
        ("ncsam-released", {"label_smoothing": -0.1}, "label_smoothing is -0.1, expected a share in [0, 1]"),
    ],
)
def test_what_is_unknown_or_impossible_is_named(name: str, options: dict[str, Any], message: str) -> None:
    model = mlp()
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        build(name, model, sgd(model), **options)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:projection keeps")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_listed_option_is_taken(name: str) -> None:
    values: dict[str, Any] = {"adaptive": True, "forward": None, "features": "0", "rho": 0.1, "eta": 0.1, "kappa": 0.2}
    values |= {"flip_ratio": 0.5, "sign": -1, "project": True, "label_smoothing": 0.2, "warmup": 0.05, "seed": 4}
    values |= {
        "norms": (0.1, 0.2),
        "m": 6,
        "clusters": 3,
        "schedule": "linear",
        "scale": "relative",
        "warmup_step": "sam",
        "synchronised": True,
    }
    model = mlp()
    opt = build(name, model, sgd(model), **{option: values[option] for option in options_of(name)})
    assert all(info.skipped is None for info in train(opt, 2))


def test_options_change_what_is_run() -> None:
    shown = repr(make("ncsam", mlp(), rho=0.2, kappa=0.3, flip_ratio=0.1, sign=-1, project=False, label_smoothing=0.1))
    for part in ("rho=0.2", "kappa=0.3", "flip_ratio=0.1", "sign=-1", "project=False", "label_smoothing=0.1"):
        assert part in shown


def test_matched_is_unprojected_unless_told() -> None:
    assert not make("matched", mlp()).perturbation.like.project
    assert make("matched", mlp(), project=True).perturbation.like.project


@pytest.mark.filterwarnings("ignore:projection keeps")
def test_matched_with_projection_is_sam() -> None:
    a, b = mlp(), mlp()
    train(make("matched", a, project=True, kappa=5.0))
    train(make("sam", b))
    torch.testing.assert_close(list(a.parameters()), list(b.parameters()), rtol=1e-5, atol=1e-6)


def test_everything_public_is_documented() -> None:
    for name in optimizers.__all__:
        assert inspect.getdoc(getattr(optimizers, name)), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_signature_and_help_come_from_the_fields(name: str) -> None:
    variant = OPTIMIZERS[name]
    shown = inspect.signature(variant).parameters
    assert [*shown][:2] == ["model", "base"]
    assert [*shown][2:] == options_of(name)
    for option_name, o in options_in(variant.prototype).items():
        assert (shown[option_name].default, shown[option_name].annotation) == (o.default, o.type)
        assert f"    {option_name}: {o.meaning}" in (inspect.getdoc(variant) or "")
    assert [p for p in shown if p in COMMON] == [p for p in COMMON if p in shown]


def test_no_constructor_restates_the_options() -> None:
    for variant in (Variant, SharpnessAware, *OPTIMIZERS.values()):
        assert len(inspect.signature(variant.__init__).parameters) <= 8, variant


@pytest.mark.parametrize(
    ("positional", "options", "message"),
    [
        ((), {"kapa": 1}, "NCSAM: got an unexpected keyword argument 'kapa'; see help(NCSAM)"),
        ((0.05, 0.1, 0.4), {}, "NCSAM: too many positional arguments; see help(NCSAM)"),
        ((0.05,), {"rho": 0.1}, "NCSAM: multiple values for argument 'rho'; see help(NCSAM)"),
    ],
)
def test_a_constructor_names_what_it_does_not_take(positional: Any, options: Any, message: str) -> None:
    model = mlp()
    with pytest.raises(TypeError, match=re.escape(message)):
        optimizers.NCSAM(model, sgd(model), *positional, **options)


def test_the_options_of_parts_reach_the_parts() -> None:
    matched = make("matched", mlp(), kappa=0.3, flip_ratio=0.2, label_smoothing=0.1).perturbation
    assert (matched.like.kappa, matched.like.noise.flip_ratio, matched.like.noise.label_smoothing) == (0.3, 0.2, 0.1)
    random = make("random-direction", mlp(), flip_ratio=0.2).perturbation
    assert random.noise.like.flip_ratio == 0.2
    assert optimizers.NCSAM.prototype == Compensated()  # prototypes are never changed


@dataclass(frozen=True)
class Steady(Perturbation):
    """ε = ρ in every coordinate, divided by √K."""

    rho: float = option(0.05, "length of ε.")
    sign: int = 1

    def __call__(self, first: FirstPass) -> Perturbed:
        return Perturbed(torch.ones_like(first.gradient) * (self.sign * self.rho / len(first.gradient) ** 0.5))


class SteadySteps(Variant, perturbation=Steady()):
    """Steps with the same ε throughout."""


def test_one_line_in_the_registry_adds_a_perturbation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "steady", SteadySteps)
    assert options_of("steady") == ["rho", "sign", "forward", "synchronised"]
    assert resolve_options("steady", {"sign": -1}) == {"rho": 0.05, "sign": -1}
    info = train(make("steady", mlp(), rho=0.3), 1)[0]
    assert info.perturbation_norm == pytest.approx(0.3, rel=1e-5)
    config = TrainConfig(epochs=1, optimizer="steady", options={"rho": 0.2}, train_samples=64, warmup=0.0)
    trainer = Trainer(config)
    assert [row["perturbation_norm"] for row in trainer.epochs()] == pytest.approx([0.2], rel=1e-5)


def test_two_parts_with_an_option_of_one_name_are_refused() -> None:
    @dataclass(frozen=True)
    class Twice(Perturbation):
        rho: float = 0.1
        inner: Steady = Steady()

        def __call__(self, first: FirstPass) -> Perturbed:
            return self.inner(first)

    with pytest.raises(TypeError, match="Twice has two options 'rho'; rename one of the fields"):
        options_in(Twice())
    with pytest.raises(TypeError, match="is no dataclass instance, so its options are unknown"):
        options_in(object())
