"""What landscape says about a model, against plain evaluation of a copy that landscape never sees.

A :class:`Case` is a model, its data and its loss. :data:`CHECKS` are the comparisons, each a function of a case;
``@battery(CASES)`` makes a test of every pair.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, default_collate

import landscape

Batch = Any


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip a file's tests, with a message, where one of the packages is not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(
        bool(missing), reason=f"{', '.join(missing)} not installed: pip install -e '.[wild]' -c constraints.txt"
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A model, its data and its loss, made anew by every call from the same random numbers.

    Attributes:
        model: makes it; parameters and BatchNorm statistics are then shaken, so that none stays at a special value.
        data: makes ``(x, …, labels)``, a mapping with ``"labels"``, or a ``Dataset``, with real numbers in float64.
        loss: of outputs and labels.
        forward, normalizer: as for :class:`landscape.Objective`.
        accuracy: what a metric of this name must be if there is one; not compared if none.
        inside: whether the loss is computed inside the model, so that the GGN and other labels must be refused.
        dtype: of the model.
        precision: in which the model or the loss computes a part of its numbers, where that is less.
        strategy: of Hessian products; any but ``"auto"`` where that must be refused and name this one.
        slow: whether only its loss, gradient and product belong to the quick suite.
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[], Any]
    loss: Callable[[Any, Any], Tensor]
    forward: Callable[[nn.Module, Batch], Any] | None = None
    normalizer: Callable[[Any], float] | None = None
    accuracy: Callable[[Any, Any], Tensor] | None = None
    inside: bool = False
    dtype: torch.dtype = torch.float64
    precision: torch.dtype | None = None
    strategy: str = "auto"
    slow: bool = False

    @property
    def eps(self) -> float:
        return torch.finfo(self.precision or self.dtype).eps

    @property
    def rounding(self) -> float:
        """Relative error of sums taken in another order through a whole network."""
        return 1e3 * self.eps

    @property
    def steps(self) -> tuple[float, ...]:
        """Of differences; extrapolated ones have errors of the order of step⁴ and eps / step."""
        return tuple(self.eps**0.2 * factor for factor in (1, 0.1, 0.01))

    @property
    def smooth(self) -> float:
        """Relative error of a difference of gradients, kinks within a step apart."""
        return self.eps**0.4

    def __str__(self) -> str:
        return self.name

    def make(self) -> nn.Module:
        with self._seeded():
            model = self.model()
            model = model.double() if self.dtype == torch.float64 else model.float()  # complex numbers stay
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(0.1 * torch.randn_like(p))
                for name, b in model.named_buffers():
                    if name.endswith("running_mean"):
                        b.add_(0.1 * torch.randn_like(b))
                    elif name.endswith("running_var"):
                        b.mul_(0.5 + torch.rand_like(b))
        return model

    def make_data(self) -> Any:
        with self._seeded():
            return self.data()

    def batch(self) -> Batch:
        """All data as one batch."""
        data = self.make_data()
        data = data.dataset if isinstance(data, DataLoader) else data
        return default_collate([data[i] for i in range(len(data))]) if isinstance(data, Dataset) else data

    def call(self, model: nn.Module, batch: Batch) -> Any:
        """Outputs, by the way that is differentiated also where torch has a faster one to other numbers."""
        before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            return model(*batch[:-1]) if self.forward is None else self.forward(model, batch)
        finally:
            torch.backends.mha.set_fastpath_enabled(before)

    def objective(self, model: nn.Module | None = None, batch_size: int = 4, **options: Any) -> landscape.Objective:
        """The objective as a user would make it; the last batch is smaller than the others."""
        return landscape.Objective(
            self.make() if model is None else model,
            options.pop("loss", self.loss),
            options.pop("data", None) or self.make_data(),
            batch_size=batch_size,
            forward=self.forward,
            normalizer=self.normalizer,
            **options,
        )

    def hessian(self, objective: landscape.Objective) -> landscape.HessianOperator:
        return landscape.HessianOperator(objective, strategy=self.strategy)

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        with torch.random.fork_rng():
            torch.manual_seed(zlib.crc32(self.name.encode()))
            yield


class Plain:
    """A case as the user's own code would evaluate it: one batch, eval mode, torch's autograd, no landscape."""

    def __init__(self, case: Case) -> None:
        self.case, self.model, self.batch = case, case.make().eval(), case.batch()
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.weights = self._flat(p.detach() for p in self._parameters)

    def outputs(self, weights: Tensor) -> Any:
        start = 0
        with torch.no_grad():
            for p in self._parameters:
                real = torch.view_as_real(p) if p.is_complex() else p
                real.copy_(weights[start : start + real.numel()].view_as(real))
                start += real.numel()
        return self.case.call(self.model, tree_map(_cloned, self.batch))

    def loss(self, weights: Tensor) -> float:
        return self._loss(weights).item()

    def gradient(self, weights: Tensor) -> Tensor:
        return self._flat(torch.autograd.grad(self._loss(weights), self._parameters, materialize_grads=True))

    def product(self, weights: Tensor, v: Tensor) -> Tensor:
        """H v by differences of gradients at three steps, of which neighbours agree away from kinks."""
        found = [self.derivative(self.gradient, weights, v, step / float(v.norm())) for step in self.case.steps]
        errors = [float((a - b).norm()) for a, b in itertools.pairwise(found)]
        best = int(np.argmin(errors))
        assert errors[best] <= self.case.smooth * float(found[best + 1].norm()), "no step gives a reference"
        return found[best + 1]

    def derivative(self, f: Callable[[Tensor], Any], weights: Tensor, v: Tensor, step: float) -> Any:
        """Of ``f`` along ``v``, by two central differences and Richardson's extrapolation."""
        ends = [f(weights + t * v) for t in (step, -step, step / 2, -step / 2)]

        def extrapolated(a: Any, b: Any, c: Any, d: Any) -> Any:
            return (8 * (c - d) - (a - b)) / (6 * step) if _differentiable(a) else a

        return tree_map(extrapolated, *ends)

    def top_eigenvalue(self) -> float:
        """From all products where they are few enough, else by ARPACK on products by differences of gradients."""
        size, w = len(self.weights), self.weights

        def product(v: Tensor) -> Tensor:
            step = self.case.eps**0.4 / float(v.norm())
            moved = step * v.to(w.dtype)
            return (self.gradient(w + moved) - self.gradient(w - moved)).double() / (2 * step)

        if size <= 100:
            dense = torch.stack([product(e) for e in torch.eye(size)])
            return float(torch.linalg.eigvalsh((dense + dense.T) / 2)[-1])
        operator = LinearOperator(
            (size, size), matvec=lambda v: product(torch.from_numpy(v.reshape(-1))).numpy(), dtype=np.float64
        )
        start = np.random.default_rng(0).standard_normal(size)
        found = eigsh(operator, k=1, which="LA", tol=self.case.smooth, v0=start, return_eigenvectors=False)
        return float(found[0])

    def gauss_newton(self, weights: Tensor, v: Tensor) -> float:
        """vᵀGv: the curvature of the loss in output space along the outputs' derivative."""
        step = self.case.steps[1] / float(v.norm())
        moved = self.derivative(lambda w: tree_map(_detached, self.outputs(w)), weights, v, step)
        outputs = tree_map(_detached, self.outputs(weights))
        t = torch.zeros((), dtype=weights.dtype, requires_grad=True)
        along = tree_map(lambda o, d: o + t * d if _differentiable(o) else o, outputs, moved)
        (slope,) = torch.autograd.grad(self.case.loss(along, labels_of(self.batch)), t, create_graph=True)
        return torch.autograd.grad(slope, t)[0].item() if slope.requires_grad else 0.0

    def direction(self, seed: int = 0) -> Tensor:
        """A random unit vector."""
        v = torch.randn(len(self.weights), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return (v / v.norm()).to(self.weights.dtype)

    def rows(self, rows: Tensor, labels: Tensor | None = None) -> float:
        """Loss of some samples, perhaps with other labels, at the model's weights."""
        batch = tree_map(lambda t: t[rows], self.batch)
        outputs = self.case.call(self.model, batch)
        return self.case.loss(outputs, labels_of(batch) if labels is None else labels[rows]).item()

    def _loss(self, weights: Tensor) -> Tensor:
        outputs = self.outputs(weights)
        return self.case.loss(outputs, tree_map(_cloned, labels_of(self.batch)))

    @staticmethod
    def _flat(tensors: Any) -> Tensor:
        dense = (t.to_dense() if t.is_sparse else t for t in tensors)
        return torch.cat([(torch.view_as_real(t.resolve_conj()) if t.is_complex() else t).reshape(-1) for t in dense])


def labels_of(batch: Batch) -> Any:
    return batch["labels"] if isinstance(batch, Mapping) else batch[-1]


@cache
def plain(case: Case) -> Plain:
    return Plain(case)


@cache
def shared(case: Case) -> landscape.Objective:
    """One objective for several checks, since a new one tries its model out first."""
    return case.objective()


def close(got: Any, right: Any, tolerance: float) -> None:
    """Within a share of the largest of the right values."""
    got, right = torch.as_tensor(got, dtype=torch.float64), torch.as_tensor(right, dtype=torch.float64)
    torch.testing.assert_close(got, right, rtol=0, atol=tolerance * float(right.abs().max()))


# --- the checks ---


def loss_and_gradient(case: Case) -> None:
    """Loss, gradient and accuracy are those of plain evaluation, and the gradient is the slope of the loss."""
    reference, obj = plain(case), shared(case)
    w, d = reference.weights, reference.direction()
    close(obj.weights, w, 0)
    close(obj.loss(), reference.loss(w), case.rounding)
    close(obj.gradient(), reference.gradient(w), case.rounding)
    slope, scale = float(obj.gradient() @ d), float(obj.gradient().norm())
    slopes = [
        reference.derivative(lambda w: torch.tensor(obj.at(w).loss(), dtype=torch.float64), w, d, step)
        for step in case.steps
    ]
    rounding = [case.rounding * abs(reference.loss(w)) / step for step in case.steps]
    assert min(abs(float(s) - slope) - r for s, r in zip(slopes, rounding, strict=True)) <= case.smooth * scale
    if case.accuracy is not None:
        found = obj.evaluate().metrics.get("accuracy")
        if found is not None:
            outputs = reference.outputs(w)
            close(found["data"], case.accuracy(outputs, labels_of(reference.batch)), case.rounding)


def hessian_product(case: Case) -> None:
    """H v and a block of products equal differences of plain gradients."""
    reference, H = plain(case), case.hessian(shared(case))
    if case.strategy != "auto":
        with pytest.raises(ValueError, match=case.strategy):
            landscape.HessianOperator(shared(case)) @ reference.direction()
    V = torch.stack([reference.direction(seed) for seed in (1, 2)], 1)
    right = torch.stack([reference.product(reference.weights, v) for v in V.T], 1)
    close(H @ V, right, case.smooth)
    close(H @ V[:, 0], right[:, 0], case.smooth)


def gauss_newton_product(case: Case) -> None:
    """uᵀGv is the curvature of the loss in output space, and refused where the loss is no function of outputs."""
    reference = plain(case)
    if case.inside:
        with pytest.raises(ValueError, match="inside the model"):
            landscape.GGNOperator(shared(case)) @ reference.weights
        return
    G, w = landscape.GGNOperator(shared(case)), reference.weights
    u, v = (reference.direction(seed) for seed in (3, 4))
    polarised = (reference.gauss_newton(w, u + v) - reference.gauss_newton(w, u - v)) / 4
    scale = reference.gauss_newton(w, v)
    assert float(v @ (G @ v)) == pytest.approx(scale, rel=case.smooth)
    assert float(u @ (G @ v)) == pytest.approx(polarised, abs=case.smooth * scale)


def top_eigenvalue(case: Case) -> None:
    """The largest eigenvalue is that of products by differences of plain gradients, and so is its eigenvector."""
    reference = plain(case)
    found = landscape.top_eigenpairs(case.hessian(shared(case)), k=1, tol=case.eps**0.3)
    assert found.converged.all()
    value, vector = float(found.values[0]), torch.as_tensor(found.vectors[:, 0])
    assert value == pytest.approx(reference.top_eigenvalue(), rel=case.smooth)  # residual² / gap is less
    right = reference.product(reference.weights, vector.to(reference.weights.dtype))
    assert float((right - value * vector).norm()) <= 2 * case.eps**0.3 * abs(value)


def line(case: Case) -> None:
    """Three points of a surface are plain evaluations at these points."""
    reference = plain(case)
    w, alphas = reference.weights, (-0.3, 0.0, 0.7)
    d = 0.1 * w.norm() * reference.direction(5)
    found = landscape.line(shared(case), d, alphas)
    close(found.loss[0], [reference.loss(w + alpha * d) for alpha in alphas], case.rounding)


def sharpness(case: Case) -> None:
    """SAM's sharpness is the rise of the loss a step of length ρ up its gradient."""
    reference, rho = plain(case), 0.05
    w = reference.weights
    g = reference.gradient(w)
    right = reference.loss(w + rho * g / g.norm()) - reference.loss(w)
    found = landscape.sam_sharpness(shared(case), rho=rho)
    assert float(found) == pytest.approx(right, abs=case.rounding * abs(reference.loss(w)))


def batch_sizes(case: Case) -> None:
    """Samples one by one, in ragged batches and all at once give the same numbers."""
    size = len(tree_leaves(labels_of(case.batch()))[0])
    v = plain(case).direction(6)
    objectives = [shared(case), case.objective(batch_size=1), case.objective(batch_size=size)]
    ragged, *others = [(o.loss(), o.gradient(), case.hessian(o) @ v) for o in objectives]
    for other in others:
        for got, right in zip(other, ragged, strict=True):
            close(got, right, case.rounding)


def views(case: Case) -> None:
    """A view has the loss of its rows; with labels of its own that of its labels, or is refused."""
    reference, batch = plain(case), case.batch()
    own = labels_of(batch)
    rows = torch.tensor([0, 2, 3])
    reference.loss(reference.weights)
    some = case.objective(views=[landscape.View("some", indices=rows)])
    close(some.loss(), reference.rows(rows), case.rounding)
    if not isinstance(own, Tensor):
        return
    other = landscape.View("other", indices=rows, labels=own.roll(1, 0))
    if case.inside:
        with pytest.raises(ValueError, match="labels of its own"):
            case.objective(views=[other]).loss()
        return
    both = case.objective(views=[landscape.View("some", indices=rows), other]).evaluate().loss
    close([both["some"], both["other"]], [reference.rows(rows), reference.rows(rows, own.roll(1, 0))], case.rounding)


def surroundings(case: Case) -> None:
    """No grad mode or autocast around the calls changes a number, in the first of them or in later ones."""
    v = plain(case).direction(7)

    def numbers(obj: landscape.Objective) -> tuple[float, Tensor, Tensor]:
        return obj.loss(), obj.gradient(), case.hessian(obj) @ v

    right = numbers(shared(case))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        born_there = numbers(case.objective())
    with torch.no_grad():
        found = numbers(shared(case))
    for got, expected in zip((*born_there, *found), (*right, *right), strict=True):
        assert torch.equal(torch.as_tensor(got).clone(), torch.as_tensor(expected))


def untouched(case: Case) -> None:
    """Model, data and random states come back bitwise, also after an error, and training goes on as if nothing was."""
    model, data = case.make().train(), case.make_data()
    pristine = case.make().train()
    leaves = [t.clone() for t in _tensors(data)]
    before, states = description(model), random_states()
    v = plain(case).direction(8)

    def measure(obj: landscape.Objective) -> None:
        obj.loss(), obj.gradient(), case.hessian(obj) @ v
        landscape.line(obj, v, [0.0, 0.1])
        landscape.sam_sharpness(obj)

    def failing(outputs: Any, labels: Any) -> Tensor:
        raise RuntimeError("raised by the user's own loss")

    measure(case.objective(model, data=data))
    with pytest.raises(RuntimeError, match="raised by the user's own loss"):
        measure(case.objective(model, data=data, loss=failing))

    after = description(model)
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert after[name] == value, f"{name} has changed"
    assert states == random_states()
    assert all(map(torch.equal, _tensors(data), leaves))
    for one, other in zip(_trained(case, model), _trained(case, pristine), strict=True):
        assert torch.equal(one, other)


CHECKS = (
    loss_and_gradient,
    hessian_product,
    gauss_newton_product,
    top_eigenvalue,
    line,
    sharpness,
    batch_sizes,
    views,
    surroundings,
    untouched,
)
QUICK = (loss_and_gradient, hessian_product)
THOROUGH = (top_eigenvalue, batch_sizes, surroundings)  # in the slow suite: together they take as long as all others


def battery(cases: Sequence[Case]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Parametrize a test of ``(check, case)`` by every pair."""
    pairs = [
        pytest.param(
            check,
            case,
            marks=[pytest.mark.slow] if (case.slow and check not in QUICK) or check in THOROUGH else [],
            id=f"{case.name}-{check.__name__}",
        )
        for case in cases
        for check in CHECKS
    ]
    return pytest.mark.parametrize(("check", "case"), pairs)


# --- what a model is, so that any change shows ---


def description(model: nn.Module) -> dict[str, Any]:
    """Everything a module tree holds: bytes of tensors, and identities of all attributes and what they contain."""
    found: dict[str, Any] = {}
    for name, t in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        raw = t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        found[f"tensor {name}"] = (raw, id(t), t.data_ptr(), t.requires_grad, t.grad is None, t.is_leaf, t.stride())
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            found[f"attribute {name}.{key}"] = _content(value)
        found[f"mode {name}"] = (module.training, type(module))
    return found


def random_states() -> tuple[Any, ...]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())  # noqa: NPY002 - models draw from it


def _content(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [(key, id(v)) for key, v in value.items()]
    if isinstance(value, list | tuple | set):
        return [id(v) for v in value]
    if isinstance(value, bool | int | float | str | bytes | type(None)):
        return value
    return id(value)


def _trained(case: Case, model: nn.Module) -> Iterator[Tensor]:
    """All tensors of a model after a step of training with dropout on."""
    batch = case.batch()
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    with case._seeded():
        case.loss(case.call(model, batch), labels_of(batch)).backward()
    optimizer.step()
    yield from model.state_dict().values()


def _tensors(data: Any) -> list[Tensor]:
    data = data.dataset if isinstance(data, DataLoader) else data
    leaves = tree_leaves([data[i] for i in range(len(data))] if isinstance(data, Dataset) else data)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
