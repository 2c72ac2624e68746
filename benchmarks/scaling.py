"""How costs grow: CPU time against data size, parameters, grid points and eigenpairs, as slopes of log against log.

Run ``python benchmarks/scaling.py``; it takes a few minutes and writes ``results/scaling.json``. The measure is process
CPU time on one thread. Every round times all sizes of a quantity once, one after the other, and fits a slope to them;
the figure is the median of the rounds' slopes, with quartiles. 1 is proportional, less is better: a part of the cost
does not grow. The data are handwritten digits, repeated with small noise where more are asked for.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from environment import environment
from sklearn.datasets import load_digits
from torch import Tensor, nn

import landscape

_log = logging.getLogger("scaling")
Call = Callable[[], object]


def digits(count: int) -> tuple[Tensor, Tensor]:
    images, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    rows = torch.arange(count) % len(labels)
    noise = torch.randn(count, 64, generator=torch.Generator().manual_seed(0))
    return images.float()[rows] / 16 + 0.05 * noise, labels[rows]


def trained(width: int, depth: int = 1, steps: int = 60) -> nn.Module:
    """A multilayer perceptron after some steps of training, so that its spectrum has outliers."""
    torch.manual_seed(0)
    sizes = [64, *[width] * depth]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
    model = nn.Sequential(*hidden, nn.Linear(width, 10))
    x, y = digits(512)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def objective(model: nn.Module, samples: int) -> landscape.Objective:
    return landscape.Objective(model, nn.CrossEntropyLoss(), digits(samples), batch_size=256)


def product(model: nn.Module, samples: int, budget: int) -> tuple[landscape.HessianOperator, Call]:
    H = landscape.HessianOperator(objective(model, samples), strategy="double_backward", memory_budget=budget)
    v = torch.randn(H.shape[0], generator=torch.Generator().manual_seed(1))
    H @ v  # warms up, and makes what is kept
    return H, lambda: H @ v


def against_data(samples: int) -> tuple[int, Call]:
    return samples, product(trained(128), samples, 0)[1]


def against_data_kept(samples: int) -> tuple[int, Call]:
    return samples, product(trained(128), samples, 4 << 30)[1]


def against_parameters(width: int) -> tuple[int, Call]:
    H, call = product(trained(width, depth=3, steps=5), 256, 0)
    return H.shape[0], call


def against_points(side: int) -> tuple[int, Call]:
    model = trained(128)
    obj = objective(model, 1024)
    d1, d2 = (landscape.filter_normalized_direction(model, seed=seed) for seed in (0, 1))
    axis = torch.linspace(-1, 1, side)
    return side * side, lambda: landscape.plane(obj, d1, d2, axis, axis)


def against_eigenpairs(count: int) -> tuple[int, Call]:
    H, _ = product(trained(32), 1024, 4 << 30)
    return count, lambda: landscape.top_eigenpairs(H, count)


def eigenpairs_of_many_parameters(count: int) -> tuple[int, Call]:
    H, _ = product(trained(256, depth=3), 512, 4 << 30)
    return count, lambda: landscape.top_eigenpairs(H, count)


CASES: dict[str, tuple[Callable[[int], tuple[int, Call]], tuple[int, ...], str]] = {
    "product, samples": (against_data, (1024, 2048, 4096, 8192, 16384), "samples"),
    "product, samples, graphs kept": (against_data_kept, (1024, 2048, 4096, 8192, 16384), "samples"),
    "product, parameters": (against_parameters, (64, 128, 256, 512, 1024), "parameters"),
    "plane, grid points": (against_points, (4, 6, 8, 12, 16), "points"),
    "eigenpairs, 2 410 parameters": (against_eigenpairs, (1, 2, 4, 8, 16), "pairs"),
    "eigenpairs, 150 794 parameters": (eigenpairs_of_many_parameters, (1, 2, 4, 8, 16), "pairs"),
}


def seconds(call: Call, at_least: float = 0.05) -> float:
    """CPU time of one call, from as many as take some time together."""
    start, count = time.process_time(), 0
    while (spent := time.process_time() - start) < at_least or not count:
        call()
        count += 1
    return spent / count


def slope(sizes: list[int], times: list[float]) -> float:
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(t) for t in times]).slope


def measure(name: str, rounds: int) -> dict[str, object]:
    make, arguments, unit = CASES[name]
    sizes, calls = zip(*(make(argument) for argument in arguments), strict=True)
    results = [call() for call in calls]
    times = [[seconds(call) for call in calls] for _ in range(rounds)]
    slopes = [slope(list(sizes), row) for row in times]
    low, median, high = statistics.quantiles(slopes, n=4)
    _log.info("%-34s slope %.2f (quartiles %.2f, %.2f)", name, median, low, high)
    return {
        "unit": unit,
        "sizes": sizes,
        "median_ms": [round(1e3 * statistics.median(column), 3) for column in zip(*times, strict=True)],
        "slope": {"median": round(median, 3), "q1": round(low, 3), "q3": round(high, 3)},
        "slope_of_last_two_sizes": round(statistics.median(slope(list(sizes[-2:]), row[-2:]) for row in times), 3),
        "rounds": rounds,
        **({"matvecs": [int(r.matvecs) for r in results]} if hasattr(results[0], "matvecs") else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES), help="others keep their figures")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scaling.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    known = json.loads(args.out.read_text())["cases"] if args.out.exists() else {}
    for name in args.cases:
        known[name] = {
            "environment": environment(
                threads=1,
                measure="process CPU time, sizes interleaved; slope of log time against log size, fitted in each round",
            ),
            **measure(name, args.rounds),
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"cases": known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
