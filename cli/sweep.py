"""``landscape sweep``."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from landscape._suggest import did_you_mean
from landscape.inputs import limits

from .shared import completion, options, progress, tables
from .shared.training_options import override

if TYPE_CHECKING:
    from ncsam.sweep import Cell, Failure, Plan, Sweep, SweepFolder

_ARM_OPTIONS = ("rho", "kappa", "flip_ratio")
_TRAIN = ("data", "model", "epochs", "batch_size", "lr", "weight_decay", "train_samples", "test_samples")


def _list_presets(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Callback: ``list`` prints the names of the presets and ends the command."""
    if value == "list":
        from ncsam.sweep import presets

        for name, text in presets().items():
            click.echo(f"{name}: {text.splitlines()[0].removeprefix('# ')}")
        ctx.exit()
    return value


@options.command("sweep")
@options.section("The sweep")
@click.option(
    "--preset",
    is_eager=True,
    callback=_list_presets,
    shell_complete=completion.SWEEP_PRESET,
    help="Sweep that comes with the package: demo, digits, cifar10-small, paper; list prints them all.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Run the sweep that this file describes; it holds no defaults of options here.",
)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Run exactly the sweep of this plan; every run carries its hash.",
)
@options.section("Data and noise")
@override("data", "Data set of all runs, as for `landscape train`.")
@override("model", "Model of all runs.", shell_complete=completion.MODEL)
@click.option("--noise", help="Label noise, separated by spaces: 'symmetric:0.0 symmetric:0.4'.")
@options.section("Arms and seeds")
@click.option(
    "--optimizer",
    callback=options.split,
    shell_complete=completion.OPTIMIZERS,
    help="Arms, comma-separated: sgd,sam,ncsam.",
)
@click.option("--rho", callback=options.split, help="Radii to sweep, comma-separated, for arms that have one.")
@click.option("--kappa", callback=options.split, help="Values of NCSAM's kappa to sweep, comma-separated.")
@click.option("--flip-ratio", callback=options.split, help="Values of NCSAM's flip ratio to sweep, comma-separated.")
@click.option("--seeds", help="Number of seeds, or seeds: 10, 0-9 or 3,5,8.")
@options.section("Training")
@override("epochs", "Epochs of all runs.")
@override("batch_size", "Samples in a step.")
@override("lr", "Learning rate.")
@override("weight_decay", "Weight decay.")
@override("train_samples", "Use only the first N training samples.")
@override("test_samples", "Use only the first N test samples.")
@options.section("Measured on each run")
@click.option(
    "--measure",
    callback=options.split,
    show_default="the config's",
    help="Measurements, comma-separated: hessian,sharpness,line,plane, ….",
)
@options.section("Output")
@options.out("Folder to fill: run files, table, study file.", "named after preset, config or plan, else sweep")
@click.option(
    "--rows",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a row of each complete cell to this folder at once, and skip cells that have one.",
)
@options.section("Computation")
@click.option("--workers", type=options.count(1, 4096), show_default="the cores", help="Processes, one thread each.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on a Dask cluster instead, such as tcp://host:8786.")
@click.option("--shard", metavar="I/N", help="Run only every N-th cell from the I-th on: one job of an array.")
@options.section("Instead of running")
@click.option("--print", "show", is_flag=True, help="Print the sweep as JSON and stop.")
@click.option("--dry-run", is_flag=True, help="Print the cells with estimated time and disk, and stop.")
@click.option(
    "--status", type=click.Path(path_type=Path), metavar="DIR", help="Print the progress of a sweep, and stop."
)
@click.option(
    "--finish", type=click.Path(path_type=Path), metavar="DIR", help="Write the table of complete runs, and stop."
)
@options.TRUST
@options.LIMITS
@options.OVERWRITE
@options.RESUME
@options.JSON
@options.QUIET
def command(
    plan_file: Path | None,
    out: Path | None,
    rows: Path | None,
    workers: int | None,
    scheduler: str | None,
    shard: str | None,
    dry_run: bool,
    status: Path | None,
    finish: Path | None,
    show: bool,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
    trust: bool,
    **choices: Any,
) -> None:
    """Train and measure many runs to be compared, and write one table.

    Noise kinds and rates x optimizers and controls x seeds. Flags override what a preset or --config describes.
    Runs are paired by seed, computed in parallel processes, and kept when complete: --resume continues after any stop,
    also with more seeds. A failed run is reported, and the others continue.

    \b
    Examples:
      landscape sweep --optimizer sgd,sam --rho 0.05,0.2 --noise symmetric:0.4 --seeds 2 --epochs 5 --out small/
      landscape sweep --status small/
      landscape sweep --preset digits --dry-run
      landscape sweep --preset list
      landscape sweep --optimizer sgd,sam --seeds 1 --epochs 2 --shard 1/2 --out jobs/
      landscape sweep --optimizer sgd,sam --seeds 1 --epochs 2 --shard 2/2 --out jobs/
      landscape sweep --finish jobs/
    """
    from ncsam.sweep import Rows, SweepFolder, run_cells
    from ncsam.sweep.folder import shard as every_nth

    from .shared.sweep_folder import connected, open_folder, refuse_failures, refuse_unfinished, tuning_told

    kept = None if rows is None else Rows(rows)
    if status is not None:
        _show_status(SweepFolder.open(status, kept), as_json)
        return
    if finish is not None:
        folder = SweepFolder.open(finish, kept)
        refuse_unfinished(folder)
        _finish(folder, as_json)
        return
    if scheduler is not None and (workers is not None or shard is not None):
        raise click.UsageError("--scheduler runs on the cluster's workers; leave --workers and --shard out")
    plan = None if plan_file is None else _planned(plan_file, choices)
    sweep = _described(choices) if plan is None else plan.sweep
    if show:
        click.echo(json.dumps(sweep.description, indent=1))
        return
    sweep = _trusted(sweep, choices, trust)
    workers = workers or os.cpu_count() or 1
    cells = sweep.cells()
    part = every_nth(cells, *_shard(shard))
    if dry_run:
        _show_plan(sweep, part, workers, as_json)
        return
    out = out or Path(_named(choices, plan_file))
    if kept is not None and kept.folder.exists() and not kept.folder.is_dir():
        raise click.BadParameter(f"{rows} is a file, expected a folder", param_hint="--rows")
    with connected(scheduler) as cluster:
        going_on = resume or shard is not None
        folder = open_folder(sweep, out, overwrite=overwrite, resume=going_on, plan=plan, rows=kept)
        if cluster is not None:
            cluster.check(folder.description)
        runner: Callable[..., list[Failure]] = (
            partial(run_cells, workers=workers) if cluster is None else cluster.run_cells
        )
        runner = partial(runner, command=progress.command_line())
        if sweep.tuning is not None:
            bar = progress.bar("tuning", quiet, resumable=True, unit="run")
            failures, chosen = folder.tune(runner, _shard(shard), progress=bar)
            refuse_failures(failures, len(sweep.tuning_cells()))
            if not chosen:
                click.echo(
                    f"{out}: tuning, shard {shard} is complete, others are not; start all shards once more later"
                )
                return
            for line in tuning_told(folder.choices() or []):
                progress.notes.info("tuning: %s", line)
        cells = folder.cells()
        part = every_nth(cells, *_shard(shard))
        bar = progress.bar("train and measure", quiet, resumable=True, unit="run")
        refuse_failures(folder.run(part, runner, progress=bar), len(part))
    if shard and as_json:
        click.echo(
            json.dumps({"kind": "shard", "file": str(out), "cells": [cell.name for cell in part], "of": len(cells)})
        )
        return
    if shard:
        again = f"{progress.program()} sweep --finish {shlex.quote(str(out))}"
        click.echo(f"{out}: {len(part)} of {len(cells)} cells, shard {shard}; after all shards, the table: {again}")
        return
    _finish(folder, as_json)


