"""What the checks of model, loss and data cost: passes, gradients, and their share of a job's CPU time.

Run ``python benchmarks/cost_of_checks.py``; it takes some minutes and writes ``results/cost_of_checks.json``. Each
job starts from a new objective, so that all of its checks are made, with ``checks="full"``, ``"first"`` and ``"off"``
in turn. A pass is as many samples run forward as the data have; a backward pass is one over as many. The time is
process CPU time on one thread, the least of interleaved rounds, since other work on the machine only adds to it:
checked − unchecked, as a share of the checked job and in gradients over the data, whose time is that of a second
gradient of one unchecked objective. Jobs of less than a second have four times as many rounds.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from environment import environment
from sklearn.datasets import load_digits
from torch import Tensor, nn

import landscape

_log = logging.getLogger("cost of checks")
SAMPLES, BATCH, POINTS, SIDE = 512, 128, 51, 11
_SHORT, _MORE = 1.0, 4  # seconds; shorter jobs have so many times more rounds
LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {
    "nn.CrossEntropyLoss": nn.CrossEntropyLoss(),
    "a function": lambda outputs, labels: nn.functional.cross_entropy(outputs, labels),
}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def line(objective: landscape.Objective) -> object:
    direction = landscape.filter_normalized_direction(objective.model, seed=0)
    return landscape.line(objective, direction, torch.linspace(-1, 1, POINTS), check=False)


def plane(objective: landscape.Objective) -> object:
    directions = [landscape.filter_normalized_direction(objective.model, seed=seed) for seed in (0, 1)]
    axis = torch.linspace(-1, 1, SIDE)
    return landscape.plane(objective, *directions, axis, axis, check=False)


def eigenpairs(objective: landscape.Objective, count: int) -> object:
    return landscape.top_eigenpairs(landscape.HessianOperator(objective), count)


JOBS: dict[str, Callable[[landscape.Objective], object]] = {
    "loss": lambda objective: objective.loss(),
    "gradient": lambda objective: objective.gradient(),
    f"line of {POINTS} points": line,
    "SAM sharpness, 5 steps": lambda objective: landscape.sam_sharpness(objective, 0.05, steps=5),
    "1 eigenpair": lambda objective: eigenpairs(objective, 1),
    "5 eigenpairs": lambda objective: eigenpairs(objective, 5),
    f"plane of {SIDE} × {SIDE} points": plane,
}


class Counting:
    """A ``forward=`` that counts samples, and a loss whose backward passes are counted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def forward(self, model: nn.Module, batch: Any) -> Any:
        outputs = model(batch[0])
        self.counts["forward"] += len(batch[0])
        if outputs.requires_grad:
            count = len(batch[0])
            outputs.register_hook(lambda _: self.counts.update(backward=count))
        return outputs


def trained(model: nn.Module, data: tuple[Tensor, Tensor]) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    return model


def digits() -> tuple[Tensor, Tensor]:
    images, labels = (torch.from_numpy(part[:SAMPLES]) for part in load_digits(return_X_y=True))
    return images.float().reshape(-1, 1, 8, 8) / 16, labels


def measure(model: nn.Module, loss: Any, job: Callable[[Any], object], rounds: int) -> dict[str, Any]:
    data = digits()

    def objective(checks: str, forward: Any = None) -> landscape.Objective:
        return landscape.Objective(model, loss, data, batch_size=BATCH, forward=forward, checks=checks)

    passes = {}
    for checks in ("full", "first", "off"):
        counting = Counting()
        job(objective(checks, counting.forward))
        passes[checks] = {kind: counting.counts[kind] / SAMPLES for kind in ("forward", "backward")}

    def seconds(checks: str) -> float:
        start = time.process_time()
        job(objective(checks))
        return time.process_time() - start

    kept = objective("off")
    kept.gradient()

    def gradient() -> float:
        start = time.process_time()
        kept.gradient()
        return time.process_time() - start

    if seconds("off") < _SHORT:
        rounds *= _MORE
    times = [{**{checks: seconds(checks) for checks in passes}, "gradient": gradient()} for _ in range(rounds)]
    least = {name: min(t[name] for t in times) for name in times[0]}
    added = {checks: least[checks] - least["off"] for checks in ("full", "first")}
    return {
        "passes": {checks: {kind: round(n, 3) for kind, n in found.items()} for checks, found in passes.items()},
        "least_ms": {name: round(1e3 * value, 2) for name, value in least.items()},
        "share": {checks: round(value / least[checks], 3) for checks, value in added.items()},
        "gradients": {checks: round(value / least["gradient"], 2) for checks, value in added.items()},
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cost_of_checks.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    measured_as = "process CPU time of a job from a new objective, interleaved; the least of all rounds"
    result: dict[str, Any] = {"environment": environment(threads=1, measure=measured_as), "cases": {}}
    for name, make in {"MLP": mlp, "CNN": cnn}.items():
        model = trained(make(), digits())
        for loss_name, loss in LOSSES.items():
            for job_name, job in JOBS.items():
                row = measure(model, loss, job, args.rounds)
                result["cases"].setdefault(name, {}).setdefault(loss_name, {})[job_name] = row
                _log.info("%s, %s, %s: %s", name, loss_name, job_name, row)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
