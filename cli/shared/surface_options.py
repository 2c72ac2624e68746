"""The options that say how a surface's points are evaluated, and what its cross-check found as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np

from landscape.records import Status

from . import options

if TYPE_CHECKING:
    from landscape.records import Line, Plane

F = TypeVar("F", bound=Callable[..., Any])

EVALUATION: Callable[[F], F] = options.within(
    "Evaluation",
    click.option(
        "--tol",
        cls=options.Renamed,
        former="--tolerance",
        type=options.positive(1.0),
        help="Evaluate only as many points as it takes to interpolate to this share of each view's range, e.g. 0.01.",
    ),
    click.option(
        "--auto-range",
        "rise",
        type=options.positive(),
        help="Choose the span so that the first view's loss rises by this much.",
    ),
    click.option(
        "--batchnorm",
        type=click.Choice(["frozen", "recalibrated"]),
        default="frozen",
        show_default=True,
        help="Statistics of BatchNorm layers: those of the weights, or recomputed at every point.",
    ),
    click.option("--by-class", is_flag=True, help="Measure loss and accuracy of every class too."),
    click.option("--autotune", is_flag=True, help="Measure which batch size and memory layout are fastest."),
)
"""Options that end up in :class:`ncsam.measurements.surface.SurfaceWhere`."""

_DEFAULTS = {"tol": None, "rise": None, "batchnorm": "frozen", "by_class": False, "autotune": False}


def only_for_one_surface(choices: dict[str, Any], instead: str) -> dict[str, Any]:
    """The choices without those that a single line or plane takes.

    Raises:
        click.UsageError: one of them was made.
    """
    for name, default in _DEFAULTS.items():
        if choices[name] != default:
            option = {"rise": "--auto-range"}.get(name, f"--{name.replace('_', '-')}")
            raise click.UsageError(f"{option} goes with a single line or plane, not with {instead}")
    return {name: value for name, value in choices.items() if name not in _DEFAULTS}


def summary(found: Line | Plane, dtype: str) -> str:
    """Say how the points came about, and whether the centre agrees with plain evaluation and the Hessian.

    Numbers of a check that passed are in the record; a reader here would take them for trouble.
    """
    lines = []
    evaluated = int(np.count_nonzero(found.status[_first(found)] != Status.INTERPOLATED))
    if found.tol is not None and found.interpolation_error is not None:
        ranges = np.ptp(np.where(np.isfinite(found.loss), found.loss, np.nan).reshape(len(found.views), -1), axis=1)
        share = np.nanmax(found.interpolation_error / np.where(ranges > 0, ranges, np.nan), initial=0.0)
        lines.append(
            f"evaluated {evaluated} of {found.loss[0].size} points, the others interpolated; "
            f"estimated error up to {share:.2%} of a view's range (asked for {found.tol:.2%})"
        )
    if found.auto_range is not None:
        a = found.auto_range
        lines.append(f"span {a['span']:.4g}, at which the loss of {a['view']} has risen by {a['rise']:g}")
    chosen = {"rule": "chosen by rule", "measured": "fastest as measured", "given": "as given"}[found.batch_choice]
    lines.append(f"batches of {found.batch_size}, {found.memory_format}, {chosen}")
    return "\n".join([*lines, *_centre(found, dtype), *_curvatures(found)])


def _centre(found: Line | Plane, dtype: str) -> list[str]:
    from landscape.surfaces.centre_check import beyond_rounding

    if found.centre_loss is None or found.plain_loss is None:
        return []
    deviation = f"{np.nanmax(np.abs(found.centre_loss - found.plain_loss), initial=0.0):.2g}"
    if found.batchnorm != "frozen":
        return [f"check: recalibrating BatchNorm changes the loss at the centre by {deviation}"]
    if beyond_rounding(found.centre_loss, found.plain_loss, float(np.finfo(dtype).eps)).any():
        return [f"check: WARNING: loss at the centre deviates from plain evaluation by {deviation}"]
    return ["check: loss at the centre agrees with plain evaluation"]


_CONFIRMED = {
    "agrees": "confirmed by second differences",
    "kinks": "confirmed by gradients (second differences cross kinks of the loss)",
    "coarse": "confirmed by gradients at larger steps (a layer computes in less than double precision)",
}


def _curvatures(found: Line | Plane) -> list[str]:
    check = found.check or {}
    if "unavailable" in check:
        return [f"check: no Hessian product to compare with: {check['unavailable']}"]
    if found.curvature is None or found.second_difference is None:
        return []
    lines = []
    for i, outcome in enumerate(check["outcome"]):
        c, d = float(found.curvature[i]), float(found.second_difference[i])
        text = f"check: direction {i + 1}: d·Hd = {c:.4g} on {check['samples']} samples"
        told = _CONFIRMED.get(outcome, f"WARNING: second difference {d:.5g} ({outcome})")
        lines.append(f"{text}, {told}")
    return lines


def _first(found: Line | Plane) -> int:
    """The first view that is not empty."""
    return next((i for i, codes in enumerate(found.status) if (codes != Status.EMPTY).any()), 0)
