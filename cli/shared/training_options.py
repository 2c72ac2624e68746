"""Options that set a field of :class:`ncsam.TrainConfig`, with the type and the bounds that the field has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ncsam.training.config import COUNTS, FRACTIONS, NUMBERS, TrainConfig

from . import options

F = TypeVar("F", bound=Callable[..., Any])

NORMALIZATION = (
    "How pixels are prepared: own (mean and deviation of the training pixels), none (divided by 255), imagenet or "
    "MEANS/DEVIATIONS such as 0.5/0.25."
)
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}


def setting(name: str, text: str, **more: Any) -> Callable[[F], F]:
    """The option of a field, which has the field's default; ``text`` is its help, ``more`` what click takes besides."""
    default = _DEFAULTS[name]
    given = {"type": _type(name), "default": default, "show_default": True, **more}
    flag = f"--{name.replace('_', '-')}"
    return click.option(f"{flag}/--no-{flag[2:]}" if default is False else flag, help=text, **given)


def override(name: str, text: str, **more: Any) -> Callable[[F], F]:
    """The option of a field without a default: what is not given is left as it is."""
    return setting(name, text, default=None, show_default=False, **more)


def _type(name: str) -> click.ParamType | None:
    """Type of a field's option; none leaves it to click."""
    if name in COUNTS:
        return options.count(*COUNTS[name])
    if name in NUMBERS:
        return click.FloatRange(*NUMBERS[name])
    return options.BELOW_1 if name in FRACTIONS else None
