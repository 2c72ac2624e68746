"""Checks of model, loss and data, made once before anything is measured with them.

Each asks a question whose wrong answer would leave every later number plausible and meaningless: whether two
evaluations agree, whether the loss follows the point, whether samples of a batch have to do with each other, and what
the loss is a mean over, which is established on all batches.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map

from landscape.objective.context import Context
from landscape.objective.isolation import exclusive, holding, undisturbed
from landscape.objective.losses import Identity, MeanLoss
from landscape.objective.mean_check import check_mean, close, is_known_mean, shuffled
from landscape.objective.plan import Part, Plan
from landscape.objective.sources import is_other, labels_of, length, select, to_model
from landscape.objective.views import View

Checks = Literal["full", "first", "off"]
CHECKS: tuple[Checks, ...] = get_args(Checks)
_FEW = 8  # samples that the graph of a loss is looked at on
_TOGETHER = (
    "let forward= run all samples together and pick those of the batch, with their numbers as data: "
    "forward=lambda model, batch: model(x)[batch[0]]"
)
_FIRST = 2, 3  # of the first micro-batch one in so many samples is run without the others, and the last ones alone;
_FURTHER = 8, 1  # of others so many,
_BATCHES = 8  # of so many, evenly spaced
_NEEDS_GRADIENTS = ("does not require grad", "to not have been used in the graph")
_NEEDS_SEVERAL = "more than 1 value per channel"  # what BatchNorm says of one sample
_COARSE = torch.finfo(torch.float32).eps ** 0.5


class NotDeterministicError(RuntimeError):
    """Two evaluations at one point differ, so derivatives of the objective have no meaning."""


def callable_model(model: Any) -> nn.Module:
    """The module that can be measured: a compiled one's original.

    Raises:
        TypeError: it is no module.
        ValueError: its tensors cannot be exchanged, or have no shape yet.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    original = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if any(isinstance(module, torch.jit.ScriptModule) for module in original.modules()):
        raise ValueError("the model is scripted, so its tensors cannot be exchanged; pass the module it was made from")
    for name, tensor in (*original.named_parameters(), *original.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"parameter {name!r} has no shape yet; run the model on one batch first")
        if tensor.is_meta:
            raise ValueError(f"parameter {name!r} is on the meta device, so it has no numbers; load the weights first")
    return original


def checked(context: Context) -> Context:
    """The context, when model, loss and data have been checked on its selection, once for all that this depends on.

    Raises:
        ValueError: the model returns something whose rows cannot be picked, or reads the batch as a whole; the loss is
            not one number, does not follow the point, is no mean over samples, or cannot serve the views.
        NotDeterministicError: two evaluations of a batch differ.
    """
    context = _with_gradients(context)
    plain = context
    if context.call.precision is not None:
        plain = dataclasses.replace(context, call=dataclasses.replace(context.call, precision=None))
    names = {view.source for view in context.selection.views.values()}
    wide = frozenset(name for name in names if _keeps_precision(plain, name))
    selection = context.selection.keeping_precision(wide)
    key = plain.key, context.checks
    if key not in selection.checked:
        with undisturbed(context.model):
            _check(dataclasses.replace(plain, selection=selection), selection.plan)
        selection.checked.add(key)
    if selection is not context.selection:
        context = dataclasses.replace(context, selection=selection)
    return _with_gradients(context)


def _with_gradients(context: Context) -> Context:
    """The context with gradients on where the model turned out to need them."""
    by = context.found.differentiates.get(context.call.key, "")
    if context.call.differentiates == by:
        return context
    return dataclasses.replace(context, call=dataclasses.replace(context.call, differentiates=by))


def is_inside(context: Context) -> bool:
    """Tell whether the loss is computed inside the model on any source of a checked context."""
    names = {view.source for view in context.selection.views.values()}
    return any(context.found.inside.get(_source_key(context, name), False) for name in names)


def _source_key(context: Context, source: str) -> Any:
    model, forward, _ = context.call.key
    return model, forward, context.criterion.key, source


