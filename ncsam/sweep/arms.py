"""The arms of a sweep and what is tuned for them, read from their tables in its description."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from landscape import inputs
from landscape._suggest import did_you_mean
from ncsam.optimizers import options_of, resolve_options
from ncsam.sweep.cells import spelled
from ncsam.sweep.tables import check_cells, check_known, noise_of, seeds_of, table_of
from ncsam.training.config import TrainConfig

_WIDEST = 8
"""Values by which an axis may be continued at most: a factor of 256 where values double."""
TRAIN_FIELDS = {f.name for f in dataclasses.fields(TrainConfig)} - {"seeds", "options", "optimizer", "noise"}
TRAIN_FIELDS -= {"perturbed_shares"}  # of several processes, while a cell trains in one


@dataclasses.dataclass(frozen=True)
class Arm:
    """An optimizer with settings of its own, compared under one name.

    Attributes:
        options: of the optimizer, complete.
        train: fields of the configuration that differ from what all share.
        noise: where it is run; everywhere if none.
        tune: values to try of its options and of fields of the configuration, each with each; none to take those that
            all arms try, and empty for an arm that is compared as it is.
    """

    name: str
    optimizer: str
    options: Mapping[str, Any]
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    noise: tuple[str, ...] | None = None
    tune: Mapping[str, tuple[Any, ...]] | None = None

    @property
    def like(self) -> str | None:
        """The arm that this one replays, if it does."""
        return self.train.get("like")


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Settings that are tried for each arm and noise before the reported runs, on seeds of its own.

    Attributes:
        seeds: disjoint from the reported ones.
        train: values to try of fields of the configuration, each with each, by arms without lists of their own.
        widen: values by which a numeric axis of a grid may be continued, see :mod:`ncsam.sweep.tuning`.
        noise: under which all tuning is done, for the runs under every noise; each noise by itself if none.
    """

    seeds: tuple[int, ...]
    train: Mapping[str, tuple[Any, ...]]
    widen: int = 0
    noise: str | None = None

    def tried(self, arm: Arm) -> Mapping[str, tuple[Any, ...]]:
        """The values that ``arm`` tries, each with each; a replay takes what is chosen for the arm it is like."""
        if arm.like is not None:
            return {}
        return self.train if arm.tune is None else arm.tune

    def count(self, arm: Arm) -> int:
        """Count the combinations that ``arm`` tries."""
        tried = self.tried(arm)
        return math.prod(len(values) for values in tried.values()) if tried else 0

    def candidates(self, arm: Arm) -> list[dict[str, Any]]:
        """Every combination that ``arm`` tries; none where nothing is listed for it."""
        tried = self.tried(arm)
        if not tried:
            return []
        return [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]


def arms_of(table: Mapping[str, Any]) -> list[Arm]:
    """One table's arms: every combination of the values that it lists."""
    if "optimizer" not in table:
        raise ValueError(f"an arm has no optimizer: {dict(table)}")
    optimizer = str(table["optimizer"])
    settings = {key: value for key, value in table.items() if key not in ("name", "optimizer", "noise", "tune")}
    # What a factory takes is known only to itself.
    known = {*options_of(optimizer), *({*settings, *table.get("tune", ())} - TRAIN_FIELDS if ":" in optimizer else ())}
    check_known(settings, {*known, *TRAIN_FIELDS}, f"arm {optimizer!r}")
    noise = noise_of(table["noise"], f"arm {optimizer!r}, noise") if "noise" in table else None
    tune = (
        _lists(table_of(table["tune"], "tune"), {*known, *TRAIN_FIELDS}, f"arm {optimizer!r}, tune")
        if "tune" in table
        else None
    )
    swept = [key for key, value in settings.items() if isinstance(value, list) and key not in ("checkpoints", "betas")]
    check_cells(math.prod(len(settings[key]) for key in swept))
    named = inputs.file_name(str(table.get("name", spelled(optimizer))), "an arm")
    arms = []
    for values in itertools.product(*(settings[key] for key in swept)):
        one = {**settings, **dict(zip(swept, values, strict=True))}
        parts = [named, *(f"{k.replace('_', '')}{spelled(one[k])}" for k in swept)]
        options = resolve_options(optimizer, {k: v for k, v in one.items() if k in known})
        train = {k: v for k, v in one.items() if k not in known}
        name = inputs.file_name("-".join(parts), "an arm")
        arms.append(Arm(name, optimizer, options, train, noise, tune))
    return arms


def replaying(arm: Arm, arms: Iterable[Arm], everywhere: tuple[str, ...]) -> Arm:
    """The arm, with the settings of the arm that it replays, if it does.

    Raises:
        ValueError: there is no such arm, or none that can be replayed, or not wherever this one is run.
    """
    if arm.optimizer != "replay" and arm.like is None:
        return arm
    known = {other.name: other for other in arms}
    source = known.get(str(arm.like))
    if arm.optimizer != "replay" or source is None:
        hint = did_you_mean(str(arm.like), known) or f"; arms: {', '.join(known)}"
        raise ValueError(f"arm {arm.name!r} ({arm.optimizer}) is like {arm.like!r}, expected of a replay an arm{hint}")
    if source.optimizer in ("sgd", "replay"):
        raise ValueError(f"arm {arm.name!r} is like {source.name!r} ({source.optimizer}), which has no ‖ε‖ of its own")
    if arm.tune is not None:
        raise ValueError(f"arm {arm.name!r} has values to tune; a replay shares the settings of {source.name!r}")
    there = everywhere if source.noise is None else source.noise
    noise = source.noise if arm.noise is None else arm.noise
    if missing := [spec for spec in noise or () if spec not in there]:
        raise ValueError(f"arm {arm.name!r} is run at {missing[0]}, where {source.name!r}, which it replays, is not")
    return dataclasses.replace(arm, train={**source.train, **arm.train}, noise=noise)


def tuning_of(table: Any) -> Tuning | None:
    if table is None:
        return None
    table_of(table, "[tune]")
    if "seeds" not in table:
        raise ValueError("[tune] needs seeds, such as seeds = [100, 101]")
    tried = {key: value for key, value in table.items() if key not in ("seeds", "widen", "noise")}
    at = table.get("noise")
    if at is not None and not isinstance(at, str):
        raise ValueError(f"[tune] noise is {at!r}, expected one of the sweep's")
    widen = table.get("widen", 0)
    if type(widen) is not int or not 0 <= widen <= _WIDEST:
        raise ValueError(f"[tune] widen is {widen!r}, expected a whole number, 0…{_WIDEST}")
    return Tuning(seeds_of(table["seeds"]), _lists(tried, {*TRAIN_FIELDS, "widen", "noise"}, "[tune]"), widen, at)


def _lists(tried: Mapping[str, Any], known: Iterable[str], where: str) -> dict[str, tuple[Any, ...]]:
    check_known(tried, known, where)
    for key, values in tried.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{where} {key} is {values!r}, expected a list of values")
    return {key: tuple(values) for key, values in tried.items()}
