"""Accuracy lost by products in bfloat16: their error, and that of eigenvalues found with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from landscape.curvature.operators import CurvatureOperator
from landscape.records import EigenResult


@dataclasses.dataclass(frozen=True)
class PrecisionError:
    """An operator in less precision against the same one in its parameters' precision, over all of its data.

    Attributes:
        product: ‖Ĥv − Hv‖ / ‖Hv‖ for a random vector v, Ĥ being the operator in less precision.
        values: (k,) what eigenpairs found with Ĥ are in full precision: qᵀHq for each vector q.
        residuals: (k,) ‖Hq − (qᵀHq) q‖; an eigenvalue of H lies within it of the value.
        value_errors: (k,) |θ − qᵀHq| / |qᵀHq| with θ as it was found with Ĥ.
    """

    product: float
    values: np.ndarray
    residuals: np.ndarray
    value_errors: np.ndarray


def precision_error(H: CurvatureOperator, pairs: EigenResult | None = None, *, seed: int = 0) -> PrecisionError:
    """Compare an operator made with ``precision="bf16"`` with full precision: one product, and one for every pair.

    Args:
        H: the operator.
        pairs: what :func:`landscape.top_eigenpairs` found with it, with its vectors; if none, no eigenvalues are
            compared.
        seed: of the random vector.

    Raises:
        ValueError: the pairs hold no vectors, or vectors of another size.

    >>> import landscape
    >>> obj = landscape.Objective(torch.nn.Linear(3, 2), torch.nn.MSELoss(), (torch.randn(9, 3), torch.zeros(9, 2)))
    >>> H = landscape.HessianOperator(obj, precision="bf16")
    >>> e = precision_error(H, landscape.top_eigenpairs(H, 1, tol=1e-2))
    >>> 0 < e.product < 0.02, bool(e.value_errors[0] < 0.02)
    (True, True)
    """
    full = H.in_full_precision()
    v = torch.randn(H.shape[0], generator=torch.Generator().manual_seed(seed)).to(H.device)
    exact = full @ v
    product = float((H @ v - exact).norm() / exact.norm())
    values, residuals, found = np.zeros(0), np.zeros(0), np.zeros(0)
    if pairs is not None:
        if pairs.vectors is None or len(pairs.vectors) != H.shape[0]:
            raise ValueError(
                f"the pairs hold no vectors of {H.shape[0]} entries; pass what was found with this operator"
            )
        found = pairs.values
        values, residuals = np.empty(len(found)), np.empty(len(found))
        for i, q in enumerate(torch.from_numpy(pairs.vectors).to(H.device).T):
            image = full @ q
            values[i] = float(q @ image)
            residuals[i] = float((image - values[i] * q).norm())
    return PrecisionError(product, values, residuals, np.abs(found - values) / np.abs(values))
