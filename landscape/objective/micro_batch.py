"""One micro-batch of an objective: a model called with given tensors in place of its own, and the loss that follows."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from landscape.objective.isolation import holding, rewind
from landscape.objective.losses import Identity, MeanLoss
from landscape.objective.parameters import ParameterLayout
from landscape.objective.sources import copied, length, select

Forward = Callable[[nn.Module, Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class ModelCall:
    """A model and how to call it on a batch.

    Attributes:
        model: what is called.
        forward: how; ``model(*inputs)`` if none.
        differentiates: by what the model itself differentiates in its forward pass, so that it needs gradients on: its
            ``inputs``, or ``parameters`` too, as meta-learning does; empty if it does not.
        precision: of matrix products and convolutions (``torch.autocast``), if less than the parameters' own; outputs
            are float32 then, and so is the loss.
    """

    model: nn.Module
    forward: Forward | None = None
    precision: torch.dtype | None = None
    differentiates: str = ""

    @property
    def key(self) -> Any:
        """Name all that its values depend on beside tensors, for keys."""
        return Identity(self.model), Identity(self.forward), self.precision

    def __call__(self, batch: Any) -> Any:
        """Outputs on a batch, which is handed over as a copy, from the state that every forward pass starts from."""
        rewind(self.model)
        return self.run(copied(batch))

    def run(self, batch: Any) -> Any:
        """Outputs on a batch, from the state that the model is in."""
        if not self.differentiates or torch.is_grad_enabled():
            return self._in_precision(batch)
        held = (
            [p for p in self.model.parameters() if not p.requires_grad] if self.differentiates == "parameters" else []
        )
        try:
            with torch.enable_grad():
                for parameter in held:
                    parameter.requires_grad_()
                return tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, self._in_precision(batch))
        finally:
            for parameter in held:
                parameter.requires_grad_(False)

    def _in_precision(self, batch: Any) -> Any:
        if self.precision is None:
            return self._run(batch)
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, self.precision):
            outputs = self._run(batch)
        return tree_map(lambda t: t.float() if isinstance(t, Tensor) and t.is_floating_point() else t, outputs)

    def _run(self, batch: Any) -> Any:
        if self.forward is not None:
            return self.forward(self.model, batch)
        if isinstance(batch, Mapping):
            raise ValueError("batches are mappings; say how to call the model: forward=lambda model, batch: …")
        inputs = batch[:-1]
        try:
            return self.model(*inputs)
        except TypeError as error:
            if _takes(self.model.forward, inputs):
                raise
            told = " ".join(str(error).split())
            raise ValueError(
                f"the model does not take the inputs of a batch, which are all of its {len(batch)} entries but the "
                f"last, the labels ({told}); say how to call it: forward=lambda model, batch: …, and add labels to "
                "data that have none, such as torch.zeros(n)"
            ) from error


def _takes(function: Callable[..., Any], arguments: Sequence[Any]) -> bool:
    """Tell whether a function can be called with these arguments, as far as its signature says."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


@dataclasses.dataclass(frozen=True, eq=False)
class BatchLoss:
    """One micro-batch, its forward pass run when first asked for.

    Attributes:
        index: its place among the view's micro-batches.
        share: of the whole mean that it makes up.
        parameters: the leaves it is computed from, by name; not the model's own.
        fixed: everything else that the model holds, by name: other parameters and buffers.
        batch: what the model is called with.
        labels: of the samples.
        criterion: mean loss over the micro-batch.
        call: the model and how to call it.
    """

    index: int
    share: float
    parameters: dict[str, Tensor]
    fixed: dict[str, Tensor]
    batch: Any
    labels: Any
    criterion: MeanLoss
    call: ModelCall

    @cached_property
    def outputs(self) -> Any:
        """Outputs of the model, connected to the leaves."""
        with self.held():
            return self.call(self.batch)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the model hold this micro-batch's tensors, which code that a backward pass runs again needs too."""
        if self._is_held():
            yield
        else:
            with holding(self.call.model, {**self.fixed, **self.parameters}):
                yield

    def _is_held(self) -> bool:
        """Tell whether the model holds this micro-batch's tensors already: all of them or none, so one tells."""
        name, leaf = next(iter(self.parameters.items()))
        path, _, attribute = name.rpartition(".")
        return getattr(self.call.model.get_submodule(path), attribute) is leaf

    def of(self, rows: Tensor) -> BatchLoss:
        """These of its samples as a micro-batch of their own, the whole mean made up by them."""
        size = length(self.labels)
        batch, labels = select(self.batch, rows, size), select(self.labels, rows, size)
        return dataclasses.replace(self, share=1.0, batch=batch, labels=labels)

    def pieces(self, count: int) -> Iterator[BatchLoss]:
        """This micro-batch in up to ``count`` smaller ones of equal sizes; their shares of its mean add up to 1.

        Those that the loss ignores as a whole are left out.
        """
        size = length(self.labels)
        rows = torch.arange(size, device=next(iter(self.parameters.values())).device)
        cut = rows.tensor_split(min(count, size))
        norms = [self.criterion.normalizer(select(self.labels, chunk, size)) for chunk in cut]
        for chunk, norm in zip(cut, norms, strict=True):
            if norm:
                yield dataclasses.replace(self.of(chunk), share=norm / sum(norms))

    def loss(self, outputs: Any = None) -> Tensor:
        """The mean loss, of the model's outputs or of others of the same form."""
        return self.criterion(self.outputs if outputs is None else outputs, self.labels)

    def gradient_of(self, loss: Tensor, layout: ParameterLayout) -> Tensor:
        """Gradient (K,) of this micro-batch's loss; 0 where none of its samples has to do with the parameters."""
        if not loss.requires_grad:
            return torch.zeros(layout.size, dtype=layout.dtype, device=layout.device)
        grads = torch.autograd.grad(loss, list(self.parameters.values()), materialize_grads=True)
        return layout.flatten(dict(zip(self.parameters, grads, strict=True)))
