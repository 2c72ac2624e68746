"""Eigenpairs and their bounds against dense float64 references and prescribed spectra, and the faults of peers."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from scipy.sparse.linalg import eigsh

import landscape
from landscape.spectrum.error_bounds import explore
from landscape.spectrum.krylov import KrylovBasis
from tests.reference import CASES, Case, dense_hessian, symmetric_with


class Counted:
    """A dense matrix as an operator whose products have the matrix's own precision, and are counted."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix, self.shape, self.dtype, self.device = matrix, matrix.shape, matrix.dtype, matrix.device
        self.products = 0

    def __matmul__(self, v: torch.Tensor) -> torch.Tensor:
        self.products += 1 if v.ndim == 1 else v.shape[1]
        return (self.matrix @ v.to(self.dtype)).to(v.dtype)


def outliers_and_bulk(size: int = 400, top: tuple[float, ...] = (10.0, 6.0, 4.0, 3.0, 2.0)) -> list[float]:
    """What a network's Hessian looks like: a few outliers, a bulk that decays, a smaller negative side."""
    rest = np.concatenate([0.8 / np.arange(1, 60) ** 0.8, -0.5 / np.arange(1, 40) ** 0.8])
    return [*top, *rest, *np.full(size - len(top) - len(rest), 1e-5)]


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_eigenpairs_of_a_network(case: Case, which: str) -> None:
    model, loss_fn, x, y = case.make()
    H = landscape.HessianOperator(landscape.Objective(model, loss_fn, (x, y), batch_size=4))
    dense = np.linalg.eigvalsh(dense_hessian(model, loss_fn, x, y).numpy())
    expected = {"LA": dense[::-1], "SA": dense, "LM": dense[np.argsort(-np.abs(dense))]}[which][:3]
    r = landscape.top_eigenpairs(H, k=3, which=which, tol=1e-8, search_missed=True)
    assert r.converged.all()
    np.testing.assert_allclose(r.values, expected, rtol=1e-6, atol=1e-9 * np.abs(dense).max())
    residuals = np.linalg.norm(np.asarray(H @ r.vectors) - r.vectors * r.values, axis=0)
    np.testing.assert_allclose(residuals, r.residuals, atol=1e-10 * np.abs(dense).max())
    np.testing.assert_allclose(r.vectors.T @ r.vectors, np.eye(3), atol=1e-10)


