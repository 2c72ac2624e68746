"""``landscape figure``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from . import options, progress, tables
from .suggest import did_you_mean


@options.command("figure")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.section("Output")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the figures.")
@click.option("--formats", callback=options.split, default="pdf,png", show_default=True, help="pdf, png or svg.")
@options.section("Look")
@click.option(
    "--width",
    type=click.Choice(["icml", "icml-column", "neurips"]),
    default="icml",
    show_default=True,
    help="Width of surfaces: of the text (6.75 in), of a column (3.25 in), of NeurIPS's text (5.5 in).",
)
@click.option(
    "--scale",
    type=click.Choice(["auto", "log", "linear"]),
    default="auto",
    show_default=True,
    help="Levels of planes; auto: log where losses span more than a factor of 20.",
)
@click.option("--interactive", is_flag=True, help="Planes as HTML too, to turn in a browser (needs plotly).")
@options.OVERWRITE
@options.JSON
@options.CONFIG
@options.QUIET
def command(
    files: tuple[Path, ...],
    out: Path,
    formats: tuple[str, ...],
    width: str,
    scale: str,
    interactive: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw every figure that a study file or run files allow.

    FILES is one study file, or one or more run files, which are drawn together.

    \b
    Examples:
      landscape figure run.h5 --out figures/
      landscape figure run.h5 sam.h5 --out comparison/ --formats pdf --width neurips
      landscape figure run.h5 --out turnable/ --interactive
    """
    from landscape import store
    from ncsam.schema import CellTable, Curves
    from ncsam.table import table_of_curves

    from .drawing import draw_runs, draw_study
    from .drawing_surfaces import Look

    if interactive and importlib.util.find_spec("plotly") is None:
        raise click.UsageError(
            "--interactive needs plotly; install it with: pip install 'ncsam-landscape[interactive]'"
        )
    for extension in formats:
        if extension not in ("pdf", "png", "svg"):
            hint = did_you_mean(extension, ("pdf", "png", "svg"))
            raise click.BadParameter(f"{extension!r}, expected pdf, png or svg{hint}", param_hint="--formats")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise click.UsageError(f"{out}: exists and is not an empty folder; choose another, or --overwrite")
    with store.open(files[0]) as first:
        study = first.kind == "study"
        stored = first.record("cells" if "cells" in first else "curves") if study else None
    if study and len(files) > 1:
        raise click.UsageError("a study file is drawn alone; give one file")
    bar = progress.bar("figures", quiet, unit="figure")
    if stored is not None:
        assert isinstance(stored, CellTable | Curves)
        table = table_of_curves(stored) if isinstance(stored, Curves) else stored
        written = draw_study(table, [], out, formats=formats, bar=bar)
    else:
        written = draw_runs(files, out, formats=formats, bar=bar, look=Look(width, scale, interactive))
    tables.echo_files("figures", written, as_json)
