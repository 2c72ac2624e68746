"""Progress of an analysis, product by product."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from landscape.curvature.operand import operand
from landscape.objective.isolation import undisturbed
from landscape.objective.objective import Objective

Progress = Callable[[Iterable[int]], Iterable[int]]
"""Wraps an iteration whose length is known, as ``tqdm.auto.tqdm`` does."""
_KINDS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@contextmanager
def watched(operator: Any, expected: int, progress: Progress) -> Iterator[Any]:
    """The operator, whose products advance ``progress``, an iteration over as many products as are expected.

    Products beyond these advance it no further; where there are fewer it ends early. The tracing of the first product
    is part of that product. The state of a model that products are made of is set aside once for all of them.

    >>> import numpy as np
    >>> seen = []
    >>> def told(items):
    ...     for i in items:
    ...         yield i
    ...         seen.append(i)
    >>> with watched(np.eye(2), 3, told) as A:
    ...     _ = operand(A).product(torch.ones(2, 2, dtype=torch.float64))
    >>> seen
    [0, 1]
    """
    objective = getattr(operator, "objective", None)
    with undisturbed(objective.model) if isinstance(objective, Objective) else nullcontext():
        if progress is iter:
            yield operator
        else:
            with _told(operator, expected, progress) as told:
                yield told


@contextmanager
def _told(operator: Any, expected: int, progress: Progress) -> Iterator[_Watched]:
    steps = iter(progress(range(expected)))
    more = next(steps, None) is not None

    def advance(count: int) -> None:
        nonlocal more
        for _ in range(count):
            more = more and next(steps, None) is not None

    try:
        yield _Watched(operator, advance)
    finally:
        if hasattr(steps, "close"):
            steps.close()


class _Watched:
    """An operator that tells of each of its products once it is made."""

    def __init__(self, operator: Any, advance: Callable[[int], None]) -> None:
        inner = operand(operator)
        self._operator, self._product, self._advance = operator, inner.product, advance
        self.shape, self.device = (inner.size, inner.size), inner.device
        self.dtype = next(kind for kind in _KINDS if torch.finfo(kind).eps <= inner.eps)
        self.checks = getattr(operator, "checks", None)
        self.label = getattr(operator, "label", None)

    def __matmul__(self, other: torch.Tensor) -> torch.Tensor:
        found = self._product(other)
        self._advance(1 if other.ndim == 1 else other.shape[1])
        return found

    def expect(self, products: int) -> None:
        operand(self._operator, products)
