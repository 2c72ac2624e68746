"""The loss of every single sample, at any point of parameter space."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from landscape.objective.checks import checked
from landscape.objective.losses import check_per_sample, per_sample_of, sample_weights
from landscape.objective.micro_batch import BatchLoss
from landscape.objective.objective import EmptyViewError, Objective
from landscape.objective.sources import copied, length


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """The samples of an objective's single view, in the order of its source.

    Attributes:
        positions: (n,) in the source.
        weights: (n,) float64, what each counts in the mean loss, summing to 1; 0 for samples that the loss ignores.
    """

    positions: Tensor
    weights: Tensor


def samples_of(objective: Objective, needed_by: str) -> Samples:
    """The samples of the single view, where the loss is a mean over them and knows outputs and labels.

    Args:
        objective: with a single view.
        needed_by: what asks, for the message.

    Raises:
        ValueError: there are several views, the loss is computed inside the model, or its mean is not one over samples.
        EmptyViewError: the view has no samples that count.
    """
    if len(objective.views) != 1:
        raise ValueError(f"the objective has several views ({', '.join(objective.views)}); choose one with .view(name)")
    if objective.loss_is_inside:
        raise ValueError(
            f"the loss is computed inside the model, but {needed_by} needs it as a function of outputs and labels; let "
            "forward= return logits, and give loss_fn= (logits, labels)"
        )
    objective = objective.over(None)
    (name,) = objective.views
    view = objective.view_of(name)
    size = objective.source_of(name).size
    positions = torch.arange(size) if view.indices is None else view.indices.cpu().sort().values
    context = checked(objective.context)
    weights = [
        sample_weights(context.criterion.normalizer, part.labels) * part.norm
        if part.norm
        else torch.zeros(length(part.labels), dtype=torch.float64)
        for _, parts in context.selection.plan
        for part in parts
    ]
    if not weights or not float(torch.cat(weights).sum()):
        raise EmptyViewError(f"view {name!r} has no samples that count, so none has a loss")
    found = torch.cat(weights)
    return Samples(positions, found / found.sum())


def by_sample(objective: Objective, of_batch: Callable[[BatchLoss], Tensor], samples: Samples, rows: int) -> Tensor:
    """Something of every sample, (rows, n) in float64, from what ``of_batch`` gives for a micro-batch, (rows, b).

    Samples in micro-batches that the loss ignores as a whole have NaN, and so have ignored ones in others.
    """
    objective = objective.over(None)
    parts = checked(objective.context).selection.plan
    lengths = [(length(part.labels), bool(part.norm)) for _, parts in parts for part in parts]
    found = torch.full((rows, len(samples.positions)), float("nan"), dtype=torch.float64)
    starts = [sum(size for size, _ in lengths[:i]) for i, (_, counts) in enumerate(lengths) if counts]
    with objective.micro_batches() as batches:
        for start, batch in zip(starts, batches, strict=True):
            values = of_batch(batch).detach().double().cpu()
            found[:, start : start + values.shape[1]] = values
    found[:, samples.weights == 0] = float("nan")
    return found


def losses_of(batch: BatchLoss) -> Tensor:
    """The loss of every sample of a micro-batch, (b,), connected to its parameters; 0 for samples that it ignores."""
    return per_sample_of(batch.criterion.fn)(batch.outputs, copied(batch.labels))


def sample_losses(objective: Objective, samples: Samples) -> Tensor:
    """The loss of every sample at the objective's point, (n,) in float64; NaN for samples that the loss ignores.

    Raises:
        ValueError: they cannot be derived from the loss of a batch.

    >>> x = torch.tensor([[1.0], [2.0], [3.0]])
    >>> obj = Objective(torch.nn.Linear(1, 1, bias=False), torch.nn.MSELoss(), (x, torch.zeros(3, 1))).at([1.0])
    >>> sample_losses(obj, samples_of(obj, "this")).tolist()
    [1.0, 4.0, 9.0]
    """

    @torch.no_grad()
    def of_batch(batch: BatchLoss) -> Tensor:
        weights = sample_weights(batch.criterion.normalizer, batch.labels).to(batch.loss().device)
        check_per_sample(per_sample_of(batch.criterion.fn), batch.outputs, batch.labels, weights, batch.loss())
        return losses_of(batch)[None]

    return by_sample(objective, of_batch, samples, 1)[0]
