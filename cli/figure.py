"""``landscape figure``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options, progress


@click.command("figure")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the figures.")
@click.option("--formats", callback=options.split, default="pdf,png", show_default=True, help="pdf, png or svg.")
@options.OVERWRITE
@options.QUIET
def command(files: tuple[Path, ...], out: Path, formats: tuple[str, ...], overwrite: bool, quiet: bool) -> None:
    """Draw every figure that a study file, or one or more run files together, allow.

    \b
    Examples:
      landscape figure run.h5 --out figures/
      landscape figure sgd.h5 sam.h5 ncsam.h5 --out comparison/ --formats pdf
    """
    from landscape import store
    from ncsam.schema import Curves

    from .drawing import draw_curves, draw_runs

    for extension in formats:
        if extension not in ("pdf", "png", "svg"):
            raise click.BadParameter(f"{extension!r}, expected pdf, png or svg", param_hint="--formats")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise click.UsageError(f"{out}: exists and is not an empty folder; choose another, or --overwrite")
    with store.open(files[0]) as first:
        study = first.kind == "study"
        curves = first.record("curves") if study else None
    if study and len(files) > 1:
        raise click.UsageError("a study file is drawn alone; give one file")
    bar = progress.bar("figures", quiet, unit="figure")
    if isinstance(curves, Curves):
        written = draw_curves(curves, out, formats=formats, bar=bar)
    else:
        written = draw_runs(files, out, formats=formats, bar=bar)
    for path in written:
        click.echo(path)
