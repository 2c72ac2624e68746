"""The options of a perturbation, as keywords of its optimizer: the fields of its dataclass and of those in it."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, get_type_hints

from torch import nn
from torch.optim import Optimizer

from ncsam.optimizers.mini_batch import Forward

T = TypeVar("T")

COMMON = {
    "forward": "``(model, x) -> outputs`` where that is not ``model(x)``, for example for batches that are dicts.",
    "seed": "of the optimizer's own random numbers; torch's global state is never touched.",
    "synchronised": "under DDP, perturb all ranks alike, as one process with the whole batch would.",
}
"""The options that the optimizer takes itself, whatever its perturbation, and what they mean."""


class Option(NamedTuple):
    """One option: its default, its type, what it means, and whether it may be given without its name."""

    default: Any
    type: Any
    meaning: str
    positional: bool


def option(default: Any, meaning: str) -> Any:
    """Declare a field that is an option, with what ``help()`` says of it."""
    return dataclasses.field(default=default, metadata={"meaning": meaning})


def fixed(default: Any) -> Any:
    """Declare a field that tells variants apart and is no option of any of them."""
    return dataclasses.field(default=default, metadata={"fixed": True})


def is_finite(value: object) -> bool:
    """Tell whether the value of an option is a finite number, and not its spelling.

    >>> is_finite(0.05), is_finite("0.05"), is_finite(float("inf"))
    (True, False, False)
    """
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def options_in(prototype: Any) -> dict[str, Option]:
    """The options of a perturbation by name; their defaults are the values that ``prototype`` has.

    A field that holds a dataclass itself, such as the estimator of the noise gradient, stands for its own fields.

    Raises:
        TypeError: ``prototype`` is no dataclass instance, or two of the dataclasses in it have a field of one name.
    """
    found: dict[str, Option] = {}
    for name, given in _fields(prototype, positional=True):
        if name in found or name in COMMON:
            raise TypeError(f"{type(prototype).__name__} has two options {name!r}; rename one of the fields")
        found[name] = given
    return found


def _fields(holder: Any, positional: bool) -> Iterator[tuple[str, Option]]:
    if not dataclasses.is_dataclass(holder) or isinstance(holder, type):
        raise TypeError(f"{holder!r} is no dataclass instance, so its options are unknown; decorate its class")
    types = get_type_hints(type(holder))
    for field in dataclasses.fields(holder):
        value = getattr(holder, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, positional and not field.kw_only)
        elif not field.metadata.get("fixed") and field.init:
            meaning = field.metadata.get("meaning", "")
            yield field.name, Option(value, types[field.name], meaning, positional and not field.kw_only)


def with_options(prototype: T, given: Mapping[str, Any]) -> T:
    """``prototype`` with other values of its options; those of the dataclasses in it are given alike.

    >>> from ncsam.optimizers.perturbations import Compensated
    >>> changed = with_options(Compensated(), {"kappa": 0.3, "flip_ratio": 0.2})
    >>> changed.kappa, changed.noise.flip_ratio
    (0.3, 0.2)
    """
    changed = {}
    for field in dataclasses.fields(prototype):  # type: ignore[arg-type]
        value = getattr(prototype, field.name)
        if dataclasses.is_dataclass(value):
            changed[field.name] = with_options(value, given)
        elif field.name in given and not field.metadata.get("fixed"):
            changed[field.name] = given[field.name]
    return dataclasses.replace(prototype, **changed)  # type: ignore[type-var]


def by_place(prototype: Any) -> tuple[str, ...]:
    """Options that could be given without their names before version 0.2; of these, only the first still can.

    >>> from ncsam.optimizers.perturbations import Compensated
    >>> by_place(Compensated())
    ('rho', 'kappa')
    """
    return tuple(name for name, o in options_in(prototype).items() if o.positional)


def signature_of(prototype: Any, draws: bool) -> inspect.Signature:
    """Signature of the constructor of an optimizer with that perturbation; ``seed`` if the perturbation ``draws``."""
    given, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("model", given, annotation=nn.Module),
        inspect.Parameter("base", given, annotation=Optimizer),
    ]
    first = by_place(prototype)[:1]
    options = sorted(options_in(prototype).items(), key=lambda item: item[0] not in first)
    for name, o in options:
        kind = given if name in first else named
        parameters.append(inspect.Parameter(name, kind, default=o.default, annotation=o.type))
    parameters.append(inspect.Parameter("forward", named, default=None, annotation=Forward | None))
    if draws:
        parameters.append(inspect.Parameter("seed", named, default=0, annotation=int))
    parameters.append(inspect.Parameter("synchronised", named, default=False, annotation=bool))
    return inspect.Signature(parameters)


def documented(doc: str, prototype: Any, names: Iterable[str]) -> str:
    """A docstring followed by what each of the options ``names`` means, before its ``Raises`` and examples."""
    options = options_in(prototype)
    meanings = {name: options[name].meaning if name in options else COMMON[name] for name in names}
    section = "\n".join(["Args:", *(f"    {name}: {meaning}" for name, meaning in meanings.items() if meaning)])
    text = inspect.cleandoc(doc)
    ends = [i for mark in ("\n\nRaises:", "\n\n>>>") if (i := text.find(mark)) >= 0]
    end = min(ends, default=len(text))
    return f"{text[:end]}\n\n{section}{text[end:]}\n"
