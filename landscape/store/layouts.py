"""Layouts: the contents that a kind of file holds, and where; declared by the package whose files they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

ANY = "*"


@dataclass(frozen=True)
class Layout:
    """Group paths, or patterns such as ``weights/*``, and what lies there: a kind of record, "arrays", or "*" (any)."""

    required: Mapping[str, str]
    allowed: Mapping[str, str]


_LAYOUTS: dict[str, Layout] = {}


def declare(kind: str, *, required: Mapping[str, str], allowed: Mapping[str, str], source: str | None = None) -> None:
    """Say what a file of this kind holds; `verify` checks it, and so do writes within ``checked_writes()``.

    Args:
        source: declare it of those files alone whose attribute ``source`` says this.

    >>> declare("example", required={"labels": "labels"}, allowed={"weights/*": "arrays", "surface/*": "*"})
    >>> problems("example", {"weights/last": "line"})
    ["weights/last holds 'line', expected 'arrays'", "labels is missing, expected 'labels'"]
    """
    _LAYOUTS[kind if source is None else f"{kind}/{source}"] = Layout(dict(required), dict(allowed))


def problems(kind: str, contents: Mapping[str, str], source: object = None) -> list[str]:
    """List where the contents of a file (kind of content by path) depart from its layout; none for undeclared kinds.

    Args:
        source: the file's attribute of that name, if it has one.
    """
    layout = _LAYOUTS.get(f"{kind}/{source}") or _LAYOUTS.get(kind)
    if layout is None:
        return []
    expected = {**layout.allowed, **layout.required}
    found = []
    for path, content in contents.items():
        kinds = [wanted for pattern, wanted in expected.items() if fnmatch.fnmatchcase(path, pattern)]
        if not kinds:
            found.append(f"{path} has no place in a file of kind {kind!r}")
        elif ANY not in kinds and content not in kinds:
            found.append(f"{path} holds {content!r}, expected {' or '.join(map(repr, kinds))}")
    for pattern, wanted in layout.required.items():
        if not any(fnmatch.fnmatchcase(path, pattern) for path in contents):
            found.append(f"{pattern} is missing, expected {wanted!r}")
    return found
