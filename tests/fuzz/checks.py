"""The checks: every number of a network's objective against its reference, everything of the user's left alone."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import gc
import logging
import random
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse.linalg
import scipy.special
import torch
import torch._dynamo
from torch import Tensor, nn

import landscape
from tests.fuzz.networks import Network, Recipe
from tests.fuzz.reference import Estimate, Reference
from tests.fuzz.untouched import autograd_works, changed, leftovers, model_state, process_changes, process_state

# Imported here because they add warning filters, which a call that imports them first would seem to leave behind.
assert scipy.sparse.linalg
assert scipy.special
assert torch._dynamo


@dataclasses.dataclass(frozen=True)
class Fault:
    """One deviation.

    Attributes:
        check: what was checked.
        message: what came and what is right.
    """

    check: str
    message: str


@dataclasses.dataclass
class Outcome:
    """What the checks of one network gave.

    Attributes:
        recipe: of the network.
        counts: comparisons by check.
        skips: by check, comparisons left out because the reference disagrees with itself.
        refusals: by check, calls refused as declared.
        strategies: how products were made, by name.
        seconds: taken.
    """

    recipe: Recipe
    faults: list[Fault] = dataclasses.field(default_factory=list)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    skips: dict[str, int] = dataclasses.field(default_factory=dict)
    refusals: dict[str, int] = dataclasses.field(default_factory=dict)
    strategies: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


class Refused(Exception):
    """A call was refused as declared, or failed with a fault already filed; the check ends here."""


class Blown(Exception):
    """Raised in the middle of the model."""


@dataclasses.dataclass(frozen=True)
class Depth:
    """How much is checked of each network.

    Attributes:
        checks: how many kinds, drawn at random beside loss and gradient; all if none.
        only: these kinds alone.
        traced: share of networks whose products are traced too.
        dense: share whose eigenvalues and traces are checked.
        after_every_call: look at the model after every call, not after every check.
    """

    checks: int | None = None
    only: tuple[str, ...] = ()
    traced: float = 0.5
    dense: float = 0.2
    after_every_call: bool = True


QUICK = Depth(checks=4, traced=0.05, dense=0.05, after_every_call=False)
THOROUGH = Depth()


class Session:
    """The checks of one network, which see one and the same user's model throughout."""

    def __init__(self, network: Network, depth: Depth) -> None:
        self.network, self.depth = network, depth
        self.recipe = network.recipe
        self.outcome = Outcome(network.recipe)
        self.rng = random.Random(network.recipe.seed ^ 0x5EED)
        self.generator = torch.Generator().manual_seed(network.recipe.seed + 3)
        self.reference = Reference(network)
        rounds = network.recipe.single or any(found.single for found in network.idioms)
        self.single = Reference(network, torch.float32) if rounds else None
        self.task = network.task()
        self.loss = network.loss_of(self.task)
        self.x = network.x.clone()
        self.model = network.model()
        self.w = self.reference.weights
        self.called = ""  # the last call after which the model has not been looked at
        self.broken = False  # by a call, so that the next check takes a model made anew
        self.fills = {f"body.{i}": found.fills for i, found in self._places(self.model)}
        self._watch()

    def _places(self, model: nn.Module) -> Iterator[tuple[int, Any]]:
        """Where each idiom sits in the model, the adapters between kinds counted."""
        kind, place = self.recipe.source, 0
        for found in self.network.idioms:
            if found.kind != kind:
                place, kind = place + 1, found.kind
            yield place, found
            place += 1

    # What surrounds calls

    def _watch(self) -> None:
        self._models = {"model": self.model, "loss": self.task.loss if isinstance(self.task.loss, nn.Module) else None}
        self._before = self._state()
        self._graphs = leftovers(self.model)[1]
        self._data = self.x.clone(), self.task.labels.clone()

    def _state(self) -> dict[str, Any]:
        found = {}
        for name, module in self._models.items():
            if module is not None:
                found |= {
                    f"{name}:{k}": v for k, v in model_state(module, self.fills if name == "model" else {}).items()
                }
        return found

    @contextlib.contextmanager
    def watched(self, check: str, collect: bool = False) -> Iterator[None]:
        """Within, calls are made; after it, model, data and process must be as they were."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            differing: list[str] = []
            with _ambient(self.recipe.ambient):
                before = process_state()
                try:
                    yield
                finally:
                    differing += process_changes(before, process_state())
                    if collect:
                        gc.collect()
                        now = process_changes(before, process_state())
                        differing += [f"after a collection, {d}" for d in now if d not in differing]
                    self._compare(f"{check}: process untouched", not differing, "; ".join(differing[:3]))
        self.called = check
        if self.depth.after_every_call:
            self._settle()

    def _settle(self) -> None:
        """Compare the model and the data with what they were."""
        check, self.called = self.called, ""
        if not check:
            return
        after = self._state()
        different = changed(self._before, after)
        self._compare(f"{check}: model untouched", not different, "; ".join(different[:3]))
        unusable, graphs = leftovers(self.model)
        self._compare(f"{check}: caches usable", not unusable, "; ".join(unusable[:3]))
        left = sorted(graphs - self._graphs)
        self._compare(f"{check}: no graphs left", not left, "; ".join(left[:3]))
        same = torch.equal(self.x, self._data[0]) and torch.equal(self.task.labels, self._data[1])
        same = same and not self.x.requires_grad
        self._compare(f"{check}: data untouched", same, "inputs or labels were written to")
        if different:
            self._before, self.broken = after, True
        if not same:
            self.x, self.broken = self._data[0].clone(), True
        if left or unusable:
            self.broken = True

    def call(self, check: str, function: Callable[[], Any], *, collect: bool = False) -> Any:
        """The result of a call, with all that surrounds it checked.

        Raises:
            Refused: it failed; filed as a fault where that is not declared.
        """
        if not autograd_works():  # filed by the call that did it
            raise Refused
        try:
            with self.watched(check, collect):
                result = function()
        except Exception as error:
            self._refused(check, error)
            raise Refused from error
        if self.network.random and check not in ("objective", "at", "restricted", "astype", "batched"):
            self._compare(check, False, "two evaluations differ, yet it was answered")
            raise Refused
        return result

    def _refused(self, check: str, error: Exception) -> None:
        message = str(error)
        declared = [*self.network.refusals(), *([("*", "differ|random")] if self.network.random else [])]
        allowed = any(fnmatch.fnmatch(check, which) and re.search(words, message) for which, words in declared)
        clear = isinstance(error, ValueError | RuntimeError) and "\n" not in message.strip() and len(message) < 500
        if allowed and clear:
            _count(self.outcome.refusals, check)
            return
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = (
            f"{type(error).__name__}: {message.strip()[:200]!r} at {where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
        )
        self._compare(check, False, f"refused in unclear words, {text}" if allowed else f"raised {text}")

    # Comparisons

    def _compare(self, check: str, right: bool, message: str) -> None:
        _count(self.outcome.counts, check.split(":")[-1].strip() if ":" in check else check)
        if not right:
            self.outcome.faults.append(Fault(check, message))

    def skip(self, check: str) -> None:
        _count(self.outcome.skips, check)

    def number(self, check: str, got: float, function: Callable[[Reference], float], tol: float | None = None) -> None:
        """A loss-like number against the reference, with the rounding of the model's dtype."""
        right = function(self.reference)
        if np.isnan(right) or np.isinf(right):
            self._compare(check, bool(np.isnan(got) or np.isinf(got)), f"got {got!r}, right {right!r}")
            return
        tolerance = (2e-5 if self.single else 1e-9) * (1 + abs(right)) if tol is None else tol
        close = abs(got - right) <= tolerance
        if not close and self.single is not None:  # what rounding makes of it in plain evaluation
            plain = function(self.single)
            close = abs(got - right) <= 20 * abs(plain - right) or abs(got - plain) <= tolerance
        self._compare(check, bool(close), f"got {got!r}, right {right!r}")

    def vector(self, check: str, got: Tensor, right: Tensor, plain: Tensor | None = None) -> None:
        """A gradient-like vector against the reference's."""
        if got.shape != right.shape:
            self._compare(check, False, f"got shape {tuple(got.shape)}, right {tuple(right.shape)}")
            return
        got = got.detach().double()
        scale = float(right.norm())
        tolerance = (1e-4 if self.single else 1e-8) * (1e-2 + scale)
        error = float((got - right).norm())
        if plain is not None:
            tolerance = max(tolerance, 20 * float((plain - right).norm()))
            error = min(error, float((got - plain).norm()))
        self._compare(check, error <= tolerance, f"off by {error:.3g} of {scale:.3g}")

    def image(self, check: str, got: Tensor, right: Estimate, floor: float) -> None:
        """A product with a vector against differences; left out where two step sizes disagree."""
        got = got.detach().double()
        if got.shape != right.value.shape:
            self._compare(check, False, f"got shape {tuple(got.shape)}, right {tuple(right.value.shape)}")
            return
        if not right.error <= 1e-4 * (right.scale + floor) or not np.isfinite(right.scale):
            self.skip(check)
            return
        relative = 5e-3 if self.single else 1e-6
        tolerance = relative * (right.scale + floor) + 5 * right.error
        error = float((got - right.value).norm())
        self._compare(check, error <= tolerance, f"off by {error:.3g} of {right.scale:.3g}, tolerance {tolerance:.1g}")

    # What is compared

    def direction(self, relative: float) -> Tensor:
        v = torch.randn(len(self.w), generator=self.generator, dtype=torch.float64)
        v = v / v.norm() * relative * (1 + float(self.w.norm()))
        return v.to(self.network.dtype).double()

    def objective(self, **changes: Any) -> landscape.Objective:
        given = self.network.arguments(self.x, self.task) | changes
        data, loss = given.pop("data"), given.pop("loss_fn")
        return self.call("objective", lambda: landscape.Objective(self.model, loss, data, **given))

    def run(self) -> Outcome:
        """Make the checks."""
        start = time.perf_counter()
        chosen = [c for c in CHECKS if c in self.depth.only or not self.depth.only]
        if self.depth.checks is not None:
            chosen = [c for c in chosen if c in ALWAYS] + self.rng.sample(
                [c for c in chosen if c not in ALWAYS], self.depth.checks
            )
        try:
            self.differentiable = self._is_gradient_of_loss()
        except RuntimeError:  # blocks that do not go together: one writes over what another needs for its gradient
            self.skip("no gradient by plain means")
            return self.outcome
        for name in chosen:
            if not autograd_works():  # filed by the call that did it
                break
            if self.broken:
                self.model, self.broken = self.network.model(), False
                self._watch()
            try:
                CHECKS[name](self)
            except Refused:
                pass
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                message = f"{type(error).__name__}: {str(error)[:200]} at {where.filename}:{where.lineno}"
                self._compare(f"fuzzer's own {name}", False, message)
            self._settle()
        if autograd_works():
            _trains_on(self)
        self.outcome.seconds = time.perf_counter() - start
        return self.outcome

    def _is_gradient_of_loss(self) -> bool:
        """Whether the gradient is the loss's derivative; not so for detached parts and straight-through estimates."""
        if self.network.random:
            self.reference.gradient(self.w)
            return False
        v = self.direction(1.0)
        slope = self.reference.slope(self.w, v)
        expected = float(self.reference.gradient(self.w) @ v)
        scale = abs(expected) + slope.scale + 1e-3
        if not slope.error <= 1e-3 * scale:
            return True  # a kink tells nothing
        return bool(abs(float(slope.value) - expected) <= 1e-4 * scale)


