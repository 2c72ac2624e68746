"""The commonest mistakes of a first script end at once in one line that names the cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import landscape
import ncsam

MODEL = nn.Linear(3, 2)
DATA = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])
OBJECTIVE = landscape.Objective(MODEL, nn.CrossEntropyLoss(), DATA)
H = landscape.HessianOperator(OBJECTIVE)

TYPE_ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "trace of an objective": (
        lambda: landscape.trace(OBJECTIVE),
        "expected a symmetric operator, got Objective; take its Hessian: landscape.HessianOperator(objective)",
    ),
    "eigenpairs of a model": (
        lambda: landscape.top_eigenpairs(MODEL),
        "got Linear; take its Hessian: landscape.HessianOperator(Objective(model, loss_fn, data))",
    ),
    "density of a list": (lambda: landscape.spectral_density([1.0]), "a tensor or an array, got list"),
    "operator of a model": (
        lambda: landscape.HessianOperator(MODEL),  # type: ignore[arg-type]
        "HessianOperator takes an Objective, got the model Linear; make one: landscape.Objective(model, loss_fn, data)",
    ),
    "sharpness of a model": (
        lambda: landscape.sam_sharpness(MODEL),  # type: ignore[arg-type]
        "sam_sharpness takes an Objective, got the model Linear",
    ),
    "plane of an operator": (
        lambda: landscape.plane(H, [0.0] * 8, [0.0] * 8, [0.0], [0.0]),  # type: ignore[arg-type]
        "plane takes an Objective, got HessianOperator",
    ),
    "loss by its name": (
        lambda: landscape.Objective(MODEL, "ce", DATA),  # type: ignore[arg-type]
        "loss_fn is 'ce', expected a function loss_fn(outputs, labels), such as torch.nn.CrossEntropyLoss()",
    ),
    "class of a loss": (
        lambda: landscape.Objective(MODEL, nn.CrossEntropyLoss, DATA),  # type: ignore[arg-type]
        "loss_fn is the class CrossEntropyLoss; make one of it: CrossEntropyLoss()",
    ),
    "data before the loss": (
        lambda: landscape.Objective(MODEL, DATA, nn.CrossEntropyLoss()),  # type: ignore[arg-type]
        "loss_fn is a tuple, expected a function loss_fn(outputs, labels), such as torch.nn.CrossEntropyLoss()",
    ),
    "inputs and labels by themselves": (
        lambda: landscape.Objective(MODEL, nn.CrossEntropyLoss(), *DATA),  # type: ignore[misc]
        "batch_size is a Tensor, expected a whole number; inputs and labels are one argument: (x, y)",
    ),
    "spelled number of eigenpairs": (lambda: OBJECTIVE.summary(k="3"), "k is '3', expected a whole number"),  # type: ignore[arg-type]
    "plane without a seed": (lambda: OBJECTIVE.plane(points=3, seed=None), "seed is None"),  # type: ignore[arg-type]
    **{
        f"{name} without a seed": (
            call, "seed is None, expected a whole number, so that the result can be repeated, such as 0",
        )
        for name, call in {
            "trace": lambda: landscape.trace(H, 4, seed=None),  # type: ignore[arg-type]
            "eigenpairs": lambda: landscape.top_eigenpairs(H, 1, seed=None),  # type: ignore[arg-type]
            "density": lambda: landscape.spectral_density(H, 2, seed=None),  # type: ignore[arg-type]
            "sharpness": lambda: landscape.sam_sharpness(OBJECTIVE, seed=None),  # type: ignore[arg-type]
            "m-sharpness": lambda: landscape.m_sharpness(OBJECTIVE, seed=None),  # type: ignore[arg-type]
            "direction": lambda: landscape.filter_normalized_direction(MODEL, None),  # type: ignore[arg-type]
            "layers": lambda: landscape.layer_spectra(OBJECTIVE, seed=None),  # type: ignore[arg-type]
        }.items()
    },
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Objective. give 'batch_size' by name")  # as labels seem to be
@pytest.mark.parametrize("name", TYPE_ERRORS)
def test_a_wrong_type_is_named_with_the_cure(name: str) -> None:
    call, told = TYPE_ERRORS[name]
    with pytest.raises(TypeError) as caught:
        call()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_spelled_radius_is_no_number() -> None:
    with pytest.raises(ValueError, match=r"rho is '0\.05', expected a finite number ≥ 0"):
        landscape.sam_sharpness(OBJECTIVE, rho="0.05")  # type: ignore[arg-type]


def test_counts_and_radii_may_be_numbers_of_numpy() -> None:
    assert OBJECTIVE.plane(points=np.int64(3)).loss.shape == (1, 3, 3)
    assert landscape.top_eigenpairs(H, np.int64(1)).values.shape == (1,)
    assert landscape.sam_sharpness(OBJECTIVE, rho=np.float32(0.05)).value > 0


def test_a_misspelt_optimizer_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="unknown optimizer 'nscam', did you mean 'ncsam'"):
        ncsam.TrainConfig(optimizer="nscam")
    assert ncsam.TrainConfig(optimizer="my_lab:factory").optimizer == "my_lab:factory"
    stored = {**ncsam.TrainConfig().to_dict(), "optimizer": "my_own"}  # of a run whose optimizer is not known here
    assert ncsam.TrainConfig.from_dict(stored).optimizer == "my_own"
