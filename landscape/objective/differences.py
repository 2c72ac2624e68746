"""Derivatives against differences: the independent way that every kind of derivative is checked by before it is used.

The check moves a float64 version of the function, where the model allows one, off its point a little, so that it lies
on no kink, and along a random direction. Steps of several sizes tell a wrong derivative, whose differences agree with
each other, from kinks, whose differences grow as steps shrink, and from rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from landscape.objective.context import Context
    from landscape.objective.evaluation.evaluate import Evaluate
    from landscape.objective.micro_batch import BatchLoss
    from landscape.objective.parameters import ParameterLayout

SAMPLES = (4, 32)  # that a derivative is checked on: at least and at most, in between a tenth of the view
_STEPS = {torch.float64: (1e-6, 1e-7, 1e-8, 1e-5, 1e-4, 1e-3, 1e-2), torch.float32: (1e-3, 3e-3, 1e-2, 3e-4)}
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 5e-2}  # relative; of steps of 10⁻³ and more that of float32
_TINY = (1e-9, 3e-9, 1e-8)
_OFF = 1e-3  # of each tensor's size: how far from the point, which may lie on a kink


class Differentiable(Protocol):
    """The part of an objective that derivatives and differences need."""

    @property
    def context(self) -> Context: ...
    @property
    def layout(self) -> ParameterLayout: ...
    @property
    def views(self) -> tuple[str, ...]: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def weights(self) -> Tensor: ...
    def num_samples(self, view: str) -> int: ...
    def accumulate(self, derivative: Callable[[BatchLoss], Tensor]) -> Tensor: ...
    def sampled(self, count: int) -> Self: ...
    def unchecked(self) -> Self: ...
    def batched(self, batch_size: int) -> Self: ...
    def astype(self, dtype: torch.dtype) -> Self: ...
    def at(self, weights: Any) -> Self: ...
    def along(self, directions: Sequence[Tensor]) -> AbstractContextManager[Evaluate]: ...
    def gradient(self) -> Tensor: ...
    def micro_batches(self) -> AbstractContextManager[Iterator[BatchLoss]]: ...


T = TypeVar("T", bound=Differentiable)
R = TypeVar("R")


class DerivativeError(ValueError):
    """A derivative that automatic differentiation gives is not the one of the function."""


def sample(objective: T) -> T:
    """The objective on some samples of its view, unchecked."""
    size, batch = objective.num_samples(objective.views[0]), objective.batch_size
    least = min(size, max(SAMPLES[0], min(SAMPLES[1], size // 10)))
    # With a last micro-batch of the size that the view has: torch has faults that show with single samples alone.
    ragged = (n for n in range(least, min(size, SAMPLES[1]) + 1) if size % batch and n % batch == size % batch)
    count = next(ragged, least)
    half = min(batch, max(2, batch // 2))  # in float64 as many take the memory of a micro-batch
    while True:
        few = objective.sampled(count).unchecked()
        if (count % half == 1) == (count % batch == 1):  # single samples only where there were any
            few = few.batched(half)
        if count == size or few.context.selection.plan.norms[few.views[0]]:
            return few
        count = min(size, 2 * count)  # the loss ignores all of these


def precisely(objective: T, compute: Callable[[T], R]) -> R:
    """Compute something of the objective in float64, or in its own precision where the model allows no other."""
    try:
        return compute(objective.astype(torch.float64))
    except DerivativeError:
        raise
    except (RuntimeError, TypeError, ValueError):
        if all(dtype.to_real() == torch.float64 for dtype in objective.layout.dtypes):
            raise
        return compute(objective)


def beside(objective: T) -> T:
    """The objective at a point a little off its own, which may lie on a kink."""
    return objective.at(objective.weights + _OFF * random_direction(objective, 1))


def random_direction(objective: Differentiable, seed: int = 0) -> Tensor:
    """A Gaussian direction (K,) that gives every parameter the size that it has, or the mean size where it is zero."""
    point, generator = objective.weights, torch.Generator().manual_seed(seed)
    mean, drawn = 0.0, {}
    for name, tensor in objective.layout.unflatten(point).items():
        size = float(torch.linalg.vector_norm(tensor)) / max(1, tensor.numel()) ** 0.5
        if size == 0:
            size = mean = mean or float(torch.linalg.vector_norm(point.double())) / len(point) ** 0.5 or 1.0
        drawn[name] = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor).mul_(size)
    return objective.layout.flatten(drawn)


def compare(
    derivative: Tensor, difference: Callable[[float], tuple[Tensor, float]], dtype: torch.dtype
) -> tuple[str, float, Tensor]:
    """``agrees``, ``differs`` or ``undecided``, with the relative deviation and the difference that decided.

    Args:
        derivative: by automatic differentiation.
        difference: the same as a central difference with a step, and a bound on what rounding does to it.
        dtype: that the function is computed in.
    """
    kind = dtype if dtype in _STEPS else torch.float32
    before: Tensor | None = None
    least, found, unmoved, unresolved = float("inf"), derivative, 0, False
    for step in _STEPS[kind]:
        (now, noise), size = difference(step), float(derivative.norm())
        if not math.isfinite(size) and bool(now.isfinite().all()):
            return "differs", math.inf, now
        if size > noise and not bool(now.any()):  # too small a step for layers that compute in float32
            unmoved += 1
            continue
        off, scale = float((now - derivative).norm()), max(float(now.norm()), size)
        tolerance = _TOLERANCE[torch.float32 if step >= 1e-3 else kind]
        if scale == 0 or off <= tolerance * scale + noise:
            if noise <= 0.1 * scale or scale == 0:
                return "agrees", off / scale if scale else 0.0, now
            least, unresolved = min(least, off / scale), True  # a larger step may tell it from rounding
            continue
        if off / scale < least:
            least, found = off / scale, now
        if before is not None and float((now - before).norm()) <= 0.1 * off and noise <= 0.1 * off:
            # Layers that compute in float32, whatever the model is in, show as noise at steps too small for it.
            tiny = [h for h in _TINY if h < step] if kind == torch.float64 else []
            if max((h * float((difference(h)[0] - now).norm()) for h in tiny), default=0.0) <= 0.1 * off * step:
                return "differs", off / scale, now
        before = now
    if unmoved == len(_STEPS[kind]):
        return "differs", 1.0, torch.zeros_like(derivative)
    return "agrees" if unresolved else "undecided", least, found


@dataclass(eq=False)
class Findings:
    """Findings from the losses of an objective's micro-batches, beside their numbers.

    Attributes:
        loss: mean.
        largest: magnitude of the outputs.
        dtypes: of the parameters and of the losses.
        padding: the rows of embeddings that torch gives no gradient, by the parameter's name.
        functions: names of the autograd functions on the way to the loss that are not torch's own.
    """

    loss: float = 0.0
    largest: float = 0.0
    dtypes: set[torch.dtype] = field(default_factory=set)
    padding: dict[str, list[int]] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)

    def note(self, batch: BatchLoss, loss: Tensor) -> None:
        """Add what one micro-batch's loss shows.

        Raises:
            DerivativeError: an embedding divides its gradient by how often a word occurs in the batch.
        """
        self.loss += batch.share * loss.item()
        for output in tree_leaves(batch.outputs):
            if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
                self.largest = max(self.largest, float(output.detach().abs().max()))
        self.dtypes |= {loss.dtype, *(p.dtype for p in batch.parameters.values())}
        for node in graph_nodes(loss):
            self.functions.update(_custom_function(node))
            for name, row in _padding(node, batch.parameters):
                self.padding.setdefault(name, []).append(row)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters, or of the loss where that is less precise."""
        return _least_precise(self.dtypes)