Check = Callable[[Session], None]
CHECKS: dict[str, Check] = {}
ALWAYS = ("loss", "gradient")


def _check(function: Check) -> Check:
    CHECKS[function.__name__.strip("_")] = function
    return function


@_check
def _loss(s: Session) -> None:
    obj = s.objective()
    found = s.call("loss", obj.evaluate)
    s.number("loss", found.loss["data"], lambda r: r.loss(s.w))
    if s.task.accuracy and s.recipe.end == "plain" and "accuracy" in found.metrics:
        s.number("accuracy", found.metrics["accuracy"]["data"], lambda r: r.accuracy(s.w))


@_check
def _gradient(s: Session) -> None:
    obj = s.objective()
    g = s.call("gradient", obj.gradient)
    plain = s.single.gradient(s.w) if s.single else None
    s.vector("gradient", g, s.reference.gradient(s.w), plain)


@_check
def _elsewhere(s: Session) -> None:
    obj = s.objective()
    w = (s.w + s.direction(0.3)).to(s.network.dtype).double()
    there = s.call("at", lambda: obj.at(w))
    s.number("loss elsewhere", s.call("loss elsewhere", there.loss), lambda r: r.loss(w))
    g = s.call("gradient elsewhere", there.gradient)
    s.vector("gradient elsewhere", g, s.reference.gradient(w), s.single.gradient(w) if s.single else None)
    s.number("loss elsewhere", s.call("loss elsewhere", there.loss), lambda r: r.loss(w))
    s.number("loss at the centre again", s.call("loss", obj.loss), lambda r: r.loss(s.w))


