"""A point of parameter space as tensors that a model runs on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from landscape.objective.parameters import ParameterLayout

_ALIGN = 64  # bytes; kernels are slower on tensors that begin anywhere


class PackedPoint:
    """A point of parameter space as tensors that a model runs on, aligned in memory and moved in place.

    Args:
        layout: of the flat vectors.
        centre: (K,) where all coordinates are 0.
        directions: (K,) each.
        memory_format: of parameters with four dimensions.

    Attributes:
        parameters: by name; the same tensors at every point.

    >>> layout = ParameterLayout(torch.nn.Linear(2, 1))
    >>> point = PackedPoint(layout, torch.zeros(3), [torch.ones(3)], torch.contiguous_format)
    >>> point.move([2.0])
    >>> point.parameters["weight"]
    tensor([[2., 2.]])
    """

    def __init__(
        self, layout: ParameterLayout, centre: Tensor, directions: Sequence[Tensor], memory_format: torch.memory_format
    ) -> None:
        self._layout, self._format = layout, memory_format
        self._centre, *self._directions = (self._pack(vector) for vector in (centre, *directions))
        self._flat = self._centre.clone()
        # Centre and all directions but the last: on a plane, neighbours have it in common.
        self._base = self._flat.clone() if len(directions) > 1 else self._centre
        self._at: list[float] | None = None
        views = self._views(self._flat)
        self.parameters = {n: t.to(d) for (n, t), d in zip(views.items(), layout.dtypes, strict=True)}
        # Where a parameter has a lesser dtype than the vector, it is a copy, to be made again at every point.
        self._copies = [(self.parameters[n], t) for n, t in views.items() if self.parameters[n] is not t]

    def move(self, coordinates: Sequence[float]) -> None:
        """Go to centre + Σ cᵢ·dᵢ."""
        if len(coordinates) != len(self._directions):
            raise ValueError(
                f"{len(coordinates)} coordinates, expected one for each of {len(self._directions)} directions"
            )
        before = list(coordinates[:-1])
        if before and before != self._at:
            start, self._at = self._centre, None
            for c, direction in zip(before, self._directions[:-1], strict=True):
                start = torch.add(start, direction, alpha=c, out=self._base)
            self._at = before
        for c, direction in zip(coordinates[-1:], self._directions[-1:], strict=True):
            torch.add(self._base, direction, alpha=c, out=self._flat)
        for parameter, view in self._copies:
            parameter.copy_(view)

    def _pack(self, vector: Tensor) -> Tensor:
        packed = vector.new_zeros(sum(_padded(size, vector) for size in self._layout.sizes))
        views = self._views(packed)
        layout = self._layout
        kinds = (vector.dtype.to_complex() if d.is_complex else vector.dtype for d in layout.dtypes)
        for name, shape, kind, part in zip(layout.names, layout.shapes, kinds, vector.split(layout.sizes), strict=True):
            views[name].copy_(layout.shaped(part, shape, kind))
        return packed

    def _views(self, packed: Tensor) -> dict[str, Tensor]:
        found, start = {}, 0
        layout = self._layout
        for name, shape, dtype, size in zip(layout.names, layout.shapes, layout.dtypes, layout.sizes, strict=True):
            piece = packed[start : start + size]
            if self._format == torch.channels_last and len(shape) == 4 and not dtype.is_complex:
                found[name] = piece.view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
            else:
                found[name] = layout.shaped(
                    piece, shape, packed.dtype.to_complex() if dtype.is_complex else packed.dtype
                )
            start += _padded(size, packed)
        return found


def _padded(size: int, like: Tensor) -> int:
    """Numbers to the next one that is aligned."""
    step = max(1, _ALIGN // like.element_size())
    return -(-size // step) * step
