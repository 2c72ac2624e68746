"""Messages about names that are not known, which suggest the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(got: str, known: Iterable[str], mark: str = ",") -> str:
    """Write the end of a message about an unknown name: the nearest known one, nothing where none is near.

    ``mark`` stands before it.

    >>> did_you_mean("hesian", ["hessian", "train"]), did_you_mean("x", ["hessian", "train"])
    (", did you mean 'hessian'?", '')
    """
    near = difflib.get_close_matches(got, list(known), 1)
    return f"{mark} did you mean {near[0]!r}?" if near else ""


def unknown(what: str, got: str, known: Iterable[str]) -> str:
    """Write the message about an unknown name: what was got, what it was probably meant to be, and all known names.

    >>> unknown("model", "resnet8", ["mlp", "resnet18"])
    "unknown model 'resnet8', did you mean 'resnet18'? known: mlp, resnet18"
    """
    names = list(known)
    return f"unknown {what} {got!r}{did_you_mean(got, names) or ';'} known: {', '.join(names)}"
