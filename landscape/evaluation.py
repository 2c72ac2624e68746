"""Evaluate an objective at many points at little more than the cost of its forward passes, or less.

Parameters are swapped in once and moved in place from point to point; layers fed with the data themselves are not run
again; the losses of all views come from one log-softmax and one gather a micro-batch, and reach the host once a point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from landscape.first_layers import combined
from landscape.isolation import undisturbed
from landscape.microbatch import holding
from landscape.point import PackedPoint
from landscape.scoring import Evaluation, Scorer

if TYPE_CHECKING:
    from landscape.objective import Objective

__all__ = ["Evaluation", "Forward", "Prepare", "explore"]

Forward = Callable[[Any], Any]
"""Runs the model, as it is at the point, on a micro-batch."""
Prepare = Callable[[Forward], None]
"""Called at every point before it is evaluated, e.g. to recompute BatchNorm statistics."""


def explore(
    objective: Objective,
    directions: Sequence[Tensor],
    run: Callable[[Callable[[Sequence[float]], Evaluation]], None],
    prepare: Prepare | None = None,
) -> None:
    """Call ``run(evaluate)``, where ``evaluate(c)`` gives every view at w + Σ cᵢ·dᵢ, w being the objective's point.

    While ``run`` is active the model is in eval mode and holds other tensors; they are given back on return, also after
    an exception.
    """
    plan = objective._plan()
    point = PackedPoint(objective.layout, objective.weights, directions, objective.memory_format)
    fixed, buffers = dict(objective._constant), objective.buffers()
    saved = [buffer.clone() for buffer in buffers.values()]
    scorer = Scorer(objective, plan)

    def evaluate(coordinates: Sequence[float]) -> Evaluation:
        with torch.inference_mode():
            point.move(coordinates)
            for buffer, value in zip(buffers.values(), saved, strict=True):  # a forward pass may have written to it
                buffer.copy_(value)
            if prepare is not None:
                prepare(objective._call.forward)
            scorer.reset()
            for position, (batch, parts) in enumerate(plan):
                scorer.add(position, objective._call.forward(batch), parts)
            return scorer.result()

    def swapped_in() -> None:
        with combined(objective.model, point, plan):
            run(evaluate)

    with undisturbed(objective.model):
        holding(objective.model, {**fixed, **point.parameters, **buffers}, swapped_in)
