"""Trace and top eigenvalue of D H D on a run, and measurements of a drawn subset of its samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import landscape
from ncsam import Run
from ncsam.measurements.measurement import Subset, drawn
from ncsam.measurements.sharpness import measure_sharpness
from ncsam.measurements.spectrum import measure_spectrum
from ncsam.study.endpoints import endpoints_of

VIEWS = ("clean_part", "mixed")


def test_both_are_those_of_the_objective_and_endpoints_of_the_run(run: Run) -> None:
    found = measure_sharpness(run, views=VIEWS, trace_matvecs=40, top_tol=1e-3, dtype="float64")
    objective = run.objective("last", VIEWS, dtype=torch.float64).view("clean_part")
    top = landscape.adaptive_top(objective, tol=1e-3)
    assert found.adaptive_top[0, 0] == pytest.approx(float(top.values[0]), rel=1e-3)
    assert found.adaptive_top_residual[0, 0] <= 1e-3 * found.adaptive_top[0, 0]
    other = landscape.adaptive_trace(objective, 40, seed=7)
    apart = np.hypot(found.adaptive_trace_stderr[0, 0], other.stderr)
    assert abs(found.adaptive_trace[0, 0] - other.value) < 5 * apart
    endpoints = endpoints_of(Run(run.path))
    assert endpoints["adaptive_trace/clean_part"] == found.adaptive_trace[0, 0]
    assert endpoints["adaptive_top/mixed"] == found.adaptive_top[0, 1]


def test_the_radius_of_a_rise_and_the_sharpness_of_groups_are_those_of_the_objective(run: Run) -> None:
    found = measure_sharpness(run, views=VIEWS, rise=0.1, m=64)
    objective = run.objective("last", VIEWS).view("mixed")
    assert found.rise_radius[0, 1] == landscape.sharpness_at_rise(objective, 0.1).radius
    assert found.m_sharpness[0, 1] == landscape.m_sharpness(objective, 0.05, 64).value
    endpoints = endpoints_of(Run(run.path))
    assert endpoints["rise_curvature/mixed"] == pytest.approx(0.2 / found.rise_radius[0, 1] ** 2)
    assert endpoints["m_sharpness/mixed"] == found.m_sharpness[0, 1]


def test_groups_of_other_radius_steps_or_logits_are_endpoints_of_their_own(run: Run) -> None:
    measure_sharpness(run, views=VIEWS)
    measure_sharpness(run, "steps", views=VIEWS, steps=3, normalize_logits=True, trace_matvecs=4)
    measure_sharpness(run, "wide", views=VIEWS, adaptive_rho=2.0)
    endpoints = endpoints_of(Run(run.path))
    assert {"adaptive/mixed", "adaptive@0.5,3steps,normalized/mixed", "adaptive@2/mixed"} <= set(endpoints)
    assert "adaptive_trace@steps/mixed" in endpoints
    assert "adaptive_trace/mixed" not in endpoints


def test_a_subset_is_drawn_from_every_view_alike_and_recorded(run: Run) -> None:
    objective = run.objective("last", ("mixed", "clean_part", "true_labels", "test"))
    some = drawn(objective, Subset(50, 3))
    assert [some.num_samples(view) for view in some.views] == [50] * 4
    rows = {view: set(some.view_of(view).indices.tolist()) for view in some.views}
    assert rows["mixed"] == rows["true_labels"]
    assert len(rows["mixed"] & rows["clean_part"]) > 15  # those of mixed that are rightly labelled come first
    assert rows["clean_part"] <= set(objective.view_of("clean_part").indices.tolist())
    assert drawn(objective, Subset(50, 4)).view_of("mixed").indices.tolist() != sorted(rows["mixed"])
    assert drawn(objective, Subset(10**6, 3)).num_samples("clean_part") == objective.num_samples("clean_part")
    found = measure_sharpness(run, views=VIEWS, subset=50, subset_seed=3)
    assert found.loss[0, 1] == pytest.approx(float(some.view("mixed").loss()), rel=1e-5)
    assert (found.subset, found.subset_seed) == (50, 3)
    spectrum = measure_spectrum(run, views=VIEWS, k=1, trace_matvecs=0, subset=50, subset_seed=3, dtype="float64")
    exact = landscape.top_eigenpairs(landscape.HessianOperator(some.view("mixed").astype(torch.float64)), 1)
    assert spectrum.values[0, 1, 0] == pytest.approx(float(exact.values[0]), rel=1e-5)
    assert spectrum.subset == 50


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"subset": 0}, "subset is 0"),
        ({"rise": 0.0}, "rise is 0"),
        ({"m": 0}, "m is 0"),
        ({"trace_matvecs": 1}, "trace_matvecs is 1"),
        ({"top_tol": 0.0}, "top_tol is 0.0"),
    ],
)
def test_what_cannot_be_measured_is_refused(run: Run, settings: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        measure_sharpness(run, views=VIEWS, **settings)
