"""Stochastic trace estimation with error bars."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from landscape.operators import as_product
from landscape.records import TraceResult

_BLOCK = 16


def trace(H: Any, num_matvecs: int = 100, *, seed: int = 0) -> TraceResult:
    """Trace of a symmetric operator by Hutchinson's estimator with its standard error.

    The mean of zᵀHz over Rademacher vectors z (Hutchinson 1989); unbiased. The same seed draws the same probes for
    every operator of one size, so that differences between operators are less noisy than the values.

    Args:
        H: :class:`landscape.HessianOperator`, tensor, array or scipy ``LinearOperator``, (K, K), symmetric.
        num_matvecs: probes, at least 2.
        seed: of the probes.

    Raises:
        ValueError: fewer than two probes.

    >>> t = trace(torch.diag(torch.tensor([3.0, 2.0, -1.0])), num_matvecs=4)
    >>> print(t.value, t.stderr)
    4.0 0.0
    """
    if num_matvecs < 2:
        raise ValueError(f"num_matvecs is {num_matvecs}, expected at least 2 to give a standard error")
    size, device, _, product = as_product(H)
    generator = torch.Generator().manual_seed(seed)
    samples: list[float] = []
    while len(samples) < num_matvecs:
        count = min(_BLOCK, num_matvecs - len(samples))
        bits = torch.randint(0, 2, (count, size), generator=generator, dtype=torch.int8)
        probes = (bits.double() * 2 - 1).to(device).T
        samples += (probes * product(probes)).sum(0).tolist()
    array = np.array(samples)
    return TraceResult(
        value=array.mean(),
        stderr=array.std(ddof=1) / np.sqrt(len(array)),
        matvecs=len(array),
        samples=array,
        seed=seed,
    )
