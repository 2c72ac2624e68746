"""A study on disk: its runs put into one table, the study file that is written of it, and what it left to be read.

Runs are opened only where something of them is needed.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from landscape import inputs, store
from landscape.records import Record
from landscape.store import StoreError
from ncsam.records import CellTable, Curves, Verdicts
from ncsam.runs.run import Run
from ncsam.statistics import LEVEL, t_intervals
from ncsam.study.endpoints import row_of
from ncsam.study.table import REPORTED, Study, rows_of_study, table_of, table_of_curves
from ncsam.study.verdicts import describe, judge, studies_of
from ncsam.training.config import TrainConfig

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)
STAMPED = ("code_version", "versions", "platform", "device", "threads", "data_hash")
"""Attributes of a run that say with what it was made."""
_SHARED = ("epochs", "batch_size", "train_samples", "test_samples", "val_fraction", "normalization", "augment")
"""Settings that the arms of a study share, whatever tuning chooses."""
_WITHOUT_EFFECT = (
    "seeds", "noise", "options", "like", "checkpoints", "diagnose", "diagnose_every", "samples", "memory_format",
    "perturbed_shares",
)  # fmt: skip
"""Settings that runs of one arm may differ in: what is drawn, looked at or kept; options are compared one by one."""


def collect(paths: Sequence[Path]) -> CellTable:
    """The table of the runs: one row each, with every endpoint that its file holds, see :mod:`ncsam.study.endpoints`.

    Raises:
        StoreError: a file is missing, damaged, or no run.
        ValueError: no paths, or two runs of the same arm, noise, rate and seed.
    """
    found = Pairing()
    rows = [found.row_of(Run(path)) for path in paths]
    found.warn()
    return table_of(rows)


class Pairing:
    """Rows of runs, and in what runs of one seed, or of one arm, differ that a study takes to be the same."""

    def __init__(self) -> None:
        self._of_seed: dict[tuple[Any, ...], dict[str, set[str]]] = {}
        self._of_arm: dict[tuple[Any, ...], dict[str, set[str]]] = {}

    def row_of(self, run: Run) -> dict[str, Any]:
        """The row of a run, see :func:`ncsam.study.endpoints.row_of`."""
        row = row_of(run)
        self.add(row, run.config, run.attrs)
        return row

    def add(self, row: Mapping[str, Any], config: TrainConfig, attrs: Mapping[str, Any]) -> None:
        """Note the settings and the data of a run whose row is there."""
        if row["role"] != REPORTED:
            return
        where = tuple(row[key] for key in ("data", "model", "noise", "rate"))
        settings = config.to_dict()
        own = {f"seed of the {what}": seed for what, seed in settings["seeds"].items()}
        own |= {name: settings[name] for name in _SHARED} | {"SHA-256 of the data": attrs.get("data_hash")}
        decisive = {name: value for name, value in settings.items() if name not in _WITHOUT_EFFECT}
        decisive |= config.options
        for found, key, values in ((self._of_seed, row["seed"], own), (self._of_arm, row["arm"], decisive)):
            for name, value in values.items():
                found.setdefault((*where, key), {}).setdefault(name, set()).add(repr(value))

    def warn(self) -> None:
        """Say so, if there are any."""
        if names := sorted({name for of_seed in self._of_seed.values() for name in _several(of_seed)}):
            logger.warning(
                "runs of one seed differ in %s, and are compared as if paired; differences may come from that",
                ", ".join(names),
            )
        arms: dict[str, set[str]] = {}
        for (*_, arm), of_arm in self._of_arm.items():
            arms.setdefault(arm, set()).update(_several(of_arm))
        for arm, differing in arms.items():
            if differing:
                logger.warning(
                    "runs of the arm %s at one noise rate differ in %s, and count as one arm; name or keep them apart",
                    arm,
                    ", ".join(sorted(differing)),
                )


def _several(settings: Mapping[str, set[str]]) -> list[str]:
    return [name for name, values in settings.items() if len(values) > 1]


def curves_of(study: Study) -> Curves:
    """Each endpoint by arm, noise rate and seed, with its mean and t-interval over the seeds."""
    names = study.measured()
    value = np.stack([[[study.of(n, arm, rate) for rate in study.rates] for arm in study.arms] for n in names])
    mean, low, high = t_intervals(value, LEVEL)
    return Curves(
        quantities=np.array(names),
        arms=np.array(study.arms),
        rates=np.array(study.rates),
        seeds=np.array(study.seeds),
        value=value,
        mean=mean,
        low=low,
        high=high,
        level=LEVEL,
    )


class Stamped(Protocol):
    """A run, or what was kept of it, with its provenance."""

    @property
    def attrs(self) -> Mapping[str, Any]: ...


def stamps_of(attributes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Count what the attributes of runs say: their number, the first and last date, each value with how many bear it.

    >>> stamps_of({"created": "2026-01-02", "threads": n} for n in (1, 1, 4))
    {'runs': 3, 'created': ['2026-01-02', '2026-01-02'], 'threads': [[1, 2], [4, 1]]}
    """
    every = list(attributes)
    created = sorted(str(attrs["created"]) for attrs in every if "created" in attrs)
    found: dict[str, Any] = {"runs": len(every)} | ({"created": [created[0], created[-1]]} if created else {})
    for name in STAMPED:
        values = Counter(json.dumps(attrs[name]) for attrs in every if attrs.get(name) is not None)
        if values:
            found[name] = [[json.loads(value), count] for value, count in values.most_common()]
    return found


