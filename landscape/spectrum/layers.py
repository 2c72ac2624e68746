"""The Hessian's diagonal blocks, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from landscape.curvature.operators import HessianOperator
from landscape.objective.objective import Objective, check_seed
from landscape.records import LayerSpectra
from landscape.spectrum.eigenpairs import top_eigenpairs


def layer_spectra(
    objective: Objective,
    *,
    tol: float = 1e-3,
    num_matvecs: int = 0,
    seed: int = 0,
    operator: Callable[[Objective], Any] = HessianOperator,
) -> LayerSpectra:
    """Largest eigenvalue, and trace, of the diagonal block of every layer: how curved the loss is in it alone.

    Blocks leave out the curvature between layers: the largest eigenvalue of the whole is at least that of each block
    (Cauchy), and the traces add up to the whole trace. All traces come from the same products with the whole operator:
    zᵀHz, summed over a layer's entries of a Rademacher vector z alone, has the block's trace as its mean, since signs
    of other layers cancel.

    Args:
        objective: with a single view.
        tol: relative residual at which an eigenvalue counts as converged.
        num_matvecs: probes of the traces, at least 2, or 0 to leave them out.
        seed: of start vectors and probes.
        operator: what curvature is meant: :class:`landscape.HessianOperator` or :class:`landscape.GGNOperator`.

    Returns:
        LayerSpectra: ``values``, ``residuals``, ``converged``, ``sizes`` (layer), and ``trace``, ``trace_stderr``.
        What did not converge is returned as such and logged.

    Raises:
        ValueError: num_matvecs is 1 or negative, or the objective has several views.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> obj = Objective(model, torch.nn.CrossEntropyLoss(), (torch.randn(10, 3), torch.tensor([0, 1] * 5)))
    >>> s = layer_spectra(obj)
    >>> s.layers.tolist(), s.sizes.tolist(), bool(s.converged.all())
    (['0', '2'], [16, 10], True)
    """
    if num_matvecs < 0 or num_matvecs == 1:
        raise ValueError(f"num_matvecs is {num_matvecs}, expected 0 for no traces, or at least 2 to give their errors")
    blocks = {layer: objective.restricted(*names) for layer, names in objective.layers().items()}
    pairs = [top_eigenpairs(operator(block), 1, tol=tol, seed=seed) for block in blocks.values()]
    traces = _traces(objective, operator(objective), num_matvecs, seed) if num_matvecs else {}
    return LayerSpectra(
        layers=np.array([layer or "(model)" for layer in blocks]),
        sizes=np.array([block.num_parameters for block in blocks.values()]),
        values=np.array([p.values[0] for p in pairs]),
        residuals=np.array([p.residuals[0] for p in pairs]),
        converged=np.array([p.converged[0] for p in pairs]),
        matvecs=sum(p.matvecs for p in pairs) + num_matvecs,
        tol=tol,
        seed=seed,
        **traces,
    )


def _traces(objective: Objective, H: Any, num_matvecs: int, seed: int) -> dict[str, np.ndarray]:
    """Trace of every block with its standard error, (layer,) each."""
    layout = objective.layout
    owner = {name: i for i, names in enumerate(objective.layers().values()) for name in names}
    index = torch.cat([torch.full((s,), owner[n]) for n, s in zip(layout.names, layout.sizes, strict=True)])
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    samples = np.empty((num_matvecs, max(owner.values()) + 1))
    for row in samples:
        z = torch.randint(0, 2, (layout.size,), generator=generator, dtype=torch.int8).double() * 2 - 1
        z = z.to(layout.device)
        forms = torch.zeros(len(row), dtype=torch.float64).index_add_(0, index, (z * (H @ z)).cpu())
        row[:] = forms.numpy()
    return {"trace": samples.mean(0), "trace_stderr": samples.std(0, ddof=1) / np.sqrt(num_matvecs)}
