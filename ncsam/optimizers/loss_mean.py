"""Means that losses take: labels left out, the weight of a part of a batch, whether the parts add up."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.objective.losses import ClassMean
from ncsam.optimizers.in_place import HALF
from ncsam.optimizers.nested import leaves, mapped, rows_in

LossFn = Callable[[Any, Any], Tensor]


def class_mean(loss_fn: LossFn) -> ClassMean | None:
    """The mean of ``nn.CrossEntropyLoss``, ``nn.NLLLoss`` and their functions, also in ``functools.partial``.

    Another loss may say which it takes, as its attribute ``class_mean``; None for all others, whose mean is not known.
    """
    if type(loss_fn) in (nn.CrossEntropyLoss, nn.NLLLoss):
        return ClassMean(loss_fn.weight, loss_fn.ignore_index)  # type: ignore[attr-defined]
    if isinstance(said := getattr(loss_fn, "class_mean", None), ClassMean):
        return said
    given: dict[str, Any] = {}
    while isinstance(loss_fn, functools.partial) and not loss_fn.args:
        given = {**loss_fn.keywords, **given}
        loss_fn = loss_fn.func
    plain = given.get("reduction", "mean") == "mean" and given.keys() <= {
        *("weight", "ignore_index", "reduction", "label_smoothing")
    }
    if loss_fn not in (functional.cross_entropy, functional.nll_loss) or not plain:
        return None
    return ClassMean(given.get("weight"), given.get("ignore_index", -100))


def ignored_label(loss_fn: LossFn) -> int | None:
    """The label that the loss says it leaves out (``ignore_index``), None where it says nothing."""
    known = class_mean(loss_fn)
    found = known.ignore_index if known else getattr(loss_fn, "ignore_index", None)
    return found if isinstance(found, int) else None


def counts(loss_fn: LossFn, labels: Tensor) -> Tensor:
    """Mask of the labels that are neither negative nor the loss's ``ignore_index``, bool in their shape."""
    ignored = ignored_label(loss_fn)
    return labels >= 0 if ignored is None else (labels >= 0) & (labels != ignored)


def counted_classes(loss_fn: LossFn, values: Tensor, logits: Tensor) -> Tensor:
    """Mask of the labels ``values`` (n,) that enter the loss with some weight, bool (n,).

    Of losses whose ``ignore_index`` and class weights are not known this is asked by a gradient at random logits: it
    is exactly zero in the rows whose label the loss leaves out. The model is not run.

    Args:
        logits: any (n, C) of the model, for their width, dtype and device.

    Raises:
        ValueError: the loss cannot be computed on labels other than the batch's.
    """
    known = class_mean(loss_fn)
    if getattr(loss_fn, "mean_over_rows", False):
        return torch.ones_like(values, dtype=torch.bool)
    if known is not None:
        kept = values != known.ignore_index
        return kept if known.weight is None else kept & (known.weight.detach().to(values.device)[values] != 0)
    generator = torch.Generator().manual_seed(0)
    shape, wide = (len(values), logits.shape[1]), torch.promote_types(logits.dtype, torch.float32)
    z = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(logits.device, wide)
    try:
        with torch.enable_grad():
            z.requires_grad_()
            (found,) = torch.autograd.grad(loss_fn(z, values), z, allow_unused=True)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"loss_fn cannot be computed on other labels than the batch's ({line}), as NCSAM needs; give a function "
            "of (logits, labels) alone, with labels in 0…C−1 or its ignore_index"
        ) from error
    rows = torch.zeros_like(values, dtype=torch.bool) if found is None else found.ne(0).any(dim=1)
    return rows if rows.any() else ~rows  # a loss too small for its dtype says nothing


def call(loss_fn: LossFn, outputs: Any, labels: Any) -> Tensor:
    """The scalar loss of ``outputs`` against ``labels``.

    Raises:
        ValueError: it is not one real number, or a label is none of the classes.
    """
    try:
        loss = loss_fn(outputs, labels)
    except (IndexError, RuntimeError):
        check_classes(loss_fn, outputs, labels)
        raise
    if not isinstance(loss, Tensor) or loss.dim():
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError(f"loss_fn returned {got}, expected a scalar; use reduction='mean'")
    if not loss.is_floating_point():
        raise ValueError(f"loss_fn returned {loss.dtype}, expected a real number; take .abs() or .real of its terms")
    return loss


def check_classes(loss_fn: LossFn, outputs: Any, labels: Any, name: str = "labels") -> None:
    """Refuse labels of a classification that are neither classes nor ignored.

    Raises:
        ValueError: the first of them, where it is, and what was expected.
    """
    if not (isinstance(outputs, Tensor) and isinstance(labels, Tensor)) or outputs.dim() < 2:
        return
    if labels.is_floating_point() or labels.is_complex() or labels.dim() != outputs.dim() - 1:
        return
    bad = (counts(loss_fn, labels) & (labels >= outputs.shape[1])).nonzero()
    if len(bad):
        where = tuple(bad[0].tolist())
        at = where[0] if len(where) == 1 else where
        raise ValueError(
            f"{name} hold {int(labels[where])} (first at row {at}), expected classes 0…{outputs.shape[1] - 1}; "
            "samples that shall not count are labelled ignore_index or −100"
        )


