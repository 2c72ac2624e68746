"""The span of a surface that shows a chosen rise of the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from landscape.objective.evaluation.evaluate import Prepare
from landscape.objective.objective import Objective

PRECISION = 0.01  # of the span
_DOUBLINGS = 40


def find_span(
    objective: Objective,
    directions: Sequence[Tensor],
    rise: float,
    view: str | None = None,
    prepare: Prepare | None = None,
) -> dict[str, Any]:
    """The span s at which the loss of a view has risen by ``rise`` at one of the points w ± s·d, found by bisection.

    Starting from s = 1 the span is doubled or halved until the rise lies between two spans, then bisected to one per
    cent. Of several spans with that rise, on a curve that goes up and down, one is found. A loss that is not finite
    counts as risen.

    Args:
        directions: (K,) each.
        rise: in units of the loss, > 0.
        view: the first with samples if none.
        prepare: called at every point as by :meth:`landscape.Objective.along`, to recompute BatchNorm statistics.

    Returns:
        ``view``, ``rise``, ``span`` (the smallest tried at which it was reached) and ``evaluations``, to be recorded.

    Raises:
        ValueError: ``rise`` is not positive, or is not reached between 2⁻⁴⁰ and 2⁴⁰.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> obj = Objective(model, torch.nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1))).at([0.0])
    >>> abs(find_span(obj, [torch.ones(1)], rise=9.0)["span"] - 3.0) < 0.03
    True
    """
    if not (math.isfinite(rise) and rise > 0):
        raise ValueError(f"the rise of the loss is {rise}, expected a finite number > 0")
    view = view or next((v for v in objective.views if objective.num_samples(v)), objective.views[0])
    steps = [tuple(sign * row) for row in np.eye(len(directions)) for sign in (-1.0, 1.0)]
    with objective.view(view).along(directions, prepare) as evaluate:
        counted = 0

        def loss(coordinates: Sequence[float]) -> float:
            nonlocal counted
            counted += 1
            return float(evaluate(coordinates).loss[view])

        centre = loss([0.0] * len(directions))

        def risen(span: float) -> bool:
            return any(not loss([span * c for c in step]) - centre < rise for step in steps)

        low, high = 0.0, 1.0
        if risen(high):
            for _ in range(_DOUBLINGS):
                low = high / 2
                if not risen(low):
                    break
                high = low
            else:
                raise ValueError(f"the loss of {view!r} rises by {rise:g} within any span; ask for a larger rise")
        else:
            for _ in range(_DOUBLINGS):
                low, high = high, 2 * high
                if risen(high):
                    break
            else:
                raise ValueError(f"the loss of {view!r} does not rise by {rise:g} along these directions")
        while high - low > PRECISION * high:
            middle = (low + high) / 2
            low, high = (low, middle) if risen(middle) else (middle, high)
    return {"view": view, "rise": float(rise), "span": high, "evaluations": counted}
