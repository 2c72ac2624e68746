"""``landscape demo``."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import click

from .shared import options, progress, tables


@options.command("demo")
@options.section("Runs")
@click.option(
    "--seeds", type=options.count(2, 1000), default=5, show_default=True, help="Number of paired repetitions."
)
@click.option("--epochs", type=options.count(8, 100_000), default=45, show_default=True, help="Epochs of each run.")
@options.section("Computation")
@click.option(
    "--workers", type=options.count(1, 4096), default=2, show_default=True, help="Processes, one thread each."
)
@options.section("Output")
@options.out("Folder to write.", "demo")
@options.OVERWRITE
@options.RESUME
@options.JSON
@options.CONFIG
@options.QUIET
def command(
    out: Path | None, seeds: int, epochs: int, workers: int, overwrite: bool, resume: bool, as_json: bool, quiet: bool
) -> None:
    """Train, measure and judge a small study on scikit-learn's digits, in minutes.

    On scikit-learn's handwritten digits it trains SGD, SAM, NCSAM and controls at 0 to 60 % symmetric label noise,
    measures curvature, sharpness and surfaces of every run, and says which statements of the flatness-noise theory
    hold. Shorter settings, as in these examples, show how it works; verdicts need the default settings.

    \b
    Examples:
      landscape demo --out demo/ --seeds 2 --epochs 10
      landscape demo --out demo/ --seeds 3 --epochs 10 --resume
    """
    from ncsam.study.files import StudyFiles, curves_of
    from ncsam.study.verdicts import describe, judge, studies_of
    from ncsam.sweep import Sweep, run_cells

    from .shared.drawing import draw_study
    from .shared.sweep_folder import open_folder, refuse_failures
    from .shared.verdict_tables import as_object, show_comparison, show_verdicts

    out = out or Path("demo")
    folder = open_folder(
        Sweep.preset("demo", seeds=seeds, train={"epochs": epochs}), out, overwrite=overwrite, resume=resume
    )
    cells, paths = folder.cells(), folder.paths()

    started = time.monotonic()
    progress.notes.info("%d runs: digits, %d epochs, %d seeds, %d processes", len(cells), epochs, seeds, workers)
    bar = progress.bar("train and measure", quiet, resumable=True, unit="run")
    runner = partial(run_cells, workers=workers, command=progress.command_line(), progress=bar)
    refuse_failures(folder.run(cells, runner), len(cells))
    table, written = folder.finish(command=progress.command_line())
    study = studies_of(table)[0]
    curves = curves_of(study)
    figures = draw_study(StudyFiles(out), out / "figures", runs=True, bar=progress.bar("figures", quiet, unit="figure"))

    if as_json:
        verdicts = as_object(judge(study), describe(study))
        files = [*written, folder.description, *figures, *paths]
        tables.echo_json({"kind": "demo", "studies": [verdicts], "files": list(map(str, files))})
        return
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
    progress.notes.info("done in %.0f s", time.monotonic() - started)
