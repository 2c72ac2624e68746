"""``landscape sharpness``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options, progress, tables


@click.command("sharpness")
@options.measuring("default")
@options.EPOCHS
@click.option("--rho", type=float, default=0.05, show_default=True, help="Radius of the SAM ball.")
@click.option("--adaptive-rho", type=float, default=0.5, show_default=True, help="Radius of the adaptive ball, in |w|.")
@click.option("--sigma", type=float, help="Also average sharpness, with this deviation.")
@click.option("--steps", type=click.IntRange(min=1), default=1, show_default=True, help="Ascent steps.")
@click.option("--samples", type=click.IntRange(min=2), default=20, show_default=True, help="Pairs for --sigma.")
def command(
    run: Path,
    name: str,
    views: tuple[str, ...],
    epochs: tuple[str, ...],
    trust: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """SAM and adaptive (and average) sharpness on every view.

    \b
    Examples:
      landscape sharpness run.h5
      landscape sharpness run.h5 --rho 0.1 --steps 10 --sigma 0.01 --name wide
    """
    from ncsam.analyses import measure_sharpness
    from ncsam.run import Run

    opened = Run(run, trust=trust)
    found = measure_sharpness(
        opened,
        name,
        views=views,
        epochs=opened.epochs if epochs == ("all",) else epochs,
        progress=progress.bar("sharpness", quiet, resumable=True, unit="view"),
        **choices,
    )
    if as_json:
        click.echo(tables.as_json(found))
        return
    rows = []
    for i, epoch in enumerate(found.epochs):
        for j, view in enumerate(found.views):
            empty = tables.status(found.status[i, j])
            cells = [empty] if empty else [f"{getattr(found, n)[i, j]:.4g}" for n in ("loss", "sam", "adaptive")]
            if not empty and found.average is not None and found.average_stderr is not None:
                cells.append(tables.with_error(found.average[i, j], found.average_stderr[i, j]))
            rows.append([str(epoch), str(view), *cells])
    heads = ["epoch", "view", "loss", f"SAM (rho {found.rho:g})", f"adaptive (rho {found.adaptive_rho:g})"]
    click.echo(tables.table(heads + ([] if found.average is None else [f"average (sigma {found.sigma:g})"]), rows))
    click.echo(f"‖w‖ = {', '.join(f'{n:.4g}' for n in found.weight_norm)}")
