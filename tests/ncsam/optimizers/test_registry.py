"""Names and options as the command line spells them."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch

from ncsam import optimizers
from ncsam.optimizers import OPTIMIZERS, build, options_of
from tests.ncsam.optimizers.problem import make, mlp, sgd, train


def test_every_arm_of_the_comparison_is_there() -> None:
    assert list(OPTIMIZERS) == [
        *("sgd", "sam", "asam", "ncsam", "ncsam-released", "clean-direction", "matched", "random-direction"),
        *("random-picks", "gstar-only", "oracle"),
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
        ("ncsam", {"kappa": float("inf")}, "kappa is inf, expected a finite number ≥ 0"),
        ("ncsam", {"flip_ratio": 1.2}, "flip_ratio is 1.2, expected a share in [0, 1]"),
        ("ncsam", {"sign": 0}, "sign is 0, expected +1 (the paper's) or -1"),
        ("ncsam", {"schedule": "cosine"}, "schedule is 'cosine', expected one of 'paper', 'linear', 'constant'"),
        ("ncsam", {"scale": "log"}, "scale is 'log', expected one of 'raw', 'relative'"),
        ("ncsam", {"warmup": 50}, "warmup is 50, expected a fraction of training in [0, 1]"),
        ("ncsam", {"warmup_step": "adam"}, "warmup_step is 'adam', expected one of 'base', 'sam'"),
        ("ncsam-released", {"clusters": 0}, "clusters is 0, expected at least 1"),
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
    values |= {"clusters": 3, "schedule": "linear", "scale": "relative", "warmup_step": "sam", "synchronised": True}
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
