"""``landscape verify``."""

from __future__ import annotations

from pathlib import Path

import click

from .shared import options, tables


@options.command("verify")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.JSON
@options.within("General", click.option("-q", "--quiet", is_flag=True, help="Print only what is wrong."))
def command(files: tuple[Path, ...], as_json: bool, quiet: bool) -> int:
    """Check files against their checksums and the schema.

    Tells whether files are bit for bit what was written, and follow the schema. Exit status 1 if not.

    \b
    Examples:
      landscape verify run.h5
      landscape verify *.h5 --json
    """
    import ncsam.records  # noqa: F401 - makes the kinds of record known that runs hold
    from landscape import store

    found = {str(file): store.verify(file) for file in files}
    if as_json:
        tables.echo_json({"kind": "verify", "files": found}, 2)
    else:
        for file, problems in found.items():
            for line in problems or ([] if quiet else [_confirmed(file)]):
                click.echo(f"{file}: {line}")
    return 1 if any(found.values()) else 0


def _confirmed(file: str) -> str:
    """Say that a file is sound; of a run, that what it was trained on and what came out are unchanged."""
    from landscape import store

    if file.endswith(".part"):
        return "ok"
    with store.open(file) as opened:
        if opened.kind != "run" or "labels" not in opened:
            return "ok"
        return f"ok; labels and {', '.join(opened.names('weights')) or 'no weights'} match their SHA-256"
