"""Curvature as linear operators over an objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from landscape.isolation import undisturbed
from landscape.objective import Objective
from landscape.parameters import ParameterLayout


class HessianOperator:
    """The Hessian ∇²L of an objective's single view, (K, K), by double backward; never formed.

    ``H @ v`` takes (K,) or (K, k), tensor or array, and returns the same kind. Products are computed in the
    parameters' dtype, summed over micro-batches in float64 and returned in the vector's dtype.

    The operator belongs to the weights that the objective has when it is made; make a new one after the model has
    changed. Where the view is one micro-batch, the part of the graph that does not depend on the vector is kept from
    product to product, which about halves their cost.

    Pearlmutter, *Fast exact multiplication by the Hessian* (1994).

    Raises:
        ValueError: the objective has several views, or a vector of the wrong length is given.

    >>> x, y = torch.randn(10, 3, dtype=torch.float64), torch.randn(10, 1, dtype=torch.float64)
    >>> model = torch.nn.Linear(3, 1, bias=False).double()
    >>> H = HessianOperator(Objective(model, torch.nn.MSELoss(), (x, y)))
    >>> bool(torch.allclose(H @ torch.eye(3, dtype=torch.float64), 2 * x.T @ x / 10))
    True
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
        self._kept: _Gradient | None = None

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
                total = self._kept.derivatives(columns, keep=True).double()
        else:
            total = self._sweep(columns)
        return total.to(other.dtype).reshape(other.shape)

    def _sweep(self, columns: Tensor) -> Tensor:
        """Products with every row of ``columns`` (k, K) from one pass over the data, (K, k)."""
        gradients: list[_Gradient] = []

        def products(loss: Tensor, parameters: dict[str, Tensor]) -> Tensor:
            gradients.clear()  # never hold two graphs
            gradients.append(_Gradient(loss, parameters, self.objective.layout))
            return gradients[0].derivatives(columns, keep=self.objective.num_batches == 1)

        total = self.objective.accumulate(products)
        if self.objective.num_batches == 1:
            self._kept = gradients[0]
        return total

    def to_scipy(self) -> LinearOperator:
        """The operator for ``scipy.sparse.linalg``, in float64."""
        size, matmul = self.shape[0], lambda v: self @ np.asarray(v, dtype=np.float64)
        return LinearOperator(
            (size, size),
            matvec=lambda v: matmul(v).reshape(-1),
            matmat=matmul,
            rmatvec=matmul,
            dtype=np.float64,
        )


class _Gradient:
    """The gradient of one micro-batch's loss with its graph, to be differentiated along any number of vectors."""

    def __init__(self, loss: Tensor, parameters: dict[str, Tensor], layout: ParameterLayout) -> None:
        grads = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, materialize_grads=True)
        self._curved = [(name, g) for name, g in zip(parameters, grads, strict=True) if g.requires_grad]
        self._parameters, self._layout = parameters, layout

    def derivatives(self, columns: Tensor, *, keep: bool) -> Tensor:
        """Derivatives along every row of ``columns`` (k, K), as (K, k); ``keep`` the graph for further calls."""
        leaves = list(self._parameters.values())
        results = []
        for i, column in enumerate(columns):
            direction = self._layout.unflatten(column)
            parts: tuple[Tensor, ...] = tuple(torch.zeros_like(leaf) for leaf in leaves)
            if self._curved:  # a loss linear in the parameters has no second derivative at all
                parts = torch.autograd.grad(
                    [g for _, g in self._curved],
                    leaves,
                    [direction[name] for name, _ in self._curved],
                    retain_graph=keep or i + 1 < len(columns),
                    materialize_grads=True,
                )
            results.append(self._layout.flatten(dict(zip(self._parameters, parts, strict=True))))
        return torch.stack(results, dim=1)


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
    if isinstance(operator, HessianOperator):
        return rows, operator.device, torch.finfo(operator.dtype).eps, lambda v: operator @ v
    eps = float(np.finfo(np.result_type(operator.dtype, np.float32)).eps)
    return (
        rows,
        torch.device("cpu"),
        eps,
        lambda v: torch.as_tensor(np.asarray(operator @ v.numpy())).double(),
    )
