"""The check of what a loss is a mean over, made on all micro-batches by cutting them and joining the parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from landscape.objective.context import Context
from landscape.objective.cross_entropy import FewCopies
from landscape.objective.differences import Dtypes
from landscape.objective.losses import MeanLoss
from landscape.objective.plan import Part, Plan
from landscape.objective.sources import joined, labels_of, length, select
from landscape.objective.views import View

_SUMS = 1e-9  # relative error of sums of weights
_ROUNDING = 500  # units in the last place that sums of different order may differ by
_LEAST, _NUMBERS = 3, 2**24  # different rows of outputs that losses are tried on: at least, and as long as they are few


def is_known_mean(criterion: MeanLoss) -> bool:
    """Tell whether torch itself defines what the loss is a mean over, as its normalizer has it."""
    fn = criterion.fn
    known = type(fn) in (nn.CrossEntropyLoss, nn.NLLLoss) and getattr(fn, "reduction", "") == "mean"
    return known and not criterion.is_given


class Rows:
    """Rows of ``count`` samples in a batch or in outputs, given over and over where more are asked for.

    >>> Rows(torch.arange(3), 3).pick(torch.tensor([1, 2, 3, 4]))
    tensor([1, 2, 0, 1])
    """

    def __init__(self, tree: Any, count: int) -> None:
        self.tree, self.count = tree, count
        self._noisy: Rows | None = None

    @classmethod
    def first_of(cls, outputs: Any, count: int) -> Rows:
        """All of the outputs of ``count`` samples, or as many of very large ones as are worth their memory."""
        few = _fit(outputs, count)
        return cls(outputs, count) if few >= count else cls(select(outputs, torch.arange(few), count), few)

    def pick(self, rows: Tensor) -> Any:
        """Those of these numbers."""
        return select(self.tree, rows % self.count, self.count)

    def whole(self, count: int) -> Any:
        """The first ``count``."""
        return self.tree if count == self.count else self.pick(torch.arange(count))

    def with_noise(self, count: int) -> Rows:
        """Those of ``count`` samples with noise of their own; of very large ones some, with which it goes on."""
        few = min(count, _fit(self.tree, self.count))
        if self._noisy is None or self._noisy.count < few:
            self._noisy = Rows(_noisy(self.whole(few)), few)
        return self._noisy


def check_mean(context: Context, view: View, plan: Plan, example: Rows | None, inside: bool) -> None:
    """Refuse a loss that is not the mean over samples that its normalizer says, on any of the view's micro-batches.

    Each micro-batch is cut in two at random, and one half is joined with one of the first micro-batch: the loss of the
    whole must be the mean of the losses of its parts. Where the loss is a function of outputs, these are outputs of the
    first micro-batch with noise added, so that samples have losses of their own even in a network that was just made;
    where it is computed inside the model, the model runs. Samples of unequal lengths are padded for it, where padding
    alone changes no loss.

    Args:
        example: outputs of the model on the first micro-batch of the view's source, or some rows of them; none if it
            has not been run on it.
        inside: whether the loss is computed inside the model.
    """
    template = None if inside or example is None else _Template(context, example)
    first: _Half | None = None
    dtypes: set[torch.dtype] | None = None
    established, samples = False, 0
    for number, (batch, parts) in enumerate(plan):
        part = next((p for p in parts if p.view == view.name and p.norm), None)
        if part is None:
            continue
        count = length(part.labels)
        of = _Losses(context, view.name, number, part, batch, template, dtypes)
        whole, halves = of.whole(), of.cut_at(count // 2)
        dtypes = of.dtypes
        if whole is None or not halves:
            continue
        of.compare(whole, halves, f"a batch of {count}")
        established, samples = established or len(halves) > 1, samples + count
        half = max(halves, key=lambda h: h.weight)
        if first is None:
            first = half
            if count > 2:  # halves that weigh the same do not tell weights; an odd number of samples seldom does
                of.compare(whole, of.cut_at(count // 3 | 1), f"a batch of {count}")
        elif (together := of.joined(first, half)) is not None:
            of.compare(together, [first, half], "half a batch with half of the first")
            established = True
        if context.checks == "first":
            return
    if samples > 1 and not established and not context.criterion.is_given:
        raise ValueError(
            f"view {view.name!r} comes one sample at a time, no two of one shape, so that what loss_fn averages over "
            "cannot be established; give normalizer= (labels -> what the loss divides by: their length for a mean over "
            "samples, the number of labels that count for a mean over tokens)"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Half:
    """Some samples: outputs, or the batch where the loss is inside; labels, weight, their loss and its precision."""

    data: Callable[[], Any]
    labels: Any
    weight: float
    loss: Tensor
    eps: float

    def agrees(self, loss: float, scale: float) -> bool:
        """Tell whether its loss is this one, to the rounding of numbers as large as ``scale``."""
        own = float(self.loss)
        return close(own, loss, _ROUNDING * self.eps * max(abs(own), scale))


class _Template:
    """Outputs to try a loss on: those of the model on the first micro-batch."""

    def __init__(self, context: Context, outputs: Rows) -> None:
        self._context, self._outputs = context, outputs
        self._shape: Any = None

    def rows(self, batch: Any, part: Part) -> Rows:
        """Outputs for the rows of a view's part."""
        shape = _row_shapes(part.labels)
        if self._shape is None:
            self._shape = shape
        if shape == self._shape:
            return self._outputs
        # padded otherwise, so outputs have another shape
        count, outputs = length(labels_of(batch)), self._context.call(batch)
        if part.rows is not None:
            count, outputs = len(part.rows), select(outputs, part.rows, count)
        return Rows.first_of(outputs, count)