def _floor(s: Session, v: Tensor) -> float:
    """What a product's error is measured by where the product is nearly zero."""
    return 1e-2 * float(v.norm()) * (1e-2 + float(s.reference.gradient(s.w).norm()))


def _operator(s: Session, check: str, make: Callable[[str], Any], right: Callable[[Tensor, Tensor], Estimate]) -> None:
    strategies = ["auto", "double_backward", "lean"]
    s.rng.shuffle(strategies)
    strategies = strategies if s.depth.checks is None else strategies[:1]
    if s.rng.random() < s.depth.traced:
        strategies.append("split")
    v = s.direction(1.0)
    v = v / v.norm()
    expected = right(s.w, v)
    for strategy in strategies:
        name = f"{check}.{strategy}"
        with contextlib.suppress(Refused):
            H = s.call(name, lambda strategy=strategy: make(strategy))
            operand = torch.stack([v, -2 * v], 1) if s.rng.random() < 0.3 else v
            traced = strategy == "split"
            image = s.call(name, lambda H=H, operand=operand: H @ operand.to(s.network.dtype), collect=traced)
            _count(s.outcome.strategies, f"{strategy}: {H.strategy.name}")
            if operand.ndim == 2:
                s.image(name, image[:, 1] / -2, expected, _floor(s, v))
                image = image[:, 0]
            s.image(name, image, expected, _floor(s, v))
            again = s.call(name, lambda H=H: H @ v.to(s.network.dtype), collect=traced)
            s.image(f"{name} again", again, expected, _floor(s, v))


