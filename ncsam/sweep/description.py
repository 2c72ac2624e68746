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
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from landscape import inputs
from ncsam.optimizers.options import with_options
from ncsam.optimizers.variants import OPTIMIZERS
from ncsam.sweep.arms import TRAIN_FIELDS, Arm, Tuning, arms_of, replaying, tuning_of
from ncsam.sweep.cells import REPORTED, TUNING, Cell, cell_name, spelled
from ncsam.sweep.grids import reachable
from ncsam.sweep.tables import check_cells, check_known, fewer_of, measures_of, noise_of, seeds_of, table_of
from ncsam.training import losses
from ncsam.training.config import TrainConfig


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
        check_known(table_of(description, "the sweep"), known, "the sweep")
        table_of(description.get("plan", {}), "[plan]")
        for key in ("seeds", "noise", "arms"):
            if key not in description:
                raise ValueError(f"the sweep has no {key!r}")
        train = dict(table_of(description.get("train", {}), "[train]"))
        check_known(train, TRAIN_FIELDS - {"like"}, "[train]")
        noise = noise_of(description["noise"], "noise")
        if not isinstance(description["arms"], list | tuple):
            raise ValueError(f"arms is {description['arms']!r}, expected tables [[arms]]")
        arms = tuple(itertools.chain.from_iterable(arms_of(table_of(arm, "an arm")) for arm in description["arms"]))
        if name := _repeated(arm.name for arm in arms):
            raise ValueError(f"two arms are called {name!r}; give them a name = … of their own")
        arms = tuple(replaying(arm, arms, noise) for arm in arms)
        measures = measures_of(description.get("measure", {}))
        tuning = tuning_of(description.get("tune"))
        seeds = seeds_of(description["seeds"])
        fewer = fewer_of(description.get("fewer_seeds", {}), noise, len(seeds))
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
        check_known([name], known, "the list of presets")
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
                tuned = {key: value for key, value in tuned.items() if key in TRAIN_FIELDS}
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
        check_cells(count)

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
        of_optimizer = {key: value for key, value in tuned.items() if key in arm.options or key not in TRAIN_FIELDS}
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


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