SPECTRA = {
    "distinct": [9.0, 5.0, 2.0, 1.0, 0.5, 0.1, 0.0, -0.2, -1.0, -3.0],
    "triple": [4.0, 4.0, 4.0, 1.0, 0.0, 0.0, -1.0, -2.0],
    "all equal": [2.0] * 6,
    "all zero": [0.0] * 6,
    "cluster": [1.0, 1.0 - 1e-9, 1.0 - 2e-9, 0.5, 0.2, 0.1],
    "huge condition": [1e8, 1.0, 1e-4, 1e-8, 0.0, -1e-8],
    "negative dominates": [3.0, 1.0, 0.5, -1.0, -2.0, -50.0],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("factor", [1.0, 1e-6])
def test_prescribed_spectra_whatever_their_scale(name: str, which: str, factor: float) -> None:
    eigenvalues = [v * factor for v in SPECTRA[name]]
    A = symmetric_with(eigenvalues)
    order = {"LA": lambda v: -v, "SA": lambda v: v, "LM": lambda v: -abs(v)}[which]
    r = landscape.top_eigenpairs(A, k=3, which=which, tol=1e-10, search_missed=True)
    expected = np.array(sorted(eigenvalues, key=order)[:3])
    scale = max(map(abs, eigenvalues))
    key = np.abs if which == "LM" else np.asarray
    np.testing.assert_allclose(key(r.values), key(expected), rtol=1e-9, atol=1e-13 * scale)
    assert r.converged.all()


@given(eigenvalues=st.lists(st.floats(-100, 100), min_size=1, max_size=25), seed=st.integers(0, 3), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_spectrum_any_k(eigenvalues: list[float], seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(eigenvalues)))
    A = symmetric_with(eigenvalues, seed)
    r = landscape.top_eigenpairs(A, k=k, tol=1e-10, seed=seed, search_missed=True)
    scale = max(1e-300, *map(abs, eigenvalues))
    np.testing.assert_allclose(r.values, sorted(eigenvalues, reverse=True)[:k], rtol=1e-8, atol=1e-10 * scale)


def test_a_long_run_makes_no_ghost_copies() -> None:
    eigenvalues = [100.0, 10.0, *np.linspace(1, 2, 198)]
    r = landscape.top_eigenpairs(symmetric_with(eigenvalues), k=4, tol=1e-13, max_matvecs=200)
    np.testing.assert_allclose(r.values, [100, 10, 2, np.linspace(1, 2, 198)[-2]], rtol=1e-9)


def test_what_did_not_converge_is_said(caplog: pytest.LogCaptureFixture) -> None:
    A = symmetric_with(list(np.linspace(0, 1, 300)))
    with caplog.at_level(logging.WARNING, "landscape"):
        r = landscape.top_eigenpairs(A, k=3, tol=1e-9, max_matvecs=6)
    assert not r.converged.all()
    assert r.matvecs == 6
    assert "did not converge in 6 products" in caplog.text


def test_same_seed_same_numbers() -> None:
    A = symmetric_with(list(np.linspace(-1, 5, 60)))
    a, b = (landscape.top_eigenpairs(A, k=2, seed=3) for _ in range(2))
    assert np.array_equal(a.values, b.values)
    assert np.array_equal(a.vectors, b.vectors)


def test_scipy_takes_the_operator_and_we_take_scipys() -> None:
    model, loss_fn, x, y = CASES[0].make()
    H = landscape.HessianOperator(landscape.Objective(model, loss_fn, (x, y)))
    theirs = eigsh(H.to_scipy(), k=2, which="LA", return_eigenvectors=False, v0=np.ones(H.shape[0]))
    ours = landscape.top_eigenpairs(H.to_scipy(), k=2, tol=1e-9)
    np.testing.assert_allclose(ours.values, theirs[::-1], rtol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is 0, expected 1…4"),
        ({"k": 5}, "k is 5, expected 1…4"),
        ({"which": "XX"}, "which is 'XX'"),
        ({"k": 3, "max_matvecs": 2}, "at least k = 3"),
        ({"k": 1, "max_matvecs": 0}, "max_matvecs is 0"),
        ({"k": 1, "tol": -1.0}, "tol is -1"),
        ({"k": 1, "tol": float("nan")}, "tol is nan"),
        ({"k": 1, "block": 0}, "block is 0, expected 1…4"),
    ],
)
def test_bad_requests(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        landscape.top_eigenpairs(torch.eye(4), **arguments)


def test_a_number_of_eigenpairs_is_whole() -> None:
    for k in (1.0, "3"):
        with pytest.raises(TypeError, match=f"k is {k!r}, expected a whole number of eigenpairs"):
            landscape.top_eigenpairs(torch.eye(4), k=k)


def test_a_nonfinite_product_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        landscape.top_eigenpairs(torch.full((3, 3), float("nan")), k=1)


@given(
    eigenvalues=st.lists(st.sampled_from([-3.0, -1.0, 0.0, 1e-6, 1.0, 1.0 + 1e-6, 2.0, 5.0]), min_size=2, max_size=25),
    which=st.sampled_from(["LA", "SA", "LM", "both"]),
    tol=st.sampled_from([1e-1, 1e-3, 1e-9]),
    seed=st.integers(0, 5),
)
@example(eigenvalues=[5.0, 1e-6, 5.0, 1e-6, 1e-6, 1.0, 5.0, 1.0, 5.0], which="both", tol=1e-9, seed=0)
@settings(max_examples=80, deadline=None)
def test_every_bound_holds(eigenvalues: list[float], which: str, tol: float, seed: int) -> None:
    A = symmetric_with(eigenvalues, seed)
    truth = np.array(sorted(eigenvalues))
    r = landscape.top_eigenpairs(A, k=1 + len(truth) // 5, which=which, tol=tol, seed=seed, search_missed=True)
    assert (r.converged | (np.abs(r.values) < 1e-8)).all()  # an eigenvalue of 0 has no digits to converge to
    nearest = np.abs(r.values[:, None] - truth).min(axis=1)
    assert (nearest <= r.errors).all()
    if r.unseen_upper is not None:
        assert (truth > r.unseen_upper).sum() + (truth < r.unseen_lower).sum() <= len(r.values)


@pytest.mark.parametrize("factor", [1e-200, 1e-100, 1e100])
def test_bounds_hold_where_squares_vanish_or_overflow(factor: float) -> None:
    truth = np.sort(factor * np.random.default_rng(0).normal(size=40))
    A = symmetric_with(list(truth))
    for which in ("LA", "SA", "LM"):
        r = landscape.top_eigenpairs(A, 3, which=which, search_missed=True)
        assert r.converged.all()
        assert r.sharp is not None
        assert r.sharp.any()
        assert (np.abs(r.values[:, None] - truth).min(axis=1) <= r.errors).all()


def test_a_tensor_that_requires_a_gradient_is_a_matrix_like_any_other() -> None:
    A = symmetric_with([3.0, 2.0, -1.0])
    found, plain = (landscape.top_eigenpairs(M, 1) for M in (A.clone().requires_grad_(), A))
    assert found == plain


def test_the_sharper_bound_is_sharper_and_needs_a_search() -> None:
    eigenvalues = outliers_and_bulk()
    A = symmetric_with(eigenvalues)
    plain = landscape.top_eigenpairs(A, k=5)
    np.testing.assert_allclose(plain.errors, plain.residuals, rtol=1e-9, atol=1e-12)
    assert not plain.sharp.any()
    assert plain.unseen_upper is None
    assert plain.search_matvecs == 0
    searched = landscape.top_eigenpairs(A, k=5, search_missed=True)
    assert searched.sharp.all()
    assert (searched.errors < 0.1 * plain.errors).all()
    assert (np.abs(searched.values - eigenvalues[:5]) <= searched.errors).all()
    assert 0.8 < searched.unseen_upper < 2.0
    assert searched.search_matvecs == searched.matvecs - plain.matvecs
    assert searched.search_matvecs <= 20


def test_unseen_bounds_hold_as_often_as_they_say() -> None:
    eigenvalues = np.linspace(-1, 1, 301)  # edges that no start sees well; the pair in the middle is known
    A = torch.diag(torch.from_numpy(eigenvalues))
    for seed in range(40):
        basis = KrylovBasis(A, torch.Generator().manual_seed(seed))
        basis.lock(torch.eye(301, dtype=torch.float64)[:, [150]], np.zeros(1), np.zeros(1))
        basis.append(basis.fresh())
        unseen = explore(basis, np.zeros(1), np.zeros(1), 25, 1)
        assert unseen.lower is not None
        assert unseen.upper is not None
        assert -1.2 < unseen.lower <= -1.0
        assert 1.0 <= unseen.upper < 1.2


def test_both_ends_come_from_one_run() -> None:
    eigenvalues = outliers_and_bulk()
    op = Counted(symmetric_with(eigenvalues))
    r = landscape.top_eigenpairs(op, k=2, which="both", tol=1e-6)
    np.testing.assert_allclose(r.values, [10.0, 6.0, -0.5 / 2**0.8, -0.5], rtol=1e-6)
    one_end = landscape.top_eigenpairs(op.matrix, k=2, which="SA", tol=1e-6).matvecs
    assert r.matvecs <= one_end + 5
    with pytest.raises(ValueError, match="k is 3, expected 1…2"):
        landscape.top_eigenpairs(torch.eye(5), k=3, which="both")


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "both"])
@pytest.mark.parametrize("block", [1, 2])
def test_a_short_memory_restarts_and_finds_the_same(which: str, block: int) -> None:
    A = symmetric_with(outliers_and_bulk())
    free = landscape.top_eigenpairs(A, k=3, which=which, tol=1e-8, block=block, max_matvecs=2000)
    short = landscape.top_eigenpairs(
        A, k=3, which=which, tol=1e-8, block=block, max_basis=12, max_matvecs=2000, keep_basis=True
    )
    assert free.converged.all()
    assert short.converged.all()
    assert short.basis.stored <= 12
    assert short.matvecs > 12
    np.testing.assert_allclose(short.values, free.values, rtol=1e-10)
    residuals = torch.linalg.norm(
        A @ torch.from_numpy(short.vectors) - torch.from_numpy(short.vectors * short.values), dim=0
    )
    np.testing.assert_allclose(short.residuals, residuals, atol=1e-12)
    with pytest.raises(ValueError, match="max_basis is 4, expected at least"):
        landscape.top_eigenpairs(A, k=3, max_basis=4)


