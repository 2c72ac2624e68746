"""Means that losses take: the weight of a batch, the losses of its samples, and accuracy."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from landscape.objective.sources import copied, length, select

Loss = Callable[[Any, Any], Tensor]
Metric = Callable[[Any, Any], Tensor]
PerSampleLoss = Callable[[Any, Any], Tensor]
_OF_DTYPES = "dtype", "scalar type"  # in what torch says where tensors of two precisions do not go together
_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)


@dataclasses.dataclass(frozen=True)
class Identity:
    """A stand-in for an object in keys, equal to that of the same object only, which it keeps alive."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@dataclasses.dataclass(frozen=True, eq=False)
class MeanLoss:
    """A loss with what it is a mean over.

    Attributes:
        fn: ``(outputs, labels) -> loss``.
        normalizer: ``labels -> weight`` of a batch in the mean.
        is_given: whether the caller gave the normalizer.
        noted: torch's loss on classes that the normalizer follows from, with its ignored label and class weights as
            they were then.
        dtype: precision that it was brought to; none if its own.
    """

    fn: Loss
    normalizer: Callable[[Any], float]
    is_given: bool = False
    noted: tuple[nn.CrossEntropyLoss | nn.NLLLoss, int, Tensor] | None = None
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, fn: Loss, normalizer: Callable[[Any], float] | None = None) -> MeanLoss:
        """The loss with the caller's normalizer, or with the one that follows from it."""
        if normalizer is not None:
            return cls(fn, normalizer, is_given=True)
        if isinstance(fn, nn.CrossEntropyLoss | nn.NLLLoss):
            return cls(fn, normalizer_of(fn), noted=(fn, fn.ignore_index, _weights_of(fn)))
        return cls(fn, normalizer_of(fn))

    def check_unchanged(self) -> None:
        """Refuse a loss whose class weights or ignored label are others than when its mean was found.

        Raises:
            ValueError: they are.
        """
        if self.noted is None:
            return
        fn, ignored, weights = self.noted
        if fn.ignore_index != ignored or not torch.equal(_weights_of(fn), weights):
            raise ValueError(
                "class weights or ignore_index of the loss were changed after the objective was made; make a new one"
            )

    def __call__(self, outputs: Any, labels: Any) -> Tensor:
        """The loss of a batch, whose labels are handed over as a copy.

        Raises:
            TypeError: it holds tensors of another precision than it was brought to, where nobody sees them.
        """
        try:
            return self.fn(outputs, copied(labels))
        except RuntimeError as error:
            if self.dtype is None or not any(words in str(error) for words in _OF_DTYPES):
                raise
            raise TypeError(
                f"loss_fn cannot be computed in {self.dtype}: it holds tensors of another precision; give class "
                "weights as torch.nn.CrossEntropyLoss(weight=…), or let it convert them: weight.to(outputs.dtype)"
            ) from error

    def astype(self, dtype: torch.dtype, model: nn.Module | None = None) -> MeanLoss:
        """The same loss with its own tensors, such as class weights, in another precision.

        What it shares with ``model``, whose parameters it may penalise, stays the model's.
        """
        if not isinstance(self.fn, nn.Module):
            return dataclasses.replace(self, dtype=dtype)
        kept = {} if model is None else {id(part): part for part in (*model.modules(), *_tensors(model.modules()))}
        own = [module for module in self.fn.modules() if id(module) not in kept]
        if all(id(tensor) in kept for tensor in _tensors(own)):
            return dataclasses.replace(self, dtype=dtype)
        with torch.inference_mode(False):
            fn = copy.deepcopy(self.fn, dict(kept))
            for module in fn.modules():
                if id(module) not in kept:
                    _convert(module, dtype, kept)
        return dataclasses.replace(self, fn=fn, dtype=dtype)

    @property
    def key(self) -> Any:
        """Name all that its values depend on, for keys."""
        return Identity(self.fn), Identity(self.normalizer)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassMean:
    """The mean that torch's losses on classes take: Σ w_y ℓ / Σ w_y over the labels other than ``ignore_index``."""

    weight: Tensor | None
    ignore_index: int

    def __call__(self, labels: Tensor) -> float:
        """Σ w_y, what a batch with these labels weighs in the mean.

        >>> ClassMean(torch.tensor([1.0, 9.0]), -100)(torch.tensor([0, 1, -100]))
        10.0
        """
        if labels.is_floating_point():  # probabilities: torch divides by the number of positions
            return labels.numel() / labels.shape[1 if labels.dim() > 1 else 0]
        kept = labels[labels != self.ignore_index]
        if self.weight is None:
            return float(kept.numel())
        return float(self.weight.detach().to(kept.device)[kept].double().sum())

    def of_samples(self, labels: Tensor) -> Tensor:
        """Give the weight of each of (n,) class labels, (n,) in float64.

        >>> ClassMean(torch.tensor([1.0, 9.0]), -100).of_samples(torch.tensor([0, 1, -100])).tolist()
        [1.0, 9.0, 0.0]
        """
        kept = (labels != self.ignore_index).double().cpu()
        if self.weight is None:
            return kept
        return self.weight.detach().double().cpu()[torch.where(kept > 0, labels.cpu(), 0)] * kept


