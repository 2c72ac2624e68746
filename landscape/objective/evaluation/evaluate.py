"""Evaluate an objective at many points at little more than the cost of its forward passes, or less.

Parameters are swapped in once and moved in place from point to point, and freed memory stays at hand; the losses of all
views come from one log-softmax and one gather a micro-batch, and reach the host once a point. The forward pass is the
model's own, the same that gradients are computed with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from landscape.objective.evaluation.packed_point import PackedPoint
from landscape.objective.evaluation.scoring import Evaluation, Scorer
from landscape.objective.isolation import holding, undisturbed
from landscape.objective.sources import labels_of, length

if TYPE_CHECKING:
    from landscape.objective.context import Context

__all__ = ["Evaluate", "Evaluation", "Forward", "Prepare", "along", "keep_freed_memory"]

Evaluate = Callable[[Sequence[float]], Evaluation]
"""Gives every view at w + Σ cᵢ·dᵢ for coordinates c."""
Forward = Callable[[Any], Any]
"""Runs the model, as it is at the point, on a micro-batch."""
Prepare = Callable[[Forward], None]
"""Called at every point before it is evaluated, e.g. to recompute BatchNorm statistics."""
_BLOCK = 32 * 2**20 - 2**13  # bytes; freeing a larger one leaves the C library's limits as they are


@contextmanager
def along(context: Context, directions: Sequence[Tensor], prepare: Prepare | None = None) -> Iterator[Evaluate]:
    """Give ``evaluate``, where ``evaluate(c)`` has every view at w + Σ cᵢ·dᵢ, w being the context's point.

    Meanwhile the model is in eval mode and holds other tensors; it comes back as it was, also after an exception.
    """
    keep_freed_memory()
    call, selection = context.call, context.selection
    with undisturbed(call.model), ExitStack() as stack:
        point = PackedPoint(context.layout, context.weights(), directions, selection.memory_format)
        scorer = Scorer(context)
        state = stack.enter_context(holding(call.model, {**context.fixed(), **point.parameters}))

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


@cache
def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MiB of freed memory, by allocating and freeing one large block, untouched.

    glibc, the C library of most Linux systems, gives blocks of more than 128 KiB back to the operating system as soon
    as they are freed, which then has to clear pages for the next tensor: on networks for images up to half of a forward
    pass without gradients, where every output is freed at once. The library raises these limits by itself when a large
    block is freed for the first time, up to 32 MiB, and twice that for what lies free at the end of its heap; so how
    fast a process is would depend on what it happened to free before.

    Programs that free arrays of this size do it in passing. It lasts until the process ends, and has no effect where
    ``MALLOC_MMAP_THRESHOLD_`` or its like are set, nor with other C libraries.

    >>> keep_freed_memory()
    """
    torch.empty(_BLOCK, dtype=torch.uint8)
