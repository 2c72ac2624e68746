"""Losses against their formulas, written out in float64 with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ncsam.training import losses

EPS = float(np.finfo(np.float64).eps)


def batch(spread: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    return torch.from_numpy(spread * rng.standard_normal((64, 7))), torch.from_numpy(rng.integers(7, size=64))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def smoothed(p: np.ndarray, hot: np.ndarray) -> np.ndarray:
    return -((0.9 * hot + 0.1 / p.shape[1]) * np.log(p)).sum(axis=1)


def symmetric(p: np.ndarray, hot: np.ndarray, alpha: float, beta: float, log_zero: float) -> np.ndarray:
    log_label = np.where(hot == 1, 0.0, log_zero)
    return -alpha * (hot * np.log(p)).sum(axis=1) - beta * (p * log_label).sum(axis=1)


FORMULAS = {
    "ce": lambda p, hot: -(hot * np.log(p)).sum(axis=1),
    "smooth:0.1": smoothed,
    "smooth:0": lambda p, hot: -(hot * np.log(p)).sum(axis=1),
    "gce": lambda p, hot: (1 - (hot * p).sum(axis=1) ** 0.7) / 0.7,
    "gce:0.3": lambda p, hot: (1 - (hot * p).sum(axis=1) ** 0.3) / 0.3,
    "gce:1": lambda p, hot: np.abs(hot - p).sum(axis=1) / 2,  # mean absolute error, halved
    "sce": lambda p, hot: symmetric(p, hot, 0.1, 1.0, -4.0),
    "sce:6,0.1": lambda p, hot: symmetric(p, hot, 6.0, 0.1, -4.0),
    "sce:0.5,2,-9.21": lambda p, hot: symmetric(p, hot, 0.5, 2.0, -9.21),
}


@pytest.mark.parametrize("spec", FORMULAS)
def test_value_and_gradient_follow_the_formula(spec: str) -> None:
    logits, labels = batch()
    loss = losses.parse(spec)
    hot = np.eye(7)[labels.numpy()]

    def formula(z: np.ndarray) -> float:
        return float(FORMULAS[spec](softmax(z), hot).mean())

    z = logits.clone().requires_grad_()
    value = loss(z, labels)
    assert value.shape == ()
    assert value.item() == pytest.approx(formula(logits.numpy()), rel=100 * EPS)
    (gradient,) = torch.autograd.grad(value, z)
    h = EPS ** (1 / 3)  # of central differences; their error is of order h²
    for i, c in [(0, 0), (1, 3), (5, int(labels[5])), (63, 6)]:
        up, down = logits.numpy().copy(), logits.numpy().copy()
        up[i, c], down[i, c] = up[i, c] + h, down[i, c] - h
        assert gradient[i, c].item() == pytest.approx((formula(up) - formula(down)) / (2 * h), abs=100 * h**2)


def test_gce_tends_to_cross_entropy() -> None:
    logits, labels = batch()
    small = losses.parse("gce:1e-7")(logits, labels)  # the difference is q·(log p)²/2 to first order
    log_p = logits.log_softmax(1)[torch.arange(64), labels]
    assert small.item() == pytest.approx(
        losses.parse("ce")(logits, labels).item(), abs=1e-7 * float(log_p.square().mean())
    )


@pytest.mark.parametrize("spec", ["ce", "smooth:0.1", "gce:0.7", "sce:0.1,1.0"])
def test_extreme_logits_give_finite_losses_and_gradients(spec: str) -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    value = losses.parse(spec)(logits, torch.tensor([0, 0]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("spec", ["ce", "gce:0.7", "sce:0.1,1.0"])
def test_half_precision_logits_are_widened_before_the_logarithm(spec: str) -> None:
    logits, labels = batch()
    low = logits.bfloat16()
    loss = losses.parse(spec)
    assert loss(low, labels).dtype == torch.float32
    assert torch.equal(loss(low, labels), loss(low.float(), labels))


def test_wrong_labels_pull_less_under_the_robust_losses() -> None:
    # The sample is fitted to class 0 and labelled 1: cross-entropy's gradient there is as large as it gets.
    size = {}
    for spec in ("ce", "gce:0.7", "sce:0.1,1.0"):
        logits = torch.tensor([[8.0, 0.0]], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(losses.parse(spec)(logits, torch.tensor([1])), logits)
        size[spec] = gradient.norm().item()
    assert size["gce:0.7"] < 0.01 * size["ce"]
    assert size["sce:0.1,1.0"] < 0.11 * size["ce"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gec:0.7", "unknown loss 'gec', did you mean"),
        ("gce:0", "q is 0.0, expected 0 < q ≤ 1"),
        ("gce:1.5", "q is 1.5"),
        ("gce:nan", "q is nan"),
        ("gce:0.7,1", "has 2 numbers; spell it gce or gce:Q"),
        ("smooth", "has 0 numbers; spell it smooth:SHARE"),
        ("smooth:2", r"smoothing is 2.0, expected a share in \[0, 1\]"),
        ("sce:1", "has 1 numbers; spell it sce or sce:ALPHA,BETA"),
        ("sce:-1,1", "alpha is -1.0, expected a number ≥ 0"),
        ("sce:1,1,4", "log_zero is 4.0, expected a finite number < 0"),
        ("sce:a,b", "does not hold numbers"),
        ("ce:1", "has 1 numbers; spell it ce"),
        ("elr:3", "has 1 numbers; spell it elr or elr:WEIGHT,BETA"),
        ("elr:-1,0.7", "weight is -1.0, expected a number ≥ 0"),
        ("elr:3,1", r"beta is 1.0, expected a number in \[0, 1\)"),
    ],
)
def test_what_is_spelled_wrongly_is_named(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        losses.parse(spec)
    assert "\n" not in str(error.value)


def remembered(spread: float = 3.0, steps: int = 4) -> tuple[list[float], np.ndarray, torch.Tensor, torch.Tensor]:
    """A few evaluations of ELR of overlapping batches: values, targets, last logits and their gradient."""
    rng, targets = np.random.default_rng(1), torch.zeros(9, 5, dtype=torch.float64)
    loss, values = losses.parse("elr:3,0.7"), []
    for _ in range(steps):
        rows = torch.from_numpy(rng.permutation(9)[:6])
        logits = torch.from_numpy(spread * rng.standard_normal((6, 5))).requires_grad_()
        value = loss.of_batch(targets, rows)(logits, rows % 5)
        (gradient,) = torch.autograd.grad(value, logits)
        values.append(value.item())
    return values, targets.numpy(), logits.detach(), gradient


def test_elr_follows_the_paper_sample_by_sample() -> None:
    values, targets, _, gradient = remembered()
    rng, literal = np.random.default_rng(1), {}
    for value in values:
        rows = rng.permutation(9)[:6]
        z = 3.0 * rng.standard_normal((6, 5))
        total, slope = 0.0, np.zeros((6, 5))
        for k, row in enumerate(rows.tolist()):
            p = np.exp(z[k]) / np.exp(z[k]).sum()
            clamped = np.clip(p, 1e-4, 1 - 1e-4)
            literal[row] = 0.7 * literal.get(row, np.zeros(5)) + 0.3 * clamped / clamped.sum()
            agreement = float(clamped @ literal[row])
            total += (-np.log(p[row % 5]) + 3.0 * np.log(1 - agreement)) / 6
            inside = (p > 1e-4) & (p < 1 - 1e-4)  # no gradient through a clamp, nor through the target
            by_p = -3.0 / (1 - agreement) * literal[row] * inside
            slope[k] = (p - np.eye(5)[row % 5] + p * (by_p - by_p @ p)) / 6
        assert value == pytest.approx(total, rel=100 * EPS)
    np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e4 * EPS, atol=1e2 * EPS)
    assert sorted(literal) == list(range(9))
    for row, target in literal.items():
        np.testing.assert_allclose(targets[row], target, rtol=100 * EPS)


def test_elr_moves_its_targets_once_a_batch_and_by_no_nan() -> None:
    targets, rows, labels = torch.zeros(4, 3), torch.tensor([1, 3]), torch.tensor([0, 1])
    loss = losses.parse("elr").of_batch(targets, rows)
    loss(torch.tensor([[1.0, 0, 0], [torch.nan, 0, 0]]), labels)
    assert targets[[0, 2, 3]].eq(0).all()
    after = targets.clone()
    assert after[1].sum().item() == pytest.approx(0.3)
    second = loss(torch.zeros(2, 3), labels)  # as in SAM's second pass
    assert torch.equal(targets, after)
    expected = np.log(3) + 3 / 2 * np.log(1 - 0.1)
    assert second.item() == pytest.approx(expected, rel=1e-6)


def test_elr_without_its_samples_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="keeps a memory of every sample"):
        losses.parse("elr")(*batch())


def test_extreme_logits_leave_elr_finite() -> None:
    values, targets, _, gradient = remembered(spread=500.0)
    assert np.isfinite(values).all()
    assert np.isfinite(targets).all()
    assert torch.isfinite(gradient).all()
