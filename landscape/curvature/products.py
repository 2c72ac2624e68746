"""Curvature–vector products of one micro-batch: by double backward, and as rules on dual numbers for tracing.

A *form* is one kind of curvature, written twice. ``linearise`` builds an autograd graph that can be differentiated
along any number of vectors and works for every model. ``along`` computes the product from leaves that are dual numbers
(their tangent is the vector), which :mod:`landscape.curvature.tracing.program` takes apart into a part that depends on
the vector and one that does not.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_unflatten

from landscape.objective.cross_entropy import FewCopies
from landscape.objective.losses import PerSampleLoss, check_per_sample, per_sample_of, sample_weights
from landscape.objective.micro_batch import BatchLoss
from landscape.objective.parameters import ParameterLayout
from landscape.objective.sources import length, select


class Product(ABC):
    """One micro-batch's share of an operator, ready for any number of vectors."""

    @abstractmethod
    def __call__(self, column: Tensor, *, keep: bool = True) -> Tensor:
        """The product with one vector (K,); ``keep`` what is needed for further calls."""

    def of_rows(self, rows: Tensor, *, keep: bool = True) -> Tensor:
        """The products with every row of ``rows`` (k, K), as columns (K, k)."""
        last = len(rows) - 1
        return torch.stack([self(row, keep=keep or i < last) for i, row in enumerate(rows)], dim=1)


