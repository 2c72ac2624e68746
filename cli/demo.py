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
    from ncsam.study import curves_of
    from ncsam.study_files import StudyFiles
    from ncsam.sweep import Sweep
    from ncsam.theory import judge, studies_of

    from .drawing import draw_study
    from .sweeping import open_folder, refuse_failures
    from .verdicts import show_comparison, show_verdicts

    folder = open_folder(
        Sweep.preset("demo", seeds=seeds, train={"epochs": epochs}), out, overwrite=overwrite, resume=resume
    )
    cells, paths = folder.cells(), folder.paths()

    started = time.monotonic()
    click.echo(f"{len(cells)} runs: digits, {epochs} epochs, {seeds} seeds, {workers} processes", err=True)
    bar = progress.bar("train and measure", quiet, resumable=True, unit="run")
    refuse_failures(folder.run(cells, workers=workers, progress=bar), len(cells))
    table, written = folder.finish(command=["landscape", *sys.argv[1:]])
    study = studies_of(table)[0]
    curves = curves_of(study)
    figures = draw_study(StudyFiles(out), out / "figures", runs=True, bar=progress.bar("figures", quiet, unit="figure"))

    click.echo(show_verdicts(judge(study)))
    click.echo()
    click.echo(show_comparison(curves))
    click.echo()
    click.echo("Files")
    for path in [*written, folder.description, *figures]:
        click.echo(f"  {path}")
    for path in paths:
        click.echo(f"  {path}")
    click.echo()
    sample = next(
        path for cell, path in zip(cells, paths, strict=True) if cell.arm == "ncsam" and "line" in cell.measures
    )
    click.echo("Next")
    again = progress.program()
    click.echo(f"  {again} inspect {written[0]}")
    click.echo(f"  {again} surface {sample} --plane --points 41 --span 0.5 --name close")
    click.echo(f"  {again} train --optimizer sam --rho 0.1 --epochs {epochs} --weight-decay 0 --out {out / 'sam.h5'}")
    click.echo(f"done in {time.monotonic() - started:.0f} s", err=True)
