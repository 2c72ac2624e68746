"""Estimated cost of a sweep, from a few timed steps and products of its own models on its own data."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import landscape
from ncsam.sweep.cells import Cell, UnitCosts, kind_and_name
from ncsam.training.problem import Problem
from ncsam.training.trainer import Trainer

_STEPS = 6
_SAMPLES = 512


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of cells together.

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
    steps: dict[tuple[Any, ...], float] = {}
    passes: dict[tuple[Any, ...], tuple[float, float, int]] = {}
    for cell in cells:
        config = cell.config
        shape = (config.data, config.train_samples, config.test_samples, config.val_fraction)
        if shape not in problems:
            problems[shape] = Problem.of(config, trust=trust)
        problem = problems[shape]
        network = (*shape, config.model)
        # The size of an option decides nothing about the time, and there may be many candidates.
        arm = (*network, config.optimizer, config.batch_size, config.loss.partition(":")[0])
        if arm not in steps or network not in passes:
            trainer, small = _first_steps(cell, problem, trust)
            if arm not in steps:
                steps[arm] = _step_seconds(trainer)
            if network not in passes:
                passes[network] = _pass_seconds(trainer, small)
        step, (forward, product, weights) = steps[arm], passes[network]
        unit = UnitCosts(len(problem.train), len(problem.dataset.test_y), forward, product)
        everything = unit.train + len(problem.val) + unit.test
        seconds += config.epochs * -(-unit.train // config.batch_size) * step
        seconds += sum(map(config.evaluates, range(1, config.epochs + 1))) * everything * forward
        seconds += sum(kind_and_name(name)[0].seconds(settings, unit) for name, settings in cell.measures.items())
        size += weights * (1 + len(set(config.checkpoints) - {config.epochs})) + 32 * len(problem.labels.true)
        size += 8 * config.epochs * len(problem.train) if config.samples else 0
    return Cost(seconds, size)


def _first_steps(cell: Cell, problem: Problem, trust: bool) -> tuple[Trainer, Problem]:
    """A trainer of the cell on a few of its samples, and these."""
    rows = problem.train[:_SAMPLES]
    small = dataclasses.replace(problem, train=rows, val=rows[:0])
    small = dataclasses.replace(
        small,
        dataset=dataclasses.replace(small.dataset, test_x=small.dataset.test_x[:1], test_y=small.dataset.test_y[:1]),
    )
    config = dataclasses.replace(cell.config, val_fraction=0.0, warmup=0.0, checkpoints=())
    if config.like is not None:  # its norms are not known yet; a step of it costs what one of SAM does
        config = dataclasses.replace(config, optimizer="sam", options={}, like=None)
    return Trainer(config, small, trust=trust), small


def _step_seconds(trainer: Trainer) -> float:
    batches = -(-len(trainer.problem.train) // trainer.config.batch_size)
    return _time(lambda: trainer.train_epoch(1), max(1, _STEPS // batches)) / batches


def _pass_seconds(trainer: Trainer, small: Problem) -> tuple[float, float, int]:
    """Seconds of the forward pass of a sample, of a Hessian product for a sample; bytes of the weights."""
    objective = small.objective(trainer.model, ["mixed"])
    forward = _time(objective.evaluate, 2) / len(small.train)
    H = landscape.HessianOperator(objective)
    v = objective.gradient()
    product = _time(lambda: H @ v, 2) / len(small.train)
    return forward, product, sum(t.nbytes for t in trainer.model.state_dict().values())


def _time(call: Callable[[], object], repeats: int) -> float:
    call()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats
