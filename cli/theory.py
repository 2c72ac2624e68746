"""``landscape theory``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .shared import options, progress, tables

if TYPE_CHECKING:
    from ncsam.records import CellTable
    from ncsam.study.table import Study


@options.command("theory")
@click.argument("files", metavar="STUDY...", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.section("Output")
@click.option("--markdown", is_flag=True, help="Print accuracies and verdicts as Markdown tables.")
@click.option("--latex", is_flag=True, help="Print accuracies and verdicts as LaTeX tables (booktabs).")
@click.option("--secondary", is_flag=True, help="Show the secondary endpoints, too.")
@click.option("--by-measure", is_flag=True, help="Show the verdicts on sharpness under every measure and view.")
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Say whether the study followed this plan, or list each deviation from it.",
)
@options.section("Judged by")
@click.option(
    "--statements",
    "version",
    type=click.Choice(["1", "2", "3"]),
    default="2",
    show_default=True,
    help="Version of the statements; 1 is superseded, 3 adds T10.",
)
@options.JSON
@options.CONFIG
@options.QUIET
def command(
    files: tuple[Path, ...],
    markdown: bool,
    latex: bool,
    secondary: bool,
    by_measure: bool,
    plan_file: Path | None,
    version: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Judge the statements T1 to T9 by what a study measured.

    STUDY is a study file, the folder of a sweep, or run files. Each statement has one primary endpoint and one
    smallest relevant effect, declared in ncsam/study/statements/. Every kind of label noise, data set and model is a
    study of its own.

    \b
    Examples:
      landscape theory demo/study.h5
      landscape theory small/ --secondary --by-measure
      landscape theory demo/study.h5 --statements 1
      landscape theory run.h5 sam.h5 --latex
    """
    from ncsam.study.pivot import pivot
    from ncsam.study.table import rows_of_study, table_of
    from ncsam.study.verdicts import NOT_MEASURED, describe, judge, studies_of

    from .shared import pivot_tables, verdict_tables as shown

    if markdown + latex + as_json > 1:
        raise click.UsageError("--markdown, --latex and --json exclude each other")
    table = _table(files, quiet)
    number = int(version)
    found = [(study, judge(study, number), describe(study, number)) for study in studies_of(table)]
    followed = None if plan_file is None else _followed(plan_file, files, table, number)
    if as_json:
        objects = [
            shown.as_object(v, s) | ({"by_measure": shown.measures_as_object(study)} if by_measure else {})
            for study, v, s in found
        ]
        told = {} if followed is None else {"plan": followed}
        tables.echo_json({"kind": "theory", "files": list(map(str, files)), "studies": objects, **told})
        return
    for i, (study, verdicts, described) in enumerate(found):
        if i:
            click.echo()
        asked = [shown.measure_table(study)] * by_measure + [shown.secondary_table(described)] * secondary
        if markdown or latex:
            click.echo(f"{'% ' if latex else '**'}{_title(study)}{'' if latex else '**'}{'' if latex else chr(10)}")
            click.echo(shown.as_latex(verdicts) if latex else shown.as_markdown(verdicts))
            if study.measured("test_accuracy"):
                accuracies = pivot(table_of(rows_of_study(table, study)))
                click.echo(f"\n{pivot_tables.as_latex(accuracies) if latex else pivot_tables.as_markdown(accuracies)}")
            for further in asked:
                click.echo(f"\n{further.as_latex() if latex else further.as_markdown()}")
            continue
        click.echo(click.style(_title(study), bold=True))
        if len(study.arms) == len(study.rates) == len(study.seeds) == 1 and set(verdicts.verdict) == {NOT_MEASURED}:
            click.echo(shown.show_one_run(study))
            continue
        click.echo(shown.show_verdicts(verdicts))
        for own in (shown.radius_table(study), shown.bound_table(study), *asked):
            if own is not None:
                click.echo(f"\n{own.as_text()}")
    if followed is not None:
        mark = "% " if latex else ""
        lines = [f"deviation from the plan: {line}" for line in followed["deviations"]] or ["plan followed"]
        click.echo("\n" + "\n".join(f"{mark}{line}" for line in [*lines, f"{plan_file}: SHA-256 {followed['sha256']}"]))


