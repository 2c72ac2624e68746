"""A sweep: noise × arms × seeds as one small description, from flags, a mapping or a TOML file, and its cells.

.. code-block:: toml

    seeds = 10                                   # 0…9, or a list
    noise = ["symmetric:0.0", "symmetric:0.4"]

    [train]                                      # fields of ncsam.TrainConfig that all cells share
    data = "digits"
    epochs = 45

    [[arms]]
    optimizer = "sam"
    rho = [0.05, 0.2]                            # a list is swept: the arms sam-rho0.05 and sam-rho0.2

    [[arms]]
    name = "ncsam-unprojected"
    optimizer = "ncsam"
    project = false
    noise = ["symmetric:0.4"]                    # only there

    [[arms]]
    optimizer = "replay"                         # SAM's direction with the ‖ε‖ that another arm had at every step
    like = "ncsam-unprojected"

    [measure]                                    # KIND or KIND/NAME, see ncsam.sweep.cells.MEASURES
    sharpness = {}
    "sharpness/wide" = { adaptive_rho = 2.0 }    # the same kind again, kept as sharpness/wide
    line = { points = 21, at = ["symmetric:0.4"], arms = ["sam-rho0.05"] }

    [tune]                                       # optional: chosen on the validation part, on seeds of its own
    seeds = [100, 101]
    lr = [0.02, 0.05]
    weight_decay = [0.0, 1e-3]
    widen = 2                                    # continue an axis by up to two values where the best is at its end
    noise = "symmetric:0.4"                      # tune there only, for all noise; without it under each by itself

    [plan]                                       # optional: for `landscape plan`, see ncsam.sweep.plan

An arm may have lists of its own instead, of its optimizer's options too, ``tune = { rho = [0.05, 0.1] }``; every arm
has the same number of candidates. A replay has none: it shares all settings but the optimizer with the arm it is like.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from landscape import inputs
from landscape._suggest import did_you_mean
from ncsam import noise as label_noise
from ncsam.optimizers import options_of, resolve_options
from ncsam.optimizers.options import with_options
from ncsam.optimizers.variants import OPTIMIZERS
from ncsam.sweep.cells import MEASURES, REPORTED, TUNING, Cell, cell_name, settings_of, spelled
from ncsam.sweep.grids import reachable
from ncsam.training import losses
from ncsam.training.config import TrainConfig

WIDEST = 8
"""Values by which an axis may be continued at most: a factor of 256 where values double."""
_FIELDS = {f.name for f in dataclasses.fields(TrainConfig)} - {"seeds", "options", "optimizer", "noise"}


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


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Runs to be compared, paired by seed: split, noise, initial weights and batch order are those of the seed.

    Attributes:
        seeds: of the reported runs.
        noise: label noise as spelled on the command line.
        train: fields of :class:`~ncsam.TrainConfig` that all cells share.
        arms: what is compared.
        measures: settings of each measurement; ``at`` among them restricts it to some noise, ``arms`` to some arms.
        tuning: none to use the settings as they are.
        description: the mapping that it was built from.
        trust: import a ``package.module:factory`` that it names as data, model or optimizer; the caller can know.
        plan: hash of the plan that it is run by, which its runs carry.
        fewer: number of the first seeds that are run under a noise, where these are not all.
    """

    seeds: tuple[int, ...]
    noise: tuple[str, ...]
    train: Mapping[str, Any]
    arms: tuple[Arm, ...]
    measures: Mapping[str, Mapping[str, Any]]
    tuning: Tuning | None = None
    description: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    trust: bool = False
    plan: str | None = None
    fewer: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Sweep:
        """Build from the mapping that a TOML file holds, see :mod:`ncsam.sweep.description`.

        Raises:
            ValueError: an unknown key, a value out of range, two arms of one name.

        >>> sweep = Sweep.from_dict({"seeds": 2, "noise": ["none"], "arms": [{"optimizer": "sam", "rho": [0.1, 0.2]}]})
        >>> [cell.name for cell in sweep.cells()]
        ['sam-rho0.1-none-seed0', 'sam-rho0.2-none-seed0', 'sam-rho0.1-none-seed1', 'sam-rho0.2-none-seed1']
        """
        known = ("seeds", "fewer_seeds", "noise", "train", "arms", "measure", "tune", "plan")
        _known(_table(description, "the sweep"), known, "the sweep")
        _table(description.get("plan", {}), "[plan]")
        for key in ("seeds", "noise", "arms"):
            if key not in description:
                raise ValueError(f"the sweep has no {key!r}")
        train = dict(_table(description.get("train", {}), "[train]"))
        _known(train, _FIELDS - {"like"}, "[train]")
        noise = _noise(description["noise"], "noise")
        if not isinstance(description["arms"], list | tuple):
            raise ValueError(f"arms is {description['arms']!r}, expected tables [[arms]]")
        arms = tuple(itertools.chain.from_iterable(_arms(_table(arm, "an arm")) for arm in description["arms"]))
        if name := _repeated(arm.name for arm in arms):
            raise ValueError(f"two arms are called {name!r}; give them a name = … of their own")
        arms = tuple(_replaying(arm, arms, noise) for arm in arms)
        measures = _measures(description.get("measure", {}))
        tuning = _tuning(description.get("tune"))
        seeds = _seeds(description["seeds"])
        fewer = _fewer(description.get("fewer_seeds", {}), noise, len(seeds))
        sweep = cls(seeds, noise, train, arms, measures, tuning, dict(description), fewer=fewer)
        sweep._check_count()
        sweep._check_tuning()
        # A value out of range is told now
        if name := _repeated(cell.name for cell in (*sweep.cells(), *(cell for cell, _ in sweep.tuning_cells()))):
            raise ValueError(f"two runs would be called {name!r}; give the arms names or the noise files that differ")
        return sweep

    @classmethod
    def from_toml(cls, path: str | Path) -> Sweep:
        """Read a TOML file.

        Raises:
            ValueError: not TOML, or as :meth:`from_dict`; the file is named.
            OSError: it cannot be read.
        """
        try:
            return cls.from_dict(inputs.read_toml(path))
        except ValueError as error:
            told = str(error)
            raise ValueError(told if told.startswith(f"{path}:") else f"{path}: {told}") from error

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Sweep:
        """A sweep that comes with the package, with changes to its description; those to ``train`` go into it.

        Raises:
            ValueError: no preset of that name, or as :meth:`from_dict`.

        >>> len(Sweep.preset("demo", seeds=1, train={"epochs": 3}).cells())
        17
        """
        known = presets()
        _known([name], known, "the list of presets")
        described = tomllib.loads(known[name])
        train = {**described.get("train", {}), **changes.pop("train", {})}
        return cls.from_dict({**described, **changes, "train": train})

    def cells(self, chosen: Mapping[tuple[str, str], Mapping[str, Any]] | None = None) -> list[Cell]:
        """The reported cells, seeds outermost, so that a stopped sweep is a smaller one.

        Args:
            chosen: options and fields of the configuration that tuning found, by (arm, noise).
        """
        found = []
        for seed, noise, arm in self._grid(self.seeds):
            if seed not in self._seeds_at(noise):
                continue
            at = noise if self.tuning is None else self.tuning.noise or noise
            tuned = (chosen or {}).get((arm.like or arm.name, at), {})
            if arm.like is not None:  # the options are those of another optimizer
                tuned = {key: value for key, value in tuned.items() if key in _FIELDS}
            replays = None if arm.like is None else cell_name(arm.like, noise, seed)
            measures = {
                name: {key: value for key, value in settings.items() if key not in ("at", "arms")}
                for name, settings in self.measures.items()
                if noise in settings.get("at", (noise,)) and arm.name in settings.get("arms", (arm.name,))
            }
            config = self._config(arm, noise, seed, tuned)
            name = cell_name(arm.name, noise, seed)
            found.append(Cell(name, arm.name, config, measures, REPORTED, self.trust, replays, plan=self.plan))
        configs = {cell.name: cell.config for cell in found}
        return [c if c.replays is None else dataclasses.replace(c, source=configs[c.replays]) for c in found]

    def tuning_cells(
        self, candidates: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]] | None = None
    ) -> list[tuple[Cell, dict[str, Any]]]:
        """Cells of the tuning with the candidate that each tries; nothing but the training is done in them.

        Args:
            candidates: by arm and noise; those of the grids as they are described if none.
        """
        if self.tuning is None:
            return []
        found = []
        for seed, noise, arm in self._grid(self.tuning.seeds, self.tuning.noise):
            own = self.tuning.candidates(arm) if candidates is None else candidates.get((arm.name, noise), ())
            for candidate in map(dict, own):
                tried = "-".join(f"{key}{spelled(value)}" for key, value in candidate.items())
                config = dataclasses.replace(self._config(arm, noise, seed, candidate), diagnose=0)
                name = cell_name(f"tuning-{arm.name}-{tried}", noise, seed)
                found.append((Cell(name, arm.name, config, {}, TUNING, self.trust, plan=self.plan), candidate))
        return found

    def possible(self, arm: str, noise: str, candidate: Mapping[str, Any]) -> bool:
        """Tell whether an arm can be trained with a candidate's values."""
        (own,) = (other for other in self.arms if other.name == arm)
        try:
            config = self._config(own, noise, self.seeds[0], candidate)
            with_options(OPTIMIZERS[own.optimizer].prototype, config.options)
        except ValueError:
            return False
        return True

    def reachable_tuning_cells(self) -> list[tuple[Cell, dict[str, Any]]]:
        """The tuning's cells of every candidate that widening the grids may lead to, those of the grids among them."""
        if self.tuning is None:
            return []
        candidates = {}
        for noise, arm in itertools.product(self.noise, self.arms):
            reached = reachable(self.tuning.candidates(arm), self.tuning.widen)
            candidates[arm.name, noise] = [c for c in reached if self.possible(arm.name, noise, c)]
        return self.tuning_cells(candidates)

    def _check_count(self) -> None:
        """Refuse more runs than the limit, which are counted without being listed."""
        where = [{*self.noise} if arm.noise is None else {*arm.noise} & {*self.noise} for arm in self.arms]
        count = sum(len(self._seeds_at(noise)) for noises in where for noise in noises)
        if self.tuning is not None:
            only = self.tuning.noise
            tuned = [len(noises if only is None else noises & {only}) for noises in where]
            tried = [self.tuning.count(arm) for arm in self.arms]
            count += len(self.tuning.seeds) * sum(n * m for n, m in zip(tuned, tried, strict=True))
        _check_cells(count)

    def _check_tuning(self) -> None:
        if self.tuning is None:
            if tuned := [arm.name for arm in self.arms if arm.tune is not None]:
                raise ValueError(
                    f"arm {tuned[0]!r} has values to tune, but there is no [tune] with the seeds to do it on"
                )
            return
        if set(self.tuning.seeds) & set(self.seeds):
            raise ValueError("tuning and reported runs share seeds; [tune] needs seeds of its own")
        if self.tuning.noise is not None and self.tuning.noise not in self.noise:
            raise ValueError(f"[tune] noise is {self.tuning.noise!r}, expected one of {', '.join(self.noise)}")
        fixed_arms = {arm.name for arm in self.arms if arm.like is not None or arm.tune == {}}
        counts = {arm.name: self.tuning.count(arm) for arm in self.arms if arm.name not in fixed_arms}
        if len(set(counts.values())) > 1:
            tries = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise ValueError(
                f"arms are not tuned with equal effort: {tries} candidates; list as many for each, "
                "or tune = {} for an arm that is compared as it is"
            )
        for arm in self.arms:
            only = self.tuning.noise
            if only is not None and counts.get(arm.name) and arm.noise is not None and only not in arm.noise:
                raise ValueError(
                    f"arm {arm.name!r} is not run at {only}, where all tuning is done; run it there too, or give it "
                    "tune = {} to take it as it is"
                )
            if arm.tune is None and arm.like is None and (fixed := sorted(set(arm.train) & set(self.tuning.train))):
                raise ValueError(
                    f"arm {arm.name!r} has a {fixed[0]} of its own, which [tune] would choose; drop one of the two"
                )
        if not any(counts.values()):
            raise ValueError("[tune] needs at least one list of values, such as lr = [0.02, 0.05]")

    def _grid(self, seeds: Iterable[int], only: str | None = None) -> Iterable[tuple[int, str, Arm]]:
        for seed, noise, arm in itertools.product(seeds, self.noise, self.arms):
            if (arm.noise is None or noise in arm.noise) and noise == (only or noise):
                yield seed, noise, arm

    def _seeds_at(self, noise: str) -> tuple[int, ...]:
        """The seeds of the reported runs under a noise."""
        return self.seeds[: self.fewer.get(noise)]

    def _config(self, arm: Arm, noise: str, seed: int, tuned: Mapping[str, Any]) -> TrainConfig:
        of_optimizer = {key: value for key, value in tuned.items() if key in arm.options or key not in _FIELDS}
        options = {**arm.options, **of_optimizer}
        fields = {**self.train, **arm.train, **{key: value for key, value in tuned.items() if key not in options}}
        fields |= {"noise": noise, "optimizer": arm.optimizer, "options": options}
        try:
            losses.parse(fields.get("loss", "ce"))
            return TrainConfig.from_dict(fields).with_seed(seed)
        except (TypeError, ValueError) as error:
            raise ValueError(f"arm {arm.name!r}: {error}") from error


