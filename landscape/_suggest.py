"""Unknown names, told with the nearest known one, and former names of arguments, which still work."""

from __future__ import annotations

import difflib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

REMOVED_IN = "0.3.0"
"""Version that removes what is deprecated now."""


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


def former_arguments(
    *, renamed: Mapping[str, str] | None = None, positional: Sequence[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that calls as they used to be written still work, with a ``DeprecationWarning``.

    Args:
        renamed: present name of each former one.
        positional: arguments that are keyword-only now, in the order in which they followed those that are not.

    >>> @former_arguments(renamed={"tolerance": "tol"}, positional=["tol"])
    ... def solve(a, *, tol=0.1):
    ...     return a, tol
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     found = solve(1, tolerance=0.5), solve(2, 0.3)
    >>> found, [str(warning.message) for warning in told]  # doctest: +ELLIPSIS
    (((1, 0.5), (2, 0.3)), ["solve: 'tolerance' is now called 'tol'; ...", "solve: give 'tol' by name; ..."])
    """
    names = dict(renamed or {})

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        count = sum(p.kind in by_place for p in inspect.signature(function).parameters.values())
        called = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def accepting(*args: Any, **kwargs: Any) -> R:
            for old in names.keys() & kwargs.keys():
                new = names[old]
                if new in kwargs:
                    raise TypeError(f"{called}: {old!r} is the former name of {new!r}; give {new!r} alone")
                _warn(f"{called}: {old!r} is now called {new!r}; {REMOVED_IN} removes the former name")
                kwargs[new] = kwargs.pop(old)
            extra = args[count:]
            if extra and len(extra) <= len(positional):
                given = dict(zip(positional, extra, strict=False))
                if twice := sorted(given.keys() & kwargs.keys()):
                    raise TypeError(f"{called}: got several values for {twice[0]!r}")
                listed = ", ".join(map(repr, given))
                _warn(f"{called}: give {listed} by name; {REMOVED_IN} no longer takes it by its place")
                args, kwargs = args[:count], {**kwargs, **given}
            return function(*args, **kwargs)

        return accepting

    return decorate


def _warn(message: str) -> None:
    warnings.warn(message, DeprecationWarning, stacklevel=3)
