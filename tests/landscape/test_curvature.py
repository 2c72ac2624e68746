"""Hessian products, eigenpairs and trace against dense float64 references and prescribed spectra."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh
from torch import nn

import landscape
from tests.reference import CASES, Case, dense_hessian, symmetric_with


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("batch_size", [3, 64])
def test_products_equal_the_dense_hessian(case: Case, batch_size: int) -> None:
    model, loss_fn, x, y = case.make()
    H = landscape.HessianOperator(landscape.Objective(model, loss_fn, (x, y), batch_size=batch_size))
    dense = dense_hessian(model, loss_fn, x, y)
    V = torch.randn(H.shape[0], 3, dtype=torch.float64)
    scale = dense.abs().max()
    torch.testing.assert_close(H @ V, dense @ V, rtol=1e-8, atol=1e-8 * float(scale))
    torch.testing.assert_close(H @ V[:, 0], (H @ V)[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_float32_products_agree_within_rounding(case: Case) -> None:
    model, loss_fn, x, y = case.make(torch.float32)
    H = landscape.HessianOperator(landscape.Objective(model, loss_fn, (x, y)))
    model64, _, x64, y64 = case.make()
    dense = dense_hessian(model64, loss_fn, x64, y64)
    v = torch.randn(H.shape[0], dtype=torch.float64)
    error = (H @ v - dense @ v).norm() / (dense @ v).norm()
    assert error < torch.finfo(torch.float32).eps ** 0.5


def test_a_model_linear_in_its_parameters_has_zero_hessian() -> None:
    obj = landscape.Objective(nn.Linear(3, 1), lambda o, y: o.mean(), (torch.randn(5, 3), torch.zeros(5)))
    H = landscape.HessianOperator(obj)
    assert torch.equal(H @ torch.ones(4), torch.zeros(4))


def dense_ggn(case: Case) -> torch.Tensor:
    """Mean over samples of Jᵀ(∇²ℓ)J from dense Jacobians and loss Hessians, weighted as the loss weights them."""
    model, loss_fn, x, y = case.make()
    model.eval()
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    w = [p.detach() for p in model.parameters() if p.requires_grad]

    def outputs(*parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

    z = outputs(*w)
    blocks = torch.autograd.functional.jacobian(outputs, tuple(w))
    J = torch.cat([b.reshape(z.numel(), -1) for b in blocks], dim=1)
    curvature = torch.autograd.functional.hessian(lambda o: loss_fn(o, y), z).reshape(z.numel(), z.numel())
    return J.T @ curvature @ J


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("batch_size", [3, 64])
def test_gauss_newton_products_equal_the_dense_matrix(case: Case, batch_size: int) -> None:
    model, loss_fn, x, y = case.make()
    G = landscape.GGNOperator(landscape.Objective(model, loss_fn, (x, y), batch_size=batch_size))
    dense = dense_ggn(case)
    V = torch.randn(G.shape[0], 3, dtype=torch.float64)
    torch.testing.assert_close(G @ V, dense @ V, rtol=1e-8, atol=1e-8 * float(dense.abs().max()))
    torch.testing.assert_close(G @ V, dense @ V, rtol=1e-8, atol=1e-8 * float(dense.abs().max()))  # from the kept graph
    assert landscape.top_eigenpairs(G, 1, which="SA", search_missed=True).values[0] > -1e-8 * float(dense.abs().max())


def test_gauss_newton_of_dict_outputs_and_of_a_constant_loss() -> None:
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(6, 3).double(), torch.arange(6) % 2
    plain = landscape.GGNOperator(landscape.Objective(model, nn.CrossEntropyLoss(), (x, y)))
    mapped = landscape.Objective(
        model,
        lambda out, labels: nn.functional.cross_entropy(out["logits"], labels),
        {"x": x, "labels": y},
        forward=lambda m, b: {"logits": m(b["x"]), "unused": b["x"]},
    )
    v = torch.randn(8, dtype=torch.float64)
    torch.testing.assert_close(landscape.GGNOperator(mapped) @ v, plain @ v)
    linear = landscape.Objective(model, lambda o, _: o.mean(), (x, y))
    assert not (landscape.GGNOperator(linear) @ v).any()


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
    ],
)
def test_bad_requests(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        landscape.top_eigenpairs(torch.eye(4), **arguments)


def test_operator_refuses_wrong_shapes_and_several_views() -> None:
    data = torch.randn(5, 3), torch.randn(5, 1)
    obj = landscape.Objective(nn.Linear(3, 1), nn.MSELoss(), data)
    with pytest.raises(ValueError, match=r"operand has shape \(3,\), expected \(4,\)"):
        landscape.HessianOperator(obj) @ torch.ones(3)
    two = landscape.Objective(nn.Linear(3, 1), nn.MSELoss(), data, views=[landscape.View("a"), landscape.View("b")])
    with pytest.raises(ValueError, match="several views"):
        landscape.HessianOperator(two)
    with pytest.raises(ValueError, match="expected a square one"):
        landscape.trace(torch.ones(3, 4))


def test_a_nonfinite_product_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        landscape.top_eigenpairs(torch.full((3, 3), float("nan")), k=1)


def test_trace_lies_within_its_error_and_the_error_is_honest() -> None:
    A = symmetric_with(list(np.linspace(-1, 5, 40)))
    truth = float(torch.trace(A))
    z = [(t.value - truth) / t.stderr for t in (landscape.trace(A, 40, seed=s) for s in range(200))]
    # z is close to standard normal: its mean has standard error 1/√200, its deviation about 1/√400.
    assert abs(np.mean(z)) < 4 / np.sqrt(200)
    assert 0.8 < np.std(z) < 1.25


def test_trace_of_a_network_and_its_determinism() -> None:
    model, loss_fn, x, y = CASES[0].make()
    H = landscape.HessianOperator(landscape.Objective(model, loss_fn, (x, y), batch_size=4))
    truth = float(torch.trace(dense_hessian(model, loss_fn, x, y)))
    t = landscape.trace(H, 400, seed=1)
    assert abs(t.value - truth) < 5 * t.stderr
    assert t.value == landscape.trace(H, 400, seed=1).value
    with pytest.raises(ValueError, match="at least 2"):
        landscape.trace(H, 1)


def test_density_integrates_to_one_and_has_the_moments_of_the_spectrum() -> None:
    eigenvalues = np.concatenate([np.zeros(150), np.linspace(1, 2, 40), [10.0], -np.ones(9)])
    d = landscape.spectral_density(symmetric_with(list(eigenvalues)), num_steps=60, num_probes=20, seed=1)
    assert np.trapezoid(d.density, d.grid) == pytest.approx(1.0, abs=1e-4)  # 6e-5 lies beyond four deviations
    np.testing.assert_allclose(d.weights.sum(1), 1.0, rtol=1e-10)
    for power in (1, 2):
        moments = (d.weights * d.nodes**power).sum(1)
        truth = np.mean(eigenvalues**power)
        assert abs(moments.mean() - truth) < 4 * moments.std(ddof=1) / np.sqrt(20)
    negative = d.density[d.grid < -0.5].sum() * (d.grid[1] - d.grid[0])
    assert negative == pytest.approx(9 / 200, abs=4 * 0.02)
    assert d.nodes.max() == pytest.approx(10.0, rel=1e-9)


def test_density_with_all_steps_is_the_spectral_measure_of_the_start() -> None:
    eigenvalues = [3.0, 1.0, 0.5, -2.0, 0.0]
    A = symmetric_with(eigenvalues)
    d = landscape.spectral_density(A, num_steps=50, num_probes=1, seed=4)
    assert d.matvecs == 5
    np.testing.assert_allclose(d.nodes[0], sorted(eigenvalues), atol=1e-12)
    assert np.isnan(d.stderr).all()
    again = landscape.spectral_density(A, num_steps=50, num_probes=1, seed=4)
    np.testing.assert_array_equal(d.density, again.density)


@pytest.mark.parametrize("spectrum", [[2.0] * 5, [0.0] * 5])
def test_density_of_a_multiple_of_the_identity(spectrum: list[float]) -> None:
    d = landscape.spectral_density(symmetric_with(spectrum), num_steps=3)
    assert np.trapezoid(d.density, d.grid) == pytest.approx(1.0, abs=1e-3)
    assert d.grid[d.density.argmax()] == pytest.approx(spectrum[0], abs=0.05)


@pytest.mark.parametrize("bad", [{"num_steps": 0}, {"num_probes": 0}, {"broadening": 0.0}, {"num_points": 0}])
def test_bad_densities(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        landscape.spectral_density(torch.eye(3), **bad)
