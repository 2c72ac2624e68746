"""The caller's model and process come back as they were, and every forward pass starts from the same state."""

from __future__ import annotations

import contextvars
import functools
import gc
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import landscape
from landscape.objective.isolation import holding, undisturbed


class Cached(nn.Module):
    """Fills a cache, a list, an attribute and a late buffer in forward, as position tables are filled."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.register_buffer("count", torch.zeros(()))
        self.cache: dict[int, Tensor] = {}
        self.seen: list[Tensor] = []
        self.total = torch.zeros(())
        self.hidden: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if len(x) not in self.cache:
            self.cache[len(x)] = torch.full((len(x), 1), 2.0, dtype=x.dtype)
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.ones(5, dtype=x.dtype))
        self.hidden = self.first(x).tanh() * self.cache[len(x)] * self.late
        self.seen.append(self.hidden)
        self.total += 1
        self.count = self.count + 1
        return self.last(self.hidden)


class Ordinary(nn.Sequential):
    def __init__(self) -> None:
        def block(inputs: int) -> list[nn.Module]:
            return [nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU()]

        super().__init__(*block(4), *block(8), nn.Dropout(0.5), nn.Linear(8, 3))


class Hooked(nn.Sequential):
    """Weight norm of both kinds, and hooks that keep what they see."""

    def __init__(self) -> None:
        super().__init__(
            nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.utils.spectral_norm(nn.Linear(5, 3))
        )
        self.kept: list[Any] = []
        self[1].register_forward_hook(lambda module, inputs, output: self.kept.append(output))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.reshape(len(x), 2, 2))[0][:, -1])


MODELS: dict[str, Callable[[], nn.Module]] = {
    "cached": Cached,
    "batchnorm": Ordinary,
    "hooked": Hooked,
    "recurrent": Recurrent,
}

CALLS: dict[str, Callable[[landscape.Objective, Tensor], Any]] = {
    "loss": lambda obj, d: obj.loss(),
    "gradient": lambda obj, d: obj.gradient(),
    "at": lambda obj, d: obj.at(obj.weights + d).loss(),
    "float64": lambda obj, d: obj.astype(torch.float64).loss(),
    "hessian": lambda obj, d: landscape.HessianOperator(obj, strategy="double_backward") @ d,
    "traced": lambda obj, d: landscape.HessianOperator(obj, strategy="split") @ d,
    "lean": lambda obj, d: landscape.HessianOperator(obj, strategy="lean") @ d,
    "ggn": lambda obj, d: landscape.GGNOperator(obj) @ d,
    "fisher": lambda obj, d: landscape.EmpiricalFisherOperator(obj) @ d,
    "line": lambda obj, d: landscape.line(obj, d, [-1.0, 0.0, 0.5]),
    "plane": lambda obj, d: landscape.plane(obj, d, d.flip(0), [0.0, 1.0], [0.0, 1.0], check=False),
    "sharpness": lambda obj, d: landscape.sam_sharpness(obj, steps=2),
    "average": lambda obj, d: landscape.average_sharpness(obj, 0.1, num_samples=2),
    "eigenpairs": lambda obj, d: landscape.top_eigenpairs(landscape.HessianOperator(obj), 1, tol=0.1),
    "restricted": lambda obj, d: obj.restricted("*weight*").gradient(),
}


# Each traces for seconds; of these models the mode changes nothing that tracing could leave behind.
SLOW = {("traced", kind, "eval") for kind in ("cached", "hooked", "recurrent")}


def state(model: nn.Module) -> list[Any]:
    """All that hangs on a model's modules: attributes and what their containers hold, by identity."""
    found: list[Any] = []
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            found.append((name, key, id(value)))
            if isinstance(value, dict):
                found.append([(k, id(v)) for k, v in value.items()])
            elif isinstance(value, list):
                found.append([id(v) for v in value])
    return found


def numbers(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    loose = [v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor)]
    return [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers(), *loose)]


def process() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.overrides._len_torch_function_stack() if hasattr(torch.overrides, "_len_torch_function_stack") else 0,
        len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        random.getstate(),
    )


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    before, was, around = state(model), numbers(model), process()
    yield
    gc.collect()
    assert state(model) == before
    assert process() == around
    for tensor, copy in was:
        assert torch.equal(tensor, copy)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.filterwarnings("ignore::landscape.surfaces.centre_check.SurfaceCheckWarning")
