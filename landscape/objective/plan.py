"""The plan that serves many views from one forward pass: micro-batches, and each view's rows and labels of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from landscape.objective.parameters import ParameterLayout
from landscape.objective.sources import Source, select, to_model
from landscape.objective.views import View

if TYPE_CHECKING:
    from landscape.ranks import Ranks


@dataclasses.dataclass(frozen=True)
class Part:
    """One view's share of one micro-batch: which rows, their labels, how much they count."""

    view: str
    rows: Tensor | None
    labels: Any
    norm: float


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """Views of sources, and how their micro-batches are handed to a model.

    Attributes:
        sources: by name.
        views: by name.
        layout: of the model's parameters, whose device and dtype the batches get.
        normalizer: ``labels -> weight`` of a batch in the mean loss.
        memory_format: of images.
        ranks: processes that share the data.
        keeps_precision: names of the sources whose inputs keep a precision higher than the parameters'.
        checked: what model and loss have been checked for on this selection.
    """

    sources: Mapping[str, Source]
    views: Mapping[str, View]
    layout: ParameterLayout
    normalizer: Callable[[Any], float]
    memory_format: torch.memory_format = torch.contiguous_format
    ranks: Ranks | None = None
    keeps_precision: frozenset[str] = frozenset()
    checked: set[Any] = dataclasses.field(default_factory=set)
    _parts: dict[Any, Selection] = dataclasses.field(default_factory=dict, repr=False)

    def only(self, *names: str) -> Selection:
        """Some of the views; the same object for the same names, so that they are planned and checked once."""
        if names == tuple(self.views):
            return self
        if names not in self._parts:
            views = {name: self.views[name] for name in names}
            self._parts[names] = self.replace(views=views)
        return self._parts[names]

    def keeping_precision(self, sources: frozenset[str]) -> Selection:
        """The same with the inputs of some sources in a precision higher than the parameters'."""
        if sources == self.keeps_precision:
            return self
        if sources not in self._parts:
            self._parts[sources] = self.replace(keeps_precision=sources)
        return self._parts[sources]

    def replace(self, **changes: Any) -> Selection:
        """Another selection, unplanned and unchecked."""
        return dataclasses.replace(self, checked=set(), _parts={}, **changes)

    @cached_property
    def plan(self) -> Plan:
        """The micro-batches."""
        return Plan(self)


class Plan:
    """Micro-batches of some views: what to run forward once, and which rows and labels each view takes from it.

    Where processes share the data, the micro-batches are those of this process, cut from a stretch of the samples that
    any of the views has.

    Attributes:
        norms: what each view's samples count in its mean loss, on all processes together.
        everywhere: whether every process has samples of a view that count.
        num_batches: on this process.
        tables: what an evaluation keeps of each micro-batch.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._kept: list[tuple[Any, list[Part]]] | None = None
        self.tables: dict[Any, Any] = {}
        self.norms = dict.fromkeys(selection.views, 0.0)
        self.num_batches = 0
        cached = all(selection.sources[view.source].cached for view in selection.views.values())
        batches = []
        for batch, parts in self._build():
            self.num_batches += 1
            for part in parts:
                self.norms[part.view] += part.norm
            if cached:
                batches.append((batch, parts))
        if cached:
            self._kept = batches
        found = [self.norms] if selection.ranks is None else selection.ranks.gather(self.norms)
        self.norms = {view: sum(norms[view] for norms in found) for view in self.norms}
        self.everywhere = {view: all(norms[view] for norms in found) for view in self.norms}

    @property
    def kept(self) -> bool:
        """True if every pass hands out the same micro-batches, kept in memory."""
        return self._kept is not None

    def __iter__(self) -> Iterator[tuple[Any, list[Part]]]:
        return iter(self._kept) if self._kept is not None else self._build()

    def _build(self) -> Iterator[tuple[Any, list[Part]]]:
        chosen = self._selection
        layout = chosen.layout
        for name, source in chosen.sources.items():
            views = [v for v in chosen.views.values() if v.source == name]
            if not views:
                continue
            keeps = name in chosen.keeps_precision
            masks = []
            for view in views:
                mask = torch.ones(source.size, dtype=torch.bool)
                if view.indices is not None:
                    mask.zero_()[view.indices.cpu()] = True
                masks.append(mask)
            union = torch.stack(masks).any(0)
            if chosen.ranks is not None:
                positions = union.nonzero().squeeze(1)
                union = torch.zeros_like(union)
                union[positions[chosen.ranks.share_of(len(positions))]] = True
            for positions, batch, own_labels in source.batches(None if union.all() else union):
                batch = to_model(batch, layout, chosen.memory_format, keeps_precision=keeps)
                parts = []
                for view, mask in zip(views, masks, strict=True):
                    inside = mask[positions]
                    if not inside.any():
                        continue
                    rows = None if inside.all() else inside.nonzero().squeeze(1)
                    labels = own_labels if view.labels is None else view.labels.cpu()[positions]
                    labels = labels if rows is None else select(labels, rows, len(positions))
                    labels = to_model(labels, layout, keeps_precision=keeps)
                    rows = None if rows is None else rows.to(layout.device)
                    parts.append(Part(view.name, rows, labels, chosen.normalizer(labels)))
                yield batch, parts
