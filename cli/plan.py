"""``landscape plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from landscape._files import folders_for

from .shared import completion, messages, options, tables

if TYPE_CHECKING:
    from ncsam.sweep import Plan


@options.command("plan")
@click.argument("sweep", metavar="[SWEEP.toml]", required=False, type=click.Path(path_type=Path))
@options.section("The sweep")
@click.option(
    "--preset",
    shell_complete=completion.SWEEP_PRESET,
    help="Plan a sweep that comes with the package: see `landscape sweep --preset list`.",
)
@click.option(
    "--statements",
    type=options.count(1, 99),
    show_default="the newest",
    help="Version of the statements by which the study will be judged.",
)
@options.section("Instead of drawing up")
@click.option(
    "--check",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Compare a plan with its hash, and with what the installed version would do.",
)
@options.section("Output")
@options.out("File to write; folders are made.", "none, to show only", metavar="FILE.json")
@options.OVERWRITE
@options.JSON
@options.CONFIG
@options.QUIET
def command(
    sweep: Path | None,
    preset: str | None,
    statements: int | None,
    check: Path | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fix a study before its data: what is run, how it is judged, what it can find.

    The plan holds endpoints, contrasts and smallest effects of the statements, arms, grids, seeds and settings of the
    sweep, and what its table [plan] says: exclusions, pilots, and standard deviations, for which it gives the smallest
    true effect that would be found. Commit it before the first run: its SHA-256 is in every run of `landscape sweep
    --plan`, and `landscape theory --plan` lists what was done otherwise.

    \b
    Examples:
      landscape plan --preset digits --out plan.json
      landscape plan --check plan.json
    """
    from ncsam.sweep import Plan, Sweep, draw_up
    from ncsam.sweep.plan import changes_since

    if sum(given is not None for given in (sweep, preset, check)) != 1:
        raise click.UsageError("give a SWEEP.toml, a --preset, or a plan to --check")
    if check is not None:
        plan = Plan.read(check)
        changes = changes_since(plan)
        _show(plan, check, as_json, changes)
        for line in changes:
            messages.error(line)
        if changes:
            raise click.ClickException(f"{check}: this version would not do what the plan says")
        return
    if out is not None and out.exists() and not overwrite:
        raise click.UsageError(f"{out}: the file exists; choose another name, or --overwrite")
    plan = draw_up(Sweep.from_toml(sweep) if sweep is not None else Sweep.preset(str(preset)), statements)
    if out is not None:
        with folders_for(out):
            plan.write(out)
    _show(plan, out, as_json, [])


def _show(plan: Plan, path: Path | None, as_json: bool, changes: list[str]) -> None:
    content = plan.content
    if as_json:
        file = None if path is None else str(path)
        tables.echo_json({"kind": "plan", "file": file, "sha256": plan.hash, "changes": changes, "plan": content})
        return
    seeds, tuning = (content["seeds"][role] for role in ("reported", "tuning"))
    rows = [
        [arm["name"], arm["optimizer"], " ".join(arm["noise"]), str(len(arm["candidates"]) or "")]
        for arm in content["arms"]
    ]
    click.echo(tables.table(["arm", "optimizer", "noise", "candidates"], rows))
    tuned = f", tuned on seeds {', '.join(map(str, tuning))}" if tuning else ""
    click.echo(f"seeds {', '.join(map(str, seeds))}{tuned}; statements of version {plan.version}\n")
    power = content["power"]
    effects = [
        [
            entry["statement"],
            entry["contrast"],
            f"{entry['smallest_effect']:g}",
            "" if entry["sd"] is None else f"{entry['sd']:g} ({entry['source']})",
            "" if entry["smallest_true_effect"] is None else f"{entry['smallest_true_effect']:g}",
        ]
        for entry in power["contrasts"]
    ]
    heads = ["", "contrast", "m", "sd of a seed's effect", f"found with {power['power']:.0%}"]
    click.echo(tables.table(heads, effects))
    for what in ("exclusions", "pilots"):
        for entry in content[what]:
            told = entry if isinstance(entry, str) else f"{entry['name']}; looked at: {entry['looked_at']}"
            click.echo(f"{what.removesuffix('s')}: {told}")
    click.echo(f"\n{path or 'not written: add --out FILE.json'}: {content['created']}, SHA-256 {plan.hash}")