def _finish(folder: SweepFolder, as_json: bool) -> None:
    """Write the table and print it."""
    from .shared.sweep_folder import show_table

    table, written = folder.finish(command=progress.command_line())
    if as_json:
        click.echo(tables.as_json(table, file=Path(written[0]), name="cells"))
        return
    click.echo(show_table(table))
    click.echo()
    for path in written:
        click.echo(f"  {path}")
    click.echo(f"  {progress.program()} theory {written[0]}  # the verdicts")


def _named(choices: Mapping[str, Any], plan: Path | None) -> str:
    """Name the folder of a sweep after the description that it was started from."""
    if choices["preset"] is not None:
        return str(choices["preset"])
    described = choices["config"] if plan is None else plan
    return "sweep" if described is None else Path(described).stem


def _planned(path: Path, choices: Mapping[str, Any]) -> Plan:
    """The plan of a file; what would change it is refused, each in a line."""
    from ncsam.sweep import Plan
    from ncsam.sweep.plan import refuse_changes, resolved

    from .shared import messages

    if choices["preset"] is not None or choices["config"] is not None:
        raise click.UsageError("a plan contains its sweep; leave --preset and --config out")
    plan = Plan.read(path)
    refuse_changes(plan)
    refused = []
    for name in (name for name, value in choices.items() if value is not None):
        alone = {**dict.fromkeys(choices), name: choices[name]}
        if resolved(_over(dict(plan.content["sweep"]), alone)) != resolved(plan.sweep):
            flag = f"--{name.replace('_', '-')} {_typed(choices[name])}"
            refused.append(f"{flag} would change the plan {path}; leave it out")
    for line in refused[:-1]:
        messages.error(line)
    if refused:
        raise click.UsageError(refused[-1])
    return plan


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _described(choices: Mapping[str, Any]) -> Sweep:
    """The sweep of a preset or a file, with the flags put over it."""
    import tomllib

    from ncsam.sweep import Sweep, presets

    preset, config = choices["preset"], choices["config"]
    if preset is not None and config is not None:
        raise click.UsageError("--preset and --config describe two sweeps; give one")
    if preset is not None:
        known = presets()
        if preset not in known:
            hint = did_you_mean(preset, known)
            raise click.BadParameter(f"{preset!r}, expected one of {', '.join(known)}{hint}", param_hint="--preset")
        described: dict[str, Any] = tomllib.loads(known[preset])
    elif config is not None:
        described = dict(Sweep.from_toml(config).description)
    else:
        described = {"seeds": 5, "noise": ["symmetric:0.0", "symmetric:0.4"], "measure": {"sharpness": {}}}
        described["arms"] = [{"optimizer": name} for name in ("sgd", "sam", "ncsam")]
    data = choices["data"] or str(described.get("train", {}).get("data", ""))
    if data.endswith(":DIR"):
        kind = data.removesuffix(":DIR")
        raise click.UsageError(f"preset {preset} does not know where the data are; add --data {kind}:FOLDER")
    return _over(described, choices)


