"""``landscape hessian``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from landscape.records import Status

from .shared import options, progress, tables, torchrun

if TYPE_CHECKING:
    from ncsam.records import Spectrum

DENSITY_STEPS = 50


@options.command("hessian")
@options.measuring("default")
@options.EPOCHS
@options.PARAMS
@options.SUBSET
@options.section("Eigenvalues")
@click.option("--top", type=options.count(1, 100_000), default=5, show_default=True, help="Number of eigenvalues.")
@click.option(
    "--which",
    type=click.Choice(["LA", "SA", "LM", "both"]),
    default="LA",
    show_default=True,
    help="Largest, smallest, largest by magnitude, or as many from both ends.",
)
@options.RESIDUAL
@options.section("Trace and density")
@click.option(
    "--trace", type=options.count(0, 1_000_000), default=100, show_default=True, help="Products for the trace; 0: none."
)
@click.option(
    "--density",
    type=options.count(0, 10_000),
    is_flag=False,
    flag_value=DENSITY_STEPS,
    default=0,
    help=f"Estimate the spectral density, with N products a probe ({DENSITY_STEPS} if no number is given).",
)
@click.option("--probes", type=options.count(1, 10_000), default=2, show_default=True, help="Probes of --density.")
@options.section("More of each eigenvalue")
@click.option("--per-layer", is_flag=True, help="Measure each layer's largest eigenvalue and trace.")
@click.option(
    "--split",
    is_flag=True,
    help="Split eigenvalues into what right and wrong labels add; cosines.",
)
@click.option("--vectors", is_flag=True, help="Store the eigenvectors.")
@click.option("--cold", is_flag=True, help="Do not start an epoch from the eigenvectors of the one before it.")
@options.section("Computation")
@click.option(
    "--strategy",
    default="auto",
    show_default=True,
    help="How products are made: double_backward, split, compiled, lean or finite_difference.",
)
@click.option("--autotune", is_flag=True, help="Time how products are made instead of following a rule.")
@click.option(
    "--basis-memory",
    metavar="GIB",
    type=options.positive(1e6),
    help="Memory for the basis of the eigenvalues, in GiB; less of it takes more products.",
)
def command(
    run: Path,
    name: str,
    views: tuple[str, ...],
    epochs: tuple[str, ...],
    top: int,
    trace: int,
    density: int,
    probes: int,
    cold: bool,
    basis_memory: float | None,
    trust: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Top Hessian eigenvalues, trace and density on every view of a run.

    Eigenvalues come with residuals, the trace and the density with standard errors.

    \b
    Examples:
      landscape hessian run.h5
      landscape hessian run.h5 --top 2 --views mixed,test -n quick
      landscape hessian run.h5 --checkpoints all --views mixed --trace 0 --split --name along
      landscape hessian run.h5 --views mixed --which both --density --per-layer --params 'layers.*' --name inner
    """
    from ncsam.measurements import measure_spectrum
    from ncsam.runs.run import Run

    opened = Run(run, trust=trust)
    found = measure_spectrum(
        opened,
        name,
        views=options.views(opened, views),
        epochs=options.checkpoints(opened, epochs),
        k=top,
        trace_matvecs=trace,
        density_steps=density,
        density_probes=probes,
        warm_start=not cold,
        basis_bytes=None if basis_memory is None else int(basis_memory * 2**30),
        provenance=options.provenance(),
        progress=progress.bar("hessian", quiet, resumable=True, unit="view"),
        forecast=progress.forecast("hessian"),
        ranks=torchrun.ranks(),
        **choices,
    )
    if as_json:
        click.echo(tables.as_json(found, file=run, name=f"hessian/{name}", leave_out=("vectors",)))
        return
    heads = ["epoch", "view", "eigenvalues ± residual", *(["trace ± s.e."] if found.trace is not None else [])]
    heads += [] if found.subset is None else ["s.e. of the first", "loss ± s.e."]
    click.echo(tables.table(heads, list(_eigenvalues(found))))
    if found.subset is not None:
        click.echo(tables.on_subset(found.subset, found.subset_seed, of="loss and eigenvalues are"))
    measured = found.status != Status.EMPTY
    if not (found.converged[measured] == 1).all():
        click.echo("* residual above --tol: not converged")
    for heads, rows in (_splits(found), _layers(found), _negative(found)):
        if rows:
            click.echo("\n" + tables.table(heads, rows))
    if found.products is not None and found.seconds is not None:
        spent = [float(array[measured].sum()) for array in (found.products, found.seconds)]
        click.echo(f"\n{spent[0]:.0f} products in {spent[1]:.3g} s of CPU time, ‖w‖ = {_norms(found)}")


