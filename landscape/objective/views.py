"""Views: selections of samples with their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from landscape.objective.sources import Noted, Source


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A named selection of samples with their labels.

    Views of one source share its forward pass, since outputs do not depend on labels.

    Attributes:
        name: what results are filed under.
        source: which of the objective's data sources the inputs come from.
        indices: (n,) sample positions in the source, a tensor, array or list; all of them if none.
        labels: (N,) labels for the *whole* source, replacing its own, a tensor, array or list; its own if none.
    """

    name: str
    source: str = "data"
    indices: Tensor | None = None
    labels: Tensor | None = None
    _noted: Noted = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("indices", "labels"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Tensor):  # a list, a range or an array
                object.__setattr__(self, name, torch.as_tensor(np.asarray(value)))
        object.__setattr__(self, "_noted", Noted([self.indices, self.labels], [self.indices, self.labels]))

    def check_unchanged(self) -> None:
        """Refuse indices or labels that were written to since the view was made.

        Raises:
            ValueError: they were.
        """
        self._noted.check()


def by_name(views: Sequence[View], sources: Mapping[str, Source]) -> dict[str, View]:
    """Views by their names, each of which fits its source.

    Raises:
        ValueError: two have one name, a source is unknown, or indices or labels do not fit it.
    """
    names = [view.name for view in views]
    for view in views:
        if names.count(view.name) > 1:
            raise ValueError(f"several views are named {view.name!r}; give each a name of its own")
        check_view(view, sources)
    return dict(zip(names, views, strict=True))


def check_view(view: View, sources: Mapping[str, Source]) -> None:
    """Refuse a view that does not fit its source.

    Raises:
        ValueError: the source is unknown, or indices or labels do not fit it.
    """
    if view.source not in sources:
        raise ValueError(f"view {view.name!r} takes source {view.source!r}; the data have {', '.join(sources)}")
    size = sources[view.source].size
    if view.indices is not None and len(view.indices):
        whole = not (view.indices.dtype == torch.bool or view.indices.is_floating_point() or view.indices.is_complex())
        if not whole or view.indices.ndim != 1:
            raise ValueError(
                f"view {view.name!r}: indices must be a 1-D tensor of sample positions, whole numbers and not a mask"
            )
        low, high = int(view.indices.min()), int(view.indices.max())
        if low < 0 or high >= size:
            raise ValueError(f"view {view.name!r} has indices {low}…{high}, expected 0…{size - 1}")
        if len(view.indices.unique()) != len(view.indices):
            raise ValueError(f"view {view.name!r} names a sample twice; indices must be distinct")
    if view.labels is not None and len(view.labels) != size:
        raise ValueError(f"view {view.name!r} has {len(view.labels)} labels, expected one for each of {size} samples")
