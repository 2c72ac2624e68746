"""Mixed precision: loss scaling, autocast, half-precision weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ncsam.optimizers import NCSAM, SAM, JacobianSAM, LogitSAM, in_place
from ncsam.optimizers.in_place import length, norm, of_length
from tests.ncsam.optimizers.problem import ALL, bn, build, data, everything, loss_fn, make, mlp, same, sgd, weights

pytestmark = pytest.mark.filterwarnings("ignore:projection keeps")


def scaler(scale: float = 2.0**10, **more: Any) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, **more)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_power_of_two_as_loss_scale_changes_not_one_bit(name: str, parts: int) -> None:
    """g* enters ε with its size, so it must be unscaled; scaling by 2ᵏ and back is exact in floating point."""
    a, b = bn(), bn()
    x, y, true = data()
    scaled, plain = scaler(), None
    infos = [
        make(name, m).step(x, y, loss_fn, progress=0.5, true_labels=true, scaler=s, microbatches=parts)
        for m, s in ((a, scaled), (b, plain))
    ]
    assert same(everything(a), everything(b))
    for figure in ("loss", "gradient_norm", "perturbation_norm", "compensation_norm"):
        assert getattr(infos[0], figure) == getattr(infos[1], figure)


def test_the_scale_grows_with_good_steps_and_a_disabled_scaler_is_none() -> None:
    x, y, _ = data()
    growing = scaler(growth_interval=2)
    opt = make("ncsam", mlp())
    for _ in range(4):
        opt.step(x, y, loss_fn, progress=0.5, scaler=growing)
    assert growing.get_scale() == 2.0**12
    off = torch.amp.GradScaler("cpu", enabled=False)
    a, b = mlp(), mlp()
    make("ncsam", a).step(x, y, loss_fn, progress=0.5, scaler=off)
    make("ncsam", b).step(x, y, loss_fn, progress=0.5)
    assert same(everything(a), everything(b))


@pytest.mark.parametrize("name", ALL)
def test_an_overflow_skips_the_step_and_the_scale_backs_off(name: str) -> None:
    model = bn()
    opt, high = make(name, model), scaler(2.0**126)
    x, y, true = data()
    before = everything(model)
    info = opt.step(x, y, lambda z, t: 100 * loss_fn(z, t), progress=0.5, true_labels=true, scaler=high)
    assert info.skipped is not None
    assert same(before, everything(model))
    assert high.get_scale() == 2.0**125
    for _ in range(20):
        info = opt.step(x, y, lambda z, t: 100 * loss_fn(z, t), progress=0.5, true_labels=true, scaler=high)
        if info.skipped is None:
            break
    assert info.skipped is None
    assert not same(before, everything(model))


def test_an_overflow_at_the_perturbed_weights_alone_backs_off_too() -> None:
    model, calls = mlp(), 0

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        z = model(x)
        if calls == 2:
            z.register_hook(lambda g: g * torch.inf)  # finite loss, infinite gradient
        return z

    x, y, _ = data()
    before, s = everything(model), scaler()
    info = make("ncsam", model, forward=forward).step(x, y, loss_fn, progress=0.5, scaler=s)
    assert info.skipped is not None
    assert "gradient" in info.skipped
    assert s.get_scale() == 2.0**9
    assert same(before, everything(model))


@pytest.mark.parametrize("inside", ["every step", "all steps"])
def test_autocast_sees_the_perturbed_weights(inside: str) -> None:
    """Autocast keeps low-precision copies of the weights for as long as its context lasts, here over several passes."""
    rho = 0.5
    model, reference = mlp(), mlp()
    opt, by_hand = SAM(model, sgd(model), rho=rho), sgd(reference)

    def gradient(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_fn(m(x), y)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(m.parameters()))])

    def by_hand_step(x: Tensor, y: Tensor) -> None:
        g = gradient(reference, x, y)
        there = copy.deepcopy(reference)
        nn.utils.vector_to_parameters(weights(reference) + rho * g / g.norm(), there.parameters())
        g_there = gradient(there, x, y)
        for p, piece in zip(
            reference.parameters(), g_there.split([p.numel() for p in reference.parameters()]), strict=True
        ):
            p.grad = piece.view_as(p).clone()
        by_hand.step()

    batches = [data(seed=i)[:2] for i in range(3)]
    if inside == "all steps":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for x, y in batches:
                opt.step(x, y, loss_fn)
    else:
        for x, y in batches:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                opt.step(x, y, loss_fn)
    for x, y in batches:
        by_hand_step(x, y)
    # ε is the same up to float32 rounding, which bfloat16's rounding of the weights may turn into one of its ulps.
    tol = 3 * torch.finfo(torch.bfloat16).eps * 0.1
    torch.testing.assert_close(weights(model), weights(reference), rtol=0, atol=tol)
    assert (weights(model) - weights(reference)).norm() < 0.02 * (weights(model) - weights(mlp())).norm()


@pytest.mark.parametrize("name", ALL)
def test_every_arm_trains_under_bfloat16_autocast_with_a_scaler(name: str) -> None:
    model, x, y, true = bn(), *data()
    opt, s = make(name, model), scaler()
    losses = []
    for i in range(10):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            info = opt.step(x, y, loss_fn, progress=(i + 1) / 10, true_labels=true, scaler=s)
            assert torch.is_autocast_enabled("cpu")
        assert info.skipped is None
        assert info.outputs.dtype == torch.bfloat16
        losses.append(info.loss)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert losses[-1] < losses[0]


def test_norms_are_float32_for_half_precision_weights() -> None:
    """‖·‖ of 10⁶ numbers of 300 is 3·10⁵, above float16's largest number; each of them is not."""
    big = [torch.full((500, 1000), 300.0, dtype=torch.float16) for _ in range(2)]
    assert float(norm(big)) == pytest.approx(3e5, rel=1e-3)  # a float32 sum of 10⁶ terms
    assert float(norm([*big, torch.full((4,), 2e5, dtype=torch.float64)])) == pytest.approx(5e5, rel=1e-3)
    assert float(norm([torch.full((4,), 1e100, dtype=torch.float64)])) == pytest.approx(2e100, rel=1e-12)
    assert not math.isfinite(norm([torch.ones(3), torch.tensor([math.nan])]))
    assert not math.isfinite(norm([torch.ones(3), torch.tensor([math.inf, math.nan])]))
    assert norm([]) == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_perturbed_by_rho(dtype: torch.dtype) -> None:
    model = mlp(dtype)
    x, y, _ = data(dtype=dtype)
    before = weights(model)
    moved: list[Tensor] = []
    opt = build("sam", model, torch.optim.SGD(model.parameters(), lr=0.0), rho=0.5)
    model[0].register_forward_hook(lambda *_: moved.append(weights(model).float() - before.float()))
    info = opt.step(x, y, loss_fn)
    # Each of the moved weights is rounded to the model's precision, and ‖ε‖ is that of the weights as they were moved.
    assert info.perturbation_norm == pytest.approx(float(moved[-1].norm()), rel=1e-6)
    assert info.perturbation_norm == pytest.approx(0.5, rel=10 * torch.finfo(dtype).eps)
    assert info.wanted_norm == pytest.approx(0.5, rel=1e-6)
    assert torch.equal(weights(model), before)


