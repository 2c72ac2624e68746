"""The nearest known name to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, nothing where none is near.

    >>> did_you_mean("hesian", ["hessian", "train"]), did_you_mean("x", ["hessian", "train"])
    (", did you mean 'hessian'?", '')
    """
    near = difflib.get_close_matches(got, list(known), 1)
    return f", did you mean {near[0]!r}?" if near else ""
