"""The code of the documentation imports public names alone: those that a package lists in its ``__all__``."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.docs.pages import PAGES, Page

HOUSE = ("landscape", "ncsam")


def public(module: str) -> bool:
    """True for the two packages, and for packages directly in them that list their names."""
    package, _, rest = module.partition(".")
    return package in HOUSE and "." not in rest and hasattr(importlib.import_module(module), "__all__")


def refused(code: str) -> Iterator[str]:
    """Names of the house that code imports, or reaches through a module, and that are not public."""
    found = ast.parse(code)
    for node in ast.walk(found):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in HOUSE:
            module = str(node.module)
            names = importlib.import_module(module).__all__ if public(module) else ()
            yield from (f"{module}.{alias.name}" for alias in node.names if alias.name not in names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in HOUSE and not public(alias.name):
                    yield alias.name
        elif isinstance(node, ast.Attribute):
            owner = _module(ast.unparse(node.value))
            if owner is not None and node.attr not in _names(owner):
                yield ast.unparse(node)


def _module(name: str) -> ModuleType | None:
    if name.split(".")[0] not in HOUSE:
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _names(module: ModuleType) -> list[str]:
    listed: list[str] = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    return listed


@pytest.mark.parametrize("page", [p for p in PAGES if p.code("python")], ids=lambda page: page.name)
def test_documented_code_uses_public_names(page: Page) -> None:
    assert [name for block in page.code("python") for name in refused(block.code)] == []


def test_a_deep_import_would_be_found() -> None:
    code = "from ncsam.study.table import table_of\nfrom landscape import Objective, _files\nimport landscape.ranks\n"
    assert list(refused(code)) == ["ncsam.study.table.table_of", "landscape._files", "landscape.ranks"]
    assert list(refused("import landscape\nlandscape.load('x')\nlandscape.surfaces")) == ["landscape.surfaces"]
    assert list(refused("from ncsam.records import density_at\nimport torch\ntorch._C")) == []
