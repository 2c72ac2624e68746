"""Where curvature comes from: splits, overlaps and alignments against dense float64 matrices and known angles."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import landscape
from landscape import store
from tests.reference import CASES, Case, dense_hessian, symmetric_with


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_the_curvature_of_a_data_set_is_that_of_its_parts_weighted_by_their_size(case: Case) -> None:
    model, loss_fn, x, y = case.make()
    few, many = torch.arange(4), torch.arange(4, len(x))
    obj = landscape.Objective(
        model, loss_fn, (x, y), batch_size=3,
        views=[landscape.View("all"), landscape.View("few", indices=few), landscape.View("many", indices=many)],
    )  # fmt: skip
    H = {name: landscape.HessianOperator(obj.view(name)) for name in obj.views}
    r = landscape.top_eigenpairs(H["all"], 3, tol=1e-8)
    shares = {"few": 4 / len(x), "many": 1 - 4 / len(x)}
    split = landscape.split_curvature(r.vectors, {n: H[n] for n in shares}, shares, whole=r.values)
    V = torch.from_numpy(r.vectors)
    for i, rows in enumerate((few, many)):
        dense = dense_hessian(model, loss_fn, x[rows], y[rows])
        expected = (V * (dense @ V)).sum(0).numpy()
        np.testing.assert_allclose(split.curvature[i], expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max())
    assert np.abs(split.mismatch).max() < 1e-10 * np.abs(r.values).max()
    np.testing.assert_allclose(split.contributions.sum(0), r.values, rtol=1e-9)
    assert split.matvecs == 6
    again = landscape.split_curvature(r.vectors, {n: H[n] for n in shares}, shares, whole=H["all"])
    np.testing.assert_allclose(again.total, split.total, rtol=1e-9)
    assert again.matvecs == 9


def test_a_split_into_what_is_not_all_of_it_is_seen() -> None:
    A = symmetric_with([4.0, 1.0, 0.0])
    r = landscape.top_eigenpairs(A, 2, tol=1e-10)
    halves = landscape.split_curvature(r.vectors, {"a": A, "b": A}, {"a": 0.5, "b": 0.25}, whole=r.values)
    np.testing.assert_allclose(halves.mismatch, 0.25 * r.values, rtol=1e-9)
    np.testing.assert_allclose(halves.total, r.values, rtol=1e-12)


@given(seed=st.integers(0, 2**16), k=st.integers(1, 4), m=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_overlap_has_the_principal_angles_of_the_projections_and_sees_no_basis(seed: int, k: int, m: int) -> None:
    g = torch.Generator().manual_seed(seed)
    A, B = (torch.randn(9, n, generator=g, dtype=torch.float64) for n in (k, m))
    found = landscape.subspace_overlap(A, B)
    Q, P = (torch.linalg.qr(matrix).Q for matrix in (A, B))
    expected = torch.linalg.svdvals(Q.T @ P).clamp(max=1).numpy()  # the textbook way, inexact for small angles
    np.testing.assert_allclose(np.cos(found.angles), expected, atol=1e-7)
    assert (np.diff(found.angles) >= 0).all()
    mixed = landscape.subspace_overlap(A @ (torch.randn(k, k, generator=g, dtype=torch.float64) + 3 * torch.eye(k)), -B)
    np.testing.assert_allclose(mixed.overlap, found.overlap, atol=1e-7)


def test_overlap_of_random_spans_is_that_of_chance() -> None:
    g = torch.Generator().manual_seed(0)
    found = [
        landscape.subspace_overlap(*(torch.randn(40, n, generator=g, dtype=torch.float64) for n in (3, 5)))
        for _ in range(300)
    ]
    values = np.array([f.overlap for f in found])
    assert found[0].chance == 5 / 40
    assert abs(values.mean() - 5 / 40) < 4 * values.std(ddof=1) / np.sqrt(len(values))


def test_alignment_takes_gradients_as_they_come_and_leaves_zero_ones_undefined() -> None:
    model, loss_fn, x, y = CASES[0].make()
    obj = landscape.Objective(model, loss_fn, (x, y))
    r = landscape.top_eigenpairs(landscape.HessianOperator(obj), obj.num_parameters, tol=1e-8)
    g = obj.gradient()
    found = landscape.alignment(r.vectors, {"gradient": g, "none": torch.zeros_like(g), "first": -r.vectors[:, 0]})
    np.testing.assert_allclose(found.captured[[0, 2]], 1.0, rtol=1e-9)  # all eigenvectors span everything
    np.testing.assert_allclose(found.cosines[2], np.eye(obj.num_parameters)[0], atol=1e-9)
    assert np.isnan(found.captured[1])
    two = landscape.alignment(r.vectors[:, :2], {"gradient": g})
    np.testing.assert_allclose(two.captured, (found.cosines[:1, :2] ** 2).sum(1), rtol=1e-12)


def test_the_records_are_stored_and_come_back(tmp_path: Path) -> None:
    A = symmetric_with([4.0, 1.0, 0.0])
    v = torch.eye(3)[:, :2]
    records = [
        landscape.split_curvature(v, {"a": A}, {"a": 1.0}, whole=A),
        landscape.subspace_overlap(v, A[:, :1]),
        landscape.alignment(v, {"row": A[0]}),
    ]
    for i, record in enumerate(records):
        record.save(tmp_path / f"{i}.h5")
        found = store.load(tmp_path / f"{i}.h5")
        for name, value in vars(record).items():
            np.testing.assert_array_equal(getattr(found, name), value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: landscape.split_curvature(torch.eye(2), {"a": torch.eye(2)}, {"b": 1.0}), "one share for each part"),
        (lambda: landscape.split_curvature(torch.eye(2), {"a": torch.eye(3)}, {"a": 1.0}), "'a' is (3, 3)"),
        (lambda: landscape.split_curvature(torch.zeros(2), {"a": torch.eye(2)}, {"a": 1.0}), "zero or not finite"),
        (
            lambda: landscape.split_curvature(torch.eye(2), {"a": torch.eye(2)}, {"a": 1.0}, whole=np.ones(3)),
            "whole has shape (3,), expected (2,)",
        ),
        (lambda: landscape.subspace_overlap(torch.eye(2), torch.eye(3)), "2 and 3 entries"),
        (lambda: landscape.alignment(torch.eye(2), {"g": torch.ones(3)}), "'g' has shape (3,), expected (2,)"),
        (lambda: landscape.alignment(torch.eye(2), {}), "no directions given"),
        (lambda: landscape.alignment(torch.ones(2, 2, 2), {"g": torch.ones(2)}), "expected (K, k)"),
    ],
)
def test_bad_requests_say_what_to_do(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
