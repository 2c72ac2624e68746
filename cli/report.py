"""``landscape report``."""

from __future__ import annotations

from pathlib import Path

import click

from landscape._files import folders_for, replacing
from landscape.inputs import output

from .shared import options, progress, tables


@options.command("report")
@click.argument("study", type=click.Path(path_type=Path))
@options.section("Output")
@options.out("HTML file to write; folders are made.", "report.html")
@click.option("--title", show_default="the question of the study", help="Title of the page.")
@options.OVERWRITE
@options.JSON
@options.CONFIG
@options.QUIET
def command(study: Path, out: Path | None, title: str | None, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Write a study as one HTML page.

    It holds the question, answers, verdicts, figures, settings, provenance and how to reproduce all of it, and needs
    nothing else: no network, no script. STUDY is the folder of a sweep, or a study file; what needs run files is left
    out where they are not there.

    \b
    Examples:
      landscape report small/ --out report.html
      landscape report small/study.h5 --out digits.html --title "Digits, two seeds"
    """
    out = output(out or Path("report.html"))
    if out.exists() and (out.is_dir() or not overwrite):
        raise click.UsageError(f"{out}: exists; choose another file{'' if out.is_dir() else ', or --overwrite'}")

    from ncsam.report import report
    from ncsam.study.files import StudyFiles

    files = StudyFiles(study)
    patterns = ("*.h5", "runs/*.h5", "tuning/*.h5", "sweep.json", "plan.json", "tuning.json")
    read = {study, *(path for pattern in patterns for path in files.root.glob(pattern))}
    if out.exists() and any(path.exists() and path.samefile(out) for path in read):
        raise click.UsageError(f"{out}: is a file of the study, which is read; choose another file for --out")
    followed = _followed(files.root) if "plan" in files.attrs else None
    page = report(files, title=title, followed=followed, progress=progress.bar("figures", quiet, unit="figure"))
    with folders_for(out), replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    tables.echo_files("report", [out], as_json)


def _followed(root: Path) -> list[str] | None:
    """Deviations from the plan in a folder; None where the plan is not there."""
    from ncsam.study.statements import LATEST
    from ncsam.sweep import Plan
    from ncsam.sweep.deviations import deviations

    path = root / "plan.json"
    return deviations(Plan.read(path), root, statements=LATEST) if path.exists() else None
