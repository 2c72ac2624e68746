"""Curvature in relative changes of the parameters: trace and largest eigenvalues of D H D with D = diag(|w|).

Neither changes when parameters are rescaled without changing the function (such as by moving the scale of a layer of
ReLUs into the next); raw curvature does (Dinh et al. 2017, arXiv 1703.04933).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from landscape.curvature.operators import HessianOperator, ScaledOperator
from landscape.curvature.progress import Progress
from landscape.curvature.strategies import StrategyName
from landscape.objective.objective import Objective
from landscape.records import EigenResult, TraceResult
from landscape.spectrum.eigenpairs import top_eigenpairs
from landscape.spectrum.estimators import trace

_SCALE = "|w|"


def adaptive_trace(
    objective: Objective,
    num_matvecs: int = 100,
    *,
    deflate: Any = None,
    seed: int = 0,
    strategy: StrategyName = "auto",
    progress: Progress = iter,
) -> TraceResult:
    """Trace of D H D with D = diag(|w|) for an objective's single view, Σᵢ wᵢ² ∂²L/∂wᵢ², with its standard error.

    This is the limit for σ → 0 of 2/σ² times the average adaptive sharpness E L(w + |w| ⊙ u) − L(w), u ~ N(0, σ²),
    without a term of the gradient and without a radius to choose. It is found by one run of Hutchinson's probes on the
    scaled operator, see :func:`landscape.trace`, and is in the unit of the loss.

    Args:
        objective: at the point of interest.
        num_matvecs: products to spend.
        deflate: what is known of D H D, as :func:`landscape.trace` takes it, such as :func:`adaptive_top`'s result.
        seed: of the probes.
        strategy: how products are made, see :class:`landscape.HessianOperator`.
        progress: wraps the iteration over products.

    Raises:
        ValueError: several views, fewer than two products for probes, or ``deflate`` of another size.
        DerivativeError: second derivatives are not available, see :class:`landscape.HessianOperator`.

    >>> import torch
    >>> x, y = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> objective = Objective(model, torch.nn.MSELoss(), (x, y)).at([3.0])
    >>> float(adaptive_trace(objective).value)  # H = 2, w = 3
    18.0
    """
    found = trace(_scaled(objective, strategy), num_matvecs, deflate=deflate, seed=seed, progress=progress)
    return dataclasses.replace(found, scale=_SCALE)


def adaptive_top(objective: Objective, k: int = 1, *, strategy: StrategyName = "auto", **options: Any) -> EigenResult:
    """The k largest eigenvalues of D H D with D = diag(|w|) for an objective's single view, each with its error bound.

    At a minimum, the largest is the limit for ρ → 0 of 2/ρ² times the adaptive sharpness of radius ρ (Kwon et al. 2021,
    arXiv 2102.11600). The vectors are relative changes u of the parameters, dw = |w| ⊙ u.

    Args:
        objective: at the point of interest.
        k: how many.
        strategy: how products are made, see :class:`landscape.HessianOperator`.
        options: of :func:`landscape.top_eigenpairs`.

    Raises:
        ValueError: several views, or an option is out of range.
        DerivativeError: second derivatives are not available, see :class:`landscape.HessianOperator`.
        FloatingPointError: a product is not finite.

    >>> import torch
    >>> x, y = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> float(adaptive_top(Objective(model, torch.nn.MSELoss(), (x, y)).at([3.0])).values[0])
    18.0
    """
    return dataclasses.replace(top_eigenpairs(_scaled(objective, strategy), k, **options), scale=_SCALE)


def _scaled(objective: Objective, strategy: StrategyName) -> ScaledOperator:
    return ScaledOperator(HessianOperator(objective, strategy=strategy), objective.weights.abs())
