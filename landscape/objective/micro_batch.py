"""One micro-batch of an objective: a model called with given tensors in place of its own, and the loss that follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from landscape.objective.losses import length
from landscape.objective.sources import select

Forward = Callable[[nn.Module, Any], Any]
Loss = Callable[[Any, Any], Tensor]
T = TypeVar("T")


class ForwardModule(nn.Module):
    """Holds model and user forward, so that ``functional_call`` can swap parameters while any forward runs.

    Args:
        model: what is called.
        forward: how; ``model(*inputs)`` if none.
        precision: of matrix products and convolutions (``torch.autocast``), if less than the parameters' own; outputs
            are float32 then, and so is the loss.
    """

    def __init__(self, model: nn.Module, forward: Forward | None, precision: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self._user_forward = forward

    def forward(self, batch: Any) -> Any:
        if self.precision is None:
            return self._run(batch)
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, self.precision):
            outputs = self._run(batch)
        return tree_map(lambda t: t.float() if isinstance(t, Tensor) and t.is_floating_point() else t, outputs)

    def _run(self, batch: Any) -> Any:
        if self._user_forward is not None:
            return self._user_forward(self.model, batch)
        if isinstance(batch, Mapping):
            raise ValueError("batches are mappings; say how to call the model: forward=lambda model, batch: …")
        return self.model(*batch[:-1])

    def of(self, model: nn.Module, precision: torch.dtype | None = None) -> ForwardModule:
        """The same forward with another model, in its own or a lesser precision."""
        return ForwardModule(model, self._user_forward, precision)

    def outputs(self, tensors: Mapping[str, Tensor], batch: Any) -> Any:
        """The model's outputs with ``tensors`` in place of its parameters and buffers of those names."""
        return functional_call(self, {f"model.{name}": value for name, value in tensors.items()}, (batch,))


class _Holder(nn.Module):
    """Runs a function while the tensors of a model are swapped."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[], None]) -> None:
        run()


def holding(model: nn.Module, tensors: Mapping[str, Tensor], run: Callable[[], None]) -> None:
    """Call ``run()`` while ``model`` holds ``tensors`` in place of its parameters and buffers of those names.

    What a backward pass runs again (activation checkpointing) thus sees them too, which it would not if they were
    swapped for the forward pass alone.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> holding(layer, {"weight": Tensor([[3.0]])}, lambda: print(layer(Tensor([1.0])).item()))
    3.0
    """
    functional_call(_Holder(model), {f"model.{name}": value for name, value in tensors.items()}, (run,))


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
        if self._is_held():
            return self.model(self.batch)
        return self.model.outputs({**self.fixed, **self.parameters}, self.batch)

    def held(self, run: Callable[[], T]) -> T:
        """``run()`` while the model holds this micro-batch's tensors; see :func:`holding`."""
        found: list[T] = []
        holding(self.model.model, {**self.fixed, **self.parameters}, lambda: found.append(run()))
        return found[0]

    def _is_held(self) -> bool:
        """Whether the model holds this micro-batch's tensors already: all of them or none, so one tells."""
        name, leaf = next(iter(self.parameters.items()))
        path, _, attribute = name.rpartition(".")
        return getattr(self.model.model.get_submodule(path), attribute) is leaf

    def pieces(self, count: int) -> Iterator[BatchLoss]:
        """This micro-batch in up to ``count`` smaller ones; their shares are of this one's mean and add up to 1.

        Those that the loss ignores as a whole are left out.
        """
        rows = torch.arange(length(self.labels), device=next(iter(self.parameters.values())).device)
        cut = [(chunk, select(self.labels, chunk)) for chunk in rows.chunk(count)]
        norms = [self.normalizer(labels) for _, labels in cut]
        for (chunk, labels), norm in zip(cut, norms, strict=True):
            if norm:
                batch = select(self.batch, chunk)
                yield dataclasses.replace(self, share=norm / sum(norms), batch=batch, labels=labels)

    def loss(self, outputs: Any = None) -> Tensor:
        """The mean loss, of the model's outputs or of others of the same form."""
        return self.loss_fn(self.outputs if outputs is None else outputs, self.labels)
