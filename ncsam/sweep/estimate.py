"""What a sweep will cost, from a few timed steps and products of its own models on its own data."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import landscape
from ncsam.measurements import ANALYSIS_VIEWS
from ncsam.sweep.cells import Cell
from ncsam.training.problem import Problem
from ncsam.training.trainer import Trainer

PRODUCTS = 40  # a view: about what five eigenvalues take; the one number here that is assumed, not measured
_STEPS = 6
_SAMPLES = 512


@dataclasses.dataclass(frozen=True)
class Cost:
    """What cells cost together.

    Attributes:
        seconds: of one process doing one after another.
        bytes: on disk.
    """

    seconds: float
    bytes: int


def estimate(cells: Sequence[Cell], *, trust: bool = False) -> Cost:
    """Time a few steps, an evaluation and a Hessian product for each arm of ``cells``; nothing is written.

    Data and models are built as in the runs, see :func:`ncsam.runs.train.train_run` for ``trust``. Arms that share data
    and model share all but the steps' time.

    Raises:
        ValueError, OSError: what the runs themselves would raise before their first epoch.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the pool
    try:
        return _estimate(cells, trust)
    finally:
        torch.set_num_threads(threads)


def _estimate(cells: Sequence[Cell], trust: bool) -> Cost:
    seconds, size = 0.0, 0
    problems: dict[tuple[Any, ...], Problem] = {}
    known: dict[tuple[Any, ...], tuple[float, float, float, int]] = {}
    for cell in cells:
        config = cell.config
        shape = (config.data, config.train_samples, config.test_samples, config.val_fraction)
        if shape not in problems:
            problems[shape] = Problem.of(config, trust=trust)
        problem = problems[shape]
        arm = (*shape, config.model, config.optimizer, config.batch_size, config.loss, repr(config.options))
        if arm not in known:
            known[arm] = _costs(cell, problem, trust)
        step, forward, product, weights = known[arm]
        train, test = len(problem.train), len(problem.dataset.test_y)
        everything = train + len(problem.val) + test
        seconds += config.epochs * (-(-train // config.batch_size) * step + everything * forward)
        for measure, settings in cell.measures.items():
            name = measure.partition("/")[0]
            # The clean and the noisy part together are the whole once more.
            views = settings.get("views", ANALYSIS_VIEWS)
            once = {v: test if v == "test" else train for v in views if v != "noisy_part"}
            if name == "hessian":
                seconds += sum(once.values()) * product * (PRODUCTS + settings.get("trace_matvecs", 100))
            elif name == "sharpness":
                seconds += sum(once.values()) * product * 2
            elif name == "diagnostics":
                seconds += train * product * 4 * len(settings.get("epochs", ("last",)))
            elif name == "bound":
                seconds += train * product * 2 * settings.get("restarts", 3) * settings.get("steps", 20)
            else:
                points = settings.get("points", 21) ** (2 if name == "plane" else 1)
                seconds += points * (train + test) * forward
        size += weights * (1 + len(set(config.checkpoints) - {config.epochs})) + 32 * len(problem.labels.true)
    return Cost(seconds, size)


def _costs(cell: Cell, problem: Problem, trust: bool) -> tuple[float, float, float, int]:
    """Seconds of a step, of the forward pass of a sample, of a Hessian product for a sample; bytes of the weights."""
    rows = problem.train[:_SAMPLES]
    small = dataclasses.replace(problem, train=rows, val=rows[:0])
    small = dataclasses.replace(
        small,
        dataset=dataclasses.replace(small.dataset, test_x=small.dataset.test_x[:1], test_y=small.dataset.test_y[:1]),
    )
    config = dataclasses.replace(cell.config, val_fraction=0.0, warmup=0.0, checkpoints=())
    trainer = Trainer(config, small, trust=trust)
    batches = -(-len(rows) // config.batch_size)
    step = _time(lambda: trainer._train(1), max(1, _STEPS // batches)) / batches
    objective = small.objective(trainer.model, ["mixed"])
    forward = _time(objective.evaluate, 2) / len(rows)
    H = landscape.HessianOperator(objective)
    v = objective.gradient()
    product = _time(lambda: H @ v, 2) / len(rows)
    weights = sum(t.nbytes for t in trainer.model.state_dict().values())
    return step, forward, product, weights


def _time(call: Callable[[], object], repeats: int) -> float:
    call()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats
