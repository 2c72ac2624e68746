"""Curvature as linear operators over an objective: the Hessian and the generalised Gauss–Newton matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from landscape.isolation import undisturbed
from landscape.objective import BatchLoss, Objective
from landscape.parameters import ParameterLayout


class CurvatureOperator(ABC):
    """A symmetric (K, K) matrix of an objective's single view, known by its products; never formed.

    ``H @ v`` takes (K,) or (K, k), tensor or array, and returns the same kind. Products are computed in the
    parameters' dtype, summed over micro-batches in float64 and returned in the vector's dtype.

    The operator belongs to the weights that the objective has when it is made; make a new one after the model has
    changed. Where the view is one micro-batch, the part of the graph that does not depend on the vector is kept from
    product to product, which about halves their cost.

    Raises:
        ValueError: the objective has several views, or a vector of the wrong length is given.
    """

    def __init__(self, objective: Objective) -> None:
        if len(objective.views) != 1:
            raise ValueError(
                f"the objective has several views ({', '.join(objective.views)}); choose one with .view(name)"
            )
        self.objective = objective.at(objective.weights)
        self.shape = (objective.num_parameters, objective.num_parameters)
        self.device = objective.layout.device
        self.dtype = objective.layout.dtype
        self._kept: _Linearised | None = None

    @abstractmethod
    def _linearise(self, batch: BatchLoss) -> _Linearised:
        """The part of a micro-batch's product that does not depend on the vector."""

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            return (self @ torch.from_numpy(np.ascontiguousarray(other)).to(self.device)).cpu().numpy()
        if other.ndim not in (1, 2) or len(other) != self.shape[0]:
            raise ValueError(
                f"operand has shape {tuple(other.shape)}, expected ({self.shape[0]},) or ({self.shape[0]}, k)"
            )
        columns = other.detach().to(self.device, self.dtype).reshape(self.shape[0], -1).T.contiguous()
        if self._kept is not None:
            with undisturbed(self.objective.model):  # checkpointed layers run forward again
                total = self._products(self._kept, columns, keep=True).double()
        else:
            total = self._sweep(columns)
        return total.to(other.dtype).reshape(other.shape)

    def to_scipy(self) -> LinearOperator:
        """The operator for ``scipy.sparse.linalg``, in float64."""
        size, matmul = self.shape[0], lambda v: self @ np.asarray(v, dtype=np.float64)
        return LinearOperator(
            (size, size), matvec=lambda v: matmul(v).reshape(-1), matmat=matmul, rmatvec=matmul, dtype=np.float64
        )

    def _sweep(self, columns: Tensor) -> Tensor:
        """Products with every row of ``columns`` (k, K) from one pass over the data, (K, k)."""
        keep = self.objective.num_batches == 1
        linearised: list[_Linearised] = []

        def products(batch: BatchLoss) -> Tensor:
            linearised[:] = [self._linearise(batch)]  # never hold two graphs
            return self._products(linearised[0], columns, keep=keep)

        total = self.objective.accumulate(products)
        if keep:
            self._kept = linearised[0]
        return total

    def _products(self, linearised: _Linearised, columns: Tensor, *, keep: bool) -> Tensor:
        last = len(columns) - 1
        rows = [linearised.product(column, keep=keep or i < last) for i, column in enumerate(columns)]
        return torch.stack(rows, dim=1)


class HessianOperator(CurvatureOperator):
    """The Hessian ∇²L of an objective's single view, by double backward; see :class:`CurvatureOperator`.

    Pearlmutter, *Fast exact multiplication by the Hessian* (1994).

    >>> x, y = torch.randn(10, 3, dtype=torch.float64), torch.randn(10, 1, dtype=torch.float64)
    >>> model = torch.nn.Linear(3, 1, bias=False).double()
    >>> H = HessianOperator(Objective(model, torch.nn.MSELoss(), (x, y)))
    >>> bool(torch.allclose(H @ torch.eye(3, dtype=torch.float64), 2 * x.T @ x / 10))
    True
    """

    def _linearise(self, batch: BatchLoss) -> _Linearised:
        return _Gradient(batch, self.objective.layout)


