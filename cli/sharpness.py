"""``landscape sharpness``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .shared import options, progress, tables, torchrun


@options.command("sharpness")
@options.measuring("default")
@options.EPOCHS
@options.PARAMS
@options.SUBSET
@options.section("Sharpness")
@click.option("--rho", type=options.size(), default=0.05, show_default=True, help="Radius of the SAM ball.")
@click.option(
    "--adaptive-rho", type=options.size(), default=0.5, show_default=True, help="Radius of the adaptive ball, in |w|."
)
@click.option("--sigma", type=options.size(), help="Measure average sharpness, with this deviation.")
@click.option(
    "--adaptive-sigma",
    type=options.size(),
    help="Measure adaptive average sharpness, with this deviation in |w|.",
)
@click.option("--keskar", type=options.size(), help="Measure Keskar's sharpness, with this ε.")
@options.section("Ascents and averages")
@click.option("--steps", type=options.count(1, 100_000), default=1, show_default=True, help="Steps of each ascent.")
@click.option(
    "--restarts",
    type=options.count(0, 10_000),
    default=0,
    show_default=True,
    help="Further ascents, from random points.",
)
@click.option(
    "--samples",
    type=options.count(2, 1_000_000),
    default=20,
    show_default=True,
    help="Pairs of perturbations for each average.",
)
@click.option("--normalize-logits", is_flag=True, help="Measure the loss of normalised logits.")
@click.option("--rise", type=options.positive(1e6), help="Find the adaptive radius at which the loss rises by X.")
@click.option("--m", type=options.count(1, 2**31 - 1), help="Measure the SAM sharpness of groups of N samples.")
@options.section("Curvature in relative changes of the weights")
@click.option(
    "--trace",
    type=options.count(0, 1_000_000),
    default=0,
    show_default=True,
    help="Products for the trace of D H D, D = |w|; 0: none.",
)
@click.option("--top-tol", type=options.positive(1.0), help="Find its largest eigenvalue, to this relative residual.")
def command(
    run: Path,
    name: str,
    views: tuple[str, ...],
    epochs: tuple[str, ...],
    trace: int,
    trust: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """SAM, adaptive, average and Keskar's sharpness on every view of a run.

    Worst-case values are lower bounds: the largest rise in loss that the ascents met.

    \b
    Examples:
      landscape sharpness run.h5
      landscape sharpness run.h5 --rho 0.1 --steps 10 --restarts 2 --sigma 0.01 --name wide
      landscape sharpness run.h5 --trace 30 --top-tol 0.01 --subset 1000 --name curvature
      landscape sharpness run.h5 --normalize-logits --adaptive-sigma 0.1 --keskar 1e-3 --name scale-free
    """
    from ncsam.measurements import measure_sharpness
    from ncsam.runs.run import Run

    opened = Run(run, trust=trust)
    found = measure_sharpness(
        opened,
        name,
        views=options.views(opened, views),
        epochs=options.checkpoints(opened, epochs),
        trace_matvecs=trace,
        provenance=options.provenance(),
        progress=progress.bar("sharpness", quiet, resumable=True, unit="view"),
        forecast=progress.forecast("sharpness"),
        ranks=torchrun.ranks(),
        **choices,
    )
    if as_json:
        click.echo(tables.as_json(found, file=run, name=f"sharpness/{name}"))
        return
    heads = [
        "epoch",
        "view",
        "loss" if found.subset is None else "loss ± s.e.",
        f"SAM (rho {found.rho:g})",
        f"adaptive (rho {found.adaptive_rho:g})",
    ]
    averages = [("average", found.sigma, ""), ("adaptive_average", found.adaptive_sigma, " |w|")]
    averages = [(name, sigma, unit) for name, sigma, unit in averages if sigma is not None]
    heads += [f"{name.replace('_', ' ')} (sigma {sigma:g}{unit})" for name, sigma, unit in averages]
    heads += [] if found.keskar_epsilon is None else [f"Keskar (epsilon {found.keskar_epsilon:g})"]
    heads += [] if found.rise_radius is None else [f"adaptive radius of a rise by {found.rise:g}"]
    heads += [] if found.m_sharpness is None else [f"SAM, {found.m} at a time ± s.e."]
    heads += [] if found.adaptive_trace is None else ["tr DHD ± s.e."]
    heads += [] if found.adaptive_top is None else ["λ1 of DHD ± residual"]
    curvature = [
        (getattr(found, name), getattr(found, error))
        for name, error in (("adaptive_trace", "adaptive_trace_stderr"), ("adaptive_top", "adaptive_top_residual"))
        if getattr(found, name) is not None
    ]
    rows = []
    for i, epoch in enumerate(found.epochs):
        for j, view in enumerate(found.views):
            at = (i, j)
            empty = tables.status(found.status[at])
            cells = [empty] if empty else [f"{getattr(found, n)[at]:.4g}" for n in ("loss", "sam", "adaptive")]
            if not empty:
                if found.loss_sampling_error is not None:
                    cells[0] = tables.with_error(found.loss[at], found.loss_sampling_error[at])
                values = [(getattr(found, name)[at], getattr(found, f"{name}_stderr")[at]) for name, _, _ in averages]
                cells += [tables.with_error(*pair) for pair in values]
                cells += [] if found.keskar is None else [f"{found.keskar[at]:.4g} %"]
                cells += [] if found.rise_radius is None else [f"{found.rise_radius[at]:.4g}"]
                if found.m_sharpness is not None and found.m_sharpness_stderr is not None:
                    cells.append(tables.with_error(found.m_sharpness[at], found.m_sharpness_stderr[at]))
                cells += [tables.with_error(values[at], errors[at]) for values, errors in curvature]
            rows.append([str(epoch), str(view), *cells])
    click.echo(tables.table(heads, rows))
    if found.subset is not None:
        click.echo(tables.on_subset(found.subset, found.subset_seed))
    click.echo(f"‖w‖ = {', '.join(f'{n:.4g}' for n in found.weight_norm)}")
