"""The page on training says what is there: its code runs, and it names every column and every choice."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from landscape_cli.main import run as landscape
from landscape_cli.train import command
from ncsam.schema import Training

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore:projection keeps")
def test_the_pages_code_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "docs/training.md", "exec", dont_inherit=True), {"__name__": "page"})
            continue
        for line in block.splitlines():
            words = shlex.split(line)
            if words[0] != "landscape":
                subprocess.run(line, shell=True, check=True, env=os.environ)
            else:
                # Without CIFAR-10 the command is understood and refused for want of it.
                expected = 2 if "cifar10:DIR" in line else 0
                assert landscape([*words[1:], *(["--quiet"] if words[1] == "train" else [])]) == expected, line
    assert {path.name for path in tmp_path.glob("*")} == {"run.h5", "sam.toml", "sam.h5", "again.h5", "sam.jsonl"}


def test_every_column_has_its_meaning() -> None:
    table = PAGE.split("## What each column means")[1].split("##")[0]
    assert [name for name in Training.variables() if f"`{name}`" not in table] == []


def test_every_choice_it_names_exists() -> None:
    options = {name for parameter in command.params for name in parameter.opts} | {"--epochs"}
    named = set(re.findall(r"`(--[a-z-]+[a-z])(?= |`)", PAGE))
    assert len(named) > 12
    assert named <= options
