"""``landscape hessian``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options, progress, tables


@click.command("hessian")
@options.measuring("top5")
@options.EPOCHS
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Number of eigenvalues.")
@click.option(
    "--which", type=click.Choice(["LA", "SA", "LM"]), default="LA", show_default=True, help="End of spectrum."
)
@click.option("--tol", type=click.FloatRange(min=0, min_open=True), default=1e-3, show_default=True, help="Residual.")
@click.option(
    "--trace", type=click.IntRange(min=0), default=100, show_default=True, help="Probes for the trace; 0: none."
)
def command(
    run: Path,
    name: str,
    views: tuple[str, ...],
    epochs: tuple[str, ...],
    top: int,
    trace: int,
    trust: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Top Hessian eigenvalues with residuals, and the trace with its standard error, on every view.

    \b
    Examples:
      landscape hessian run.h5
      landscape hessian run.h5 --top 2 --views mixed,test --name quick
    """
    from ncsam.analyses import measure_spectrum
    from ncsam.run import Run

    opened = Run(run, trust=trust)
    found = measure_spectrum(
        opened,
        name,
        views=views,
        epochs=opened.epochs if epochs == ("all",) else epochs,
        k=top,
        trace_matvecs=trace,
        progress=progress.bar("hessian", quiet, resumable=True, unit="view"),
        **choices,
    )
    if as_json:
        click.echo(tables.as_json(found))
        return
    rows = []
    for i, epoch in enumerate(found.epochs):
        for j, view in enumerate(found.views):
            values = "  ".join(
                f"{v:.4g} ±{r:.1g}" for v, r in zip(found.values[i, j], found.residuals[i, j], strict=True)
            )
            shown = tables.status(found.status[i, j]) or values
            rows.append([str(epoch), str(view), shown])
            if found.trace is not None and found.trace_stderr is not None:
                rows[-1].append(tables.with_error(found.trace[i, j], found.trace_stderr[i, j]))
    click.echo(tables.table(["epoch", "view", "eigenvalues ± residual", "trace ± s.e."], rows))