def _over(described: dict[str, Any], choices: Mapping[str, Any]) -> Sweep:
    """The sweep of a description with the flags put over it."""
    from ncsam.sweep import Sweep

    described["train"] = {**described.get("train", {}), **{k: choices[k] for k in _TRAIN if choices[k] is not None}}
    if choices["noise"]:
        described["noise"] = choices["noise"].split()
        described["arms"] = [_at(arm, described["noise"]) for arm in described["arms"]]
        described["arms"] = [arm for arm in described["arms"] if arm.get("noise") != []]
    if choices["seeds"]:
        described["seeds"] = _seeds(choices["seeds"])
    if choices["measure"]:
        kept = described.get("measure", {})
        described["measure"] = {name: kept.get(name, {}) for name in choices["measure"]}
    described["arms"] = _arms(described["arms"], choices)
    return Sweep.from_dict(described)


def _trusted(sweep: Sweep, choices: Mapping[str, Any], trust: bool) -> Sweep:
    """The sweep, allowed to import what it names, which was typed here or confirmed."""
    source_of = click.get_current_context().get_parameter_source
    typed = {choices[name] for name in ("data", "model") if source_of(name) is ParameterSource.COMMANDLINE}
    typed |= set(choices["optimizer"] or ())
    named = {n for cell in sweep.cells() for n in (cell.config.data, cell.config.model, cell.config.optimizer)}
    options.refuse_imports(sorted(named - typed), trust)
    return dataclasses.replace(sweep, trust=True)


def _at(arm: Mapping[str, Any], noise: Sequence[str]) -> dict[str, Any]:
    """The arm, kept to those of its own noise that are asked for."""
    return {**arm, **({"noise": [n for n in arm["noise"] if n in noise]} if "noise" in arm else {})}


