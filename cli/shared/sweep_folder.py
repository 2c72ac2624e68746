"""Parts that the commands share which run many runs: their folder, their failures, their table."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from . import messages, tables

if TYPE_CHECKING:
    from ncsam.records import CellTable
    from ncsam.sweep import Cluster, Failure, Plan, Rows, Sweep, SweepFolder

_COLUMNS = {
    "test_accuracy": ("test accuracy", "{:.1%}"),
    "best_accuracy": ("best epoch", "{:.1%}"),
    "memorisation": ("memorised", "{:.0%}"),
    "perturbation_norm": ("mean ‖ε‖", "{:.3f}"),
    "adaptive/mixed": ("adaptive sharpness", "{:.3f}"),
    "top_eigenvalue/mixed": ("λ1", "{:.1f}"),
}


def open_folder(
    sweep: Sweep, out: Path, *, overwrite: bool, resume: bool, plan: Plan | None = None, rows: Rows | None = None
) -> SweepFolder:
    """The folder to fill; refused if it holds anything, unless the sweep is resumed or started over."""
    from ncsam.sweep import SweepFolder

    if out.exists() and not out.is_dir():
        raise click.BadParameter(f"{out} is a file, expected a folder", param_hint="--out")
    if out.exists() and any(out.iterdir()) and not (overwrite or resume):
        raise click.UsageError(f"{out}: the folder is not empty; choose another, --overwrite, or --resume")
    anew = overwrite and not resume
    folder = SweepFolder.create(sweep, out, plan=plan, rows=rows, overwrite=anew)
    if anew:
        folder.clear()
    return folder


@contextmanager
def connected(scheduler: str | None) -> Iterator[Cluster | None]:
    """The Dask cluster at an address, if there is one."""
    if scheduler is None:
        yield None
        return
    from ncsam.sweep import Cluster

    try:
        import distributed  # noqa: F401 - its loggers exist then
    except ImportError as error:
        raise click.UsageError("--scheduler needs dask.distributed: pip install 'ncsam-landscape[sweep]'") from error
    # Dask tells of lost connections and dead workers at length; what of it concerns the sweep, the sweep says.
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":  # several have a level of their own
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with Cluster(scheduler) as cluster:
        yield cluster


def tuning_told(choices: Sequence[Mapping[str, Any]]) -> list[str]:
    """Summarise the tuning, a line each: what was chosen, of how many candidates, how surely, how equally."""
    lines = []
    for choice in choices:
        means = {spelled(candidate): mean for candidate, mean in choice["tried"]}
        chosen, best = spelled(choice["chosen"]), spelled(choice["best"])
        line = f"{choice['arm']} at {choice['noise']}: {chosen} ({means[chosen]:.1%} of {len(means)} candidates"
        line += "" if chosen == best else f"; best is {best}, {means[best]:.1%}"
        line += f"; {choice['within']} within one standard error"
        line += f"; tied with the best: {', '.join(map(spelled, choice['tied']))}" if choice["tied"] else ""
        lines.append(f"{line})")
        lines += [f"  {key}: {told}" for key, told in choice["at_edge"].items()]
        alone = [f"{one['seed']} {spelled(one['chosen'])} {_alone(one)}" for one in choice["alone"]]
        lines.append(f"  each seed alone: {'; '.join(alone)}")
    widened = [f"{c['arm']} at {c['noise']} by {c['extra']} ({spelled(c['widened'])})" for c in choices if c["extra"]]
    asked = ", ".join(sorted({str(choice["asked"]) for choice in choices}))
    lines.append(
        f"equal effort: {asked} candidates for each arm on {len(choices[0]['seeds'])} seeds"
        + (f"; then widened: {', '.join(widened)}" if widened else "; no grid was widened")
    )
    return lines


def spelled(candidate: Mapping[str, Any]) -> str:
    """A candidate in a line."""
    return ", ".join(f"{key} = {value}" for key, value in candidate.items())


def _alone(one: Mapping[str, Any]) -> str:
    elsewhere = "" if one["elsewhere"] is None else f", {one['elsewhere']:.1%} on the others"
    return f"({one['accuracy']:.1%} there{elsewhere})"


def refuse_unfinished(folder: SweepFolder) -> None:
    """Refuse to draw a table from runs that are not complete."""
    found = [folder.status().unfinished, folder.tuning_status().unfinished]
    if names := [name for of_role in found for name in of_role]:
        raise click.UsageError(
            f"{folder.root}: {len(names)} runs are not complete, such as {names[0]}; see --status {folder.root}"
        )


def refuse_failures(failures: Sequence[Failure], total: int) -> None:
    """Say which runs failed and end with status 1, if any did."""
    for failure in failures:
        messages.error(f"{failure.cell.name}: {failure.reason}")
    if failures:
        raise click.ClickException(f"{len(failures)} of {total} runs failed; repeat with --resume")


def show_table(table: CellTable) -> str:
    """Arm by noise: mean over the reported seeds and their standard deviation."""
    shown = [name for name in _COLUMNS if name in table.endpoints.tolist()]
    spelled = [f"{noise}:{rate:g}" for noise, rate in zip(table.noise, table.rate, strict=True)]
    rows = []
    for noise in dict.fromkeys(spelled):
        for arm in dict.fromkeys(table.arm.tolist()):
            here = (np.array(spelled) == noise) & (table.arm == arm) & (table.role == "reported")
            if not here.any():
                continue
            cells = [_spread(table.value[here, table.endpoints.tolist().index(n)], _COLUMNS[n][1]) for n in shown]
            rows.append([noise, arm, str(int(here.sum())), *cells])
    heads = ["noise", "arm", "runs", *(_COLUMNS[name][0] for name in shown)]
    return f"Mean ± standard deviation over the seeds\n{tables.table(heads, rows)}"


def _spread(values: np.ndarray, form: str) -> str:
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    return form.format(values.mean()) + (f" ±{form.format(values.std(ddof=1))}" if len(values) > 1 else "")