@pytest.mark.parametrize(
    ("call", "kind", "mode"),
    [
        pytest.param(call, kind, mode, marks=[pytest.mark.slow] if (call, kind, mode) in SLOW else [])
        for call in CALLS
        for kind in MODELS
        for mode in ("train", "eval")
    ],
)
def test_nothing_is_left_on_model_or_process(call: str, kind: str, mode: str) -> None:
    torch.manual_seed(0)
    model, x, y = MODELS[kind](), torch.randn(10, 4), torch.arange(10) % 3
    getattr(model, mode)()
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=4)
    direction = torch.randn(objective.num_parameters)
    with untouched(model):
        CALLS[call](objective, direction)
    nn.functional.cross_entropy(model(x), y).backward()  # training goes on


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_left_after_an_exception_in_the_middle(call: str, after: int) -> None:
    torch.manual_seed(0)
    model, x, y = Cached(), torch.randn(10, 4), torch.arange(10) % 3
    passes = 0

    def forward(called: nn.Module, batch: Any) -> Tensor:
        nonlocal passes
        passes += 1
        out = called(batch[0])
        if passes > after:
            raise Stopped
        return out

    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=4, forward=forward)
    direction = torch.randn(objective.num_parameters)
    with untouched(model), pytest.raises(Stopped):
        CALLS[call](objective, direction)


def test_every_forward_pass_starts_from_the_state_that_the_caller_left() -> None:
    class Counting(nn.Linear):
        count = 0.0

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return super().forward(x) * self.count

    model, x, y = Counting(4, 3).double(), torch.randn(10, 4).double(), torch.arange(10) % 3
    expected = nn.functional.cross_entropy(nn.Linear.forward(model, x), y).item()
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=3)
    assert [objective.loss() for _ in range(2)] == pytest.approx([expected] * 2, rel=1e-12)
    line = landscape.line(objective, torch.ones(15), [0.0, 0.0, 0.0], check=False)
    assert line.loss[0] == pytest.approx([expected] * 3, rel=1e-12)


def test_caches_of_functions_keep_tensors_that_are_real() -> None:
    @functools.lru_cache
    def positions(n: int) -> Tensor:
        return torch.full((n, 1), 2.0)

    class Positioned(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).tanh() + positions(len(x))

    model, x, y = Positioned(4, 3), torch.randn(8, 4), torch.randn(8, 3)
    landscape.HessianOperator(landscape.Objective(model, nn.MSELoss(), (x, y)), strategy="split") @ torch.ones(15)
    assert type(positions(8)) is Tensor
    nn.functional.mse_loss(model(x), y).backward()


def test_a_model_that_writes_into_its_input_sees_the_callers_data_each_time() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.layer = nn.Parameter(torch.tensor(0.5)), nn.Linear(20, 3)

        def forward(self, x: Tensor) -> Tensor:
            x[:, 0] = self.shift
            x += x  # not the same twice
            return self.layer(x)

    torch.manual_seed(0)
    model, x, y = Writing().double(), torch.randn(40, 20).double(), torch.randn(40, 3).double()
    data, kept = (x, y), x.clone()
    objective = landscape.Objective(model, nn.MSELoss(), data, batch_size=16)
    direction = torch.randn(objective.num_parameters).double()
    got = landscape.line(objective, direction, [-1.0, 0.0, 1.0]).loss[0]
    for alpha, loss in zip((-1.0, 0.0, 1.0), got, strict=True):
        flat = nn.utils.parameters_to_vector(model.parameters()).detach() + alpha * direction
        moved = Writing().double()
        nn.utils.vector_to_parameters(flat, moved.parameters())
        assert nn.functional.mse_loss(moved(x.clone()), y).item() == pytest.approx(loss, rel=1e-12)
    assert torch.equal(x, kept)


def test_a_loss_that_writes_into_its_labels_leaves_the_callers_alone() -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        labels[labels == 3] = 0
        return nn.functional.cross_entropy(outputs, labels)

    y = torch.arange(12) % 4  # no class 3 among the outputs
    kept = y.clone()
    objective = landscape.Objective(nn.Linear(4, 3), loss, (torch.randn(12, 4), y), metrics={})
    objective.loss(), objective.gradient()
    assert torch.equal(y, kept)


def test_a_model_that_writes_to_its_parameters_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 4, max_norm=0.1), nn.Flatten(), nn.Linear(8, 3))
    ids, y = torch.randint(5, (10, 2)), torch.arange(10) % 3
    kept = model[0].weight.clone()
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (ids, y))
    for call in (objective.loss, objective.gradient):
        with pytest.raises(ValueError, match=r"writes to its parameter '0\.weight' in forward"):
            call()
    assert torch.equal(model[0].weight, kept)


@pytest.mark.parametrize(
    "ambient",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_what_is_around_a_call_changes_nothing(ambient: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model, x, y = Ordinary(), torch.randn(10, 4), torch.arange(10) % 3

    def measured() -> list[float]:
        objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y))
        top = landscape.top_eigenpairs(landscape.HessianOperator(objective), 1).values
        return [objective.loss(), landscape.sam_sharpness(objective, 0.1).value, *top]

    expected = measured()
    with ambient():
        assert measured() == expected


