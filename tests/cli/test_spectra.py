"""`landscape hessian` and `landscape sharpness` with everything they offer, and what they say of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from landscape import store
from landscape_cli.main import run as landscape
from ncsam.records import Spectrum
from ncsam.runs.run import Run

TRAIN = ["train", "--optimizer", "sgd", "--epochs", "3", "--checkpoints", "1,2", "--train-samples", "150", "--quiet"]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    assert landscape([*TRAIN, "--out", str(path)]) == 0
    return path


def test_the_spectrum_along_training_from_the_command_to_the_pictures(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        "--checkpoints",
        "all",
        "--top",
        "2",
        "--which",
        "both",
        "--trace",
        "4",
        "--density",
        "8",
        "--params",
        "classifier",
    ]
    asked += ["--per-layer", "--split", "--vectors", "--tol", "1e-2", "--views", "mixed,noisy_part", "--quiet"]
    assert landscape(["hessian", str(copy), *asked]) == 0
    said = capsys.readouterr().out
    heads = ["eigenvalues ± residual", "adds noisy_part", "|cos g_star|", "largest eigenvalue", "negative share of"]
    assert [head for head in heads if head not in said] == []
    assert " products in " in said
    with store.open(copy) as file:
        found = file.record("hessian/default")
    assert isinstance(found, Spectrum)
    assert found.values.shape == (3, 2, 4)
    assert found.epochs.tolist() == [1, 2, 3]
    assert found.params == ["classifier"]
    assert found.warm_start
    assert set(found.strategies.reshape(-1)) == {"double_backward"}
    # What is printed is what is stored: contributions of the two parts to the first eigenvalue.
    row = next(line for line in said.splitlines() if line.startswith("1      mixed       1     ")).split()
    added = found.shares * found.split[0, 0, 0]
    assert [float(cell) for cell in row[6:8]] == pytest.approx(added, rel=1e-3)
    assert landscape(["verify", str(copy)]) == 0
    assert landscape(["figure", str(copy), "--out", str(tmp_path / "figures"), "--formats", "png", "--quiet"]) == 0
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"training", "eigenvalues", "density", "layers", "split"}


def test_what_did_not_converge_is_marked(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["hessian", str(copy), "--params", "classifier", "--views", "mixed", "--trace", "0", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        import landscape.spectrum.eigenpairs as eigen

        patch.setattr(
            "landscape.top_eigenpairs", lambda H, k, **more: eigen.top_eigenpairs(H, k, **more, max_matvecs=6)
        )
        assert landscape(asked) == 0
    captured = capsys.readouterr()
    assert "*" in captured.out.splitlines()[1]
    assert "* residual above --tol: not converged" in captured.out
    assert "did not converge in 6 products" in captured.err


def test_json_holds_everything_but_the_vectors(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--params", "classifier", "--views", "mixed,test", "--trace", "0", "--top", "1", "--vectors", "--json"]
    assert landscape(["hessian", str(copy), *asked, "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "vectors" not in found
    assert found["products"] == found["matvecs"]
    assert np.array(found["seconds"]).shape == (1, 2)
    with store.open(copy) as file:
        assert file.record("hessian/default").vectors.shape[-1] == 1


def test_a_subset_is_told_with_what_it_costs(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [str(copy), "--views", "mixed", "--subset", "60", "--subset-seed", "2", "--quiet"]
    calls = {
        "hessian": (["--top", "1", "--trace", "0"], "hessian/default"),
        "sharpness": ([], "sharpness/default"),
        "surface": (["--points", "3"], "surface/line"),
    }
    for command, (words, name) in calls.items():
        assert landscape([command, *common, *words]) == 0
        printed = capsys.readouterr().out
        assert "on 60 samples of each view, or all of a smaller one, drawn by the seed 2" in printed
        assert "the s.e. of the loss" in printed
        assert landscape([command, *common, *words, "--overwrite", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["name"], found["subset"], found["subset_seed"]) == (name, 60, 2)
        error = np.ravel(found["loss_sampling_error"])[0]
        assert 0 < error < 1
        assert f" ± {error:.2g}" in printed
        if command == "hessian":
            assert f"{found['sampling_errors'][0][0][0]:.2g}" in printed
        stored = Run(copy).result(name)
        assert stored.subset == 60  # type: ignore[attr-defined]


def test_every_sharpness_is_printed_and_stored(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--steps", "2", "--restarts", "1", "--sigma", "0.01", "--adaptive-sigma", "0.1", "--samples", "2"]
    asked += ["--keskar", "1e-3", "--normalize-logits", "--params", "classifier", "--views", "mixed", "--quiet"]
    assert landscape(["sharpness", str(copy), *asked]) == 0
    said = capsys.readouterr().out
    for head in (
        "SAM (rho 0.05)",
        "average (sigma 0.01)",
        "adaptive average (sigma 0.1 |w|)",
        "Keskar (epsilon 0.001)",
    ):
        assert head in said
    with store.open(copy) as file:
        found = file.record("sharpness/default")
    assert found.normalize_logits
    assert found.sam_rises.shape == (1, 1, 2, 3)
    assert f"{found.keskar[0, 0]:.4g} %" in said
    assert landscape(["verify", str(copy)]) == 0
