"""Choose what an audit measures for a given amount of work: a fixed rule, by which equal work buys the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

PRODUCT = 12  # forward passes that a Hessian product takes, about: 6 by their operations, the rest in memory traffic
_OPERATOR = 100  # further passes, until the first product is made and checked
_GRADIENT = 3
_OF_SAMPLES = 4  # products that the curvature of every sample takes, about, from which λ₁ has its sampling error
_FIRST = 3  # passes that a loss takes whose model and data are checked on the way
_CHECK = 2500  # forward passes of a sample that the check of a surface's centre takes, in double precision
_SIZES = (32, 64, 128, 256, 500, 1000, 2000, 5000, 10_000, 50_000)


@dataclasses.dataclass(frozen=True)
class Effort:
    """Effort spent on each measurement of an audit; 0 leaves it out.

    Attributes:
        top: products for the largest eigenvalue, at most.
        trace, dhd: products for tr ∇²L and for tr D∇²L D.
        steps, probes: of the density that the negative mass is read off.
        average: antithetic pairs of random perturbations.
        keskar: ascent steps in Keskar's box.
        draws, line: random directions, and points along each.
        plane: points along either side.
        barrier: points on the way to the reference.
        null: whether a null is measured beside the checkpoints.
    """

    top: int
    trace: int
    dhd: int
    steps: int
    probes: int
    average: int
    keskar: int
    draws: int
    line: int
    plane: int
    barrier: int
    null: bool = True

    @property
    def products(self) -> int:
        """Hessian products of a checkpoint."""
        return self.top + self.trace + self.dhd + self.steps * self.probes + (_OF_SAMPLES if self.top else 0)


EFFORTS = (
    Effort(8, 4, 4, 6, 2, 3, 0, 3, 7, 5, 7),
    Effort(12, 6, 6, 8, 2, 4, 5, 3, 9, 7, 9),
    Effort(20, 10, 10, 12, 2, 8, 5, 4, 13, 11, 11),
    Effort(30, 20, 20, 20, 3, 16, 10, 6, 21, 15, 21),
    Effort(50, 40, 40, 30, 4, 30, 20, 8, 31, 21, 21),
    Effort(100, 100, 100, 50, 5, 50, 20, 10, 41, 31, 41),
)
_RUNGS = ((0, 32), (0, 64), (1, 64), (1, 128), (2, 128), (2, 256), (3, 256), (3, 500), (3, 1000), (4, 1000), (4, 2000),
          (5, 2000), (5, 5000), (5, 10_000), (5, 50_000))  # fmt: skip
_DROPPED = (  # first to last, where the lowest rung is too much
    ("the null", {"null": False}),
    ("the plane", {"plane": 0}),
    ("the negative mass", {"steps": 0, "probes": 0}),
    ("tr DHD", {"dhd": 0}),
    ("the trace", {"trace": 0}),
    ("average sharpness", {"average": 0}),
    ("the barrier", {"barrier": 0}),
    ("the largest eigenvalue", {"top": 0}),
    ("the line", {"draws": 0, "line": 0}),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Measurements that an audit makes, and what it leaves out.

    Attributes:
        effort: how thoroughly.
        samples: of each view that curvature, sharpness and surfaces are measured on, at most.
        work: forward passes of a sample that this takes, by the rule.
        allowed: what the budget allows.
        left_out: what there was no work for.
    """

    effort: Effort
    samples: int
    work: int
    allowed: int
    left_out: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Task:
    """Sizes of what is to be audited, from which its costs follow.

    Attributes:
        checkpoints: in number.
        ways: barriers to measure.
        samples: of the view that is measured, as many as there are.
        losses: samples that the losses of all views are evaluated on.
        null: whether one is asked for.
    """

    checkpoints: int
    ways: int
    samples: int
    losses: int
    null: bool = True


def plan(task: Task, allowed: float) -> Plan:
    """The fullest plan that the work ``allowed``, in forward passes of one sample, pays for; equal work, equal plan.

    Losses are always measured. Where even the least of everything else is too much, quantities are left out, beginning
    with those that a reader would miss least.

    >>> task = Task(checkpoints=1, ways=0, samples=2000, losses=4000)
    >>> [(plan(task, w).samples, plan(task, w).effort.plane, len(plan(task, w).left_out)) for w in (1e4, 1e5, 1e7)]
    [(32, 0, 8), (32, 5, 0), (1000, 21, 0)]
    """
    best: Plan | None = None
    for effort, samples in _rungs(task):
        work = cost(task, effort, samples)
        if work <= allowed:
            best = Plan(effort, samples, work, int(allowed))
    if best is not None:
        return best
    effort, samples = next(_rungs(task))
    left_out: list[str] = []
    for what, without in _DROPPED:
        if cost(task, effort, samples) <= allowed:
            break
        before = cost(task, effort, samples)
        effort = dataclasses.replace(effort, **without)
        if cost(task, effort, samples) < before:
            left_out.append(what)
    return Plan(effort, samples, cost(task, effort, samples), int(allowed), tuple(left_out))


def _rungs(task: Task) -> Iterator[tuple[Effort, int]]:
    """Efforts and samples, each rung at most as costly as the next."""
    for level, samples in _RUNGS:
        yield dataclasses.replace(EFFORTS[level], null=task.null), min(samples, task.samples)


def cost(task: Task, effort: Effort, samples: int) -> int:
    """Forward passes of a sample that an audit takes, by the rule."""
    products = effort.products * PRODUCT + (_OPERATOR if effort.products else 0)
    measured = products + 2 * (_GRADIENT + 1) + 4 * effort.average + effort.keskar * (_GRADIENT + 1)
    lines = 2 * effort.draws * effort.line
    checkpoint = samples * (measured + lines + 2 * effort.plane**2) + _CHECK * ((effort.line > 0) + (effort.plane > 0))
    null = samples * (measured + lines) if effort.null else 0
    losses = _FIRST * task.losses
    ways = task.ways * 2 * samples * effort.barrier
    return task.checkpoints * (checkpoint + losses) + null + ways + (losses if effort.null else 0)
