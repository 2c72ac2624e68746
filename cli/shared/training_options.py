"""Options that set a field of :class:`ncsam.TrainConfig`, with the type and the bounds that the field has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ncsam.training.config import COUNTS, FRACTIONS, NUMBERS, SEEDS, TrainConfig

from . import options

F = TypeVar("F", bound=Callable[..., Any])

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


def seeds(**names: str) -> Callable[[F], F]:
    """The options of seeds that ``--seed`` sets where they are not given; by name, what each of them drives."""
    given: dict[str, Any] = {"type": options.SEEDS, "show_default": "--seed"}
    return options.several(
        *(click.option(f"--seed-{n}", help=f"Seed of {text}.", **given) for n, text in names.items())
    )


def resolved_seeds(seed: int, choices: dict[str, Any]) -> dict[str, int]:
    """Every seed of a training, taken out of the choices that :func:`seeds` gave; ``seed`` where none was given."""
    found = {name: choices.pop(f"seed_{name}", None) for name in SEEDS}
    return {name: seed if value is None else value for name, value in found.items()}


SAMPLES: Callable[[F], F] = options.several(
    setting("train_samples", "Use only the first N training samples.", show_default="all"),
    setting("test_samples", "Use only the first N test samples.", show_default="all"),
)
NORMALIZATION: Callable[[F], F] = setting(
    "normalization",
    "How pixels are prepared: own (mean and deviation of the training pixels), none (divided by 255), imagenet or "
    "MEANS/DEVIATIONS such as 0.5/0.25.",
)
STATE_DICT: Callable[[F], F] = options.several(
    click.option("--key", show_default="the usual ones", help="Where in the files the state dict lies: model or a/b."),
    click.option(
        "--ignore", metavar="PATTERNS", callback=options.split, default="", help="Names in the files to leave out."
    ),
)
"""Options of what lies where in files of weights."""
