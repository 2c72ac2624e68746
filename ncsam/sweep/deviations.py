"""Compare a study with its plan: what is missing, what was added, and what was done otherwise."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from landscape import store
from landscape.store import StoreError
from ncsam.records import CellTable
from ncsam.runs.run import Run
from ncsam.study.arms import OTHERWISE
from ncsam.study.endpoints import kind_of
from ncsam.study.table import REPORTED
from ncsam.sweep.arms import Arm
from ncsam.sweep.canonical import plain
from ncsam.sweep.cells import Cell, plan_named
from ncsam.sweep.grids import reachable
from ncsam.sweep.plan import Plan, changes_since
from ncsam.sweep.rows import Row
from ncsam.sweep.tuning import by_rule, trials_of, validation_accuracy, widenings
from ncsam.training.config import TrainConfig

_OF_A_SWEEP = ("study.h5", "sweep.json", "plan.json", "tuning.json")  # files beside runs and rows
_CHOSEN_BY_MACHINE = ("memory_format",)  # the same arithmetic but for its order


@dataclasses.dataclass(frozen=True)
class _Found:
    """A run as far as it is known: ``plan`` is None where there is none, and () where that cannot be seen.

    The rest is None where it cannot be seen: the code and the data of the run, of tuning its validation accuracy, and
    the settings of its measurements, which are in rows alone.
    """

    name: str
    arm: str
    seed: int
    role: str
    settings: Mapping[str, Any]
    plan: str | tuple[()] | None
    code: str | None = None
    data: str | None = None
    score: float | None = None
    measures: Mapping[str, Mapping[str, Any]] | None = None


def deviations(plan: Plan, source: CellTable | Path, *, statements: int | None = None) -> list[str]:
    """Every way in which a study departs from its plan, a line each; none where it was followed.

    Args:
        source: the table of the study, its study file, the folder of its sweep, or a folder of rows. Whether runs carry
            the hash of the plan, what made them, and settings that a table does not hold, are seen in folders only;
            that what was chosen follows from the runs of tuning, and how runs were measured, where these or rows are.
        statements: version of the statements that the study is judged by; not compared if none.

    Raises:
        StoreError: there is no study, or a file is damaged.

    >>> from ncsam.sweep import Sweep, draw_up
    >>> from ncsam.study.table import table_of
    >>> plan = draw_up(Sweep.from_dict({"seeds": 2, "noise": ["symmetric:0.4"], "arms": [{"optimizer": "sgd"}]}))
    >>> run = {"name": "sgd-symmetric-0.4-seed0", "arm": "sgd", "optimizer": "sgd", "data": "digits", "model": "mlp",
    ...        "noise": "symmetric", "rate": 0.4, "seed": 0}
    >>> deviations(plan, table_of([run]))
    ['missing: sgd at symmetric:0.4, seed 1']
    """
    sweep = plan.sweep
    found = list(_found(source))
    reported, tried = ([run for run in found if (run.role == REPORTED) == wanted] for wanted in (True, False))
    lines = [f"the package has changed since the plan: {line}" for line in changes_since(plan)]
    if statements is not None and statements != plan.version:
        lines.append(f"judged by version {statements} of the statements, planned is version {plan.version}")
    lines += _missing(sweep.cells(), reported)
    planned = {cell.name: cell for cell in sweep.cells()}
    lines += _extra(planned, reported)
    lines += _settings(plan, planned, reported)
    grid = {cell.name for cell, _ in sweep.tuning_cells()}
    if absent := len(grid - {run.name for run in tried}):
        lines.append(f"missing: {absent} of {len(grid)} runs of tuning")
    else:
        lines += _choices(plan, planned, reported, {run.name: run.score for run in tried if run.score is not None})
    tuning = {cell.name: cell for cell, _ in sweep.reachable_tuning_cells()}
    if other := [run for run in tried if run.name not in tuning]:
        lines.append(f"not in the plan: {_runs(len(other))} of tuning, such as {other[0].name}")
    lines += [f"tuning: {line}" for line in _settings(plan, tuning, tried)]
    return [*lines, *_hashes(plan, found), *_made_by(source, found)]


def _found(source: CellTable | Path) -> Iterator[_Found]:
    """Every run of a source."""
    if isinstance(source, CellTable):
        yield from _in_table(source)
        return
    if not source.is_dir():
        with store.open(source) as file:
            run = file.kind == "run"
        if run:
            yield _of_run(Run(source))
            return
        with store.open(source) as file:
            if file.kind != "study" or "cells" not in file:
                raise StoreError(f"{source}: is a {file.kind} file, expected a study with its table, or a folder")
            record, stamped = file.record("cells"), file.attrs.get("plan", ())
        assert isinstance(record, CellTable)
        yield from _in_table(record, stamped)
        return
    runs = [Run(path) for at in ("runs", "tuning", ".") for path in _runs_in(source / at)]
    rows = [path for path in sorted(source.glob("*.json")) if path.name not in _OF_A_SWEEP]
    if runs or (source / "study.h5").exists():
        yield from map(_of_run, runs)
        if (source / "study.h5").exists():  # of some runs only the rows may have been kept
            there = {run.path.stem for run in runs}
            yield from (run for run in _found(source / "study.h5") if run.name not in there)
    elif rows:
        yield from map(_of_row, rows)
    else:
        raise StoreError(f"{source}: holds no runs (*.h5) and no rows (*.json)")


def _runs_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.h5") if path.name not in _OF_A_SWEEP)


def _of_run(run: Run) -> _Found:
    arm, role = str(run.attrs.get("arm", run.config.optimizer)), str(run.attrs.get("role", REPORTED))
    seed = int(run.attrs.get("seed", run.config.seeds["split"]))
    tried = role != REPORTED and "val" in run.training.views
    return _Found(
        run.path.stem, arm, seed, role, _flat(run.config), run.attrs.get("plan"),
        code=run.attrs.get("code_version"), data=run.attrs.get("data_hash"),
        score=validation_accuracy(run) if tried else None,
    )  # fmt: skip


def _of_row(path: Path) -> _Found:
    try:
        row = Row.read(path)
    except ValueError as error:
        raise StoreError(str(error)) from error
    config = TrainConfig.from_dict(row.configuration["config"])
    arm, role = str(row.configuration["arm"]), str(row.configuration["role"])
    return _Found(
        row.name, arm, config.seeds["split"], role, _flat(config), row.plan,
        code=row.attrs.get("code_version"), data=row.attrs.get("data_hash"),
        score=row.validation_accuracy if role != REPORTED else None, measures=row.configuration["measures"],
    )  # fmt: skip


def _in_table(table: CellTable, stamped: str | tuple[()] = ()) -> Iterator[_Found]:
    for i, name in enumerate(table.names.tolist()):
        given = json.loads(str(table.options[i])).items()
        options = {key if key in OTHERWISE else f"options {key}": value for key, value in given}
        own = ("optimizer", "data", "model", "noise")
        settings = {key: str(getattr(table, key)[i]) for key in own}
        yield _Found(name, str(table.arm[i]), int(table.seed[i]), str(table.role[i]), {**settings, **options}, stamped)


def _flat(config: TrainConfig) -> dict[str, Any]:
    """Every setting of a configuration by a name of its own, as JSON would give it back."""
    settings = dict(plain(config.to_dict()))
    options, seeds = settings.pop("options"), settings.pop("seeds")
    nested = {f"options {key}": value for key, value in options.items()}
    return {**settings, **nested, **{f"seed of the {key}": value for key, value in seeds.items()}}


def _missing(planned: Sequence[Cell], found: Iterable[_Found]) -> Iterator[str]:
    there = {run.name for run in found}
    lacking: dict[tuple[str, str], list[int]] = defaultdict(list)
    for cell in planned:
        if cell.name not in there:
            lacking[cell.arm, cell.config.noise].append(cell.seed)
    for (arm, noise), seeds in lacking.items():
        yield f"missing: {arm} at {noise}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"


def _extra(planned: Mapping[str, Cell], found: Iterable[_Found]) -> Iterator[str]:
    arms = {cell.arm for cell in planned.values()}
    extra = [run for run in found if run.name not in planned]
    for arm, count in Counter(run.arm for run in extra if run.arm not in arms).items():
        yield f"not in the plan: the arm {arm} ({_runs(count)})"
    for run in extra:
        if run.arm in arms:
            yield f"not in the plan: the run {run.name}"


def _settings(plan: Plan, planned: Mapping[str, Cell], found: Iterable[_Found]) -> Iterator[str]:
    """Settings that differ from the plan's; those that tuning chooses must be of one of the arm's candidates."""
    tuned = {arm.name: _candidates(arm, plan) for arm in plan.sweep.arms}
    tuned_at = None if plan.sweep.tuning is None else plan.sweep.tuning.noise
    differing: Counter[str] = Counter()
    chosen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for run in found:
        if run.name not in planned:
            continue
        cell = planned[run.name]
        wanted = _flat(cell.config)
        if run.arm != cell.arm:
            differing[f"{cell.arm}: the arm is {run.arm}"] += 1
        if run.seed != cell.seed:
            differing[f"{cell.arm}: the seed is not that of its name"] += 1
        measures = plain(cell.measures) if run.measures is None else run.measures
        for name in dict.fromkeys([*cell.measures, *measures]):
            if told := _measured(measures.get(name), plain(cell.measures).get(name)):
                differing[f"{cell.arm}: {name} is {told}"] += 1
        candidates = tuned.get(cell.arm, []) if cell.role == REPORTED else []
        free = {_setting(key, wanted) for candidate in candidates for key in candidate}
        if free:
            taken = {key: run.settings[key] for key in sorted(free) if key in run.settings}
            chosen[cell.arm, tuned_at or cell.config.noise].add(json.dumps(taken, sort_keys=True))
            tried = [{_setting(k, wanted): v for k, v in candidate.items()} for candidate in candidates]
            if not any(all(candidate.get(key) == value for key, value in taken.items()) for candidate in tried):
                differing[f"{cell.arm}: {_listed(taken)} is no candidate of its tuning"] += 1
        for key, value in run.settings.items():
            if key in free or key in _CHOSEN_BY_MACHINE or key not in wanted:
                continue
            expected = wanted[key] if key != "noise" or ":" in str(value) else kind_of(wanted[key])
            if value != expected:
                differing[f"{cell.arm}: {key} is {value}, planned {expected}"] += 1
    yield from (f"{line} ({_runs(count)})" for line, count in differing.items())
    for (arm, noise), values in chosen.items():
        if len(values) > 1:
            yield f"{arm}, tuned at {noise}: {len(values)} different settings, where one is chosen for all its runs"


def _measured(found: Mapping[str, Any] | None, planned: Mapping[str, Any] | None) -> str:
    """Say how a measurement differs from the planned one; "" if it does not."""
    if found is None or planned is None:
        return "not measured" if found is None else "measured, which was not planned"
    keys = [key for key in {**planned, **found} if found.get(key) != planned.get(key)]
    own, wanted = (
        ", ".join(f"{key} = {settings.get(key, 'the default')}" for key in keys) for settings in (found, planned)
    )
    return f"measured with {own}, planned {wanted}" if keys else ""


def _choices(
    plan: Plan, planned: Mapping[str, Cell], reported: Iterable[_Found], scores: Mapping[str, float]
) -> Iterator[str]:
    """List where the runs of tuning, which are all there, ask for further runs, or for settings that were not taken."""
    sweep = plan.sweep
    if sweep.tuning is None or not scores:
        return
    known = {cell.name: (cell, candidate) for cell, candidate in sweep.tuning_cells()}  # first, as when choosing
    known |= {cell.name: (cell, candidate) for cell, candidate in sweep.reachable_tuning_cells()}
    there = [known[name] for name in known if name in scores]
    begun = [(cell.arm, cell.config.noise, candidate) for cell, candidate in there]
    for name, (cell, candidate) in known.items():
        if name not in scores and (cell.arm, cell.config.noise, candidate) in begun:
            yield f"missing: {name}"
    tried = trials_of(there, lambda cell: scores[cell.name])
    counts = {arm.name: sweep.tuning.count(arm) for arm in sweep.arms}
    for (arm, noise), trials in tried.items():
        if more := widenings(trials, counts[arm], sweep.tuning.widen, partial(sweep.possible, arm, noise)):
            yield f"missing: tuning of {arm} at {noise} with {_listed(more[0])}, since the best lies at the grid's end"
    differing: Counter[str] = Counter()
    for run in reported:
        if run.name not in planned or (cell := planned[run.name]).replays is not None:
            continue
        trials, wanted = tried.get((cell.arm, sweep.tuning.noise or cell.config.noise), []), _flat(cell.config)
        for trial in trials:
            taken = all(run.settings.get(_setting(key, wanted)) == value for key, value in trial.candidate.items())
            others = [other for other in trials if other is not trial]
            if taken and (chosen := by_rule([trial, *others])) is not trial:  # of equals the first is chosen
                differing[
                    f"{cell.arm}: {_listed(trial.candidate)}, where tuning chooses {_listed(chosen.candidate)}"
                ] += 1
    yield from (f"{line} ({_runs(count)})" for line, count in differing.items())


def _candidates(arm: Arm, plan: Plan) -> list[dict[str, Any]]:
    """List what tuning may choose for an arm; a replay takes the configuration's fields from the arm it is like."""
    arms = {planned["name"]: planned for planned in plan.content["arms"]}
    tuning = plan.content["tuning"]
    candidates = reachable(arms[arm.like or arm.name]["candidates"], 0 if tuning is None else tuning["widen"])
    if arm.like is None:
        return candidates
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    return [shared for c in candidates if (shared := {key: value for key, value in c.items() if key in fields})]