def normalizer_of(loss_fn: Callable[[Any, Any], Tensor]) -> Callable[[Any], float]:
    """Give a batch's weight in the loss's own mean: its samples, or the class weights of those not ignored."""
    if isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss):
        return ClassMean(loss_fn.weight, loss_fn.ignore_index)
    return _count


def _weights_of(loss_fn: nn.CrossEntropyLoss | nn.NLLLoss) -> Tensor:
    """A copy of its class weights, on the CPU in float64; empty where it has none."""
    none = torch.empty(0, dtype=torch.float64)
    return none if loss_fn.weight is None else loss_fn.weight.detach().to("cpu", torch.float64, copy=True)


def _tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        yield from (t for table in (module._parameters, module._buffers) for t in table.values() if t is not None)


def _convert(module: nn.Module, dtype: torch.dtype, kept: Mapping[int, Any]) -> None:
    """Bring the module's own tensors of real numbers to ``dtype``, but for those that are ``kept``, by identity."""
    tables: tuple[dict[str, Any], ...] = module._parameters, module._buffers
    for table in tables:
        for name, tensor in table.items():
            if tensor is not None and tensor.is_floating_point() and id(tensor) not in kept:
                converted = tensor.detach().to(dtype)
                parameter = isinstance(tensor, nn.Parameter)
                table[name] = nn.Parameter(converted, tensor.requires_grad) if parameter else converted


def _count(labels: Any) -> float:
    return float(length(labels))


def sample_weights(normalizer: Callable[[Any], float], labels: Any) -> Tensor:
    """Give each sample's weight in the loss's mean, (n,) in float64, summing to 1."""
    count = length(labels)
    if normalizer is _count:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    if isinstance(normalizer, ClassMean) and labels.ndim == 1 and not labels.is_floating_point():
        found = normalizer.of_samples(labels)
    else:
        weights = [normalizer(select(labels, torch.tensor([i]), count)) for i in range(count)]
        found = torch.tensor(weights, dtype=torch.float64)
    return found / found.sum()


