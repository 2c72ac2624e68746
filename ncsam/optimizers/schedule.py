"""How strongly the noise is compensated over training: s(t), the schedules of the compensation."""

from __future__ import annotations

from collections.abc import Callable


def paper(t: float) -> float:
    """min(1, 2 t² (3 − 2t)): a smooth rise from 0 that reaches 1 at t = ½ (NCSAM, eq. 15, without its factor κ).

    >>> paper(0.0), paper(0.25), paper(0.5), paper(1.0)
    (0.0, 0.3125, 1.0, 1.0)
    """
    return min(1.0, 2.0 * t * t * (3.0 - 2.0 * t))


def linear(t: float) -> float:
    """min(1, 2t): a straight rise that, like the paper's, reaches 1 at t = ½ (ours).

    >>> linear(0.25), linear(0.75)
    (0.5, 1.0)
    """
    return min(1.0, 2.0 * t)


def constant(t: float) -> float:
    """1 throughout (ours): the compensation without a schedule.

    >>> constant(0.1)
    1.0
    """
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {"paper": paper, "linear": linear, "constant": constant}
"""Schedules by name; each maps t = epoch / epochs in [0, 1], epochs counted from 1, to [0, 1]."""
