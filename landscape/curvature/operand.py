"""Operands that an analysis takes as symmetric operators: ours, a tensor, an array, a scipy operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from landscape.objective.objective import Objective


class SymmetricOperator(Protocol):
    """A symmetric (K, K) operator: what has a shape and a dtype, and products ``H @ v``.

    Operators of this package, square tensors and arrays, and ``scipy.sparse.linalg.LinearOperator``.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the operator, (K, K)."""

    @property
    def dtype(self) -> Any:
        """Data type of its products, torch's or NumPy's."""

    def __matmul__(self, vectors: Any, /) -> Any:
        """Products with (K,) or (K, k)."""


@dataclass(frozen=True)
class Operand:
    """A symmetric operator (K, K) as its products see it.

    Attributes:
        size: K.
        device: where its products are made.
        eps: machine epsilon of its products.
        product: ``(K,) or (K, k) -> the same shape``, float64 in and out.
    """

    size: int
    device: torch.device
    eps: float
    product: Callable[[Tensor], Tensor]


def operand(operator: Any, products: int | None = None) -> Operand:
    """Size, device, machine epsilon and product of any symmetric operator: ours, a tensor, an array, a scipy operator.

    Args:
        operator: (K, K).
        products: how many will be asked for, which ours are told before the first.

    Raises:
        TypeError: it is no operator, such as an objective or a model.
        ValueError: the operator is not square, or complex.

    >>> operand(np.eye(3)).size
    3
    """
    if isinstance(operator, Objective | nn.Module):
        made = "Objective(model, loss_fn, data)" if isinstance(operator, nn.Module) else "objective"
        raise TypeError(
            f"expected a symmetric operator, got {type(operator).__name__}; take its Hessian: "
            f"landscape.HessianOperator({made})"
        )
    if not hasattr(operator, "shape"):
        raise TypeError(
            f"expected a symmetric operator (K, K), a tensor or an array, got {type(operator).__name__}; of an "
            "objective take landscape.HessianOperator(objective)"
        )
    shape = tuple(operator.shape)
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(f"operator has shape {shape}, expected a square one")
    rows = shape[0]
    if "complex" in str(operator.dtype):
        raise ValueError(f"operator is complex ({operator.dtype}), expected real numbers: a symmetric matrix")
    if isinstance(operator, Tensor):
        matrix = operator.detach().double()
        kind = operator.dtype if operator.is_floating_point() else matrix.dtype
        return Operand(rows, matrix.device, torch.finfo(kind).eps, lambda v: matrix @ v)
    if products is not None and hasattr(operator, "expect"):
        operator.expect(products)
    if isinstance(operator.dtype, torch.dtype):
        return Operand(rows, operator.device, torch.finfo(operator.dtype).eps, lambda v: operator @ v)
    eps = float(np.finfo(np.result_type(operator.dtype, np.float32)).eps)
    return Operand(rows, torch.device("cpu"), eps, lambda v: torch.as_tensor(np.asarray(operator @ v.numpy())).double())
