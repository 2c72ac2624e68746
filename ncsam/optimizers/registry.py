"""The optimizers by name, with their options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from landscape._suggest import unknown
from ncsam.optimizers.mini_batch import Forward
from ncsam.optimizers.sharpness_aware import SharpnessAware
from ncsam.optimizers.variants import (
    NCSAM,
    SAM,
    CleanDirection,
    GStarOnly,
    Matched,
    NCSAMReleased,
    Oracle,
    Plain,
    RandomDirection,
    RandomPicks,
)


def _asam(
    model: nn.Module,
    base: Optimizer,
    rho: float = 0.5,
    *,
    eta: float = 0.01,
    forward: Forward | None = None,
    synchronised: bool = False,
) -> SAM:
    return SAM(model, base, rho, adaptive=True, eta=eta, forward=forward, synchronised=synchronised)


OPTIMIZERS: dict[str, Callable[..., SharpnessAware]] = {
    "sgd": Plain,
    "sam": SAM,
    "asam": _asam,
    "ncsam": NCSAM,
    "ncsam-released": NCSAMReleased,
    "clean-direction": CleanDirection,
    "matched": Matched,
    "random-direction": RandomDirection,
    "random-picks": RandomPicks,
    "gstar-only": GStarOnly,
    "oracle": Oracle,
}
"""Every arm of a comparison by its command-line name; each is called as ``(model, base, **options)``."""


def options_of(name: str) -> list[str]:
    """The options that the optimizer of that name takes beside model and base.

    >>> options_of("sam")
    ['rho', 'adaptive', 'eta', 'forward', 'synchronised']

    Raises:
        ValueError: no optimizer of that name.
    """
    make = OPTIMIZERS.get(name)
    if make is None:
        raise ValueError(unknown("optimizer", name, OPTIMIZERS))
    source = NCSAM if make is Matched else make
    return [option for option in inspect.signature(source).parameters if option not in ("model", "base")]


def resolve_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` completed by the optimizer's defaults: what a run records.

    Left out are ``forward``, ``seed`` and ``synchronised``, and the warm-up, which the training loop gives to every
    optimizer alike.

    >>> resolve_options("sam", {"rho": 0.1})
    {'rho': 0.1, 'adaptive': False, 'eta': 0.01}

    Raises:
        ValueError: no optimizer or option of that name.
    """
    known = options_of(name)
    for option in given:
        if option not in known:
            raise ValueError(unknown(f"option of {name}", option, known))
    make = OPTIMIZERS[name]
    parameters = inspect.signature(NCSAM if make is Matched else make).parameters
    defaults = {option: parameters[option].default for option in known}
    if make is Matched:
        defaults["project"] = False
    for option in ("forward", "seed", "synchronised", "warmup", "warmup_step"):
        defaults.pop(option, None)
    return {**defaults, **given}


def build(name: str, model: nn.Module, base: Optimizer, **options: Any) -> SharpnessAware:
    """The optimizer of that name, for example ``build("ncsam", model, base, rho=0.05, kappa=0.1)``.

    Raises:
        ValueError: an unknown name or option, with the known ones and the likeliest meant; an option out of range.

    >>> import torch
    >>> model = torch.nn.Linear(2, 3)
    >>> build("nscam", model, torch.optim.SGD(model.parameters(), lr=0.1))
    Traceback (most recent call last):
        ...
    ValueError: unknown optimizer 'nscam', did you mean 'ncsam'? known: sgd, sam, ...
    """
    resolve_options(name, options)
    return OPTIMIZERS[name](model, base, **options)
