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
from landscape.objective.cross_entropy import FewCopies
from landscape.objective.isolation import exclusive, holding, rewind, undisturbed
from landscape.objective.losses import Identity, MeanLoss
from landscape.objective.mean_check import Rows, check_mean, close, is_known_mean, shuffled
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
_FIRST = 2, 3  # of the first micro-batch each of so many parts is run without the others, and the last ones alone;
_FURTHER = 8, 1  # of others one of so many,
_BATCHES = 8  # of so many, evenly spaced
_NEEDS_GRADIENTS = ("does not require grad", "to not have been used in the graph")
_NEEDS_SEVERAL = "more than 1 value per channel"  # what BatchNorm says of one sample
_COARSE = torch.finfo(torch.float32).eps ** 0.5
_NUMBERS = 2**22  # that outputs are compared at a time


class NotDeterministicError(RuntimeError):
    """Two evaluations at one point differ, so derivatives of the objective have no meaning."""


def callable_model(model: Any) -> nn.Module:
    """The module that can be measured: a compiled one's original.

    Raises:
        TypeError: it is no module.
        ValueError: its tensors cannot be exchanged, are sharded over processes, or have no shape yet.
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
        if _is_distributed(tensor):
            raise _sharded(name)
        kind = type(tensor)
        if issubclass(kind, nn.Parameter) and kind.__torch_function__ is not nn.Parameter.__torch_function__:
            raise ValueError(
                f"parameter {name!r} is of the class {kind.__name__}, which computes in its own way "
                "(__torch_function__), so that no other tensor can stand for it; use torch.nn.utils.parametrize"
            )
    for name, module in original.named_modules():
        if any(kind.__module__.startswith("torch.distributed.fsdp") for kind in type(module).__mro__):
            raise _sharded(name or type(original).__name__)
    return original


def _is_distributed(tensor: Tensor) -> bool:
    flattened = getattr(tensor, "_fsdp_flattened", False)
    return flattened or any(kind.__name__ == "DTensor" for kind in type(tensor).__mro__)


def _sharded(name: str) -> ValueError:
    return ValueError(
        f"{name!r} is sharded over processes (FSDP or DTensor), whose own tensors come back in every forward pass; "
        "load the full state dict into a model that is not sharded"
    )


class Seen:
    """Losses that the checks come by at the point: of whole micro-batches, by the model's forward pass and the loss."""

    def __init__(self) -> None:
        self._losses: dict[int, dict[str, tuple[float, float]]] = {}
        self._cut = set[str]()

    def add(self, criterion: MeanLoss, number: int, outputs: Any, parts: Sequence[Part]) -> None:
        """Add a micro-batch; views that have a part of it alone are left out."""
        self._cut |= {part.view for part in parts if part.rows is not None}
        whole = [part for part in parts if part.norm and part.view not in self._cut]
        self._losses[number] = {part.view: (part.norm, float(criterion(outputs, part.labels))) for part in whole}

    def means(self, plan: Plan) -> dict[str, float]:
        """The loss of each view that was seen on all of a plan's micro-batches."""
        if len(self._losses) < plan.num_batches:
            return {}
        of_batches = [self._losses[number] for number in sorted(self._losses)]
        return {
            view: sum(loss * (norm / total) for found in of_batches if view in found for norm, loss in [found[view]])
            for view, total in plan.norms.items()
            if total and view not in self._cut
        }


def checked(context: Context, seen: Seen | None = None) -> Context:
    """The context, when model, loss and data have been checked on its selection, once for all that this depends on.

    Args:
        context: to be checked.
        seen: is told what losses were found on the way; nothing where it had been checked before.

    Raises:
        ValueError: data or loss were changed; the model returns something whose rows cannot be picked, or reads the
            batch as a whole; the loss is not one number, does not follow the point, is no mean over samples, or cannot
            serve the views.
        NotDeterministicError: two evaluations of a batch differ.
    """
    context = _with_gradients(context)
    plain = context
    if context.call.precision is not None:
        plain = dataclasses.replace(context, call=dataclasses.replace(context.call, precision=None))
    names = {view.source for view in context.selection.views.values()}
    context.criterion.check_unchanged()
    for view in context.selection.views.values():
        view.check_unchanged()
    for name in names:
        context.selection.sources[name].check_unchanged()
    wide = frozenset(name for name in names if _keeps_precision(plain, name))
    selection = context.selection.keeping_precision(wide)
    key = plain.key, context.checks
    if key not in selection.checked:
        with undisturbed(context.model):
            _check(dataclasses.replace(plain, selection=selection), selection.plan, seen)
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
    held = holding(context.model, context.tensors(), context.whole.names)
    with undisturbed(context.model), held, torch.no_grad():
        try:
            outputs = context.call(to_model(batch, context.selection.layout, keeps_precision=True))
            context.criterion(outputs, to_model(labels_of(batch), context.selection.layout, keeps_precision=True))
        except (RuntimeError, TypeError, ValueError):  # that tensors of two types do not go together
            return False
    return True


