"""What the curvature of every sample along one vector costs, in Hessian-vector products over the same samples.

Run ``python benchmarks/sample_curvature.py``; it takes a minute or two and writes ``results/sample_curvature.json``.
Times are process CPU time on one thread, the median over rounds in which all jobs take turns, after one round that is
not counted. ``sample_curvature`` includes its check by double backward and the losses of the samples.
The product is ``HessianOperator(objective) @ v`` after its first, as an eigensolver takes it; ``double backward`` is
the same product by two backward passes.
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
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import landscape
from ncsam.models import build

_log = logging.getLogger("sample curvature")
SAMPLES, BATCH = 512, 128
MODELS: dict[str, tuple[int, Callable[[int], nn.Module]]] = {  # side of the images, and the model for it
    "cnn, 8 × 8": (8, lambda side: build("cnn", (1, side, side), 10, seed=0)),
    "cnn, 32 × 32": (32, lambda side: build("cnn", (1, side, side), 10, seed=0)),
    "resnet18 of 16 channels, 8 × 8": (8, lambda side: build("resnet18", (1, side, side), 10, seed=0, width=16)),
}


def objective_of(side: int, make: Callable[[int], nn.Module]) -> landscape.Objective:
    model = make(side)
    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x[:SAMPLES] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    images = functional.interpolate(images, (side, side), mode="bilinear")
    with torch.no_grad():
        model.train()(images)  # statistics of BatchNorm
    labels = torch.tensor(y[:SAMPLES])
    return landscape.Objective(model.eval(), nn.CrossEntropyLoss(), (images, labels), batch_size=BATCH)


def jobs_of(objective: landscape.Objective) -> dict[str, Callable[[], object]]:
    v = torch.randn(objective.num_parameters, generator=torch.Generator().manual_seed(0))
    v /= v.norm()
    product = landscape.HessianOperator(objective)
    double = landscape.HessianOperator(objective, strategy="double_backward")
    return {
        "sample_curvature": lambda: landscape.sample_curvature(objective, v),
        "product": lambda: product @ v,
        "double backward": lambda: double @ v,
        "gradient": lambda: objective.gradient(),
    }


def measure(rounds: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, (side, make) in MODELS.items():
        jobs = jobs_of(objective_of(side, make))
        seconds: dict[str, list[float]] = {job: [] for job in jobs}
        for _ in range(rounds + 1):
            for job, call in jobs.items():
                started = time.process_time()
                call()
                seconds[job].append(time.process_time() - started)
        middle = {job: statistics.median(times[1:]) for job, times in seconds.items()}
        ratios = {f"in {job}s": middle["sample_curvature"] / middle[job] for job in ("product", "gradient")}
        ratios["in products by double backward"] = middle["sample_curvature"] / middle["double backward"]
        found[name] = {f"{job}, s": s for job, s in middle.items()} | ratios
        _log.info("%s: %s", name, {key: round(value, 4) for key, value in found[name].items()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sample_curvature.json")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    how = "process CPU time on one thread, interleaved; the median of all rounds after the first"
    content = {"environment": environment(measure=how), "samples": SAMPLES, "batch": BATCH, "rounds": arguments.rounds}
    content["models"] = measure(arguments.rounds)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