class GGNOperator(CurvatureOperator):
    """The generalised Gauss–Newton matrix E[Jᵀ (∇²ℓ) J] of an objective's single view; see :class:`CurvatureOperator`.

    J is the Jacobian of the model's outputs, ∇²ℓ the Hessian of the loss in the outputs. Positive semi-definite where
    the loss is convex in the outputs; for losses from the exponential family (cross-entropy, squared error) it is the
    Fisher information (Schraudolph 2002; Martens 2020, arXiv 1412.1193, §8). No outputs-by-parameters matrix is formed.

    >>> x, y = torch.randn(10, 3, dtype=torch.float64), torch.randn(10, 1, dtype=torch.float64)
    >>> obj = Objective(torch.nn.Linear(3, 1).double(), torch.nn.MSELoss(), (x, y))
    >>> v = torch.randn(4, dtype=torch.float64)
    >>> bool(torch.allclose(GGNOperator(obj) @ v, HessianOperator(obj) @ v))  # a linear model: the two agree
    True
    """

    def _linearise(self, batch: BatchLoss) -> _Linearised:
        return _GaussNewton(batch, self.objective.layout)


class _Linearised(ABC):
    """One micro-batch's share of an operator, ready for any number of vectors."""

    @abstractmethod
    def product(self, column: Tensor, *, keep: bool) -> Tensor:
        """The share's product with one vector (K,); ``keep`` the graph for further calls."""


class _Gradient(_Linearised):
    """The gradient of a micro-batch's loss with its graph, to be differentiated along a vector."""

    def __init__(self, batch: BatchLoss, layout: ParameterLayout) -> None:
        self._parameters, self._layout = batch.parameters, layout
        grads = torch.autograd.grad(
            batch.loss(), list(batch.parameters.values()), create_graph=True, materialize_grads=True
        )
        self._curved = [(name, g) for name, g in zip(batch.parameters, grads, strict=True) if g.requires_grad]

    def product(self, column: Tensor, *, keep: bool) -> Tensor:
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


class _GaussNewton(_Linearised):
    """Outputs, the loss's gradient in them, and Jᵀu as a function of u: enough for Jᵀ(∇²ℓ)J v by backward passes."""

    def __init__(self, batch: BatchLoss, layout: ParameterLayout) -> None:
        self._parameters, self._layout = batch.parameters, layout
        leaves = list(batch.parameters.values())
        every, spec = tree_flatten(batch.outputs)
        at = [i for i, z in enumerate(every) if isinstance(z, Tensor) and z.requires_grad]
        self._outputs = [every[i] for i in at]
        free = [z.detach().requires_grad_() for z in self._outputs]
        replaced = list(every)
        for i, z in zip(at, free, strict=True):
            replaced[i] = z
        loss = batch.loss(tree_unflatten(replaced, spec))
        slopes = torch.autograd.grad(loss, free, create_graph=True, materialize_grads=True)
        self._free = free
        self._slopes = [(i, slope) for i, slope in enumerate(slopes) if slope.requires_grad]
        self._weights = [torch.zeros_like(z, requires_grad=True) for z in self._outputs]
        self._pulled = torch.autograd.grad(
            self._outputs, leaves, self._weights, create_graph=True, materialize_grads=True
        )

    def product(self, column: Tensor, *, keep: bool) -> Tensor:
        direction = self._layout.unflatten(column)
        linked = [(p, direction[n]) for n, p in zip(self._parameters, self._pulled, strict=True) if p.requires_grad]
        if not self._slopes or not linked:
            return torch.zeros_like(column)
        # Jᵀu is linear in u, so differentiating ⟨Jᵀu, v⟩ by u gives J v.
        pushed = torch.autograd.grad(
            [p for p, _ in linked], self._weights, [v for _, v in linked], retain_graph=True, materialize_grads=True
        )
        curved = torch.autograd.grad(
            [slope for _, slope in self._slopes],
            self._free,
            [pushed[i] for i, _ in self._slopes],
            retain_graph=keep,
            materialize_grads=True,
        )
        parts = torch.autograd.grad(
            self._outputs, list(self._parameters.values()), curved, retain_graph=keep, materialize_grads=True
        )
        return self._layout.flatten(dict(zip(self._parameters, parts, strict=True)))


def as_product(operator: Any) -> tuple[int, torch.device, float, Callable[[Tensor], Tensor]]:
    """Size, device, machine epsilon and product of any symmetric operator: ours, a tensor, an array, a scipy operator.

    Raises:
        ValueError: the operator is not square.
    """
    rows, columns = operator.shape
    if rows != columns:
        raise ValueError(f"operator has shape {tuple(operator.shape)}, expected a square one")
    if isinstance(operator, Tensor):
        matrix = operator.double()
        return rows, matrix.device, torch.finfo(operator.dtype).eps, lambda v: matrix @ v
    if isinstance(operator, CurvatureOperator):
        return rows, operator.device, torch.finfo(operator.dtype).eps, lambda v: operator @ v
    eps = float(np.finfo(np.result_type(operator.dtype, np.float32)).eps)
    return rows, torch.device("cpu"), eps, lambda v: torch.as_tensor(np.asarray(operator @ v.numpy())).double()
