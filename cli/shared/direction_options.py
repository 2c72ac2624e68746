"""The options that say along which directions a surface is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import options

if TYPE_CHECKING:
    from landscape.surfaces.connectivity import Buffers
    from ncsam.runs.run import Run

F = TypeVar("F", bound=Callable[..., Any])


def _policy(_ctx: click.Context, _param: click.Parameter, value: str | None) -> dict[str, str]:
    """Callback: ``norm=tensor,vector=tensor`` as a mapping; what it may say is checked where directions are made."""
    pairs = [part.partition("=") for part in options.split(_ctx, _param, value) or ()]
    for role, equals, _mode in pairs:
        if not equals:
            raise click.BadParameter(f"{role!r}, expected ROLE=MODE, e.g. norm=tensor")
    return {role.strip(): mode.strip() for role, _, mode in pairs}


DIRECTIONS: Callable[[F], F] = options.within(
    "Directions",
    click.option(
        "--directions",
        default="random",
        show_default=True,
        help="random, eigen[:VIEW], gradient[:VIEW], noise-gradient, trajectory or between:RUN.h5; for a plane two of "
        "them, comma-separated, or one for itself and its natural second.",
    ),
    click.option(
        "--draws",
        type=options.count(1, 100_000),
        default=1,
        show_default=True,
        help="Number of random draws, for bands.",
    ),
    click.option(
        "--layers",
        callback=lambda ctx, param, value: options.split(ctx, param, value) or (),
        help="Move only these parameters or modules: shell patterns, comma-separated.",
    ),
    click.option(
        "--policy",
        callback=_policy,
        show_default="zero for vector and norm, else filter",
        help="Scaling of random directions: ROLE=MODE, comma-separated. Roles: weight, vector, norm, embedding, "
        "position, lora; modes: filter, tensor, zero.",
    ),
    click.option(
        "--norm",
        type=options.positive(),
        show_default="that of the weights",
        help="Length of eigenvectors and gradients.",
    ),
    click.option(
        "--buffers",
        type=click.Choice(["interpolated", "start", "recalibrated"]),
        default="interpolated",
        show_default=True,
        help="BatchNorm statistics on the way to another run.",
    ),
)
"""Options that :func:`measure` understands."""


def measure(
    run: Run, name: str, *, plane: bool, grid: list[float], draws: int, buffers: Buffers, **choices: Any
) -> Any:
    """The surface that the options ask for: a line, a plane, several draws of either, or the way to another run.

    Raises:
        click.UsageError: options that do not go together.
    """
    from ncsam.measurements import measure_line, measure_plane
    from ncsam.measurements.draws_and_paths import measure_connection, measure_draws
    from ncsam.runs.run import Run

    spec = choices["directions"]
    if draws > 1:
        if spec != "random":
            raise click.UsageError(f"--draws repeats random directions, and --directions is {spec!r}; leave one out")
        unused = {"directions", "norm", "trust"}
        common = {k: v for k, v in choices.items() if k not in unused}
        return measure_draws(run, name, alphas=grid, betas=grid if plane else None, draws=draws, **common)
    if spec.startswith("between:") and not plane:
        if choices["layers"]:
            raise click.UsageError("--layers does not go with between:RUN.h5, which moves all parameters")
        other = Run(spec.partition(":")[2], trust=choices["trust"])
        unused = {"directions", "layers", "policy", "norm", "trust", "seed"}
        common = {k: v for k, v in choices.items() if k not in unused}
        return measure_connection(run, other, name, alphas=grid, buffers=buffers, **common)
    if plane:
        return measure_plane(run, name, alphas=grid, betas=grid, **choices)
    return measure_line(run, name, alphas=grid, **choices)
