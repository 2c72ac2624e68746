"""Weights that are moved and buffers that are changed, put back bitwise; and the norm of what moves them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)
"""Dtypes in which a weight cannot hold a small perturbation, and a sum cannot be taken."""


Slots = Sequence[dict[str, Tensor | None]]
"""Places in which modules hold their buffers: the ``_buffers`` of each."""


class Buffers:
    """A snapshot of a model's buffers (BatchNorm statistics and their like) by their places.

    A pass may write into a buffer, or assign another tensor in its place. A snapshot of a later moment is made anew,
    from the same places.

    >>> slots = [{"mean": torch.zeros(1), "seen": None}]
    >>> mean, snapshot = slots[0]["mean"], Buffers(slots)
    >>> slots[0]["mean"], slots[0]["seen"] = mean.add_(1) * 2, torch.ones(1)
    >>> snapshot.restore()
    >>> slots, slots[0]["mean"] is mean
    ([{'mean': tensor([0.]), 'seen': None}], True)
    """

    def __init__(self, slots: Slots) -> None:
        held = [(slot, name, b) for slot in slots for name, b in slot.items()]
        self._none = [(slot, name) for slot, name, b in held if b is None]
        self._kept = [(slot, name, b, b.detach().clone()) for slot, name, b in held if b is not None]

    def restore(self) -> None:
        """Put the same tensors back into their places, and the numbers into the tensors."""
        for slot, name in self._none:
            slot[name] = None
        for slot, name, b, numbers in self._kept:
            if slot[name] is not b:
                slot[name] = b
            if b.shape != numbers.shape:
                b.resize_(numbers.shape)
        if self._kept:
            torch._foreach_copy_([b.detach() for _, _, b, _ in self._kept], [numbers for *_, numbers in self._kept])


def slots_of(module: nn.Module) -> list[dict[str, Tensor | None]]:
    """List the places of all buffers, without modules that have none."""
    own = [module._buffers] if module._buffers else []
    return own + [slot for child in module._modules.values() if child is not None for slot in slots_of(child)]


def buffers_in(slots: Slots) -> list[Tensor]:
    """List the buffers that are there now."""
    return [b for slot in slots for b in slot.values() if b is not None]


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

    A number where the tensors lie on the CPU, else a scalar on their device, so that nothing waits for it; that is
    summed in float64, in which the squares of float32 do not underflow, where the device has it.
    """
    dense = [real(t.coalesce().values() if t.is_sparse else t) for t in tensors]
    if not dense:
        return 0.0
    dtypes = {t.dtype for t in dense}
    wide = torch.float64 if torch.float64 in dtypes or _sums_in_float64(dense[0]) else torch.float32
    own = dtypes.isdisjoint(HALF) and not _sums_in_float64(dense[0])
    parts = torch._foreach_norm(dense, 2, None if own else wide)
    if parts[0].is_cpu:
        size = math.hypot(*[n.item() for n in parts])
        if size > _floor(torch.float64 if dtypes == {torch.float64} else torch.float32) or not math.isfinite(size):
            return size
        return float(length(torch.cat([t.reshape(-1).to(parts[0].device, wide) for t in dense])))
    return torch.linalg.vector_norm(torch.stack([cast(n, parts[0].device, wide) for n in parts]))


class Scaled(NamedTuple):
    """A vector (K,) as ``factor``, 1 for an ordinary one, times ``vector``; ``size`` is ‖vector‖."""

    vector: Tensor
    size: Tensor
    factor: Tensor | float


def scaled(vector: Tensor) -> Scaled:
    """``vector`` divided by its largest magnitude where the squares of its numbers would underflow, else itself.

    >>> scaled(torch.tensor([3.0, 4.0])).size, scaled(torch.tensor([0.0, 1e-40])).vector
    (tensor(5.), tensor([0., 1.]))
    """
    size, floor = torch.linalg.vector_norm(vector), _floor(vector.dtype)
    if not len(vector) or (size.is_cpu and size.item() > floor):
        return Scaled(vector, size, 1.0)
    largest = torch.linalg.vector_norm(vector, torch.inf)
    factor = torch.where((size > floor) | (largest == 0), 1.0, largest)  # no accelerator is waited for
    vector = vector / factor
    return Scaled(vector, torch.linalg.vector_norm(vector), factor)


def length(vector: Tensor) -> Tensor:
    """‖vector‖₂ of a vector (K,), also where its squares underflow; see :func:`norm`.

    >>> float(length(torch.tensor([3e-30, 4e-30])))
    5.00...e-30
    """
    if _sums_in_float64(vector):
        return torch.linalg.vector_norm(vector, dtype=torch.float64)
    size = torch.linalg.vector_norm(vector)
    if size.is_cpu and size.item() > _floor(vector.dtype):
        return size
    _, size, factor = scaled(vector)
    return size * factor


def of_length(wanted: Tensor | float, direction: Tensor) -> Tensor:
    """``direction`` (K,) rescaled to the length ``wanted``, however short it is; zero stays zero.

    >>> of_length(5.0, torch.tensor([0.0, 1e-40])).tolist(), of_length(5.0, torch.zeros(2)).tolist()
    ([0.0, 5.0], [0.0, 0.0])
    """
    vector, size, _ = scaled(direction)
    factor = wanted / size.clamp(min=_floor(vector.dtype))
    return direction * factor if vector is direction else vector.mul_(factor)


def _sums_in_float64(t: Tensor) -> bool:
    """Tell whether norms are taken in float64: on accelerators that have it, where testing a size would wait."""
    return not t.is_cpu and t.device.type != "mps"


@cache
def _floor(dtype: torch.dtype) -> float:
    """The norm below which squares may underflow and be missed in a sum."""
    return float(torch.finfo(dtype).tiny ** 0.25)


def cast(t: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``t`` there and in that dtype; itself, at no cost, where it is."""
    return t if t.dtype == dtype and t.device == device else t.to(device, dtype)
