"""One micro-batch of an objective: a model called with given tensors in place of its own, and the loss that follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

Forward = Callable[[nn.Module, Any], Any]
Loss = Callable[[Any, Any], Tensor]


class ForwardModule(nn.Module):
    """Holds model and user forward, so that ``functional_call`` can swap parameters while any forward runs."""

    def __init__(self, model: nn.Module, forward: Forward | None) -> None:
        super().__init__()
        self.model = model
        self._user_forward = forward

    def forward(self, batch: Any) -> Any:
        if self._user_forward is not None:
            return self._user_forward(self.model, batch)
        if isinstance(batch, Mapping):
            raise ValueError("batches are mappings; say how to call the model: forward=lambda model, batch: …")
        return self.model(*batch[:-1])

    def of(self, model: nn.Module) -> ForwardModule:
        """The same forward with another model."""
        return ForwardModule(model, self._user_forward)

    def outputs(self, tensors: Mapping[str, Tensor], batch: Any) -> Any:
        """The model's outputs with ``tensors`` in place of its parameters and buffers of those names."""
        return functional_call(self, {f"model.{name}": value for name, value in tensors.items()}, (batch,))


@dataclasses.dataclass(frozen=True, eq=False)
class BatchLoss:
    """One micro-batch, its forward pass run when first asked for.

    Attributes:
        index: its place among the view's micro-batches.
        share: of the whole mean that it makes up.
        parameters: the leaves it is computed from, by name; not the model's own.
        fixed: everything else that the model holds: other parameters and copies of its buffers, by name.
        batch: what the model is called with.
        labels: of the samples.
        loss_fn: mean over the micro-batch.
        normalizer: ``labels -> weight`` that the loss divides by.
        model: what is called.
    """

    index: int
    share: float
    parameters: dict[str, Tensor]
    fixed: dict[str, Tensor]
    batch: Any
    labels: Any
    loss_fn: Loss
    normalizer: Callable[[Any], float]
    model: ForwardModule

    @cached_property
    def outputs(self) -> Any:
        """Of the model, connected to the leaves."""
        return self.model.outputs({**self.fixed, **self.parameters}, self.batch)

    def loss(self, outputs: Any = None) -> Tensor:
        """The mean loss, of the model's outputs or of others of the same form."""
        return self.loss_fn(self.outputs if outputs is None else outputs, self.labels)
