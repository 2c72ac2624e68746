"""``landscape surface``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import numpy as np

from . import options, progress, tables


@click.command("surface")
@options.measuring("[line or plane]")
@click.option("--epoch", default="last", show_default=True, help="Checkpoint.")
@click.option("--plane", is_flag=True, help="Two directions instead of one.")
@click.option("--points", type=click.IntRange(min=2), help="Points a direction [default: 51 in 1D, 25 in 2D].")
@click.option(
    "--span", type=float, default=1.0, show_default=True, help="Displacements from -span to span, in filter norms."
)
def command(
    run: Path,
    name: str,
    epoch: str,
    plane: bool,
    points: int | None,
    span: float,
    trust: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Loss and accuracy of every view along filter-normalised random directions.

    \b
    Examples:
      landscape surface run.h5
      landscape surface run.h5 --plane --points 11 --span 0.5 --name close
    """
    from ncsam.analyses import measure_line, measure_plane
    from ncsam.run import Run

    if not (math.isfinite(span) and span > 0):
        raise click.BadParameter(f"is {span}, expected a finite number > 0", param_hint="--span")
    name = {"[line or plane]": "plane" if plane else "line"}.get(name, name)
    grid = np.linspace(-span, span, points or (25 if plane else 51)).tolist()
    common = {**choices, "epoch": epoch, "progress": progress.bar("surface", quiet, resumable=True, unit="point")}
    opened = Run(run, trust=trust)
    found = (
        measure_plane(opened, name, alphas=grid, betas=grid, **common)
        if plane
        else measure_line(opened, name, alphas=grid, **common)
    )
    if as_json:
        click.echo(tables.as_json(found))
        return
    objective = opened.objective(epoch, found.views.tolist(), dtype=getattr(__import__("torch"), choices["dtype"]))
    here = objective.evaluate().loss
    rows = []
    for view, loss in zip(found.views, found.loss, strict=True):
        finite = loss[np.isfinite(loss)]
        cells = (
            [f"{here[view]:.4g}", f"{finite.min():.4g}", f"{finite.max():.4g}"] if finite.size else ["empty", "", ""]
        )
        rows.append([str(view), *cells, str(int((~np.isfinite(loss)).sum()))])
    click.echo(f"{run}: surface/{name}, {found.loss[0].size} points")
    click.echo(tables.table(["view", "loss at the weights", "lowest", "highest", "not finite"], rows))
