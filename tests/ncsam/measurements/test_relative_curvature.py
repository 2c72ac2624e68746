"""Trace and top eigenvalue of D H D on a run, and measurements of a drawn subset of its samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import landscape
from ncsam import Run
from ncsam.measurements.draws_and_paths import measure_connection, measure_draws
from ncsam.measurements.measurement import Subset, drawn
from ncsam.measurements.sharpness import measure_sharpness
from ncsam.measurements.spectrum import measure_spectrum
from ncsam.measurements.surface import measure_line, measure_plane
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


def drawn_losses(run: Run, view: str, count: int, seed: int) -> tuple[np.ndarray, int]:
    """Losses in double precision of the samples of a view that are drawn, and how many the view has."""
    objective = run.objective("last", (view,), dtype=torch.float64)
    indices = drawn(objective, Subset(count, seed)).view_of(view).indices
    problem = run.problem
    whole = {
        "mixed": (problem.inputs(), problem.observed()), "test": (problem.dataset.test_x, problem.dataset.test_y),
    }[view]  # fmt: skip
    with torch.no_grad():
        logits = run.model("last", dtype=torch.float64)(whole[0].double()[indices])
    losses = torch.nn.functional.cross_entropy(logits, whole[1][indices], reduction="none")
    return losses.numpy(), len(whole[1])


def standard_error(values: np.ndarray, whole: int) -> float:
    """Of a mean of values drawn without replacement, by its textbook formula."""
    n = len(values)
    return float(values.std(ddof=1) / np.sqrt(n) * np.sqrt(1 - n / whole))


def test_sampling_errors_of_loss_and_eigenvalues_are_those_of_the_draw(run: Run) -> None:
    how = {"subset": 40, "subset_seed": 3, "dtype": "float64"}
    views = ("mixed", "test", "noisy_part")
    spectrum = measure_spectrum(run, "drawn", views=views, k=2, trace_matvecs=0, vectors=True, **how)
    table = measure_sharpness(run, "drawn", views=views, **how)
    for j, view in enumerate(views[:2]):
        losses, whole = drawn_losses(run, view, 40, 3)
        expected = losses.mean(), standard_error(losses, whole)
        assert (spectrum.loss[0, j], spectrum.loss_sampling_error[0, j]) == pytest.approx(expected, rel=1e-9)
        assert (table.loss[0, j], table.loss_sampling_error[0, j]) == pytest.approx(expected, rel=1e-9)
        objective = drawn(run.objective("last", (view,), dtype=torch.float64), Subset(40, 3))
        indices = objective.view_of(view).indices
        assert indices is not None
        alone = [  # vᵀHv of each sample, by a Hessian product on it alone
            [
                float(v @ (landscape.HessianOperator(objective.with_views([landscape.View(view, view_source, i)])) @ v))
                for view_source, i in ((objective.view_of(view).source, index[None]) for index in indices)
            ]
            for v in torch.from_numpy(spectrum.vectors[0, j].T.copy())
        ]
        errors = [standard_error(np.array(values), whole) for values in alone]
        np.testing.assert_allclose(spectrum.sampling_errors[0, j], errors, rtol=1e-6)
    everything = measure_spectrum(run, "all", views=("mixed",), k=1, trace_matvecs=0, subset=10**6)
    assert everything.loss_sampling_error[0, 0] == 0.0
    assert everything.sampling_errors[0, 0, 0] == 0.0
    plain = measure_spectrum(run, "plain", views=("mixed",), k=1, trace_matvecs=0)
    assert plain.sampling_errors is plain.loss_sampling_error is plain.loss is None


def test_normalised_logits_have_the_error_of_their_loss(run: Run) -> None:
    how = {"subset": 40, "subset_seed": 3, "dtype": "float64", "normalize_logits": True}
    table = measure_sharpness(run, "normalised", views=("mixed",), **how)
    objective = landscape.with_normalized_logits(run.objective("last", ("mixed",), dtype=torch.float64))
    some = drawn(objective, Subset(40, 3))
    indices = some.view_of("mixed").indices
    assert indices is not None
    losses = np.array([some.with_views([landscape.View("mixed", "train", i[None])]).loss() for i in indices])
    whole = run.problem.num_samples("mixed")
    assert (table.loss[0, 0], table.loss_sampling_error[0, 0]) == pytest.approx(
        (losses.mean(), standard_error(losses, whole)), rel=1e-9
    )


def test_an_eigenvalue_without_sample_curvature_has_no_sampling_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("samples have to do with each other")

    monkeypatch.setattr("ncsam.measurements.sampling_error.sample_curvature", refuse)
    found = measure_spectrum(run, "odd", views=("mixed",), k=1, trace_matvecs=0, subset=20)
    assert np.isnan(found.sampling_errors).all()
    assert found.status[0, 0] == landscape.Status.OK
    assert "no sampling error of the eigenvalues on mixed: samples have to do with each other" in caplog.text


@pytest.mark.parametrize("view", ["mixed", "clean_part", "noisy_part", "true_labels", "val", "test", "labels:pair:0.2"])
def test_a_problem_knows_how_many_samples_a_view_has(run: Run, view: str) -> None:
    assert run.problem.num_samples(view) == run.objective("last", (view,)).num_samples(view)


@pytest.mark.parametrize("kind", ["line", "plane", "draws", "connection"])
def test_surfaces_are_those_of_the_samples_that_are_drawn(run: Run, kind: str) -> None:
    views, grid = ("mixed", "test"), [-1.0, 0.0, 1.0]
    how = {"views": views, "subset": 40, "subset_seed": 3, "dtype": "float64"}
    make = {
        "line": lambda name, **more: measure_line(run, name, alphas=grid, **more),
        "plane": lambda name, **more: measure_plane(run, name, alphas=grid, betas=grid, **more),
        "draws": lambda name, **more: measure_draws(run, name, alphas=grid, draws=2, **more),
        "connection": lambda name, **more: measure_connection(run, run, name, alphas=[0.0, 1.0], **more),
    }[kind]
    found = make(f"{kind}-drawn", **how)
    assert (found.subset, found.subset_seed) == (40, 3)
    drawn_at = drawn(run.objective("last", views, dtype=torch.float64), Subset(40, 3)).evaluate().loss
    centre = {"line": (slice(None), 1), "plane": (slice(None), 1, 1), "draws": (0, slice(None), 1)}
    at_weights = found.loss[centre.get(kind, (slice(None), 0))]
    np.testing.assert_allclose(at_weights, [drawn_at[view] for view in views], rtol=1e-9)
    errors = [standard_error(*drawn_losses(run, view, 40, 3)) for view in views]
    np.testing.assert_allclose(found.loss_sampling_error, errors, rtol=1e-9)
    assert Run(run.path).result(f"surface/{kind}-drawn") == found
    plain = make(f"{kind}-all", views=views)
    assert plain.subset is plain.loss_sampling_error is None


def test_a_direction_of_a_view_that_is_not_measured_is_of_its_drawn_samples_too(run: Run) -> None:
    how = {"subset": 40, "subset_seed": 3, "dtype": "float64", "alphas": [0.0, 1.0], "directions": "gradient:test"}
    alone = measure_line(run, "alone", views=("mixed",), **how)
    together = measure_line(run, "together", views=("mixed", "test"), **how)
    assert alone.hashes == together.hashes
    assert alone.hashes != measure_line(run, "whole", views=("mixed", "test"), **{**how, "subset": None}).hashes


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
