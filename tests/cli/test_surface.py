"""``landscape surface``: how points are evaluated, and what it prints."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from landscape import HessianOperator, Objective, filter_normalized_direction, line, plane, store, top_eigenpairs
from landscape.records import Line, Plane, Status
from landscape_cli.main import run as landscape
from ncsam import models


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    arguments = ["train", "--epochs", "2", "--optimizer", "sgd", "--noise", "symmetric:0.4", "--quiet"]
    assert landscape([*arguments, "--out", str(path)]) == 0
    return path


@pytest.fixture
def copy(run_file: Path, tmp_path: Path) -> str:
    return str(shutil.copy(run_file, tmp_path / "run.h5"))


def test_a_plane_to_a_tolerance_over_a_span_that_it_finds(copy: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["surface", copy, "--plane", "--points", "31", "--tol", "0.02", "--auto-range", "1.5", "--quiet"]
    assert landscape([*arguments, "--views", "mixed,labels:symmetric:0.6"]) == 0
    out = capsys.readouterr().out
    for text in (
        "of 961 points, the others interpolated",
        "has risen by 1.5",
        "chosen by rule",
        "d·Hd",
        "plain evaluation",
    ):
        assert text in out
    assert "WARNING" not in out
    with store.open(copy) as file:
        plane = file.record("surface/plane")
    assert isinstance(plane, Plane)
    assert plane.views.tolist() == ["mixed", "labels:symmetric:0.6"]
    assert (plane.status == Status.INTERPOLATED).mean() > 0.5
    assert plane.auto_range is not None
    assert plane.alphas[-1] == plane.auto_range["span"]
    assert plane.loss[0].max() > plane.centre_loss[0] + 1.5 * 0.98


def test_numbers_of_a_check_are_told_only_where_it_failed(copy: str) -> None:
    from landscape_cli.shared.surface_options import summary
    from ncsam.runs.run import Run

    objective = Run(copy).objective(views=("mixed",))
    found = line(objective, filter_normalized_direction(objective.model), [-1.0, 0.0, 1.0])
    assert summary(found, "float32").splitlines()[1:] == [
        "check: loss at the centre agrees with plain evaluation",
        f"check: direction 1: d·Hd = {found.curvature[0]:.4g} on {found.check['samples']} samples, "
        "confirmed by second differences",
    ]
    assert found.check["samples"] < objective.num_samples("mixed")
    wrong = dataclasses.replace(
        found, plain_loss=found.plain_loss + 0.25, check={**found.check, "outcome": ["disagrees"]}
    )
    told = summary(wrong, "float32").splitlines()[1:]
    assert told[0] == "check: WARNING: loss at the centre deviates from plain evaluation by 0.25"
    assert "WARNING: second difference" in told[1]
    again = summary(dataclasses.replace(wrong, batchnorm="recalibrated"), "float32")
    assert "recalibrating BatchNorm changes the loss at the centre by 0.25" in again


def test_labels_of_another_rate_are_nested_in_the_runs_own(copy: str) -> None:
    from ncsam.runs.run import Run

    run = Run(copy)
    objective = run.objective(views=("mixed", "labels:symmetric:0.4", "labels:symmetric:0.6", "true_labels"))
    drawn = [objective.view_of(name).labels for name in objective.views]
    true = drawn[3]
    own = run.problem.observed()
    assert (drawn[1] == own).all()  # the same seed, the same noise
    flipped = own != true
    assert (drawn[2][flipped] == own[flipped]).all()
    assert (drawn[2] != true).sum() > flipped.sum()


def test_classes_and_a_measured_choice_are_recorded(copy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape(["surface", copy, "--points", "3", "--by-class", "--autotune", "--views", "mixed", "--quiet"]) == 0
    assert "fastest as measured" in capsys.readouterr().out
    with store.open(copy) as file:
        line = file.record("surface/line")
    assert isinstance(line, Line)
    assert line.batch_choice == "measured"
    assert line.class_loss is not None
    assert line.class_loss.shape == (1, 10, 3)
    assert np.isfinite(line.class_loss).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tol", "0"], "'--tol': 0 is not in the range"),
        (["--draws", "2", "--tol", "0.1"], "--tol goes with a single line or plane"),
        (["--draws", "2", "--auto-range", "1"], "--auto-range goes with a single line or plane"),
        (["--span", "1", "--auto-range", "1"], "leave one out"),
        (["--batchnorm", "recalibrated"], "no BatchNorm layer"),
        (["--views", "labels:symetric:0.2"], "did you mean 'symmetric'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    copy: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert landscape(["surface", copy, "--points", "3", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_saved_surfaces_of_a_model_of_ones_own_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = torch.nn.Linear(4, 3)
    obj = Objective(model, torch.nn.CrossEntropyLoss(), (torch.randn(20, 4), torch.randint(3, (20,))))
    first, second = (filter_normalized_direction(model, seed=s) for s in (0, 1))
    line(obj, first, np.linspace(-1, 1, 5)).save(tmp_path / "mine.h5")
    plane(obj, first, second, np.linspace(-1, 1, 5), np.linspace(-1, 1, 5)).save(tmp_path / "flat.h5")
    top_eigenpairs(HessianOperator(obj), k=1).save(tmp_path / "top.h5")
    names = [str(tmp_path / name) for name in ("mine.h5", "flat.h5", "top.h5")]
    out = tmp_path / "figures"
    assert landscape(["figure", *names, "--out", str(out), "--formats", "png", "--quiet"]) == 0
    drawn = {Path(name).name for name in capsys.readouterr().out.split()}
    assert drawn == {
        f"{stem}.{end}"
        for stem in ("line", "contours_data", "accuracy_data", "surface3d_data", "eigenpairs")
        for end in ("png", "csv")
    }


def test_figures_that_are_stopped_half_way_leave_nothing(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, saved = tmp_path / "new" / "pictures", []

    def stop(drawn: object, stem: Path, *more: object) -> list[Path]:
        saved.append(stem)
        stem.with_suffix(".pdf").write_text("the first")
        if len(saved) > 1:
            raise KeyboardInterrupt
        return [stem.with_suffix(".pdf")]

    line = ["surface", str(run_file), "--points", "3", "--quiet", "--overwrite"]
    assert landscape(line) == 0
    with monkeypatch.context() as patch:
        patch.setattr("landscape_cli.shared.drawing.figures.save", stop)
        assert landscape(["figure", str(run_file), "--out", str(out), "--quiet"]) == 130
    assert len(saved) == 2
    assert not out.exists()
    assert list(out.parent.iterdir()) == []
    (out.parent / ".pictures.tmp").mkdir()  # what a kill leaves
    (out.parent / ".pictures.tmp" / "half.pdf").touch()
    capsys.readouterr()
    assert landscape(["figure", str(run_file), "--out", str(out), "--quiet", "--formats", "svg"]) == 0
    assert sorted(capsys.readouterr().out.split()) == sorted(str(path) for path in out.iterdir())
    assert [path.name for path in out.parent.iterdir()] == ["pictures"]


def test_a_new_folder_of_figures_appears_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from landscape import _files

    moved: list[tuple[str, str]] = []
    rename = _files.os.rename
    monkeypatch.setattr(_files.os, "rename", lambda a, b: (moved.append((Path(a).name, Path(b).name)), rename(a, b)))
    monkeypatch.setattr(_files.os, "replace", lambda *_: pytest.fail("a file was moved by itself"))
    with _files.filling(tmp_path / "new") as draft:
        (draft / "a.svg").touch()
        assert not (tmp_path / "new").exists()
    assert moved == [(".new.tmp", "new")]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.svg"]


def test_a_view_whose_losses_are_not_finite_is_not_called_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = models.build("mlp", (1, 8, 8), 10, seed=0).state_dict()
    for tensor in state.values():
        tensor.fill_(torch.nan)
    torch.save(state, tmp_path / "nan.pt")
    run = str(tmp_path / "run.h5")
    weights = ["--weights", str(tmp_path / "nan.pt"), "--model", "mlp", "--data", "digits"]
    assert landscape(["import", *weights, "-o", run, "--quiet"]) == 0
    capsys.readouterr()
    assert landscape(["surface", run, "--points", "3", "--views", "mixed,noisy_part", "--quiet"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert lines["mixed"] == ["nan", "3"]
    assert lines["noisy_part"] == ["empty"]
