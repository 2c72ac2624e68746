"""Curvature products against differences, and products that are differences themselves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.curvature.products import Form, HessianForm, LeanProduct, Product, moved
from landscape.curvature.twice_differentiable import twice_differentiable
from landscape.objective.cross_entropy import FewCopies
from landscape.objective.differences import (
    DerivativeError,
    Findings,
    beside,
    check_padding,
    compare,
    precisely,
    random_direction,
    sample,
)
from landscape.objective.isolation import plain_attention, undisturbed
from landscape.objective.micro_batch import BatchLoss
from landscape.objective.objective import Objective
from landscape.objective.parameters import ParameterLayout
from landscape.objective.sources import length


class DifferenceProduct(Product):
    """A micro-batch's Hessian product as a central difference of gradients, two of them for every vector.

    Where the loss is computed in less than float64, differences at two steps are extrapolated, since rounding forbids a
    step small enough for one; that takes four gradients. The relative error is about ε^(2/3) in units of how fast the
    Hessian changes, ε being the machine epsilon: 10⁻⁸ in float64, 10⁻³ in float32, and more where steps cross kinks.

    Args:
        batch: the micro-batch.
        layout: of the parameters.
        dtype: the least precise on the way from the parameters to the loss.
    """

    def __init__(self, batch: BatchLoss, layout: ParameterLayout, dtype: torch.dtype) -> None:
        self._batch, self._layout, self._eps = batch, layout, torch.finfo(dtype).eps
        self._point = layout.flatten({n: p.detach() for n, p in batch.parameters.items()})

    def __call__(self, column: Tensor, *, keep: bool = True) -> Tensor:
        whole = self._difference(column, 1.0)
        if self._eps <= torch.finfo(torch.float64).eps:
            return whole
        return (4 * self._difference(column, 0.5) - whole) / 3

    @property
    def error(self) -> float:
        """The relative error that products have at least, about."""
        return float(self._eps ** (2 / 3))

    def disagreement(self, column: Tensor) -> float:
        """Relative difference of products from steps of two sizes, which kinks make large; 0 where it is rounding."""
        whole, half = self._difference(column, 1.0), self._difference(column, 0.5)
        off, scale = float((whole - half).norm()), max(float(whole.norm()), float(half.norm()))
        gradient = float(self._gradient(torch.zeros_like(column)).norm())
        return off / scale if off * self._step(column) > 20 * self._eps * gradient else 0.0

    def _step(self, column: Tensor) -> float:
        return float(self._eps ** (1 / 3) * (float(self._point.norm()) or 1.0) / float(column.norm()))

    def _difference(self, column: Tensor, share: float) -> Tensor:
        if not column.any():
            return torch.zeros_like(column)
        step = share * self._step(column)
        return (self._gradient(step * column) - self._gradient(-step * column)) / (2 * step)

    def _gradient(self, displacement: Tensor) -> Tensor:
        return _gradient_at(self._batch, self._layout, displacement)


def _gradient_at(batch: BatchLoss, layout: ParameterLayout, displacement: Tensor) -> Tensor:
    there = moved(batch, layout, displacement)
    del displacement  # of a large model it takes memory that the gradient needs
    with there.held():
        outputs = there.call(there.batch)
        with FewCopies():
            loss = there.loss(outputs)
        del outputs
        return there.gradient_of(loss, layout)


def check_products(objective: Objective, form: Form, *, alone: bool = False) -> float:
    """Refuse curvature products that differences do not bear out; give their relative deviation, NaN if undecided.

    A Hessian product is compared with a difference of gradients, the quadratic form of the others with differences of
    the outputs or losses that they are made of. Products are made by double backward here, which every other strategy
    is compared with; where ``alone``, each of a single sample, which torch has faults of its own with.

    Raises:
        DerivativeError: they differ, or torch cannot make them.
    """
    known, key = objective.context.found.derivatives, (form.key, alone, objective.context.key)
    if objective.context.checks == "off":
        return float("nan")
    if key not in known:

        def compare_few(whole: Objective) -> float:
            few = beside(sample(whole))
            del whole  # which holds a point of its own
            return _deviation(objective, few, form, alone)

        with undisturbed(objective.model):
            known[key] = precisely(objective, compare_few)
    deviation: float = known[key]
    return deviation


def _deviation(objective: Objective, few: Objective, form: Form, alone: bool) -> float:
    try:
        return _compared(objective, few, form, alone)
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        remedy = "; take strategy='finite_difference'" if isinstance(form, HessianForm) else ""
        raise DerivativeError(
            f"torch has no second derivative of an operation of this model or loss ({_first_line(error)}){remedy}"
        ) from error


def _compared(whole: Objective, few: Objective, form: Form, alone: bool) -> float:
    direction, layout, seen = random_direction(few), few.layout, Findings()
    of_vectors = isinstance(form, HessianForm)

    def product(batch: BatchLoss) -> Tensor:
        noted = dataclasses.replace(batch) if alone else batch  # whose outputs go on to be used
        with FewCopies():
            seen.note(batch, noted.loss())
        del noted
        if alone:
            image = LeanProduct(form, batch, layout, length(batch.labels))(direction, keep=False)
        else:
            image = form.linearise(batch, layout, form.extras(batch))(direction, keep=False)
        return image if of_vectors else (image.double() @ direction.double())[None]

    with plain_attention(), twice_differentiable(few.model):
        made = few.accumulate(product)
    check_padding(whole, few, seen.padding)
    noise = 20 * float(torch.finfo(seen.dtype).eps)

    def of_gradients(step: float) -> tuple[Tensor, float]:
        sizes = []

        def difference(batch: BatchLoss) -> Tensor:
            ahead, behind = (_gradient_at(batch, layout, at * direction).double() for at in (step, -step))
            sizes.append(batch.share * max(float(ahead.norm()), float(behind.norm())))
            return (ahead - behind) / (2 * step)

        return few.accumulate(difference), noise / step * sum(sizes)

    def of_forms(step: float) -> tuple[Tensor, float]:
        quadratic = few.accumulate(lambda batch: form.quadratic_by_differences(batch, layout, direction, step)[None])
        return quadratic, noise / step * float(made.norm())

    outcome, deviation, found = compare(made, of_gradients if of_vectors else of_forms, seen.dtype)
    if outcome != "differs":
        return deviation if outcome == "agrees" else float("nan")
    what, remedy = ("those of the gradient", ", or take strategy='finite_difference'") if of_vectors else ("right", "")
    where = _where(sorted(seen.functions), layout, made - found if of_vectors else None)
    off = (
        f"{what} (relative difference {deviation:.2g})"
        if math.isfinite(deviation)
        else "finite, though differences are"
    )
    raise DerivativeError(
        f"second derivatives by automatic differentiation are not {off}{where}; "
        f"write its backward in operations that can be differentiated{remedy}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:120]


def _where(functions: Sequence[str], layout: ParameterLayout, difference: Tensor | None) -> str:
    if functions:
        return f", probably because of {', '.join(functions)} (a torch.autograd.Function)"
    if difference is None:
        return ""
    parts: dict[str, Any] = layout.unflatten(difference.to(layout.dtype))
    worst = max(parts, key=lambda name: float(parts[name].abs().norm()))
    return f", most in parameter {worst!r}"
