"""Forecasts of what a measurement will take, from a part of it that is timed before the rest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import landscape
from landscape.surfaces.recalibration import Recalibration


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The work that a measurement has left.

    Attributes:
        seconds: that it will take on this machine, roughly.
        work: what that is, such as ``51 points on 5 views``.
        disk: bytes that it will have written at most.
        memory: bytes that the process will hold at most, libraries and data included; 0 where that is not known.
    """

    seconds: float
    work: str
    disk: int = 0
    memory: int = 0


Tell = Callable[[Callable[[], Forecast]], None]
"""Is handed the way to a forecast once, before the first row; whoever does not call it spends no time on it."""


def timed(call: Callable[[], object]) -> float:
    """Seconds of a second call, since the first one also prepares what later calls reuse.

    >>> calls = []
    >>> 0 <= timed(lambda: calls.append(len(calls))) < 1, calls
    (True, [0, 1])
    """
    call()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def of_points(
    objective: landscape.Objective,
    points: Sequence[int],
    *,
    at_most: bool = False,
    recalibration: Recalibration | None = None,
) -> Forecast:
    """The forecast of points that are still to be evaluated, from one at the centre.

    Args:
        objective: with the views of the points, its data on every process where several share the points.
        points: those that are left.
        at_most: whether some of them may turn out not to be needed.
        recalibration: of BatchNorm statistics, which every point has before it is evaluated.
    """
    ranks, alone = objective.ranks, objective.over(None)
    with alone.along([], recalibration) as evaluate:
        seconds = timed(lambda: evaluate([]))
    rounds = -(-len(points) // (1 if ranks is None else ranks.size))
    return Forecast(rounds * seconds, f"{'up to ' * at_most}{counted(len(points), 'point')} on {views(objective)}")


def views(objective: landscape.Objective) -> str:
    """Count the views of an objective that have samples."""
    return counted(sum(objective.num_samples(view) > 0 for view in objective.views), "view")


def counted(count: int, what: str, several: str | None = None) -> str:
    """A number of things.

    >>> counted(1, "point"), counted(51, "point"), counted(8, "batch", "batches")
    ('1 point', '51 points', '8 batches')
    """
    return f"{count} {what if count == 1 else several or f'{what}s'}"
