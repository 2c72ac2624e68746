"""Large models: memory rules, checkpointed layers, pieces of micro-batches, bfloat16, and bases within a budget."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import landscape
from landscape.spectrum.krylov import KrylovBasis, place_of
from tests.reference import ARCHITECTURES, AttentionBlock, dense_hessian, symmetric_with

BY_NAME = {case.name: case for case in ARCHITECTURES}


class Checkpointed(nn.Module):
    """Attention and dropout, run again in every backward pass."""

    def __init__(self, again: bool = True) -> None:
        super().__init__()
        self.again, self.attention = again, AttentionBlock()
        self.rest = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Dropout(0.5), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        if not self.again:
            return self.rest(self.attention(x))
        return checkpoint(self.rest, checkpoint(self.attention, x, use_reentrant=False), use_reentrant=False)


def checkpointed(again: bool = True, dtype: torch.dtype = torch.float64) -> landscape.Objective:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, x = Checkpointed(again).to(dtype).train(), torch.randn(11, 3, 4, dtype=dtype)
    return landscape.Objective(model, nn.CrossEntropyLoss(), (x, torch.arange(11) % 3), batch_size=4)


def moved(obj: landscape.Objective) -> landscape.Objective:
    """Away from the model's own weights, which is where layers that run again used to be wrong."""
    return obj.at(obj.weights * 1.3 + 0.01)


