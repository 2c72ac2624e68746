"""One short run, trained once and copied for every test that changes it."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest

from ncsam import Run, TrainConfig
from ncsam.runs.train import train_run

CONFIG = TrainConfig(optimizer="sam", options={"rho": 0.05}, epochs=6, weight_decay=0.0, checkpoints=(2,))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_run(CONFIG, path)
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    shutil.copy(trained, tmp_path / "run.h5")
    return Run(tmp_path / "run.h5")
