"""The short ways from a model, from finished runs and from a loop of one's own to numbers and figures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import landscape
import ncsam
from landscape.figures import plotting
from landscape.records import Record, variable
from landscape.store import StoreError
from ncsam.measurements import measure_plane, measure_sharpness, measure_spectrum
from ncsam.study.by_measure import by_measure
from ncsam.study.verdicts import judge
from tests.docs.pages import ROOT
from tests.ncsam.figures import cases


def objective(seed: int = 0, name: str | None = None) -> landscape.Objective:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    data = torch.randn(60, 6, dtype=torch.float64), torch.arange(60) % 3
    return landscape.Objective(model, nn.CrossEntropyLoss(), data, name=name)


def test_one_model_one_look(tmp_path: Path) -> None:
    obj = objective()
    found = obj.summary(k=2, rho=0.05, num_matvecs=40)
    H = landscape.HessianOperator(obj)
    np.testing.assert_allclose(found.eigenpairs.values, landscape.top_eigenpairs(H, k=2, tol=1e-9).values, rtol=1e-5)
    assert found.loss == pytest.approx(obj.loss(), rel=1e-12)
    assert float(found.sharpness) == float(landscape.sam_sharpness(obj, 0.05))
    exact = torch.trace(H @ torch.eye(obj.num_parameters, dtype=torch.float64)).item()
    assert abs(found.trace.value - exact) < 5 * found.trace.stderr
    lines = str(found).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "quantity", "loss", "eigenvalue 1", "eigenvalue 2", "trace", "SAM sharpness 0.05",
    ]  # fmt: skip
    assert lines[-1].endswith("lower bound")
    assert "standard error" in lines[-2]
    assert repr(found).startswith(f"Summary(loss {obj.loss():.4g}, largest eigenvalue ")
    plane = obj.plane(span=1, points=5, seed=0)
    plane.plot().savefig(tmp_path / "plane.png")
    obj.hessian().density(num_steps=5).plot().savefig(tmp_path / "density.png")
    assert (tmp_path / "plane.png").stat().st_size > 1000
    assert (tmp_path / "density.png").stat().st_size > 1000


def test_the_short_ways_are_the_long_ones() -> None:
    whole = objective()
    obj = whole.restricted("2")
    axis = torch.linspace(-0.5, 0.5, 3, dtype=torch.float64)
    d1, d2 = (obj.extract(landscape.filter_normalized_direction(whole.model, seed)) for seed in (6, 7))
    plane, line = obj.plane(points=3, span=0.5, seed=3), obj.line(points=3, span=0.5, seed=3)
    np.testing.assert_array_equal(plane.loss, landscape.plane(obj, d1, d2, axis, axis).loss)
    np.testing.assert_array_equal(line.loss, landscape.line(obj, d1, axis).loss)
    assert (plane.seed, line.seed) == (3, 3)
    H = obj.hessian(strategy="double_backward")
    assert H.trace(8, seed=1).value == landscape.trace(H, 8, seed=1).value
    np.testing.assert_array_equal(H.eigenpairs(2).values, landscape.top_eigenpairs(H, 2).values)
    with pytest.raises(ValueError, match="points is 1, expected a whole number from 2 on"):
        obj.line(points=1)
    with pytest.raises(ValueError, match="span is -1, expected a positive, finite number"):
        obj.plane(span=-1)


def test_two_optimizers_in_a_loop_of_ones_own() -> None:
    spectra, planes = [], []
    for name in ("sgd", "sam"):
        obj = objective(len(name), name)
        spectra.append(obj.hessian().density(num_steps=5))
        planes.append(obj.plane(points=3, seed=0))
    for records in (planes, spectra):
        assert {point["label"] for point in landscape.plot(records).points} == {"sgd", "sam"}
    assert landscape.plot(planes, view="data").points == landscape.plot(planes).points
    unnamed = [objective(n).plane(points=3) for n in (0, 1)]
    assert {point["label"] for point in landscape.plot(unnamed).points} == {"1", "2"}
    with pytest.raises(ValueError, match="several records are labelled sgd; give a mapping"):
        landscape.plot([planes[0], planes[0]])
    with pytest.raises(ValueError, match=r"records of several kinds \(Plane, DensityResult\) do not share a figure"):
        landscape.plot([planes[0], spectra[1]])
    with pytest.raises(ValueError, match="nothing to draw"):
        landscape.plot([])
    with pytest.raises(TypeError, match="expected records such as Plane or Line to draw, got float"):
        landscape.plot([1.0])  # type: ignore[list-item]


def test_two_finished_runs(tmp_path: Path) -> None:
    for optimizer in ("sgd", "sam"):
        config = ncsam.TrainConfig(optimizer=optimizer, noise="symmetric:0.4", epochs=1, train_samples=100)
        run = ncsam.train_run(config, tmp_path / f"{optimizer}.h5")
        measure_spectrum(run, views=["mixed", "test"], k=1, tol=1e-2, trace_matvecs=4)
        measure_plane(run, views=["mixed", "test"], alphas=[-1, 0, 1], betas=[-1, 0, 1])
    runs = ncsam.open_runs(tmp_path / "sgd.h5", tmp_path / "sam.h5")
    assert [run.name for run in runs] == ["sgd", "sam"]
    assert [run.name for run in runs[1:]] == ["sam"]
    for run in runs:
        assert run.results["hessian/default"] == "spectrum"
        assert "surface/plane    plane" in str(run.results)
        assert not [name for name in run.results if name.startswith("weights/")]
        spectrum = run.spectrum()
        pair = spectrum.at(epoch="last", view="mixed")
        assert pair.values[0] == spectrum.values[0, 0, 0]
        assert (pair.trace, pair.trace_stderr) == (spectrum.trace[0, 0], spectrum.trace_stderr[0, 0])
        assert run.plane("plane").loss.shape == (2, 3, 3)
        with pytest.raises(ValueError, match="of several views"):
            spectrum.at()
        with pytest.raises(StoreError, match="no single SharpnessTable in sharpness: there is none"):
            run.sharpness()
        with pytest.raises(StoreError, match="surface/plane is a Plane, expected a Line"):
            run.line("plane")
    assert {point["label"] for point in runs.plot("surface/plane", view="test").points} == {"sgd", "sam"}
    assert {point["label"] for point in runs[0].spectrum().plot().points} == {"mixed", "test"}
    measure_spectrum(runs[0], "more", views=["mixed"], k=1, tol=1e-2, trace_matvecs=0)
    measure_sharpness(runs[0], views=["mixed"])
    with pytest.raises(StoreError, match="there are hessian/default, hessian/more; name one of them"):
        runs[0].spectrum()
    assert runs[0].spectrum("more").at().trace is None
    assert runs[0].sharpness().sam.shape == (1, 1)
    with pytest.raises(ValueError, match="several files are called sgd"):
        ncsam.open_runs(tmp_path / "sgd.h5", tmp_path / "sgd.h5")


def test_a_loaded_record_is_of_the_kind_that_was_asked_for(tmp_path: Path) -> None:
    plane = objective(name="mine").plane(points=3)
    landscape.save(plane, tmp_path / "p.h5")
    found = landscape.load(tmp_path / "p.h5", landscape.Plane)
    assert found.label == "mine"
    np.testing.assert_array_equal(found.loss, plane.loss)
    with pytest.raises(StoreError, match="holds a Plane, expected a Line"):
        landscape.load(tmp_path / "p.h5", landscape.Line)


@pytest.mark.parametrize(
    "make",
    [
        cases.line, cases.draws, cases.connection, cases.plane, cases.plane_draws, cases.trace, cases.moments,
        cases.mass, cases.sharpness, cases.diagonal, cases.overlap, cases.alignment_with, cases.trajectory,
        cases.density, cases.layer_spectra, cases.split, cases.sharpness_table, cases.bound_table,
        cases.labels, cases.samples,
    ],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_a_record_plots_itself_alone_and_beside_another(make: Callable[[], Record]) -> None:
    assert make().plot().points
    labelled = {"a": make(), "b": make()}
    assert landscape.plot(labelled).points


def test_records_of_a_study_plot_themselves_one_at_a_time() -> None:
    verdicts = judge(cases.study_of("digits", ("sgd", "sam", "ncsam")))
    assert verdicts.plot().points
    assert landscape.plot({"digits": verdicts}).points
    with pytest.raises(ValueError, match="2 of these records do not share a figure"):
        landscape.plot({"a": verdicts, "b": verdicts})
    assert by_measure(cases.study_of("digits", ("sgd", "sam", "ncsam"))).plot().points


def test_what_no_figure_shows_and_what_shares_none_is_said() -> None:
    class Odd(Record, kind="odd_one"):
        value: float = variable(long_name="a number")

    with pytest.raises(ValueError, match=r"no figure shows a record of kind 'odd_one'; landscape.figures.drawn_by"):
        Odd(value=1.0).plot()
    draw = plotting.drawn_by
    draw(Odd, lambda record: landscape.figures.estimates(cases.trace()), several=False)
    assert Odd(value=1.0).plot().points
    with pytest.raises(ValueError, match="2 of these records do not share a figure; plot each by itself"):
        landscape.plot([Odd(value=1.0), Odd(value=2.0)])


TYPED = """
import landscape
import ncsam


def look(obj: landscape.Objective) -> None:
    print(obj.summary(k=5, rho=0.05))
    obj.plane(span=1, points=11, seed=0).plot().savefig("plane.png")
    obj.hessian().density().plot().savefig("density.png")


def read() -> None:
    runs = ncsam.open_runs("sgd.h5", "ncsam.h5")
    for run in runs:
        pair = run.spectrum().at(epoch="last", view="mixed")
        print(run.name, run.results, pair.values[0], pair.trace, run.plane("plane").loss.shape)
    runs.plot("surface/plane", view="mixed").savefig("planes.png")
    print(landscape.load("plane.h5", landscape.Plane).betas)


def compare(objectives: list[landscape.Objective]) -> None:
    landscape.plot([obj.plane(points=11, seed=0) for obj in objectives])
    landscape.plot([obj.hessian().density() for obj in objectives])
"""


@pytest.mark.slow
def test_the_short_ways_pass_a_strict_type_check(tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(TYPED.replace(".betas", ".gammas"))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    files = [str(tmp_path / name) for name in ("right.py", "wrong.py")]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    (told,) = done.stdout.splitlines()
    assert "wrong.py" in told
    assert '"Plane" has no attribute "gammas"' in told