def presets() -> dict[str, str]:
    """The sweeps that come with the package, as TOML text by name."""
    files = resources.files("ncsam.sweep").joinpath("presets").iterdir()
    return {f.name.removesuffix(".toml"): f.read_text(encoding="utf-8") for f in sorted(files, key=lambda f: f.name)}


def _arms(table: Mapping[str, Any]) -> list[Arm]:
    """One table's arms: every combination of the values that it lists."""
    if "optimizer" not in table:
        raise ValueError(f"an arm has no optimizer: {dict(table)}")
    optimizer = str(table["optimizer"])
    settings = {key: value for key, value in table.items() if key not in ("name", "optimizer", "noise", "tune")}
    # What a factory takes is known only to itself.
    known = {*options_of(optimizer), *({*settings, *table.get("tune", ())} - _FIELDS if ":" in optimizer else ())}
    _known(settings, {*known, *_FIELDS}, f"arm {optimizer!r}")
    noise = _noise(table["noise"], f"arm {optimizer!r}, noise") if "noise" in table else None
    tune = (
        _lists(_table(table["tune"], "tune"), {*known, *_FIELDS}, f"arm {optimizer!r}, tune")
        if "tune" in table
        else None
    )
    swept = [key for key, value in settings.items() if isinstance(value, list) and key not in ("checkpoints", "betas")]
    _check_cells(math.prod(len(settings[key]) for key in swept))
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