def _check(context: Context, plan: Plan, seen: Seen | None) -> None:
    views, inside, examples = context.selection.views, context.found.inside, dict[str, Rows]()
    names = {view.source for view in views.values()}
    unchecked = context.checks == "off"  # then each source, model and loss are asked for their form alone, and once
    unknown = {name for name in names if not (unchecked and _source_key(context, name) in inside)}
    asks_mean = not (unchecked or is_known_mean(context.criterion))
    own = _own_parameters(context.model)
    needed = unknown or asks_mean
    held = holding(context.model, context.tensors(), context.whole.names) if needed else nullcontext()
    with held, torch.no_grad():
        if unknown:
            context = _check_sources(context, plan, own, unknown, examples, seen)
            if context.checks == "full" and plan.kept:
                _check_further_batches(context, plan, seen)
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
    context: Context, plan: Plan, own: dict[int, str], unknown: set[str], examples: dict[str, Rows], seen: Seen | None
) -> Context:
    """Check model and loss on the first micro-batch of each unknown source, and keep rows of its outputs as an example.

    Gives the context, with gradients on where the model turned out to need them.
    """
    for number, (batch, parts) in enumerate(plan):
        name = context.selection.views[parts[0].view].source
        part = next((p for p in parts if p.norm), None)  # a loss that ignores all samples tells nothing
        if name in unknown and part is not None:
            unknown.remove(name)
            count = length(labels_of(batch))
            context, outputs = _check_source(context, batch, part, count, _source_key(context, name))
            if seen is not None:
                seen.add(context.criterion, number, outputs, parts)
            examples[name] = Rows.first_of(outputs, count)
            del outputs  # of a model of many classes they take the most memory
            if context.checks != "off":
                _check_that_loss_follows_the_point(context, batch, part, count, own)
        if not unknown:
            break
    return context


def _check_further_batches(context: Context, plan: Plan, seen: Seen | None) -> None:
    """Refuse a model whose samples are apart in a source's first micro-batch and not in others, as a limit makes it."""
    chosen = set(torch.linspace(0, plan.num_batches - 1, _BATCHES).round().long().tolist())
    for index, (batch, parts) in enumerate(plan):
        part = next((p for p in parts if p.norm), None)
        key = _source_key(context, context.selection.views[parts[0].view].source)
        if index == 0 or index not in chosen or part is None or context.found.inside.get(key, True):
            continue
        count, outputs = length(labels_of(batch)), context.call(batch)
        if seen is not None:
            seen.add(context.criterion, index, outputs, parts)
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


def _check_source(context: Context, batch: Any, part: Part, count: int, key: Any) -> tuple[Context, Any]:
    """Check model and loss on a source's first micro-batch; give the context, as it turned out, and the outputs."""
    context, outputs = _trying_gradients(context, batch)
    loss = _loss_of(context.criterion, outputs, part, count)
    _check_one_number(loss)
    used = _used(context.criterion, outputs if part.rows is None else select(outputs, part.rows, count), part.labels)
    places = tuple(used)
    context.found.inside[key] = bool(used) and not any(leaf.ndim for leaf in used.values())
    del used
    rewind(context.model)  # refuses what a forward pass must not write to
    if not context.found.inside[key]:
        _check_outputs(outputs, count)
    if context.checks == "off":
        return context, outputs
    seen = () if context.found.inside[key] else places
    try:
        repeated = _check_that_samples_are_apart(context, batch, outputs, count, lambda: seen, _FIRST, part)
    except ValueError:
        _check_that_it_repeats(context, batch, outputs, part, count)  # which would explain it
        raise
    if not repeated:
        _check_that_it_repeats(context, batch, outputs, part, count)
    return context, outputs


def _check_that_it_repeats(context: Context, batch: Any, outputs: Any, part: Part, count: int) -> None:
    """Refuse a model or loss that gives something else when it is called again."""
    again = context.call(batch)
    losses = [_loss_of(context.criterion, given, part, count) for given in (outputs, again)]
    if not _same(*losses) or _differ(outputs, again):
        first, second = map(float, losses)
        raise NotDeterministicError(
            f"two evaluations of one batch at one point differ (losses {first:.9g} and {second:.9g}); "
            "look for dropout that ignores eval mode, random layers or state kept outside the model"
        )


def _same(loss: Tensor, other: Tensor) -> bool:
    first, second = float(loss), float(other)
    return close(first, second, torch.finfo(loss.dtype).eps ** 0.5 * max(abs(first), abs(second)))


def _loss_of(criterion: MeanLoss, outputs: Any, part: Part, count: int) -> Any:
    """The loss of a view's part of ``count`` samples."""
    with FewCopies():
        return criterion(outputs if part.rows is None else select(outputs, part.rows, count), part.labels)


