"""``landscape inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from .shared import options, tables


@options.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@options.JSON
@options.QUICK
def command(file: Path, as_json: bool) -> None:
    """Show what a file holds.

    Provenance, and every result with its parameters and a small picture. Part files of a running measurement, too.

    \b
    Examples:
      landscape inspect run.h5
      landscape inspect run.h5 --json
    """
    from landscape.store.describe import describe, render

    described = describe(file)
    click.echo(tables.to_json(described, 2) if as_json else render(described))
