"""The page on reading spectra says what is there: its code runs, and what it names exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from landscape_cli import hessian, sharpness
from landscape_cli.main import run as landscape
from ncsam.schema import SharpnessTable, Spectrum

PAGE = (Path(__file__).parents[2] / "docs" / "spectra.md").read_text(encoding="utf-8")


def test_the_pages_code_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "page"}
    blocks = re.findall(r"```(sh|python)\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 9
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "docs/spectra.md", "exec", dont_inherit=True), namespace)
            continue
        for line in block.splitlines():
            assert landscape([*shlex.split(line)[1:], "--quiet"]) == 0, line
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"training", "eigenvalues", "density", "layers", "split"}


def test_every_field_and_option_it_names_exists() -> None:
    known = {*Spectrum.variables(), *SharpnessTable.variables()}
    for field in ("split_mismatch", "previous_cosines", "layer_values", "captured", "sam_rises", "errors", "seconds"):
        assert f"`{field}`" in PAGE
        assert field in known
    options = {name for command in (hessian, sharpness) for p in command.command.params for name in p.opts}
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) <= options