def _keeps_precision(context: Context, name: str) -> bool:
    """Tell whether the model takes inputs of a source as they are, though their dtype is not the parameters'."""
    source, layout = context.selection.sources[name], context.selection.layout
    key = context.call.key, Identity(source), layout.dtype
    if key not in context.found.wide:
        batch = next((piece for _, piece, _ in source.batched(1).batches(None)), None)
        context.found.wide[key] = is_other(batch, layout) and _runs(context, batch)
    return context.found.wide[key]


def _runs(context: Context, batch: Any) -> bool:
    with undisturbed(context.model), holding(context.model, context.tensors()), torch.no_grad():
        try:
            outputs = context.call(to_model(batch, context.selection.layout, keeps_precision=True))
            context.criterion(outputs, to_model(labels_of(batch), context.selection.layout, keeps_precision=True))
        except (RuntimeError, TypeError, ValueError):  # that tensors of two types do not go together
            return False
    return True


def _check(context: Context, plan: Plan) -> None:
    views, inside, examples = context.selection.views, context.found.inside, dict[str, Any]()
    names = {view.source for view in views.values()}
    unchecked = context.checks == "off"  # then each source, model and loss are asked for their form alone, and once
    unknown = {name for name in names if not (unchecked and _source_key(context, name) in inside)}
    asks_mean = not (unchecked or is_known_mean(context.criterion))
    own = _own_parameters(context.model)
    held = holding(context.model, context.tensors()) if unknown or asks_mean else nullcontext()
    with held, torch.no_grad():
        if unknown:
            context = _check_sources(context, plan, own, unknown, examples)
            if context.checks == "full" and plan.kept:
                _check_further_batches(context, plan)
        if context.selection.ranks is not None:  # one without samples of a source learns what the others found
            found = {name: inside.get(_source_key(context, name)) for name in names}
            for other in context.selection.ranks.gather(found):
                inside |= {_source_key(context, name): value for name, value in other.items() if value is not None}
        for name in names:
            if inside.get(_source_key(context, name), False):
                _check_inside([view for view in views.values() if view.source == name])
        for view in views.values() if asks_mean else ():
            inside_model = inside.get(_source_key(context, view.source), False)
            check_mean(context, view, plan, examples.get(view.source), inside_model)


def _check_sources(
    context: Context, plan: Plan, own: dict[int, str], unknown: set[str], examples: dict[str, Any]
) -> Context:
    """Check model and loss on the first micro-batch of each unknown source, and keep its outputs as an example.

    Gives the context, with gradients on where the model turned out to need them.
    """
    for batch, parts in plan:
        name = context.selection.views[parts[0].view].source
        part = next((p for p in parts if p.norm), None)  # a loss that ignores all samples tells nothing
        if name in unknown and part is not None:
            unknown.remove(name)
            context, outputs = _trying_gradients(context, batch)
            examples[name] = outputs
            _check_source(context, batch, outputs, part, own, _source_key(context, name))
        if not unknown:
            break
    return context


def _check_further_batches(context: Context, plan: Plan) -> None:
    """Refuse a model whose samples are apart in a source's first micro-batch and not in others, as a limit makes it."""
    chosen = set(torch.linspace(0, plan.num_batches - 1, _BATCHES).round().long().tolist())
    for index, (batch, parts) in enumerate(plan):
        part = next((p for p in parts if p.norm), None)
        key = _source_key(context, context.selection.views[parts[0].view].source)
        if index == 0 or index not in chosen or part is None or context.found.inside.get(key, True):
            continue
        count, outputs = length(labels_of(batch)), context.call(batch)
        used = partial(_used_of, context.criterion, outputs, part, count)
        _check_that_samples_are_apart(context, batch, outputs, count, used, _FURTHER)


def _trying_gradients(context: Context, batch: Any) -> tuple[Context, Any]:
    """The context with gradients on, noted for all others, where the model raises without; the batch's outputs."""
    for more in ("inputs", "parameters", ""):
        try:
            return context, context.call(batch)
        except ValueError as error:
            if _NEEDS_SEVERAL in str(error):
                raise ValueError(
                    f"a layer takes its statistics from the batch, of one sample here; {_TOGETHER}"
                ) from error
            raise
        except RuntimeError as error:
            if not any(words in str(error) for words in _NEEDS_GRADIENTS) or not more:
                raise
            for key in (context.call.key, dataclasses.replace(context.call, precision=torch.bfloat16).key):
                context.found.differentiates[key] = more
            context = _with_gradients(context)
    raise AssertionError("the last try returns or raises")


