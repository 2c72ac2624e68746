"""``landscape import`` and the way back: every command on a run that was trained elsewhere."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import ncsam.records  # noqa: F401 - makes the kinds of record known that runs hold
from landscape import store
from landscape_cli.main import run as landscape
from ncsam import models
from ncsam.runs.run import Run

OTHERS = ["--model", "cnn", "--data", "digits", "--train-samples", "200", "--test-samples", "100"]
NOISE = ["--noise", "symmetric:0.4", "--seed-noise", "3"]


def weights(folder: Path, *names: str) -> list[str]:
    """Files of state dicts of networks that nobody here trained, one of a seed each."""
    files = [folder / name for name in names]
    for seed, file in enumerate(files):
        model = models.build("cnn", (1, 8, 8), 10, seed=seed)
        model.train()(torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(seed)))
        torch.save({"model": {f"module.{n}": t for n, t in model.state_dict().items()}}, file)
    return list(map(str, files))


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    files = weights(folder, "e10.pt", "e20.pt")
    out = folder / "run.h5"
    assert landscape(["import", "--weights", *files, "--checkpoints", "10,20", *OTHERS, *NOISE, "--out", str(out)]) == 0
    return out


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error; nothing is on stdout."""
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("landscape: error: ")]
    assert captured.out == ""
    assert len(lines) == 1, captured
    return lines[0]


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = weights(tmp_path, "w.pt")
    words = ["import", "--weights", file, *OTHERS, "--quiet", "--out", str(tmp_path / "run.h5")]
    assert landscape(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"{file} (from model, without the prefix module.)" in captured.out
    assert landscape([*words, "--overwrite", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["epochs"]) == ("run", [1])
    (origin,) = found["weights"]
    own = Run(tmp_path / "run.h5").objective(views=("test",)).evaluate()
    assert origin["test_accuracy"] == pytest.approx(own.metrics["accuracy"]["test"])
    assert f"{origin['test_accuracy']:.1%}" in captured.out
    with store.open(tmp_path / "run.h5") as opened:
        assert opened.attrs["command"] == ["landscape", *words, "--overwrite", "--json"]


def test_how_inputs_are_prepared_is_stated_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = tmp_path / "trained.h5"
    train = ["train", "--optimizer", "sgd", "--epochs", "8", "--normalization", "none", "--train-samples", "300"]
    assert landscape([*train, "--noise", "none", "--quiet", "--out", str(trained)]) == 0
    source = Run(trained)
    assert (source.config.normalization, source.attrs["inputs"]) == ("none", "pixels / 16")
    assert source.attrs["origins"]["normalization"] == "flag"
    assert (
        landscape(["export", str(trained), "--weights", "last", "--format", "pt", "--out", str(tmp_path / "w.pt")]) == 0
    )
    words = ["import", "--weights", str(tmp_path / "w.pt"), "--model", "mlp", "--data", "digits", "--quiet"]
    words += ["--train-samples", "300", "--val-fraction", "0.1"]
    capsys.readouterr()
    assert landscape([*words, "--normalization", "none", "--out", str(tmp_path / "same.h5")]) == 0
    captured = capsys.readouterr()
    assert "inputs: pixels / 16 (--normalization none)" in captured.out
    assert captured.err == ""
    same = Run(tmp_path / "same.h5")
    assert same.objective(views=("mixed",)).loss() == source.objective(views=("mixed",)).loss()
    assert landscape([*words, "--normalization", "0/0.005", "--out", str(tmp_path / "other.h5")]) == 0
    captured = capsys.readouterr()
    assert "inputs: pixels / 16, divided by 0.005 (--normalization 0/0.005)" in captured.out
    (line,) = captured.err.splitlines()
    assert line.startswith("landscape: warning: ")
    assert "than here (pixels / 16, divided by 0.005): state it with --normalization" in line
    assert landscape([*words, "--normalization", "imagenet", "--out", str(tmp_path / "no.h5")]) == 2
    assert "normalization 'imagenet' has 3 channels, the inputs of digits have 1" in said(capsys)


def test_every_measurement_and_figure_of_an_imported_run(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--views", "mixed,noisy_part", "--quiet"]
    path = str(copy)
    assert landscape(["hessian", path, "--checkpoints", "all", "--top", "2", "--trace", "4", *quick]) == 0
    assert landscape(["sharpness", path, "--sigma", "0.01", "--samples", "2", *quick]) == 0
    assert landscape(["surface", path, "--points", "5", *quick]) == 0
    assert landscape(["surface", path, "--plane", "--points", "3", *quick]) == 0
    assert landscape(["surface", path, "--directions", "trajectory", "--points", "3", "--name", "path", *quick]) == 0
    assert landscape(["diagnose", path, "--batches", "2", "--quiet"]) == 0
    assert landscape(["diagnose", path, "--bound", "--steps", "1", "--restarts", "1", "--quiet"]) == 0
    assert landscape(["verify", path]) == 0
    assert "ok; labels and weights/10, weights/20 match" in capsys.readouterr().out
    assert landscape(["inspect", path]) == 0
    assert "source = import" in capsys.readouterr().out
    assert store.verify(copy) == []
    figures = tmp_path / "figures"
    assert landscape(["figure", path, "--out", str(figures), "--formats", "png", "--quiet"]) == 0
    drawn = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    assert {"contours_mixed.png", "eigenvalues.png"} <= drawn
    assert "training.png" not in drawn
    assert landscape(["export", path, "hessian/default", "--format", "csv", "--out", str(tmp_path / "h.csv")]) == 0


def test_a_trained_and_an_imported_run_are_drawn_together(copy: Path, tmp_path: Path) -> None:
    trained = tmp_path / "trained.h5"
    train = [
        "train",
        "--optimizer",
        "sgd",
        "--epochs",
        "1",
        "--noise",
        "symmetric:0.4",
        "--quiet",
        "--out",
        str(trained),
    ]
    assert landscape([*train, "--train-samples", "200"]) == 0
    for path in (trained, copy):
        assert landscape(["surface", str(path), "--points", "3", "--views", "mixed", "--quiet"]) == 0
    out = tmp_path / "figures"
    assert landscape(["figure", str(trained), str(copy), "--out", str(out), "--formats", "png", "--quiet"]) == 0
    names = [path.name for path in out.iterdir()]
    assert any(name.startswith("training") for name in names)
    assert any(name.startswith("line") for name in names)


def test_measurements_are_those_of_a_run_that_was_trained_here(tmp_path: Path) -> None:
    """The same weights, labels and settings give the same numbers, whichever way they came."""
    trained, back = tmp_path / "trained.h5", tmp_path / "back.h5"
    settings = [
        "--noise",
        "pair:0.3",
        "--train-samples",
        "200",
        "--val-fraction",
        "0.1",
        "--seed",
        "4",
        "--data",
        "digits",
    ]
    train = ["train", "--model", "mlp", "--optimizer", "sgd", "--epochs", "2", "--checkpoints", "1"]
    assert landscape([*train, *settings, "--quiet", "--out", str(trained)]) == 0
    files = [str(tmp_path / "e1.pt"), str(tmp_path / "e2.safetensors")]
    pytest.importorskip("safetensors")
    assert landscape(["export", str(trained), "--weights", "1", "--format", "pt", "--out", files[0]]) == 0
    assert landscape(["export", str(trained), "--weights", "last", "--format", "safetensors", "--out", files[1]]) == 0
    assert landscape(["import", "--weights", *files, "--model", "mlp", *settings, "--quiet", "--out", str(back)]) == 0
    for path in (trained, back):
        assert landscape(["sharpness", str(path), "--checkpoints", "all", "--quiet"]) == 0
        assert landscape(["diagnose", str(path), "--batches", "2", "--quiet"]) == 0
    one, other = Run(trained), Run(back)
    np.testing.assert_array_equal(one.labels.observed, other.labels.observed)
    np.testing.assert_array_equal(one.labels.held_out, other.labels.held_out)
    for name, fields in (
        ("sharpness/default", ("sam", "adaptive", "loss")),
        ("diagnostics/default", ("full", "value")),
    ):
        for field in fields:
            np.testing.assert_array_equal(getattr(one.result(name), field), getattr(other.result(name), field))
    for epoch in (1, 2):
        a, b = one.model(epoch).state_dict(), other.model(epoch).state_dict()
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link"])
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_weights_never_replace_the_run_they_are_of(
    form: str, how: str, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, before = copy if how == "itself" else tmp_path / "other", copy.read_bytes()
    if how != "itself":
        (out.symlink_to if how == "symbolic link" else out.hardlink_to)(copy)
    assert (
        landscape(["export", str(copy), "--weights", "last", "--format", form, "--out", str(out), "--overwrite"]) == 2
    )
    assert "is the file that is read; choose another file for --out" in said(capsys)
    assert copy.read_bytes() == out.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["theory", "run.h5"], "run.h5: was imported, so it has no training rows"),
        (["theory", "."], "run.h5: was imported, so it has no training rows"),
        (["report", ".", "--out", "page.html"], "run.h5: was imported, so it has no training rows"),
        (["report", "run.h5", "--out", "page.html"], "is a run file, expected a study file"),
        (["figure", ".", "--out", "figures"], "run.h5: was imported, so it has no training rows"),
        (["figure", "run.h5", "--out", "figures"], "nothing to draw, without training rows or measurements"),
        (["export", "run.h5", "training", "--format", "csv"], "there is no 'training'"),
        (["train", "--out", "run.h5", "--epochs", "1", "--resume"], "the file exists"),
        (["export", "run.h5", "--weights", "15", "--format", "pt"], "no weights of epoch 15; it has 10, 20"),
        (
            ["export", "run.h5", "--weights", "last", "--format", "csv"],
            "--weights goes with --format pt or safetensors",
        ),
        (["export", "run.h5", "weights/10", "--format", "pt"], "--weights goes with --format pt or safetensors"),
        (["export", "run.h5", "--weights", "10", "--format", "pt", "--out", "there.pt"], "there.pt: exists"),
    ],
)
def test_what_an_imported_run_cannot_do_is_one_line(
    words: list[str],
    message: str,
    copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.pt").write_text("mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert landscape(words) in (1, 2)
    assert message in said(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert Path("there.pt").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--weights w.pt --data digits", "--model is missing"),
        ("--weights w.pt --model mlp --data digits", "does not fit model 'mlp': "),
        ("--weights w.pt --weights w.pt w.pt --model cnn --data digits", "'w.pt' follows several --weights"),
        ("--weights w.pt --checkpoints 1,2 --model cnn --data digits", "files of weights: 1, epochs: 2"),
        ("--weights w.pt --checkpoints last --model cnn --data digits", "expected epochs such as 10,20"),
        ("--weights w.pt --model cnm --data digits", "did you mean 'cnn'"),
        ("--weights w.pt --model cnn --data digit", "did you mean 'digits'"),
        ("--weights w.pt --model cnn --data digits --noise pair", "label noise 'pair': got 0 arguments"),
        ("--weights w.pt --model cnn --data digits --noise labels:none.npy", "none.npy: no such file"),
        ("--weights w.pt --model cnn --data digits --loss cee", "cee"),
        ("--weights none.pt --model cnn --data digits", "none.pt: no such file"),
        ("--weights . --model cnn --data digits", ".: is a directory"),
        ("--weights hf:none --data digits", "hf:none: there is no config.json"),
    ],
)
def test_what_cannot_be_imported_is_one_line(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weights(tmp_path, "w.pt")
    assert landscape(["import", *words.split(), "--quiet", "--out", "run.h5"]) == 2
    assert message in said(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_labels_from_a_file_are_those_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights(tmp_path, "w.pt")
    train = ["import", "--weights", "w.pt", "--model", "cnn", "--data", "digits", "--quiet"]
    assert landscape([*train, "--out", "clean.h5"]) == 0
    observed = (Run("clean.h5").labels.true + 1) % 10
    observed[:50] -= 1
    observed %= 10
    np.save("labels.npy", observed)
    assert landscape([*train, "--noise", "labels:labels.npy", "--out", "noisy.h5"]) == 0
    labels = Run("noisy.h5").labels
    np.testing.assert_array_equal(labels.observed, observed)
    assert labels.flipped.sum() == len(observed) - 50
    assert not Run("clean.h5").labels.flipped.any()


def test_factories_are_imported_from_the_command_line_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("own_flat")
    vars(module)["net"] = lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    monkeypatch.setitem(sys.modules, "own_flat", module)
    torch.save(module.net((1, 8, 8), 10).state_dict(), "w.pt")
    typed = ["import", "--weights", "w.pt", "--data", "digits", "--quiet", "--out", "run.h5"]
    Path("c.toml").write_text('model = "own_flat:net"\n')
    assert landscape([*typed, "--config", "c.toml"]) == 2
    assert "is from a file or the environment and would import and run code" in said(capsys)
    assert landscape([*typed, "--config", "c.toml", "--trust"]) == 0
    assert landscape([*typed, "--model", "own_flat:net", "--overwrite"]) == 0
    capsys.readouterr()
    assert landscape(["sharpness", "run.h5", "--views", "mixed", "--quiet"]) == 2
    assert "would import and run code" in said(capsys)
    assert landscape(["sharpness", "run.h5", "--views", "mixed", "--quiet", "--trust"]) == 0


def test_files_may_be_listed_in_a_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights(tmp_path, "a.pt", "b.pt")
    Path("c.toml").write_text('[import]\nweights = ["a.pt", "b.pt"]\nepochs = [3, 7]\nmodel = "cnn"\ndata = "digits"\n')
    assert landscape(["import", "--config", "c.toml", "--quiet", "--out", "run.h5"]) == 0
    assert Run("run.h5").epochs == [3, 7]


def test_a_damaged_imported_run_is_noticed(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = Path(shutil.copy(copy, tmp_path / "damaged.h5"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert landscape(["verify", str(damaged)]) == 1
    assert "ok" not in capsys.readouterr().out.split()
