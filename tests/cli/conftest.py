"""What the tests of several commands share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(run_file: Path, tmp_path: Path) -> Path:
    """A run file to measure on; each module has a ``run_file`` of its own."""
    return Path(shutil.copy(run_file, tmp_path / "run.h5"))
