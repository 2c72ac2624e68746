"""``landscape blame``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from .shared import options, progress, tables

if TYPE_CHECKING:
    from ncsam.records import SampleCurvatures
    from ncsam.runs.run import Run

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@options.command("blame")
@options.measuring("samples", views=False)
@options.EPOCHS
@options.section("Samples")
@click.option("--top", type=options.count(1, 1000), default=1, show_default=True, help="Number of eigenvectors.")
@options.RESIDUAL
@click.option("--show", type=options.count(1, 10_000), default=10, show_default=True, help="Samples to print and draw.")
@options.section("Output")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for a figure and a page of the samples.",
)
def command(
    run: Path,
    epochs: tuple[str, ...],
    top: int,
    show: int,
    name: str,
    out: Path | None,
    trust: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Training samples that hold the largest Hessian eigenvalue of a run.

    The curvature of every sample along the leading eigenvectors, whose mean is the eigenvalue, beside its loss and
    margin; and how well these and confident learning tell wrong labels from right ones.

    \b
    Examples:
      landscape blame run.h5
      landscape blame run.h5 --checkpoints all --show 40 --out blamed --name along
    """
    from ncsam.measurements import measure_samples
    from ncsam.runs.run import Run

    if out is not None and out.exists() and any(out.iterdir()) and not (choices["overwrite"] or choices["resume"]):
        raise click.UsageError(f"{out}: is not an empty folder; choose another --out, or --overwrite")
    opened = Run(run, trust=trust)
    found = measure_samples(
        opened,
        name,
        epochs=options.checkpoints(opened, epochs),
        k=top,
        provenance=options.provenance(),
        progress=progress.bar("blame", quiet, resumable=True, unit="epoch"),
        forecast=progress.forecast("blame"),
        **choices,
    )
    if out is not None:
        _draw(opened, found, out, show)
    if as_json:
        click.echo(tables.as_json(found, file=run, name=f"diagnostics/{name}"))
        return
    for epoch in range(len(found.epochs)):
        click.echo(_text(found, epoch, show) + "\n" * (epoch < len(found.epochs) - 1))


def _draw(run: Run, found: SampleCurvatures, out: Path, show: int) -> None:
    """Write the figure with its numbers, and the page of samples, all of them or none."""
    from landscape import figures
    from landscape._files import filling
    from ncsam.figures import curvature_of_samples
    from ncsam.report.samples import samples_page

    drawn = curvature_of_samples({run.name: found})
    run.problem.dataset.check_in_memory("a page of samples")
    inputs = run.problem.dataset.train_x[run.problem.train].numpy()
    with filling(out.resolve()) as draft:
        figures.save(drawn, draft / "curvature_of_samples")
        figures.save_data(drawn, draft / "curvature_of_samples")
        (draft / "samples.html").write_text(samples_page(found, inputs, run.name, show), encoding="utf-8")


def _text(found: SampleCurvatures, epoch: int, show: int) -> str:
    """Samples of largest curvature along each eigenvector, and what the scores find, at the epoch of that position."""
    parts = [_of_pair(found, epoch, pair, show) for pair in range(found.values.shape[1])]
    wrong = np.asarray(found.flipped, bool)
    if wrong.any():
        parts.append(_scores(found, epoch, wrong))
    return "\n\n".join(parts)


def _of_pair(found: SampleCurvatures, epoch: int, pair: int, show: int) -> str:
    """The eigenvalue, and the samples that hold most of it."""
    symbol = f"λ{str(pair + 1).translate(_SUBSCRIPTS)}"
    shares = found.contributions[epoch, pair]
    order = np.argsort(-shares)[:show]
    rows = [
        [str(found.index[i]), str(found.observed[i]), str(found.true[i]) if found.flipped[i] else "",
         f"{found.curvature[epoch, pair, i]:.4g}", f"{shares[i]:.2%}", f"{found.loss[epoch, i]:.3g}",
         f"{found.margin[epoch, i]:.3g}"]
        for i in order
    ]  # fmt: skip
    heads = ["sample", "label", "truly", "curvature", f"share of {symbol}", "loss", "margin"]
    missed = "" if found.converged[epoch, pair] else ", residual above --tol: not converged"
    held, wrong = float(shares[order].sum()), np.asarray(found.flipped, bool)
    lines = [
        f"epoch {found.epochs[epoch]}, view mixed: {symbol} = {found.values[epoch, pair]:.4g} ± "
        f"{found.residuals[epoch, pair]:.1g}{missed}",
        tables.table(heads, rows),
        f"these {len(order)} of {len(shares)} samples hold {held:.0%} of {symbol}",
    ]
    if wrong.any():
        lines.append(f"wrong labels: {wrong.mean():.1%} of the samples, {float(shares[wrong].sum()):.0%} of {symbol}")
    return "\n".join(lines)


def _scores(found: SampleCurvatures, epoch: int, wrong: np.ndarray) -> str:
    """Tell how well each score finds wrong labels."""
    from ncsam.statistics import auc, precision_at

    rows = []
    for name, score in found.scores(epoch).items():
        area = auc(score, wrong)
        precision = precision_at(score, wrong, int(wrong.sum()))
        cells = [f"{area.mean:.3f}", f"{area.low:.3f} … {area.high:.3f}", f"{precision:.1%}"]
        rows.append(["-margin" if name == "margin" else name, *cells])
    return tables.table(["score", "AUC", "95 % interval", f"wrong among the {int(wrong.sum())} highest"], rows)