def test_one_start_sees_one_copy_and_a_block_or_a_search_all() -> None:
    """What is promised of multiple eigenvalues: a run of b vectors finds b copies, only a search looks for all."""
    eigenvalues = np.array(outliers_and_bulk(top=(5.0, 5.0, 5.0, 2.0)))
    A = torch.diag(torch.from_numpy(eigenvalues))
    single = landscape.top_eigenpairs(A, k=3)
    assert single.converged.all()
    np.testing.assert_allclose(single.values, [5.0, 2.0, 0.8], rtol=1e-4)  # a long run would see more, through rounding
    assert (np.abs(single.values[:, None] - eigenvalues).min(1) <= single.errors).all()
    for arguments in ({"block": 3}, {"search_missed": True}):
        r = landscape.top_eigenpairs(A, k=3, **arguments)
        np.testing.assert_allclose(r.values, [5.0] * 3, rtol=1e-6)
        np.testing.assert_allclose(r.vectors.T @ r.vectors, np.eye(3), atol=1e-10)


def test_a_block_shares_products() -> None:
    calls: list[int] = []

    class Watched(Counted):
        def __matmul__(self, v: torch.Tensor) -> torch.Tensor:
            calls.append(1 if v.ndim == 1 else v.shape[1])
            return super().__matmul__(v)

    op = Watched(symmetric_with(outliers_and_bulk()))
    r = landscape.top_eigenpairs(op, k=4, block=4)
    assert set(calls) == {4}
    assert r.matvecs == op.products == sum(calls)


