"""All that the values of an objective depend on, as one frozen record."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from landscape.objective.isolation import exclusive, ordinary
from landscape.objective.losses import MeanLoss, Metric
from landscape.objective.micro_batch import ModelCall
from landscape.objective.parameters import ParameterLayout
from landscape.objective.plan import Selection


class EmptyViewError(ValueError):
    """A view without samples has no loss."""


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """Findings about model, loss and data, shared by all objectives that were made from one.

    Every entry's key names all that it depends on.

    Attributes:
        inside: whether the loss is computed inside the model.
        differentiates: by what the model itself differentiates, see :class:`ModelCall`.
        wide: whether the model takes inputs of a higher precision than its parameters'.
        accuracy: the accuracy that belongs to a loss, or none.
        derivatives: outcome of comparing derivatives with differences.
        programs: traced products, the latest used last.
    """

    inside: dict[Any, bool] = dataclasses.field(default_factory=dict)
    differentiates: dict[Any, str] = dataclasses.field(default_factory=dict)
    wide: dict[Any, bool] = dataclasses.field(default_factory=dict)
    accuracy: dict[Any, Metric | None] = dataclasses.field(default_factory=dict)
    derivatives: dict[Any, Any] = dataclasses.field(default_factory=dict)
    programs: OrderedDict[Any, Any] = dataclasses.field(default_factory=OrderedDict)


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """A mean loss over views of data at a point of parameter space.

    Attributes:
        call: the model and how it is called.
        criterion: the mean loss.
        metrics: by name; none to find the accuracy that belongs to the loss.
        selection: views and their data.
        layout: of the parameters that it is a function of.
        whole: of all trainable parameters.
        point: (K,); the model's own weights if none.
        constants: parameters that are held fixed at other values than the model's own, by name.
        buffers: that replace the model's own, by name.
        dtype: that the model's own tensors are taken in; their own if none.
        checks: how thoroughly model, loss and data are checked: ``full``, ``first`` or ``off``.
        found: outcomes.
    """

    call: ModelCall
    criterion: MeanLoss
    metrics: Mapping[str, Metric] | None
    selection: Selection
    layout: ParameterLayout
    whole: ParameterLayout
    point: Tensor | None = None
    constants: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    buffers: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    dtype: torch.dtype | None = None
    checks: str = "full"
    found: Found = dataclasses.field(default_factory=Found)

    @property
    def model(self) -> nn.Module:
        return self.call.model

    @property
    def key(self) -> Any:
        """Name all that the function depends on beside data and tensors, for keys."""
        return self.call.key, self.criterion.key, self.layout.names

    def weights(self) -> Tensor:
        """A copy of the (K,) point."""
        return self.layout.weights(self.model) if self.point is None else self.point.clone()

    def fixed(self) -> dict[str, Tensor]:
        """All that the model holds beside the parameters: frozen ones and buffers, by name."""
        with exclusive(self.model):
            own = {n: p.detach() for n, p in self.model.named_parameters() if n not in self.layout.names}
            own |= {n: b.detach() for n, b in self.model.named_buffers()}
        if self.dtype is not None:
            own = {name: _to(tensor, self.dtype) for name, tensor in own.items()}
        return {name: ordinary(tensor) for name, tensor in {**own, **self.constants, **self.buffers}.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All that the model holds at the point, by name."""
        return {**self.fixed(), **self.layout.unflatten(ordinary(self.weights()))}

    def only_view(self) -> str:
        """The single view's name.

        Raises:
            ValueError: there are several.
            EmptyViewError: it has no samples.
        """
        views = self.selection.views
        if len(views) != 1:
            raise ValueError(f"the objective has several views ({', '.join(views)}); choose one with .view(name)")
        name = next(iter(views))
        if not self.num_samples(name):
            raise EmptyViewError(f"view {name!r} has no samples, so it has no loss")
        return name

    def num_samples(self, view: str) -> int:
        """Number of samples in a view."""
        chosen = self.selection.views[view]
        return self.selection.sources[chosen.source].size if chosen.indices is None else len(chosen.indices)

    def astype(self, dtype: torch.dtype) -> Context:
        """The same function at the same point in another precision; the model itself is not converted."""
        names = {name for name, _ in self.model.named_parameters()}
        converted = {n: _to(t, dtype) for n, t in self.fixed().items()}
        return dataclasses.replace(
            self.in_dtype(dtype),
            point=self.weights().to(dtype),
            constants={n: t for n, t in converted.items() if n in names},
            buffers={n: t for n, t in converted.items() if n not in names},
        )

    def in_dtype(self, dtype: torch.dtype) -> Context:
        """The same function with the model's tensors, as they are whenever it is evaluated, taken in another dtype."""
        whole = self.whole.astype(dtype)
        return dataclasses.replace(
            self,
            layout=self.layout.astype(dtype),
            whole=whole,
            dtype=dtype,
            criterion=self.criterion.astype(dtype, self.model),
            selection=self.selection.replace(layout=whole, keeps_precision=frozenset()),
        )


def _to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
