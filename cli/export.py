"""``landscape export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from landscape._files import folders_for
from landscape.inputs import as_file_name, output

from .shared import completion, options, tables

if TYPE_CHECKING:
    import numpy as np

    from landscape.records import Record

SUFFIXES = {
    "csv": ".csv", "npz": ".npz", "latex": ".tex", "markdown": ".md", "xdmf": ".xdmf", "li": "-li.h5", "h5": ".h5",
    "pt": ".pt", "safetensors": ".safetensors",
}  # fmt: skip


@options.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("name", required=False, shell_complete=completion.RESULTS)
@click.option("--weights", metavar="EPOCH", help="Export a run's weights at an epoch, or `last`, instead of a NAME.")
@options.section("Output")
@click.option(
    "--format", "target", type=click.Choice(list(SUFFIXES)), required=True, help="Format to write, see above."
)
@options.out("File to write; folders are made.", "named after FILE and NAME")
@click.option("--view", show_default="the first", help="With li: the view that becomes train_loss.")
@click.option("--test-view", help="With li: the view that becomes test_loss.")
@click.option(
    "--pivot",
    metavar="ROW×COLUMN",
    help="Tabulate a study's cells, as latex or markdown: mean ± s.d. by arm, noise, data or model, such as arm×noise.",
)
@click.option("--endpoint", default="test_accuracy", show_default=True, help="With --pivot: what is tabulated.")
@options.OVERWRITE
@options.JSON
@options.CONFIG
@options.QUICK
def command(
    file: Path,
    name: str | None,
    weights: str | None,
    target: str,
    out: Path | None,
    view: str | None,
    test_view: str | None,
    pivot: str | None,
    endpoint: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write one result for other programs: CSV, NPZ, LaTeX, ParaView, Li et al.

    NAME is what `landscape inspect` shows, needed where FILE holds several.

    \b
    csv    tidy tables, one for each set of dimensions
    npz    NumPy arrays
    latex  booktabs tables
    markdown  with --pivot
    xdmf   for ParaView: a sidecar that leaves a plane where it is
    li     surface in the layout of Li et al. (2018): xcoordinates, train_loss, …
    h5     a result file of its own
    pt, safetensors  with --weights: a state dict, bit for bit

    FILE may itself be in the layout of Li et al.

    \b
    Examples:
      landscape export run.h5 hessian/default --format csv
      landscape export run.h5 surface/close --format li --view mixed --test-view test
      landscape export run.h5 surface/line --format h5 --out line.h5
      landscape export run.h5 --weights last --format pt --out last.pth
      landscape export run.h5 --weights 20 --format pt --out e20.pt
      landscape export small/study.h5 cells --format latex --pivot arm×noise
    """
    import ncsam.records  # noqa: F401 - makes the kinds of record known that runs hold
    from landscape import store
    from landscape.store import export_li

    if weights is not None or target in ("pt", "safetensors"):
        tables.echo_files("export", [_write_weights(file, name, weights, target, out, overwrite)], as_json)
        return
    content: Record | dict[str, np.ndarray]
    if export_li.is_li(file):
        content = export_li.read_li(file)
    else:
        with store.open(file) as opened:
            names = opened.names()
            name = names[0] if name is None and len(names) == 1 else name
            if name is None:
                raise click.UsageError(f"{file}: holds {', '.join(names) or 'nothing'}; give the NAME of one")
            content = opened.content(name)
    named = (name or "").replace("/", "-")
    out = out or file.with_name(f"{file.stem}{f'-{as_file_name(named)}' if name else ''}{SUFFIXES[target]}")
    if out.is_symlink() or out.exists():
        out = output(out)
    beside: set[Path] = set()
    if target == "csv" and not isinstance(content, dict):  # tables named after their dimensions
        beside = {out.with_stem("-".join((out.stem, *variable.dims))) for variable in content.variables().values()}
    _refuse_input(file, out, *beside)
    with folders_for(out):
        if pivot is not None or target == "markdown":
            written = [_write_pivot(content, target, pivot, endpoint, out, overwrite)]
        else:
            written = _write(content, file, name, target, out, view, test_view, overwrite)
    tables.echo_files("export", written, as_json)


def _refuse_input(file: Path, *outputs: Path) -> None:
    for out in outputs:
        if out.exists() and out.samefile(file):
            raise click.UsageError(f"{out}: is the file that is read; choose another file for --out")


def _write_weights(
    file: Path, name: str | None, weights: str | None, target: str, out: Path | None, overwrite: bool
) -> Path:
    """Write the state dict of a run at an epoch."""
    if weights is None or name is not None or target not in ("pt", "safetensors"):
        raise click.UsageError(
            "--weights goes with --format pt or safetensors and without a NAME, and these with --weights"
        )
    from ncsam.runs.run import Run
    from ncsam.runs.weight_files import export_weights

    run = Run(file)
    form: Literal["pt", "safetensors"] = "pt" if target == "pt" else "safetensors"
    out = out or file.with_name(f"{file.stem}-weights-{run.epoch(weights)}{SUFFIXES[target]}")
    _refuse_input(file, out)
    with folders_for(out):
        return export_weights(run, out, weights, format=form, overwrite=overwrite)


def _write_pivot(content: Any, target: str, axes: str | None, endpoint: str, out: Path, overwrite: bool) -> Path:
    """Write the table of a paper, mean ± standard deviation by two settings of a study's runs."""
    from landscape._files import replacing
    from landscape.store.export import refuse_existing
    from ncsam.records import CellTable
    from ncsam.study.pivot import pivot

    from .shared import pivot_tables

    if axes is None or target not in ("latex", "markdown"):
        raise click.UsageError("--pivot goes with --format latex or markdown, and markdown with --pivot")
    if not isinstance(content, CellTable):
        raise click.UsageError("--pivot is of the cells of a study; give a study file and the NAME cells")
    try:
        found = pivot(content, *pivot_tables.axes(axes), endpoint)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--pivot") from error
    refuse_existing(out, overwrite)
    text = pivot_tables.as_latex(found) if target == "latex" else pivot_tables.as_markdown(found)
    with replacing(out) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    return out


def _write(
    content: Record | dict[str, np.ndarray],
    file: Path,
    name: str | None,
    target: str,
    out: Path,
    view: str | None,
    test_view: str | None,
    overwrite: bool,
) -> list[Path]:
    """Write ``content`` in the format ``target``; the files."""
    from landscape.records import Line, Plane
    from landscape.store import export, export_li

    if target == "npz":
        return [export.to_npz(content, out, overwrite=overwrite)]
    if isinstance(content, dict):
        raise click.UsageError(f"{name} holds bare arrays; export them with --format npz")
    if target == "csv":
        return export.to_csv(content, out, overwrite=overwrite)
    if target == "latex":
        return [export.to_latex(content, out, overwrite=overwrite)]
    if target == "h5":
        content.save(out, overwrite=overwrite)
        return [out]
    if target == "xdmf":
        if not isinstance(content, Plane) or name is None:
            raise click.UsageError(
                "xdmf describes a plane in an HDF5 file of this package; convert FILE with --format h5 first"
            )
        return [export.to_xdmf(content, file, name, out, overwrite=overwrite)]
    if not isinstance(content, Line | Plane):
        raise click.UsageError(f"{name} is no line or plane, so it has no place in the layout of Li et al.")
    views = {"train": view or str(content.views[0])} | ({"test": test_view} if test_view else {})
    return [export_li.write_li(content, out, views=views, overwrite=overwrite)]
