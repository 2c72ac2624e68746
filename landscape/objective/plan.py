"""Which micro-batches serve some views, and which rows and labels each view takes from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
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


class Plan:
    """Micro-batches of some views: what to run forward once, and which rows and labels each view takes from it.

    Where processes share the data, the micro-batches are those of this process, cut from a stretch of the samples that
    any of the views has.

    Attributes:
        norms: what each view's samples count in its mean loss, on all processes together.
        everywhere: whether every process has samples of a view that count.
        num_batches: on this process.
    """

    def __init__(
        self,
        views: list[View],
        sources: Mapping[str, Source],
        layout: ParameterLayout,
        normalizer: Callable[[Any], float],
        memory_format: torch.memory_format = torch.contiguous_format,
        ranks: Ranks | None = None,
    ) -> None:
        self._ranks = ranks
        self._views, self._sources, self._layout, self._normalizer = views, sources, layout, normalizer
        self._format = memory_format
        self.tables: dict[int, Any] = {}  # what an evaluation keeps of each micro-batch
        self._kept: list[tuple[Any, list[Part]]] | None = None
        self.norms = dict.fromkeys((v.name for v in views), 0.0)
        self.num_batches = 0
        batches = []
        for batch, parts in self._build():
            self.num_batches += 1
            for part in parts:
                self.norms[part.view] += part.norm
            if self._cached:
                batches.append((batch, parts))
        if self._cached:
            self._kept = batches
        found = [self.norms] if ranks is None else ranks.gather(self.norms)
        self.norms = {view: sum(norms[view] for norms in found) for view in self.norms}
        self.everywhere = {view: all(norms[view] for norms in found) for view in self.norms}

    @property
    def kept(self) -> bool:
        """Whether every pass hands out the same micro-batches, kept in memory."""
        return self._kept is not None

    @property
    def _cached(self) -> bool:
        return all(self._sources[v.source].cached for v in self._views)

    def __iter__(self) -> Iterator[tuple[Any, list[Part]]]:
        return iter(self._kept) if self._kept is not None else self._build()

    def _build(self) -> Iterator[tuple[Any, list[Part]]]:
        for name, source in self._sources.items():
            views = [v for v in self._views if v.source == name]
            if not views:
                continue
            masks = []
            for view in views:
                mask = torch.ones(source.size, dtype=torch.bool)
                if view.indices is not None:
                    mask.zero_()[view.indices.cpu()] = True
                masks.append(mask)
            union = torch.stack(masks).any(0)
            if self._ranks is not None:
                positions = union.nonzero().squeeze(1)
                union = torch.zeros_like(union)
                union[positions[self._ranks.share_of(len(positions))]] = True
            for positions, batch, own_labels in source.batches(None if union.all() else union):
                batch = to_model(batch, self._layout, self._format)
                parts = []
                for view, mask in zip(views, masks, strict=True):
                    inside = mask[positions]
                    if not inside.any():
                        continue
                    rows = None if inside.all() else inside.nonzero().squeeze(1)
                    labels = own_labels if view.labels is None else view.labels.cpu()[positions]
                    labels = to_model(labels if rows is None else select(labels, rows), self._layout)
                    rows = None if rows is None else rows.to(self._layout.device)
                    parts.append(Part(view.name, rows, labels, self._normalizer(labels)))
                yield batch, parts