def _check_source(context: Context, batch: Any, outputs: Any, part: Part, own: dict[int, str], key: Any) -> None:
    """Check model and loss on a source's first micro-batch, whose outputs are given."""
    count = length(labels_of(batch))
    chosen = outputs if part.rows is None else select(outputs, part.rows, count)
    loss = context.criterion(chosen, part.labels)
    _check_one_number(loss)
    used = _used(context.criterion, chosen, part.labels)
    context.found.inside[key] = bool(used) and not any(leaf.ndim for leaf in used.values())
    if not context.found.inside[key]:
        _check_outputs(outputs, count)
    if context.checks == "off":
        return
    again = context.call(batch)
    repeated = context.criterion(again if part.rows is None else select(again, part.rows, count), part.labels)
    first, second = float(loss), float(repeated)
    same = close(first, second, torch.finfo(loss.dtype).eps ** 0.5 * max(abs(first), abs(second)))
    if not same or _differ(outputs, again):
        raise NotDeterministicError(
            f"two evaluations of one batch at one point differ (losses {first:.9g} and {second:.9g}); "
            "look for dropout that ignores eval mode, random layers or state kept outside the model"
        )
    places = () if context.found.inside[key] else tuple(used)
    _check_that_samples_are_apart(context, batch, outputs, count, lambda: places, _FIRST)
    _check_that_loss_follows_the_point(context, batch, part, count, own)


def _differ(outputs: Any, others: Any) -> bool:
    """Tell whether outputs that should be the same are not, by more than the rounding of float32 layers."""
    for a, b in zip(tree_leaves(outputs), tree_leaves(others), strict=False):
        if isinstance(a, Tensor) and a.is_floating_point() and a.numel() and a.shape == b.shape:
            tolerance = max(_COARSE, torch.finfo(a.dtype).eps ** 0.5) * float(a.abs().max())
            if float((a - b).abs().max()) > tolerance:
                return True
    return False


def _check_outputs(outputs: Any, count: int) -> None:
    """Refuse outputs without a tensor of rows; other objects beside one are left as they are."""
    leaves = tree_leaves(outputs)
    if any(isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == count for leaf in leaves):
        return
    for leaf in leaves:
        if not (leaf is None or isinstance(leaf, Tensor | int | float | str)):
            kind = type(leaf).__name__
            raise ValueError(
                f"the model returns a {kind}, whose rows cannot be picked; let forward= return tensors, tuples or "
                "plain dicts, e.g. forward=lambda model, batch: model(…).logits"
            )


def _check_one_number(loss: Any) -> None:
    if not isinstance(loss, Tensor):
        raise ValueError(f"loss_fn returned a {type(loss).__name__}, expected a tensor that holds one number")
    if loss.ndim:
        raise ValueError(f"loss_fn returned shape {tuple(loss.shape)}, expected one number: use reduction='mean'")


def _used(criterion: MeanLoss, outputs: Any, labels: Any) -> dict[int, Tensor]:
    """The outputs that the loss follows from, by their place among all; if none has dimensions, it is one of them."""
    leaves: dict[int, Tensor] = {}
    places = itertools.count()

    def leaf(t: Any) -> Any:
        place = next(places)
        if not (isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())):
            return t
        leaves[place] = t.detach().requires_grad_()
        return leaves[place]

    with torch.enable_grad():
        loss = criterion(tree_map(leaf, outputs), labels)
        if not loss.requires_grad:
            return {}
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {place: t for (place, t), g in zip(leaves.items(), grads, strict=True) if g is not None}


def _used_of(criterion: MeanLoss, outputs: Any, part: Part, count: int) -> tuple[int, ...]:
    """Places of the outputs that the loss of a view's part of a batch follows from."""
    return tuple(_used(criterion, outputs if part.rows is None else select(outputs, part.rows, count), part.labels))


def _check_inside(views: Sequence[View]) -> None:
    """Refuse views that a loss computed inside the model cannot serve: it has only the batch's own labels and rows."""
    advice = (
        "the loss is computed inside the model, from the batch's own labels, so this view would get another one's "
        "loss; let forward= return logits, and give loss_fn= (logits, labels)"
    )
    for view in views:
        if view.labels is not None:
            raise ValueError(f"view {view.name!r} has labels of its own; {advice}")
        if view.indices is not None and len(views) > 1:
            raise ValueError(f"view {view.name!r} shares its batches with other views; {advice}")