def _differ(outputs: Any, others: Any) -> bool:
    """Tell whether outputs that should be the same are not, by more than the rounding of float32 layers."""
    for a, b in zip(tree_leaves(outputs), tree_leaves(others), strict=False):
        if isinstance(a, Tensor) and a.is_floating_point() and a.numel() and a.shape == b.shape:
            difference, scale = _apart(b, a)
            if difference > max(_COARSE, torch.finfo(a.dtype).eps ** 0.5) * scale:
                return True
    return False


def _apart(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """The largest |found − expected| and the largest |expected|, from some numbers at a time."""
    pairs = torch.stack([torch.stack([(a - b).abs_().max(), b.abs().max()]) for a, b in _in_pieces(found, expected)])
    difference, scale = pairs.amax(0).tolist()
    return difference, scale


def _in_pieces(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Two tensors of one shape in pieces of few numbers."""
    if b.numel() <= _NUMBERS:
        yield a, b
        return
    step = _NUMBERS * len(b) // b.numel()
    for pair in zip(a.split(max(1, step)), b.split(max(1, step)), strict=True):
        if step:
            yield pair
        else:
            yield from _in_pieces(pair[0][0], pair[1][0])


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

    with torch.enable_grad(), FewCopies():
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
    context: Context,
    batch: Any,
    outputs: Any,
    count: int,
    used: Callable[[], Sequence[int]],
    some: tuple[int, int],
    each: Part | None = None,
) -> bool:
    """Refuse a model whose outputs for a part of a batch, or for single samples, are not that part of the batch's.

    ``some`` says which: one of so many parts, drawn at random, of two samples at least, or each of them; and so many of
    the last samples, each alone. Tells whether all outputs and the losses of ``each`` part were so computed twice.

    ``used`` gives the places of the outputs that the loss follows from: those that have no rows must not change at all.
    """
    if count < 2:
        return False
    parts, alone = some
    size = max(min(2, count // 2), count // parts)
    repeated = each is not None and each.rows is None
    groups = [shuffled(count)[:size], shuffled(count)[size:]] if each is not None else [shuffled(count)[:size]]
    for group in groups:
        rows = group.sort().values
        try:
            few = context.call(select(batch, rows, count))
        except (RuntimeError, ValueError) as error:
            what = "takes its statistics from the batch, or" if _NEEDS_SEVERAL in str(error) else "or its forward="
            raise ValueError(
                f"the model {what} does not take a part of a batch ({(str(error).splitlines() or [''])[0][:120]}), so "
                f"that its samples cannot be told apart; {_TOGETHER}"
            ) from error
        expected = select(outputs, rows, count)
        repeated &= _check_part(few, expected, len(rows), used)
        repeated = repeated and each is not None and _losses_agree(context.criterion, few, expected, each, rows)
        del few, expected
    for row in range(max(0, count - alone), count):  # the last ones, which a limit on the batch would leave out
        single = torch.tensor([row])
        try:
            by_itself = context.call(select(batch, single, count))
        except (RuntimeError, ValueError, IndexError):  # of a model that takes no single sample
            break
        _check_part(by_itself, select(outputs, single, count), 1, tuple)
    return repeated


def _losses_agree(criterion: MeanLoss, found: Any, expected: Any, part: Part, rows: Tensor) -> bool:
    """Tell whether two evaluations of some samples, all of which a view's part has, give one loss."""
    labels = select(part.labels, rows, length(part.labels))
    try:
        with FewCopies():
            return _same(criterion(found, labels), criterion(expected, labels))
    except Exception:  # of a loss that takes no part of a batch
        return False


def _check_part(alone: Any, part: Any, count: int, used: Callable[[], Sequence[int]]) -> bool:
    """Refuse outputs that are not those of a part; tell whether all real numbers among them were compared."""
    compared = True
    for place, (got, expected) in enumerate(zip(tree_leaves(alone), tree_leaves(part), strict=False)):
        if not (isinstance(got, Tensor) and isinstance(expected, Tensor) and got.is_floating_point() and got.numel()):
            continue
        rows = got.ndim > 0 and len(got) == count
        if not rows and place not in used():
            compared = False
            continue
        if got.shape != expected.shape:
            if rows:
                compared = False
                continue
            raise ValueError(
                f"the loss uses an output of shape {tuple(expected.shape)}, whose first dimension is not that of the "
                "samples; let forward= return it with a row for each sample, such as state.transpose(0, 1)"
            )
        difference, scale = _apart(got, expected)
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
    return compared and len(tree_leaves(alone)) == len(tree_leaves(part))


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
        outputs = context.call(select(batch, few, count))
        with FewCopies():
            loss = context.criterion(outputs, labels)
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
