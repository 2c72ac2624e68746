"""Weights that are moved and buffers that are changed, put back bitwise; and the norm of what moves them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)
"""Dtypes in which a weight cannot hold a small perturbation, and a sum cannot be taken."""


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
    """List what ``module.buffers()`` yields, without the names, which take most of its time."""
    own = [b for b in module._buffers.values() if b is not None]
    return own + [b for child in module._modules.values() if child is not None for b in buffers_of(child)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and back in its own afterwards, without a call of the model's ``train()``."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def shifted(params: Sequence[Tensor], epsilon: Tensor) -> Iterator[None]:
    """Move the parameters by ``epsilon`` (K,) in place; however one leaves, they are bitwise what they were.

    Half-precision weights are moved in float32 and rounded back once; see :func:`realised`.

    >>> w = torch.nn.Parameter(torch.tensor([0.1, 0.2]))
    >>> with shifted([w], torch.tensor([1.0, 0.0])):
    ...     w.tolist()[0] > 1
    True
    >>> w.tolist() == torch.tensor([0.1, 0.2]).tolist()
    True
    """
    live = [real(p.detach()) for p in params]  # the same memory, outside of autograd
    kept = [p.clone() for p in live]  # w + ε − ε is not w in floating point
    try:
        if any(p.dtype in HALF for p in live):
            for p, e in zip(live, _pieces(live, epsilon), strict=True):
                p.copy_(p.to(e.dtype) + e)
        else:
            torch._foreach_add_(live, _pieces(live, epsilon))
        yield
    finally:
        torch._foreach_copy_(live, kept)


def realised(params: Sequence[Tensor], epsilon: Tensor) -> Tensor:
    """Part of ``epsilon`` (K,) that is left where parameters in half precision round it; itself where none is.

    A bfloat16 weight near 1 cannot move by less than 0.004.

    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.bfloat16))
    >>> realised([w], torch.tensor([0.001, 0.01])).tolist()
    [0.0, 0.0078125]
    """
    live = [real(p.detach()) for p in params]
    if not any(p.dtype in HALF for p in live):
        return epsilon
    moved = []
    for p, e in zip(live, _pieces(live, epsilon), strict=True):
        wide = p.to(e.dtype)
        moved.append(
            cast((wide + e).to(p.dtype).to(e.dtype) - wide if p.dtype in HALF else e, epsilon.device, epsilon.dtype)
        )
    return torch.cat([m.reshape(-1) for m in moved])


def _pieces(live: Sequence[Tensor], epsilon: Tensor) -> list[Tensor]:
    """Parts of ``epsilon`` by parameter, in its dtype, but float32 for half precision."""
    wide = [torch.float32 if p.dtype in HALF else p.dtype for p in live]
    pieces = epsilon.split([p.numel() for p in live])
    return [cast(e.view_as(p), p.device, dtype) for e, p, dtype in zip(pieces, live, wide, strict=True)]


def real(t: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers (…, 2), in the same memory; a real one as it is."""
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


def norm(tensors: Sequence[Tensor]) -> Tensor | float:
    """‖·‖₂ over all tensors together, in float32 at least (half precision would overflow at 65504).

    A number where the tensors lie on the CPU, else a scalar on their device, so that nothing waits for it.
    """
    dense = [real(t.coalesce().values() if t.is_sparse else t) for t in tensors]
    if not dense:
        return 0.0
    dtypes = {t.dtype for t in dense}
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    parts = torch._foreach_norm(dense, 2, None if dtypes.isdisjoint(HALF) else wide)
    if parts[0].is_cpu:
        return math.hypot(*[n.item() for n in parts])
    return torch.linalg.vector_norm(torch.stack([cast(n, parts[0].device, wide) for n in parts]))


def cast(t: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``t`` there and in that dtype; itself, at no cost, where it is."""
    return t if t.dtype == dtype and t.device == device else t.to(device, dtype)