def gradient_and_findings(objective: Differentiable) -> tuple[Tensor, Findings]:
    """The objective's gradient, (K,) in float64, with what its micro-batches show."""
    found = Findings()

    def gradient(batch: BatchLoss) -> Tensor:
        loss = batch.loss()
        found.note(batch, loss)
        return batch.gradient_of(loss, objective.layout)

    return objective.accumulate(gradient), found


def coarsest_within(batch: BatchLoss) -> torch.dtype:
    """The least precise dtype on the way from the parameters to the loss, that of single layers included.

    >>> from landscape.objective.objective import Objective
    >>> model, data = torch.nn.Linear(1, 2).double(), (torch.ones(4, 1), torch.zeros(4, 2))
    >>> with Objective(model, lambda o, y: (o.float() - y).double().square().mean(), data).micro_batches() as batches:
    ...     coarsest_within(next(batches))
    torch.float32
    """
    with batch.held(), Dtypes() as on_the_way:
        batch.loss(batch.call(batch.batch))
    return _least_precise((next(iter(batch.parameters.values())).dtype, *on_the_way.found))


class Dtypes(TorchFunctionMode):
    """Records in which dtypes real and complex numbers are computed; with gradients on, those that have one.

    >>> with Dtypes() as dtypes, torch.no_grad():
    ...     _ = torch.ones(2).double() + torch.arange(2)
    >>> sorted(map(str, dtypes.found))
    ['torch.float32', 'torch.float64']
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = (t for t in tree_leaves(out) if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex()))
        self.found |= {t.dtype for t in tensors if t.requires_grad or not torch.is_grad_enabled()}
        return out


def _least_precise(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def is_checked(objective: Differentiable) -> bool:
    """Tell whether the gradient needs no :func:`check_slope`, having passed it or by the user's choice."""
    return objective.context.checks == "off" or _slope_key(objective) in objective.context.found.derivatives


