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
        coordinates: of the point.

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
        self.coordinates: Sequence[float] = [0.0] * len(directions)
        self._flat = self._centre.clone()
        views = self._views(self._flat)
        self.parameters = {n: t.to(d) for (n, t), d in zip(views.items(), layout.dtypes, strict=True)}
        # Where a parameter has a lesser dtype than the vector, it is a copy, to be made again at every point.
        self._copies = [(self.parameters[n], t) for n, t in views.items() if self.parameters[n] is not t]

    def move(self, coordinates: Sequence[float]) -> None:
        """Go to centre + Σ cᵢ·dᵢ."""
        start = self._centre
        for c, direction in zip(coordinates, self._directions, strict=True):
            start = torch.add(start, direction, alpha=c, out=self._flat)
        self.coordinates = coordinates
        for parameter, view in self._copies:
            parameter.copy_(view)

    def _pack(self, vector: Tensor) -> Tensor:
        packed = vector.new_zeros(sum(_padded(size, vector) for size in self._layout.sizes))
        views = self._views(packed)
        for name, size, part in zip(
            self._layout.names, self._layout.shapes, vector.split(self._layout.sizes), strict=True
        ):
            views[name].copy_(part.view(size))
        return packed

    def _views(self, packed: Tensor) -> dict[str, Tensor]:
        found, start = {}, 0
        for name, shape, size in zip(self._layout.names, self._layout.shapes, self._layout.sizes, strict=True):
            piece = packed[start : start + size]
            if self._format == torch.channels_last and len(shape) == 4:
                found[name] = piece.view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
            else:
                found[name] = piece.view(shape)
            start += _padded(size, packed)
        return found


def _padded(size: int, like: Tensor) -> int:
    """Numbers to the next one that is aligned."""
    step = max(1, _ALIGN // like.element_size())
    return -(-size // step) * step