class Form(ABC):
    """A kind of curvature; forms of equal ``key`` have equal products."""

    key: Any

    def extras(self, batch: BatchLoss) -> list[Tensor]:
        """Tensors that products need besides the batch, computed from the data alone."""
        return []

    @abstractmethod
    def linearise(self, batch: BatchLoss, layout: ParameterLayout, extras: Sequence[Tensor]) -> Product:
        """The product by double backward."""

    def quadratic_by_differences(
        self, batch: BatchLoss, layout: ParameterLayout, vector: Tensor, step: float
    ) -> Tensor:
        """vᵀCv of the micro-batch, one number, from outputs or losses at w ± step·v instead of derivatives."""
        raise TypeError(f"{type(self).__name__} is compared with differences of gradients")

    @abstractmethod
    def along(self, batch: BatchLoss, extras: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The product's share of each of ``batch.parameters``, whose tangents are the vector; none for zero."""


class HessianForm(Form):
    """∇²ℓ v: the derivative of the gradient along v."""

    key = "hessian"

    def linearise(self, batch: BatchLoss, layout: ParameterLayout, extras: Sequence[Tensor]) -> Product:
        return _Gradient(batch, layout)

    def along(self, batch: BatchLoss, extras: Sequence[Tensor]) -> Sequence[Tensor | None]:
        loss, leaves = batch.loss(), list(batch.parameters.values())
        if not loss.requires_grad:
            return [None] * len(leaves)
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        return [None if g is None else forward_ad.unpack_dual(g).tangent for g in grads]


class GaussNewtonForm(Form):
    """Jᵀ (∇²ℓ) J v with J the Jacobian of the outputs, ∇²ℓ the loss's Hessian in them."""

    key = "ggn"

    def linearise(self, batch: BatchLoss, layout: ParameterLayout, extras: Sequence[Tensor]) -> Product:
        return _GaussNewton(batch, layout)

    def quadratic_by_differences(
        self, batch: BatchLoss, layout: ParameterLayout, vector: Tensor, step: float
    ) -> Tensor:
        outputs, rebuild = _differentiable(batch.outputs)
        if not outputs:
            return vector.new_zeros((), dtype=torch.float64)
        sides = [_differentiable(moved(batch, layout, sign * step * vector).outputs)[0] for sign in (1, -1)]
        slopes = [(a - b).detach() / (2 * step) for a, b in zip(*sides, strict=True)]
        free = [z.detach().requires_grad_() for z in outputs]
        grads = torch.autograd.grad(batch.loss(rebuild(free)), free, create_graph=True, materialize_grads=True)
        curved = [(g, u) for g, u in zip(grads, slopes, strict=True) if g.requires_grad]
        if not curved:
            return vector.new_zeros((), dtype=torch.float64)
        images = torch.autograd.grad([g for g, _ in curved], free, [u for _, u in curved], materialize_grads=True)
        return sum(
            (_inner(u, v) for u, v in zip(slopes, images, strict=True)), vector.new_zeros((), dtype=torch.float64)
        )

    def along(self, batch: BatchLoss, extras: Sequence[Tensor]) -> Sequence[Tensor | None]:
        outputs, rebuild = _differentiable(batch.outputs)
        pairs = [forward_ad.unpack_dual(z) for z in outputs]
        free = [
            forward_ad.make_dual(
                z.primal.detach().clone().requires_grad_(),
                torch.zeros_like(z.primal) if z.tangent is None else z.tangent.clone(),
            )
            for z in pairs
        ]
        if not free:
            return _pulled_back(batch, [])
        slopes = torch.autograd.grad(batch.loss(rebuild(free)), free, allow_unused=True)
        curved = [None if s is None else forward_ad.unpack_dual(s).tangent for s in slopes]
        return _pulled_back(batch, [(z, u) for z, u in zip(outputs, curved, strict=True) if u is not None])


class FisherForm(Form):
    """Σ pᵢ ∇ℓᵢ ∇ℓᵢᵀ v with ℓᵢ the loss of sample i and pᵢ its weight in the mean.

    Args:
        per_sample: ``(outputs, labels) -> (n,)``; if none, derived from each micro-batch's own loss, in its dtype.
    """

    def __init__(self, per_sample: PerSampleLoss | None) -> None:
        self.key = "fisher", per_sample
        self._given = per_sample
        self._checked = False

    def _per_sample(self, batch: BatchLoss, weights: Tensor) -> PerSampleLoss:
        """Losses of single samples; in place of one that does not count, whose own may be NaN, that of another."""
        if self._given is not None:
            return self._given
        derived = per_sample_of(batch.criterion.fn)
        rows = torch.where(weights > 0, torch.arange(len(weights), device=weights.device), weights.argmax())
        return lambda outputs, labels: derived(*select((outputs, labels), rows, len(weights)))

    def extras(self, batch: BatchLoss) -> list[Tensor]:
        leaf = next(iter(batch.parameters.values()))
        weights = sample_weights(batch.criterion.normalizer, batch.labels).to(leaf.device)
        if not self._checked:
            check_per_sample(self._per_sample(batch, weights), batch.outputs, batch.labels, weights, batch.loss())
            self._checked = True
        return [weights]

    def _losses(self, batch: BatchLoss, weights: Tensor) -> Tensor:
        return self._per_sample(batch, weights)(batch.outputs, batch.labels)

    def linearise(self, batch: BatchLoss, layout: ParameterLayout, extras: Sequence[Tensor]) -> Product:
        return _OuterProducts(batch, layout, self._losses(batch, extras[0]), extras[0])

    def quadratic_by_differences(
        self, batch: BatchLoss, layout: ParameterLayout, vector: Tensor, step: float
    ) -> Tensor:
        (weights,) = self.extras(batch)
        sides = [
            self._losses(moved(batch, layout, sign * step * vector), weights).detach().double() for sign in (1, -1)
        ]
        slopes = (sides[0] - sides[1]) / (2 * step)
        return (weights * slopes**2).sum()

    def along(self, batch: BatchLoss, extras: Sequence[Tensor]) -> Sequence[Tensor | None]:
        losses = self._losses(batch, extras[0])
        tangent = forward_ad.unpack_dual(losses).tangent
        return _pulled_back(batch, [] if tangent is None else [(losses, tangent * extras[0].to(tangent.dtype))])


class LeanProduct(Product):
    """A micro-batch's product as the weighted sum of its pieces' products, summed in float64.

    The graph of a product by double backward holds two to three times what the forward pass of a training step keeps,
    since the gradient's own graph comes on top. A micro-batch in as many pieces fits where the training step fits; it
    costs one more gradient, as the pieces' graphs are made again for every product.

    Args:
        form: kind of curvature.
        batch: the micro-batch.
        layout: of the parameters.
        pieces: how many; no more than it has samples are made.
        least: samples that a piece has at least, where the micro-batch has them.
    """

    def __init__(self, form: Form, batch: BatchLoss, layout: ParameterLayout, pieces: int, least: int = 1) -> None:
        self._form, self._batch, self._layout = form, batch, layout
        self._pieces = max(1, min(pieces, length(batch.labels) // least))

    def __call__(self, column: Tensor, *, keep: bool = True) -> Tensor:
        return self.of_rows(column[None], keep=keep)[:, 0]

    def of_rows(self, rows: Tensor, *, keep: bool = True) -> Tensor:
        total = torch.zeros(rows.shape[1], len(rows), dtype=torch.float64, device=rows.device)
        for piece in self._batch.pieces(self._pieces):
            product = self._form.linearise(piece, self._layout, self._form.extras(piece))
            for i, row in enumerate(rows):
                total[:, i].add_(product(row, keep=i < len(rows) - 1), alpha=piece.share)
        return total


def moved(batch: BatchLoss, layout: ParameterLayout, displacement: Tensor) -> BatchLoss:
    """The micro-batch at another point, its outputs connected to leaves of their own."""
    point = layout.flatten({name: p.detach() for name, p in batch.parameters.items()}) + displacement
    leaves = {name: p.detach().requires_grad_() for name, p in layout.unflatten(point).items()}
    return dataclasses.replace(batch, parameters=leaves)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    a, b = (torch.view_as_real(t) if t.is_complex() else t for t in (a, b))
    return (a.double() * b.double()).sum()


class _Gradient(Product):
    """The gradient of a micro-batch's loss with its graph, to be differentiated along a vector."""

    def __init__(self, batch: BatchLoss, layout: ParameterLayout) -> None:
        self._parameters, self._layout = batch.parameters, layout
        outputs = batch.outputs
        with FewCopies():
            loss = batch.loss(outputs)
        grads: Sequence[Tensor] = ()
        if loss.requires_grad:  # else no sample of this micro-batch has to do with the parameters
            leaves = list(batch.parameters.values())
            grads = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        self._curved = [(name, g) for name, g in zip(batch.parameters, grads, strict=False) if g.requires_grad]

    def __call__(self, column: Tensor, *, keep: bool = True) -> Tensor:
        if not self._curved:  # a loss linear in the parameters has no second derivative at all
            return torch.zeros_like(column)
        direction = self._layout.unflatten(column)
        parts = torch.autograd.grad(
            [g for _, g in self._curved],
            list(self._parameters.values()),
            [direction[name] for name, _ in self._curved],
            retain_graph=keep,
            materialize_grads=True,
        )
        return self._layout.flatten(dict(zip(self._parameters, parts, strict=True)))


class _Jacobian:
    """Some differentiable outputs with Jᵀu as a function of u, enough for J v and Jᵀu by backward passes."""

    def __init__(self, batch: BatchLoss, layout: ParameterLayout, outputs: list[Tensor]) -> None:
        self._parameters, self._layout, self._outputs = batch.parameters, layout, outputs
        # Jᵀu is linear in u, so any u serves; at 0 some backward passes have no derivative.
        self._weights = [torch.ones_like(z, requires_grad=True) for z in outputs]
        self._pulled = torch.autograd.grad(
            outputs, list(batch.parameters.values()), self._weights, create_graph=True, materialize_grads=True
        )

    def push(self, column: Tensor) -> list[Tensor]:
        """J v, one tensor for each output."""
        direction = self._layout.unflatten(column)
        linked = [(p, direction[n]) for n, p in zip(self._parameters, self._pulled, strict=True) if p.requires_grad]
        if not linked:
            return [torch.zeros_like(z) for z in self._outputs]
        # Jᵀu is linear in u, so differentiating ⟨Jᵀu, v⟩ by u gives J v.
        return list(
            torch.autograd.grad(
                [p for p, _ in linked], self._weights, [v for _, v in linked], retain_graph=True, materialize_grads=True
            )
        )

    def pull(self, cotangents: Sequence[Tensor], *, keep: bool) -> Tensor:
        """Jᵀu, (K,)."""
        parts = torch.autograd.grad(
            self._outputs, list(self._parameters.values()), cotangents, retain_graph=keep, materialize_grads=True
        )
        return self._layout.flatten(dict(zip(self._parameters, parts, strict=True)))


class _GaussNewton(Product):
    """The outputs' Jacobian and the loss's gradient in the outputs."""

    def __init__(self, batch: BatchLoss, layout: ParameterLayout) -> None:
        outputs, rebuild = _differentiable(batch.outputs)
        self._free = [z.detach().requires_grad_() for z in outputs]
        slopes: Sequence[Tensor] = ()
        if self._free:  # else no output of this micro-batch has to do with the parameters
            loss = batch.loss(rebuild(self._free))
            slopes = torch.autograd.grad(loss, self._free, create_graph=True, materialize_grads=True)
        self._slopes = [(i, slope) for i, slope in enumerate(slopes) if slope.requires_grad]
        if not self._slopes:
            return
        self._jacobian = _Jacobian(batch, layout, outputs)

    def __call__(self, column: Tensor, *, keep: bool = True) -> Tensor:
        if not self._slopes:
            return torch.zeros_like(column)
        pushed = self._jacobian.push(column)
        curved = torch.autograd.grad(
            [slope for _, slope in self._slopes],
            self._free,
            [pushed[i] for i, _ in self._slopes],
            retain_graph=keep,
            materialize_grads=True,
        )
        return self._jacobian.pull(curved, keep=keep)


class _OuterProducts(Product):
    """The Jacobian of the vector of per-sample losses, and the samples' weights."""

    def __init__(self, batch: BatchLoss, layout: ParameterLayout, losses: Tensor, weights: Tensor) -> None:
        self._weights = weights.to(losses.dtype)
        self._depends = losses.requires_grad
        if self._depends:
            self._jacobian = _Jacobian(batch, layout, [losses])

    def __call__(self, column: Tensor, *, keep: bool = True) -> Tensor:
        if not self._depends:
            return torch.zeros_like(column)
        (slopes,) = self._jacobian.push(column)
        return self._jacobian.pull([self._weights * slopes], keep=keep)


def _differentiable(outputs: Any) -> tuple[list[Tensor], Any]:
    """The output tensors that depend on the parameters, and how to put others in their place."""
    every, spec = tree_flatten(outputs)
    at = [i for i, z in enumerate(every) if isinstance(z, Tensor) and z.requires_grad]

    def rebuild(replacements: Sequence[Tensor]) -> Any:
        replaced = list(every)
        for i, z in zip(at, replacements, strict=True):
            replaced[i] = z
        return tree_unflatten(replaced, spec)

    return [every[i] for i in at], rebuild


def _pulled_back(batch: BatchLoss, pairs: Sequence[tuple[Tensor, Tensor]]) -> Sequence[Tensor | None]:
    """Jᵀu for pairs (output, u), whose tangents play no part any more."""
    leaves = list(batch.parameters.values())
    if not pairs:
        return [None] * len(leaves)
    grads = torch.autograd.grad([z for z, _ in pairs], leaves, [u for _, u in pairs], allow_unused=True)
    return [None if g is None else forward_ad.unpack_dual(g).primal for g in grads]
