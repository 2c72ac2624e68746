"""NCSAM and its controls against a second, literal transcription of the formulas: float64, one gradient at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ncsam.optimizers.cluster_inversion
import ncsam.optimizers.noise_gradient
from tests.ncsam.optimizers.problem import CLASSES, bn, data, loss_fn, make, mlp, weights

TOL = 1e4 * torch.finfo(torch.float64).eps  # a few steps, each a sum over ~100 weights and 20 samples
pytestmark = pytest.mark.filterwarnings("ignore:projection keeps")
LR, MOMENTUM, DECAY = 0.1, 0.9, 1e-3


class Literal:
    """Algorithm 1 with SGD, with plain loops; what is picked is told, everything else is worked out here."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        self.model, self.o = model, options
        self.velocity = torch.zeros_like(weights(model))

    def gradient(self, x: Tensor, labels: Tensor, rows: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        z = self.model(x)
        z = z if rows is None else z[rows]
        total = z.new_zeros(())
        for i in range(len(z)):
            p = z[i].exp() / z[i].exp().sum()
            for c in range(CLASSES):
                share = 1 - smoothing if c == labels[i] else smoothing / (CLASSES - 1)
                total = total - share * p[c].log()
        self.model.zero_grad()
        (total / len(z)).backward()
        return torch.cat([p.grad.reshape(-1) for p in self.model.parameters()])

    def chances(self, z: Tensor) -> list[float]:
        weight = []
        for row in z:
            first, second = sorted(row.tolist(), reverse=True)[:2]
            weight.append(1 / (1 + first - second))
        return [w / sum(weight) for w in weight]

    def wrong_labels(self, z: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        labels = []
        for i in rows.tolist():
            others = [c for c in range(CLASSES) if c != y[i]]
            labels.append(max(others, key=lambda c, i=i: float(z[i, c])))
        return torch.tensor(labels)

    def schedule(self, t: float) -> float:
        name, kappa = self.o.get("schedule", "paper"), self.o.get("kappa", 0.1)
        if name == "constant":
            return kappa
        return kappa * min(1, 2 * t if name == "linear" else 6 * t**2 - 4 * t**3)

    def epsilon(self, x: Tensor, y: Tensor, t: float, rows: Tensor) -> Tensor:
        rho = self.o.get("rho", 0.05)
        g = self.gradient(x, y)
        sam = rho * g / math.sqrt(float(g @ g))
        z = self.model(x).detach()
        star = self.gradient(x, self.wrong_labels(z, y, rows), rows, self.o.get("label_smoothing", 0.0))
        s = self.schedule(t)  # of the sign of kappa
        add = s * rho * star / math.sqrt(float(star @ star)) if self.o.get("scale") == "relative" else s * star
        epsilon = sam + self.o.get("sign", 1) * add
        length = math.sqrt(float(epsilon @ epsilon))
        return epsilon * rho / length if self.o.get("project", True) and length > rho else epsilon

    def descend(self, x: Tensor, y: Tensor, epsilon: Tensor) -> None:
        w = weights(self.model)
        self.put(w + epsilon)
        g = self.gradient(x, y)
        self.velocity = MOMENTUM * self.velocity + g + DECAY * w
        self.put(w - LR * self.velocity)

    def put(self, w: Tensor) -> None:
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(w[: p.numel()].reshape(p.shape))
                w = w[p.numel() :]


CASES: dict[str, dict[str, Any]] = {
    "paper": {},
    "weak enough not to be projected": {"rho": 0.5, "kappa": 0.01, "sign": -1},
    "minus": {"sign": -1},
    "negative dose": {"kappa": -0.1},
    "negative dose unprojected": {"kappa": -0.1, "project": False},
    "negative dose, relative": {"kappa": -0.7, "scale": "relative", "project": False},
    "negative dose of the minus sign": {"kappa": -0.2, "sign": -1, "project": False},
    "unprojected": {"project": False},
    "minus unprojected": {"sign": -1, "project": False},
    "smoothed": {"label_smoothing": 0.1, "project": False},
    "linear": {"schedule": "linear", "project": False},
    "constant": {"schedule": "constant", "project": False},
    "relative": {"scale": "relative", "kappa": 0.7},
    "large kappa": {"kappa": 3.0, "rho": 0.2},
    "few picks": {"flip_ratio": 0.1, "project": False},
    "all picks": {"flip_ratio": 1.0, "project": False},
}


@pytest.mark.parametrize("build_model", [mlp, bn], ids=["mlp", "batchnorm"])
@pytest.mark.parametrize("options", CASES.values(), ids=list(CASES))
def test_ncsam_is_algorithm_1(build_model: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Tensor, Tensor]] = []
    draw = ncsam.optimizers.noise_gradient.draw

    def spy(chances: Tensor, count: int, generator: torch.Generator) -> Tensor:
        rows = draw(chances, count, generator)
        drawn.append((chances, rows))
        return rows

    monkeypatch.setattr(ncsam.optimizers.noise_gradient, "draw", spy)
    model, reference = build_model(torch.float64), build_model(torch.float64)
    opt, literal = make("ncsam", model, **options), Literal(reference, **options)
    for i in range(5):
        x, y, _ = data(seed=i, dtype=torch.float64)
        t = (i + 1) / 8
        info = opt.step(x, y, loss_fn, progress=t)
        chances, rows = drawn[-1]
        assert len(rows) == math.floor(options.get("flip_ratio", 0.4) * len(y)) == info.picked
        # Chances are computed in float32, whatever the model's precision.
        torch.testing.assert_close(
            chances.double(), torch.tensor(literal.chances(reference(x)), dtype=torch.float64), rtol=1e-5, atol=0
        )
        epsilon = literal.epsilon(x, y, t, rows)
        assert info.perturbation_norm == pytest.approx(float(epsilon.norm()), rel=TOL)
        g = literal.gradient(x, y)
        assert info.cosine == pytest.approx(float(g @ epsilon / g.norm() / epsilon.norm()), rel=TOL, abs=TOL)
        literal.descend(x, y, epsilon)
        torch.testing.assert_close(weights(model), weights(reference), rtol=TOL, atol=TOL)


@pytest.mark.parametrize("name", ["ncsam", "ncsam-released", "matched", "gstar-only", "random-direction", "oracle"])
@pytest.mark.parametrize("options", [{}, {"project": False}, {"scale": "relative", "project": False}], ids=str)
def test_a_negative_dose_is_the_minus_sign_bitwise(name: str, options: dict[str, Any]) -> None:
    a, b = mlp(), mlp()
    below, minus = make(name, a, kappa=-0.3, **options), make(name, b, kappa=0.3, sign=-1, **options)
    for i in range(3):
        x, y, true = data(seed=i)
        one, other = (opt.step(x, y, loss_fn, progress=0.5, true_labels=true) for opt in (below, minus))
        assert one.compensation_norm == other.compensation_norm >= 0
    assert torch.equal(weights(a), weights(b))


def test_relative_kappa_is_the_length_of_the_compensation_over_rho() -> None:
    for kappa in (0.1, 0.3, 1.0, 3.0, -0.3):
        info, _, _ = one_step("ncsam", scale="relative", kappa=kappa, rho=0.2)
        assert info.relative_compensation == pytest.approx(abs(kappa), rel=TOL)


def ascent(g: Tensor, rho: float = 0.05) -> Tensor:
    return rho * g / g.norm()


def test_sam_is_foret_equation_2() -> None:
    model, reference = mlp(torch.float64), mlp(torch.float64)
    opt, literal = make("sam", model), Literal(reference)
    for i in range(5):
        x, y, _ = data(seed=i, dtype=torch.float64)
        opt.step(x, y, loss_fn)
        literal.descend(x, y, ascent(literal.gradient(x, y)))
        torch.testing.assert_close(weights(model), weights(reference), rtol=TOL, atol=TOL)


def test_adaptive_sam_is_kwon_equation_10_and_invariant_to_rescaling() -> None:
    model, reference = mlp(torch.float64), mlp(torch.float64)
    opt, literal = make("asam", model, rho=0.5, eta=0.01), Literal(reference)
    for i in range(5):
        x, y, _ = data(seed=i, dtype=torch.float64)
        info = opt.step(x, y, loss_fn)
        g, scale = literal.gradient(x, y), weights(reference).abs() + 0.01
        epsilon = 0.5 * scale**2 * g / (scale * g).norm()
        assert info.perturbation_norm == pytest.approx(float(epsilon.norm()), rel=TOL)
        literal.descend(x, y, epsilon)
        torch.testing.assert_close(weights(model), weights(reference), rtol=TOL, atol=TOL)


@pytest.mark.parametrize("build_model", [mlp, bn], ids=["mlp", "batchnorm"])
@pytest.mark.parametrize("m", [1, 4, 5, 7, 20, 99])
def test_m_sam_perturbs_each_group_by_itself_and_descends_with_the_mean(build_model: Any, m: int) -> None:
    if build_model is bn and m == 1:
        return  # BatchNorm of torch refuses a batch of one sample
    model, reference = build_model(torch.float64), build_model(torch.float64)
    opt, literal = make("m-sam", model, rho=0.3, m=m), Literal(reference)
    for i in range(4):
        x, y, _ = data(seed=i, dtype=torch.float64)
        info = opt.step(x, y, loss_fn)
        w, descent, losses = weights(reference), torch.zeros_like(weights(reference)), []
        groups = math.ceil(len(y) / m)
        edges = [len(y) * k // groups for k in range(groups + 1)]
        for k in range(groups):
            rows = slice(edges[k], edges[k + 1])
            share = (edges[k + 1] - edges[k]) / len(y)
            g = literal.gradient(x[rows], y[rows])  # moves BatchNorm's statistics
            moved = [b.clone() for b in reference.buffers()]
            literal.put(w + 0.3 * g / g.norm())
            losses.append(share * float(loss_fn(reference(x[rows]), y[rows]).detach()))
            descent += share * literal.gradient(x[rows], y[rows])
            literal.put(w)
            for buffer, value in zip(reference.buffers(), moved, strict=True):
                buffer.copy_(value)
        literal.velocity = MOMENTUM * literal.velocity + descent + DECAY * w
        literal.put(w - LR * literal.velocity)
        assert info.perturbation_norm == pytest.approx(0.3, rel=TOL)
        assert info.cosine == pytest.approx(1.0, rel=TOL)
        assert info.perturbed_loss == pytest.approx(sum(losses), rel=TOL)
        assert len(info.outputs) == len(y)
        torch.testing.assert_close(weights(model), weights(reference), rtol=TOL, atol=TOL)
        torch.testing.assert_close([*model.buffers()], [*reference.buffers()], rtol=TOL, atol=TOL)


def test_m_sam_of_the_whole_batch_is_sam_bitwise() -> None:
    a, b = bn(), bn()
    for i in range(3):
        x, y, _ = data(seed=i)
        one, other = make("m-sam", a, m=20).step(x, y, loss_fn), make("sam", b).step(x, y, loss_fn)
        assert (one.loss, one.perturbed_loss, one.perturbation_norm) == pytest.approx(
            (other.loss, other.perturbed_loss, other.perturbation_norm)
        )
    assert torch.equal(weights(a), weights(b))


def test_m_sam_counts_a_group_what_it_weighs_and_leaves_out_what_is_ignored() -> None:
    x, y, _ = data(dtype=torch.float64)
    y[4:8] = -100
    y[9] = -100
    model, reference = mlp(torch.float64), mlp(torch.float64)
    info = make("m-sam", model, rho=0.3, m=4).step(x, y, loss_fn)
    literal, w, counted = Literal(reference), weights(reference), int((y >= 0).sum())
    descent = torch.zeros_like(w)
    for start in range(0, 20, 4):
        kept = [k for k in range(start, start + 4) if y[k] >= 0]
        if kept:
            g = literal.gradient(x[kept], y[kept])
            literal.put(w + 0.3 * g / g.norm())
            descent += len(kept) / counted * literal.gradient(x[kept], y[kept])
            literal.put(w)
    literal.put(w - LR * (descent + DECAY * w))
    torch.testing.assert_close(weights(model), weights(reference), rtol=TOL, atol=TOL)
    assert len(info.outputs) == 20
    info = make("m-sam", mlp(), m=4).step(x.float(), torch.full_like(y, -100), loss_fn)
    assert info.skipped == "loss is nan at w in a group of the batch"


def by_jacobian(model: Any, x: Tensor, y: Tensor, rows: slice, at_slope: Tensor, at_jacobian: Tensor) -> Tensor:
    """Σ_i J_i(at_jacobian)ᵀ ∂ℓ/∂z_i (at_slope) over some rows, J_i = ∂z_i/∂w by torch.func, ∂ℓ/∂z_i = (p − 1_y)/n."""

    def logits(w: Tensor) -> Tensor:
        pieces = w.split([p.numel() for p in model.parameters()])
        params = {n: v.reshape(p.shape) for (n, p), v in zip(model.named_parameters(), pieces, strict=True)}
        return torch.func.functional_call(model, params, (x[rows],))

    slope = logits(at_slope).softmax(1) - torch.nn.functional.one_hot(y[rows], CLASSES)
    return torch.einsum("ick,ic->k", torch.func.jacrev(logits)(at_jacobian), slope.detach() / len(y[rows])).detach()


@pytest.mark.parametrize("m", [None, 4])
@pytest.mark.parametrize("name", ["logit-sam", "jacobian-sam"])
def test_parts_of_sam_are_its_slope_in_the_logits_and_its_jacobian(name: str, m: int | None) -> None:
    """Against the definition, with Jacobians of single samples."""
    model, reference = mlp(torch.float64), mlp(torch.float64)
    opt, literal = make(name, model, rho=0.3, m=m), Literal(reference)
    for i in range(3):
        x, y, _ = data(seed=i, dtype=torch.float64)
        info = opt.step(x, y, loss_fn)
        w, descent, losses = weights(reference), torch.zeros_like(weights(reference)), []
        for rows in [slice(0, 20)] if m is None else [slice(k, k + m) for k in range(0, 20, m)]:
            share = len(y[rows]) / len(y)
            g = literal.gradient(x[rows], y[rows])
            there = w + 0.3 * g / g.norm()
            slope, jacobian = (there, w) if name == "logit-sam" else (w, there)
            descent += share * by_jacobian(reference, x, y, rows, slope, jacobian)
            literal.put(there)
            losses.append(share * float(loss_fn(reference(x[rows]), y[rows]).detach()))
            literal.put(w)
        literal.velocity = MOMENTUM * literal.velocity + descent + DECAY * w
        literal.put(w - LR * literal.velocity)
        assert (info.perturbation_norm, info.perturbed_loss) == pytest.approx((0.3, sum(losses)), rel=TOL)
        torch.testing.assert_close(weights(model), weights(reference), rtol=TOL, atol=TOL)


@pytest.mark.parametrize(("name", "twin"), [("logit-sam", "sam"), ("jacobian-sam", "sgd")])
@pytest.mark.parametrize("microbatches", [1, 3])
def test_a_linear_network_has_one_jacobian_so_that_all_of_sam_is_in_the_logits(
    name: str, twin: str, microbatches: int
) -> None:
    a, b = (torch.nn.Linear(6, CLASSES, dtype=torch.float64) for _ in range(2))
    b.load_state_dict(a.state_dict())
    one, other = make(name, a), make(twin, b)
    for i in range(3):
        x, y, _ = data(seed=i, dtype=torch.float64)
        y[:2] = -100
        one.step(x, y, loss_fn, microbatches=microbatches)
        other.step(x, y, loss_fn)
    torch.testing.assert_close(weights(a), weights(b), rtol=TOL, atol=TOL)


@pytest.mark.parametrize("name", ["logit-sam", "jacobian-sam"])
def test_parts_of_sam_refuse_a_loss_of_more_than_the_outputs(name: str) -> None:
    """Its gradient past the outputs would be lost, silently."""
    model = bn(torch.float64)
    before = [t.clone() for t in [*model.parameters(), *model.buffers()]]
    x, y, _ = data(dtype=torch.float64)
    penalised = lambda z, t: loss_fn(z, t) + model[0].weight.square().sum()  # noqa: E731
    with pytest.raises(ValueError, match="the loss depends on parameters beside the model's outputs"):
        make(name, model).step(x, y, penalised)
    assert all(torch.equal(a, b) for a, b in zip(before, [*model.parameters(), *model.buffers()], strict=True))


def one_step(name: str, **options: Any) -> tuple[Any, Tensor, Literal]:
    """Weights after one step of a control, from them ε's effect is read off: same base, same batch."""
    model = mlp(torch.float64)
    x, y, true = data(dtype=torch.float64)
    info = make(name, model, **options).step(x, y, loss_fn, progress=0.5, true_labels=true)
    return info, weights(model), Literal(mlp(torch.float64), **options)


def test_clean_direction_climbs_on_true_labels_and_descends_on_observed_ones() -> None:
    _, after, literal = one_step("clean-direction")
    x, y, true = data(dtype=torch.float64)
    literal.descend(x, y, ascent(literal.gradient(x, true)))
    torch.testing.assert_close(after, weights(literal.model), rtol=TOL, atol=TOL)


@pytest.mark.parametrize("build_model", [mlp, bn], ids=["mlp", "batchnorm"])
def test_clean_part_direction_climbs_on_rightly_labelled_samples_and_descends_on_all(build_model: Any) -> None:
    model, reference = build_model(torch.float64), build_model(torch.float64)
    opt, literal = make("clean-part-direction", model, rho=0.2), Literal(reference)
    for i in range(5):
        x, y, true = data(seed=i, dtype=torch.float64)
        info = opt.step(x, y, loss_fn, true_labels=true)
        right = [k for k in range(len(y)) if y[k] == true[k]]
        g_clean = torch.zeros_like(weights(reference))
        for k in right:
            literal.model.zero_grad()
            loss_fn(literal.model(x)[[k]], y[[k]]).backward()
            g_clean += torch.cat([p.grad.reshape(-1) for p in reference.parameters()]) / len(right)
        epsilon = ascent(g_clean, 0.2)
        assert info.perturbation_norm == pytest.approx(0.2, rel=TOL)
        g = literal.gradient(x, y)
        assert info.cosine == pytest.approx(float(g @ epsilon / g.norm() / 0.2), rel=TOL)
        literal.descend(x, y, epsilon)
        torch.testing.assert_close(weights(model), weights(reference), rtol=TOL, atol=TOL)


def test_clean_part_direction_at_its_ends_is_sam_and_sgd() -> None:
    x, _, true = data()
    a, b, c, d = mlp(), mlp(), mlp(), mlp()
    make("clean-part-direction", a).step(x, true, loss_fn, true_labels=true)
    make("sam", b).step(x, true, loss_fn)
    torch.testing.assert_close(weights(a), weights(b))
    all_wrong = (true + 1) % CLASSES
    info = make("clean-part-direction", c).step(x, all_wrong, loss_fn, true_labels=true)
    make("sgd", d).step(x, all_wrong, loss_fn)
    assert (info.perturbation_norm, info.skipped) == (0.0, None)
    assert torch.equal(weights(c), weights(d))


def test_clean_part_direction_leaves_out_what_the_loss_ignores() -> None:
    x, y, true = data()
    y[10:14] = -100  # rightly labelled, were they not ignored
    kept = [*range(10), *range(14, len(y))]
    a, b = mlp(), mlp()
    make("clean-part-direction", a).step(x, y, loss_fn, true_labels=true)
    make("clean-part-direction", b).step(x[kept], y[kept], loss_fn, true_labels=true[kept])
    torch.testing.assert_close(weights(a), weights(b))


def test_replay_has_sams_direction_and_the_given_length_at_every_step() -> None:
    norms = [0.3, 0.0, 0.07, 1.5]
    model, reference = mlp(torch.float64), mlp(torch.float64)
    opt, literal = make("replay", model, norms=norms), Literal(reference)
    for i, length in enumerate(norms):
        x, y, _ = data(seed=i, dtype=torch.float64)
        info = opt.step(x, y, loss_fn)
        assert info.perturbation_norm == pytest.approx(length, rel=TOL)
        literal.descend(x, y, ascent(literal.gradient(x, y), length))
        torch.testing.assert_close(weights(model), weights(reference), rtol=TOL, atol=TOL)
    before = weights(model)
    with pytest.raises(ValueError, match="norms are given for 4 steps, this is step 5; give more"):
        opt.step(x, y, loss_fn)
    assert torch.equal(before, weights(model))


def test_oracle_adds_the_gradient_of_the_wrong_labelled_samples() -> None:
    _, after, literal = one_step("oracle", project=False)
    x, y, true = data(dtype=torch.float64)
    rows = (y != true).nonzero().flatten()
    epsilon = ascent(literal.gradient(x, y)) + 0.1 * literal.gradient(x, y[rows], rows)
    literal.descend(x, y, epsilon)
    torch.testing.assert_close(after, weights(literal.model), rtol=TOL, atol=TOL)


def test_oracle_without_wrong_labels_is_sam() -> None:
    x, _, true = data()
    a, b = mlp(), mlp()
    info = make("oracle", a).step(x, true, loss_fn, progress=0.5, true_labels=true)
    make("sam", b).step(x, true, loss_fn)
    assert info.picked == 0
    assert torch.equal(weights(a), weights(b))


def test_matched_has_sams_direction_and_ncsams_length_at_every_step() -> None:
    _, after, literal = one_step("matched", seed=3)
    info, _, _ = one_step("ncsam", project=False, seed=3)
    x, y, _ = data(dtype=torch.float64)
    assert info.perturbation_norm > 0.06  # otherwise it would be SAM
    literal.descend(x, y, ascent(literal.gradient(x, y), info.perturbation_norm))
    torch.testing.assert_close(after, weights(literal.model), rtol=TOL, atol=TOL)


def test_gstar_only_has_no_part_of_sam() -> None:
    _, after, literal = one_step("gstar-only", project=False, flip_ratio=1.0)
    x, y, _ = data(dtype=torch.float64)
    rows = torch.arange(len(y))
    labels = literal.wrong_labels(literal.model(x).detach(), y, rows)
    literal.descend(x, y, 0.1 * literal.gradient(x, labels, rows))
    torch.testing.assert_close(after, weights(literal.model), rtol=TOL, atol=TOL)


def test_random_direction_keeps_the_length_of_the_compensation_only() -> None:
    random, at_random, _ = one_step("random-direction", seed=3)
    ncsam_, at_ncsam, _ = one_step("ncsam", seed=3)
    assert random.compensation_norm == pytest.approx(ncsam_.compensation_norm, rel=TOL)
    assert not torch.allclose(at_random, at_ncsam, rtol=1e-6)
    # In 101 dimensions a random direction has a cosine of order 0.1 with anything.
    noise = [one_step("random-direction", seed=s, project=False, rho=0.0, kappa=1.0)[0].cosine for s in range(20)]
    assert abs(sum(noise) / 20) < 4 * 0.1 / math.sqrt(20)


def test_random_picks_have_equal_chances_and_ncsams_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.tensor([1, 3, 19])

    def told(chances: Tensor, count: int, generator: torch.Generator) -> Tensor:
        assert chances.tolist() == [1.0] * 20
        assert count == 3
        return rows

    monkeypatch.setattr(ncsam.optimizers.noise_gradient, "draw", told)
    _, after, literal = one_step("random-picks", project=False, flip_ratio=0.15)
    x, y, _ = data(dtype=torch.float64)
    literal.descend(x, y, literal.epsilon(x, y, 0.5, rows))
    torch.testing.assert_close(after, weights(literal.model), rtol=TOL, atol=TOL)


@pytest.mark.parametrize("step", ["base", "sam"])
def test_warm_up_takes_the_step_it_says(step: str) -> None:
    a, b = mlp(), mlp()
    opt = make("ncsam", a, warmup=0.3, warmup_step=step)
    other = make("sgd" if step == "base" else "sam", b)
    for i in range(3):  # epochs 1, 2 and 3 of 10: the last has progress 0.3
        x, y, _ = data(seed=i)
        info = opt.step(x, y, loss_fn, progress=(i + 1) / 10)
        other.step(x, y, loss_fn)
        assert (info.compensation_norm, info.picked) == (0.0, 0)
    assert torch.equal(weights(a), weights(b))
    x, y, _ = data()
    assert opt.step(x, y, loss_fn, progress=0.4).picked == 8


@pytest.mark.parametrize("build_model", [mlp, bn], ids=["mlp", "batchnorm"])
@pytest.mark.parametrize("flip_ratio", [0.4, 1.0])
def test_the_released_variant_step_by_step(
    build_model: Any, flip_ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clusters and uniform numbers are told; rates, picks, labels, g*, ε and the update are worked out with loops."""
    kmeans, seen = ncsam.optimizers.cluster_inversion.kmeans, []

    def spy(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
        found = kmeans(points, clusters, generator)
        seen.append((points, found, generator.get_state()))
        return found

    monkeypatch.setattr(ncsam.optimizers.cluster_inversion, "kmeans", spy)
    model, reference = build_model(torch.float64), build_model(torch.float64)
    opt = make("ncsam-released", model, kappa=0.25, flip_ratio=flip_ratio)
    literal = Literal(reference, kappa=0.25)
    picked = 0
    for i in range(5):
        x, y, _ = data(seed=i, dtype=torch.float64)
        statistics = [b.clone() for b in reference.buffers()]
        z = reference(x).detach()  # moves BatchNorm's statistics once, as the step does
        moved = [b.clone() for b in reference.buffers()]
        info = opt.step(x, y, loss_fn, progress=(i + 4) / 8)
        points, cluster, state = seen[-1]
        reference.eval()
        features = reference[:-1](x).detach()
        reference.train()
        torch.testing.assert_close(points, features / features.norm(dim=1, keepdim=True), rtol=TOL, atol=TOL)
        margin = []
        for row in z:
            first, second = sorted(row.tolist(), reverse=True)[:2]
            margin.append(first - second)
        generator = torch.Generator()
        generator.set_state(state)
        uniform = torch.rand(len(x), generator=generator).tolist()
        rows = []
        for k in range(len(x)):
            mates = [margin[j] for j in range(len(x)) if cluster[j] == cluster[k]]
            certainty = sum(mates) / len(mates) / max(mates)
            if uniform[k] < flip_ratio * min(max(1 - certainty, 0), 1):
                rows.append(k)
        assert info.picked == (len(rows) if len(rows) > 1 else 0)
        picked += info.picked
        g = literal.gradient(x, y)
        epsilon = ascent(g)
        if len(rows) > 1:
            steps = torch.randint(1, CLASSES, (len(rows),), generator=generator).tolist()
            labels = torch.tensor([(int(y[k]) + step) % CLASSES for k, step in zip(rows, steps, strict=True)])
            star = literal.gradient(x[rows], labels, smoothing=0.1)
            epsilon = epsilon + literal.schedule((i + 4) / 8) * star
        assert info.perturbation_norm == pytest.approx(float(epsilon.norm()), rel=TOL)
        literal.descend(x, y, epsilon)
        for buffer, value in zip(reference.buffers(), moved, strict=True):
            buffer.copy_(value)
        torch.testing.assert_close(weights(model), weights(reference), rtol=TOL, atol=TOL)
        torch.testing.assert_close([*model.buffers()], [*reference.buffers()], rtol=TOL, atol=TOL)
        assert not statistics or any(not torch.equal(a, b) for a, b in zip(statistics, moved, strict=True))
    assert picked > 0


def test_the_released_warm_up_lasts_while_the_epoch_is_below_its_end() -> None:
    x, y, _ = data()
    for epochs, end in ((200, 50), (40, 10), (20, 5)):
        released, paper = make("ncsam-released", mlp(), warmup=0.25), make("ncsam", mlp(), warmup=0.25)
        for name, opt, last in (("released", released, end - 1), ("paper", paper, end)):
            plain = [e for e in range(1, epochs + 1) if not opt.perturbation.active(e / epochs)]
            assert plain == list(range(1, last + 1)), (name, epochs)
    sam = make("ncsam-released", mlp(), warmup=0.25, warmup_step="sam", flip_ratio=1.0)
    assert sam.step(x, y, loss_fn, progress=49 / 200).compensation_norm == 0
    assert sam.step(x, y, loss_fn, progress=50 / 200).compensation_norm > 0
