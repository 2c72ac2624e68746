"""``landscape barriers``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from landscape.inputs import output

from .shared import completion, options, progress, tables

if TYPE_CHECKING:
    from ncsam.records import Barriers
    from ncsam.runs.run import Run


@options.command("barriers")
@click.argument("study", metavar="FOLDER", type=click.Path(path_type=Path))
@options.several(options.SEED, options.DTYPE, options.DEVICE, options.OVERWRITE, options.RESUME, options.JSON)
@options.several(options.CONFIG, options.TRUST, options.LIMITS, options.QUIET)
@options.section("Runs")
@click.option(
    "--arms", callback=options.split, metavar="LIST", show_default="sgd,sam,ncsam, or all", help="Arms to compare."
)
@click.option("--rate", type=options.SHARE, show_default="0.4, or the largest", help="Noise rate of the runs.")
@click.option("--noise", metavar="KIND", show_default="the only one", help="Kind of label noise of the runs.")
@click.option("--pairs", type=options.count(1, 1000), show_default="all", help="Pairs of seeds to take at most.")
@options.section("Measured on")
@click.option("--view", default="test", show_default=True, shell_complete=completion.VIEWS, help="View of the data.")
@options.section("Ways")
@click.option(
    "--ways", callback=options.split, default="straight,aligned,curved", metavar="LIST", show_default=True,
    help="Kinds of way: the line, the line after matching, a trained curve.",
)  # fmt: skip
@click.option("--points", type=options.count(3, 10_001), default=21, show_default=True, help="Points of each way.")
@click.option(
    "--gradients", type=options.count(1, 10**6), default=300, show_default=True, help="Budget of each curve: gradients."
)
@click.option("--bends", type=options.count(1, 100), default=1, show_default=True, help="Control points of a curve.")
@click.option(
    "--samples", type=options.count(1, 2**31 - 1), show_default="all", help="Training samples of each gradient."
)
@options.out("File to write.", "barriers.h5 in FOLDER", metavar="FILE.h5")
def command(
    study: Path,
    arms: tuple[str, ...] | None,
    rate: float | None,
    noise: str | None,
    out: Path | None,
    trust: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Barriers between the minima of a study's arms, straight, matched and curved.

    FOLDER is that of a sweep, or of run files. Every arm is joined with every arm, over pairs of different seeds; the
    diagonal joins two seeds of one arm. Draw the file with `landscape figure`.

    \b
    Examples:
      landscape barriers small/
      landscape barriers small/ --ways straight,aligned --view mixed --out small/mixed.h5
    """
    from ncsam.measurements import measure_barriers

    out = output(out or (study if study.is_dir() else study.parent) / "barriers.h5")
    found = measure_barriers(
        _runs(study, arms, rate, noise, trust),
        out,
        provenance=options.provenance(),
        progress=progress.bar("barriers", quiet, resumable=True, unit="pair"),
        **choices,
    )
    click.echo(tables.as_json(found, file=out, name="result") if as_json else _text(found, out))


def _runs(
    folder: Path, arms: tuple[str, ...] | None, rate: float | None, noise: str | None, trust: bool
) -> dict[str, dict[int, Run]]:
    """Open the runs of one study at one noise rate, by arm and seed."""
    from landscape._suggest import did_you_mean
    from ncsam.runs.run import Run
    from ncsam.study.effects import CONTRAST_RATE
    from ncsam.study.files import StudyFiles
    from ncsam.study.table import studies

    files = StudyFiles(folder)
    found = [study for study in studies(files.table) if noise in (None, study.noise)]
    if len(found) != 1:
        kinds = ", ".join(dict.fromkeys(study.noise for study in studies(files.table)))
        raise click.UsageError(f"{folder}: holds {len(found)} studies of that noise; choose one by --noise: {kinds}")
    (study,) = found
    if rate is None:
        rate = CONTRAST_RATE if CONTRAST_RATE in study.rates else study.rates[-1]
    arms = arms or tuple(arm for arm in ("sgd", "sam", "ncsam") if arm in study.arms) or study.arms
    for arm in arms:
        if arm not in study.arms:
            raise click.UsageError(f"{folder}: has no arm {arm!r}{did_you_mean(arm, study.arms)}")
    names = files.names(study)
    paths = {(a, s): files.run_path(name) for (a, r, s), name in names.items() if a in arms and np.isclose(r, rate)}
    runs: dict[str, dict[int, Run]] = {arm: {} for arm in arms}
    for (arm, seed), path in sorted(paths.items()):
        if path is not None:
            runs[arm][seed] = Run(path, trust=trust)
    return runs


def _text(found: Barriers, out: Path) -> str:
    count, noise = len(found.first_seed), f", {found.noise} noise" if found.noise else ""
    lines = [f"{out}: mean barriers over {count} pair{'s' * (count > 1)} of seeds, view {found.view}{noise}"]
    arms = found.arms.tolist()
    for k, way in enumerate(found.ways.tolist()):
        cells = [[_cell(found, (k, i, j)) for j in range(len(arms))] for i in range(len(arms))]
        rows = [[arm, *of_arm] for arm, of_arm in zip(arms, cells, strict=True)]
        lines.append("\n" + tables.table([way, *(f"to {arm}" for arm in arms)], rows))
    if "curved" in found.ways:
        lines.append(f"\ncurves: {found.bends} bend{'s' * (found.bends > 1)}, {found.gradients} gradients each")
    return "\n".join(lines)


def _cell(found: Barriers, at: tuple[int, int, int]) -> str:
    if np.isnan(found.mean[at]):
        return "not finite"
    half = found.high[at] - found.mean[at]
    return f"{found.mean[at]:.3g}" + (f" ± {half:.2g}" if np.isfinite(half) else "")