def _setting(key: str, wanted: Mapping[str, Any]) -> str:
    return f"options {key}" if f"options {key}" in wanted else key


def _hashes(plan: Plan, found: Iterable[_Found]) -> Iterator[str]:
    carried = Counter(run.plan for run in found if run.plan != ())
    for value, count in carried.items():
        if value != plan.hash:
            yield f"{_runs(count)} {'carries' if count == 1 else 'carry'} {plan_named(value or None)}"


def _made_by(source: CellTable | Path, found: Iterable[_Found]) -> Iterator[str]:
    """Several versions of the code, and runs of one seed on different data."""
    seen = Counter(run.code for run in found if run.code is not None)
    codes = max(seen, _stamped_codes(source), key=Counter.total)  # of some runs only the rows may have been kept
    if len(codes) > 1:
        shown = Counter({re.sub(r"(?<=[0-9a-f]{12})[0-9a-f]{28}", "…", code): count for code, count in codes.items()})
        told = ", ".join(f"{code} {_runs(count)}" for code, count in shown.most_common())
        yield f"runs were made by {len(codes)} versions of the code: {told}"
    data: dict[int, Counter[str]] = defaultdict(Counter)
    for run in found:
        if run.data is not None:
            data[run.seed][run.data] += 1
    for seed, hashes in data.items():
        if len(hashes) > 1:
            told = ", ".join(f"{value[:12]}… {_runs(count)}" for value, count in hashes.most_common())
            yield f"runs of seed {seed} are of different data: {told}"


def _stamped_codes(source: CellTable | Path) -> Counter[str]:
    """The versions of the code that made the runs of a study file."""
    if isinstance(source, CellTable):
        return Counter()
    path = source / "study.h5" if source.is_dir() else source
    if not path.exists():
        return Counter()
    with store.open(path) as file:
        return Counter({str(code): int(count) for code, count in file.attrs.get("stamps", {}).get("code_version", [])})


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.removeprefix('options ')} = {value}" for key, value in values.items())


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"
