"""BatchNorm folded into the layer before it: what folds gives what it gave, and what may not fold runs as it did."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape.objective.evaluation import folded_batchnorm
from landscape.objective.evaluation.evaluate import Evaluation
from landscape.objective.evaluation.folded_batchnorm import folded
from landscape.objective.isolation import undisturbed
from landscape.objective.objective import Objective

SAMPLES, CLASSES = 11, 3


def settled(model: nn.Module) -> nn.Module:
    """With statistics and weights that a trained network might have."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3.0)
            if module.weight is not None:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model


def classified(*body: nn.Module) -> nn.Module:
    return settled(nn.Sequential(*body, nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: classified(nn.Linear(5, 4), nn.BatchNorm1d(4)), (5,)),
    "Conv1d": (lambda: classified(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)), (2, 6)),
    "Conv2d": (lambda: classified(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)), (2, 6, 6)),
    "Conv3d": (lambda: classified(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4, affine=False)), (2, 4, 4, 4)),
    "groups, strides, padding": (
        lambda: classified(
            nn.Conv2d(4, 8, 3, stride=2, padding=2, dilation=2, groups=2, padding_mode="reflect"), nn.BatchNorm2d(8)
        ),
        (4, 8, 8),
    ),
    "neither bias nor affine": (
        lambda: classified(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)),
        (2, 6, 6),
    ),
    "a norm without batches counted": (
        lambda: classified(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=None)),
        (2, 6, 6),
    ),
    "shape looked at": (lambda: classified(nn.Conv2d(2, 4, 3), Looking(4)), (2, 6, 6)),
}


class Looking(nn.Sequential):
    """Asks for the shape of what its norm takes."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == x.size(1)
        assert (x.dim(), x.dtype) == (x.ndim, self[0].weight.dtype)
        return super().forward(x)


class Using(nn.Module):
    """A convolution and its norm, with something else that takes the convolution's output, or looks at it."""

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.use = use
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Any:
        z = self.conv(x)
        return self.head(self.use(z, self.norm(z)).mean((2, 3)))


