"""What is asked of a model and a loss, once for each source of data, before anything is measured with them.

Each question is one whose wrong answer would leave every later number plausible and meaningless.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from landscape.objective.isolation import holding
from landscape.objective.losses import length
from landscape.objective.sources import copied, select

if TYPE_CHECKING:
    from landscape.objective.objective import Objective
    from landscape.objective.plan import Part, Plan
    from landscape.objective.views import View


class NotDeterministicError(RuntimeError):
    """Two evaluations at one point differ, so derivatives of the objective have no meaning."""


def try_all_out(objective: Objective, plan: Plan) -> None:
    """Try model and loss out, once for each source; refuse views that a loss inside the model cannot serve.

    Raises:
        ValueError: see :func:`try_out` and :func:`check_inside`.
        NotDeterministicError: see :func:`try_out`.
    """
    views, probed = objective._views.values(), objective._probed
    unknown = {view.source for view in views} - probed.keys()
    for batch, parts in plan if unknown else ():
        source = objective._views[parts[0].view].source
        if source in unknown:
            unknown.remove(source)
            probed[source] = try_out(objective, batch, parts[0])
        if not unknown:
            break
    if objective.ranks is not None:  # one without samples of a source learns what the others found
        for found in objective.ranks.gather(probed):
            probed |= found
    for source in (source for source, inside in probed.items() if inside):
        check_inside([view for view in views if view.source == source])


def try_out(objective: Objective, batch: Any, part: Part) -> bool:
    """Refuse what would make every later number meaningless; tell whether the loss is computed inside the model.

    Raises:
        ValueError: the model returns something whose rows cannot be picked, or the loss is not one number, or not a
            mean over samples.
        NotDeterministicError: two evaluations of the batch differ.
    """
    tolerance = torch.finfo(objective.layout.dtype).eps ** 0.5
    tensors = {**objective._fixed(), **objective.layout.unflatten(objective.weights)}

    def run(inputs: Any) -> Any:
        return objective._call(inputs)

    with holding(objective.model, tensors), torch.no_grad():
        losses = []
        for _ in range(2):
            outputs = run(batch)
            _check_outputs(outputs)
            chosen = outputs if part.rows is None else select(outputs, part.rows)
            losses.append(objective.loss_fn(chosen, copied(part.labels)))
        if losses[0].ndim:
            raise ValueError(
                f"loss_fn returned shape {tuple(losses[0].shape)}, expected one number: use reduction='mean'"
            )
        first, second = (value.item() for value in losses)
        if not _close(first, second, tolerance):
            raise NotDeterministicError(
                f"two evaluations of one batch at one point differ ({first:.9g} and {second:.9g}); "
                "look for dropout that ignores eval mode, random layers or state changed in forward"
            )
        inside = _is_inside(objective.loss_fn, chosen, part.labels)
        if not inside:
            _check_mean(objective, part, first, tolerance, lambda rows: select(chosen, rows))
        elif part.rows is None:
            _check_mean(objective, part, first, tolerance, lambda rows: run(select(batch, rows)))
    return inside


def check_inside(views: Sequence[View]) -> None:
    """Refuse views that a loss computed inside the model cannot serve: it has only the batch's own labels and rows.

    Raises:
        ValueError: a view has labels of its own, or several views of one source select samples.
    """
    advice = (
        "the loss is computed inside the model, from the batch's own labels, so this view would get another one's "
        "loss; let forward= return logits, and give loss_fn= (logits, labels)"
    )
    for view in views:
        if view.labels is not None:
            raise ValueError(f"view {view.name!r} has labels of its own; {advice}")
        if view.indices is not None and len(views) > 1:
            raise ValueError(f"view {view.name!r} shares its batches with other views; {advice}")


def _check_outputs(outputs: Any) -> None:
    for leaf in tree_leaves(outputs):
        if not (leaf is None or isinstance(leaf, Tensor | int | float | str)):
            kind = type(leaf).__name__
            raise ValueError(
                f"the model returns a {kind}, whose rows cannot be picked; let forward= return tensors, tuples or "
                "plain dicts, e.g. forward=lambda model, batch: model(…).logits"
            )


def _is_inside(loss_fn: Callable[[Any, Any], Tensor], outputs: Any, labels: Any) -> bool:
    """Whether the loss follows from outputs without a sample dimension alone, such as a loss among them."""
    leaves: list[Tensor] = []

    def leaf(t: Any) -> Any:
        if not (isinstance(t, Tensor) and t.is_floating_point()):
            return t
        leaves.append(t.detach().requires_grad_())
        return leaves[-1]

    with torch.enable_grad():
        loss = loss_fn(tree_map(leaf, outputs), copied(labels))
        if not loss.requires_grad:
            return False
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    used = [t.ndim for t, g in zip(leaves, grads, strict=True) if g is not None]
    return bool(used) and not any(used)


def _check_mean(
    objective: Objective, part: Part, whole: float, tolerance: float, outputs_of: Callable[[Tensor], Any]
) -> None:
    count = length(part.labels)
    if count < 2:
        return
    device = objective.layout.device
    total, norm = 0.0, 0.0
    for rows in (torch.arange(count // 2, device=device), torch.arange(count // 2, count, device=device)):
        labels = select(part.labels, rows)
        weight = objective._normalizer(labels)
        total += objective.loss_fn(outputs_of(rows), labels).item() * weight if weight else 0.0
        norm += weight
    if norm and not _close(total / norm, whole, tolerance):
        raise ValueError(
            f"loss_fn is not a mean over samples: a batch of {count} has loss {whole:.6g}, its halves average to "
            f"{total / norm:.6g}; use reduction='mean', or give normalizer= (labels -> weight of the batch)"
        )


def _close(a: float, b: float, tolerance: float) -> bool:
    if a == b or a != a or b != b:
        return True
    return abs(a - b) <= tolerance * max(abs(a), abs(b), tolerance)
