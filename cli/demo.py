"""``landscape demo``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from . import options, progress


@click.command("demo")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write, e.g. demo/.")
@click.option("--seeds", type=click.IntRange(min=2), default=5, show_default=True, help="Paired repetitions.")
@click.option("--epochs", type=click.IntRange(min=8), default=45, show_default=True, help="Epochs of each run.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes, one thread each.")
@options.OVERWRITE
@options.RESUME
@options.QUIET
def command(out: Path, seeds: int, epochs: int, workers: int, overwrite: bool, resume: bool, quiet: bool) -> None:
    """The whole main job on scikit-learn's handwritten digits, in minutes.

    Trains SGD, SAM, NCSAM and controls at 0 to 60 % symmetric label noise, measures curvature, sharpness and surfaces
    of every run, and says which statements of the flatness-noise theory hold.

    \b
    Examples:
      landscape demo --out demo/
      landscape demo --out quick/ --seeds 2 --epochs 10
    """
    from ncsam import demo
    from ncsam.study import run_cells, write_study

    from .drawing import draw_study
    from .verdicts import show_comparison, show_verdicts

    if out.exists() and not out.is_dir():
        raise click.BadParameter(f"{out} is a file, expected a folder", param_hint="--out")
    if out.exists() and any(out.iterdir()) and not (overwrite or resume):
        raise click.UsageError(f"{out}: the folder is not empty; choose another, --overwrite, or --resume")
    runs = out / "runs"
    cells = demo.cells(seeds=seeds, epochs=epochs)
    paths = [runs / f"{cell.name}.h5" for cell in cells]
    if overwrite and not resume:
        for path in paths:
            for leftover in runs.glob(f"{path.name}*"):
                leftover.unlink()
    runs.mkdir(parents=True, exist_ok=True)

    started = time.monotonic()
    click.echo(f"{len(cells)} runs: digits, {epochs} epochs, {seeds} seeds, {workers} processes", err=True)
    bar = progress.bar("train and measure", quiet, resumable=True, unit="run")
    failures = run_cells(cells, runs, workers=workers, progress=bar)
    for failure in failures:
        click.echo(f"landscape: error: {failure.cell.name}: {failure.reason}", err=True)
    if failures:
        raise click.ClickException(f"{len(failures)} of {len(cells)} runs failed; repeat with --resume")
    study = out / "study.h5"
    curves, verdicts = write_study(paths, study, command=["landscape", *sys.argv[1:]], overwrite=overwrite or resume)
    figures = draw_study(paths, curves, out / "figures", bar=progress.bar("figures", quiet, unit="figure"))

    click.echo(show_verdicts(verdicts))
    click.echo()
    click.echo(show_comparison(curves))
    click.echo()
    click.echo("Files")
    click.echo(f"  {study}  curves and verdicts")
    for path in figures:
        click.echo(f"  {path}")
    for path in paths:
        click.echo(f"  {path}")
    click.echo()
    sample = runs / next(f"{c.name}.h5" for c in cells if c.arm == "ncsam" and c.line is not None)
    click.echo("Next")
    again = progress.program()
    click.echo(f"  {again} inspect {study}")
    click.echo(f"  {again} surface {sample} --plane --points 41 --span 0.5 --name close")
    click.echo(f"  {again} train --optimizer sam --rho 0.1 --epochs {epochs} --weight-decay 0 --out {out / 'sam.h5'}")
    click.echo(f"done in {time.monotonic() - started:.0f} s", err=True)