def _followed(path: Path, files: Sequence[Path], table: CellTable, version: int) -> dict[str, Any]:
    """The hash of a plan and every deviation from it; hashes of runs are seen where one folder or study is named."""
    from ncsam.sweep import Plan
    from ncsam.sweep.deviations import deviations

    plan = Plan.read(path)
    found = deviations(plan, files[0] if len(files) == 1 else table, statements=version)
    return {"sha256": plan.hash, "deviations": found}


def _title(study: Study) -> str:
    what = ", ".join(filter(None, (study.data, study.model, f"{study.noise} noise" if study.noise else "")))
    what = " ".join(what.split()) or "study"  # one line, whatever the names are: a comment in LaTeX
    counts = {"arm": len(study.arms), "noise rate": len(study.rates), "seed": len(study.seeds)}
    return f"{what}: " + ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts.items())


def _table(files: Sequence[Path], quiet: bool) -> CellTable:
    """The table of a study file, or of the runs that are named or lie in the folders that are named."""
    from landscape import store
    from ncsam.records import CellTable, Curves
    from ncsam.study.table import REPORTED, rows_of, table_of, table_of_curves

    rows, runs = [], []
    told: dict[Path, tuple[Path, Mapping[str, Any]]] = {}  # what a study file says of the runs beside it
    for path in (path for file in files for path in _files(file)):
        with store.open(path) as file:
            if file.kind != "study":
                runs.append(path)
                continue
            record = file.record("cells" if "cells" in file else "curves")
        if isinstance(record, Curves):
            record = table_of_curves(record)
        assert isinstance(record, CellTable)
        beside_its_runs = path.parent / "runs" in {run.parent for run in runs}
        for row in rows_of(record):
            if beside_its_runs and row["role"] == REPORTED:
                told[path.parent / "runs" / f"{row['name']}.h5"] = path, row
            else:
                rows.append(row)
    if runs:
        from ncsam.runs.run import Run
        from ncsam.study.files import Pairing

        pairing = Pairing()
        for path in progress.bar("read", quiet, unit="run")(runs, len(runs)):
            row = pairing.row_of(Run(path))
            if path in told:
                _check_same_run(path, row, *told[path])
            rows.append(row)
        pairing.warn()
    return table_of(rows)


def _check_same_run(path: Path, row: Mapping[str, Any], study: Path, told: Mapping[str, Any]) -> None:
    """Refuse a run file that is another run than the study file beside it has under its name."""
    for what in ("arm", "data", "model", "noise", "rate", "seed"):
        if row[what] != told[what]:
            raise click.UsageError(
                f"{study}: is of other runs than {path.parent}: its {path.stem} has {what} {told[what]}, the file "
                f"there {row[what]}; name one of the two"
            )


def _files(path: Path) -> list[Path]:
    """A file itself; of a folder its runs and, for the tuning, its study file; that alone where it holds more runs."""
    if not path.is_dir():
        return [path]
    folder = path / "runs" if (path / "runs").is_dir() else path
    found = sorted(folder.glob("*.h5"))
    study = path / "study.h5"
    of_sweep = folder != path and study.exists()
    names, here = _names(study) if of_sweep else {}, {run.stem for run in found}
    if lacking := sorted(name for name, role in names.items() if role == "reported" and name not in here):
        if strange := sorted(here - set(names)):
            raise click.UsageError(
                f"{study}: is of other runs than {folder}: it has no {strange[0]}, which lacks {lacking[0]}; "
                "name one of the two"
            )
        return [study]  # runs of which only the rows were kept
    if not found:
        rows = any(folder.glob("*-seed*.json"))
        cure = "; of rows make a study with `landscape sweep --plan PLAN --rows ROWS --out STUDY`" if rows else ""
        raise click.UsageError(f"{folder}: holds no run files (*.h5){cure}")
    return [*found, study] if of_sweep else found


def _names(study: Path) -> dict[str, str]:
    """Names and roles of the runs in the table of a study file; none where it has no table."""
    from landscape import store

    with store.open(study) as file:
        record = file.record("cells") if "cells" in file else None
    return {} if record is None else dict(zip(record.names.tolist(), record.role.tolist(), strict=True))  # type: ignore[attr-defined]
