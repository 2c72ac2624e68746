"""Public names of a package, listed once in a stub beside it and loaded on first use."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazily(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package, from the imports of its ``__init__.pyi``.

    The stub is what type checkers read, and the only list of the names: ``from package.module import name as name``,
    and ``from package import module as module`` for modules that are public as a whole.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.

    >>> import landscape
    >>> load, names, public = lazily("landscape", landscape.__file__)
    >>> load("Status") is landscape.Status, "Status" in names(), "Status" in public
    (True, True, True)
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: node.module for node in imports for alias in node.names}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if homes[name] == package:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(str(homes[name])), name)

    return load, lambda: sorted(homes), sorted(homes)