def test_threads_that_share_a_model_wait_for_each_other() -> None:
    torch.manual_seed(0)
    model, x, y = Ordinary().train(), torch.randn(50, 4), torch.arange(50) % 3
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y))
    direction, found = torch.randn(objective.num_parameters), []
    expected = landscape.line(objective, direction, [-1.0, 0.0, 1.0]).loss

    def measure() -> None:
        own = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y))
        found.append(landscape.line(own, direction, [-1.0, 0.0, 1.0]).loss)

    with untouched(model):
        threads = [threading.Thread(target=measure) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 4
    assert all(np.array_equal(one, expected) for one in found)


def test_a_thread_within_the_same_context_is_not_locked_out() -> None:
    model, done = nn.Linear(2, 2), []

    def inner() -> None:
        with undisturbed(model):
            done.append(True)

    with undisturbed(model):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(inner,))
        thread.start()
        thread.join(10)
    assert done == [True]


class Encoder(nn.Module):
    """A mean over padded positions too, into which torch's fast path of evaluation writes zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens), src_key_padding_mask=tokens == 0).mean(1))


@pytest.mark.parametrize("enabled", [True, False])
def test_a_transformer_is_one_function_with_and_without_gradients(enabled: bool) -> None:
    torch.manual_seed(0)
    model, x, y = Encoder().double(), torch.randint(1, 7, (10, 5)), torch.arange(10) % 3
    x[::2, 2:] = 0
    right = nn.functional.cross_entropy(model.eval()(x), y).item()
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=4)
    direction = torch.zeros(objective.num_parameters, dtype=torch.float64)
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(enabled)
        with untouched(model), torch.no_grad():
            assert objective.loss() == pytest.approx(right, rel=1e-12)
            assert landscape.line(objective, direction, [1.0], check=False).loss.item() == pytest.approx(
                right, rel=1e-12
            )
            assert objective.gradient().any()
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_the_fast_path_comes_back_with_the_last_of_several_threads() -> None:
    inside, outer = threading.Event(), threading.Event()

    def measure() -> None:
        with undisturbed(nn.Linear(1, 1)):
            inside.set()
            assert outer.wait(30)

    thread = threading.Thread(target=measure)
    with undisturbed(nn.Linear(1, 1)):
        thread.start()
        assert inside.wait(30)
    assert not torch.backends.mha.get_fastpath_enabled()
    outer.set()
    thread.join()
    assert torch.backends.mha.get_fastpath_enabled()


def test_held_tensors_stand_in_for_tied_ones_under_every_name_and_nest() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    own = model[0].weight
    one, two = torch.eye(2), 2 * torch.eye(2)
    with holding(model, {"0.weight": one}):
        assert model[1].weight is one
        with holding(model, {"1.weight": two}):
            assert model[0].weight is two
        assert model[0].weight is model[1].weight is one
    assert model[0].weight is model[1].weight is own


def test_a_failed_trace_leaves_autograd_on() -> None:
    class Quantile(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).quantile(0.3, dim=1, keepdim=True) + x

    objective = landscape.Objective(Quantile(4, 4), nn.MSELoss(), (torch.randn(20, 4), torch.randn(20, 4)))
    operator = landscape.HessianOperator(objective, strategy="split")
    operator @ torch.ones(20)
    assert operator.strategy.traced.startswith("reverse over reverse (")
    gc.collect()
    assert (torch.ones(2, requires_grad=True) * 2).requires_grad


def test_micro_batches_without_parameters_count_as_zero() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

        def forward(self, x: Tensor) -> Tensor:
            out = x.new_zeros(len(x), 3)
            for k, expert in enumerate(self.experts):
                at = ((x[:, 0] > 0) == k).nonzero()[:, 0]
                if len(at):
                    out = out.index_copy(0, at, expert(x[at]))
            return out

    torch.manual_seed(0)
    x, y = torch.randn(40, 4).double(), torch.randn(40, 3).double()
    x = x[x[:, 0].argsort()]
    model = Experts().double()
    whole, parts = (landscape.Objective(model, nn.MSELoss(), (x, y), batch_size=size) for size in (40, 8))
    for a, b in ((whole, parts), (whole.restricted("experts.1"), parts.restricted("experts.1"))):
        v = torch.randn(a.num_parameters).double()
        torch.testing.assert_close(a.gradient(), b.gradient())
        for kind in (landscape.HessianOperator, landscape.GGNOperator, landscape.EmpiricalFisherOperator):
            for strategy in ("double_backward", "split", "lean"):
                torch.testing.assert_close(kind(b, strategy=strategy) @ v, kind(a) @ v)
