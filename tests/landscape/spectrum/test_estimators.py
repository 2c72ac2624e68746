"""Trace, moments and diagonal from deflated probes: exact where they can be, and with errors that hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as student

import landscape
from tests.landscape.spectrum.test_eigenpairs import Counted, outliers_and_bulk
from tests.reference import CASES, dense_hessian, symmetric_with

OUTLIERS = outliers_and_bulk(200)


def z_scores(estimate: Callable[[int], tuple[float, float]], truth: float, seeds: int) -> np.ndarray:
    pairs = np.array([estimate(seed) for seed in range(seeds)])
    return (pairs[:, 0] - truth) / pairs[:, 1]


def covered(z: np.ndarray, degrees: int, level: float = 0.9) -> bool:
    """Whether Student intervals of that level hold the truth as often as they say, within four deviations."""
    share = np.mean(np.abs(z) < student.ppf((1 + level) / 2, degrees))
    return abs(share - level) < 4 * np.sqrt(level * (1 - level) / len(z))


@pytest.mark.parametrize(
    ("values", "num_matvecs"), [([5, 2, 1], 2), ([5, 2, 1, 0.5], 3), ([5, 2, 1, 0.5, -0.5, -1], 5)]
)
def test_an_estimate_of_few_entries_has_an_error(values: list[float], num_matvecs: int) -> None:
    H = symmetric_with(values)
    found = [landscape.trace(H, num_matvecs, seed=seed) for seed in range(200)]
    assert min(t.stderr for t in found) > 1e-6 * sum(values)  # two equal probes would say that it is exact
    off = np.array([t.value - sum(values) for t in found])
    assert abs(off.mean()) < 4 * off.std() / len(off) ** 0.5
    quantile = student.ppf(0.975, [len(t.samples) - 1 for t in found])
    assert (np.abs(off) <= quantile * np.array([t.stderr for t in found])).mean() > 0.9


@pytest.mark.parametrize("deflation", ["own", "basis", "pairs", "vectors"])
def test_errors_of_the_trace_cover_it_whatever_it_is_deflated_by(deflation: str) -> None:
    A = symmetric_with(OUTLIERS)
    degrees: set[int] = set()

    def estimate(seed: int) -> tuple[float, float]:
        # The same seed for both: probes that shared the start's random stream would be biased.
        r = landscape.top_eigenpairs(A, k=3, seed=seed, keep_basis=deflation == "basis") if deflation != "own" else None
        given: dict[str, Any] = {"own": None, "basis": r, "pairs": r, "vectors": r and r.vectors}
        t = landscape.trace(A, 21, deflate=given[deflation], seed=seed)
        degrees.add(len(t.samples) - 1)
        assert t.matvecs == 21
        known = 0 if r is None else len(r.basis) if deflation == "basis" else 3
        cost = 3 if deflation == "vectors" else 0
        assert t.deflated == (known + 21 - cost) // 2
        assert len(t.samples) == 21 - cost - (t.deflated - known)
        return t.value, t.stderr

    z = z_scores(estimate, sum(OUTLIERS), 50)
    assert max(degrees) - min(degrees) <= 2
    assert covered(z, min(degrees))
    assert abs(z.mean()) < 4 * z.std() / np.sqrt(len(z))


def test_few_probes_need_students_t() -> None:
    A = symmetric_with(list(np.linspace(-1, 5, 40)))
    z = z_scores(lambda s: ((t := landscape.trace(A, 5, seed=s)).value, t.stderr), 80.0, 200)
    assert covered(z, 2)


def test_deflation_by_what_the_eigenpairs_paid_for_beats_plain_probes() -> None:
    A = symmetric_with(OUTLIERS)
    r = landscape.top_eigenpairs(A, k=5, keep_basis=True)
    errors: dict[str, list[float]] = {"plain": [], "own": [], "given": []}
    for seed in range(20):
        signs = torch.randint(0, 2, (200, 60), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
        errors["plain"].append(float((signs * (A @ signs)).sum(0).mean()) - sum(OUTLIERS))
        errors["own"].append(landscape.trace(A, 60, seed=seed).value - sum(OUTLIERS))
        errors["given"].append(landscape.trace(A, 60 - r.matvecs, deflate=r, seed=seed).value - sum(OUTLIERS))
    spread = {name: np.sqrt(np.mean(np.square(e))) for name, e in errors.items()}
    assert spread["own"] < 0.2 * spread["plain"]
    assert spread["given"] < 0.2 * spread["plain"]


def test_the_kept_basis_is_left_as_it_was() -> None:
    A = symmetric_with(OUTLIERS)
    r = landscape.top_eigenpairs(A, k=2, keep_basis=True)
    before = r.basis.products, len(r.basis), r.basis.vectors.clone()
    a, b = (landscape.trace(A, 10, deflate=r) for _ in range(2))
    assert a.value == b.value
    landscape.trace(A, 300, deflate=r)
    assert (r.basis.products, len(r.basis)) == before[:2]
    assert torch.equal(r.basis.vectors, before[2])


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("deflate", [None, "pairs"])
def test_as_many_products_as_parameters_make_everything_exact(size: int, deflate: str | None) -> None:
    op = Counted(symmetric_with(list(np.arange(size) - 1.0)))
    r = None if deflate is None else landscape.top_eigenpairs(op.matrix, k=1)
    for count in (max(size, 2), 50):
        op.products = 0
        t = landscape.trace(op, count, deflate=r)
        m = landscape.spectral_moments(op, count, deflate=r)
        d = landscape.diagonal(op, count, deflate=r)
        assert op.products == t.matvecs + m.matvecs + d.matvecs == 3 * size
        assert (t.stderr, m.trace_stderr, m.frobenius_stderr, d.stderr.max()) == (0, 0, 0, 0)
        assert t.value == pytest.approx(float(op.matrix.trace()), abs=1e-12)
        assert m.frobenius == pytest.approx(float(op.matrix.norm()), abs=1e-12)
        np.testing.assert_allclose(d.values, op.matrix.diagonal(), atol=1e-12)


@pytest.mark.parametrize("deflate", [False, True])
def test_moments_and_their_errors(deflate: bool) -> None:
    A = symmetric_with(OUTLIERS)
    known = landscape.top_eigenpairs(A, k=3, keep_basis=True, seed=99) if deflate else None
    found = [landscape.spectral_moments(A, 30, deflate=known, seed=s) for s in range(100)]
    truth = {"trace": sum(OUTLIERS), "frobenius": float(A.norm())}
    truth["effective_rank"] = truth["trace"] ** 2 / truth["frobenius"] ** 2
    for name, value in truth.items():
        z = np.array([(getattr(m, name) - value) / getattr(m, f"{name}_stderr") for m in found])
        assert covered(z, 20 if deflate else 14), name
        assert getattr(found[0], name) == pytest.approx(value, rel=0.2)


@pytest.mark.parametrize("known", ["own", "basis", "pairs"])
def test_every_entry_of_the_diagonal_lies_within_its_error(known: str) -> None:
    A = symmetric_with(OUTLIERS)
    r = None if known == "own" else landscape.top_eigenpairs(A, k=4, keep_basis=known == "basis")
    z = [
        (d.values - A.diagonal().numpy()) / d.stderr
        for d in (landscape.diagonal(A, 40, deflate=r, seed=s) for s in range(20))
    ]
    share = np.mean(np.abs(z) < student.ppf(0.95, 20))
    assert 0.87 < share < 0.93
    assert np.abs(np.mean(z)) < 0.1


def test_moments_of_a_searched_result_cost_its_vectors_again() -> None:
    A = symmetric_with(OUTLIERS)
    r = landscape.top_eigenpairs(A, k=3, search_missed=True, keep_basis=True)
    assert r.basis.truncated
    op = Counted(A)
    m = landscape.spectral_moments(op, 30, deflate=r)
    assert op.products == m.matvecs == 30
    assert m.frobenius == pytest.approx(float(A.norm()), abs=5 * m.frobenius_stderr)


def test_everything_about_a_network() -> None:
    model, loss_fn, x, y = CASES[0].make()
    objective = landscape.Objective(model, loss_fn, (x, y), batch_size=4)
    H = landscape.HessianOperator(objective)
    dense = dense_hessian(model, loss_fn, x, y).numpy()
    assert landscape.trace(H, 400, seed=1).value == pytest.approx(np.trace(dense))
    t = landscape.trace(H, 30, seed=1)
    assert abs(t.value - np.trace(dense)) < 5 * t.stderr
    assert t.value == landscape.trace(H, 30, seed=1).value
    assert landscape.spectral_moments(H, 400).frobenius == pytest.approx(np.linalg.norm(dense))
    np.testing.assert_allclose(landscape.diagonal(H, 400).values, dense.diagonal(), atol=1e-12)
    D = np.abs(objective.weights.numpy())
    relative = landscape.ScaledOperator(H, objective.weights.abs())
    r = landscape.top_eigenpairs(relative, k=2, tol=1e-8)
    np.testing.assert_allclose(r.values, np.linalg.eigvalsh(D[:, None] * dense * D)[:-3:-1], rtol=1e-6)


def test_zero_has_no_trace_no_norm_and_no_rank() -> None:
    m = landscape.spectral_moments(torch.zeros(9, 9), 4)
    assert (m.trace, m.trace_stderr, m.frobenius, m.frobenius_stderr) == (0, 0, 0, 0)
    assert np.isnan(m.effective_rank)


def test_scaling_multiplies_rows_and_columns() -> None:
    A = symmetric_with([3.0, 1.0, -2.0])
    scaled = landscape.ScaledOperator(A.numpy(), np.array([1.0, 0.0, 2.0]))
    V = torch.randn(3, 2, dtype=torch.float64)
    D = torch.diag(torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(scaled @ V, D @ A @ D @ V)
    np.testing.assert_allclose(scaled @ V[:, 0].numpy(), (D @ A @ D @ V)[:, 0])
    assert (scaled.shape, scaled.dtype) == ((3, 3), torch.float64)
    assert landscape.ScaledOperator(A.float(), torch.ones(3)).dtype == torch.float32
    with pytest.raises(ValueError, match="operand has shape"):
        scaled @ torch.ones(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: landscape.trace(torch.eye(4), 1), "num_matvecs is 1, expected at least 2"),
        (
            lambda: landscape.trace(torch.eye(9), 4, deflate=torch.eye(9)[:, :3]),
            "expected at least 5: 3 for the vectors",
        ),
        (
            lambda: landscape.trace(torch.eye(9), 4, deflate=torch.eye(8)),
            r"vectors of shape \(8, 8\), expected \(9, m\)",
        ),
        (lambda: landscape.trace(torch.ones(3, 4)), "expected a square one"),
        (lambda: landscape.trace(torch.eye(9), 6, deflate=torch.zeros(9, 2)), "deflate has a vector that is zero"),
        (
            lambda: landscape.trace(torch.eye(9), 6, deflate=np.full((9, 2), np.nan)),
            "deflate has a vector that is zero",
        ),
        (lambda: landscape.trace(torch.ones(3)), r"operator has shape \(3,\), expected a square one"),
        (lambda: landscape.trace(np.ones((0, 0))), r"operator has shape \(0, 0\), expected a square one"),
        (lambda: landscape.trace(torch.eye(3) + 1j), r"operator is complex \(torch.complex64\)"),
        (lambda: landscape.trace(np.eye(3) + 1j), r"operator is complex \(complex128\)"),
        (lambda: landscape.trace(torch.eye(30), 10.0), "num_matvecs is 10.0, expected at least 2"),  # type: ignore[arg-type]
        (lambda: landscape.ScaledOperator(torch.eye(3), torch.ones(2)), r"scale has shape \(2,\), expected \(3,\)"),
        (lambda: landscape.ScaledOperator(torch.eye(2), torch.tensor([1.0, np.inf])), "all finite"),
    ],
)
def test_bad_requests(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_nonfinite_probe_is_an_error() -> None:
    def product(v: np.ndarray) -> np.ndarray:
        return np.full_like(v, np.nan) if v.ndim > 1 else np.zeros_like(v)

    class Half:
        shape, dtype = (50, 50), np.dtype(np.float64)
        __matmul__ = staticmethod(product)

    with pytest.raises(FloatingPointError, match="not finite"):
        landscape.trace(Half(), 10)
