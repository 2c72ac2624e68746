"""Losses and metrics of all views of a micro-batch, from one pass over its outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from landscape.objective.evaluation.accuracy import accuracy_of
from landscape.objective.losses import Metric
from landscape.objective.sources import copied, length, select

if TYPE_CHECKING:
    from landscape.objective.context import Context
    from landscape.objective.plan import Part


_FEW = 16  # classes; torch's kernel along contiguous rows shorter than this runs scalar, ten times slower


Sums = dict[str, dict[str, list[float]]]
"""Sum and count of each metric on each view."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Mean loss and metrics of each view at one point; NaN where a view is empty."""

    loss: dict[str, float]
    metrics: dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class LabelTable:
    """Everything about a micro-batch's views that does not depend on the outputs.

    Attributes:
        labels: (L, B) distinct label vectors; 0 where no view needs one.
        weights: (L, B) what each counts in the loss, or none for 1.
        columns: (V,) which of them each view takes, or none for one each.
        mask: (V, B) which samples a view has, or none for all.
        views: (V,) places of the views in the objective, or none where it has just these.
        counts: samples of each view.
    """

    labels: Tensor
    weights: Tensor | None
    columns: Tensor | None
    mask: Tensor | None
    views: Tensor | None
    counts: dict[str, int]

    @classmethod
    def of(cls, parts: Sequence[Part], names: Sequence[str], loss_fn: nn.CrossEntropyLoss, size: int) -> LabelTable:
        """The table of a micro-batch of ``size`` samples."""
        device = parts[0].labels.device
        columns: list[int] = []
        known: list[tuple[Tensor, Tensor]] = []  # label vectors, with where they are set
        masks = []
        for part in parts:
            rows = torch.arange(size, device=device) if part.rows is None else part.rows
            mask = torch.zeros(size, dtype=torch.bool, device=device)
            mask[rows] = part.labels != loss_fn.ignore_index
            labels = torch.zeros(size, dtype=torch.int64, device=device)
            labels[rows] = torch.where(mask[rows], part.labels, 0)
            masks.append(mask)
            same = (
                i
                for i, (old, at) in enumerate(known)
                if not (mask & ~at).any() and torch.equal(old[mask], labels[mask])
            )
            columns.append(next(same, len(known)))
            if columns[-1] == len(known):
                known.append((labels, mask))
        places = [names.index(part.view) for part in parts]
        table, mask = torch.stack([labels for labels, _ in known]), torch.stack(masks)
        return cls(
            labels=table,
            weights=None if loss_fn.weight is None else loss_fn.weight.to(device)[table],
            columns=None if columns == list(range(len(known))) else torch.tensor(columns, device=device),
            mask=None if mask.all() else mask,
            views=None if places == list(range(len(names))) else torch.tensor(places, device=device),
            counts={part.view: int(mask.sum()) for part, mask in zip(parts, masks, strict=True)},
        )

    def add(self, outputs: Tensor, sums: Tensor) -> None:
        """Add log-likelihood and number of correct predictions to ``sums``, (2, all views) in float64."""
        values = outputs.new_empty(2, *self.labels.shape)
        likelihood, correct = values
        torch.gather(_log_probabilities(outputs), 0, self.labels, out=likelihood)
        largest = outputs.max(1)
        torch.eq(largest.indices, self.labels, out=correct)
        correct.masked_fill_(~largest.values.isfinite(), torch.nan)  # then nothing is predicted
        if self.weights is not None:
            likelihood.mul_(self.weights)
        if self.columns is not None:
            values = values.index_select(1, self.columns)
        if self.mask is not None:
            values = torch.where(self.mask, values, 0)
        found = values.sum(2, dtype=torch.float64)
        if self.views is None:
            sums.add_(found)
        else:
            sums.index_add_(1, self.views, found)


