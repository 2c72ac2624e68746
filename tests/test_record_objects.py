"""Records as objects: one line that says the numbers, equality, plain numbers, and pickles."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable

import numpy as np
import pytest

from landscape.records import EigenResult, KeskarSharpness, Record, Sharpness, TraceResult
from tests.ncsam.figures import cases

MAKE = [
    cases.line, cases.draws, cases.connection, cases.plane, cases.plane_draws, cases.trace, cases.moments, cases.mass,
    cases.sharpness, cases.diagonal, cases.overlap, cases.alignment_with, cases.trajectory, cases.density,
    cases.layer_spectra, cases.split, cases.sharpness_table, cases.bound_table, cases.labels, cases.samples,
    cases.spectrum, cases.wells, cases.well_draws, cases.sample_curvatures, cases.trained_curve,
]  # fmt: skip


@pytest.mark.parametrize("make", MAKE, ids=lambda make: make.__name__)
def test_a_record_says_itself_in_one_line_and_equals_its_copies(make: Callable[[], Record]) -> None:
    record = make()
    text = repr(record)
    assert text.startswith(f"{type(record).__name__}(")
    assert len(text.splitlines()) == 1
    assert len(text) < 300
    for twin in (pickle.loads(pickle.dumps(record)), copy.deepcopy(record), make()):
        assert twin == record
        assert hash(twin) == hash(record)
    for name, declared in record.variables().items():
        if not declared.dims and getattr(record, name) is not None:
            assert type(getattr(record, name)) in (float, int, bool, str), name


def test_records_differ_by_any_field_and_by_kind() -> None:
    line = cases.line()
    assert line != dataclasses.replace(line, loss=line.loss + 1e-9)
    assert line != dataclasses.replace(line, label="other")
    assert line != dataclasses.replace(line, accuracy=line.loss)
    assert line != cases.plane()
    assert line != 1
    sam = {"value": 1.0, "loss": 1.0, "measure": "sam", "radius": 0.1, "steps": 1}
    assert Sharpness(**sam) != KeskarSharpness(**sam)
    nan = dataclasses.replace(line, loss=np.full_like(line.loss, np.nan))
    assert nan == pickle.loads(pickle.dumps(nan))
    assert Sharpness(**{**sam, "value": float("nan")}) == Sharpness(**{**sam, "value": float("nan")})


def test_the_line_has_the_numbers() -> None:
    trace = TraceResult(value=5.7412, stderr=0.2517, matvecs=100, samples=np.ones(2), seed=0)
    assert repr(trace) == "TraceResult(5.74 ± 0.25, 100 products)"
    assert repr(dataclasses.replace(trace, label="sgd")) == "TraceResult('sgd', 5.74 ± 0.25, 100 products)"
    pairs = EigenResult(
        values=np.array([9.0, 4.0, 2.0, 1.0]), residuals=np.full(4, 0.5), converged=np.array([1, 1, 1, 0], bool),
        matvecs=30, which="LA", tol=1e-3, seed=0, errors=np.full(4, 0.012), trace=20.0, trace_stderr=1.5,
    )  # fmt: skip
    told = "9.000 ± 0.012, 4.000 ± 0.012, 2.000 ± 0.012, … 4 pairs, 1 not converged, trace 20.0 ± 1.5, 30 products"
    assert repr(pairs) == f"EigenResult({told})"
    worst = Sharpness(value=0.0143, loss=1.0, measure="sam", radius=0.05, steps=1)
    assert repr(worst) == "Sharpness(sam 0.0143, lower bound, rho 0.05)"
    average = Sharpness(value=0.467, loss=1.0, stderr=0.114, measure="average", radius=0.1, steps=9)
    assert repr(average) == "Sharpness(average 0.47 ± 0.11, sigma 0.1)"
    assert repr(cases.plane(points=13)).startswith("Plane(13 × 13 points of ")