def write_study(
    table: CellTable,
    out: Path,
    runs: Sequence[Stamped],
    *,
    command: list[str] | None = None,
    overwrite: bool = False,
    plan: str | None = None,
) -> tuple[Curves, Verdicts]:
    """Write a study file: the table, and of its first study curves, verdicts and secondary endpoints.

    Where the table holds several studies (kinds of noise, models), the others follow from it in the same way:
    :func:`ncsam.study.verdicts.studies_of`.

    Args:
        runs: whose provenance is recorded; data and device are those of the first.
        plan: hash of the plan by which they were run.

    Raises:
        StoreError: the output exists or cannot be written.
        ValueError: the table holds no reported run.
    """
    first = studies_of(table)[0]
    curves, verdicts, secondary = curves_of(first), judge(first), describe(first)
    stamp = store.stamp(
        config={"runs": table.names.tolist()},
        seeds={"runs": curves.seeds.tolist()},
        data_hash=runs[0].attrs["data_hash"],
        command=command,
        device=runs[0].attrs["device"],
    )
    stamp |= {"stamps": stamps_of(run.attrs for run in runs)} | ({} if plan is None else {"plan": plan})
    contents = {"cells": table, "curves": curves, "verdicts": verdicts, "secondary": secondary}
    store.create(out, kind="study", attrs=stamp, contents=contents, overwrite=overwrite)
    return curves, verdicts


class StudyFiles:
    """A study file, or the folder that ``landscape sweep`` fills, or any folder of run files.

    Attributes:
        root: the folder.
        study_file: none where there are only runs.
        table: one row a run; read from the study file where there is one.
        attrs: provenance of the study file; empty where there is none.
        description: what the sweep is, from ``sweep.json``; none where that is missing.
        tuning: what tuning tried and chose, from ``tuning.json``; none where nothing was tuned.

    Raises:
        StoreError: there is neither study nor run, or a file is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.root = path if path.is_dir() else path.parent
        self.study_file: Path | None = self.root / "study.h5" if path.is_dir() else path
        self.attrs: dict[str, Any] = {}
        folder = self.root / "runs"
        self._runs = folder if folder.is_dir() else self.root
        if self.study_file is not None and not self.study_file.exists() and path.is_dir():
            self.study_file = None
        self.table = self._from_runs() if self.study_file is None else self._from_file(self.study_file)
        self.description = _json(self.root / "sweep.json")
        self.tuning = _json(self.root / "tuning.json")

    def run_path(self, name: str) -> Path | None:
        """The file of a run by its name in the table; none where it is not there."""
        return self._path(self._runs, name)

    def _path(self, folder: Path, name: str) -> Path | None:
        """Names are from the study file, which may be anyone's: they lead nowhere but into the folder."""
        if not name:
            return None
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise StoreError(f"{self.study_file or self.root}: {name!r} cannot name a run")
        if Path(name).name != name or not name.isprintable():
            return None  # no file of ours has such a name
        path = folder / f"{name}.h5"
        return path if path.exists() else None

    def names(self, study: Study) -> dict[tuple[str, float, int], str]:
        """The runs of a study by (arm, rate, seed), reported ones only; clean runs serve every kind of noise."""
        # A clean run of the kind itself comes before that of another kind, as in the study's values.
        rows = sorted(rows_of_study(self.table, study), key=lambda row: row["noise"] == study.noise)
        return {(row["arm"], row["rate"], row["seed"]): row["name"] for row in rows}

    def records(self, study: Study, group: str, kind: type[R], arms: Iterable[str], rate: float) -> dict[str, list[R]]:
        """A group of the runs at one rate by arm, in the order of their seeds; arms without any are left out.

        Args:
            group: such as ``training`` or ``diagnostics/training``.
            kind: of the records; what is of another kind is left out.
        """
        names = self.names(study)
        found: dict[str, list[R]] = {}
        for arm in arms:
            for seed in study.seeds:
                path = self.run_path(names.get((arm, rate, seed), ""))
                if path is None:
                    continue
                with store.open(path) as file:
                    record = file.record(group) if group in file else None
                if isinstance(record, kind):
                    found.setdefault(arm, []).append(record)
        return found

    def attributes(self, name: str) -> dict[str, Any]:
        """Provenance and configuration of one run; empty where its file is not there."""
        for folder in (self._runs, self.root / "tuning"):
            path = self._path(folder, name)
            if path is not None:
                with store.open(path) as file:
                    return dict(file.attrs)
        return {}

    def run_attributes(self) -> dict[str, dict[str, Any]]:
        """Provenance of every run whose file is there, by name, tuning included; weights and records are not read."""
        every = {name: self.attributes(name) for name in self.table.names.tolist()}
        return {name: attrs for name, attrs in every.items() if attrs}

    def _from_file(self, path: Path) -> CellTable:
        with store.open(path) as file:
            if file.kind != "study":
                raise StoreError(f"{path}: is a {file.kind} file, expected a study file or a study's folder")
            self.attrs = dict(file.attrs)
            record = file.record("cells" if "cells" in file else "curves")
        if isinstance(record, Curves):
            return table_of_curves(record)
        assert isinstance(record, CellTable)
        return record

    def _from_runs(self) -> CellTable:
        paths = sorted(self._runs.glob("*.h5"))
        if not paths:
            raise StoreError(f"{self.root}: holds neither study.h5 nor run files; make them with `landscape sweep`")
        return collect(paths)


def _json(path: Path) -> Any:
    """The content of a JSON file; none where there is no file.

    Raises:
        StoreError: it is no JSON.
    """
    if not path.exists():
        return None
    try:
        return inputs.read_json(path)
    except ValueError as error:
        raise StoreError(f"{error}; the sweep writes it again with --resume") from error
