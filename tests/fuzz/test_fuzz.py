"""Sixty random networks, and thousands in the slow suite; the fuzzer itself on planted faults."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import landscape
from tests.fuzz.checks import QUICK, THOROUGH, Depth, check_network
from tests.fuzz.networks import Network, Recipe, recipe_of
from tests.fuzz.reference import Reference, difference
from tests.fuzz.registry import IDIOMS, NOT_THE_SLOPE
from tests.fuzz.run import from_json, isolated, reduce, to_json, told

FEW, CHUNK, CHUNKS = 60, 50, 40


@pytest.mark.parametrize("seed", [pytest.param(s, marks=[pytest.mark.slow] * (s >= FEW)) for s in range(100)])
def test_network(seed: int) -> None:
    outcome = check_network(recipe_of(seed), QUICK)
    assert not outcome.faults, told(outcome)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_networks_thoroughly(chunk: int) -> None:
    found = list(isolated(range(1000 + chunk * CHUNK, 1000 + (chunk + 1) * CHUNK), THOROUGH))
    assert len(found) == CHUNK
    assert not any(outcome.faults for outcome in found), "\n".join(told(o) for o in found if o.faults)


PLAIN = Recipe(1, "vector", blocks=(("plain_layers.vector", 2), ("activation.Tanh", 3)), loss="squared_error")


def faults_of(*checks: str) -> set[str]:
    return {fault.check for fault in check_network(PLAIN, Depth(only=checks, traced=0.0)).faults}


def test_wrong_numbers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = landscape.Objective.gradient
    monkeypatch.setattr(landscape.Objective, "gradient", lambda self: right(self) * 1.001)
    found = faults_of("gradient", "several_views", "restricted", "other_batches")
    assert {"gradient", "gradient of view", "gradient restricted", "gradient batched"} <= found


def test_wrong_points_of_a_line_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = landscape.line

    def bent(objective: Any, direction: Any, alphas: Any, **options: Any) -> Any:
        return right(objective, direction, [a * 1.01 for a in alphas], **options)

    monkeypatch.setattr(landscape, "line", bent)
    assert {"line", "line of views"} <= faults_of("line", "line_in_detail")


def test_wrong_products_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = landscape.HessianOperator.__matmul__
    monkeypatch.setattr(landscape.HessianOperator, "__matmul__", lambda self, v: right(self, v) + 1e-3 * v)
    found = faults_of("hessian", "restricted")
    assert {"hessian.auto", "hessian.double_backward", "hessian.lean", "hessian restricted"} <= found


def test_a_changed_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = landscape.Objective.loss

    def marked(self: landscape.Objective) -> float:
        self.model.head.forward = self.model.head.forward
        return right(self)

    monkeypatch.setattr(landscape.Objective, "loss", marked)
    assert "loss elsewhere: model untouched" in faults_of("elsewhere")


def test_a_changed_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = landscape.Objective.gradient

    def drawn(self: landscape.Objective) -> Tensor:
        torch.rand(())
        return right(self)

    monkeypatch.setattr(landscape.Objective, "gradient", drawn)
    assert "gradient: process untouched" in faults_of("gradient")


def test_reduction_keeps_what_fails() -> None:
    names = ("activation.Tanh", "along.sort.vector", "activation.ReLU")
    recipe = Recipe(seed=1, source="vector", blocks=tuple((name, 1) for name in names), single=True, loss="huber")
    reduced = reduce(recipe, "loss", lambda smaller: ("along.sort.vector", 1) in smaller.blocks)
    assert reduced.blocks == (("along.sort.vector", 1),)
    assert not reduced.single
    assert reduced.loss == "squared_error"


def test_outcomes_survive_the_way_between_processes() -> None:
    outcome = check_network(PLAIN, QUICK)
    assert from_json(to_json(outcome)) == outcome


@pytest.mark.parametrize("name", [name for name, found in IDIOMS.items() if found.refuses == NOT_THE_SLOPE])
def test_what_may_be_refused_for_its_slope_has_a_wrong_one(name: str) -> None:
    kind = IDIOMS[name].kind
    before = (("plain_layers.vector", 3),) if kind == "vector" else ()
    recipe = Recipe(seed=1, source=kind, blocks=(*before, (name, 4)), samples=12, loss="squared_error")
    reference = Reference(Network(recipe))
    w = reference.weights
    d = torch.randn(w.shape, generator=torch.Generator().manual_seed(0), dtype=w.dtype)
    slope = difference(lambda h: torch.tensor(reference.loss(w + h * d), dtype=w.dtype), 1e-5)
    gradient = reference.gradient(w)
    assert abs(float(gradient @ d) - float(slope.value)) > 1e-3 * float(gradient.norm()) > 100 * slope.error


def test_many_idioms_are_known() -> None:
    families = {name.split(".")[0] for name in IDIOMS}
    assert len(families) > 250
    assert len(IDIOMS) > 500
