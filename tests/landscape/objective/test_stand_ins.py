"""Code that asks for parameters, their attributes, classes and flags finds them also at other points than their own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import landscape

X, Y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
POINTS = torch.tensor([-1.0, 0.0, 1.0])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def penalised(model: nn.Module, which: str, outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and 0.1·‖p‖² over the parameters that a usual idiom picks."""
    picked = {
        "requires_grad": lambda p: p.requires_grad,
        "flagged": lambda p: not getattr(p, "_no_weight_decay", False),
        "typed": lambda p: isinstance(p, nn.Parameter),
    }[which]
    tables = [p for module in model.modules() for p in module._parameters.values()]
    return functional.cross_entropy(outputs, labels) + 0.1 * sum(p.pow(2).sum() for p in tables if picked(p))


@pytest.mark.parametrize("which", ["requires_grad", "flagged", "typed"])
def test_a_penalty_on_picked_parameters_is_part_of_all_that_is_measured(which: str) -> None:
    model = network()
    for p in model.parameters():
        p._no_weight_decay = p.ndim == 1  # type: ignore[attr-defined]
    objective = landscape.Objective(model, lambda out, y: penalised(model, which, out, y), (X, Y))
    direction = landscape.filter_normalized_direction(model)

    def at(alpha: float) -> float:
        moved = copy.deepcopy(model)
        nn.utils.vector_to_parameters(objective.weights + alpha * direction, moved.parameters())
        for p in moved.parameters():
            p._no_weight_decay = p.ndim == 1  # type: ignore[attr-defined]
        return penalised(moved, which, moved(X), Y).item()

    line = landscape.line(objective, direction, POINTS)
    np.testing.assert_allclose(line.loss[0], [at(float(a)) for a in POINTS], rtol=1e-5)
    assert line.check["outcome"] == ["agrees"]
    assert objective.loss() == pytest.approx(at(0.0), rel=1e-6)

    plain = landscape.Objective(model, functional.cross_entropy, (X, Y))
    added = 0.2 * sum(p.numel() for p in model.parameters() if which != "flagged" or p.ndim > 1)
    eye = torch.eye(objective.num_parameters)
    difference = torch.trace(objective.hessian() @ eye) - torch.trace(plain.hessian() @ eye)
    assert float(difference) == pytest.approx(added, rel=1e-4)
    assert torch.allclose(objective.gradient(), _gradient(model, which), rtol=1e-4, atol=1e-6)


def _gradient(model: nn.Module, which: str) -> Tensor:
    grads = torch.autograd.grad(penalised(model, which, model(X), Y), list(model.parameters()))
    return torch.cat([g.reshape(-1) for g in grads])


def test_a_restricted_objective_counts_the_penalty_on_what_is_fixed() -> None:
    model = network()
    objective = landscape.Objective(model, lambda out, y: penalised(model, "requires_grad", out, y), (X, Y))
    part = objective.restricted("2")
    assert part.loss() == pytest.approx(objective.loss(), rel=1e-6)
    assert torch.equal(part.gradient(), objective.gradient()[-part.num_parameters :])


def test_frozen_parameters_say_so() -> None:
    model = network()
    model[0].requires_grad_(False)
    objective = landscape.Objective(model, lambda out, y: penalised(model, "requires_grad", out, y), (X, Y))
    assert objective.loss() == pytest.approx(penalised(model, "requires_grad", model(X), Y).item(), rel=1e-6)


def test_attributes_of_parameters_are_there_in_forward() -> None:
    class Readout(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x / self.weight.width)

    model = Readout(4, 3)
    model.weight.width = 2.0  # type: ignore[attr-defined]
    objective = landscape.Objective(model, functional.cross_entropy, (X, Y))
    assert objective.loss() == pytest.approx(functional.cross_entropy(model(X), Y).item(), rel=1e-6)
    assert vars(model.weight) == {"width": 2.0}


def test_a_parameter_that_computes_in_its_own_way_is_refused() -> None:
    class Exponent(nn.Parameter):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            return super().__torch_function__(func, types, args, kwargs or {})

    model = nn.Linear(4, 3)
    model.weight = Exponent(model.weight.detach().clone())
    with pytest.raises(ValueError, match="parameter 'weight' is of the class Exponent, which computes in its own way"):
        landscape.Objective(model, functional.cross_entropy, (X, Y))


class Regularised(nn.Module):
    """Class-weighted cross-entropy and a penalty on the parameters of a model that it holds."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        losses = functional.cross_entropy(outputs, labels, reduction="none") * self.weight[labels]
        return losses.mean() + 0.1 * sum(p.pow(2).sum() for p in self.model.parameters())


def test_a_loss_that_holds_the_model_follows_the_point_in_every_precision() -> None:
    model = network()
    loss_fn = Regularised(model)
    objective = landscape.Objective(model, loss_fn, (X, Y))
    wide = objective.astype(torch.float64)
    weights = 1.5 * objective.weights
    assert wide.at(weights).loss() == pytest.approx(objective.at(weights).loss(), rel=1e-6)
    eye = torch.eye(objective.num_parameters)
    expected, found = objective.hessian() @ eye, wide.hessian() @ eye.double()
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)
    assert loss_fn.weight.dtype == model[0].weight.dtype == torch.float32
    assert wide.loss_fn.weight.dtype == torch.float64
    assert wide.loss_fn.model is model


def test_half_precision_models_with_a_loss_that_holds_them() -> None:
    model = network().bfloat16()
    objective = landscape.Objective(model, Regularised(model), (X, Y))
    direction = landscape.filter_normalized_direction(model).float()

    def at(alpha: float) -> float:
        moved = network()
        nn.utils.vector_to_parameters(objective.weights + alpha * direction, moved.parameters())
        return Regularised(moved)(moved(X), Y).item()

    line = landscape.line(objective, direction, POINTS)
    np.testing.assert_allclose(line.loss[0], [at(float(a)) for a in POINTS], rtol=1e-5)


def test_normalised_logits_take_class_weights_to_another_precision() -> None:
    model = network()
    weighted = landscape.Objective(model, nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0])), (X, Y))
    normalised = landscape.with_normalized_logits(weighted)
    assert normalised.astype(torch.float64).loss() == pytest.approx(normalised.loss(), rel=1e-6)


def test_class_weights_that_a_function_holds_are_named_where_the_precision_changes() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0])
    objective = landscape.Objective(
        network(),
        lambda out, y: functional.cross_entropy(out, y, weight=weight),
        (X, Y),
        normalizer=lambda y: float(weight[y].sum()),
    )
    wide = objective.astype(torch.float64)
    for measure in (wide.loss, wide.gradient):
        with pytest.raises(TypeError, match=r"cannot be computed in torch\.float64: it holds tensors of another"):
            measure()
    assert objective.hessian().eigenpairs(1).converged.all()
    assert len(objective.line(points=3).loss[0]) == 3

    def wrong(out: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("of another kind")

    with pytest.raises(RuntimeError, match="of another kind"):
        landscape.Objective(network(), wrong, (X, Y)).astype(torch.float64).loss()
