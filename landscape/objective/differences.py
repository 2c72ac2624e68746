"""Derivatives against differences: the independent way that every kind of derivative is checked by before it is used.

The check moves a float64 version of the function, where the model allows one, off its point a little, so that it lies
on no kink, and along a random direction. Steps of several sizes tell a wrong derivative, whose differences agree with
each other, from kinks, whose differences grow as steps shrink, and from rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from landscape.objective.isolation import exclusive

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
    def sampled(self, count: int) -> Self: ...
    def unchecked(self) -> Self: ...
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
    return objective.sampled(next(ragged, least)).unchecked()


def precisely(objective: T, compute: Callable[[T], R]) -> R:
    """What is computed of the objective in float64, or in its own precision where the model allows no other."""
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
    weights, generator = objective.layout.unflatten(objective.weights), torch.Generator().manual_seed(seed)
    mean = float(objective.weights.double().square().mean().sqrt()) or 1.0
    sizes = {n: (float(torch.linalg.vector_norm(t)) / max(1, t.numel()) ** 0.5 or mean) for n, t in weights.items()}
    return objective.layout.flatten(
        {n: sizes[n] * torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for n, t in weights.items()}
    )


def compare(
    derivative: Tensor, difference: Callable[[float], Tensor], rounding: Callable[[float], float], dtype: torch.dtype
) -> tuple[str, float, Tensor]:
    """``agrees``, ``differs`` or ``undecided``, with the relative deviation and the difference that decided.

    Args:
        derivative: by automatic differentiation.
        difference: the same as a central difference with a step.
        rounding: bound on what rounding does to that difference.
        dtype: that the function is computed in.
    """
    kind = dtype if dtype in _STEPS else torch.float32
    before: Tensor | None = None
    least, found, unmoved = float("inf"), derivative, 0
    for step in _STEPS[kind]:
        now = difference(step)
        if not bool(now.any()) and bool(derivative.any()):  # too small a step for layers that compute in float32
            unmoved += 1
            continue
        off, scale = float((now - derivative).norm()), max(float(now.norm()), float(derivative.norm()))
        tolerance = _TOLERANCE[torch.float32 if step >= 1e-3 else kind]
        if scale == 0 or off <= tolerance * scale + rounding(step):
            return "agrees", off / scale if scale else 0.0, now
        if off / scale < least:
            least, found = off / scale, now
        if before is not None and float((now - before).norm()) <= 0.1 * off and rounding(step) <= 0.1 * off:
            # Layers that compute in float32, whatever the model is in, show as noise at steps too small for it.
            tiny = [h for h in _TINY if h < step] if kind == torch.float64 else []
            if max((h * float((difference(h) - now).norm()) for h in tiny), default=0.0) <= 0.1 * off * step:
                return "differs", off / scale, now
        before = now
    if unmoved == len(_STEPS[kind]):
        return "differs", 1.0, torch.zeros_like(derivative)
    return "undecided", least, found


def coarsest(objective: Differentiable) -> torch.dtype:
    """The dtype of the parameters, or of the loss where that is less precise."""
    with objective.micro_batches() as batches:
        loss = next(iter(batches)).loss()
    return _least_precise((objective.layout.dtype, loss.dtype))


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


def check_slope(objective: Differentiable) -> None:
    """Refuse a gradient that is not the slope of the loss.

    Raises:
        DerivativeError: it is not.
    """
    known = objective.context.found.derivatives
    key = "slope", objective.context.key
    if key in known or objective.context.checks == "off":
        return
    check_embeddings(objective)
    outcome, deviation, where = precisely(sample(objective), lambda version: _slope(beside(version)))
    if outcome == "differs":
        raise _no_slope(deviation, where)
    known[key] = outcome, deviation


def check_embeddings(objective: Differentiable) -> None:
    """Refuse embeddings whose options leave something out of their gradient, on all samples of the view.

    Raises:
        DerivativeError: the slope of the loss along a row of ``padding_idx=`` is not zero, or not what
            ``scale_grad_by_freq=`` makes of it.
    """
    known = objective.context.found.derivatives
    for name, rows in _embeddings(objective).items():
        key = "embedding", name, objective.context.key
        if key in known or objective.context.checks == "off":
            continue
        outcome, deviation, _ = precisely(objective.unchecked(), partial(_slope_along, name, rows))
        if outcome == "differs":
            raise _no_slope(deviation, f" in {name}")
        known[key] = outcome, deviation


def _slope_along(name: str, rows: slice, objective: Differentiable) -> tuple[str, float, str]:
    layout = objective.layout
    parts, direction = (layout.unflatten(v) for v in (0 * objective.weights, random_direction(objective, 2)))
    parts[name][rows] = direction[name][rows]
    return _slope(objective, layout.flatten(parts))


def _embeddings(objective: Differentiable) -> dict[str, slice]:
    """Weights of embeddings with such options, by name, and the rows that these are about."""
    model, found = objective.context.model, dict[str, slice]()
    with exclusive(model):
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for module in model.modules():
            name = names.get(id(getattr(module, "weight", None)), "")
            if name not in objective.layout.names:
                continue
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                found[name] = slice(module.padding_idx, module.padding_idx + 1)
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.scale_grad_by_freq:
                found[name] = slice(None)
    return found


def _no_slope(deviation: float, where: str) -> DerivativeError:
    return DerivativeError(
        f"the gradient is not the slope of the loss (they differ by {deviation:.2g}, relatively){where}; look for "
        "custom autograd functions, detach or no_grad in forward, checkpoint(use_reentrant=True), and embeddings with "
        "padding_idx= or scale_grad_by_freq= (padding_idx=None leaves outputs as they are)"
    )


def _slope(objective: Differentiable, direction: Tensor | None = None) -> tuple[str, float, str]:
    direction = random_direction(objective) if direction is None else direction
    gradient = objective.gradient().double()
    dtype = coarsest(objective)
    eps = float(torch.finfo(dtype).eps)
    with objective.along([direction]) as evaluate:
        view = objective.views[0]

        def loss(at: float) -> float:
            return evaluate([at]).loss[view]

        size = abs(loss(0.0))
        outcome, deviation, _ = compare(
            gradient.new_tensor([float(gradient @ direction.double())]),
            lambda h: gradient.new_tensor([(loss(h) - loss(-h)) / (2 * h)]),
            lambda h: 20 * eps * size / h,
            dtype,
        )
    return outcome, deviation, _named(objective) if outcome == "differs" else ""


def _named(objective: Differentiable) -> str:
    """Name, for a message, the parameters whose gradients are not their own slopes."""
    gradient = objective.layout.unflatten(objective.gradient())
    direction = objective.layout.unflatten(random_direction(objective))
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


def custom_functions(loss: Tensor) -> list[str]:
    """Names of the autograd functions in a loss's graph that are not torch's own."""
    todo, seen, found = [t.grad_fn for t in tree_leaves(loss) if isinstance(t, Tensor)], set[Any](), []
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        own = getattr(node, "_forward_cls", None)
        if own is not None and not own.__module__.startswith("torch."):
            found.append(own.__name__)
        todo += [after for after, _ in node.next_functions]
    return sorted(set(found))