@_check
def _hessian(s: Session) -> None:
    if not s.differentiable:
        s.skip("hessian")
        return
    obj = s.objective()
    budget = s.rng.choice((4 * 2**30, 0, 3000))
    _operator(
        s,
        "hessian",
        lambda strategy: landscape.HessianOperator(obj, strategy=strategy, memory_budget=budget),
        s.reference.hessian,
    )


@_check
def _hessian_elsewhere(s: Session) -> None:
    if not s.differentiable:
        s.skip("hessian elsewhere")
        return
    obj = s.objective()
    w = (s.w + s.direction(0.3)).to(s.network.dtype).double()
    v = s.direction(1.0)
    H = s.call("hessian elsewhere", lambda: landscape.HessianOperator(obj.at(w), strategy="double_backward"))
    image = s.call("hessian elsewhere", lambda: H @ v.numpy())
    s.image("hessian elsewhere", torch.as_tensor(image), s.reference.hessian(w, v), _floor(s, v))


@_check
def _ggn(s: Session) -> None:
    obj = s.objective()
    _operator(s, "ggn", lambda strategy: landscape.GGNOperator(obj, strategy=strategy), s.reference.ggn)


@_check
def _fisher(s: Session) -> None:
    obj = s.objective()
    if s.network.random:
        s.call("fisher", lambda: landscape.EmpiricalFisherOperator(obj) @ s.w.to(s.network.dtype))
    gradients, weights = s.reference.sample_gradients(s.w)
    _operator(
        s,
        "fisher",
        lambda strategy: landscape.EmpiricalFisherOperator(obj, strategy=strategy),
        lambda w, v: Estimate(gradients.T @ (weights * (gradients @ v)), 0.0),
    )


@_check
def _line(s: Session) -> None:
    obj = s.objective()
    d = s.direction(s.rng.choice((0.1, 0.3)))
    alphas = [-1.5, -0.5, 0.0, 0.7, 1.0]
    check = s.rng.random() < 0.4
    found = s.call("line", lambda: landscape.line(obj, d.to(s.network.dtype), alphas, check=check))
    for alpha, value in zip(alphas, found.loss[0], strict=True):
        s.number("line", float(value), lambda r, alpha=alpha: r.loss(s.w + alpha * d))


