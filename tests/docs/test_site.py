"""The site builds without a warning, needs nothing from elsewhere, and has a reference of every public name."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, page

PACKAGES = ["landscape", "landscape.store", "landscape.figures", "ncsam", "ncsam.noise", "ncsam.data"]


def documented() -> list[object]:
    """What the pages of the reference name."""
    found = []
    for name in ("landscape", "store", "figures", "ncsam"):
        text, current = page(f"docs/api/{name}.md").text, ""
        for kind, what in re.findall(r"^\.\. (currentmodule|auto\w+|data):: (\S+)", text, flags=re.MULTILINE):
            if kind == "currentmodule":
                current = what
                continue
            module, _, attribute = (what if "." in what else f"{current}.{what}").rpartition(".")
            found.append(getattr(importlib.import_module(module), attribute))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_names_what_is_public(package: str) -> None:
    module, named = importlib.import_module(package), documented()
    public = {name: getattr(module, name) for name in module.__all__ if not name.startswith("__")}
    missing = [n for n, value in public.items() if not inspect.ismodule(value) and not any(value is d for d in named)]
    assert missing == [], f"name them on the page of docs/api that {package} has"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return out


@pytest.mark.slow
def test_the_site_is_whole_without_a_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for path in pages:
        html = path.read_text(encoding="utf-8")
        for target in re.findall(r'<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)="([^"]+)"', html):
            assert not target.startswith(("http:", "https:", "//")), f"{path.name} fetches {target}"
            if target.startswith("data:"):
                continue
            local = target.partition("?")[0].partition("#")[0]
            assert (path.parent / local).exists(), f"{path.name} lacks {target}"
        for style in re.findall(r"url\((?!data:)[\"']?(https?:[^)]*)\)", html):
            pytest.fail(f"{path.name} fetches {style}")


@pytest.mark.slow
def test_formulas_and_docstrings_arrive(site: Path) -> None:
    formulas = (site / "formulas.html").read_text(encoding="utf-8")
    assert formulas.count("<math") > 15
    assert [m for m in re.findall(r"<math.*?</math>", formulas, re.DOTALL) if "\\" in m] == []
    reference = (site / "api" / "landscape.html").read_text(encoding="utf-8")
    for wanted in ('id="landscape.top_eigenpairs"', "residual norm |Hv - lambda v|", "in loss / parameter^2"):
        assert wanted in reference
    assert not re.search(r":(?:class|func|meth|mod):`", reference)
