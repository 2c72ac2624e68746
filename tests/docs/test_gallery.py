"""The README's gallery comes out of one command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_gallery_is_drawn_by_one_command(tmp_path: Path) -> None:
    out = tmp_path / "gallery.png"
    command = [sys.executable, str(ROOT / "docs" / "gallery.py"), "--out", str(out), "--epochs", "4", "--points", "3"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(out)]
    assert [p.name for p in tmp_path.iterdir()] == ["gallery.png"]
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_committed_gallery_is_small() -> None:
    assert 10_000 < (ROOT / "docs" / "gallery.png").stat().st_size < 400_000