@_check
def _line_in_detail(s: Session) -> None:
    """Views, classes and a direction that moves some parameters only."""
    views = _views(s)
    obj = s.objective(views=views)
    name = s.rng.choice([n for n, p in s.model.named_parameters() if p.requires_grad])
    whole = landscape.filter_normalized_direction(s.model, seed=1, policy={"vector": "tensor", "norm": "tensor"})
    d = whole.double() * 0.5
    if s.rng.random() < 0.5:
        d = s.direction(0.2)
        start = 0
        for other, p in s.model.named_parameters():
            if p.requires_grad:
                d[start : start + p.numel()] *= float(other == name)
                start += p.numel()
    alphas = [1.0, -1.0, 0.0]
    found = s.call("line of views", lambda: landscape.line(obj, d.to(s.network.dtype), alphas, check=False))
    for k, view in enumerate(views):
        for alpha, value in zip(alphas, found.loss[k], strict=True):
            s.number("line of views", float(value), lambda r, a=alpha, v=view: r.loss(s.w + a * d, v.indices, v.labels))


@_check
def _plane(s: Session) -> None:
    obj = s.objective()
    a, b = s.direction(0.2), s.direction(0.2)
    alphas, betas = [-1.0, 0.0, 1.0], [-0.5, 1.5]
    found = s.call(
        "plane",
        lambda: landscape.plane(obj, a.to(s.network.dtype), b.to(s.network.dtype), alphas, betas, check=False),
    )
    for i, alpha in enumerate(alphas):
        for j, beta in enumerate(betas):
            s.number("plane", float(found.loss[0, i, j]), lambda r, p=alpha, q=beta: r.loss(s.w + p * a + q * b))


