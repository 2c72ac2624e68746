"""The highest loss in a ball, where it is known; and Theorem 1 measured on a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landscape import Objective, store
from ncsam import Run, theorem1_bound
from ncsam.measurements import measure_bound
from ncsam.measurements.theorem1 import (
    ClippedCrossEntropy,
    assumption_violated,
    default_clip,
    error_rate,
    highest_in_ball,
)
from ncsam.runs.train import train_run
from ncsam.study.endpoints import endpoints_of
from tests.ncsam.conftest import CONFIG


class Shifted(nn.Module):
    """Logits (b, 0) for every sample: the margin of class 0 is the one parameter."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([bias], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.bias.expand(len(x), 1), torch.zeros(len(x), 1, dtype=torch.float64)], dim=1)


def objectives(model: nn.Module, x: torch.Tensor, y: torch.Tensor, clip: float = 2.0) -> dict[str, Objective]:
    metrics = {"error": error_rate, "clipped": ClippedCrossEntropy(clip, each=True)}
    losses = {"ce": nn.CrossEntropyLoss(), "clipped": ClippedCrossEntropy(clip)}
    return {name: Objective(model, loss, (x, y), metrics=metrics) for name, loss in losses.items()}


@pytest.mark.parametrize(("rho", "error"), [(0.9, 0.0), (1.1, 1.0)])
def test_the_maximum_of_one_parameter_is_at_the_edge_of_the_ball(rho: float, error: float) -> None:
    y = torch.zeros(4, dtype=torch.int64)
    found = highest_in_ball(objectives(Shifted(1.0), torch.zeros(4, 1), y), rho, steps=5, restarts=2)
    assert found["error"].at_weights == 0.0
    assert found["error"].value == error
    edge = np.log1p(np.exp(-(1.0 - rho))) / 2.0  # −log p₀ at the margin 1 − ρ, over the constant
    assert found["clipped"].value == pytest.approx(edge, rel=1e-9)
    assert found["clipped"].converged
    assert found["error"].history.shape == (4, 6)
    assert (np.diff(found["clipped"].history, axis=1) >= 0).all()


def test_what_was_still_rising_is_called_so() -> None:
    model = Shifted(1.0)
    found = highest_in_ball(
        objectives(model, torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)), 1.0, steps=2, restarts=1
    )
    assert found["clipped"].converged  # one parameter: the edge is reached in the first step
    wide = nn.Sequential(nn.Linear(8, 40), nn.Tanh(), nn.Linear(40, 3)).double()
    x, y = torch.randn(60, 8, dtype=torch.float64), torch.arange(60) % 3
    long = highest_in_ball(objectives(wide, x, y), 2.0, steps=40, restarts=2)
    short = highest_in_ball(objectives(wide, x, y), 2.0, steps=4, restarts=2)
    assert not short["clipped"].converged
    assert long["clipped"].value > short["clipped"].value > short["clipped"].at_weights


def test_more_restarts_never_find_less_and_the_same_seed_finds_the_same() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    one, three, again = (highest_in_ball(objectives(model, x, y), 0.5, steps=5, restarts=r) for r in (1, 3, 3))
    for name in one:
        assert three[name].value >= one[name].value
        np.testing.assert_array_equal(three[name].history, again[name].history)
    with pytest.raises(ValueError, match="rho is 0"):
        highest_in_ball(objectives(model, x, y), 0)
    with pytest.raises(ValueError, match="expected at least 1 each"):
        highest_in_ball(objectives(model, x, y), 0.5, steps=0)


def test_clipped_cross_entropy_lies_in_the_unit_interval() -> None:
    logits = torch.randn(50, 3) * 10
    loss = ClippedCrossEntropy(default_clip(3), each=True)(logits, torch.arange(50) % 3)
    assert float(loss.min()) >= 0
    assert float(loss.max()) == 1.0
    assert float(ClippedCrossEntropy(default_clip(3))(logits, torch.arange(50) % 3)) == pytest.approx(
        float(loss.mean())
    )


def test_the_bound_of_a_run_term_by_term(run: Run) -> None:
    found = measure_bound(run, epochs=run.epochs, rho=0.1, steps=3, restarts=1, draws=3)
    with store.open(run.path) as file:
        stored = file.record("diagnostics/bound")
    for field in dataclasses.fields(found):
        np.testing.assert_array_equal(getattr(stored, field.name), getattr(found, field.name))
    evaluated = run.objective().evaluate()
    flipped = run.labels.flipped[~run.labels.held_out]
    assert found.risk[-1, 0] == pytest.approx(1 - evaluated.metrics["accuracy"]["test"])
    assert found.at_weights[-1, 0] == pytest.approx(1 - evaluated.metrics["accuracy"]["mixed"])
    assert float(found.alpha) == pytest.approx(flipped.mean())
    bound = theorem1_bound(
        max_neighbourhood_loss=found.highest[-1, 1], alpha=flipped.mean(), n=len(flipped),
        num_parameters=run.objective().num_parameters, weight_norm=float(found.weight_norm[-1]), rho=0.1,
    )  # fmt: skip
    for term in ("neighbourhood", "sampling", "complexity", "total"):
        assert getattr(found, term)[-1, 1] == pytest.approx(getattr(bound, term))
    assert (found.highest >= found.at_weights).all()
    assert ((found.at_weights >= 0) & (found.highest <= 1)).all()
    assert found.violated == ""
    assert found.history.shape == (2, 2, 2, 4)
    endpoints = endpoints_of(Run(run.path))
    assert endpoints["bound/error/total"] == found.total[-1, 0]
    assert endpoints["bound/clipped_ce/risk"] == found.risk[-1, 1]
    assert endpoints["bound/error/alpha"] == float(found.alpha)


def test_noise_that_depends_on_input_or_class_violates_the_assumption(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, noise="instance:0.4", epochs=1, checkpoints=())
    found = measure_bound(train_run(config, tmp_path / "run.h5"), steps=1, restarts=1, draws=2)
    assert "depends on the input" in found.violated
    even = np.full((3, 3), 1 / 3)
    assert assumption_violated("pair", even) == assumption_violated("none", np.eye(3)) == ""
    assert "classes keep their label" in assumption_violated("matrix", np.diag([1.0, 0.5, 1.0]))
    assert "human noise depends" in assumption_violated("human", even)
