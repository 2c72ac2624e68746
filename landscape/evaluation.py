"""Evaluate an objective at many points at little more than the cost of its forward passes.

Parameters are swapped in once and moved in place from point to point; the losses of all views come from one
log-softmax and one gather a micro-batch, and reach the host once a point.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landscape.batches import select
from landscape.isolation import undisturbed
from landscape.parameters import ParameterLayout

if TYPE_CHECKING:
    from landscape.objective import Objective
    from landscape.views import Part, Plan

_ALIGN = 64  # bytes; kernels are slower on tensors that begin anywhere

Forward = Callable[[Any], Any]
"""Runs the model, as it is at the point, on a micro-batch."""
Prepare = Callable[[Forward], None]
"""Called at every point before it is evaluated, e.g. to recompute BatchNorm statistics."""
Sums = dict[str, dict[str, list[float]]]
"""Sum and count of each metric on each view."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Mean loss and metrics of each view at one point; NaN where a view is empty."""

    loss: dict[str, float]
    metrics: dict[str, dict[str, float]]


def explore(
    objective: Objective,
    directions: Sequence[Tensor],
    run: Callable[[Callable[[Sequence[float]], Evaluation]], None],
    prepare: Prepare | None = None,
) -> None:
    """Call ``run(evaluate)``, where ``evaluate(c)`` gives every view at w + Σ cᵢ·dᵢ, w being the objective's point.

    While ``run`` is active the model is in eval mode and holds other tensors; they are given back on return, also after
    an exception.
    """
    plan = objective._plan()
    point = PackedPoint(objective.layout, objective.weights, directions, objective.memory_format)
    fixed, buffers = dict(objective._constant), objective.buffers()
    saved = [buffer.clone() for buffer in buffers.values()]
    scorer = _Scorer(objective, plan)

    def evaluate(coordinates: Sequence[float]) -> Evaluation:
        with torch.inference_mode():
            point.move(coordinates)
            for buffer, value in zip(buffers.values(), saved, strict=True):  # a forward pass may have written to it
                buffer.copy_(value)
            if prepare is not None:
                prepare(objective._call.forward)
            scorer.reset()
            for position, (batch, parts) in enumerate(plan):
                scorer.add(position, objective._call.forward(batch), parts)
            return scorer.result()

    with undisturbed(objective.model):
        swapped = {f"model.{n}": t for n, t in (*fixed.items(), *point.parameters.items(), *buffers.items())}
        functional_call(_Swapped(objective.model), swapped, (lambda: run(evaluate),))


