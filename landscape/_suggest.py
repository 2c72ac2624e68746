"""The nearest known name to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(got: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``got``; None where none is near.

    >>> nearest("hesian", ["hessian", "train"])
    'hessian'
    """
    return next(iter(difflib.get_close_matches(got, list(known), 1)), None)


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, nothing where none is near.

    >>> did_you_mean("hesian", ["hessian", "train"]), did_you_mean("x", ["hessian", "train"])
    (", did you mean 'hessian'?", '')
    """
    near = nearest(got, known)
    return "" if near is None else f", did you mean {near!r}?"


def unknown(what: str, got: str, known: Iterable[str]) -> str:
    """One line for a name nobody knows: what was got, what it was probably meant to be, and all that is known.

    >>> unknown("model", "resnet8", ["mlp", "resnet18"])
    "unknown model 'resnet8', did you mean 'resnet18'? known: mlp, resnet18"
    """
    names = list(known)
    return f"unknown {what} {got!r}{did_you_mean(got, names) or ';'} known: {', '.join(names)}"