def _views(s: Session) -> list[landscape.View]:
    n = s.recipe.samples
    order = torch.randperm(n, generator=s.generator)
    other = s.task.labels[order]
    some = order[: max(2, n // 2)].sort().values
    return [
        landscape.View("all"),
        landscape.View("some", indices=some),
        landscape.View("others", labels=other),
        landscape.View("some others", indices=order[-3:].sort().values, labels=other),
    ]


def _counts_something(s: Session, view: landscape.View) -> bool:
    labels = s.task.labels if view.labels is None else view.labels
    return bool(s.task.weight(labels if view.indices is None else labels[view.indices]))


@_check
def _several_views(s: Session) -> None:
    views = [v for v in _views(s) if _counts_something(s, v)]
    obj = s.objective(views=views)
    found = s.call("views", obj.evaluate)
    for view in views:
        s.number("views", found.loss[view.name], lambda r, v=view: r.loss(s.w, v.indices, v.labels))
        if s.task.accuracy and s.recipe.end == "plain":
            s.number(
                "accuracy of views",
                found.metrics["accuracy"][view.name],
                lambda r, v=view: r.accuracy(s.w, v.indices, v.labels),
            )
    view = s.rng.choice(views)
    alone = obj.view(view.name)
    s.number("view", s.call("view", alone.loss), lambda r: r.loss(s.w, view.indices, view.labels))
    g = s.call("gradient of view", alone.gradient)
    plain = s.single.gradient(s.w, view.indices, view.labels) if s.single else None
    s.vector("gradient of view", g, s.reference.gradient(s.w, view.indices, view.labels), plain)
    if s.differentiable:
        v = s.direction(1.0)
        image = s.call("hessian of view", lambda: landscape.HessianOperator(alone) @ v)
        s.image("hessian of view", image, s.reference.hessian(s.w, v, view.indices, view.labels), _floor(s, v))


@_check
def _restricted(s: Session) -> None:
    obj = s.objective()
    trainable = [(n, p) for n, p in s.model.named_parameters() if p.requires_grad]
    name, _ = s.rng.choice(trainable)
    mask = torch.cat(
        [torch.full((p.numel() * (2 if p.is_complex() else 1),), float(n == name)) for n, p in trainable]
    ).bool()
    part = s.call("restricted", lambda: obj.restricted(name))
    s.number("loss restricted", s.call("loss restricted", part.loss), lambda r: r.loss(s.w))
    g = s.call("gradient restricted", part.gradient)
    plain = s.single.gradient(s.w)[mask] if s.single else None
    s.vector("gradient restricted", g, s.reference.gradient(s.w)[mask], plain)
    moved = s.w + s.direction(0.2) * mask
    there = s.call("restricted", lambda: part.at(moved[mask].to(s.network.dtype)))
    moved = moved.to(s.network.dtype).double()
    s.number("loss restricted elsewhere", s.call("loss restricted", there.loss), lambda r: r.loss(moved))
    if s.differentiable and int(mask.sum()):
        v = s.direction(1.0) * mask
        strategy = s.rng.choice(("double_backward", "lean"))
        H = s.call("hessian restricted", lambda: landscape.HessianOperator(part, strategy=strategy))
        image = s.call("hessian restricted", lambda: H @ v[mask])
        right = s.reference.hessian(s.w, v)
        s.image("hessian restricted", image, Estimate(right.value[mask], right.error), _floor(s, v))


@_check
def _other_precision(s: Session) -> None:
    obj = s.objective()
    other = torch.float64 if s.recipe.single else torch.float32
    cast = s.call("astype", lambda: obj.astype(other))
    loss, right = s.call("loss in another dtype", cast.loss), s.reference.loss(s.w)
    g, exact = s.call("gradient in another dtype", cast.gradient), s.reference.gradient(s.w)
    if not np.isfinite(right):
        return
    if other == torch.float64:
        s._compare(
            "loss in another dtype", abs(loss - right) <= 1e-8 * (1 + abs(right)), f"got {loss!r}, right {right!r}"
        )
        error, scale = float((g - exact).norm()), float(exact.norm())
        s._compare("gradient in another dtype", error <= 1e-7 * (1e-2 + scale), f"off by {error:.3g} of {scale:.3g}")
        return
    plain = Reference(s.network, torch.float32)
    rounded, slope = plain.loss(s.w), plain.gradient(s.w)
    allowed = max(5e-5 * (1 + abs(right)), 20 * abs(rounded - right))
    s._compare("loss in another dtype", abs(loss - right) <= allowed, f"got {loss!r}, right {right!r}")
    error = min(float((g.double() - exact).norm()), float((g.double() - slope).norm()))
    allowed = max(1e-4 * (1e-2 + float(exact.norm())), 20 * float((slope - exact).norm()))
    s._compare("gradient in another dtype", error <= allowed, f"off by {error:.3g} of {float(exact.norm()):.3g}")


@_check
def _other_batches(s: Session) -> None:
    obj = s.objective()
    size = s.rng.choice((1, 2, s.recipe.samples))
    other = s.call("batched", lambda: obj.batched(size))
    s.number("loss batched", s.call("loss batched", other.loss), lambda r: r.loss(s.w))
    g = s.call("gradient batched", other.gradient)
    s.vector("gradient batched", g, s.reference.gradient(s.w), s.single.gradient(s.w) if s.single else None)


@_check
def _sharpness(s: Session) -> None:
    obj = s.objective()
    rho = s.rng.choice((0.05, 0.5))
    g = s.reference.gradient(s.w)
    base = s.reference.loss(s.w)
    if float(g.norm()) > 1e-4:
        found = s.call("sam sharpness", lambda: landscape.sam_sharpness(obj, rho))
        top = s.w + rho * g / g.norm()
        s.number("sam sharpness", float(found), lambda r: r.loss(top) - r.loss(s.w), _rise(s, base, rho))
    if float((s.w * g).norm()) > 1e-4:
        found = s.call("adaptive sharpness", lambda: landscape.adaptive_sharpness(obj, rho))
        far = s.w + rho * s.w.square() * g / (s.w * g).norm()
        s.number("adaptive sharpness", float(found), lambda r: r.loss(far) - r.loss(s.w), _rise(s, base, rho))
    found = s.call("average sharpness", lambda: landscape.average_sharpness(obj, 0.1, num_samples=3, seed=4))
    generator = torch.Generator().manual_seed(4)
    draws = [torch.randn(len(s.w), generator=generator, dtype=torch.float64) * 0.1 for _ in range(3)]

    def average(r: Reference) -> float:
        rises = [(r.loss(s.w + d) + r.loss(s.w - d)) / 2 - r.loss(s.w) for d in draws]
        return sum(rises) / len(rises)

    s.number("average sharpness", float(found), average, _rise(s, base, rho))


def _rise(s: Session, base: float, rho: float) -> float:
    return (2e-3 if s.single else 1e-7) * (1e-2 + abs(base)) * (1 + rho)


@_check
def _spectrum(s: Session) -> None:
    if not s.differentiable or len(s.w) > 90 or s.rng.random() > s.depth.dense:
        return
    obj = s.objective()
    columns = [s.reference.hessian(s.w, e) for e in torch.eye(len(s.w), dtype=torch.float64)]
    dense = torch.stack([c.value for c in columns])
    asymmetry = float((dense - dense.T).norm())
    if sum(c.error for c in columns) + asymmetry > 1e-3 * (1e-3 + float(dense.norm())):
        s.skip("eigenpairs")
        return
    H = landscape.HessianOperator(obj)
    found = s.call("eigenpairs", lambda: landscape.top_eigenpairs(H, 2, which="LM", tol=1e-5))
    values = torch.linalg.eigvalsh((dense + dense.T) / 2)
    right = values[values.abs().argsort(descending=True)][:2]
    error = float((torch.as_tensor(found.values) - right).abs().max())
    allowed = (2e-2 if s.single else 1e-3) * (1e-3 + float(right.abs().max()))
    s._compare("eigenpairs", error <= allowed, f"got {found.values}, right {right.tolist()}")
    trace = s.call("trace", lambda: landscape.trace(H, len(s.w)))
    right_trace = float(dense.trace())
    allowed = 6 * trace.stderr + (2e-2 if s.single else 1e-5) * (1e-3 + float(dense.norm()))
    s._compare("trace", abs(trace.value - right_trace) <= allowed, f"got {trace.value}, right {right_trace}")


@_check
def _exception(s: Session) -> None:
    """An exception in the middle of the model, at some forward pass of some call."""
    left = [0]

    def fuse() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Blown

    s._settle()
    user, s.model = s.model, s.network.model(fuse)
    s._watch()
    try:
        obj = s.objective()
        d = s.direction(0.1).to(s.network.dtype)
        calls: dict[str, Callable[[], Any]] = {
            "loss": obj.loss,
            "gradient": obj.gradient,
            "hessian": lambda: landscape.HessianOperator(obj) @ d,
            "hessian.lean": lambda: landscape.HessianOperator(obj, strategy="lean") @ d,
            "ggn": lambda: landscape.GGNOperator(obj) @ d,
            "line": lambda: landscape.line(obj, d, [0.0, 1.0]),
            "sharpness": lambda: landscape.sam_sharpness(obj),
        }
        if s.rng.random() < s.depth.traced:
            calls["hessian.split"] = lambda: landscape.HessianOperator(obj, strategy="split") @ d
        for name in s.rng.sample(list(calls), 2):
            left[0] = s.rng.randint(1, 8)
            with contextlib.suppress(Exception), s.watched(f"exception in {name}", collect=name == "hessian.split"):
                calls[name]()
            s._settle()
            left[0] = 0
        s.number("loss after an exception", s.call("loss after an exception", obj.loss), lambda r: r.loss(s.w))
        s._settle()
    finally:
        s.model = user
        s._watch()


def _trains_on(s: Session) -> None:
    """The user's model goes on training, and does so as one that was never measured."""
    if s.network.random:
        return
    gradients = []
    for model, x, task in ((s.network.model(), s.network.x.clone(), s.network.task()), (s.model, s.x.clone(), s.task)):
        loss_fn = s.network.loss_of(task)
        try:
            with torch.random.fork_rng():
                torch.manual_seed(7)
                model.train()
                rows = min(5, len(x))
                loss = loss_fn(model(x[:rows]), task.labels[:rows])
                loss.backward()
        except Exception as error:
            if not gradients:
                return  # it does not train anyway
            s._compare("trains on", False, f"{type(error).__name__}: {str(error)[:200]}")
            return
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        gradients.append([g.to_dense() if g.is_sparse else g for g in grads])
    pristine, measured = gradients
    same = len(pristine) == len(measured) and all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in zip(pristine, measured, strict=True)
    )
    s._compare("trains on", same, "the gradient of a training step differs from that of a model never measured")


@contextlib.contextmanager
def _ambient(kind: str) -> Iterator[None]:
    with {
        "plain": contextlib.nullcontext,
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    }[kind]():
        yield


def _count(table: dict[str, int], key: str) -> None:
    table[key] = table.get(key, 0) + 1


def check_network(recipe: Recipe, depth: Depth = THOROUGH) -> Outcome:
    """Make a network's checks; an error of the reference itself is filed as the fuzzer's own.

    Raises:
        RuntimeError: an earlier call has switched autograd off in this process, so nothing can be checked in it.
    """
    if not autograd_works():
        raise RuntimeError("autograd is switched off in this process, by a call that was made earlier")
    logger = logging.getLogger("landscape")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Session(Network(recipe), depth).run()
    finally:
        logger.setLevel(level)
