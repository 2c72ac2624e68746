"""``landscape figure`` draws every kind of record that is saved, those of one kind together."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ncsam.records
from landscape import records as basic, save
from landscape.records import Record
from landscape_cli.main import run as landscape
from landscape_cli.shared.drawing_spectra import spectra_figures
from landscape_cli.shared.drawing_surfaces import DrawingOptions, figures_of_records
from ncsam.study.by_measure import by_measure
from ncsam.study.files import curves_of
from ncsam.study.radius_control import radius_control
from ncsam.study.table import table_of
from ncsam.study.verdicts import describe, judge
from tests.ncsam.figures import cases

_ROWS = ("values", "residuals", "converged", "matvecs", "weight_norm", "status")
RECORDS: dict[str, tuple[Callable[[], Record], set[str]]] = {
    "eigenpairs": (lambda: cases.eigen((3.0, 1.0)), {"eigenpairs"}),
    "trace": (cases.trace, {"trace"}),
    "moments": (cases.moments, {"moments"}),
    "negative_mass": (cases.mass, {"negative_mass"}),
    "diagonal": (cases.diagonal, {"diagonal"}),
    "density": (cases.density, {"density"}),
    "layer_spectra": (cases.layer_spectra, {"layers"}),
    "curvature_split": (cases.split, {"split"}),
    "subspace_overlap": (cases.overlap, {"overlap"}),
    "alignment": (cases.alignment_with, {"cosines"}),
    "sharpness": (cases.sharpness, {"sharpness_sam", "ascents_sam"}),
    "line": (cases.line, {"line"}),
    "plane": (cases.plane, {"contours_mixed", "contours_test", "accuracy_test", "surface3d_mixed"}),
    "line_draws": (cases.draws, {"bands_line"}),
    "plane_draws": (cases.plane_draws, {"draws_line"}),
    "trajectory": (cases.trajectory, {"trajectory"}),
    "persistence": (cases.wells, {"persistence", "merge_tree", "basins"}),
    "persistence_draws": (cases.well_draws, {"persistence_draws"}),
    "connection": (cases.connection, {"way_line"}),
    "curve": (cases.trained_curve, {"way_line"}),
    "course": (cases.course, {"course"}),
    "sharpness_table": (cases.sharpness_table, {"sharpness"}),
    "diagnostics": (lambda: cases.diagnostics(0.5, 0), {"alignment"}),
    "bound_table": (cases.bound_table, {"bound"}),
    "labels": (cases.labels, {"labels"}),
    "training": (lambda: cases.training(0.9, 0.6, 0), {"training"}),
    "sample_history": (cases.samples, {"samples"}),
    "sample_curvatures": (cases.sample_curvatures, {"curvature_of_samples"}),
    "verdicts": (lambda: judge(cases.study_of("cifar10-small")), {"verdicts"}),
    "by_measure": (lambda: by_measure(cases.study_of("cifar10-small")), {"by_measure"}),
    "radius_control": (lambda: radius_control(cases.study_of("cifar10-small")), {"radius"}),
    "barriers": (cases.study_barriers, {"barriers"}),
    "curves": (
        lambda: curves_of(cases.study_of("cifar10-small")),
        {"verdicts", "by_measure", "radius", "against_noise", "sharpness", "arms", "gap", "bound"},
    ),
    "cell_table": (
        lambda: table_of(list(cases.real_rows("cifar10-small"))),
        {"verdicts", "by_measure", "radius", "against_noise", "sharpness", "arms", "gap", "bound"},
    ),
}
ELSEWHERE = {
    "",
    "audit",
    "keskar_sharpness",
    "sample_curvature",
    "sample_rises",
    "spectrum",
    "secondary",
    "steps",
}  # the base; tests/cli/test_audit.py; others' fields; no figure


@pytest.mark.parametrize("kind", RECORDS)
def test_a_saved_record_of_every_kind_is_drawn(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, stems = RECORDS[kind]
    record = make()
    assert record.kind == kind
    save(record, tmp_path / "mine.h5")
    out = tmp_path / "figures"
    assert landscape(["figure", str(tmp_path / "mine.h5"), "--out", str(out), "--formats", "svg", "--quiet"]) == 0
    assert {path.stem for path in out.glob("*.svg")} == stems
    assert {path.stem for path in out.glob("*.csv")} == stems


def test_the_table_has_every_kind_of_record() -> None:
    kinds = {
        declared.kind
        for module in (basic, ncsam.records)
        for _, declared in inspect.getmembers(module, inspect.isclass)
        if issubclass(declared, Record) and "kind" in vars(declared)
    }
    assert kinds - ELSEWHERE == set(RECORDS)


def test_records_of_one_kind_are_drawn_together_whatever_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save(cases.density(1.0 if name == "a" else 2.0), tmp_path / name / "density.h5")
    files = [str(tmp_path / name / "density.h5") for name in ("a", "b")]
    assert landscape(["figure", *files, "--out", str(tmp_path / "out"), "--formats", "png", "--quiet"]) == 0
    text = (tmp_path / "out" / "density.csv").read_text(encoding="utf-8")
    assert {line.split(",")[0] for line in text.splitlines()[1:]} == {"a-density", "b-density"}


def test_curvature_in_two_units_is_drawn_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, relative = cases.trace(), dataclasses.replace(cases.trace(), scale="|w|")
    files = [str(tmp_path / name) for name in ("a.h5", "b.h5")]
    for file, record in zip(files, (own, relative), strict=True):
        save(record, file)
    assert landscape(["figure", *files, "--out", str(tmp_path / "figures"), "--formats", "pdf", "--quiet"]) == 0
    assert {Path(line).stem for line in capsys.readouterr().out.split()} == {"trace", "trace_relative"}


def test_a_kind_without_a_figure_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(describe(cases.study_of("cifar10-small")), tmp_path / "rows.h5")
    assert landscape(["figure", str(tmp_path / "rows.h5"), "--out", str(tmp_path / "none"), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "rows: holds secondary, which no figure shows; drawn are " in line
    assert not (tmp_path / "none").exists()


def test_views_of_documents_are_drawn_and_those_that_are_too_many_are_told(caplog: pytest.LogCaptureFixture) -> None:
    sets = [f"documents:{n:02}" for n in range(9)]
    rows = {"loss": np.ones((10, 21)), "status": np.ones((10, 21), np.uint8)}
    line = dataclasses.replace(cases.line(), views=np.array(["mixed", "clean_part", "documents:code", "test"]))
    many = dataclasses.replace(cases.line(), views=np.array(["mixed", *sets]), **rows)
    made = figures_of_records({"a": line}, DrawingOptions())["line"]()
    assert "documents:code" in {point["view"] for point in made.points}
    with caplog.at_level(logging.INFO, "landscape_cli"):
        made = figures_of_records({"a": many}, DrawingOptions())["line"]()
    assert {point["view"] for point in made.points} == {"mixed", *sets[:7]}
    assert "documents:07, documents:08" in caplog.text
    spectrum = cases.spectrum()
    twice = {name: np.repeat(getattr(spectrum, name), 2, axis=0) for name in _ROWS}
    views = np.array(["mixed", "documents:code", "test"])
    spectrum = dataclasses.replace(spectrum, **twice, epochs=np.array([3, 4]), views=views)
    along = spectra_figures({"a": spectrum}, "")["eigenvalues"]()
    assert "documents:code" in {ax.get_title() for ax in along.axes}
