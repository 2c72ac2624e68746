"""Spectral density and negative mass against the spectra they were computed from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import t as student

import landscape
from tests.reference import symmetric_with


def test_density_integrates_to_one_and_has_the_moments_of_the_spectrum() -> None:
    eigenvalues = np.concatenate([np.zeros(150), np.linspace(1, 2, 40), [10.0], -np.ones(9)])
    d = landscape.spectral_density(symmetric_with(list(eigenvalues)), num_steps=60, num_probes=20, seed=1)
    assert trapezoid(d.density, d.grid) == pytest.approx(1.0, abs=1e-4)  # 6e-5 lies beyond four deviations
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
    assert trapezoid(d.density, d.grid) == pytest.approx(1.0, abs=1e-3)
    assert d.grid[d.density.argmax()] == pytest.approx(spectrum[0], abs=0.05)


@pytest.mark.parametrize("bad", [{"num_steps": 0}, {"num_probes": 0}, {"broadening": 0.0}, {"num_points": 0}])
def test_bad_densities(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        landscape.spectral_density(torch.eye(3), **bad)


def test_known_outliers_are_put_in_exactly() -> None:
    eigenvalues = [20.0, 10.0, *np.linspace(-1, 1, 198)]
    A = symmetric_with(eigenvalues)
    r = landscape.top_eigenpairs(A, k=2, tol=1e-6)
    d = landscape.spectral_density(A, num_steps=40, deflate=r, broadening=0.02)
    np.testing.assert_allclose(d.outliers, [20.0, 10.0], rtol=1e-6)
    assert d.nodes.max() < 1.01
    np.testing.assert_allclose(d.weights.sum(1), 0.99, rtol=1e-10)
    assert trapezoid(d.density, d.grid) == pytest.approx(1.0, abs=1e-4)
    above = d.grid > 5
    assert trapezoid(d.density[above], d.grid[above]) == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ValueError, match=r"vectors of shape \(200, 2\), expected \(5, k\)"):
        landscape.spectral_density(torch.eye(5), deflate=r)


def test_everything_known_leaves_nothing_to_probe() -> None:
    A = symmetric_with([3.0, 1.0])
    d = landscape.spectral_density(A, deflate=landscape.top_eigenpairs(A, k=2))
    assert d.matvecs == 0
    assert trapezoid(d.density, d.grid) == pytest.approx(1.0, abs=1e-3)
    assert landscape.negative_mass(d).count == 0


def test_what_did_not_converge_is_not_deflated() -> None:
    A = symmetric_with(list(np.linspace(0, 1, 300)))
    r = landscape.top_eigenpairs(A, k=3, tol=1e-9, max_matvecs=6)
    assert not len(landscape.spectral_density(A, num_steps=5, deflate=r).outliers)


@pytest.mark.parametrize("deflate", [False, True])
def test_negative_mass_and_its_error(deflate: bool) -> None:
    eigenvalues = np.concatenate([[8.0, 5.0], np.linspace(0.1, 1, 150), -np.linspace(0.1, 1, 48)])
    A = symmetric_with(list(eigenvalues))
    known = landscape.top_eigenpairs(A, k=2, tol=1e-8) if deflate else None
    found = [
        landscape.negative_mass(landscape.spectral_density(A, num_steps=24, num_probes=4, deflate=known, seed=s))
        for s in range(20)
    ]
    truth = {"count": 0.24, "magnitude": -eigenvalues[eigenvalues < 0].sum() / np.abs(eigenvalues).sum()}
    for name, value in truth.items():
        z = np.array([(getattr(m, name) - value) / getattr(m, f"{name}_stderr") for m in found])
        share = np.mean(np.abs(z) < student.ppf(0.95, 3))
        assert abs(share - 0.9) < 4 * np.sqrt(0.09 / 20), name
    assert np.isnan(landscape.negative_mass(landscape.spectral_density(A, num_probes=1)).count_stderr)


def test_rounding_is_not_negative_mass() -> None:
    A = symmetric_with([2.0, 1.0, *np.zeros(8), -1e-9])
    d = landscape.spectral_density(A)
    assert landscape.negative_mass(d).count == 0
    assert landscape.negative_mass(d, threshold=1e-10).count > 0
    with pytest.raises(ValueError, match="threshold is -1"):
        landscape.negative_mass(d, threshold=-1)