def _slope_key(objective: Differentiable) -> Any:
    return "slope", objective.context.key


def check_slope(objective: Differentiable) -> None:
    """Refuse a gradient that is not the slope of the loss.

    Some samples show this, along a random direction. Rows of embeddings that torch gives no gradient (``padding_idx``)
    are tried on all samples, since the few may not hold such words.

    Raises:
        DerivativeError: it is not.
    """

    def slope(whole: Differentiable) -> _Slope:
        few = beside(sample(whole))
        gradient, seen = gradient_and_findings(few)
        check_padding(objective, few, seen.padding)
        return _slope(few, random_direction(few), gradient, seen)

    found = precisely(objective, slope)
    if found.outcome == "differs":
        raise _no_slope(found)
    objective.context.found.derivatives[_slope_key(objective)] = found.outcome, found.deviation


def check_padding(objective: Differentiable, few: Differentiable, rows: Mapping[str, list[int]]) -> None:
    """Refuse rows of embeddings that torch gives no gradient, though the loss of some sample depends on them.

    Args:
        objective: on all samples, which are tried where there are such rows.
        few: the objective on some samples, perhaps in another precision.
        rows: that its graph shows, by the parameter's name.

    Raises:
        DerivativeError: it does.
    """
    known = objective.context.found.derivatives
    key = "padding", objective.context.key
    if key in known:
        return
    if rows:
        whole = objective.unchecked()
        whole = whole if few.layout.dtypes == whole.layout.dtypes else whole.astype(few.layout.dtype)
        whole = beside(whole)
        found = _slope(whole, _direction_in(rows, whole), *gradient_and_findings(whole))
        if found.outcome == "differs":
            raise _no_slope(found)
    known[key] = rows


def _no_slope(found: _Slope) -> DerivativeError:
    return DerivativeError(
        f"the gradient is not the slope of the loss (they differ by {found.deviation:.2g}, relatively){found.where}; "
        "look for custom autograd functions, detach or no_grad in forward, checkpoint(use_reentrant=True), and "
        "embeddings with padding_idx= (padding_idx=None leaves outputs as they are)"
    )


