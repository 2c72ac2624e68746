"""What the README says is true beside its code and links (tests/docs): its table of commands, and CI runs its line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from landscape_cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_table_names_every_command_and_no_other() -> None:
    assert set(re.findall(r"^\| `landscape (\w+)", README, re.MULTILINE)) == set(COMMANDS)


def test_ci_finds_the_test_line() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    extract = re.search(r"line=\$\((.*)\)\n", script)
    assert extract is not None
    found = subprocess.run(["bash", "-c", extract[1]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.strip() in [block.strip() for block in blocks("sh")]
    assert "pytest" in found
    assert found.count("\n") == 1