def test_a_warm_start_saves_products_when_it_is_close_and_costs_few_when_it_is_not() -> None:
    A = symmetric_with(outliers_and_bulk())
    cold = landscape.top_eigenpairs(A, k=5)
    spent = []
    for distance in (0.0, 1e-3, 1e-2, 10.0):
        noise = torch.randn(400, 400, dtype=torch.float64)
        B = A + distance * (noise + noise.T) / 2 / 20
        warm = landscape.top_eigenpairs(B, k=5, start=cold.vectors)
        truth = torch.linalg.eigvalsh(B).flip(0)[:5].numpy()
        assert warm.converged.all()
        np.testing.assert_allclose(warm.values, truth, rtol=1e-4)
        spent.append((warm.matvecs, landscape.top_eigenpairs(B, k=5).matvecs))
    assert all(warm < cold for warm, cold in spent[:3])
    assert spent[3][0] <= spent[3][1] + 3


@pytest.mark.parametrize("search_missed", [False, True])
@pytest.mark.parametrize("height", [2.5, 3.5, 5.0, 20.0])
def test_a_warm_start_sees_an_outlier_that_is_new(height: float, search_missed: bool) -> None:
    eigenvalues = torch.tensor(outliers_and_bulk(20000), dtype=torch.float64)
    eigenvalues[1000] = height  # exactly orthogonal to every start vector
    expected = eigenvalues.sort(descending=True).values[:5].numpy()
    for seed in range(3):
        r = landscape.top_eigenpairs(
            Diagonal(eigenvalues), k=5, start=torch.eye(20000, 5), seed=seed, search_missed=search_missed
        )
        np.testing.assert_allclose(r.values, expected, rtol=1e-3)


