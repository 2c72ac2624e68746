"""A cell of a study: one training run with what is measured on it, a pure function of its configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from landscape import inputs, store
from landscape.store import StoreError
from landscape.store.lock import sole
from landscape.store.part_database import log_of
from ncsam.measurements import (
    ANALYSIS_VIEWS,
    measure_bound,
    measure_diagnostics,
    measure_line,
    measure_plane,
    measure_samples,
    measure_sharpness,
    measure_spectrum,
)
from ncsam.measurements.warm_start import vectors_path
from ncsam.runs.resume_state import state_path, state_temporary
from ncsam.runs.run import Run
from ncsam.runs.step_norms import read_step_norms
from ncsam.runs.train import train_run
from ncsam.training.config import TrainConfig
from ncsam.training.replay import StepNorms

REPORTED, TUNING = "reported", "tuning"
PRODUCTS = 40  # a view: about what five eigenvalues take; the one number of an estimate that is not measured


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        name: of its file, without the ending.
        arm: under which it is compared, e.g. ``sam-rho0.2``.
        config: of the training; the same number seeds everything that is drawn, so that arms are paired by it.
        measures: settings of each measurement by its name in :data:`MEASURES`.
        trust: import a ``package.module:factory`` that the configuration names.
        role: ``reported``, or ``tuning`` for runs that only choose settings and are never judged.
        replays: name of the cell whose perturbation norms this one replays; it must be complete before.
        source: configuration of that cell.
        plan: hash of the plan that it is run by, see :mod:`ncsam.sweep.plan`.
    """

    name: str
    arm: str
    config: TrainConfig
    measures: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    role: str = REPORTED
    trust: bool = False
    replays: str | None = None
    source: TrainConfig | None = None
    plan: str | None = None

    def __post_init__(self) -> None:
        inputs.file_name(self.name, "a run")
        if self.replays is not None:
            inputs.file_name(self.replays, "a run")

    @property
    def seed(self) -> int:
        """The seed of the split, which a sweep gives to everything that is drawn."""
        return self.config.seeds["split"]

    def path(self, folder: Path) -> Path:
        """The run file of the cell in ``folder``.

        Raises:
            ValueError: a link there leads out of the folder.
        """
        return inputs.inside(folder, self.name, ".h5")

    def leftovers(self, folder: Path) -> list[Path]:
        """Every file that may lie beside the run file, while it is made or after a kill."""
        path = self.path(folder)
        parts = [store.part_path(path, f"{kind.group}/{own}") for kind, own in map(kind_and_name, self.measures)]
        views = {str(view) for settings in self.measures.values() for view in settings.get("views", ANALYSIS_VIEWS)}
        vectors = [vectors_path(part, view) for part in parts for view in sorted(views)]
        locks = [path.with_name(f"{path.name}.{purpose}.lock") for purpose in ("cell", "training")]
        locks += [part.with_name(f"{part.name}.writing.lock") for part in parts]
        temporary = [state_temporary(path), *(v.with_name(f".{v.name}.tmp") for v in vectors)]
        return [state_path(path), *parts, *map(log_of, parts), *vectors, *locks, *temporary]

    def run(self, path: Path, command: list[str] | None = None, *, replay: StepNorms | None = None) -> None:
        """Train and measure; what the file already holds is not done again.

        Only one process at a time works on a cell, of all machines that see the folder. ``command``, the command line
        that asked for it, is for the record. ``replay`` holds the norms that are replayed; if none, they are read from
        the run file, beside this one, of the cell that it replays.

        Raises:
            Held: another process works on it (:class:`landscape.store.lock.Held`).
            StoreError: the file is of another configuration or plan, damaged, or cannot be written.
            ValueError: the configuration or a measurement is impossible.
        """
        with sole(path, "cell", "another process is at this run; wait until it is done"):
            attrs = {"arm": self.arm, "seed": self.seed, "role": self.role}
            attrs |= {} if self.plan is None else {"plan": self.plan}
            source = None if self.replays is None else norms_file(path.parent, self.replays)
            if source is not None and replay is None and (source.exists() or not path.exists()):
                replay = read_step_norms(source)
            run = train_run(
                self.config, path, resume=True, attrs=attrs, trust=self.trust, command=command, replay=replay
            )
            if (found := run.attrs.get("plan")) != self.plan:
                raise StoreError(
                    f"{path}: was run by {plan_named(found)}, now it is {plan_named(self.plan)}; choose another folder"
                )
            for name, settings in self.measures.items():
                kind, own = kind_and_name(name)
                if f"{kind.group}/{own}" not in run.names:
                    kind.measure(run, own, **settings, resume=True)

    def begun(self, path: Path) -> bool:
        """Tell whether there is a file, a state to resume from, or a process at it (or one that was killed)."""
        return any(p.exists() for p in (path, state_path(path), path.with_name(f"{path.name}.cell.lock")))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, in which cells travel; :meth:`from_dict` is its inverse."""
        measures = {name: dict(settings) for name, settings in self.measures.items()}
        source = None if self.source is None else self.source.to_dict()
        return {**vars(self), "config": self.config.to_dict(), "measures": measures, "source": source}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cell:
        """Build from what :meth:`to_dict` gave.

        >>> cell = Cell("one", "sgd", TrainConfig(epochs=1), {"line": {"points": 3}})
        >>> Cell.from_dict(cell.to_dict()) == cell
        True
        """
        configs = {
            key: TrainConfig.from_dict(values[key]) for key in ("config", "source") if values.get(key) is not None
        }
        return cls(**{**values, **configs})

    def complete(self, path: Path) -> bool:
        """Tell whether the file holds the finished run and every measurement.

        Raises:
            StoreError: the file is damaged.
        """
        if not path.exists():
            return False
        wanted = {f"{kind.group}/{own}" for kind, own in map(kind_and_name, self.measures)}
        return wanted <= set(Run(path).names)


def _line(run: Run, name: str, *, points: int = 21, span: float = 1.0, **settings: Any) -> Any:
    return measure_line(run, name, alphas=np.linspace(-span, span, points).tolist(), **settings)


def _plane(run: Run, name: str, *, points: int = 11, span: float = 1.0, **settings: Any) -> Any:
    grid = np.linspace(-span, span, points).tolist()
    return measure_plane(run, name, alphas=grid, betas=grid, **settings)


@dataclasses.dataclass(frozen=True)
class UnitCosts:
    """Parts that the cost of a measurement is made of.

    Attributes:
        train, test: samples of the training and test set.
        forward: seconds of a forward pass, for a sample.
        product: seconds of a Hessian-vector product, for a sample.
    """

    train: int
    test: int
    forward: float
    product: float

    def on_views(self, settings: Mapping[str, Any]) -> float:
        """Seconds of a product on every view; the clean and the noisy part together are the whole once more."""
        views = {view for view in settings.get("views", ANALYSIS_VIEWS) if view != "noisy_part"}
        most = settings.get("subset") or math.inf
        return self.product * sum(min(most, self.test if view == "test" else self.train) for view in views)


@dataclasses.dataclass(frozen=True)
class MeasureKind:
    """Something that a cell may measure.

    Attributes:
        group: of the run file, under which results of the kind are kept.
        name: of the result there, if none is given.
        measure: takes the run, that name and the settings.
        seconds: what it will take with its settings, roughly.
        passes_to: what takes those settings that ``measure`` only passes on.
    """

    group: str
    name: str
    measure: Callable[..., Any]
    seconds: Callable[[Mapping[str, Any], UnitCosts], float]
    passes_to: Callable[..., Any] | None = None


def _spectrum_seconds(settings: Mapping[str, Any], unit: UnitCosts) -> float:
    return unit.on_views(settings) * (PRODUCTS + settings.get("trace_matvecs", 100))


def _sharpness_seconds(settings: Mapping[str, Any], unit: UnitCosts) -> float:
    products = settings.get("trace_matvecs", 0) + (PRODUCTS // 2 if settings.get("top_tol") else 0)
    return unit.on_views(settings) * (2 + products)


def _diagnostics_seconds(settings: Mapping[str, Any], unit: UnitCosts) -> float:
    return unit.train * unit.product * 4 * len(settings.get("epochs", ("last",)))


def _bound_seconds(settings: Mapping[str, Any], unit: UnitCosts) -> float:
    return unit.train * unit.product * 2 * settings.get("restarts", 3) * settings.get("steps", 20)


def _samples_seconds(settings: Mapping[str, Any], unit: UnitCosts) -> float:
    vectors, epochs = settings.get("k", 1), len(settings.get("epochs", ("last",)))
    return unit.train * unit.product * (PRODUCTS // 5 + 3) * vectors * epochs


def _line_seconds(settings: Mapping[str, Any], unit: UnitCosts) -> float:
    return settings.get("points", 21) * (unit.train + unit.test) * unit.forward


def _plane_seconds(settings: Mapping[str, Any], unit: UnitCosts) -> float:
    return settings.get("points", 11) ** 2 * (unit.train + unit.test) * unit.forward


MEASURES: Mapping[str, MeasureKind] = {
    "hessian": MeasureKind("hessian", "top5", measure_spectrum, _spectrum_seconds),
    "sharpness": MeasureKind("sharpness", "default", measure_sharpness, _sharpness_seconds),
    "diagnostics": MeasureKind("diagnostics", "default", measure_diagnostics, _diagnostics_seconds),
    "bound": MeasureKind("diagnostics", "bound", measure_bound, _bound_seconds),
    "samples": MeasureKind("diagnostics", "samples", measure_samples, _samples_seconds),
    "line": MeasureKind("surface", "line", _line, _line_seconds, measure_line),
    "plane": MeasureKind("surface", "plane", _plane, _plane_seconds, measure_plane),
}


def kind_and_name(measure: str) -> tuple[MeasureKind, str]:
    """Resolve ``KIND`` or ``KIND/NAME`` of a sweep's ``[measure]``; a kind may be measured under several names.

    Raises:
        KeyError: no such kind.

    >>> [(kind.group, name) for kind, name in map(kind_and_name, ["bound", "sharpness/wide"])]
    [('diagnostics', 'bound'), ('sharpness', 'wide')]
    """
    kind, _, name = measure.partition("/")
    return MEASURES[kind], name or MEASURES[kind].name


def settings_of(measure: str) -> set[str]:
    """Names of the settings that a measurement takes in a sweep.

    >>> sorted(settings_of("line") & {"points", "span", "run"})
    ['points', 'span']
    """
    kind = MEASURES[measure.partition("/")[0]]
    taken = (kind.measure,) if kind.passes_to is None else (kind.measure, kind.passes_to)
    named = {name for function in taken for name in inspect.signature(function).parameters}
    return named - {"run", "name", "where", "settings", "alphas", "betas", "resume", "overwrite"}


def norms_file(folder: Path, name: str) -> Path:
    """The file with the perturbation norms of a run in ``folder``: the run file, or JSON where only a row was kept."""
    run, kept = (inputs.inside(folder, name, end) for end in (".h5", ".norms.json"))
    return kept if kept.exists() and not run.exists() else run


def plan_named(found: str | None) -> str:
    """A plan's hash in words.

    >>> plan_named("0123456789abcdef"), plan_named(None)
    ('the plan 0123456789ab…', 'no plan')
    """
    return "no plan" if found is None else f"the plan {found[:12]}…"


def cell_name(arm: str, noise: str, seed: int) -> str:
    """The file name of a cell, without its ending.

    >>> cell_name("sam", "symmetric:0.4", 3), cell_name("sgd", "none", 0)
    ('sam-symmetric-0.4-seed3', 'sgd-none-seed0')
    """
    name, end = f"{arm}-{spelled(noise)}", f"-seed{seed}"
    if len(name) + len(end) <= inputs.LONGEST_NAME:
        return f"{name}{end}"
    digest = hashlib.sha256(f"{arm} {noise}".encode()).hexdigest()[:8]  # paths of files may be long
    return f"{name[: inputs.LONGEST_NAME - len(end) - 9]}-{digest}{end}"


def spelled(value: object) -> str:
    """A value as a part of a file's name.

    >>> spelled("human:a/b.pt,worse_label"), spelled(0.1)
    ('human-a-b.pt-worse_label', '0.1')
    """
    return re.sub(r"[^A-Za-z0-9._]", "-", str(value))