def _replaying(arm: Arm, arms: Iterable[Arm], everywhere: tuple[str, ...]) -> Arm:
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


def _tuning(table: Any) -> Tuning | None:
    if table is None:
        return None
    _table(table, "[tune]")
    if "seeds" not in table:
        raise ValueError("[tune] needs seeds, such as seeds = [100, 101]")
    tried = {key: value for key, value in table.items() if key not in ("seeds", "widen", "noise")}
    at = table.get("noise")
    if at is not None and not isinstance(at, str):
        raise ValueError(f"[tune] noise is {at!r}, expected one of the sweep's")
    widen = table.get("widen", 0)
    if type(widen) is not int or not 0 <= widen <= WIDEST:
        raise ValueError(f"[tune] widen is {widen!r}, expected a whole number, 0…{WIDEST}")
    return Tuning(_seeds(table["seeds"]), _lists(tried, {*_FIELDS, "widen", "noise"}, "[tune]"), widen, at)


def _lists(tried: Mapping[str, Any], known: Iterable[str], where: str) -> dict[str, tuple[Any, ...]]:
    _known(tried, known, where)
    for key, values in tried.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{where} {key} is {values!r}, expected a list of values")
    return {key: tuple(values) for key, values in tried.items()}


def _measures(table: Any) -> dict[str, dict[str, Any]]:
    measures = {
        name: dict(_table(settings, f"[measure] {name}")) for name, settings in _table(table, "[measure]").items()
    }
    _known([name.partition("/")[0] for name in measures], MEASURES, "[measure]")
    for name, settings in measures.items():
        for part in name.split("/"):
            inputs.file_name(part, "a measurement")
        _known(settings, {*settings_of(name), "at", "arms"}, f"[measure] {name}")
        for key in ("at", "arms"):
            listed = settings.get(key, [])
            if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
                raise ValueError(f"[measure] {name} {key} is {listed!r}, expected a list of names")
    return measures