def _rows(found: Spectrum) -> Iterator[tuple[tuple[int, int], list[str], str]]:
    """Index, labels and, where there are no numbers, the status of every row."""
    for i, epoch in enumerate(found.epochs):
        for j, view in enumerate(found.views):
            yield (i, j), [str(epoch), str(view)], tables.status(found.status[i, j])


def _eigenvalues(found: Spectrum) -> Iterator[list[str]]:
    for at, labels, missing in _rows(found):
        triples = zip(found.values[at], found.residuals[at], found.converged[at], strict=True)
        values = "  ".join(f"{v:.4g} ±{r:.1g}{'' if ok else '*'}" for v, r, ok in triples)
        row = [*labels, missing or values]
        if found.trace is not None and found.trace_stderr is not None:
            row.append(tables.with_error(found.trace[at], found.trace_stderr[at]))
        if found.sampling_errors is not None and found.loss is not None and found.loss_sampling_error is not None:
            row.append(_number(found.sampling_errors[at][0], ".2g"))
            row.append(tables.with_error(found.loss[at], found.loss_sampling_error[at]))
        yield row


def _splits(found: Spectrum) -> tuple[list[str], list[list[str]]]:
    """Curvature of every eigenvector on each part, what that adds to the whole, and its cosines with gradients."""
    if found.parts is None or found.split is None or found.shares is None or found.directions is None:
        return [], []
    heads = ["epoch", "view", "pair", "eigenvalue", *(f"on {part}" for part in found.parts)]
    heads += [f"adds {part}" for part in found.parts] + [f"|cos {d}|" for d in found.directions]
    rows = []
    for at, labels, missing in _rows(found):
        for pair in range(0 if missing else found.values.shape[-1]):
            own = found.split[at][pair]
            cells = [str(pair + 1), f"{found.values[at][pair]:.4g}", *(_number(v, ".4g") for v in own)]
            cells += [_number(v, ".4g") for v in found.shares * own]
            cells += [_number(c, ".3f") for c in found.cosines[at][pair]] if found.cosines is not None else []
            rows.append([*labels, *cells])
    return heads, rows


def _layers(found: Spectrum) -> tuple[list[str], list[list[str]]]:
    if found.layers is None or found.layer_values is None or found.layer_residuals is None:
        return [], []
    rows = []
    for at, labels, missing in _rows(found):
        for n, layer in enumerate(() if missing else found.layers):
            row = [*labels, str(layer), f"{found.layer_values[at][n]:.4g} ±{found.layer_residuals[at][n]:.1g}"]
            if found.layer_trace is not None and found.layer_trace_stderr is not None:
                row.append(tables.with_error(found.layer_trace[at][n], found.layer_trace_stderr[at][n]))
            rows.append(row)
    return ["epoch", "view", "layer", "largest eigenvalue", "trace ± s.e."], rows


def _negative(found: Spectrum) -> tuple[list[str], list[list[str]]]:
    """Print how much of each density is negative."""
    if found.density is None:
        return [], []
    from landscape import negative_mass
    from ncsam.records import density_at

    rows = []
    for _, labels, missing in _rows(found):
        density = density_at(found, int(labels[0]), labels[1])
        if density is not None and not missing:
            mass = negative_mass(density)
            rows.append([*labels, tables.with_error(mass.magnitude, mass.magnitude_stderr)])
    return ["epoch", "view", "negative share of Σ|eigenvalue| ± s.e."], rows


def _number(value: float, form: str) -> str:
    return "" if value != value else format(value, form)


def _norms(found: Spectrum) -> str:
    return ", ".join(f"{norm:.4g}" for norm in found.weight_norm)
