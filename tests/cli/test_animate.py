"""``landscape figure --animate``: the path of a run on its plane as a moving picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from landscape_cli.main import run as landscape

TRAIN = ["train", "--optimizer", "sgd", "--epochs", "3", "--checkpoints", "1,2", "--train-samples", "100", "--quiet"]


@pytest.mark.slow
def test_the_path_of_a_run_moves_on_its_plane(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run.h5", tmp_path / "pictures"
    assert landscape([*TRAIN, "--out", str(run)]) == 0
    plane = ["surface", str(run), "--plane", "--directions", "trajectory", "--points", "5", "--views", "mixed"]
    assert landscape([*plane, "--quiet"]) == 0
    capsys.readouterr()
    assert landscape(["figure", str(run), "--out", str(out), "--formats", "png", "--animate", "--quiet"]) == 0
    (moving,) = (Path(line) for line in capsys.readouterr().out.splitlines() if line.endswith(".gif"))
    with Image.open(moving) as image:
        assert image.n_frames == 3
