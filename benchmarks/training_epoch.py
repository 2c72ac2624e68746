"""Cost of an epoch of ``ncsam.Trainer`` with plain SGD, evaluation not counted, beside a bare PyTorch loop.

Run ``python benchmarks/training_epoch.py --cifar DIR``, best on an idle machine; DIR holds CIFAR-10 in a published
layout, of which 2,000 images are used, and may be left out. It writes ``results/training_epoch.json``. The measure is
process CPU time on one thread. Both train the same model on the same samples; every round times an epoch of each, in
turns first, and a ratio is taken within its round. The bare loop holds normalised float32 inputs, the trainer the
uint8 pixels of CIFAR, which it normalises batch by batch.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from environment import environment
from torch import nn

from ncsam import TrainConfig, Trainer, models
from ncsam.training.problem import Problem

_log = logging.getLogger("training_epoch")
Epoch = Callable[[int], object]


def bare(config: TrainConfig, problem: Problem) -> Epoch:
    """What anybody writes; ``loss.item()`` stands for the loss that a loop logs."""
    dataset = problem.dataset
    model = models.build(config.model, dataset.input_shape, dataset.num_classes, seed=0)
    opt = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    x, y, loss_fn = problem.inputs(), problem.observed(), nn.CrossEntropyLoss()

    def epoch(_: int) -> float:
        model.train()
        total = 0.0
        for rows in torch.randperm(len(y)).split(config.batch_size):
            opt.zero_grad()
            loss = loss_fn(model(x[rows]), y[rows])
            loss.backward()
            opt.step()
            total += loss.item()
        return total

    return epoch


def ours(config: TrainConfig, problem: Problem) -> Epoch:
    """The trainer's epoch without the evaluation that follows it."""
    return Trainer(config, problem)._train


def measure(config: TrainConfig, rounds: int) -> dict[str, object]:
    """Median and quartiles of the CPU time an epoch (ms), and of the ratio within a round."""
    problem = Problem.of(config)
    arms = {"bare loop": bare(config, problem), "Trainer": ours(config, problem)}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for epoch in arms.values():
        for _ in range(2):
            epoch(1)
    for i in range(rounds):
        for name in list(arms)[:: 1 if i % 2 else -1]:
            start = time.process_time()
            arms[name](1)
            times[name].append(time.process_time() - start)
    ratio = [a / b for a, b in zip(times["Trainer"], times["bare loop"], strict=True)]
    found = {name: {"ms": summary([1e3 * s for s in seconds])} for name, seconds in times.items()}
    _log.info(
        "%s, %s: Trainer takes %.3f × the bare loop",
        config.data.partition(":")[0],
        config.model,
        summary(ratio)["median"],
    )
    return {
        "data": config.data.partition(":")[0],
        "samples": len(problem.train),
        "model": config.model,
        "batch": config.batch_size,
        "rounds": rounds,
        "arms": found,
        "ratio": summary(ratio),
    }


def summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": round(median, 4), "q1": round(low, 4), "q3": round(high, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cifar", type=Path, help="folder with CIFAR-10")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training_epoch.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    shared = TrainConfig(optimizer="sgd", epochs=10, lr_schedule="constant", lr=0.01)
    digits = {"digits, cnn": {"model": "cnn"}, "digits, mlp": {"model": "mlp"}}
    cifar = {"cifar10, cnn": {"data": f"cifar10:{args.cifar}", "model": "cnn", "train_samples": 2000}}
    cases = {**digits, **(cifar if args.cifar else {})}
    results = {
        # An epoch of the MLP takes 10 ms: ten times the rounds cost little and tell a few per cent from noise.
        name: measure(TrainConfig(**{**vars(shared), **changes}), args.rounds * (10 if "mlp" in name else 1))
        for name, changes in cases.items()
    }
    measured_with = environment(
        threads=1, measure="process CPU time an epoch without evaluation, interleaved; ratio in the same round"
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"environment": measured_with, "cases": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
