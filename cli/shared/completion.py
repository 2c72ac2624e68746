"""Completion of option values in the shell, beside the words of choices and files.

Names are looked up when they are asked for; what cannot be read completes to nothing.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

Words = Callable[[click.Context], Iterable[str]]
Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
_GROUPS = {
    "hessian": "hessian",
    "sharpness": "sharpness",
    "surface": "surface",
    "diagnose": "diagnostics",
    "blame": "diagnostics",
}


def one_of(words: Words) -> Completer:
    """Complete a value that is one of ``words``."""

    def complete(ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in words(ctx) if word.startswith(begun)]

    return complete


def list_of(words: Words) -> Completer:
    """Complete the last entry of a comma-separated list of ``words``; those that are in it already are left out."""

    def complete(ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
        before, comma, last = begun.rpartition(",")
        given = before.split(",")
        return [
            CompletionItem(f"{before}{comma}{word}")
            for word in words(ctx)
            if word.startswith(last) and word not in given
        ]

    return complete


def _named_in(module: str, name: str, *before: str) -> Words:
    """Words, and after them the names in a module's table, which is imported when it is asked for."""
    return lambda _ctx: (*before, *getattr(importlib.import_module(module), name))


def _checkpoints(ctx: click.Context) -> Iterable[str]:
    epochs = [name.removeprefix("weights/") for name in _held(ctx, "weights")]
    return ("all", "last", *sorted(epochs, key=lambda epoch: (len(epoch), epoch)))


def _names(ctx: click.Context) -> Iterable[str]:
    group = _GROUPS[str(ctx.command.name)]
    return [name.removeprefix(f"{group}/") for name in _held(ctx, group)]


def _results(ctx: click.Context) -> Iterable[str]:
    return _held(ctx, "")


def _held(ctx: click.Context, group: str) -> list[str]:
    """Names in the file that is the command's argument, in a group or all; none where it cannot be read."""
    from landscape import store

    path = ctx.params.get("run") or ctx.params.get("file")
    if path is None:  # arguments before an option without a value are not parsed
        path = next(iter(ctx.args), None)
    if path is not None:
        with contextlib.suppress(store.StoreError, OSError, ValueError), store.open(path) as file:
            return file.names(group)
    return []


def _noise(_ctx: click.Context) -> Iterable[str]:
    from ncsam.noise.spelling import KINDS

    return [kind if kind == "none" else f"{kind}:" for kind in KINDS]


def _sweep_presets(_ctx: click.Context) -> Iterable[str]:
    from ncsam.sweep import presets

    return ("list", *presets())


_OPTIMIZERS = _named_in("ncsam.optimizers", "OPTIMIZERS")
VIEWS = list_of(_named_in("ncsam.training.problem", "VIEWS", "all"))
CHECKPOINTS = list_of(_checkpoints)
CHECKPOINT = one_of(_checkpoints)
NAMES = one_of(_names)
RESULTS = one_of(_results)
OPTIMIZER = one_of(_OPTIMIZERS)
OPTIMIZERS = list_of(_OPTIMIZERS)
MODEL = one_of(_named_in("ncsam.models", "MODELS"))
NOISE = one_of(_noise)
TRAIN_PRESET = one_of(_named_in("ncsam.training.presets", "PRESETS", "list"))
SWEEP_PRESET = one_of(_sweep_presets)
