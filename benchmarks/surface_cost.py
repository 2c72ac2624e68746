"""Cost of a loss surface beside the forward passes it needs, a loop written the obvious way, and published tools.

Run ``python benchmarks/surface_cost.py``, best on an idle machine; it takes ten minutes of CPU, needs the extra
``bench`` and writes ``results/surface_cost.json``; with ``--cases`` it measures some networks and keeps the others'
results. A peer that does not import is noted as such. ``landscaper`` 1.3.1 is in no extra, since ``topopy``, which it
needs, asks for NumPy < 2 and cannot be installed beside ours; its compiled parts do run beside NumPy 2, so
``pip install --no-deps --target PEERS landscaper==1.3.1 topopy==1.0.4 nglpy==1.1.7 gudhi==3.13.0 treelib==1.8.0
coloraide==8.13.1 drawsvg==2.4.2`` and ``PYTHONPATH=PEERS`` let it take part, with pandas installed.

The measure is process CPU time on one thread. In every round each
contestant evaluates the same plane, in turns forwards and backwards, and ratios are taken within a round. Then a
plane of 51 × 51 points and five views is drawn to a tolerance of one per cent and compared with the plane of all
points, or for ResNet-20 with 100 of its points; what the others would take for it is their time a point times 2601
times five runs, since they evaluate one set of labels.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import landscape
from landscape.batch_choice import choose
from ncsam import TrainConfig, Trainer
from ncsam.problem import Problem

_log = logging.getLogger("surface_cost")
VIEWS = ("mixed", "clean_part", "noisy_part", "true_labels", "labels:symmetric:0.6")
Case = tuple[nn.Module, landscape.Objective, Tensor, Tensor]


class BasicBlock(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        same = inside == outside
        self.shortcut = nn.Identity() if same else nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())) + self.shortcut(x)
        return out.relu()


def resnet20() -> nn.Module:
    """ResNet-20 for 32 × 32 images (He et al. 2016)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    width = 16
    for outside in (16, 32, 64):
        for i in range(3):
            layers.append(BasicBlock(width, outside, 2 if i == 0 and outside > 16 else 1))
            width = outside
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def trained(model: str, epochs: int) -> Case:
    """A network trained on digits with 40 % wrong labels, as in the demo."""
    config = TrainConfig(
        data="digits", noise="symmetric:0.4", model=model, optimizer="sgd", epochs=epochs, batch_size=64
    )
    trainer = Trainer(config)
    for _ in trainer.epochs():
        pass
    problem = Problem.of(config)
    trainer.model.eval()
    return trainer.model, problem.objective(trainer.model, VIEWS), problem.inputs(), problem.observed()