STRATEGIES = ("double_backward", "lean")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("make", [landscape.HessianOperator, landscape.GGNOperator, landscape.EmpiricalFisherOperator])
def test_checkpointed_products_are_those_of_the_plain_model_at_any_point(make: type, strategy: str) -> None:
    plain, again = make(moved(checkpointed(False))), make(moved(checkpointed()), strategy=strategy)
    V = torch.randn(plain.shape[0], 2, dtype=torch.float64)
    expected = plain @ V
    for _ in range(2):  # the second time from what is kept
        torch.testing.assert_close(again @ V, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(moved(checkpointed()).gradient(), moved(checkpointed(False)).gradient())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_checkpointed_products_equal_the_dense_hessian(strategy: str) -> None:
    obj = checkpointed()
    plain = Checkpointed(False).double().eval()
    plain.load_state_dict(obj.model.state_dict())
    ((x, y),) = obj.source_of("data")._chunks
    H = landscape.HessianOperator(obj, strategy=strategy)
    matrix = dense_hessian(plain, nn.CrossEntropyLoss(), x, y)
    V = torch.randn(len(matrix), 5, dtype=torch.float64)
    torch.testing.assert_close(H @ V, matrix @ V, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_checkpointed_models_come_back_bitwise(strategy: str) -> None:
    obj = checkpointed()
    before, rng = {k: v.clone() for k, v in obj.model.state_dict().items()}, torch.get_rng_state()
    H = landscape.HessianOperator(moved(obj), strategy=strategy)
    for _ in range(2):
        H @ obj.weights
    assert all(torch.equal(v, before[k]) for k, v in obj.model.state_dict().items())
    assert all(m.training for m in obj.model.modules())
    assert all(p.requires_grad and p.grad is None for p in obj.model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("name", [case.name for case in ARCHITECTURES])
@pytest.mark.parametrize("batch_size", [4, 64])
def test_lean_products_equal_the_dense_hessian(name: str, batch_size: int) -> None:
    model, loss_fn, x, y = BY_NAME[name].make()
    H = landscape.HessianOperator(landscape.Objective(model, loss_fn, (x, y), batch_size=batch_size), strategy="lean")
    V = torch.randn(H.shape[0], 2, dtype=torch.float64)
    torch.testing.assert_close(H @ V, dense_hessian(model, loss_fn, x, y) @ V, rtol=1e-8, atol=1e-10)
    assert H.strategy.name == "lean"
    assert (H.strategy.kept_bytes, H.strategy.kept_batches) == (0, 0)
    assert H.probe.deviation == 0
    assert H.probe.asymmetry < 1e-12


def attention(batch_size: int = 16, **options: object) -> landscape.HessianOperator:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, x = AttentionBlock(), torch.randn(16, 3, 4)
    obj = landscape.Objective(model, nn.CrossEntropyLoss(), (x, torch.arange(16) % 3), batch_size=batch_size)
    return landscape.HessianOperator(obj, **options)


def test_the_memory_rule_decides_by_bytes_alone_and_says_so() -> None:
    known = attention(strategy="lean").strategy
    assert known.graph_bytes > known.forward_bytes > 0
    assert known.pieces == -(-known.graph_bytes // known.forward_bytes) > 1
    fits, exceeds = (attention(memory_budget=budget) for budget in (known.graph_bytes, known.graph_bytes - 1))
    assert (fits.strategy.name, fits.strategy.chosen, fits.strategy.pieces) == ("double_backward", "by size", 1)
    assert (exceeds.strategy.name, exceeds.strategy.chosen) == ("lean", "by memory")
    assert exceeds.strategy.pieces == known.pieces
    assert exceeds.strategy == attention(memory_budget=known.graph_bytes - 1).strategy
    v = torch.randn(fits.shape[0])
    torch.testing.assert_close(exceeds @ v, fits @ v, rtol=1e-4, atol=1e-6)
    assert torch.equal(exceeds @ v, attention(memory_budget=known.graph_bytes - 1) @ v)


def test_the_estimate_is_of_what_the_whole_graph_holds() -> None:
    lean = attention(strategy="lean").strategy
    kept = attention(strategy="double_backward")
    kept @ torch.zeros(kept.shape[0])
    assert 0.9 < lean.graph_bytes / kept.strategy.kept_bytes < 1.3  # what does not grow with samples counts too often


def test_a_checkpointed_forward_pass_makes_for_more_pieces() -> None:
    pieces = [
        landscape.HessianOperator(checkpointed(again).batched(11), strategy="lean").strategy.pieces
        for again in (False, True)
    ]
    assert 1 < pieces[0] < pieces[1] <= 11


def test_lean_products_with_ignored_samples_and_class_weights() -> None:
    model, loss_fn, x, _ = BY_NAME["weighted-ce"].make()
    obj = landscape.Objective(model, loss_fn, (x, torch.tensor([2] * 10 + [1])))  # one sample counts
    v = torch.randn(obj.num_parameters, dtype=torch.float64)
    lean, plain = (landscape.HessianOperator(obj, strategy=name) for name in ("lean", "double_backward"))
    torch.testing.assert_close(lean @ v, plain @ v, rtol=1e-12, atol=1e-15)


def test_bfloat16_products_are_near_full_ones_and_say_how_near() -> None:
    H, full = attention(precision="bf16"), attention()
    V = torch.randn(H.shape[0], 3)
    error = float((H @ V - full @ V).norm() / (full @ V).norm())
    eps = torch.finfo(torch.bfloat16).eps
    assert 1e-4 < error < 4 * eps
    assert 1e-4 < H.probe.precision_error < 4 * eps
    assert full.probe.precision_error == 0
    assert torch.equal(H @ V, H @ V)
    assert H.strategy.name == "double_backward"
    assert torch.equal(H.in_full_precision() @ V, full @ V)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bfloat16_eigenvalues_come_with_their_error(strategy: str) -> None:
    H, full = attention(precision="bf16", strategy=strategy), attention()
    found = landscape.top_eigenpairs(H, 2, tol=5e-2)
    error = landscape.precision_error(H, found)
    exact = torch.linalg.eigvalsh(full @ torch.eye(H.shape[0], dtype=torch.float64)).flip(0)[:2].numpy()
    assert (np.abs(error.values - exact) <= error.residuals + 1e-6).all()
    np.testing.assert_allclose(error.value_errors, np.abs(found.values - error.values) / np.abs(error.values))
    assert (error.value_errors < 0.05).all()
    assert 0 < error.product < 0.05


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "how", [{"precision": "bf16"}, {"strategy": "finite_difference"}], ids=lambda how: next(iter(how))
)
def test_stated_errors_of_eigenvalues_include_those_of_products(how: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    obj = landscape.Objective(model, nn.CrossEntropyLoss(), (torch.randn(60, 5), torch.arange(60) % 3))
    eye = torch.eye(obj.num_parameters, dtype=torch.float64)
    exact = torch.linalg.eigvalsh(obj.astype(torch.float64).hessian() @ eye).flip(0)[:2].numpy()
    H = obj.hessian(**how)
    found = landscape.top_eigenpairs(H, 2, tol=1e-2, search_missed=True)
    assert (np.abs(found.values - exact) <= found.errors).all()
    assert (found.errors <= found.residuals + 1.1 * H.probe.product_error * exact[0] + 1e-5).all()
    relative = landscape.ScaledOperator(H, torch.ones(H.shape[0]))
    assert relative.product_error == H.product_error > 0 == obj.hessian().product_error


def test_bfloat16_leaves_the_objective_and_the_model_alone() -> None:
    obj = checkpointed(dtype=torch.float32)
    plain, before, rng = obj.loss(), [p.clone() for p in obj.model.parameters()], torch.get_rng_state()
    rough = obj.in_precision(torch.bfloat16)
    assert 0 < abs(rough.loss() - plain) < 0.02 * plain
    landscape.HessianOperator(obj, precision="bf16") @ obj.weights
    assert obj.loss() == plain == rough.in_precision(None).loss()
    assert all(torch.equal(a, b) for a, b in zip(obj.model.parameters(), before, strict=True))
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision is 'fp8', expected 'bf16' or None"),
        ({"precision": "bf16", "strategy": "split"}, "strategy 'split' is for full precision"),
    ],
)
def test_bad_precisions(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention(**options)
    with pytest.raises(ValueError, match=r"parameters are torch\.float64"):
        landscape.HessianOperator(checkpointed(), precision="bf16")
    with pytest.raises(ValueError, match=r"precision is torch\.float16"):
        checkpointed(dtype=torch.float32).in_precision(torch.float16)
    H, others = attention(precision="bf16"), landscape.top_eigenpairs(torch.eye(4), 1)
    with pytest.raises(ValueError, match="hold no vectors of 103 entries"):
        landscape.precision_error(H, others)


SPECTRUM = [9.0, 8.0, 7.5, *(5 * 0.93**i for i in range(57))]


@pytest.mark.parametrize("search", [False, True])
def test_a_basis_holds_its_budget_and_finds_the_same(monkeypatch: pytest.MonkeyPatch, search: bool) -> None:
    matrix, rooms = symmetric_with(SPECTRUM), []
    reserve = KrylovBasis._reserve

    def noted(self: KrylovBasis, count: int) -> None:
        reserve(self, count)
        rooms.append(self._rows.nbytes)

    monkeypatch.setattr(KrylovBasis, "_reserve", noted)
    bases = 2 if search else 1
    budget = 8 * 60 * 6 * bases
    found = landscape.top_eigenpairs(matrix, 2, tol=1e-8, basis_bytes=budget, search_missed=search, max_matvecs=900)
    np.testing.assert_allclose(found.values, [9, 8], rtol=1e-10)
    assert found.converged.all()
    assert max(rooms) * bases <= budget


def test_a_smaller_basis_takes_more_products() -> None:
    matrix = symmetric_with(SPECTRUM)
    spent = [landscape.top_eigenpairs(matrix, 2, tol=1e-8, basis_bytes=8 * 60 * n).matvecs for n in (6, 12, 60)]
    assert spent[0] > spent[1] >= spent[2]


def test_large_vectors_get_their_room_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.spectrum.krylov._AT_ONCE", 0)
    basis = KrylovBasis(symmetric_with(SPECTRUM), torch.Generator(), capacity=9)
    basis.advance()
    assert len(basis._rows) == 9


class ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", [landscape.HessianOperator, landscape.GGNOperator, landscape.EmpiricalFisherOperator])
def test_pieces_have_no_single_sample_where_torch_differentiates_these_wrongly(
    kind: type[landscape.HessianOperator],
) -> None:
    """As it does in InstanceNorm's backward pass, fed with channels last, under running statistics."""
    torch.manual_seed(0)
    norm = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    norm.running_mean.normal_()
    after = (nn.Tanh(), ChannelsLast(), nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    model = nn.Sequential(nn.Conv2d(1, 3, 3), norm, *after).double()
    x, y = torch.randn(11, 1, 6, 6, dtype=torch.float64), torch.arange(11) % 3

    def operator(count: int, size: int, strategy: str) -> landscape.HessianOperator:
        objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x[:count], y[:count]), batch_size=size)
        return kind(objective, strategy=strategy)

    cut, whole = operator(10, 2, "lean"), operator(10, 10, "double_backward")
    v = torch.randn(whole.shape[0], dtype=torch.float64)
    torch.testing.assert_close(cut @ v, whole @ v, rtol=0, atol=1e-10 * float((whole @ v).norm()))
    assert cut.strategy.pieces == (1 if "single samples" in cut.strategy.fallback else 2)
    with pytest.raises(ValueError, match=r"derivatives|slope"):  # whose last micro-batch is a single sample
        operator(11, 2, "lean") @ v


def test_too_small_a_budget_is_refused_with_what_would_do() -> None:
    matrix = symmetric_with(SPECTRUM)
    with pytest.raises(ValueError, match="basis_bytes is 1919, expected at least 1920: 4 vectors of 480 bytes"):
        landscape.top_eigenpairs(matrix, 1, basis_bytes=1919)
    with pytest.raises(ValueError, match="expected at least 3840: 4 vectors of 480 bytes in each of two bases"):
        landscape.top_eigenpairs(matrix, 1, basis_bytes=1920, search_missed=True)
    with pytest.raises(ValueError, match="give one of the two"):
        landscape.top_eigenpairs(matrix, 1, basis_bytes=10**6, max_basis=10)
    for wrong in (math.nan, math.inf, 1e6, True):
        with pytest.raises(ValueError, match=f"basis_bytes is {wrong!r}, expected a whole number of bytes"):
            landscape.top_eigenpairs(matrix, 1, basis_bytes=wrong)


def test_a_basis_too_large_for_its_device_stays_in_cpu_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 10 * 8 * 100

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    cuda = torch.device("cuda:0")
    assert place_of(100, 5, cuda) == cuda
    assert place_of(100, 6, cuda) == torch.device("cpu")


def test_the_code_of_the_page_on_large_models_runs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "large-models.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(block, namespace)
