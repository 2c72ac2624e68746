"""Curvature as linear operators over an objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from landscape.objective import Objective


class HessianOperator:
    """The Hessian ∇²L of an objective's single view, (K, K), by double backward; never formed.

    ``H @ v`` takes (K,) or (K, k), tensor or array, and returns the same kind. Products are computed in the
    parameters' dtype, summed over micro-batches in float64 and returned in the vector's dtype.

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
        self.objective = objective
        self.shape = (objective.num_parameters, objective.num_parameters)
        self.device = objective.layout.device
        self.dtype = objective.layout.dtype

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            return (self @ torch.from_numpy(np.ascontiguousarray(other)).to(self.device)).cpu().numpy()
        if other.ndim not in (1, 2) or len(other) != self.shape[0]:
            raise ValueError(
                f"operand has shape {tuple(other.shape)}, expected ({self.shape[0]},) or ({self.shape[0]}, k)"
            )
        layout = self.objective.layout
        columns = other.detach().to(layout.device, layout.dtype).reshape(self.shape[0], -1)
        directions = [layout.unflatten(column) for column in columns.T.contiguous()]

        def products(loss: Tensor, parameters: dict[str, Tensor]) -> Tensor:
            leaves = list(parameters.values())
            grads = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
            curved = [(name, g) for name, g in zip(parameters, grads, strict=True) if g.requires_grad]
            results = []
            for i, direction in enumerate(directions):
                if curved:
                    parts = torch.autograd.grad(
                        [g for _, g in curved],
                        leaves,
                        [direction[name] for name, _ in curved],
                        retain_graph=i + 1 < len(directions),
                        materialize_grads=True,
                    )
                else:
                    parts = tuple(torch.zeros_like(leaf) for leaf in leaves)
                results.append(layout.flatten(dict(zip(parameters, parts, strict=True))))
            return torch.stack(results, dim=1)

        return self.objective.accumulate(products).to(other.dtype).reshape(other.shape)

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
