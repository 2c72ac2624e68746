"""``landscape surface``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from .shared import completion, direction_options, options, progress, surface_options, tables, torchrun


@options.command("surface")
@options.measuring("", shown="after what it is")
@options.SUBSET
@options.section("Surface")
@click.option(
    "--checkpoint",
    "epoch",
    cls=options.Renamed,
    former="--epoch",
    default="last",
    show_default=True,
    shell_complete=completion.CHECKPOINT,
    help="Epoch whose weights are the centre.",
)
@click.option("--plane", is_flag=True, help="Measure a plane along two directions instead of a line.")
@click.option(
    "--points", type=options.count(2, 100_001), show_default="51 in 1D, 25 in 2D", help="Points along each direction."
)
@click.option(
    "--span",
    type=options.positive(),
    show_default="1, and from 0 to 1 between runs",
    help="Displacements from -span to span, in units of the directions.",
)
@direction_options.DIRECTIONS
@surface_options.EVALUATION
def command(
    run: Path,
    name: str | None,
    epoch: str,
    plane: bool,
    points: int | None,
    span: float | None,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """1D or 2D loss surfaces of a run, on every view.

    Loss and accuracy along random or chosen directions, or on the way to another run.

    \b
    Examples:
      landscape surface run.h5
      landscape surface run.h5 --plane --points 11 --span 0.5 --name close
      landscape surface run.h5 --plane --tol 0.02 --auto-range 2 --name fine
      landscape surface run.h5 --views mixed,labels:symmetric:0.6 --name relabelled
      landscape surface run.h5 --draws 3 --name bands
      landscape surface run.h5 --plane --points 9 --directions trajectory --name way
      landscape surface run.h5 --directions between:sam.h5
      landscape surface run.h5 --subset 1000 --name part
    """
    from landscape.records import Connection, Line, Plane, Status
    from ncsam.measurements.directions import usual_span
    from ncsam.measurements.measurement import Subset, objective_of
    from ncsam.measurements.resumable import Where
    from ncsam.runs.run import Run

    spec = choices["directions"]
    way = spec.startswith("between:") and not plane
    name = name or ("plane" if plane else "connection" if way else "line")
    if way or choices["draws"] > 1:
        choices = surface_options.only_for_one_surface(choices, "between:" if way else "--draws")
    if span is not None and choices.get("rise"):
        raise click.UsageError("--span and --auto-range both choose the span; leave one out")
    low, high = usual_span(spec, 1 + plane) if span is None else (-span, span)
    if way and span is not None:
        raise click.UsageError("--span does not go with the way to another run, which goes from 0 to 1")
    grid = np.linspace(low, high, points or (25 if plane else 51)).tolist()
    bar = progress.bar("surface", quiet, resumable=True, unit="point")
    choices["provenance"], choices["forecast"] = options.provenance(), progress.forecast("surface")
    opened = Run(run, trust=choices["trust"])
    choices["views"], choices["ranks"] = options.views(opened, choices["views"]), torchrun.ranks()
    found = direction_options.measure(opened, name, plane=plane, grid=grid, epoch=epoch, progress=bar, **choices)
    if as_json:
        click.echo(tables.as_json(found, file=run, name=f"surface/{name}"))
        return
    drawing = Subset.of(choices["subset"], choices["subset_seed"])
    where: Where = {"dtype": choices["dtype"], "device": choices["device"]}
    here = objective_of(opened, epoch, found.views.tolist(), where, drawing).evaluate().loss
    errors = found.loss_sampling_error
    rows: list[list[str]] = []
    axis = found.variables()["loss"].dims.index("view")
    by_view, statuses = np.moveaxis(found.loss, axis, 0), np.moveaxis(found.status, axis, 0)
    for view, loss, of_view in zip(found.views, by_view, statuses, strict=True):
        finite = loss[np.isfinite(loss)]
        centre = f"{here[view]:.4g}" if errors is None else tables.with_error(here[view], errors[len(rows)])
        ends = [f"{finite.min():.4g}", f"{finite.max():.4g}"] if finite.size else ["", ""]
        empty = bool((of_view == Status.EMPTY).all())
        rows.append([str(view), *(["empty", "", "", ""] if empty else [centre, *ends, str(loss.size - finite.size)])])
        if isinstance(found, Connection):
            rows[-1].append(f"{found.barrier[len(rows) - 1]:.4g}")
    click.echo(f"{run}: surface/{name}, {by_view[0].size} points")
    head = ["view", f"loss at the weights{'' if errors is None else ' ± s.e.'}", "lowest", "highest", "not finite"]
    click.echo(tables.table([*head, "barrier"] if isinstance(found, Connection) else head, rows))
    if found.subset is not None:
        click.echo(tables.on_subset(found.subset, found.subset_seed))
    if isinstance(found, Line | Plane):
        click.echo(surface_options.summary(found, choices["dtype"]))
