"""Curvature products against differences, and products that are differences themselves."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from landscape.curvature.products import Form, HessianForm, Product
from landscape.curvature.twice_differentiable import twice_differentiable
from landscape.objective.differences import DerivativeError, compare, custom_functions, random_direction, sample
from landscape.objective.isolation import plain_attention
from landscape.objective.micro_batch import BatchLoss
from landscape.objective.objective import Objective
from landscape.objective.parameters import ParameterLayout


class DifferenceProduct(Product):
    """A micro-batch's Hessian product as a central difference of gradients, two of them for every vector.

    Its relative error is about ε^(2/3), ε being the machine epsilon of the parameters' dtype: 10⁻⁵ in float64, 3·10⁻³
    in float32, and more where the step crosses kinks.
    """

    def __init__(self, batch: BatchLoss, layout: ParameterLayout) -> None:
        self._batch, self._layout = batch, layout
        self._point = layout.flatten({n: p.detach() for n, p in batch.parameters.items()})

    def __call__(self, column: Tensor, *, keep: bool = True) -> Tensor:
        norm = float(column.norm())
        if not norm:
            return torch.zeros_like(column)
        step = torch.finfo(self._layout.dtype).eps ** (1 / 3) * (float(self._point.norm()) or 1.0) / norm
        return (self._gradient(step * column) - self._gradient(-step * column)) / (2 * step)

    def _gradient(self, displacement: Tensor) -> Tensor:
        moved = self._layout.unflatten(self._point + displacement)
        leaves = {name: p.detach().requires_grad_() for name, p in moved.items()}
        batch = dataclasses.replace(self._batch, parameters=leaves)
        with batch.held():
            loss = batch.loss()
            if not loss.requires_grad:
                return torch.zeros_like(displacement)
            grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return self._layout.flatten(dict(zip(leaves, grads, strict=True)))


def check_products(objective: Objective, form: Form) -> float:
    """Refuse Hessian products that are not differences of gradients; give their relative deviation, NaN if undecided.

    Products are made by double backward here, which every other strategy is compared with.

    Raises:
        DerivativeError: they are not.
    """
    known, key = objective.context.found.derivatives, ("hessian", objective.context.key)
    if objective.context.checks == "off" or not isinstance(form, HessianForm):
        return float("nan")
    if key not in known:
        for version in sample(objective):
            try:
                known[key] = _deviation(version)
            except DerivativeError:
                raise
            except (RuntimeError, TypeError):
                if version.layout.dtype == objective.layout.dtype:
                    raise
                continue
            break
    deviation: float = known[key]
    return deviation


def _deviation(objective: Objective) -> float:
    direction = random_direction(objective)
    layout, weights = objective.layout, objective.weights
    functions: list[str] = []

    def product(batch: BatchLoss) -> Tensor:
        functions.extend(custom_functions(batch.loss()))
        form = HessianForm()
        return form.linearise(batch, layout, form.extras(batch))(direction, keep=False)

    with plain_attention(), twice_differentiable(objective.model):
        image = objective.accumulate(product)

    def gradient(at: float) -> Tensor:
        return objective.at(weights + at * direction).gradient().double()

    size, eps = float(gradient(0.0).norm()), float(torch.finfo(layout.dtype).eps)
    outcome, deviation, difference = compare(
        image, lambda h: (gradient(h) - gradient(-h)) / (2 * h), lambda h: 20 * eps * size / h, layout.dtype
    )
    if outcome != "differs":
        return deviation if outcome == "agrees" else float("nan")
    raise DerivativeError(
        f"second derivatives by automatic differentiation are not those of the gradient (relative difference "
        f"{deviation:.2g}), {_where(functions, layout, image - difference)}; write its backward in operations that can "
        "be differentiated, or take strategy='finite_difference'"
    )


def _where(functions: list[str], layout: ParameterLayout, difference: Tensor) -> str:
    if functions:
        return f"probably because of {', '.join(sorted(set(functions)))} (a torch.autograd.Function)"
    parts: dict[str, Any] = layout.unflatten(difference.to(layout.dtype))
    worst = max(parts, key=lambda name: float(parts[name].abs().norm()))
    return f"most in parameter {worst!r}"