def test_gradients_that_underflow_without_a_scale_survive_with_one() -> None:
    """float16's smallest number is 6·10⁻⁸; a hundred-millionth of a loss has gradients below."""
    infos = []
    for s in (None, scaler(2.0**20)):
        model = mlp()
        x, y, _ = data()
        opt = NCSAM(model, torch.optim.SGD(model.parameters(), lr=0.0), rho=0.05, kappa=1.0)
        with torch.autocast("cpu", dtype=torch.float16):
            infos.append(opt.step(x, y, lambda z, t: 1e-8 * loss_fn(z, t), progress=1.0, scaler=s))
    assert infos[0].gradient_norm == 0
    assert infos[1].gradient_norm > 1e-9
    assert infos[1].perturbation_norm == pytest.approx(0.05, rel=1e-5)


@pytest.mark.parametrize("optimizer", [LogitSAM, JacobianSAM])
@pytest.mark.parametrize("microbatches", [1, 4])
def test_a_loss_scale_reaches_slopes_in_float16_outputs(
    optimizer: type[LogitSAM] | type[JacobianSAM], microbatches: int
) -> None:
    """Slopes of a small loss are below what float16 holds; the scale lifts them, as it lifts a plain gradient."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 5, generator=generator), torch.randint(0, 3, (64,), generator=generator)

    def gradient(scale: float | None) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 3))
        opt = optimizer(model, torch.optim.SGD(model.parameters(), lr=1.0), rho=0.05)
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        with torch.autocast("cpu", dtype=torch.float16, enabled=scale is not None):
            opt.step(
                x, y, lambda z, t: 1e-6 * nn.functional.cross_entropy(z, t), scaler=scaler, microbatches=microbatches
            )
        return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])

    # A slope above 2^-14, where float16 has all its digits, is rounded by a few of its 2^-11.
    plain, scaled = gradient(None), gradient(2.0**16)
    assert float((plain - scaled).norm() / plain.norm()) < 20 * 2**-11


SIZES = [(torch.float32, e) for e in (0, -5, -10, -18, -25, -37, -44)]
SIZES += [(torch.float64, e) for e in (0, -29, -31, -77, -160, -300, -323)]


@pytest.mark.parametrize(("dtype", "exponent"), SIZES, ids=str)
def test_lengths_of_vectors_whose_squares_underflow(dtype: torch.dtype, exponent: int) -> None:
    """Down to the smallest numbers, against norms of Python's floats, which are scaled before they are squared."""
    normal = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = (normal * 10.0**exponent).to(dtype)
    vector[0] = 1.5 * 10.0**exponent  # not zero at least
    largest = max(map(abs, vector.tolist()))
    unit = [v / largest for v in vector.tolist()]
    size, tol = largest * math.hypot(*unit), 100 * torch.finfo(dtype).eps
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert float(length(vector)) == pytest.approx(size, rel=tol, abs=smallest)
    assert float(norm([vector[:20], vector[20:].reshape(5, 6)])) == pytest.approx(size, rel=tol, abs=smallest)
    expected = [0.05 * v / math.hypot(*unit) for v in unit]
    found = of_length(0.05, vector)
    assert found.dtype == dtype
    assert found.tolist() == pytest.approx(expected, rel=tol)
    if torch.linalg.vector_norm(vector) > torch.finfo(dtype).tiny ** 0.25:  # an ordinary one, as ever
        assert torch.equal(found, vector * (0.05 / torch.linalg.vector_norm(vector)))
    assert torch.equal(of_length(0.05, torch.zeros_like(vector)), torch.zeros_like(vector))
    assert of_length(0.05, vector * math.nan).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lengths_on_an_accelerator_which_is_not_waited_for(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same there as on the CPU, bitwise: the CPU, said to be something else, takes the same way."""
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    normal = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=dtype)
    vectors = [normal, normal * 1e-8, normal * smallest * 9, normal * 0, normal * math.nan, normal[:0]]
    here = [of_length(0.05, v) for v in vectors]
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "is_cpu", False)
        patched.setattr(torch.Tensor, "item", None)
        there = [of_length(0.05, v) for v in vectors]
    torch.testing.assert_close(there, here, rtol=0, atol=0, equal_nan=True)


def test_norms_on_an_accelerator_do_not_underflow() -> None:
    with FakeTensorMode():
        there = torch.empty(5, device="cuda")
        assert (length(there).dtype, norm([there]).dtype) == (torch.float64, torch.float64)
        assert length(torch.empty(5, device="mps")).dtype == torch.float32  # has no float64
        assert of_length(length(there), there).dtype == torch.float32


def test_lengths_where_there_is_no_float64_do_not_underflow(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = torch.tensor([3e-30, 4e-30])
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "is_cpu", False)
        patched.setattr(in_place, "_sums_in_float64", lambda _: False)
        assert float(length(vector)) == pytest.approx(5e-30, rel=1e-6)


def test_norms_of_small_gradients_beside_wide_ones() -> None:
    parts = [torch.full((4,), 1e-30), torch.full((4,), 2e-40, dtype=torch.float64)]
    assert float(norm(parts)) == pytest.approx(2e-30, rel=1e-6)
    assert float(norm([torch.full((4,), 1e-30, dtype=torch.bfloat16)])) == pytest.approx(2e-30, rel=1e-2)
    assert norm([torch.zeros(3)]) == 0.0


def times(factor: float) -> Any:
    return lambda z, t: factor * loss_fn(z, t)


@pytest.mark.parametrize("factor", [1e-12, 1e-25, 1e-37])
@pytest.mark.parametrize("name", sorted({*ALL} - {"gstar-only"}))
def test_the_smallest_gradient_is_perturbed_as_a_large_one(name: str, factor: float) -> None:
    """ε does not depend on the size of the loss, but for g*, which is as small: against the same step in float64."""
    infos = []
    for dtype in (torch.float32, torch.float64):
        model = mlp(dtype)
        options = {"schedule": "constant", "project": False} if name in ("ncsam", "random-direction") else {}
        opt = build(name, model, torch.optim.SGD(model.parameters(), lr=0.1), **options)
        x, y, true = data()
        infos.append(opt.step(x.to(dtype), y, times(factor), progress=1.0, true_labels=true))
    small, wide = infos
    figures = ["gradient_norm", "perturbation_norm", "compensation_norm", "perturbed_loss"]
    for figure in figures if name != "random-direction" else figures[:3]:
        assert getattr(small, figure) == pytest.approx(getattr(wide, figure), rel=1e-4, abs=1e-44), figure
    assert small.cosine == pytest.approx(wide.cosine, rel=1e-5, nan_ok=True)
    assert small.skipped is None


@pytest.mark.parametrize("name", ["sam", "asam"])
def test_perturbations_of_subnormal_gradients_have_the_direction_of_large_ones(name: str) -> None:
    moved = []
    for factor in (1.0, 1e-40):
        model = mlp()
        opt = build(name, model, torch.optim.SGD(model.parameters(), lr=0.0), rho=0.5)
        at = weights(model)
        model[0].register_forward_hook(lambda m, *_, model=model, at=at: moved.append(weights(model) - at))
        info = opt.step(*data()[:2], times(factor))
        assert info.cosine > 0.5
        assert info.gradient_norm > 0
    torch.testing.assert_close(moved[3], moved[1], rtol=0, atol=1e-3)  # four digits are left of 1e-41
    assert float(moved[3].norm()) == pytest.approx(0.5, rel=1e-4) or name == "asam"


def test_relative_compensation_and_projection_of_small_numbers() -> None:
    model = mlp()
    opt = NCSAM(model, sgd(model), rho=0.05, kappa=0.5, scale="relative", schedule="constant", project=False)
    x, y, _ = data()
    assert opt.step(x, y, times(1e-25), progress=1.0).compensation_norm == pytest.approx(0.025, rel=1e-6)
    opt = NCSAM(model, sgd(model), rho=1e-25, kappa=1.0, scale="relative", schedule="constant")
    info = opt.step(x, y, loss_fn, progress=1.0)
    assert info.perturbation_norm == pytest.approx(1e-25, rel=1e-5)