def synthetic(samples: int) -> Case:
    """ResNet-20 at its initial weights on random images: for cost, the numbers do not matter."""
    torch.manual_seed(0)
    model, x, y = resnet20(), torch.randn(samples, 3, 32, 32), torch.randint(10, (samples,))
    model(x)
    views = [landscape.View("mixed"), landscape.View("clean_part", indices=torch.arange(3 * samples // 5))]
    views += [landscape.View(f"labels{i}", labels=torch.randint(10, (samples,))) for i in range(3)]
    return model.eval(), landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), views=views), x, y


def forward_limit(model: nn.Module, objective: landscape.Objective, x: Tensor) -> Callable[[int], None]:
    """The forward pass alone at our batch size and memory format, so many times."""
    model.to(memory_format=objective.memory_format)
    batches = [
        piece.contiguous(memory_format=objective.memory_format) if x.ndim == 4 else piece
        for piece in x.split(objective.batch_size)
    ]

    def run(points: int) -> None:
        with torch.inference_mode():
            for _ in range(points):
                for batch in batches:
                    model(batch)

    return run


def obvious(model: nn.Module, x: Tensor, y: Tensor, d1: list[Tensor], d2: list[Tensor], steps: int) -> np.ndarray:
    """Set the weights, loop over batches of 256, sum the losses."""
    start = [p.detach().clone() for p in model.parameters()]
    values = np.empty((steps, steps))
    with torch.no_grad():
        for i in range(steps):
            for j in range(steps):
                for p, w, a, b in zip(model.parameters(), start, d1, d2, strict=True):
                    p.copy_(w + i * a + j * b)
                total = 0.0
                for batch, labels in zip(x.split(256), y.split(256), strict=True):
                    total += nn.functional.cross_entropy(model(batch), labels, reduction="sum").item()
                values[i, j] = total / len(y)
        for p, w in zip(model.parameters(), start, strict=True):
            p.copy_(w)
    return values


def loss_landscapes(
    model: nn.Module, x: Tensor, y: Tensor, d1: list[Tensor], d2: list[Tensor], steps: int
) -> np.ndarray:
    """``planar_interpolation``; column i holds the points j = 1 … steps where i is even, 0 … steps - 1 where odd."""
    import copy

    import loss_landscapes as peer
    from loss_landscapes.metrics import Loss

    ends = []
    for direction in (d1, d2):
        end = copy.deepcopy(model)
        with torch.no_grad():
            for p, d in zip(end.parameters(), direction, strict=True):
                p.add_(steps * d)
        ends.append(end)
    metric = Loss(nn.functional.cross_entropy, x, y)
    found: np.ndarray = peer.planar_interpolation(model, *ends, metric, steps, deepcopy_model=True)
    return found


def landscaper_directions(model: nn.Module, vectors: list[list[Tensor]], steps: int) -> list[list[Tensor]]:
    """What landscaper makes of directions: it rescales every tensor."""
    from landscaper.compute import get_model_norm, normalize_direction, scale_direction

    weights = [p.detach() for p in model.parameters()]
    made = []
    for vector in vectors:
        copied = normalize_direction([t.clone() for t in vector], weights)
        scale_direction(copied, ((get_model_norm(weights) * DISTANCE) / (steps / 2)) / get_model_norm(copied))
        made.append(copied)
    return made


DISTANCE = 0.2


def landscaper(model: nn.Module, x: Tensor, y: Tensor, d1: list[Tensor], d2: list[Tensor], steps: int) -> np.ndarray:
    """``compute_loss_landscape``; it starts steps // 2 below the centre, and adds noise to the largest value."""
    from landscaper.compute import compute_loss_landscape

    def scalar(network: nn.Module, data: Any) -> float:
        return nn.functional.cross_entropy(network(data[0]), data[1]).item()

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        values, _ = compute_loss_landscape(model, (x, y), [d1, d2], scalar, steps, DISTANCE, 2, "cpu")
    found: np.ndarray = values
    return found


def as_tensors(objective: landscape.Objective, vector: Tensor) -> list[Tensor]:
    return list(objective.layout.unflatten(vector).values())


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def measure(case: Case, steps: int, rounds: int, installed: dict[str, bool]) -> dict[str, Any]:
    """Milliseconds a point, ratios to the forward limit and to ours, and how far the values agree."""
    model, objective, x, y = case
    objective = choose(objective).apply(objective)
    layout = objective.layout
    d1, d2 = (0.05 * landscape.filter_normalized_direction(model, seed=i) for i in (0, 1))
    t1, t2 = as_tensors(objective, d1), as_tensors(objective, d2)
    grid = np.arange(steps, dtype=float)
    one = objective.view("mixed")
    forward = forward_limit(_copy(model), objective, x)
    points = steps * steps
    arms: dict[str, Callable[[], Any]] = {
        "forward passes alone": lambda: forward(points),
        "ours, one view": lambda: landscape.plane(one, d1, d2, grid, grid, check=False).loss[0],
        "ours, five views": lambda: landscape.plane(objective, d1, d2, grid, grid, check=False).loss[0],
        "obvious loop": lambda: obvious(model, x, y, t1, t2, steps),
    }
    if installed["loss-landscapes"]:
        arms["loss-landscapes"] = lambda: loss_landscapes(model, x, y, t1, t2, steps)
    if installed["landscaper"]:
        arms["landscaper"] = lambda: landscaper(model, x, y, t1, t2, steps)
    values = {name: run() for name, run in arms.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in arms}
    for i in range(rounds):
        for name in list(arms)[:: 1 if i % 2 else -1]:
            times[name].append(timed(arms[name])[0] / points)

    def ratios(a: str, b: str) -> list[float]:
        return [s / t for s, t in zip(times[a], times[b], strict=True)]

    def ratio(a: str, b: str) -> float:
        return round(statistics.median(ratios(a, b)), 3)

    def spread(a: str, b: str) -> list[float]:
        return [round(f(ratios(a, b)), 3) for f in (min, max)]

    agreement = {"obvious loop": float(np.abs(values["obvious loop"] - values["ours, one view"]).max())}
    if "loss-landscapes" in arms:
        wide = landscape.plane(one, d1, d2, grid, np.arange(steps + 1.0), check=False).loss[0]
        same = np.stack([wide[i, 1:] if i % 2 == 0 else wide[i, :-1] for i in range(steps)])
        agreement["loss-landscapes"] = float(np.abs(values["loss-landscapes"] - same).max())
    if "landscaper" in arms:
        theirs = [
            layout.flatten(dict(zip(layout.names, d, strict=True)))
            for d in landscaper_directions(model, [t1, t2], steps)
        ]
        ours = landscape.plane(one, *theirs, grid - steps // 2, grid - steps // 2, check=False).loss[0]
        apart = np.abs(values["landscaper"] - ours)
        apart[np.unravel_index(ours.argmax(), ours.shape)] = 0.0  # where it adds noise
        agreement["landscaper"] = float(apart.max())
    return {
        "samples": len(x),
        "parameters": layout.size,
        "batch": objective.batch_size,
        "memory format": "channels_last" if objective.memory_format == torch.channels_last else "contiguous",
        "points": points,
        "rounds": rounds,
        "ms a point": {name: round(1e3 * statistics.median(seconds), 4) for name, seconds in times.items()},
        "over the forward limit": {name: ratio(name, "forward passes alone") for name in arms},
        "smallest and largest of these": {name: spread(name, "forward passes alone") for name in arms},
        "five views over one": ratio("ours, five views", "ours, one view"),
        "slower than ours, one view": {n: ratio(n, "ours, one view") for n in arms if n not in _OURS},
        "five runs slower than ours, five views": {n: 5 * ratio(n, "ours, five views") for n in arms if n not in _OURS},
        "largest difference of values": agreement,
        "load average": _load(),
    }


_OURS = ("forward passes alone", "ours, one view", "ours, five views")


def _copy(model: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(model).eval()


def to_tolerance(
    case: Case, measured: dict[str, Any], checked: int | None = None, tolerance: float = 0.01
) -> dict[str, Any]:
    """A 51 × 51 plane of five views to a tolerance, against all of its points or ``checked`` of them, drawn at random.

    The cross-check of its centre counts as cost.
    """
    model, objective, _, _ = case
    objective = choose(objective).apply(objective)
    directions = [landscape.filter_normalized_direction(model, seed=i) for i in (0, 1)]
    grid = np.linspace(-1, 1, 51)
    seconds, found = timed(lambda: landscape.plane(objective, *directions, grid, grid, tolerance=tolerance))
    chosen = np.random.default_rng(0).permutation(51 * 51)[:checked]
    whole_seconds, whole = timed(lambda: at_points(objective, directions, grid, chosen))
    spans = np.ptp(found.loss.reshape(len(found.views), -1), axis=1)
    errors = np.abs(found.loss.reshape(len(found.views), -1)[:, chosen] - whole).max(1) / spans
    per_point = measured["ms a point"]
    return {
        "tolerance": tolerance,
        "points evaluated": int((found.status[0] == landscape.Status.OK).sum()),
        "points": 51 * 51,
        "points compared": len(chosen),
        "largest error, share of the range": dict(zip(found.views.tolist(), errors.round(5).tolist(), strict=True)),
        "estimated error, share of the range": [round(float(e), 5) for e in found.interpolation_error / spans],
        "seconds": round(seconds, 3),
        "seconds of the points compared": round(whole_seconds, 3),
        "work of five runs of others over ours": {
            name: round(5 * per_point[name] * 51 * 51 / 1e3 / seconds, 1) for name in per_point if name not in _OURS
        },
        "load average": _load(),
    }


def at_points(
    objective: landscape.Objective, directions: list[Tensor], grid: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    """Losses at some points of the plane, (views, points)."""
    losses: list[list[float]] = []

    def run(evaluate: Callable[[Any], Any]) -> None:
        for i, j in zip(*np.unravel_index(chosen, (len(grid), len(grid))), strict=True):
            losses.append(list(evaluate([float(grid[i]), float(grid[j])]).loss.values()))

    objective.explore(directions, run)
    return np.array(losses).T


def _load() -> list[float]:
    """Of the last minute, five and fifteen."""
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "surface_cost.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    installed = {name: _importable(module) for name, module in PEERS.items()}
    results: dict[str, Any] = {}
    for name in args.cases:
        make, steps, checked = CASES[name]
        case = make()
        results[name] = measure(case, steps, args.rounds, installed)
        if checked != 0:
            results[name]["to a tolerance"] = to_tolerance(case, results[name], checked)
        _log.info("%s: %s", name, json.dumps(results[name], indent=1))
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "peers": {name: _version(name) if found else "does not import here" for name, found in installed.items()},
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": 1,
        "measure": "process CPU time, interleaved; medians over rounds, ratios within a round",
    }
    kept = json.loads(args.out.read_text())["cases"] if args.out.exists() else {}
    cases = {name: results.get(name, kept.get(name)) for name in CASES if name in results or name in kept}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"environment": environment, "cases": cases}, indent=1, ensure_ascii=False) + "\n")


# How to make each, points along an axis of the plane that is timed, and how many points of the plane to a tolerance are
# compared: all, or no such plane at 0.
CASES: dict[str, tuple[Callable[[], Case], int, int | None]] = {
    "digits, mlp": (lambda: trained("mlp", 45), 25, None),
    "digits, cnn": (lambda: trained("cnn", 8), 4, None),
    "32 × 32 images, resnet20": (lambda: synthetic(512), 3, 0),
    "16 such images, resnet20": (lambda: synthetic(16), 3, 100),
}
PEERS = {"loss-landscapes": "loss_landscapes", "landscaper": "landscaper.compute"}


def _importable(module: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except ImportError:
        return False
    return True


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


if __name__ == "__main__":
    main()
