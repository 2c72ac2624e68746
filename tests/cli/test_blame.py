"""``landscape blame``: what it prints, draws and refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from landscape import store
from landscape_cli.main import run as landscape
from ncsam.records import SampleCurvatures
from ncsam.statistics import auc

TRAIN = ["train", "--optimizer", "sgd", "--epochs", "2", "--train-samples", "150", "--quiet"]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    assert landscape([*TRAIN, "--noise", "symmetric:0.4", "--out", str(path)]) == 0
    return path


def test_samples_are_printed_stored_and_drawn(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "blamed"
    assert landscape(["blame", str(copy), "--show", "4", "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr().out.splitlines()
    with store.open(copy) as file:
        found = file.record("diagnostics/samples")
    assert isinstance(found, SampleCurvatures)
    shares = found.contributions[0, 0]
    order = np.argsort(-shares)[:4]
    assert said[0].startswith(f"epoch 2, view mixed: λ₁ = {found.values[0, 0]:.4g} ± ")
    assert [line.split()[0] for line in said[2:6]] == [str(found.index[i]) for i in order]
    assert said[6] == f"these 4 of {len(shares)} samples hold {shares[order].sum():.0%} of λ₁"
    row = next(line for line in said if line.startswith("curvature "))
    assert row.split()[1] == f"{auc(found.curvature[0, 0], found.flipped).mean:.3f}"
    assert sorted(path.name for path in out.iterdir()) == [
        "curvature_of_samples.csv", "curvature_of_samples.pdf", "curvature_of_samples.png", "samples.html",
    ]  # fmt: skip
    assert landscape(["verify", str(copy)]) == 0
    capsys.readouterr()
    assert landscape(["blame", str(copy), "--quiet"]) == 2
    assert "exists; choose another --name" in capsys.readouterr().err
    assert landscape(["blame", str(copy), "--out", str(out), "--name", "b", "--quiet"]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert landscape(["blame", str(copy), "--out", str(out), "--overwrite", "--quiet"]) == 0


def test_a_run_without_wrong_labels_has_no_second_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "clean.h5"
    assert landscape([*TRAIN, "--noise", "none", "--out", str(path)]) == 0
    capsys.readouterr()
    assert landscape(["blame", str(path), "--show", "2", "--out", str(tmp_path / "pictures"), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "AUC" not in said
    assert "these 2 of " in said


def test_every_eigenvector_has_a_table_of_its_own(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape(["blame", str(copy), "--top", "2", "--show", "3", "--quiet"]) == 0
    said = capsys.readouterr().out
    with store.open(copy) as file:
        found = file.record("diagnostics/samples")
    assert isinstance(found, SampleCurvatures)
    blocks = said.split("\n\n")
    assert len(blocks) == 3
    for pair, symbol in enumerate(("λ₁", "λ₂")):
        lines = blocks[pair].splitlines()
        shares = found.contributions[0, pair]
        order = np.argsort(-shares)[:3]
        assert lines[0].startswith(f"epoch 2, view mixed: {symbol} = {found.values[0, pair]:.4g} ± ")
        assert f"share of {symbol}" in lines[1]
        assert [line.split()[0] for line in lines[2:5]] == [str(found.index[i]) for i in order]
        assert lines[5] == f"these 3 of {len(shares)} samples hold {shares[order].sum():.0%} of {symbol}"
    assert blocks[2].startswith("score ")
