"""Factories by their names on the command line: ``package.module:factory``."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from typing import Any

from landscape._suggest import unknown

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_factory(name: str) -> bool:
    """Tell whether ``name`` is spelled ``package.module:factory``.

    >>> is_factory("my_lab.sets:flowers"), is_factory("cifar10:/data/cifar")
    (True, False)
    """
    return _FACTORY.fullmatch(name) is not None


def import_factory(name: str, *, trust: bool) -> Callable[..., Any]:
    """The callable that ``package.module:factory`` names.

    Importing runs the module's code, so it needs ``trust=True``: the caller's word that the name was given by the
    user and not read from a file that came from elsewhere.

    Raises:
        ValueError: the name is not spelled so, is not trusted, cannot be imported, or is not callable.

    >>> import_factory("collections:Counter", trust=True)
    <class 'collections.Counter'>
    """
    if not is_factory(name):
        raise ValueError(f"{name!r} is not spelled package.module:factory")
    if not trust:
        raise ValueError(
            f"{name!r} would import and run code; if you trust it, name it on the command line or add --trust "
            "(in Python: trust=True)"
        )
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import {name!r}: {error}; is its folder on PYTHONPATH?") from error
    except (Exception, SystemExit) as error:  # whatever the user's code does when it is imported
        raise ValueError(f"importing {name!r} raised {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not callable(factory):
        raise ValueError(f"{name!r} is a {type(factory).__name__}, expected a callable")
    return factory


def resolve_factory(what: str, name: str, known: Iterable[str], *, trust: bool) -> Callable[..., Any]:
    """The factory that ``name`` spells, where it is none of the ``known`` names.

    Raises:
        ValueError: as :func:`import_factory`; where the name may be misspelt, the message lists the known ones.
    """
    kind = name.partition(":")[0]
    if not is_factory(name):
        raise ValueError(unknown(what, kind, [*known, "package.module:factory"]))
    try:
        return import_factory(name, trust=trust)
    except ValueError as error:
        if "." in kind:
            raise
        raise ValueError(f"{unknown(what, kind, known)}; as a factory: {error}") from error
