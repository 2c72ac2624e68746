"""``landscape diagnose``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .shared import completion, options, progress, tables, torchrun

if TYPE_CHECKING:
    from ncsam.records import BoundTable, Diagnostics

_SHOWN = (
    "noise_share", "cos_clean_noise", "cos_star_noise", "cos_random_noise", "cos_star_clean", "cos_noise_halves",
    "cos_sam_true", "cos_ncsam_true", "cos_mirrored_true", "relative_compensation", "kept", "pick_lift",
    "flips_to_true",
)  # fmt: skip


@options.command("diagnose")
@options.measuring("", shown="default, or bound with --bound", views=False)
@options.EPOCHS
@options.section("Gradients")
@click.option(
    "--batches", type=options.count(1, 100_000), default=8, show_default=True, help="Batches of each checkpoint."
)
@click.option("--no-full", is_flag=True, help="Leave the full training set out.")
@click.option(
    "--noise",
    shell_complete=completion.NOISE,
    help="Labels of this noise instead of the run's own, e.g. on a clean run: symmetric:0.4.",
)
@options.section("Theorem 1")
@click.option("--bound", is_flag=True, help="Measure Theorem 1 term by term instead of the gradients.")
@click.option("--rho", type=options.size(), default=0.05, show_default=True, help="Radius of the neighbourhood.")
@click.option(
    "--delta",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Probability with which the bound may fail.",
)
@click.option(
    "--clip", type=options.positive(), help="Cross-entropy that counts as 1; twice a uniform guess's if none."
)
@click.option("--steps", type=options.count(1, 100_000), default=20, show_default=True, help="Steps of each ascent.")
@click.option("--restarts", type=options.count(1, 10_000), default=3, show_default=True, help="Number of ascents.")
def command(
    run: Path,
    epochs: tuple[str, ...],
    name: str | None,
    batches: int,
    no_full: bool,
    noise: str | None,
    bound: bool,
    rho: float,
    delta: float,
    clip: float | None,
    steps: int,
    restarts: int,
    trust: bool,
    as_json: bool,
    quiet: bool,
    **where: Any,
) -> None:
    """Gradients of clean and wrong labels, g* and Theorem 1, of a run.

    Angles and lengths of the gradients of clean and wrong labels, of g* and of the perturbations, with the true labels
    as oracle; or, with --bound, every term of Theorem 1 beside the clean test risk.

    \b
    Examples:
      landscape diagnose run.h5 --checkpoints all
      landscape diagnose run.h5 --noise pair:0.3 --name pair-30
      landscape diagnose run.h5 --bound --rho 0.05
    """
    from ncsam.measurements import measure_bound, measure_diagnostics
    from ncsam.runs.run import Run

    if bound and noise is not None:
        raise click.UsageError("--bound is about the labels the run was trained on; leave --noise out")
    opened = Run(run, trust=trust)
    at = options.checkpoints(opened, epochs)
    label = "bound" if bound else "diagnose"
    where["progress"] = progress.bar(label, quiet, resumable=True, unit="row")
    where["forecast"] = progress.forecast(label)
    where["ranks"] = torchrun.ranks()
    where["provenance"] = options.provenance()
    found: BoundTable | Diagnostics
    if bound:
        found = measure_bound(
            opened, name or "bound", epochs=at, rho=rho, delta=delta, clip=clip, steps=steps, restarts=restarts, **where
        )
    else:
        found = measure_diagnostics(
            opened, name or "default", epochs=at, batches=batches, full=not no_full, noise=noise, **where
        )
    if as_json:
        click.echo(tables.as_json(found, file=run, name=f"diagnostics/{name or ('bound' if bound else 'default')}"))
    else:
        click.echo(_bound(found) if bound else _gradients(found))  # type: ignore[arg-type]


def _gradients(found: Diagnostics) -> str:
    from ncsam.training.gradient_diagnostics import QUANTITIES

    names = found.quantities.tolist()
    heads = ["quantity", *(f"epoch {epoch}" for epoch in found.epochs)]
    whole = not all(map(math.isnan, found.full.ravel().tolist()))
    rows = []
    for quantity in _SHOWN:
        q = names.index(quantity)
        cells = [
            tables.with_error(mean, high - mean) if math.isfinite(high) else "" if math.isnan(mean) else f"{mean:.4g}"
            for mean, high in zip(found.mean[:, q], found.high[:, q], strict=True)
        ]
        if whole:
            cells = [f"{c}  ({f:.3g})" if math.isfinite(f) else c for c, f in zip(cells, found.full[:, q], strict=True)]
        rows.append([quantity, *cells, QUANTITIES[quantity]])
    count = found.value.shape[2]
    note = (
        f"mean ± half of the {found.level:.0%} interval over {count} batches of {found.batch_size} at fixed weights"
        f"{'; in brackets: the full training set, eval mode' if whole else ''}"
    )
    labels = f"labels of {found.noise}{' (not those the run was trained on)' if found.relabelled else ''}"
    return f"{tables.table([*heads, ''], rows)}\n{note}\n{labels}; NCSAM as {_settings(found.probe)}"


def _bound(found: BoundTable) -> str:
    terms = ("at_weights", "highest", "neighbourhood", "sampling", "complexity", "total", "risk")
    rows, remarks = [], []
    for e, epoch in enumerate(found.epochs):
        for i, loss in enumerate(found.losses):
            status = tables.status(found.status[e, i])
            rows.append(
                [str(epoch), str(loss), *([status] if status else [f"{getattr(found, t)[e, i]:.4g}" for t in terms])]
            )
            remarks.append(f"epoch {epoch}, {loss}: {_remark(found, e, i)}")
    heads = ["epoch", "loss", "L_M(w)", "max L_M(w+ε)", "neighbourhood", "sampling", "complexity", "bound", "test risk"]
    lines = [tables.table(heads, rows), *remarks]
    lines.append(
        f"α = {found.alpha:.3f}, n = {found.samples}, K = {found.num_parameters}, ρ = {found.rho:g}, "
        f"δ = {found.delta:g}; clipped_ce is min(cross-entropy, {found.clip:.3g}) / {found.clip:.3g}"
    )
    lines.append("the maximum is a lower estimate by projected ascent, and so is the bound")
    if found.violated:
        lines.append(f"assumption violated: {found.violated}")
    return "\n".join(lines)


def _remark(found: BoundTable, e: int, i: int) -> str:
    total = float(found.total[e, i])
    parts = {name: float(getattr(found, name)[e, i]) for name in ("neighbourhood", "sampling", "complexity")}
    largest = max(parts, key=lambda name: parts[name])
    said = f"vacuous by a factor of {total:.3g}, by its {largest} term" if total >= 1 else "not vacuous"
    rise, error = float(found.smoothing[e, i]), float(found.smoothing_stderr[e, i])
    held = "held" if rise >= 2 * error else "failed" if rise <= -2 * error else "within two standard errors of equality"
    converged = "" if found.converged[e, i] else "; the ascents were still rising: more --steps"
    return f"{said}; L(w) ≤ E L(w+ε) on the test data: {held} ({rise:+.2g} ± {error:.1g}){converged}"


def _settings(probe: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in probe.items()
    )
