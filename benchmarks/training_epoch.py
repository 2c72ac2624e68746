"""Cost of an epoch of ``ncsam.Trainer`` with plain SGD, evaluation not counted, beside a bare PyTorch loop.

Run ``python benchmarks/training_epoch.py --cifar DIR``, best on an idle machine; DIR holds CIFAR-10 in a published
layout, of which 2,000 images are used (128 for ResNet-18), and may be left out. It writes
``results/training_epoch.json``. The measure is process CPU time on one thread. All arms train the same model on the
same samples; every round times an epoch of each, in turns first, and a ratio is taken within its round. The bare loop
is contiguous, as anybody writes it, and holds normalised float32 inputs, the trainer the uint8 pixels of CIFAR, which
it normalises batch by batch.

Besides, of whole trainings: the test accuracy with ``precision="bf16"`` less that with ``fp32``, seed by seed, and the
cost of one evaluation of all views beside that of the epoch before it.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from ncsam.training.config import LAST_EPOCHS
from ncsam.training.problem import Problem

_log = logging.getLogger("training_epoch")
Epoch = Callable[[int], object]
BARE = "bare loop"


def bare(config: TrainConfig, problem: Problem, memory_format: torch.memory_format) -> Epoch:
    """What anybody writes; ``loss.item()`` stands for the loss that a loop logs."""
    dataset = problem.dataset
    model = models.build(config.model, dataset.input_shape, dataset.num_classes, seed=0)
    model = model.to(memory_format=memory_format)  # type: ignore[call-overload]
    opt = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    x, y, loss_fn = problem.inputs(), problem.observed(), nn.CrossEntropyLoss()

    def epoch(_: int) -> float:
        model.train()
        total = 0.0
        for rows in torch.randperm(len(y)).split(config.batch_size):
            opt.zero_grad()
            loss = loss_fn(model(x[rows].contiguous(memory_format=memory_format)), y[rows])
            loss.backward()
            opt.step()
            total += loss.item()
        return total

    return epoch


def ours(config: TrainConfig, problem: Problem, **changes: object) -> Epoch:
    """The trainer's epoch without the evaluation that follows it."""
    return Trainer(dataclasses.replace(config, **changes), problem).train_epoch


def measure(config: TrainConfig, rounds: int) -> dict[str, object]:
    """Median and quartiles of the CPU time an epoch (ms), and of the ratios within a round."""
    problem = Problem.of(config)
    arms = {BARE: bare(config, problem, torch.contiguous_format), "Trainer": ours(config, problem)}
    if config.model != "mlp":
        arms["bare loop, channels_last"] = bare(config, problem, torch.channels_last)
        arms["Trainer, contiguous"] = ours(config, problem, memory_format="contiguous")
    arms["Trainer, bf16"] = ours(config, problem, precision="bf16")
    times: dict[str, list[float]] = {name: [] for name in arms}
    for epoch in arms.values():
        epoch(1)
    for i in range(rounds):
        for name in list(arms)[:: 1 if i % 2 else -1]:
            start = time.process_time()
            arms[name](1)
            times[name].append(time.process_time() - start)
    found = {}
    for name, seconds in times.items():
        ratio = summary([a / b for a, b in zip(seconds, times[BARE], strict=True)])
        found[name] = {"ms": summary([1e3 * s for s in seconds]), "ratio": ratio}
        _log.info("%s, %s: %s takes %.3f × the bare loop", _data(config), config.model, name, ratio["median"])
    return {**_settings(config, problem), "rounds": rounds, "arms": found}


def low_precision(config: TrainConfig, seeds: int) -> dict[str, object]:
    """Test accuracy, mean of the last epochs, in both precisions on the same seeds, and its difference."""
    accuracy: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed in range(seeds):
        for precision, found in accuracy.items():
            trainer = Trainer(dataclasses.replace(config, precision=precision).with_seed(seed))
            list(trainer.epochs())
            found.append(float(trainer.record().of_view("test")[-LAST_EPOCHS:].mean()))
    difference = [low - full for low, full in zip(accuracy["bf16"], accuracy["fp32"], strict=True)]
    error = statistics.stdev(difference) / seeds**0.5
    mean = statistics.mean(difference)
    _log.info("%s, %s: bf16 - fp32 in test accuracy %+.4f ± %.4f", _data(config), config.model, mean, error)
    return {
        **_settings(config, Problem.of(config)),
        "epochs": config.epochs,
        "accuracy": {name: [round(a, 4) for a in found] for name, found in accuracy.items()},
        "difference": {"mean": round(mean, 5), "standard_error": round(error, 5)},
    }


def evaluation(config: TrainConfig, epochs: int) -> dict[str, object]:
    """An evaluation of all views over the training epoch before it, by the wall clock of a training."""
    problem = Problem.of(config)
    trainer = Trainer(dataclasses.replace(config, epochs=epochs), problem)
    ratio, before = [], dict(trainer.seconds)
    for _ in trainer.epochs():
        spent = {name: trainer.seconds[name] - before[name] for name in before}
        ratio.append(spent["evaluation"] / spent["training"])
        before = dict(trainer.seconds)
    found = summary(ratio[1:])  # the first one also checks the model
    _log.info("%s, %s: an evaluation takes %.3f × the epoch", _data(config), config.model, found["median"])
    return {**_settings(config, problem), "test_samples": len(problem.dataset.test_y), "ratio": found}


def _data(config: TrainConfig) -> str:
    return config.data.partition(":")[0]


def _settings(config: TrainConfig, problem: Problem) -> dict[str, object]:
    return {
        "data": _data(config),
        "samples": len(problem.train),
        "model": config.model,
        "batch": config.batch_size,
    }


def summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": round(median, 4), "q1": round(low, 4), "q3": round(high, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=10, help="of the comparison of precisions")
    parser.add_argument("--cifar", type=Path, help="folder with CIFAR-10")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training_epoch.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    shared = TrainConfig(optimizer="sgd", epochs=10, lr_schedule="constant", lr=0.01)
    cases = {"digits, mlp": {"model": "mlp"}, "digits, cnn": {"model": "cnn"}}
    if args.cifar:
        pixels = {"data": f"cifar10:{args.cifar}", "train_samples": 2000, "test_samples": 400}
        cases["cifar10, cnn"] = {**pixels, "model": "cnn"}
        cases["cifar10, resnet18"] = {**pixels, "model": "resnet18", "train_samples": 128, "val_fraction": 0.0}
    # An epoch of the MLP takes 10 ms: ten times the rounds cost little and tell a few per cent from noise. One of
    # ResNet-18 takes seconds.
    rounds = {"digits, mlp": 10 * args.rounds, "cifar10, resnet18": max(4, args.rounds // 5)}
    configs = {name: dataclasses.replace(shared, **changes) for name, changes in cases.items()}
    learning = TrainConfig(optimizer="sgd", epochs=20)
    results = {
        "cases": {name: measure(config, rounds.get(name, args.rounds)) for name, config in configs.items()},
        "evaluation": {
            name: evaluation(config, 8) for name, config in configs.items() if name.startswith("cifar10, cnn")
        },
        "bf16": {
            name: low_precision(dataclasses.replace(learning, **cases[name]), args.seeds)
            for name in cases
            if name.endswith("cnn")
        },
    }
    measured_with = environment(
        threads=1, measure="process CPU time an epoch without evaluation, interleaved; ratio in the same round"
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"environment": measured_with, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
