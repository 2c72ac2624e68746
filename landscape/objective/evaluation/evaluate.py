"""Evaluate an objective at many points at little more than the cost of its forward passes, or less.

Parameters are swapped in once and moved in place from point to point; the losses of all views come from one
log-softmax and one gather a micro-batch, and reach the host once a point. The forward pass is the model's own, the same
that gradients are computed with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from landscape.objective.evaluation.packed_point import PackedPoint
from landscape.objective.evaluation.scoring import Evaluation, Scorer
from landscape.objective.isolation import holding, undisturbed
from landscape.objective.sources import labels_of, length

if TYPE_CHECKING:
    from landscape.objective.context import Context

__all__ = ["Evaluate", "Evaluation", "Forward", "Prepare", "along"]

Evaluate = Callable[[Sequence[float]], Evaluation]
"""Gives every view at w + Σ cᵢ·dᵢ for coordinates c."""
Forward = Callable[[Any], Any]
"""Runs the model, as it is at the point, on a micro-batch."""
Prepare = Callable[[Forward], None]
"""Called at every point before it is evaluated, e.g. to recompute BatchNorm statistics."""


@contextmanager
def along(context: Context, directions: Sequence[Tensor], prepare: Prepare | None = None) -> Iterator[Evaluate]:
    """Give ``evaluate``, where ``evaluate(c)`` has every view at w + Σ cᵢ·dᵢ, w being the context's point.

    Meanwhile the model is in eval mode and holds other tensors; it comes back as it was, also after an exception.
    """
    call, selection = context.call, context.selection
    with undisturbed(call.model), ExitStack() as stack:
        point = PackedPoint(context.layout, context.weights(), directions, selection.memory_format)
        scorer = Scorer(context)
        held = {**context.fixed(), **point.parameters}
        state = stack.enter_context(holding(call.model, held, context.whole.names))

        def evaluate(coordinates: Sequence[float]) -> Evaluation:
            with torch.no_grad():
                point.move(coordinates)
                state.moved()
                if prepare is not None:
                    state.reset_buffers()
                    prepare(call.run)
                    state.accept_buffers()
                scorer.reset()
                for position, (batch, parts) in enumerate(selection.plan):
                    scorer.add(position, call(batch), parts, length(labels_of(batch)))
                return scorer.result()

        yield evaluate