def _check_that_samples_are_apart(
    context: Context, batch: Any, outputs: Any, count: int, used: Callable[[], Sequence[int]], some: tuple[int, int]
) -> None:
    """Refuse a model whose outputs for a part of a batch, or for single samples, are not that part of the batch's.

    ``some`` says which: one in so many samples, drawn at random, two at least; and so many of the last, each alone.

    ``used`` gives the places of the outputs that the loss follows from: those that have no rows must not change at all.
    """
    if count < 2:
        return
    one_in, alone = some
    rows = shuffled(count)[: max(min(2, count // 2), count // one_in)].sort().values
    try:
        few = context.call(select(batch, rows, count))
    except (RuntimeError, ValueError) as error:
        what = "takes its statistics from the batch, or" if _NEEDS_SEVERAL in str(error) else "or its forward="
        raise ValueError(
            f"the model {what} does not take a part of a batch ({(str(error).splitlines() or [''])[0][:120]}), so that "
            f"its samples cannot be told apart; {_TOGETHER}"
        ) from error
    _check_part(few, select(outputs, rows, count), len(rows), used)
    for row in range(max(0, count - alone), count):  # the last ones, which a limit on the batch would leave out
        single = torch.tensor([row])
        try:
            by_itself = context.call(select(batch, single, count))
        except (RuntimeError, ValueError, IndexError):  # of a model that takes no single sample
            return
        _check_part(by_itself, select(outputs, single, count), 1, tuple)


def _check_part(alone: Any, part: Any, count: int, used: Callable[[], Sequence[int]]) -> None:
    for place, (got, expected) in enumerate(zip(tree_leaves(alone), tree_leaves(part), strict=False)):
        if not (isinstance(got, Tensor) and isinstance(expected, Tensor) and got.is_floating_point() and got.numel()):
            continue
        rows = got.ndim > 0 and len(got) == count
        if not rows and place not in used():
            continue
        if got.shape != expected.shape:
            if rows:
                continue
            raise ValueError(
                f"the loss uses an output of shape {tuple(expected.shape)}, whose first dimension is not that of the "
                "samples; let forward= return it with a row for each sample, such as state.transpose(0, 1)"
            )
        scale, difference = float(expected.abs().max()), float((got - expected).abs().max())
        if difference > _COARSE * scale:  # a float64 model may have layers that compute in float32
            what, why = (
                ("outputs of a sample depend on the others in its batch", "attention across samples")
                if rows
                else ("an output that the loss uses depends on the batch as a whole", "a penalty on averages over it")
            )
            raise ValueError(
                f"{what} (by {difference / scale:.2g} of their size), so there is no mean over samples: BatchNorm "
                f"without running statistics, or {why}? {_TOGETHER}"
            )


def _own_parameters(model: nn.Module) -> dict[int, str]:
    with exclusive(model):
        return {id(parameter): name for name, parameter in model.named_parameters()}


def _check_that_loss_follows_the_point(
    context: Context, batch: Any, part: Part, count: int, own: dict[int, str]
) -> None:
    """Refuse a loss whose graph leads to the model's own parameters, which the point has taken the place of."""
    few = (torch.arange(count) if part.rows is None else part.rows)[:_FEW].to(context.layout.device)
    labels = select(part.labels, torch.arange(len(few)), length(part.labels))
    leaves = {n: t.detach().requires_grad_() for n, t in context.layout.unflatten(context.weights()).items()}
    with holding(context.model, leaves), torch.enable_grad():
        loss = context.criterion(context.call(select(batch, few, count)), labels)
        for tensor in _leaves_of(loss):
            if id(tensor) in own:
                raise ValueError(
                    f"loss_fn or forward= has captured the model's parameter {own[id(tensor)]!r}, so the loss does not "
                    "follow the point that is measured; read it from the model in each call (model.parameters())"
                )


def _leaves_of(loss: Tensor) -> Iterator[Tensor]:
    """The tensors that a loss's graph accumulates gradients in."""
    todo, seen = [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo += [after for after, _ in node.next_functions]