def part_weights(loss_fn: LossFn, parts: Sequence[Any]) -> list[float]:
    """Weights of a batch's parts in the loss's mean, from the labels of each; their rows where it is not known.

    Raises:
        ValueError: a part's labels have no rows, or are no classes of a loss with class weights.
    """
    known = class_mean(loss_fn)
    if known is None or not all(isinstance(labels, Tensor) for labels in parts):
        return [float(rows_in(labels)) for labels in parts]
    try:
        return [known(labels.detach().cpu()) for labels in parts]
    except IndexError:
        assert known.weight is not None
        highest = max(int(labels[counts(loss_fn, labels)].max()) for labels in parts)
        raise ValueError(f"labels hold {highest}, but the loss has weights of {len(known.weight)} classes") from None


class Parts(NamedTuple):
    """A batch in parts: the outputs and labels of each, and the share of the mean that each is taken to have."""

    outputs: list[Any]
    labels: list[Any]
    shares: list[float]


def check_adds_up(
    loss_fn: LossFn,
    parts: Parts,
    whole: Callable[[list[Any]], Any],
    total: Callable[[Tensor], Tensor],
    instead: str,
) -> None:
    """Refuse a loss whose value on the whole batch is not the sum of its parts' by their shares.

    It is compared on the outputs themselves and on outputs with noise, on which the losses of samples differ; the
    model is not run. A loss that is not finite on the outputs is left to the step, which skips it.

    Args:
        whole: joins parts of outputs, or of labels, to those of the whole batch.
        total: adds up over the processes that share the batch.
        instead: what the caller can do, to end the message with.

    Raises:
        ValueError: the sums differ by more than rounding, or cannot be compared.
    """
    if class_mean(loss_fn) is not None or getattr(loss_fn, "mean_over_rows", False):
        return
    labels = whole(parts.labels)
    numbers = max((leaf.numel() for _, leaf in leaves(labels) if isinstance(leaf, Tensor)), default=1)

    def compared(outputs: list[Any]) -> _Sums | str:
        """The two sums, or why there are none, "" where they are not finite; the same on all processes."""
        joined, why, values, dtype = whole(outputs), "", [math.nan, math.nan], torch.float64
        try:
            found = [call(loss_fn, o, y) * s for o, y, s in zip(outputs, parts.labels, parts.shares, strict=True) if s]
            values = [float(v) for v in found]
            of_whole = call(loss_fn, joined, labels)
            dtype = of_whole.dtype
        except Exception as error:  # whatever a loss may raise, such as on noise where it expects probabilities
            of_whole, why = torch.tensor(math.nan), (str(error).splitlines() or [type(error).__name__])[0]
        own = torch.tensor([sum(values), sum(map(abs, values))], dtype=torch.float64)
        added, size = total(own).tolist()
        expected = float(of_whole)
        if not (math.isfinite(added) and math.isfinite(expected)):
            return why
        return _Sums(expected, added, max(size, abs(expected)), dtype)

    with torch.no_grad():
        first = compared(parts.outputs)
        if isinstance(first, str):
            if not first:
                return
            raise ValueError(
                f"the loss cannot be computed on the outputs of all parts of the batch together ({first}), so its mean "
                f"is unknown; let forward= return tensors, in mappings, tuples or lists, or {instead}"
            )
        second: _Sums | str = ""
        for change in (_with_noise, _shrunk):
            generator = torch.Generator().manual_seed(0)
            second = compared([_changed(o, change, generator) for o in parts.outputs])
            if not isinstance(second, str):
                break
    if isinstance(second, str):
        why = second or "it is not finite"
        raise ValueError(f"the loss has no value on outputs with noise ({why}), so its mean is unknown; {instead}")
    scale = max(first.size, second.size)
    for expected, added, _, dtype in (first, second):
        if not abs(expected - added) <= _rounding(dtype, numbers) * scale:
            raise ValueError(
                f"the loss is no plain mean over the rows: {expected:.7g} for the batch, {added:.7g} by its parts (on "
                f"outputs with noise, if not on these); give nn.CrossEntropyLoss(weight=…, ignore_index=…) itself, "
                f"whose own mean is known, or {instead}"
            )


class _Sums(NamedTuple):
    """The loss of the whole batch, the sum over its parts, the size of what was summed, and the loss's dtype."""

    expected: float
    added: float
    size: float
    dtype: torch.dtype


def _rounding(dtype: torch.dtype, numbers: int) -> float:
    """Relative rounding of a mean of so many numbers: of the result, and of its sum, which half precision has in 32."""
    summed = torch.float32 if dtype in HALF else dtype
    return 4 * torch.finfo(dtype).eps + 4 * math.sqrt(numbers) * torch.finfo(summed).eps


def _changed(outputs: Any, change: Callable[[Tensor, Tensor], Tensor], generator: torch.Generator) -> Any:
    def leaf(t: Tensor) -> Tensor:
        if not (t.dim() and (t.is_floating_point() or t.is_complex())):
            return t
        uniform = torch.rand(t.shape, generator=generator, dtype=torch.float32, device="cpu").to(t.device)
        return change(t, uniform).to(t.dtype)

    return mapped(outputs, leaf)


def _with_noise(t: Tensor, uniform: Tensor) -> Tensor:
    spread = t.detach().abs().max().float() if t.numel() else 1.0
    return t + (uniform - 0.5) * 4.0 * (1.0 + spread)


def _shrunk(t: Tensor, uniform: Tensor) -> Tensor:
    """Shrink by factors in (¼, 1): probabilities stay such, and what has one sign keeps it."""
    return t * (0.25 + 0.75 * uniform)