class _Losses:
    """Losses of parts of a micro-batch.

    Attributes:
        dtypes: those that the loss computes in, looked up at the first loss; none before it.
    """

    def __init__(
        self,
        context: Context,
        view: str,
        number: int,
        part: Part,
        batch: Any,
        template: _Template | None,
        dtypes: set[torch.dtype] | None,
    ) -> None:
        self._context, self._view, self._number, self._part = context, view, number, part
        self._inside, self.dtypes = template is None, dtypes
        self._count = length(part.labels)
        if template is None:
            own = batch if part.rows is None else select(batch, part.rows, length(labels_of(batch)))
            self._data = Rows(own, self._count)
        else:
            self._data = template.rows(batch, part)

    def whole(self) -> _Half | None:
        """All samples; none where the model itself has diverged.

        Raises:
            ValueError: the loss is not finite though the outputs are.
        """
        whole = self._with_noise()
        if whole is None:
            whole = self._half(lambda: self._data.whole(self._count), self._part.labels)
        if not bool(torch.isfinite(whole.loss)):
            if not _finite(self._data.tree):
                return None
            raise ValueError(
                f"loss_fn gives {float(whole.loss)} on micro-batch {self._number} of view {self._view!r}; if it "
                "ignores labels, give normalizer= (labels -> number of those that count)"
            )
        return whole

    def _with_noise(self) -> _Half | None:
        """All samples with noise added to their outputs from now on; none where the loss does not take that."""
        if self._inside:
            return None
        noisy = self._data.with_noise(self._count)
        try:
            whole = self._half(lambda: noisy.whole(self._count), self._part.labels)
        except Exception:  # such as a logarithm's that wants probabilities
            return None
        if not bool(torch.isfinite(whole.loss)):
            return None
        self._data = noisy
        return whole

    def cut_at(self, place: int) -> list[_Half]:
        """Samples before and from a place in a random order, without a part that does not count."""
        order = shuffled(self._count)
        parts = []
        for rows in (order[:place], order[place:]) if place else (order,):
            labels = select(self._part.labels, rows, self._count)
            if self._context.criterion.normalizer(labels):
                parts.append(self._half(partial(self._data.pick, rows), labels))
        return parts

    def joined(self, a: _Half, b: _Half) -> _Half | None:
        """Two parts as one batch; none where their shapes do not allow it, even padded."""
        try:
            return self._joined(a, b)
        except (RuntimeError, IndexError, KeyError, AttributeError):  # one has no place for the other
            pass
        for value in self._ignored((a, b)):
            try:
                alike = [self._padded(a, b, value), self._padded(b, a, value)]
                if all(padded.agrees(float(h.loss), 0.0) for padded, h in zip(alike, (a, b), strict=True)):
                    return dataclasses.replace(self._joined(*alike), weight=a.weight + b.weight)
            except Exception:  # of a model or loss that takes no padding
                continue
        return None

    def _padded(self, half: _Half, other: _Half, value: int) -> _Half:
        data, labels = _padded(half, other, value, self._inside)
        return self._half(lambda: data, labels)

    def _joined(self, a: _Half, b: _Half) -> _Half:
        counts = [length(half.labels) for half in (a, b)]
        labels = joined([a.labels, b.labels], counts)
        return self._half(lambda: joined([a.data(), b.data()], counts), labels)

    @staticmethod
    def _ignored(halves: Sequence[_Half]) -> list[int]:
        """Labels that a loss may ignore: the least there is if it stands for no class, torch's own, and zero."""
        leaves = [t for half in halves for t in tree_leaves(half.labels) if isinstance(t, Tensor) and t.numel()]
        least = min((int(t.min()) for t in leaves if not t.is_floating_point()), default=0)
        # On an accelerator, a label out of range ends the process.
        return [least, 0] if least < 0 else [-100, 0] if all(t.device.type == "cpu" for t in leaves) else [0]

    def _half(self, data: Callable[[], Any], labels: Any) -> _Half:
        weight = self._context.criterion.normalizer(labels)
        if self._inside:
            # The model may have layers that compute in float32 whatever its loss is in.
            loss, self.dtypes = self._context.criterion(self._context.call(data()), labels), {torch.float32}
        elif self.dtypes is None:  # the first loss of a whole; others are computed alike
            with Dtypes() as within:
                loss = self._loss(data(), labels)
            self.dtypes = within.found
        else:
            loss = self._loss(data(), labels)
        return _Half(data, labels, weight, loss, max(torch.finfo(dtype).eps for dtype in (loss.dtype, *self.dtypes)))

    def _loss(self, outputs: Any, labels: Any) -> Tensor:
        with FewCopies():
            return self._context.criterion(outputs, labels)

    def compare(self, whole: _Half, parts: Sequence[_Half], what: str) -> None:
        weight, losses = sum(part.weight for part in parts), [float(part.loss) for part in parts]
        mean = sum(part.weight * loss for part, loss in zip(parts, losses, strict=True)) / weight
        if not whole.agrees(mean, max(map(abs, losses))) or not close(weight, whole.weight, _SUMS * weight):
            given = "the given normalizer" if self._context.criterion.is_given else "the number of samples"
            raise ValueError(
                f"loss_fn is not a mean over samples weighted by {given}: {what} has loss {float(whole.loss):.7g}, "
                f"its parts average to {mean:.7g} (micro-batch {self._number} of view {self._view!r}); use "
                "reduction='mean', and for class weights, ignored labels or means over tokens "
                "torch.nn.CrossEntropyLoss, or give normalizer= (labels -> what the loss divides by)"
            )


