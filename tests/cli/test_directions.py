"""Directions, draws and ways between runs, from the command to the pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from landscape.records import Connection, LineDraws, Plane, Trajectory
from landscape_cli.main import run as landscape
from ncsam import Run

TRAIN = [
    "train", "--optimizer", "sgd", "--epochs", "3", "--checkpoints", "1,2", "--train-samples", "120", "--batch-size",
    "64", "--quiet",
]  # fmt: skip
QUICK = ["--quiet", "--views", "mixed,test"]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    assert landscape([*TRAIN, "--out", str(path)]) == 0
    return path


def test_from_directions_to_pictures(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.h5"
    assert landscape([*TRAIN[:2], "sam", *TRAIN[3:], "--out", str(other)]) == 0
    surface = ["surface", str(copy), *QUICK, "--points", "3"]
    assert landscape([*surface, "--plane", "--directions", "trajectory", "--name", "path"]) == 0
    assert landscape([*surface, "--draws", "3", "--name", "bands", "--layers", "layers*"]) == 0
    capsys.readouterr()
    assert landscape([*surface, "--directions", f"between:{other}"]) == 0
    assert "barrier" in capsys.readouterr().out
    assert landscape([*surface, "--directions", "eigen", "--norm", "0.5", "--name", "steep"]) == 0
    run = Run(copy)
    plane, path, bands, way = (run.result(f"surface/{n}") for n in ("path", "path_path", "bands", "connection"))
    assert isinstance(plane, Plane)
    assert plane.along == ["principal component 1", "principal component 2"]
    assert isinstance(path, Trajectory)
    assert path.hashes.tolist() == plane.hashes
    assert path.explained > 0.99  # two checkpoints and the weights span a plane
    assert isinstance(bands, LineDraws)
    assert bands.draws.tolist() == [0, 1, 2]
    assert isinstance(way, Connection)
    assert way.end == "other.h5 epoch 3"
    assert float(run.result("surface/steep").direction_norm) == pytest.approx(0.5, rel=1e-6)

    out = tmp_path / "figures"
    capsys.readouterr()
    assert (
        landscape(
            [
                "figure",
                str(copy),
                "--out",
                str(out),
                "--formats",
                "svg",
                "--width",
                "neurips",
                "--interactive",
                "--quiet",
            ]
        )
        == 0
    )
    drawn = {Path(line).name for line in capsys.readouterr().out.split()}
    assert {name for name in drawn if not name.endswith(".csv")} == {
        "training.svg", "bands_bands.svg", "way_connection.svg", "line_steep.svg", "contours_path_mixed.svg",
        "contours_path_test.svg", "accuracy_path_test.svg", "surface3d_path_mixed.svg", "interactive_path_mixed.html",
    }  # fmt: skip
    assert "100% of the path in this plane" in (out / "contours_path_mixed.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--directions", "up"], "directions are 'up', expected random, eigen"),
        (["--directions", "eigen", "--draws", "2"], "--draws repeats random directions"),
        (["--directions", "between:other.h5", "--layers", "fc"], "--layers does not go with between"),
        (["--directions", "between:run.h5", "--span", "2"], "--span does not go with the way to another run"),
        (["--plane", "--directions", "between:run.h5"], "name two, e.g. between:A.h5,between:B.h5"),
        (["--layers", "conv*"], "'conv*' matches no trainable parameter"),
        (["--policy", "norm"], "expected ROLE=MODE, e.g. norm=tensor"),
        (["--policy", "bias=zero"], "roles are weight, vector, norm"),
    ],
)
def test_impossible_directions_are_refused_in_one_line(
    copy: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy.parent)
    assert landscape(["surface", "run.h5", *QUICK, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [p.name for p in copy.parent.iterdir()] == ["run.h5"]