class _Swapped(nn.Module):
    """Runs a function while the tensors of a model are swapped."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[], None]) -> None:
        run()


class PackedPoint:
    """A point of parameter space as tensors that a model runs on, aligned in memory and moved in place.

    Args:
        layout: of the flat vectors.
        centre: (K,) where all coordinates are 0.
        directions: (K,) each.
        memory_format: of parameters with four dimensions.

    Attributes:
        parameters: by name; the same tensors at every point.

    >>> layout = ParameterLayout(nn.Linear(2, 1))
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
        views = self._views(self._flat)
        self.parameters = {n: t.to(d) for (n, t), d in zip(views.items(), layout.dtypes, strict=True)}
        # Where a parameter has a lesser dtype than the vector, it is a copy, to be made again at every point.
        self._copies = [(self.parameters[n], t) for n, t in views.items() if self.parameters[n] is not t]

    def move(self, coordinates: Sequence[float]) -> None:
        """Go to centre + Σ cᵢ·dᵢ."""
        self._flat.copy_(self._centre)
        for c, direction in zip(coordinates, self._directions, strict=True):
            self._flat.add_(direction, alpha=c)
        for parameter, view in self._copies:
            parameter.copy_(view)

    def _pack(self, vector: Tensor) -> Tensor:
        step = _ALIGN // vector.element_size()
        packed = vector.new_zeros(sum(-(-size // step) * step for size in self._layout.sizes))
        views = self._views(packed)
        for name, size, part in zip(
            self._layout.names, self._layout.shapes, vector.split(self._layout.sizes), strict=True
        ):
            views[name].copy_(part.view(size))
        return packed

    def _views(self, packed: Tensor) -> dict[str, Tensor]:
        step = _ALIGN // packed.element_size()
        found, start = {}, 0
        for name, shape, size in zip(self._layout.names, self._layout.shapes, self._layout.sizes, strict=True):
            piece = packed[start : start + size]
            if self._format == torch.channels_last and len(shape) == 4:
                found[name] = piece.view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
            else:
                found[name] = piece.view(shape)
            start += -(-size // step) * step
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class LabelTable:
    """Everything about a micro-batch's views that does not depend on the outputs.

    Attributes:
        labels: (L, B) distinct label vectors; 0 where no view needs one.
        weights: (L, B) what each counts in the loss, or none for 1.
        columns: (V,) which of them each view takes, or none for one each.
        mask: (V, B) which samples a view has, or none for all.
        views: (V,) places of the views in the objective.
        counts: samples of each view.
    """

    labels: Tensor
    weights: Tensor | None
    columns: Tensor | None
    mask: Tensor | None
    views: Tensor
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
        table, mask = torch.stack([labels for labels, _ in known]), torch.stack(masks)
        return cls(
            labels=table,
            weights=None if loss_fn.weight is None else loss_fn.weight.to(device)[table],
            columns=None if columns == list(range(len(known))) else torch.tensor(columns, device=device),
            mask=None if mask.all() else mask,
            views=torch.tensor([names.index(part.view) for part in parts], device=device),
            counts={part.view: int(mask.sum()) for part, mask in zip(parts, masks, strict=True)},
        )

    def add(self, outputs: Tensor, sums: Tensor) -> None:
        """Add log-likelihood and number of correct predictions to ``sums``, (2, all views) in float64."""
        likelihood = torch.log_softmax(outputs, 1).t().gather(0, self.labels)
        if self.weights is not None:
            likelihood = likelihood * self.weights
        values = torch.stack([likelihood, (outputs.argmax(1) == self.labels).to(likelihood.dtype)])
        if self.columns is not None:
            values = values.index_select(1, self.columns)
        if self.mask is not None:
            values = torch.where(self.mask, values, 0)
        sums.index_add_(1, self.views, values.sum(2, dtype=torch.float64))


class _Scorer:
    """Turns outputs into losses and metrics of all views: together where the loss is plain cross-entropy over classes,
    else by calling loss and metrics view by view."""

    def __init__(self, objective: Objective, plan: Plan) -> None:
        self._objective, self._plan = objective, plan
        self._names = objective.views
        loss_fn = objective.loss_fn
        together = type(loss_fn) is nn.CrossEntropyLoss and not loss_fn.label_smoothing
        self._together = together and objective.own_mean and objective._metrics is None
        self._device = objective.layout.device
        if self._device.type == "mps":  # has no float64
            self._device, self._together = torch.device("cpu"), False
        self.reset()

    def reset(self) -> None:
        self._counts = dict.fromkeys(self._names, 0)
        self._sums = torch.zeros(2, len(self._names), dtype=torch.float64, device=self._device)
        self._losses = dict.fromkeys(self._names, 0.0)
        self._metrics: Sums = {}

    def add(self, position: int, outputs: Any, parts: Sequence[Part]) -> None:
        parts = [part for part in parts if part.norm]
        if self._together and isinstance(outputs, Tensor) and outputs.ndim == 2 and all(map(_of_classes, parts)):
            if parts:
                table = self._table(position, parts, len(outputs))
                table.add(outputs, self._sums)
                for view, count in table.counts.items():
                    self._counts[view] += count
            return
        for part in parts:
            self._one_by_one(outputs if part.rows is None else select(outputs, part.rows), part)

    def result(self) -> Evaluation:
        norms, nan = self._plan.norms, float("nan")
        losses, metrics = self._here()
        if self._objective.ranks is not None:
            losses, metrics = _added(self._objective.ranks.gather((losses, metrics)))
        return Evaluation(
            {v: losses[v] / norms[v] if norms[v] else nan for v in self._names},
            {
                name: {v: by_view[v][0] / by_view[v][1] if by_view.get(v, [0, 0])[1] else nan for v in self._names}
                for name, by_view in metrics.items()
            },
        )

    def _here(self) -> tuple[dict[str, float], Sums]:
        """Weighted losses of every view, and sum and count of its metrics, over the samples of this process."""
        likelihood, correct = (dict(zip(self._names, row, strict=True)) for row in self._sums.tolist())
        metrics = dict(self._metrics)
        if any(self._counts.values()):
            accuracy = {v: [correct[v], float(self._counts[v])] for v in self._names}
            for view, (value, count) in metrics.get("accuracy", {}).items():
                accuracy[view] = [accuracy[view][0] + value, accuracy[view][1] + count]
            metrics["accuracy"] = accuracy
        return {v: self._losses[v] - likelihood[v] for v in self._names}, metrics

    def _table(self, position: int, parts: Sequence[Part], size: int) -> LabelTable:
        table = self._plan.tables.get(position)
        if table is None:
            table = LabelTable.of(parts, self._names, self._objective.loss_fn, size)  # type: ignore[arg-type]
            if self._plan.kept:
                self._plan.tables[position] = table
        return table

    def _one_by_one(self, outputs: Any, part: Part) -> None:
        self._losses[part.view] += self._objective.loss_fn(outputs, part.labels).item() * part.norm
        for name, metric in self._objective._metrics_for(outputs, part.labels).items():
            value = metric(outputs, part.labels)
            entry = self._metrics.setdefault(name, {}).setdefault(part.view, [0.0, 0.0])
            count = value.numel() if value.ndim else _length(part.labels)
            entry[0] += value.double().sum().item() if value.ndim else value.item() * count
            entry[1] += count


def _added(parts: Sequence[tuple[dict[str, float], Sums]]) -> tuple[dict[str, float], Sums]:
    """The sums of all processes, in their order."""
    losses, metrics = dict.fromkeys(parts[0][0], 0.0), cast(Sums, {})
    for own, measured in parts:
        for view, value in own.items():
            losses[view] += value
        for name, by_view in measured.items():
            for view, (value, count) in by_view.items():
                entry = metrics.setdefault(name, {}).setdefault(view, [0.0, 0.0])
                entry[0] += value
                entry[1] += count
    return losses, metrics


def _of_classes(part: Part) -> bool:
    return isinstance(part.labels, Tensor) and part.labels.ndim == 1 and part.labels.dtype == torch.int64


def _length(labels: Any) -> int:
    return len(labels) if isinstance(labels, Tensor) else len(next(iter(labels.values())))