def _padded(half: _Half, other: _Half, label: int, inside: bool) -> tuple[Any, Any]:
    """Data and labels with rows as long as the other's where these are longer: labels by ``label``, the rest by 0."""
    given, longer = half.data(), other.data()
    own = {id(t) for t in tree_leaves(labels_of(given) if inside else half.labels)}

    def pad(t: Any, like: Any) -> Any:
        if not isinstance(t, Tensor) or t.ndim != like.ndim or t.shape[1:] == like.shape[1:]:
            return t
        missing = [max(0, m - n) for n, m in zip(t.shape[1:], like.shape[1:], strict=True)]
        value = label if id(t) in own and not t.is_floating_point() else 0
        return functional.pad(t, [w for width in reversed(missing) for w in (0, width)], value=value)

    data = tree_map(pad, given, longer)
    own |= {id(t) for t in tree_leaves(half.labels)}
    return data, tree_map(pad, half.labels, other.labels)


def _noisy(outputs: Any) -> Any:
    generator = torch.Generator().manual_seed(0)

    def noisy(t: Any) -> Any:
        if not (isinstance(t, Tensor) and t.is_floating_point() and t.ndim):
            return t
        t = t.float() if t.dtype in (torch.bfloat16, torch.float16) else t
        return torch.randn(t.shape, generator=generator).to(t).add_(t)

    return tree_map(noisy, outputs)


def _fit(outputs: Any, count: int) -> int:
    """Rows of the outputs of ``count`` samples that are few numbers together; three at least."""
    size = sum(t.numel() for t in tree_leaves(outputs) if isinstance(t, Tensor))
    return max(_LEAST, _NUMBERS * count // max(1, size))


def _finite(data: Any) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in tree_leaves(data) if isinstance(t, Tensor))


def _row_shapes(tree: Any) -> Any:
    return [(tuple(t.shape[1:]), t.dtype) if isinstance(t, Tensor) else type(t) for t in tree_leaves(tree)]


@lru_cache(maxsize=8)
def shuffled(count: int) -> Tensor:
    """A fixed random order of so many samples, the same tensor every time; not to be written to."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def close(a: float, b: float, tolerance: float) -> bool:
    """Tell whether two numbers are within ``tolerance``, or the same infinity, or both NaN."""
    return a == b or (a != a and b != b) or abs(a - b) <= tolerance