def per_sample_of(loss_fn: Callable[[Any, Any], Tensor]) -> PerSampleLoss:
    """The loss of each sample, (n,), as ``loss_fn`` gives it for a batch of this sample alone.

    Torch's own losses are asked for their unreduced values; any other is mapped over batches of one. A sample that
    the loss ignores has loss 0.

    >>> out, labels = torch.zeros(3, 2), torch.tensor([0, 1, -100])
    >>> per_sample_of(nn.CrossEntropyLoss())(out, labels)
    tensor([0.6931, 0.6931, 0.0000])
    """
    if isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss):
        return _of_classes(loss_fn)
    if isinstance(loss_fn, nn.Module) and type(loss_fn) in _ELEMENTWISE:
        unreduced = _unreduced(loss_fn)
        return lambda outputs, labels: _over_rows(unreduced(outputs, labels), torch.mean)

    def mapped(outputs: Any, labels: Any) -> Tensor:
        leaves, form = tree_flatten((outputs, labels))
        by_row = [isinstance(leaf, Tensor) and leaf.ndim > 0 for leaf in leaves]  # a scalar is of all samples

        def alone(*mine: Any) -> Tensor:
            one = [leaf[None] if has_rows else leaf for leaf, has_rows in zip(mine, by_row, strict=True)]
            return loss_fn(*tree_unflatten(one, form))

        try:
            return torch.func.vmap(alone, in_dims=tuple(0 if has_rows else None for has_rows in by_row))(*leaves)
        except RuntimeError:  # what vmap does not know, such as torch's class weights with label smoothing
            rows = (
                [leaf[i] if has_rows else leaf for leaf, has_rows in zip(leaves, by_row, strict=True)]
                for i in range(length(labels))
            )
            return torch.stack([alone(*row) for row in rows])

    return mapped


def check_per_sample(per_sample: PerSampleLoss, outputs: Any, labels: Any, weights: Tensor, whole: Tensor) -> None:
    """Refuse losses of samples whose weighted mean is not the loss of the batch.

    Raises:
        ValueError: they cannot be computed, have another shape, or another mean.
    """
    advice = "; give per_sample_loss= (outputs, labels -> losses of shape (n,))"
    try:
        values = per_sample(outputs, labels)
    except Exception as error:
        raise ValueError(
            f"the losses of single samples cannot be derived from loss_fn ({type(error).__name__}){advice}"
        ) from error
    if values.shape != weights.shape:
        raise ValueError(f"per-sample losses have shape {tuple(values.shape)}, expected {tuple(weights.shape)}{advice}")
    mean, expected = float(values.detach().double() @ weights), whole.item()
    if not abs(mean - expected) <= torch.finfo(whole.dtype).eps ** 0.5 * max(1.0, abs(expected)):
        raise ValueError(
            f"per-sample losses average to {mean:.6g}, but loss_fn gives {expected:.6g} for the batch{advice}"
        )


def _unreduced(loss_fn: nn.Module) -> nn.Module:
    unreduced = copy.copy(loss_fn)
    setattr(unreduced, "reduction", "none")  # noqa: B010 - a plain attribute that nn.Module does not declare
    return unreduced


def _over_rows(values: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduced to one value a row; torch's forward mode does not like views of what is one already."""
    return values if values.ndim == 1 else reduce(values.flatten(1), 1)


def _of_classes(loss_fn: nn.CrossEntropyLoss | nn.NLLLoss) -> PerSampleLoss:
    unreduced, weight, ignore = _unreduced(loss_fn), loss_fn.weight, loss_fn.ignore_index

    def of(outputs: Tensor, labels: Tensor) -> Tensor:
        values = unreduced(outputs, labels)
        if labels.is_floating_point():
            return _over_rows(values, torch.mean)
        kept = (labels != ignore).reshape(len(labels), -1)
        classes = torch.where(kept, labels.reshape(len(labels), -1), 0)
        counts = kept.to(values.dtype) if weight is None else weight.to(values.dtype)[classes] * kept
        total = counts.sum(1)
        return _over_rows(values, torch.sum) / torch.where(total > 0, total, 1)

    return of


class NormalizedLogits(nn.Module):
    """A loss of normalised logits; says, as the loss does, which label is ignored."""

    def __init__(self, loss_fn: Loss) -> None:
        super().__init__()
        self.loss_fn = loss_fn
        if hasattr(loss_fn, "ignore_index"):
            self.ignore_index = loss_fn.ignore_index

    def forward(self, outputs: Any, labels: Any) -> Tensor:
        """Loss of logits (samples, classes, …), centred and of unit norm."""
        if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(
                f"outputs are {got}, expected logits (samples, classes ≥ 2); there is nothing to normalise"
            )
        centred = outputs - outputs.mean(dim=1, keepdim=True)
        return self.loss_fn(centred / torch.linalg.vector_norm(centred, dim=1, keepdim=True).clamp_min(1e-10), labels)
