"""An objective of some parameters alone is the whole one with the others held fixed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import landscape
from tests.reference import CASES, Case, Tied, dense_hessian


def positions(obj: landscape.Objective, sub: landscape.Objective) -> torch.Tensor:
    return sub.extract(torch.arange(obj.num_parameters)).long()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_layer_has_its_block_of_the_dense_hessian_and_its_part_of_the_gradient(case: Case) -> None:
    model, loss_fn, x, y = case.make()
    obj = landscape.Objective(model, loss_fn, (x, y), batch_size=4)
    dense = dense_hessian(model, loss_fn, x, y)
    for names in obj.layers().values():
        sub = obj.restricted(*names)
        at = positions(obj, sub)
        torch.testing.assert_close(sub.gradient(), obj.gradient()[at], rtol=1e-10, atol=1e-14)
        block = landscape.HessianOperator(sub) @ torch.eye(len(at), dtype=torch.float64)
        torch.testing.assert_close(block, dense[at][:, at], rtol=1e-8, atol=1e-8 * float(dense.abs().max()))
        assert sub.loss() == obj.loss()


def test_layers_partition_the_parameters() -> None:
    for case in CASES:
        model, loss_fn, x, y = case.make()
        obj = landscape.Objective(model, loss_fn, (x, y))
        assert tuple(n for names in obj.layers().values() for n in names) == obj.layout.names


def test_the_rest_stays_at_the_point_where_it_was_restricted() -> None:
    model, loss_fn, x, y = CASES[0].make()
    obj = landscape.Objective(model, loss_fn, (x, y))
    there = torch.randn(obj.num_parameters, dtype=torch.float64)
    sub = obj.at(there).restricted("2")
    assert sub.loss() == obj.at(there).loss()
    moved = there.clone()
    moved[positions(obj, sub)] = 0.5
    assert sub.at(torch.full((sub.num_parameters,), 0.5)).loss() == obj.at(moved).loss()
    before = sub.loss()
    with torch.no_grad():
        model[0].weight.zero_()
    assert sub.loss() == before


def test_restrictions_compose_with_views_and_each_other() -> None:
    model, loss_fn, x, y = CASES[0].make()
    views = [landscape.View("a"), landscape.View("b", indices=torch.arange(5))]
    obj = landscape.Objective(model, loss_fn, (x, y), views=views)
    one, other = obj.restricted("2").view("b"), obj.view("b").restricted("2")
    assert torch.equal(one.gradient(), other.gradient())
    inner = obj.view("b").restricted("2").restricted("*.bias")
    assert inner.layout.names == ("2.bias",)
    torch.testing.assert_close(inner.gradient(), obj.view("b").gradient()[-3:], rtol=1e-10, atol=1e-14)
    line = landscape.line(obj.restricted("2.bias"), torch.ones(3), [-0.1, 0.0, 0.1])
    assert line.loss[0, 1] == pytest.approx(obj.view("a").loss(), rel=1e-12)


def test_a_tied_parameter_answers_to_each_of_its_names() -> None:
    obj = landscape.Objective(Tied().double(), nn.CrossEntropyLoss(), (torch.randn(6, 4), torch.arange(6) % 3))
    assert obj.restricted("second").layout.names == ("first.weight", "second.bias")
    assert obj.restricted("second.weight").layout.names == ("first.weight",)


def test_a_pattern_that_matches_nothing_is_an_error_that_lists_the_names() -> None:
    obj = landscape.Objective(nn.Linear(3, 2), nn.MSELoss(), (torch.randn(5, 3), torch.randn(5, 2)))
    with pytest.raises(ValueError, match=r"'layer3\*' matches no .*; there are weight, bias"):
        obj.restricted("weight", "layer3*")
    with pytest.raises(ValueError, match="no pattern given"):
        obj.restricted()
