"""The code of every page runs, each page from top to bottom in an empty folder, and prints what the page says.

A line ``print(…)  # → text`` promises that text; ``…`` in it stands for anything. Lines of ``sh`` blocks run on the
pages named here; on all others, and in ``bash`` blocks, they are only understood, see ``test_commands.py``.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from landscape_cli.main import run as landscape
from ncsam.optimizers import OPTIMIZERS
from tests.docs.pages import PAGES, Block, Page, page
from tests.ncsam.sweep.small import without_processes

# The pages whose commands run, and the files that they leave.
COMMANDS_RUN = {
    "docs/training.md": {"run.h5", "sam.toml", "sam.h5", "again.h5", "sam.jsonl"},
    "docs/method.md": {"ncsam.h5", "replay.h5"},
    "docs/extending.md": {"my_steps.py", "clipped.h5", "own.toml", "own/*", "my_lab.py", "rings.h5", "norms.h5"},
    "docs/import.md": {"my_net.py", "epoch*.pth", "mine.h5", "back.pth", "again.h5", "again.pth"},
    "docs/audit.md": {"my_net.py", "before.pth", "after.pth", "audit.html", "audit.json", "audit.h5"},
    "docs/first-run.md": {"sgd.h5", "ncsam.h5", "planes.png", "figures/*"},
    "docs/spectra.md": {
        "run.h5",
        *(
            f"figures/{name}.{end}"
            for name in ("training", "eigenvalues", "density", "layers", "split")
            for end in ("csv", "png")
        ),
    },
}
FILES_LEFT = {
    **COMMANDS_RUN,
    "README.md": {"plane.h5", "plane.png"},
    "docs/choose-rho.md": {"rho-*.h5"},
    "docs/index.md": {"both.png"},
    "docs/analyse.md": {"plane.png", "density.png", "planes.png"},
    **{
        page.name: {f"{page.path.stem}.png"}
        for page in PAGES
        if page.name.startswith("docs/gallery/")
        if page.code("python")
    },
}
SLOW = {"docs/first-run.md"}
# What is added to a page's commands: numbers that no text of the page speaks of need not be precise.
QUICKER = {("docs/import.md", "hessian"): ["--tol", "0.5", "--trace", "2"]}
# Pages with tests of their own: tests/notebooks/test_own_model_page.py tells apart what is the user's and what is
# added; tests/distributed/test_page.py starts several processes; tests/wild/test_trainers.py has the trainers.
OF_ITS_OWN = {"docs/own-model.md", "docs/cluster.md", "docs/trainers.md"}


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


def run_commands(block: Block, name: str) -> None:
    """Run the lines of a block; data that are not shipped are asked for in vain."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("PYTHONPATH=. "), comments=True)  # the page's folder is on the path
        if words[:1] != ["landscape"]:
            subprocess.run(line, shell=True, check=True)
            continue
        quiet = [] if "--quiet" in words or "list" in words else ["--quiet"]
        quick = QUICKER.get((name, words[1]), [])
        assert landscape([*words[1:], *quick, *quiet]) == (2 if "cifar10:DIR" in line else 0), line


@pytest.fixture(autouse=True)
def registry_comes_back() -> Iterator[None]:
    """A page may register an optimizer of its own; the other tests know those of the package."""
    with mock.patch.dict(OPTIMIZERS):
        yield


@pytest.mark.filterwarnings("ignore:projection keeps")
@pytest.mark.parametrize(
    "source",
    [
        pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.name in SLOW else [])
        for p in PAGES
        if (p.code("python") or p.name in COMMANDS_RUN) and p.name not in OF_ITS_OWN
    ],
)
def test_the_pages_code_runs(source: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    without_processes(monkeypatch)
    monkeypatch.syspath_prepend(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in source.blocks:
        if block.language == "python":
            run_python(source, block, namespace)
        elif block.language == "sh" and source.name in COMMANDS_RUN:
            run_commands(block, source.name)
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(tmp_path))]:
        del sys.modules[name]
    files = (path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    left = {path.as_posix() for path in files if path.suffix != ".pyc"}
    expected = FILES_LEFT.get(source.name, set())
    assert [name for name in left if not any(fnmatch.fnmatch(name, pattern) for pattern in expected)] == []
    assert [pattern for pattern in expected if not fnmatch.filter(left, pattern)] == []


def test_a_broken_promise_is_found(tmp_path: Path) -> None:
    source = page("docs/theory.md")
    run_python(source, Block("python", "print(1.25)  # → 1.…\nprint('[a]')  # → [a]\n", 1), {})
    with pytest.raises(AssertionError, match="not printed: 2"):
        run_python(source, Block("python", "print(1)  # → 2\n", 1), {})
    with pytest.raises(AssertionError, match="not printed: 1"):  # in this order
        run_python(source, Block("python", "print(1)  # → 2\nprint(2)  # → 1\n", 1), {})