class _Hidden(torch.autograd.Function):
    """Takes a tensor past what a function mode sees."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Subclass(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).abs()


class Twice(nn.Module):
    def __init__(self, conv_twice: bool, norm_twice: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(2))
        self.convs_used, self.norms_used = ([0, 0] if twice else [0, 1] for twice in (conv_twice, norm_twice))
        self.head = nn.Linear(2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for i, j in zip(self.convs_used, self.norms_used, strict=True):
            x = self.norms[j](self.convs[i](x))
        return self.head(x.mean((2, 3)))


UNFOLDABLE: dict[str, Callable[[], nn.Module]] = {
    "used beside": lambda: Using(lambda z, y: y + z),
    "used where the trial sees nothing of it": lambda: Using(lambda z, y: y + (z - 100).relu()),
    "used past what is counted": lambda: Using(lambda z, y: y + _Hidden.apply(z)),
    "changed in place": lambda: Using(lambda z, y: y + z.relu_()),
    "convolution called twice": lambda: Twice(True, False),
    "norm called twice": lambda: Twice(False, True),
    "a layer that is no plain one": lambda: classified(Subclass(2, 4, 3), nn.BatchNorm2d(4)),
    "batch statistics": lambda: classified(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
    "a layer between": lambda: classified(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
    "a norm of other channels": lambda: classified(nn.Flatten(2), nn.Linear(36, 5), nn.BatchNorm1d(2)),
}


def objective_of(model: nn.Module, shape: Sequence[int] = (2, 6, 6), dtype: torch.dtype = torch.float32) -> Objective:
    x, y = torch.randn(SAMPLES, *shape, dtype=dtype), torch.arange(SAMPLES) % CLASSES
    model.to(dtype)(x)  # makes lazy layers
    return Objective(model.train(), nn.CrossEntropyLoss(), (x, y), batch_size=4)


def losses(objective: Objective, direction: Tensor, coordinates: Sequence[float]) -> np.ndarray:
    found: list[float] = []

    def run(evaluate: Callable[[Sequence[float]], Evaluation]) -> None:
        found.extend(evaluate([c]).loss["data"] for c in coordinates)

    objective.explore([direction], run)
    return np.array(found)


def expected(objective: Objective, direction: Tensor, coordinates: Sequence[float]) -> np.ndarray:
    return np.array([objective.at(objective.weights + c * direction).evaluate().loss["data"] for c in coordinates])


def pairs(objective: Objective) -> int:
    x = objective.source_of("data").batched(4)
    batch = next(batch for _, batch, _ in x.batches(None))
    with undisturbed(objective.model), folded(objective.model, lambda: objective.forward(batch), 2.0) as norms:
        return len(norms.pairs)


def state(model: nn.Module) -> list[Any]:
    modules = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for m in model.modules()
    ]
    return [modules, {n: (t.clone(), t.data_ptr()) for n, t in model.state_dict().items()}]


def assert_same(before: list[Any], after: list[Any]) -> None:
    assert before[0] == after[0]
    assert all(torch.equal(t, after[1][n][0]) and place == after[1][n][1] for n, (t, place) in before[1].items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_folded_models_have_the_losses_of_running_ones(name: str, dtype: torch.dtype) -> None:
    make, shape = NETWORKS[name]
    objective = objective_of(make(), shape, dtype)
    assert pairs(objective) == 1
    direction = torch.randn(objective.num_parameters, dtype=dtype)
    before = state(objective.model)
    found = losses(objective, direction, [0.0, 0.3, -1.0])
    assert_same(before, state(objective.model))
    tolerance = 200 * torch.finfo(dtype).eps
    np.testing.assert_allclose(found, expected(objective, direction, [0.0, 0.3, -1.0]), rtol=tolerance)
    assert (losses(objective, direction, [-1.0, 0.3, 0.0])[::-1] == found).all()  # whatever the order


@pytest.mark.parametrize("name", UNFOLDABLE)
def test_what_may_not_fold_runs_as_it_did(name: str) -> None:
    objective = objective_of(settled(UNFOLDABLE[name]()), dtype=torch.float64)
    before = state(objective.model)
    assert pairs(objective) == 0
    assert_same(before, state(objective.model))
    direction = torch.randn(objective.num_parameters).double()
    found = losses(objective, direction, [0.4])
    np.testing.assert_allclose(found, expected(objective, direction, [0.4]), rtol=1e-12)


def test_outputs_that_are_handed_out_are_not_folded() -> None:
    class Features(Using):
        def forward(self, x: Tensor) -> Any:
            z = self.conv(x)
            return {"logits": self.head(self.norm(z).mean((2, 3))), "features": z}

    model = settled(Features(lambda z, y: y))
    x, y = torch.randn(SAMPLES, 2, 6, 6), torch.arange(SAMPLES) % CLASSES
    objective = Objective(
        model, lambda out, y: nn.functional.cross_entropy(out["logits"], y) + out["features"].mean(), (x, y)
    )
    assert pairs(objective) == 0


@pytest.mark.parametrize("hooked", ["conv", "norm"])
@pytest.mark.parametrize("before", [False, True])
def test_layers_that_somebody_looks_at_are_not_folded(hooked: str, before: bool) -> None:
    model = settled(Using(lambda z, y: y))
    objective = objective_of(model)
    assert pairs(objective) == 1
    module = getattr(model, hooked)
    seen: list[float] = []
    if before:
        module.register_forward_pre_hook(lambda m, args: seen.append(float(args[0].sum())))
    else:
        module.register_forward_hook(lambda m, args, output: seen.append(float(output.sum())))
    assert pairs(objective) == 0
    losses(objective, torch.ones(objective.num_parameters), [0.1])
    assert seen


def test_few_outputs_for_many_weights_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = objective_of(settled(Using(lambda z, y: y)))
    monkeypatch.setattr(folded_batchnorm, "WORTH", 1e6)
    assert pairs(objective) == 0


def test_frozen_and_restricted_norms_fold_and_keep_their_values() -> None:
    model = settled(Using(lambda z, y: y))
    for parameter in model.norm.parameters():
        parameter.requires_grad_(False)
    model.double()
    for objective in (
        objective_of(model, dtype=torch.float64),
        objective_of(model, dtype=torch.float64).restricted("head"),
    ):
        before = state(model)
        direction = torch.randn(objective.num_parameters).double()
        np.testing.assert_allclose(
            losses(objective, direction, [0.7]), expected(objective, direction, [0.7]), rtol=1e-12
        )
        assert_same(before, state(model))


def test_a_norm_that_is_left_out_at_some_points_is_run_as_usual() -> None:
    """A path that depends on the weights: in the trial the norm takes the layer's output, later something else does."""

    class Turning(Using):
        def forward(self, x: Tensor) -> Any:
            z = self.conv(x)
            y = self.norm(z) if float(self.head.bias.detach()[0]) < 1 else z.tanh()
            return self.head(y.mean((2, 3)))

    model = settled(Turning(lambda z, y: y))
    nn.init.zeros_(model.head.bias)
    objective = objective_of(model, dtype=torch.float64)
    assert pairs(objective) == 1
    direction = torch.ones(objective.num_parameters).double()
    coordinates = [0.0, 2.0, 0.5]
    np.testing.assert_allclose(
        losses(objective, direction, coordinates), expected(objective, direction, coordinates), rtol=1e-12
    )


def test_a_model_that_takes_no_few_samples_is_not_folded(caplog: pytest.LogCaptureFixture) -> None:
    class Whole(Using):
        def forward(self, x: Tensor) -> Any:
            if len(x) < SAMPLES:
                raise RuntimeError("I want them all")
            return super().forward(x)

    model = settled(Whole(lambda z, y: y)).double()
    x, y = torch.randn(SAMPLES, 2, 6, 6).double(), torch.arange(SAMPLES) % CLASSES
    objective = Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=SAMPLES)
    direction = torch.randn(objective.num_parameters).double()
    before = state(model)
    with caplog.at_level(logging.INFO, "landscape.objective.evaluation.folded_batchnorm"):
        found = losses(objective, direction, [0.4])
    np.testing.assert_allclose(found, expected(objective, direction, [0.4]), rtol=1e-12)
    assert "I want them all" in caplog.text
    assert_same(before, state(model))


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_compiled_models_run_as_they_are(how: str) -> None:
    model: nn.Module = settled(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, CLASSES))
    )
    if how == "in place":
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    objective = objective_of(model)
    assert pairs(objective) == 0
    direction = torch.randn(objective.num_parameters)
    np.testing.assert_allclose(losses(objective, direction, [0.3]), expected(objective, direction, [0.3]), rtol=1e-5)


def test_models_come_back_after_an_error() -> None:
    model = settled(Using(lambda z, y: y))
    objective = objective_of(model)
    before = state(model)

    def run(evaluate: Callable[[Sequence[float]], Evaluation]) -> None:
        evaluate([0.1])
        assert "forward" in vars(model.conv)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        objective.explore([torch.ones(objective.num_parameters)], run)
    assert_same(before, state(model))
