"""Optimizers by their command-line names: the options that each takes, and building one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from landscape._suggest import unknown
from ncsam.optimizers.options import COMMON, options_in
from ncsam.optimizers.sharpness_aware import SharpnessAware
from ncsam.optimizers.variants import OPTIMIZERS, Variant


def options_of(name: str) -> list[str]:
    """The options that the optimizer of that name takes beside model and base.

    Of a ``package.module:factory``, which is not imported for this, none are known.

    >>> options_of("sam")
    ['rho', 'adaptive', 'eta', 'forward', 'synchronised']

    Raises:
        ValueError: no optimizer of that name.
    """
    if _is_own(name):
        return []
    return [option for option in _variant(name).signature.parameters if option not in ("model", "base")]


def resolve_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` completed by the optimizer's defaults: what a run records.

    Left out are ``forward``, ``seed`` and ``synchronised``; the warm-up, which the training loop handles alike for all
    optimizers; and the norms of a replay, which come from another run. The options of a ``package.module:factory`` are
    taken as they are given.

    >>> resolve_options("sam", {"rho": 0.1})
    {'rho': 0.1, 'adaptive': False, 'eta': 0.01}

    Raises:
        ValueError: no optimizer or option of that name.
    """
    if _is_own(name):
        return dict(given)
    _check_known(name, given)
    own = options_in(_variant(name).prototype)
    left_out = (*COMMON, "warmup", "warmup_step", "norms")
    return {**{option: o.default for option, o in own.items() if option not in left_out}, **given}


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
    _check_known(name, options)
    return _variant(name)(model, base, **options)


def _is_own(name: str) -> bool:
    return ":" in name and name not in OPTIMIZERS


def _variant(name: str) -> type[Variant]:
    if name not in OPTIMIZERS:
        raise ValueError(unknown("optimizer", name, OPTIMIZERS))
    return OPTIMIZERS[name]


def _check_known(name: str, given: Iterable[str]) -> None:
    known = options_of(name)
    for option in given:
        if option not in known:
            raise ValueError(unknown(f"option of {name}", option, known))
