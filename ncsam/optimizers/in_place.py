"""Weights that are moved and buffers that are changed, put back bitwise; and the norm of what moves them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_HALF = (torch.float16, torch.bfloat16)


class Buffers:
    """A snapshot of the model's buffers (BatchNorm statistics and their like), to be put back in place."""

    def __init__(self, live: Sequence[Tensor]) -> None:
        self.live = [b.detach() for b in live]
        self._kept = [b.clone() for b in self.live]

    def restore(self) -> None:
        """Write the snapshot back into the same tensors."""
        if self.live:
            torch._foreach_copy_(self.live, self._kept)


def buffers_of(module: nn.Module) -> list[Tensor]:
    """What ``module.buffers()`` yields, without the names, which take most of its time."""
    own = [b for b in module._buffers.values() if b is not None]
    return own + [b for child in module._modules.values() if child is not None for b in buffers_of(child)]


@contextmanager
def shifted(params: Sequence[Tensor], epsilon: Tensor) -> Iterator[None]:
    """Move the parameters by ``epsilon`` (K,) in place; however one leaves, they are bitwise what they were.

    >>> w = torch.nn.Parameter(torch.tensor([0.1, 0.2]))
    >>> with shifted([w], torch.tensor([1.0, 0.0])):
    ...     w.tolist()[0] > 1
    True
    >>> w.tolist() == torch.tensor([0.1, 0.2]).tolist()
    True
    """
    live = [p.detach() for p in params]  # the same memory, outside of autograd
    kept = [p.clone() for p in live]  # w + ε − ε is not w in floating point
    pieces = epsilon.split([p.numel() for p in live])
    shifts = [cast(e.view_as(p), p.device, p.dtype) for e, p in zip(pieces, live, strict=True)]
    try:
        torch._foreach_add_(live, shifts)
        yield
    finally:
        torch._foreach_copy_(live, kept)


def norm(tensors: Sequence[Tensor]) -> Tensor | float:
    """‖·‖₂ over all tensors together, in float32 at least (half precision would overflow at 65504).

    A number where the tensors lie on the CPU, else a scalar on their device, so that nothing waits for it.
    """
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    if not dense:
        return 0.0
    dtypes = {t.dtype for t in dense}
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    parts = torch._foreach_norm(dense, 2, None if dtypes.isdisjoint(_HALF) else wide)
    if parts[0].is_cpu:
        return math.hypot(*[n.item() for n in parts])
    return torch.linalg.vector_norm(torch.stack([cast(n, parts[0].device, wide) for n in parts]))


def cast(t: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``t`` there and in that dtype; itself, at no cost, where it is."""
    return t if t.dtype == dtype and t.device == device else t.to(device, dtype)