def _arms(arms: Sequence[Mapping[str, Any]], choices: Mapping[str, Any]) -> list[dict[str, Any]]:
    from ncsam.optimizers import options_of

    if choices["optimizer"]:
        arms = [{"optimizer": name} for name in choices["optimizer"]]
    swept = {name: [_number(name, v) for v in choices[name]] for name in _ARM_OPTIONS if choices[name]}
    for name in swept:
        if not any(name in options_of(arm["optimizer"]) for arm in arms):
            raise click.UsageError(f"no arm has an option {name}; arms: {', '.join(a['optimizer'] for a in arms)}")
    found = []
    for arm in arms:
        of_arm = {k: v if len(v) > 1 else v[0] for k, v in swept.items() if k in options_of(arm["optimizer"])}
        found.append({**arm, **of_arm})
    return found


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        hint = f"--{name.replace('_', '-')}"
        raise click.BadParameter(f"{text!r} is not a number", param_hint=hint) from None


def _seeds(text: str) -> int | list[int]:
    """``10``, ``0-9`` or ``3,5,8``."""
    if re.search(r"\d{20}", text):
        raise click.BadParameter(f"{text[:30]!r}…, expected numbers below {2**32}", param_hint="--seeds")
    if re.fullmatch(r"\d+", text):
        return int(text)
    if match := re.fullmatch(r"(\d+)-(\d+)", text):
        first, last = int(match[1]), int(match[2])
        if last - first >= limits().cells:
            raise click.BadParameter(f"{text!r} are {last - first + 1} seeds; see --limits", param_hint="--seeds")
        return list(range(first, last + 1))
    if re.fullmatch(r"\d+(,\d+)+", text):
        return [int(seed) for seed in text.split(",")]
    raise click.BadParameter(
        f"{text!r}, expected a number such as 10, or seeds such as 0-9 or 3,5,8", param_hint="--seeds"
    )


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise click.BadParameter(f"{text!r}, expected I/N such as 2/8", param_hint="--shard")
    return int(match[1]), int(match[2])


def _show_plan(sweep: Sweep, cells: Sequence[Cell], workers: int, as_json: bool) -> None:
    from ncsam.sweep.estimate import estimate

    tuning = [cell for cell, _ in sweep.tuning_cells()]
    cost = estimate([*tuning, *cells], trust=sweep.trust)
    seconds = cost.seconds / workers
    if as_json:
        names = {"cells": [c.name for c in cells], "tuning": [c.name for c in tuning]}
        tables.echo_json({"kind": "plan", **names, "workers": workers, "seconds": seconds, "bytes": cost.bytes})
        return
    rows = []
    for arm in sweep.arms:
        of_arm = [cell for cell in cells if cell.arm == arm.name]
        noise = list(dict.fromkeys(cell.config.noise for cell in of_arm))
        own = {**arm.options, **arm.train}
        shown = " ".join(
            f"{k}={own[k]}" for k in ("rho", "kappa", "flip_ratio", "sign", "project", *arm.train) if k in own
        )
        rows.append([arm.name, arm.optimizer, shown, " ".join(noise), str(len(of_arm))])
    click.echo(tables.table(["arm", "optimizer", "settings", "noise", "runs"], rows))
    tried = f" and {len(tuning)} runs of tuning" if tuning else ""
    click.echo(f"{len(cells)} runs{tried}; {len(sweep.seeds)} seeds; measured on each: {', '.join(sweep.measures)}")
    click.echo(
        f"about {_duration(seconds)} on {workers} processes, {cost.bytes / 2**20:.0f} MiB for labels and weights"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _show_status(folder: SweepFolder, as_json: bool) -> None:
    runs, tuning = folder.status(), folder.tuning_status()
    if as_json:
        chosen = folder.choices() or []
        tables.echo_json(
            {"kind": "status", "file": str(folder.root), **vars(runs), "tuning": vars(tuning), "choices": chosen}
        )
        return
    found = {"tuning runs": tuning, "runs": runs} if folder.sweep.tuning is not None else {"runs": runs}
    for what, progressed in found.items():
        total = len(progressed.complete) + len(progressed.unfinished)
        click.echo(
            f"{folder.root}: {len(progressed.complete)} of {total} {what} complete, {len(progressed.begun)} begun"
        )
        for state in ("damaged", "begun", "pending"):
            for name in getattr(progressed, state):
                click.echo(f"  {state:<8} {name}")
    if choices := folder.choices():
        from .shared.sweep_folder import tuning_told

        click.echo("\n".join(tuning_told(choices)))
