"""Models, parameters and circumstances that are not the usual ones: served exactly, or refused in one line."""

from __future__ import annotations

import contextlib
import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ncsam.optimizers import NCSAM, SAM, NCSAMReleased, Plain
from ncsam.optimizers.in_place import realised
from ncsam.optimizers.sharpness_aware import RoundingWarning
from tests.ncsam.optimizers.problem import (
    ALL,
    BATCH,
    CLASSES,
    FEATURES,
    bn,
    build,
    data,
    everything,
    loss_fn,
    make,
    mlp,
    same,
    sgd,
    weights,
)

F64 = torch.float64
TOL = 1e4 * torch.finfo(F64).eps
pytestmark = pytest.mark.filterwarnings("ignore:projection keeps")


class Spectral(nn.Module):
    """A layer with complex weights, or with the same ones as pairs of reals."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w, self.head = nn.Parameter(w), nn.Linear(8, CLASSES, dtype=F64)

    def forward(self, x: Tensor) -> Tensor:
        w = self.w if self.w.is_complex() else torch.view_as_complex(self.w)
        out: Tensor = self.head((x.to(w.dtype) @ w).abs())
        return out


def spectral(as_pairs: bool) -> Spectral:
    torch.manual_seed(0)
    w = torch.randn(FEATURES, 8, dtype=torch.complex128)
    model = Spectral(torch.view_as_real(w).clone() if as_pairs else w)
    torch.manual_seed(1)
    nn.init.normal_(model.head.weight)
    return model


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_complex_parameters_are_pairs_of_reals(name: str, parts: int) -> None:
    infos, models = [], []
    for as_pairs in (False, True):
        model = spectral(as_pairs)
        opt = make(name, model)
        for i in range(3):
            x, y, true = data(seed=i, dtype=F64)
            infos.append(opt.step(x, y, loss_fn, progress=(i + 1) / 3, true_labels=true, microbatches=parts))
        models.append(model)
    for mine, theirs in zip(infos[:3], infos[3:], strict=True):
        for figure in ("loss", "perturbed_loss", "gradient_norm", "perturbation_norm", "compensation_norm", "kept"):
            assert getattr(mine, figure) == pytest.approx(getattr(theirs, figure), rel=TOL), figure
        assert mine.cosine == pytest.approx(theirs.cosine, rel=TOL, nan_ok=True)
    torch.testing.assert_close(torch.view_as_real(models[0].w.detach()), models[1].w.detach(), rtol=TOL, atol=TOL)


def test_complex_weights_come_back_bitwise() -> None:
    model = spectral(False)
    before = everything(model)
    x, y, _ = data(dtype=F64)
    info = SAM(model, torch.optim.SGD(model.parameters(), lr=0.0), rho=0.5).step(x, y, loss_fn)
    assert info.perturbation_norm == pytest.approx(0.5, rel=TOL)
    assert same(before, everything(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_half_precision_rounds_away_is_reported_and_said_once(dtype: torch.dtype) -> None:
    """Weights of 1 cannot move by less than half their spacing, here much more than ε has in any coordinate."""
    torch.manual_seed(0)
    model = nn.Linear(200, CLASSES, dtype=dtype)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(1.0)
    x, y = torch.randn(BATCH, 200).to(dtype), torch.arange(BATCH) % CLASSES
    opt = SAM(model, torch.optim.SGD(model.parameters(), lr=0.0), rho=1e-3)
    with pytest.warns(RoundingWarning, match=r"rounds ε: its norm is 0 instead of 0.001; keep the weights in float32"):
        info = opt.step(x, y, loss_fn)
    assert (info.perturbation_norm, info.perturbed_loss) == (0.0, info.loss)
    assert info.wanted_norm == pytest.approx(1e-3, rel=1e-5)
    assert opt.step(x, y, loss_fn).perturbation_norm == 0  # warnings are errors here: a second one would raise


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_moved_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.randn(1000, generator=generator).to(dtype))
    epsilon = 0.01 * torch.randn(1000, generator=generator)
    pairs = zip(w.tolist(), epsilon.tolist(), strict=True)
    expected = torch.tensor([torch.tensor(a + e).to(dtype).item() - a for a, e in pairs])
    torch.testing.assert_close(realised([w], epsilon), expected, rtol=1e-6, atol=0)
    mixed = [w, nn.Parameter(torch.ones(3))]
    assert torch.equal(realised(mixed, torch.cat([epsilon, torch.full((3,), 1e-5)]))[1000:], torch.full((3,), 1e-5))


class Words(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, FEATURES, sparse=sparse, dtype=F64)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * FEATURES, CLASSES, dtype=F64))

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.embed(ids))
        return out


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("name", ALL)
def test_sparse_gradients_are_those_of_a_dense_embedding(name: str, parts: int) -> None:
    ids, (_, y, true) = torch.arange(3 * BATCH).reshape(BATCH, 3) % 7, data()
    models, infos = [], []
    for sparse in (False, True):
        model = Words(sparse)
        opt = build(name, model, torch.optim.SGD(model.parameters(), lr=0.1))
        infos += [opt.step(ids, y, loss_fn, progress=1.0, true_labels=true, microbatches=parts) for _ in range(2)]
        assert model.embed.weight.grad is not None
        assert model.embed.weight.grad.is_sparse is sparse
        models.append(model)
    torch.testing.assert_close(weights(models[0]), weights(models[1]), rtol=TOL, atol=TOL)
    for figure in ("gradient_norm", "perturbation_norm", "compensation_norm", "perturbed_loss"):
        assert getattr(infos[1], figure) == pytest.approx(getattr(infos[3], figure), rel=TOL)


def test_sparse_adam_beside_a_step() -> None:
    model = nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Flatten(), nn.Linear(12, 3).requires_grad_(False))
    opt = SAM(model, torch.optim.SparseAdam([model[0].weight], lr=0.01))
    assert opt.step(torch.arange(12).reshape(4, 3) % 7, torch.tensor([0, 1, 2, 0]), loss_fn).skipped is None


def test_lbfgs_is_refused_in_one_line() -> None:
    model = mlp()
    with pytest.raises(
        TypeError, match=r"base is LBFGS, which evaluates the loss several times a step; .* AdamW"
    ) as error:
        SAM(model, torch.optim.LBFGS(model.parameters()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["sgd", "sam", "ncsam"])
def test_lazy_layers_are_refused_until_the_model_has_run(name: str) -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Tanh(), nn.Linear(8, CLASSES))
    opt = make(name, model)
    x, y, _ = data()
    with pytest.raises(ValueError, match=r"uninitialised parameters \(lazy layers\); run it once, model\(x\), before"):
        opt.step(x, y, loss_fn, progress=1.0)
    model(x)
    assert opt.step(x, y, loss_fn, progress=1.0).skipped is None


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_a_step_inside_no_grad_or_inference_mode_is_the_same_step(name: str, parts: int, around: Any) -> None:
    a, b = bn(), bn()
    outside, inside = make(name, a), make(name, b)
    for i in range(2):
        x, y, true = data(seed=i)
        outside.step(x, y, loss_fn, progress=0.7, true_labels=true, microbatches=parts)
        with around():
            x, y, true = data(seed=i)  # made inside: inference tensors
            info = inside.step(x, y, loss_fn, progress=0.7, true_labels=true, microbatches=parts)
            assert torch.is_inference_mode_enabled() == (around is torch.inference_mode)
            assert not torch.is_grad_enabled()
        assert info.skipped is None
    assert same(everything(a), everything(b))
    outside.step(*data()[:2], loss_fn, progress=0.7, true_labels=data()[2])  # and training goes on outside
    inside.step(*data()[:2], loss_fn, progress=0.7, true_labels=data()[2])
    assert same(everything(a), everything(b))


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = mlp()
    x, y, _ = data()
    with pytest.raises(ValueError, match=r"was made inside torch.inference_mode\(\), so it has no gradients"):
        make("sam", model).step(x, y, loss_fn)


@pytest.mark.parametrize("name", ALL)
def test_ambient_defaults_change_nothing(name: str) -> None:
    a, b = mlp(F64), mlp(F64)
    x, y, true = data(dtype=F64)
    make(name, a).step(x, y, loss_fn, progress=0.7, true_labels=true)
    torch.set_default_dtype(F64)
    try:
        make(name, b).step(x, y, loss_fn, progress=0.7, true_labels=true)
        make(name, b).step(x, y, lambda z, t: loss_fn(z, t), progress=0.7, true_labels=true, microbatches=2)
    finally:
        torch.set_default_dtype(torch.float32)
    make(name, a).step(x, y, lambda z, t: loss_fn(z, t), progress=0.7, true_labels=true, microbatches=2)
    torch.testing.assert_close(weights(a), weights(b), rtol=TOL, atol=TOL)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", ["sgd", "sam", "ncsam", "oracle", "ncsam-released"])
def test_compiled_models_step_like_the_model_itself(name: str, backend: str) -> None:
    a, b = mlp(F64), mlp(F64)
    torch._dynamo.reset()
    plain, compiled = make(name, a), make(name, torch.compile(b, backend=backend))
    for i in range(2):
        x, y, true = data(seed=i, dtype=F64)
        one = plain.step(x, y, loss_fn, progress=0.7, true_labels=true)
        other = compiled.step(x, y, loss_fn, progress=0.7, true_labels=true)
        assert one.picked == other.picked
    torch.testing.assert_close(weights(a), weights(b), rtol=TOL, atol=TOL)


def test_layers_of_a_compiled_model_are_named_as_in_the_model() -> None:
    model = torch.compile(mlp(), backend="eager")
    assert NCSAMReleased(model, sgd(model), features="2").step(*data()[:2], loss_fn, progress=1.0).skipped is None
    with pytest.raises(ValueError, match="features is 'head', but the model has 0, 1, 2"):
        NCSAMReleased(model, sgd(model), features="head")


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        found: nn.Module = torch.jit.script(bn(F64))
    return found


@pytest.mark.parametrize("name", ["sgd", "sam", "ncsam"])
def test_scripted_models_step_like_the_model_itself(name: str) -> None:
    a, b = scripted(), bn(F64)
    x, y, _ = data(dtype=F64)
    make(name, a).step(x, y, loss_fn, progress=1.0)
    make(name, b).step(x, y, loss_fn, progress=1.0)
    torch.testing.assert_close(weights(a), weights(b), rtol=TOL, atol=TOL)
    assert same([t.clone() for t in a.buffers()], [t.clone() for t in b.buffers()])


def test_the_features_of_a_scripted_model_cannot_be_seen() -> None:
    with pytest.raises(ValueError, match=r"the model is scripted \(torch.jit\), so its features cannot be seen"):
        make("ncsam-released", scripted())


@pytest.mark.parametrize("name", ALL)
def test_a_parameter_in_two_groups_is_perturbed_once(name: str) -> None:
    a, b = mlp(F64), mlp(F64)
    x, y, true = data(dtype=F64)
    base = torch.optim.SGD(a.parameters(), lr=0.0)
    base.param_groups.append({**base.param_groups[0], "params": [*a[0].parameters()]})
    twice, once = build(name, a, base), build(name, b, torch.optim.SGD(b.parameters(), lr=0.0))
    one = once.step(x, y, loss_fn, progress=0.7, true_labels=true)
    two = twice.step(x, y, loss_fn, progress=0.7, true_labels=true)
    for figure in ("gradient_norm", "perturbation_norm", "compensation_norm", "perturbed_loss"):
        assert getattr(one, figure) == pytest.approx(getattr(two, figure), rel=TOL)


def test_tied_parameters_are_one_parameter() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(FEATURES, FEATURES, dtype=F64), nn.Linear(FEATURES, FEATURES, dtype=F64)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x).tanh())
            return out

    model = Tied()
    x, y, _ = data(dtype=F64)
    params = list(model.parameters())
    assert len(params) == 3
    grads = torch.autograd.grad(loss_fn(model(x), y), params)
    norm = torch.cat([g.reshape(-1) for g in grads]).norm()
    info = SAM(model, torch.optim.SGD(params, lr=0.0), rho=0.1).step(x, y, loss_fn)
    assert info.gradient_norm == pytest.approx(float(norm), rel=TOL)
    there = copy.deepcopy(model)
    with torch.no_grad():
        for p, g in zip(there.parameters(), grads, strict=True):
            p.add_(0.1 * g / norm)
    assert info.perturbed_loss == pytest.approx(loss_fn(there(x), y).item(), rel=TOL)


class Noisy(nn.Module):
    """BatchNorm and dropout before the last layer, and a record of the modes it was run in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.norm = nn.Linear(FEATURES, 8, dtype=F64), nn.BatchNorm1d(8, dtype=F64)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, CLASSES, dtype=F64)
        self.modes: list[tuple[bool, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(tuple(m.training for m in self.modules()))
        out: Tensor = self.head(self.drop(self.norm(self.first(x)).tanh()))
        return out


def test_features_are_taken_in_eval_mode_and_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Noisy()
    model.norm.eval()  # a mixture of modes comes back as it was
    modes, points = [m.training for m in model.modules()], []
    monkeypatch.setattr(
        "ncsam.optimizers.cluster_inversion.kmeans",
        lambda p, k, generator: points.append(p) or torch.arange(len(p)) % k,
    )
    x, y, _ = data(dtype=F64)
    reference = copy.deepcopy(model).eval()
    expected = reference.norm(reference.first(x)).tanh()
    torch.manual_seed(7)
    info = make("ncsam-released", model).step(x, y, loss_fn, progress=1.0)
    torch.testing.assert_close(points[0], expected / expected.norm(dim=1, keepdim=True), rtol=TOL, atol=TOL)
    assert [m.training for m in model.modules()] == modes
    assert [all(not on for on in seen) for seen in model.modes] == [False, True, False, False]
    after = torch.get_rng_state()
    torch.manual_seed(7)
    for rows in (len(x), info.picked, len(x)):  # what the other passes drew: dropout's masks, of that many rows
        nn.functional.dropout(torch.ones(rows, 8, dtype=F64))
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("optimizer", [Plain, SAM, NCSAM])
def test_outputs_of_a_step_are_the_callers_to_keep(optimizer: Any) -> None:
    model = mlp()
    opt = optimizer(model, sgd(model))
    x, y, _ = data()
    first = opt.step(x, y, loss_fn, **({"progress": 1.0} if optimizer is NCSAM else {}))
    kept = first.outputs.clone()
    opt.step(x, y, loss_fn, **({"progress": 1.0} if optimizer is NCSAM else {}))
    assert torch.equal(first.outputs, kept)


def test_a_scaler_beside_complex_parameters_is_refused() -> None:
    x, y, _ = data(dtype=F64)
    for opt in ("sgd", "sam"):
        with pytest.raises(ValueError, match="a GradScaler cannot unscale gradients of complex parameters"):
            make(opt, spectral(False)).step(x, y, loss_fn, scaler=torch.amp.GradScaler("cpu"))


def test_a_batch_is_handed_to_the_model_as_it_was_given() -> None:
    class Encoding(dict):  # type: ignore[type-arg]
        """A mapping with attributes, such as tokenizers return."""

        def __getattr__(self, name: str) -> Any:
            return self[name]

    x, y, _ = data()
    for around in (contextlib.nullcontext, torch.no_grad):
        with around():
            make("ncsam", mlp(), forward=lambda m, b: m(b.x)).step(Encoding(x=x), y, loss_fn, progress=1.0)
