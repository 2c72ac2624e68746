"""``landscape inspect``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(file: Path, as_json: bool) -> None:
    """Show what a file holds: provenance, and every result with its parameters and a small picture.

    \b
    Examples:
      landscape inspect run.h5
      landscape inspect run.h5.surface.plane.part
    """
    import json

    from landscape.store.describe import describe, render

    described = describe(file)
    click.echo(json.dumps(described, indent=2) if as_json else render(described))
