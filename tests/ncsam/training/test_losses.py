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
    ],
)
def test_what_is_spelled_wrongly_is_named(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        losses.parse(spec)
    assert "\n" not in str(error.value)