def _seeds(value: Any) -> tuple[int, ...]:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole:
        _check_cells(value)
    seeds = list(range(value)) if whole else list(value) if isinstance(value, list | tuple) else []
    if not seeds or any(type(s) is not int or s < 0 for s in seeds) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds is {value!r}, expected a number of seeds or a list of different ones ≥ 0")
    return tuple(seeds)


def _fewer(table: Any, noise: Sequence[str], seeds: int) -> dict[str, int]:
    """Numbers of seeds by the noise under which not all of them are run."""
    _known(_table(table, "fewer_seeds"), noise, "fewer_seeds")
    for spec, count in table.items():
        if type(count) is not int or not 1 <= count <= seeds:
            raise ValueError(f"fewer_seeds of {spec} is {count!r}, expected a whole number, 1…{seeds}")
    return dict(table)


def _noise(values: Any, where: str) -> tuple[str, ...]:
    specs = [values] if isinstance(values, str) else list(values) if isinstance(values, list | tuple) else []
    if not specs or not all(isinstance(spec, str) for spec in specs) or len(set(specs)) != len(specs):
        raise ValueError(f'{where} is {values!r}, expected different kinds such as ["symmetric:0.4"]')
    for spec in specs:
        label_noise.parse(spec)
    return tuple(specs)


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {value!r}, expected a table")
    return value


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _check_cells(count: int) -> None:
    if count > inputs.limits().cells:
        raise ValueError(
            f"the sweep has {count} runs or more, at most {inputs.limits().cells} are allowed; if that is right, add "
            f"--limits cells={count}"
        )


def _known(found: Iterable[str], known: Iterable[str], where: str) -> None:
    for key in found:
        if key not in set(known):
            hint = did_you_mean(key, known) or f"; known: {', '.join(sorted(known))}"
            raise ValueError(f"{where} has an unknown key {key!r}{hint}")
