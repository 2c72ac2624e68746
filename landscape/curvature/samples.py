"""Curvature of the losses of single samples along given vectors, and the rise of these losses."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.plain_norms import PlainNorms
from landscape.curvature.products import HessianForm
from landscape.curvature.twice_differentiable import twice_differentiable
from landscape.objective.differences import DerivativeError
from landscape.objective.isolation import plain_attention
from landscape.objective.losses import check_per_sample, sample_weights
from landscape.objective.micro_batch import BatchLoss
from landscape.objective.objective import Objective, check_objective
from landscape.objective.parameters import ParameterLayout
from landscape.objective.sample_losses import by_sample, losses_of, sample_losses, samples_of
from landscape.records import SampleCurvature, SampleRises

Progress = Callable[[Iterable[int]], Iterable[int]]
_CHECKED, _FEWEST = 1 / 4, 8  # of a micro-batch's samples, those whose curvatures are compared with double backward


def sample_curvature(objective: Objective, vectors: Any, *, progress: Progress = iter) -> SampleCurvature:
    """vᵀ∇²ℓᵢv of every sample i along each vector v, (k, n); Σ pᵢ vᵀ∇²ℓᵢv = vᵀHv with pᵢ the samples' weights.

    It is d²ℓᵢ(w + tv)/dt² at t = 0, for all samples of a micro-batch at once, in forward mode twice. Where an operation
    has no forward mode, the sum of the losses with weights uᵢ is differentiated by t and then by u, and that once more.
    A quarter of the samples, and at least eight, is compared with double backward of their mean: those of the largest
    terms and as many at random, of every micro-batch for the first vector and of one for each other.
    With one vector all of it takes the time of about 3 Hessian-vector products (``benchmarks/sample_curvature.py``).

    Args:
        objective: with a single view, whose samples have nothing to do with each other, as its checks establish.
        vectors: (K, k), or (K,) for one, such as ``top_eigenpairs(H).vectors``; used as given, not normalised.
        progress: wraps the iteration over vectors, e.g. ``tqdm.auto.tqdm``.

    Raises:
        ValueError: there are several views, the losses of single samples cannot be derived from the loss, or a vector
            has the wrong length or is not finite.
        DerivativeError: torch's derivatives of the model disagree with each other.

    >>> x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> found = sample_curvature(Objective(model, torch.nn.MSELoss(), (x, x)), torch.ones(1))
    >>> found.curvature.tolist(), found.total.round(6).tolist()  # 2 xᵢ², and their mean
    ([[2.0, 8.0, 18.0]], [9.333333])
    """
    check_objective(objective, "sample_curvature")
    columns = _columns(objective, vectors)
    samples = samples_of(objective, "the curvature of single samples")
    objective = objective.over(None)
    found: list[Tensor] = []
    loss = torch.empty(0)
    with plain_attention(), twice_differentiable(objective.model), PlainNorms():
        for k in progress(range(len(columns))):

            def of_batch(batch: BatchLoss, k: int = k) -> Tensor:
                values = _second_derivatives(batch, objective.layout, columns[k])
                if k == 0 or batch.index == 0:
                    _check_some(batch, objective.layout, columns[k], values)
                return values

            loss, curvature_of_k = by_sample(objective, of_batch, samples, 2)
            found.append(curvature_of_k)
    curvature = torch.stack(found)
    return SampleCurvature(
        curvature=curvature.numpy(),
        total=(samples.weights * curvature).nansum(dim=1).numpy(),
        loss=loss.numpy(),
        weights=samples.weights.numpy(),
        positions=samples.positions.numpy(),
        view=objective.views[0],
        checks=objective.checks,
        label=objective.name,
    )


def sample_rises(objective: Objective, vectors: Any, steps: Any, *, progress: Progress = iter) -> SampleRises:
    """ℓᵢ(w + s·v) − ℓᵢ(w) of every sample i along each vector v at each step s, (k, steps, n).

    Args:
        objective: with a single view.
        vectors: (K, k), or (K,) for one; used as given.
        steps: (m,) finite.
        progress: wraps the iteration over vectors.

    Raises:
        ValueError: as for :func:`sample_curvature`, or a step is not finite.

    >>> x = torch.tensor([[1.0], [2.0]])
    >>> obj = Objective(torch.nn.Linear(1, 1, bias=False), torch.nn.MSELoss(), (x, torch.zeros(2, 1))).at([0.0])
    >>> sample_rises(obj, torch.ones(1), [1.0, 2.0]).rises.tolist()
    [[[1.0, 4.0], [4.0, 16.0]]]
    """
    check_objective(objective, "sample_rises")
    columns = _columns(objective, vectors)
    at = np.asarray(steps, dtype=np.float64)
    if at.ndim != 1 or not len(at) or not np.isfinite(at).all():
        raise ValueError(f"steps has shape {at.shape}, expected (m,), all finite")
    samples = samples_of(objective, "the losses of single samples")
    objective = objective.over(None)
    here, weights = sample_losses(objective, samples), objective.weights
    rises = [
        [(sample_losses(objective.at(weights + step * columns[k]), samples) - here).numpy() for step in at.tolist()]
        for k in progress(range(len(columns)))
    ]
    return SampleRises(
        rises=np.array(rises),
        steps=at,
        loss=here.numpy(),
        weights=samples.weights.numpy(),
        positions=samples.positions.numpy(),
        view=objective.views[0],
        label=objective.name,
    )


def _columns(objective: Objective, vectors: Any) -> list[Tensor]:
    table = torch.as_tensor(vectors).detach()
    if table.ndim not in (1, 2) or len(table) != objective.num_parameters or not table.numel():
        raise ValueError(
            f"vectors have shape {tuple(table.shape)}, expected ({objective.num_parameters},) or "
            f"({objective.num_parameters}, k)"
        )
    if not bool(torch.isfinite(table).all()):
        raise ValueError("vectors hold values that are not finite")
    return [objective.layout.as_vector(column) for column in table.reshape(len(table), -1).T]


def _second_derivatives(batch: BatchLoss, layout: ParameterLayout, vector: Tensor) -> Tensor:
    """ℓᵢ(w + tv) and d²ℓᵢ(w + tv)/dt² at t = 0 of every sample of a micro-batch, (2, b)."""
    weights = layout.flatten({name: p.detach() for name, p in batch.parameters.items()})

    def losses(t: Tensor) -> Tensor:
        moved = dataclasses.replace(batch, parameters=layout.unflatten(weights + t * vector))
        with moved.held():
            return losses_of(moved)

    zero = torch.zeros((), dtype=layout.dtype, device=layout.device)
    one = torch.ones_like(zero)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of its own first use of forward mode
            found = torch.func.jvp(lambda t: torch.func.jvp(losses, (t,), (one,)), (zero,), (one,))
        values, seconds = found[0][0], found[1][1]
    except (RuntimeError, AttributeError):
        # Mostly an operation without forward mode, which torch tells in many ways. What else it may be, the backward
        # passes meet as well and raise.
        t = zero.requires_grad_()
        values = losses(t)
        seconds = _derivative(_derivative(values, t, again=True), t)
    return torch.stack([values.detach(), seconds.detach()])


def _derivative(values: Tensor, t: Tensor, *, again: bool = False) -> Tensor:
    """The derivative of every value (b,) by the number t; ``again`` to be differentiated once more."""
    # The derivative of their weighted sum is linear in the weights, so these may be anything but 0, where some backward
    # passes have no derivative.
    weights = torch.ones_like(values, requires_grad=True)
    if not values.requires_grad:
        return torch.zeros_like(values)
    (slope,) = torch.autograd.grad(values, t, weights, create_graph=True, materialize_grads=True)
    if not slope.requires_grad:
        return torch.zeros_like(values)
    (found,) = torch.autograd.grad(slope, weights, create_graph=again, materialize_grads=True)
    return found


def _check_some(batch: BatchLoss, layout: ParameterLayout, vector: Tensor, found: Tensor) -> None:
    """Refuse what was found for a micro-batch, (2, b), if some of its samples as a batch say otherwise.

    The weighted mean of their losses must be the loss of that batch, and the one of their curvatures its vᵀHv by double
    backward.
    """
    weights = sample_weights(batch.criterion.normalizer, batch.labels).to(found.device)
    rows = _some_of(weights * found[1].double(), weights, batch.index)
    some = batch.of(rows)
    weights = weights[rows] / weights[rows].sum()
    product = HessianForm().linearise(some, layout, [])(vector, keep=False)
    with torch.no_grad():
        check_per_sample(lambda *_: found[0, rows], some.outputs, some.labels, weights, some.loss())
    shares = weights * found[1, rows].double()
    expected = float(product.double() @ vector.double())
    eps, length_of_v = torch.finfo(found.dtype).eps, float(vector.double().norm())
    scale = length_of_v * float(product.double().norm()) + float(shares.abs().sum())
    if not abs(float(shares.sum()) - expected) <= eps**0.5 * scale + 100 * eps * length_of_v**2:
        raise DerivativeError(
            f"the curvatures of single samples average to {float(shares.sum()):.6g}, but vᵀHv is {expected:.6g} on "
            f"{len(rows)} of them: a derivative of the model is wrong, or has no value at these weights; look for "
            "operations with a backward pass of their own, and for square roots or norms at 0"
        )


def _some_of(terms: Tensor, weights: Tensor, seed: int) -> Tensor:
    """A share of the samples that count, as sorted positions: those of the largest terms, and as many at random."""
    counted = weights.nonzero()[:, 0]
    ranked = counted[terms[counted].abs().argsort(descending=True)]
    size = min(len(ranked), max(_FEWEST, math.ceil(_CHECKED * len(ranked))))
    largest, others = ranked[: size // 2], ranked[size // 2 :]
    drawn = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed)).to(others.device)
    return torch.cat([largest, others[drawn[: size - size // 2]]]).sort().values