def _padding(node: Any, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, int]]:
    """Parameter and row that an embedding in a loss's graph gives no gradient, if the node is one and there is any.

    Raises:
        DerivativeError: the embedding divides its gradient by how often a word occurs in the batch.
    """
    table = node.next_functions[0][0] if hasattr(node, "_saved_padding_idx") else None
    if table is None:  # another operation, or a table that nothing is derived by
        return
    if node._saved_scale_grad_by_freq:
        raise DerivativeError(
            "an embedding with scale_grad_by_freq=True divides its gradient by how often a word occurs in "
            "the batch, so it is not the slope of the loss; set it to False: outputs stay as they are"
        )
    leaf, row = getattr(table, "variable", None), node._saved_padding_idx
    for name, parameter in parameters.items():
        if parameter is leaf and 0 <= row < len(parameter):  # torch writes -1 also as 2⁶⁴ − 1
            yield name, row


def _direction_in(rows: Mapping[str, list[int]], objective: Differentiable) -> Tensor:
    """A direction (K,) in some rows of parameters."""
    direction, kept = objective.layout.unflatten(random_direction(objective)), {}
    for name, tensor in direction.items():
        kept[name] = torch.zeros_like(tensor)
        if name in rows:
            kept[name][rows[name]] = tensor[rows[name]]
    return objective.layout.flatten(kept)


@dataclass(frozen=True)
class _Slope:
    outcome: str
    deviation: float
    where: str


def _slope(objective: Differentiable, direction: Tensor, gradient: Tensor, seen: Findings) -> _Slope:
    eps = float(torch.finfo(seen.dtype).eps)
    size = abs(seen.loss) or seen.largest  # a loss that is rounded to 0 tells nothing of what it is rounded by
    with objective.along([direction]) as evaluate:
        view = objective.views[0]

        def slope(step: float) -> tuple[Tensor, float]:
            ahead, behind = (evaluate([at]).loss[view] for at in (step, -step))
            return gradient.new_tensor([(ahead - behind) / (2 * step)]), 20 * eps * size / step

        own = gradient.new_tensor([float(gradient @ direction.double())])
        outcome, deviation, _ = compare(own, slope, seen.dtype)
    return _Slope(outcome, deviation, _named(objective, direction) if outcome == "differs" else "")


def _named(objective: Differentiable, along: Tensor) -> str:
    """Name, for a message, the parameters whose gradients are not their own slopes."""
    gradient = objective.layout.unflatten(objective.gradient())
    direction = objective.layout.unflatten(along)
    wrong = []
    for name in list(direction)[:64]:
        alone = objective.layout.flatten({n: t if n == name else torch.zeros_like(t) for n, t in direction.items()})
        step = 1e-5 if objective.layout.dtype == torch.float64 else 1e-2
        with objective.along([alone]) as evaluate:
            a, b = (evaluate([sign * step]).loss[objective.views[0]] for sign in (1, -1))
        slope = (a - b) / (2 * step)
        own = float(objective.layout.flatten(gradient) @ alone)
        if abs(slope - own) > 1e-2 * max(abs(slope), abs(own)):
            wrong.append(name)
    return f" in {', '.join(wrong[:3])}" if wrong else ""


def graph_nodes(loss: Tensor) -> Iterator[Any]:
    """The nodes of a loss's autograd graph, each once."""
    todo, seen = [t.grad_fn for t in tree_leaves(loss) if isinstance(t, Tensor)], set[Any]()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        todo += [after for after, _ in node.next_functions]


def _custom_function(node: Any) -> Iterator[str]:
    """Name of the autograd function that a node of a graph belongs to, if that is not torch's own or ours."""
    function = getattr(node, "_forward_cls", None)
    if function is not None and not function.__module__.startswith(("torch.", "landscape.")):
        yield function.__name__