class Scorer:
    """Turns outputs into losses and metrics of all views: together where the loss is plain cross-entropy over classes,
    else by calling loss and metrics view by view."""

    def __init__(self, context: Context) -> None:
        self._context, self._plan = context, context.selection.plan
        self._names = tuple(context.selection.views)
        criterion = context.criterion
        fn = criterion.fn
        together = type(fn) is nn.CrossEntropyLoss and not fn.label_smoothing and fn.reduction == "mean"
        self._together = together and not criterion.is_given and not context.metrics
        self._device = context.layout.device
        if self._device.type == "mps":  # has no float64
            self._device, self._together = torch.device("cpu"), False
        self._sums = torch.zeros(2, len(self._names), dtype=torch.float64, device=self._device)
        self.reset()

    def reset(self) -> None:
        self._sums.zero_()
        self._counts: dict[str, int] = {}  # samples by view that were scored together
        self._losses: dict[str, float] = {}
        self._metrics: Sums = {}

    def add(self, position: int, outputs: Any, parts: Sequence[Part], size: int) -> None:
        """Score the outputs of a micro-batch of ``size`` samples."""
        if self._together and isinstance(outputs, Tensor) and outputs.ndim == 2:
            table = self._table(position, parts, len(outputs))
            if table is not None:
                table.add(outputs, self._sums)
                for view, count in table.counts.items():
                    self._counts[view] = self._counts.get(view, 0) + count
                return
        for part in parts:
            if part.norm:
                self._one_by_one(outputs, part, size)

    def result(self) -> Evaluation:
        norms, nan = self._plan.norms, float("nan")
        losses, metrics = self._here()
        ranks = self._context.selection.ranks
        if ranks is not None:
            losses, metrics = _added(ranks.gather((losses, metrics)))
        return Evaluation(
            {v: losses[v] / norms[v] if norms[v] else nan for v in self._names},
            {
                name: {v: by_view[v][0] / by_view[v][1] if by_view.get(v, [0, 0])[1] else nan for v in self._names}
                for name, by_view in metrics.items()
            },
        )

    def _here(self) -> tuple[dict[str, float], Sums]:
        """Weighted losses of every view, and sum and count of its metrics, over the samples of this process."""
        likelihood, correct = self._sums.tolist()
        losses = {v: self._losses.get(v, 0.0) - value for v, value in zip(self._names, likelihood, strict=True)}
        if self._counts and self._context.metrics is None:
            shared = self._metrics.setdefault("accuracy", {})
            for view, value in zip(self._names, correct, strict=True):
                already, count = shared.get(view, (0.0, 0.0))
                shared[view] = [already + value, count + self._counts.get(view, 0)]
        return losses, self._metrics

    def _table(self, position: int, parts: Sequence[Part], size: int) -> LabelTable | None:
        """Kept with the plan, since labels are the same at every point; none where some are no class indices."""
        tables: dict[Any, LabelTable | None] = self._plan.tables if self._plan.kept else {}
        key = position, self._context.criterion.key
        if key not in tables:
            counted = [part for part in parts if part.norm]
            loss_fn: nn.CrossEntropyLoss = self._context.criterion.fn  # type: ignore[assignment]
            together = counted and all(map(_of_classes, counted))
            tables[key] = LabelTable.of(counted, self._names, loss_fn, size) if together else None
        return tables[key]

    def _one_by_one(self, outputs: Any, part: Part, size: int) -> None:
        chosen = outputs if part.rows is None else select(outputs, part.rows, size)
        versions = [t._version for t in tree_leaves(chosen) if isinstance(t, Tensor)]
        loss = self._context.criterion(chosen, part.labels).item() * part.norm
        self._losses[part.view] = self._losses.get(part.view, 0.0) + loss
        for name, metric in self._metrics_for(chosen, part).items():
            value = metric(chosen, copied(part.labels))
            entry = self._metrics.setdefault(name, {}).setdefault(part.view, [0.0, 0.0])
            count = value.numel() if value.ndim else length(part.labels)
            entry[0] += value.double().sum().item() if value.ndim else value.item() * count
            entry[1] += count
        if versions != [t._version for t in tree_leaves(chosen) if isinstance(t, Tensor)]:
            raise ValueError("loss_fn or a metric writes into the outputs, which other views need; let it copy them")

    def _metrics_for(self, outputs: Any, part: Part) -> Mapping[str, Metric]:
        """Those asked for, else the accuracy that belongs to the loss."""
        context = self._context
        if context.metrics is not None:
            return context.metrics
        if not (isinstance(outputs, Tensor) and isinstance(part.labels, Tensor)):
            return {}
        known, shapes = context.found.accuracy, (outputs.shape[1:], part.labels.shape[1:], part.labels.dtype)
        key = context.criterion.key, shapes
        if key not in known:
            known[key] = accuracy_of(context.criterion, outputs, part.labels)
        metric = known[key]
        return {} if metric is None else {"accuracy": metric}


def _added(parts: Sequence[tuple[dict[str, float], Sums]]) -> tuple[dict[str, float], Sums]:
    """The sums of all processes, in their order."""
    losses = dict.fromkeys(parts[0][0], 0.0)
    metrics: Sums = {}
    for own, measured in parts:
        for view, value in own.items():
            losses[view] += value
        for name, by_view in measured.items():
            for view, (value, count) in by_view.items():
                entry = metrics.setdefault(name, {}).setdefault(view, [0.0, 0.0])
                entry[0] += value
                entry[1] += count
    return losses, metrics


def _log_probabilities(outputs: Tensor) -> Tensor:
    """Log-softmax of (samples, classes), as (classes, samples)."""
    if outputs.shape[1] < _FEW:
        return torch.log_softmax(outputs.t().contiguous(), 0)
    return torch.log_softmax(outputs, 1).t()


def _of_classes(part: Part) -> bool:
    return isinstance(part.labels, Tensor) and part.labels.ndim == 1 and part.labels.dtype == torch.int64
