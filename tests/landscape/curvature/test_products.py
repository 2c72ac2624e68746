"""Products by every strategy against dense float64 matrices; fallbacks, memory, symmetry; faults that peers have."""

from __future__ import annotations

import functools
import logging
import math
import warnings
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import landscape
from landscape.curvature.strategies import Program
from tests.reference import ARCHITECTURES, CASES, Case, dense_hessian

BY_NAME = {case.name: case for case in ARCHITECTURES}
RTOL = {torch.float64: 1e-8, torch.float32: torch.finfo(torch.float32).eps ** 0.5}


def per_sample(case: Case) -> Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Losses of single samples, one call of the loss each, and their weights."""

    def losses(outputs: object, y: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(y))[:, None]
        weights = torch.tensor([1.0] * len(y), dtype=torch.float64)
        if isinstance(case.loss, nn.CrossEntropyLoss) and case.loss.weight is not None:
            weights = case.loss.weight[y] * (y != case.loss.ignore_index)
        cut = [{k: v[r] for k, v in outputs.items()} if isinstance(outputs, dict) else outputs[r] for r in rows]
        values = [
            case.loss(o, y[r]) if w else torch.zeros((), dtype=torch.float64)
            for o, r, w in zip(cut, rows, weights, strict=True)
        ]
        return torch.stack(values), weights / weights.sum()

    return losses


@functools.cache
def dense(name: str, form: str) -> Tensor:
    case = BY_NAME[name]
    model, loss_fn, x, y = case.make()
    if form == "hessian":
        return dense_hessian(model, loss_fn, x, y)
    model.eval()
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    w = tuple(p.detach() for p in model.parameters() if p.requires_grad)

    def at(*parameters: Tensor) -> object:
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

    def jacobian(function: Callable[..., Tensor]) -> Tensor:
        blocks = torch.autograd.functional.jacobian(function, w)
        return torch.cat(
            [
                b.flatten(1) if b.ndim > 1 else b[:, None]
                for b in (b.reshape(-1, p.numel()) for b, p in zip(blocks, w, strict=True))
            ],
            1,
        )

    if form == "fisher":
        J = jacobian(lambda *p: per_sample(case)(at(*p), y)[0])
        return J.T @ (per_sample(case)(at(*w), y)[1][:, None] * J)

    def logits(*p: Tensor) -> Tensor:
        out = at(*p)
        return out["logits"] if isinstance(out, dict) else out

    z = logits(*w)
    loss = (lambda o: loss_fn({"logits": o}, y)) if isinstance(at(*w), dict) else (lambda o: loss_fn(o, y))
    curvature = torch.autograd.functional.hessian(loss, z).reshape(z.numel(), z.numel())
    J = jacobian(logits)
    return J.T @ curvature @ J


OPERATORS = {
    "hessian": landscape.HessianOperator,
    "ggn": landscape.GGNOperator,
    "fisher": landscape.EmpiricalFisherOperator,
}


@functools.cache
def objective(name: str, dtype: torch.dtype, batch_size: int) -> landscape.Objective:
    """Shared by the tests, and so are the programs traced for it."""
    model, loss_fn, x, y = BY_NAME[name].make(dtype)
    return landscape.Objective(model, loss_fn, (x, y), batch_size=batch_size)


def operator(
    name: str, form: str, dtype: torch.dtype = torch.float64, batch_size: int = 64, **options: object
) -> landscape.curvature.operators.CurvatureOperator:
    return OPERATORS[form](objective(name, dtype, batch_size), **options)


def error(H: landscape.curvature.operators.CurvatureOperator, matrix: Tensor) -> float:
    V = torch.randn(H.shape[0], 2, dtype=torch.float64)
    H @ V  # the second time from what is kept
    return float(((H @ V) - matrix @ V).norm() / (matrix @ V).norm())


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("form", OPERATORS)
@pytest.mark.parametrize("batch_size", [4, 64])
def test_double_backward_equals_the_dense_matrix(name: str, form: str, batch_size: int) -> None:
    H = operator(name, form, batch_size=batch_size, strategy="double_backward")
    assert error(H, dense(name, form)) < 1e-8
    assert H.strategy.kept_batches == H.strategy.num_batches == -(-11 // batch_size)


QUICK = [
    ("mlp-ce", "hessian"),
    ("mlp-mse", "hessian"),
    ("weighted-ce", "fisher"),
    ("resnet-block", "hessian"),
    ("groupnorm", "hessian"),
    ("attention", "hessian"),
    ("dict-unused", "ggn"),
]


@pytest.mark.parametrize(("name", "form"), QUICK)
def test_split_products_equal_the_dense_matrix(name: str, form: str) -> None:
    H = operator(name, form, strategy="split")
    assert error(H, dense(name, form)) < 1e-8
    assert (H.strategy.name, H.strategy.chosen, H.strategy.fallback) == ("split", "requested", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("form", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_split_products_of_every_form(name: str, form: str, dtype: torch.dtype) -> None:
    if name == "weighted-ce" and dtype == torch.float32:
        pytest.skip("its class weights are float64")
    H = operator(name, form, dtype, batch_size=4, strategy="split")
    assert error(H, dense(name, form)) < RTOL[dtype]
    assert H.strategy.fallback == ""


@pytest.mark.parametrize("name", ["mlp-ce"])
def test_split_products_in_float32(name: str) -> None:
    H = operator(name, "hessian", torch.float32, strategy="split")
    assert H.strategy.name == "split"
    assert error(H, dense(name, "hessian")) < RTOL[torch.float32]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp-ce", "cnn-bn-dropout", "resnet-block", "attention"])
def test_compiled_products_equal_the_dense_matrix(name: str) -> None:
    H = operator(name, "hessian", strategy="compiled")
    assert error(H, dense(name, "hessian")) < 1e-8
    assert (H.strategy.name, H.strategy.fallback) == ("compiled", "")


def test_one_program_serves_every_point_view_and_full_micro_batch() -> None:
    model, loss_fn, x, y = BY_NAME["cnn-bn-dropout"].make()
    views = [
        landscape.View("all", indices=torch.arange(8)),
        landscape.View("other", indices=torch.arange(8) + 3, labels=2 - y),
    ]
    obj = landscape.Objective(model, loss_fn, (x, y), batch_size=4, views=views)
    v = torch.randn(obj.num_parameters, dtype=torch.float64)
    for view in obj.views:
        for factor in (1.0, 0.7):
            at = obj.view(view).at(obj.weights * factor)
            split = landscape.HessianOperator(at, strategy="split")
            torch.testing.assert_close(split @ v, landscape.HessianOperator(at, strategy="double_backward") @ v)
            assert split.strategy.name == "split"
    assert len(obj.programs) == 1


def test_restricted_split_products_are_blocks() -> None:
    model, loss_fn, x, y = BY_NAME["cnn-bn-dropout"].make()
    sub = landscape.Objective(model, loss_fn, (x, y)).restricted("0")
    H = landscape.HessianOperator(sub, strategy="split")
    block = dense("cnn-bn-dropout", "hessian")[:30, :30]
    torch.testing.assert_close(H @ torch.eye(30, dtype=torch.float64), block, rtol=1e-8, atol=1e-8)
    assert H.strategy.name == "split"


@pytest.mark.parametrize("strategy", ["double_backward", "split"])
def test_memory_stays_within_the_budget_and_changes_no_number(strategy: str) -> None:
    v = torch.randn(operator("mlp-ce", "hessian").shape[0], dtype=torch.float64)
    full = operator("mlp-ce", "hessian", batch_size=4, strategy=strategy)
    expected, each = full @ v, full.strategy.kept_bytes // full.strategy.num_batches
    assert torch.equal(full @ v, expected)
    for budget, kept in ((0, 0), (int(1.4 * each), 1)):
        H = operator("mlp-ce", "hessian", batch_size=4, strategy=strategy, memory_budget=budget)
        assert torch.equal(H @ v, expected)
        assert torch.equal(H @ v, expected)
        assert H.strategy.kept_batches == kept
        assert H.strategy.kept_bytes <= budget


def test_what_is_kept_goes_with_the_operator() -> None:
    H = operator("mlp-ce", "hessian", strategy="split")
    H @ torch.zeros(H.shape[0])
    ((_, product),) = H._products._kept.values()
    kept = weakref.ref(product)
    del H, product
    assert kept() is None


class Branching(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x)) if x.sum() > 0 else super().forward(x)


class WritesIntoAView(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        out = 1.5 * torch.tanh(super().forward(x))
        out[:, 0] += 2
        return out * out


@pytest.mark.parametrize("kind", [Branching, WritesIntoAView])
def test_what_cannot_be_traced_falls_back_and_says_so(kind: type[nn.Module], caplog: pytest.LogCaptureFixture) -> None:
    model = kind(4, 3).double()
    obj = landscape.Objective(model, nn.CrossEntropyLoss(), (torch.rand(7, 4), torch.arange(7) % 3))
    config = torch.is_grad_enabled(), torch.get_default_dtype(), list(warnings.filters)
    with caplog.at_level(logging.WARNING, "landscape"):
        H = landscape.HessianOperator(obj, strategy="split")
        assert H.strategy.name == "double_backward"
    assert H.strategy.fallback
    assert "products by double backward" in caplog.text
    torch.testing.assert_close(
        H @ torch.eye(15, dtype=torch.float64),
        dense_hessian(
            model, obj.loss_fn, torch.cat([batch[0] for batch, _ in obj.context.selection.plan]), torch.arange(7) % 3
        ),
    )
    assert config == (torch.is_grad_enabled(), torch.get_default_dtype(), list(warnings.filters))


def test_a_traced_product_that_disagrees_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Program.product

    def wrong(*args: object, **kwargs: object) -> object:
        product = right(*args, **kwargs)
        return lambda column, keep=True: 1.01 * product(column)

    monkeypatch.setattr(Program, "product", wrong)
    H = operator("mlp-ce", "hessian", strategy="split")
    assert error(H, dense("mlp-ce", "hessian")) < 1e-8
    assert H.strategy.name == "double_backward"
    assert "split differs from double backward by 0.01" in H.strategy.fallback


def test_what_is_traced_follows_from_operations_nodes_and_expected_products(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small = operator("mlp-ce", "hessian")
    assert (small.strategy.name, small.strategy.chosen, small.strategy.fallback) == ("double_backward", "by size", "")
    monkeypatch.setattr("landscape.curvature.strategies.NODE_FLOPS", 2000.0)
    assert operator("mlp-ce", "hessian").strategy.name == "double_backward"
    many = operator("mlp-ce", "hessian")
    many.expect(100_000)
    with caplog.at_level("INFO", logger="landscape.curvature.strategies"):
        assert many.strategy.name == "split"
    assert "products by split: " in caplog.text
    by_trace = operator("mlp-ce", "hessian")
    landscape.trace(by_trace, num_matvecs=50_000)
    assert by_trace.strategy.name == "split"
    assert operator("mlp-ce", "hessian", autotune=True).strategy.chosen == "timed"


def test_tangents_in_memory_of_their_own_are_traced() -> None:
    """An in-place network with channels last: torch lays tangents out as their primals by writing into new memory."""
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(4, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    model, x = nn.Sequential(*layers).double(), torch.randn(6, 3, 8, 8, dtype=torch.float64)
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, torch.arange(6) % 3))
    split, plain = (landscape.HessianOperator(objective, strategy=name) for name in ("split", "double_backward"))
    v = torch.randn(objective.num_parameters, 2, dtype=torch.float64)
    torch.testing.assert_close(split @ v, plain @ v, rtol=1e-9, atol=1e-12)
    assert split.strategy.traced == "forward over reverse, channels last"


@pytest.mark.parametrize("strategy", ["double_backward", "split"])
def test_symmetry_and_repeatability_are_reported(strategy: str) -> None:
    probe = operator("cnn-bn-dropout", "hessian", strategy=strategy).probe
    assert 0 <= probe.asymmetry < 1e-12
    assert 0 <= probe.deviation < 1e-12


@pytest.mark.parametrize("strategy", ["double_backward", "split"])
def test_same_operator_same_bits(strategy: str) -> None:
    model, loss_fn, x, y = BY_NAME["mlp-ce"].make(torch.float32)
    H, again = (
        landscape.HessianOperator(landscape.Objective(model, loss_fn, (x, y)), strategy=strategy) for _ in range(2)
    )
    V = torch.randn(H.shape[0], 2)
    first = H @ V
    assert torch.equal(H @ V, first)
    assert torch.equal(again @ V, first)
    assert torch.equal(H @ V[:, 1], first[:, 1])


@pytest.mark.parametrize(
    "name", [pytest.param(c.name, marks=[] if c.name == "mlp-ce" else pytest.mark.slow) for c in ARCHITECTURES]
)
def test_a_model_is_traced_in_the_same_way_again_and_again(name: str) -> None:
    model, loss_fn, x, y = BY_NAME[name].make(torch.float64)
    names = next(iter(landscape.Objective(model, loss_fn, (x, y)).layers().values()))
    for patterns in (("*",), names):
        found = set()
        for _ in range(2):  # an objective of its own each time, so that nothing is shared
            objective = landscape.Objective(model, loss_fn, (x, y)).restricted(*patterns)
            found.add(landscape.HessianOperator(objective, strategy="split").strategy.traced)
        assert len(found) == 1


# Faults of peers, each by name.


@pytest.mark.parametrize("name", [case.name for case in CASES])
@pytest.mark.parametrize("form", OPERATORS)
def test_the_last_short_batch_is_weighted_by_its_size(name: str, form: str) -> None:
    v = torch.randn(operator(name, form).shape[0], dtype=torch.float64)
    whole = operator(name, form) @ v
    for batch_size in (1, 3, 10):
        torch.testing.assert_close(operator(name, form, batch_size=batch_size) @ v, whole, rtol=1e-9, atol=1e-12)


def test_products_leave_batchnorm_statistics_and_modes_alone() -> None:
    obj = objective("resnet-block", torch.float64, 64)
    model = obj.model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rng = torch.get_rng_state()
    for strategy in ("double_backward", "split"):
        landscape.HessianOperator(obj, strategy=strategy) @ obj.weights
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("strategy", ["double_backward", "split"])
def test_dropout_in_training_mode_makes_no_two_products_differ(strategy: str) -> None:
    obj = objective("cnn-bn-dropout", torch.float64, 64)
    obj.model.train()
    H, again = (landscape.HessianOperator(obj, strategy=strategy) for _ in range(2))
    v = torch.randn(H.shape[0], dtype=torch.float64)
    assert torch.equal(H @ v, H @ v)
    assert torch.equal(H @ v, again @ v)


def own_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, labels)


def test_fisher_of_any_mean_loss() -> None:
    model, loss_fn, x, y = BY_NAME["mlp-ce"].make()
    known = landscape.EmpiricalFisherOperator(landscape.Objective(model, loss_fn, (x, y)))
    derived = landscape.EmpiricalFisherOperator(landscape.Objective(model, own_loss, (x, y)))
    given = landscape.EmpiricalFisherOperator(
        landscape.Objective(model, own_loss, (x, y)),
        per_sample_loss=lambda o, labels: nn.functional.cross_entropy(o, labels, reduction="none"),
    )
    v = torch.randn(known.shape[0], dtype=torch.float64)
    torch.testing.assert_close(derived @ v, known @ v, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(given @ v, known @ v, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("known", [True, False])
def test_fisher_of_class_weights_with_label_smoothing(dtype: torch.dtype, known: bool) -> None:
    model, weight = nn.Linear(4, 3).to(dtype), torch.tensor([0.5, 2.0, 1.25], dtype=dtype)
    x, y = torch.randn(10, 4).to(dtype), torch.randint(3, (10,))
    loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=0.2)
    fn = loss if known else lambda o, t: loss(o, t)
    objective = landscape.Objective(
        model, fn, (x, y), batch_size=4, normalizer=lambda t: float(weight[t].double().sum())
    )
    rows = []
    for i in range(10):
        grads = torch.autograd.grad(loss(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in grads]))
    gradients, share = torch.stack(rows).double(), weight[y].double() / weight[y].double().sum()
    found = landscape.EmpiricalFisherOperator(objective) @ torch.eye(15, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(
        found.double(), gradients.T @ (share[:, None] * gradients), rtol=tolerance, atol=tolerance
    )


def test_fisher_refuses_losses_of_samples_that_it_cannot_derive_or_that_do_not_fit() -> None:
    model, _, x, y = BY_NAME["mlp-ce"].make()

    def of_several(outputs: Tensor, labels: Tensor) -> Tensor:
        if len(labels) < 2:
            raise ValueError("one sample has no neighbour")
        return own_loss(outputs, labels)

    F = landscape.EmpiricalFisherOperator(landscape.Objective(model, of_several, (x, y)))
    with pytest.raises(ValueError, match=r"cannot be derived from loss_fn .*give per_sample_loss="):
        F @ torch.zeros(F.shape[0])
    double = landscape.EmpiricalFisherOperator(
        landscape.Objective(model, own_loss, (x, y)),
        per_sample_loss=lambda o, labels: 2 * nn.functional.cross_entropy(o, labels, reduction="none"),
    )
    with pytest.raises(ValueError, match="per-sample losses average to"):
        double @ torch.zeros(F.shape[0])


@pytest.mark.parametrize("strategy", ["double_backward", "split", "lean"])
def test_losses_of_ones_own_that_ignore_labels_have_a_fisher_matrix(strategy: str) -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3).double(), torch.randn(20, 4, dtype=torch.float64), torch.arange(20) % 3
    y[::3] = -100  # whose own loss is 0 / 0
    y[8:16] = -100

    def own(outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, labels)

    kept = y != -100
    slopes = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(own(model(x[[i]]), y[[i]]), list(model.parameters()))])
            for i in kept.nonzero().flatten().tolist()
        ]
    )
    objective = landscape.Objective(
        model, own, (x, y), batch_size=8, normalizer=lambda labels: float((labels != -100).sum())
    )
    F = landscape.EmpiricalFisherOperator(objective, strategy=strategy)
    right = slopes.T @ slopes / len(slopes)
    torch.testing.assert_close(F @ torch.eye(15, dtype=torch.float64), right, rtol=1e-10, atol=1e-12)
    assert F.strategy.name == strategy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "fast"}, "strategy is 'fast'"),
        ({"memory_budget": -1}, "memory_budget is -1"),
        ({"memory_budget": math.nan}, "memory_budget is nan, expected a whole number of bytes"),
        ({"memory_budget": math.inf}, "memory_budget is inf, expected a whole number of bytes"),
        ({"memory_budget": "4GiB"}, "memory_budget is '4GiB', expected a whole number of bytes"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        operator("mlp-ce", "hessian", **options)
