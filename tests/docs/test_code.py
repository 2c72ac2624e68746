"""The code of every page runs, each page from top to bottom in an empty folder, and prints what the page says.

A line ``print(…)  # → text`` promises that text; ``…`` in it stands for anything. Lines of ``sh`` blocks run on the
pages named here; on all others they are only understood, see ``test_commands.py``.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from landscape_cli.main import run as landscape
from tests.docs.pages import PAGES, Block, Page, page

# The pages whose commands run, and the files that they leave.
COMMANDS_RUN = {
    "docs/training.md": {"run.h5", "sam.toml", "sam.h5", "again.h5", "sam.jsonl"},
    "docs/spectra.md": {
        "run.h5",
        *(f"figures/{name}.png" for name in ("training", "eigenvalues", "density", "layers", "split")),
    },
}
FILES_LEFT = {**COMMANDS_RUN, "README.md": {"plane.h5"}}
WITHOUT_QUIET = {"inspect", "verify", "export"}


def run_python(source: Page, block: Block, namespace: dict[str, Any]) -> None:
    """Execute a block, and compare what it prints with what it promises."""
    printed = io.StringIO()
    code = "\n" * (block.line - 1) + block.code  # so that a traceback names the page's own line
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(source.path), "exec", dont_inherit=True), namespace)
    lines = iter(printed.getvalue().splitlines())
    for promised in re.findall(r"# → (.+)$", block.code, flags=re.MULTILINE):
        pattern = re.sub(r"([\[?*])", r"[\1]", promised.strip()).replace("…", "*")
        assert any(fnmatch.fnmatchcase(line.strip(), pattern) for line in lines), f"not printed: {promised}"


def run_commands(block: Block) -> None:
    """Run the lines of a block; data that are not shipped are asked for in vain."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["landscape"]:
            subprocess.run(line, shell=True, check=True)
            continue
        quiet = [] if words[1] in WITHOUT_QUIET or "list" in words else ["--quiet"]
        assert landscape([*words[1:], *quiet]) == (2 if "cifar10:DIR" in line else 0), line


@pytest.mark.filterwarnings("ignore:projection keeps")
@pytest.mark.parametrize(
    "source", [p for p in PAGES if p.code("python") or p.name in COMMANDS_RUN], ids=lambda source: source.name
)
def test_the_pages_code_runs(source: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in source.blocks:
        if block.language == "python":
            run_python(source, block, namespace)
        elif block.language == "sh" and source.name in COMMANDS_RUN:
            run_commands(block)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == FILES_LEFT.get(source.name, set())


def test_a_broken_promise_is_found(tmp_path: Path) -> None:
    source = page("docs/theory.md")
    run_python(source, Block("python", "print(1.25)  # → 1.…\nprint('[a]')  # → [a]\n", 1), {})
    with pytest.raises(AssertionError, match="not printed: 2"):
        run_python(source, Block("python", "print(1)  # → 2\n", 1), {})
    with pytest.raises(AssertionError, match="not printed: 1"):  # in this order
        run_python(source, Block("python", "print(1)  # → 2\nprint(2)  # → 1\n", 1), {})
