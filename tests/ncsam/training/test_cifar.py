"""Real CIFAR-10 images with the small CNN under every optimizer; skipped where the images are not at hand."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from landscape_cli.main import run as landscape
from ncsam import Run
from ncsam.optimizers import OPTIMIZERS

SCRIPT = Path(__file__).parents[4] / "shared" / "data" / "unpack_cifar10.py"
ABSENT = [] if SCRIPT.exists() else ["the images (../shared/data beside the repository)"]
ABSENT += [] if importlib.util.find_spec("PIL") else ["Pillow (extra `images`)"]

pytestmark = [
    pytest.mark.skipif(bool(ABSENT), reason=f"not here: {' and '.join(ABSENT)}"),
    pytest.mark.filterwarnings("ignore:projection keeps"),
]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar")
    command = [sys.executable, str(SCRIPT), str(folder), "--train", "2000", "--test", "200"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def train(cifar: Path, out: Path, optimizer: str, *more: str) -> Run:
    arguments = ["train", "--data", f"cifar10:{cifar}", "--model", "cnn", "--optimizer", optimizer, "--augment"]
    assert landscape([*arguments, "--out", str(out), "--quiet", *more]) == 0
    return Run(out)


@pytest.mark.parametrize("optimizer", ["sgd", "ncsam"])
def test_one_epoch_on_a_few_images(cifar: Path, tmp_path: Path, optimizer: str) -> None:
    run = train(cifar, tmp_path / "run.h5", optimizer, "--epochs", "1", "--train-samples", "256", "--warmup", "0")
    assert len(run.labels.true) == 256
    assert np.isfinite(run.training.loss).all()
    evaluated = run.objective(views=("mixed", "test")).evaluate()  # read again, from pixels
    assert evaluated.loss["test"] == pytest.approx(run.training.loss[-1, -1], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_thousand_images_train_under_every_optimizer(cifar: Path, tmp_path: Path, optimizer: str) -> None:
    options = ["--rho", "0.05"] if optimizer not in ("sgd", "asam") else []
    run = train(cifar, tmp_path / "run.h5", optimizer, "--epochs", "8", "--batch-size", "64", *options)
    record = run.training
    assert len(run.labels.true) == 2000
    assert (record.skipped == 0).all()
    assert (record.perturbation_norm[2:] > 0).all() == (optimizer != "sgd")
    assert record.running_loss[-1] < record.running_loss[0]
    assert record.of_view("true_labels")[-1] > 0.2  # twice chance, with 40 % of the labels wrong
