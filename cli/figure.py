"""``landscape figure``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import click

from landscape._suggest import did_you_mean

from .shared import options, progress, tables

if TYPE_CHECKING:
    from landscape.figures.levels import Scale
    from landscape.figures.style import Width


@options.command("figure")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.section("Output")
@options.out("Folder for the figures.", "figures")
@click.option("--all", "runs", is_flag=True, help="Draw what the runs of a study hold, too: curves, spectra, surfaces.")
@click.option("--formats", callback=options.split, default="pdf,png", show_default=True, help="pdf, png or svg.")
@options.section("Style")
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
@click.option("--animate", is_flag=True, help="Paths of training on their planes as moving pictures (GIF), too.")
@options.OVERWRITE
@options.JSON
@options.CONFIG
@options.QUIET
def command(
    files: tuple[Path, ...],
    out: Path | None,
    runs: bool,
    formats: tuple[str, ...],
    width: Width,
    scale: Scale,
    interactive: bool,
    animate: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw every figure that a study or run files allow.

    FILES is one study (its file, or the folder of a sweep), the file of one audit, or one or more run files, which are
    drawn together, or records that you saved (spectra, densities, lines, planes, draws, sharpness and all others),
    those of one kind together. Beside each figure lies a CSV file of the same name with the numbers that it shows.

    \b
    Examples:
      landscape figure --all small/ --out pictures/
      landscape figure run.h5 --out figures/
      landscape figure run.h5 sam.h5 --out comparison/ --formats pdf --width neurips
      landscape figure run.h5 --out turnable/ --interactive
    """
    from landscape import store
    from ncsam.study.files import StudyFiles

    from .shared.drawing import draw_audit, draw_results, draw_runs, draw_study
    from .shared.drawing_surfaces import DrawingOptions

    if interactive and importlib.util.find_spec("plotly") is None:
        raise click.UsageError(
            "--interactive needs plotly; install it with: pip install 'ncsam-landscape[interactive]'"
        )
    for extension in formats:
        if extension not in ("pdf", "png", "svg"):
            hint = did_you_mean(extension, ("pdf", "png", "svg"))
            raise click.BadParameter(f"{extension!r}, expected pdf, png or svg{hint}", param_hint="--formats")
    out = out or Path("figures")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise click.UsageError(f"{out}: exists and is not an empty folder; choose another, or --overwrite")
    kind = "study"
    if not files[0].is_dir():
        with store.open(files[0]) as first:
            kind = first.kind
    found = StudyFiles(files[0]) if kind == "study" else None
    if found is not None and len(files) > 1:
        raise click.UsageError("a study is drawn alone; give one file or folder")
    if found is None and runs:
        raise click.UsageError(f"--all is of a study, and {files[0]} is a {kind}; give a study's file or folder")
    bar = progress.bar("figures", quiet, unit="figure")
    drawing = DrawingOptions(width, scale, interactive, animate)
    if found is not None:
        written = draw_study(found, out, runs=runs, formats=formats, bar=bar, drawing=drawing)
    elif kind == "audit":
        if len(files) > 1:
            raise click.UsageError("an audit is drawn alone; give one file")
        written = draw_audit(files[0], out, formats=formats, bar=bar, drawing=drawing)
    elif kind == "result":
        written = draw_results(files, out, formats=formats, bar=bar, drawing=drawing)
    else:
        written = draw_runs(files, out, formats=formats, bar=bar, drawing=drawing)
    tables.echo_files("figures", written, as_json)
