"""Evaluate an objective at many points at little more than the cost of its forward passes, or less.

Parameters are swapped in once and moved in place from point to point; layers fed with the data themselves are not run
again, BatchNorm is folded into the layer before it, and freed memory stays at hand; the losses of all views come from
one log-softmax and one gather a micro-batch, and reach the host once a point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from landscape.objective.evaluation.folded_batchnorm import FoldedNorms, folded
from landscape.objective.evaluation.freed_memory import keep_freed_memory
from landscape.objective.evaluation.input_layers import combined
from landscape.objective.evaluation.packed_point import PackedBuffers, PackedPoint
from landscape.objective.evaluation.scoring import Evaluation, Scorer
from landscape.objective.isolation import undisturbed
from landscape.objective.losses import length
from landscape.objective.micro_batch import holding
from landscape.objective.sources import labels_of, select

if TYPE_CHECKING:
    from landscape.objective.objective import Objective

__all__ = ["Evaluation", "Forward", "Prepare", "explore"]

_FEW = 4  # samples that a model is tried out on

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
    keep_freed_memory()
    plan = objective._plan()
    point = PackedPoint(objective.layout, objective.weights, directions, objective.memory_format)
    fixed, buffers = dict(objective._constant), PackedBuffers(objective.buffers())
    scorer = Scorer(objective, plan)
    forward = objective._call.forward

    def evaluate(norms: FoldedNorms, coordinates: Sequence[float]) -> Evaluation:
        with torch.inference_mode():
            point.move(coordinates)
            buffers.restore()  # a forward pass may have written to them
            if prepare is not None:
                prepare(forward)
            norms.refresh()
            scorer.reset()
            for position, (batch, parts) in enumerate(plan):
                scorer.add(position, norms.run(partial(forward, batch)), parts)
            return scorer.result()

    def trial() -> Any:
        batch, _ = next(iter(plan))
        rows = torch.arange(min(_FEW, length(labels_of(batch))), device=objective.layout.device)
        return forward(select(batch, rows))

    def swapped_in() -> None:
        foldable = directions and prepare is None and objective._call.precision is None
        times = max(map(objective.num_samples, objective.views), default=0) / _FEW
        with (
            combined(objective.model, point, plan),
            folded(objective.model, trial, times) if foldable else nullcontext(FoldedNorms([])) as norms,
        ):
            run(partial(evaluate, norms))

    with undisturbed(objective.model):
        holding(objective.model, {**fixed, **point.parameters, **buffers.tensors}, swapped_in)
