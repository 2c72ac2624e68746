"""An operator seen in rescaled parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.operators import as_product


class ScaledOperator:
    """D H D for a symmetric operator H, (K, K), and a diagonal D, known by its products; one of H each.

    With D = diag(|w|) it is the Hessian in relative changes of the parameters, dw = |w| ⊙ du. Its largest eigenvalue is
    what adaptive sharpness (Kwon et al. 2021, arXiv 2102.11600) tends to at a minimum and small radius ρ,
    max over ‖u‖ ≤ ρ of L(w + |w| ⊙ u) − L(w) ≈ ½ρ² λ_max(D H D), and it does not change when parameters are rescaled
    such that the function stays the same.

    Args:
        operator: :class:`landscape.HessianOperator`, tensor, array or scipy ``LinearOperator``.
        scale: the diagonal of D, (K,), finite; for the relative Hessian ``objective.weights.abs()``.

    Raises:
        ValueError: ``scale`` is not (K,) or not finite.

    >>> H = ScaledOperator(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64), torch.tensor([1.0, -3.0]).abs())
    >>> H @ torch.eye(2, dtype=torch.float64)
    tensor([[ 2.,  3.],
            [ 3., 18.]], dtype=torch.float64)
    """

    def __init__(self, operator: Any, scale: Any) -> None:
        size, self.device, eps, self._product = as_product(operator)
        self.shape = (size, size)
        kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
        self.dtype = next(kind for kind in kinds if torch.finfo(kind).eps <= eps)
        self.scale = torch.as_tensor(scale).detach().to(self.device, torch.float64)
        if self.scale.shape != (size,) or not torch.isfinite(self.scale).all():
            raise ValueError(f"scale has shape {tuple(self.scale.shape)}, expected ({size},), all finite")

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            return (self @ torch.from_numpy(np.ascontiguousarray(other))).cpu().numpy()
        if other.ndim not in (1, 2) or len(other) != self.shape[0]:
            raise ValueError(
                f"operand has shape {tuple(other.shape)}, expected ({self.shape[0]},) or ({self.shape[0]}, k)"
            )
        scale: Tensor = self.scale if other.ndim == 1 else self.scale[:, None]
        return (scale * self._product(scale * other.to(self.device, torch.float64))).to(other.dtype)
