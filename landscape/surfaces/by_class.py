"""Views of single classes, so that losses can be had per class from the same forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.objective.objective import Objective
from landscape.objective.views import View


def split_by_class(objective: Objective) -> tuple[Objective, list[int]]:
    """The objective with a view more for each view and class, and the classes.

    The added views follow the objective's own, by view and class; their labels are those of the view, so that
    ``true_labels`` is split by true and ``mixed`` by observed class.

    Raises:
        ValueError: a view's labels are not class indices.

    >>> x, y = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 1])
    >>> obj, classes = split_by_class(Objective(torch.nn.Linear(2, 2), torch.nn.CrossEntropyLoss(), (x, y)))
    >>> obj.views, classes, obj.num_samples("data/1")
    (('data', 'data/0', 'data/1'), [0, 1], 4)
    """
    own = {name: objective.view_of(name) for name in objective.views}
    labels = {name: _labels(objective, view) for name, view in own.items()}
    ignore = getattr(objective.loss_fn, "ignore_index", None)
    seen = torch.cat([values.unique() for values in labels.values()]).unique().tolist()
    classes = [c for c in seen if c != ignore]
    added = []
    for name, view in own.items():
        inside = torch.ones(len(labels[name]), dtype=torch.bool)
        if view.indices is not None:
            inside.zero_()[view.indices.cpu()] = True
        for c in classes:
            rows = (inside & (labels[name] == c)).nonzero().squeeze(1)
            added.append(View(f"{name}/{c}", view.source, rows, view.labels))
    return objective.with_views([*own.values(), *added]), classes


def _labels(objective: Objective, view: View) -> Tensor:
    if view.labels is not None:
        labels = view.labels.cpu()
    else:
        parts = [own for _, _, own in objective.source_of(view.name).batches(None)]
        labels = torch.cat(parts).cpu() if isinstance(parts[0], Tensor) else torch.zeros(0)
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"view {view.name!r} has no class labels, so there are no losses by class")
    return labels