class Diagonal(Counted):
    def __matmul__(self, v: torch.Tensor) -> torch.Tensor:
        return self.matrix.reshape(-1, *[1] * (v.ndim - 1)) * v

    def __init__(self, eigenvalues: torch.Tensor) -> None:
        super().__init__(eigenvalues)
        self.shape = torch.Size([len(eigenvalues)] * 2)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (np.ones((3, 1)), "start has shape"),
        (np.ones((4, 0)), "start has shape"),
        (np.zeros((4, 1)), "zero or not finite"),
        (np.full((4, 1), np.nan), "zero or not finite"),
    ],
)
def test_bad_starts(start: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        landscape.top_eigenpairs(torch.eye(4), k=1, start=start)


def test_products_in_single_precision_give_what_single_precision_holds() -> None:
    eigenvalues = outliers_and_bulk()
    eps = torch.finfo(torch.float32).eps
    r = landscape.top_eigenpairs(Counted(symmetric_with(eigenvalues).float()), k=5, tol=0.0)
    assert r.converged.all()  # to the rounding level, which is where it stops
    np.testing.assert_allclose(r.values, eigenvalues[:5], atol=10 * eps * 10.0)
    wide = [1e6, 1e3, 1.0, 1e-3, *np.zeros(96)]
    r = landscape.top_eigenpairs(Counted(symmetric_with(wide).float()), k=3, tol=1e-3)
    assert (np.abs(r.values - wide[:3]) <= r.errors + 10 * eps * 1e6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scaling_the_loss_changes_neither_vectors_nor_products(dtype: torch.dtype, factor: float) -> None:
    model, loss_fn, x, y = CASES[0].make(dtype)
    a, b = (
        landscape.top_eigenpairs(
            landscape.HessianOperator(landscape.Objective(model, lambda o, t, c=c: c * loss_fn(o, t), (x, y))), k=3
        )
        for c in (1.0, factor)
    )
    assert a.matvecs == b.matvecs
    rounding = 1e3 * torch.finfo(dtype).eps
    np.testing.assert_allclose(b.values, factor * a.values, rtol=rounding)
    np.testing.assert_allclose(np.abs((a.vectors * b.vectors).sum(0)), 1.0, rtol=rounding)


def test_a_peers_fault_five_copies_of_the_top_eigenvalue_with_residual_zero() -> None:
    eigenvalues = outliers_and_bulk()
    r = landscape.top_eigenpairs(symmetric_with(eigenvalues), k=5, tol=1e-6)
    np.testing.assert_allclose(r.values, eigenvalues[:5], rtol=1e-6)
    np.testing.assert_allclose(r.vectors.T @ r.vectors, np.eye(5), atol=1e-12)
    # Five starts at the top eigenvector itself, which is what makes copies.
    again = landscape.top_eigenpairs(symmetric_with(eigenvalues), k=5, tol=1e-6, start=r.vectors[:, [0] * 5])
    np.testing.assert_allclose(again.values, eigenvalues[:5], rtol=1e-6)


def test_a_peers_fault_magnitude_order_hides_a_positive_eigenvalue() -> None:
    eigenvalues = [3.0, 1.0, *[-float(v) for v in range(4, 60)]]
    A = symmetric_with(eigenvalues)
    assert (landscape.top_eigenpairs(A, k=5, which="LM").values < 0).all()
    np.testing.assert_allclose(landscape.top_eigenpairs(A, k=2, which="LA", tol=1e-6).values, [3.0, 1.0], rtol=1e-6)


def test_a_peers_fault_ghosts_after_three_hundred_products() -> None:
    """Lanczos without reorthogonalisation returns the largest eigenvalue many times by then."""
    eigenvalues = [1e3, *np.linspace(0, 1, 399)]
    A = symmetric_with(eigenvalues)
    ghosts = plain_lanczos(A, 300)[-3:]
    np.testing.assert_allclose(ghosts, 1e3, rtol=1e-9)
    r = landscape.top_eigenpairs(A, k=3, tol=0.0, max_matvecs=300)
    assert r.values[0] == pytest.approx(1e3)
    np.testing.assert_allclose(r.values[1:], eigenvalues[:-3:-1], rtol=1e-6)


def plain_lanczos(A: torch.Tensor, steps: int) -> np.ndarray:
    q, before, beta, alphas, betas = torch.ones(len(A), dtype=A.dtype) / len(A) ** 0.5, torch.zeros(len(A)), 0.0, [], []
    for _ in range(steps):
        w = A @ q - beta * before
        alphas.append(float(w @ q))
        w = w - alphas[-1] * q
        beta, before = float(w.norm()), q
        betas.append(beta)
        q = w / beta
    return np.linalg.eigvalsh(np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1))


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_a_single_parameter_and_all_of_them(which: str) -> None:
    one = landscape.top_eigenpairs(torch.tensor([[-2.0]], dtype=torch.float64), k=1, which=which)
    assert (one.values.item(), one.residuals.item(), one.matvecs) == (-2.0, 0.0, 1)
    A = symmetric_with([3.0, 3.0, 0.0, 0.0, -1.0])
    every = landscape.top_eigenpairs(A, k=5, which=which, tol=1e-12)
    np.testing.assert_allclose(np.sort(every.values), [-1, 0, 0, 3, 3], atol=1e-14)
    assert every.converged.all()


def test_results_with_bounds_are_stored_and_old_ones_still_load(tmp_path) -> None:  # type: ignore[no-untyped-def]
    r = landscape.top_eigenpairs(symmetric_with([3.0, 2.0, 1.0]), k=2, search_missed=True, keep_basis=True)
    r.save(tmp_path / "r.h5")
    back = landscape.load(tmp_path / "r.h5")
    np.testing.assert_array_equal(back.errors, r.errors)
    assert back.unseen_upper == r.unseen_upper
    assert back.basis is None
