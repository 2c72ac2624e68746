"""Cost of a loss surface beside the forward passes it needs, a loop written the obvious way, and published tools.

Run ``python benchmarks/surface_cost.py``, best on an idle machine; it takes twenty minutes, needs the extra
``bench`` and writes ``results/surface_cost.json``; with ``--cases`` it measures some networks and keeps the others'
results. A peer that does not import is noted as such. ``landscaper`` 1.3.1 is in no extra, since ``topopy``, which it
needs, asks for NumPy < 2 and cannot be installed beside ours; its compiled parts do run beside NumPy 2, so
``pip install --no-deps --target PEERS landscaper==1.3.1 topopy==1.0.4 nglpy==1.1.7 gudhi==3.13.0 treelib==1.8.0
coloraide==8.13.1 drawsvg==2.4.2`` and ``PYTHONPATH=PEERS`` let it take part, with pandas installed.

The measure is process CPU time on one thread. Every contestant has a process of its own, since what one does to the C
library's memory (see ``landscape/objective/evaluation/evaluate.py``) would serve the others too, and a new one in
every round, since where its memory lies has a say in its speed. In a round each of them evaluates the same plane, one
at a time, in turns forwards and backwards; the median of its times counts, and ratios are taken within a round. The
forward limit is the model called in a loop under ``inference_mode``; a second one keeps freed memory as we do.

Then a plane of 51 × 51 points and five views is drawn to a tolerance of one per cent and compared with the plane of all
points, or for ResNet-20 with some of its points; what the others would take for it is their time a point times 2601
times five runs, since they evaluate one set of labels.

The committed ``results/surface_cost.json`` was measured when BatchNorm was folded into the layer before it and the
first layer of an MLP was combined from kept outputs. Both were removed since, so a run now takes longer where they
applied.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import logging
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import surface_peers as peers
import torch
from curvature_product import ResNet20
from environment import environment, installed, load_average
from torch import Tensor, nn

import landscape
from landscape.objective.process_state import keep_freed_memory
from landscape.surfaces.batch_size import choose_batch_size
from ncsam import TrainConfig, Trainer
from ncsam.training.problem import Problem

_log = logging.getLogger("surface_cost")
VIEWS = ("mixed", "clean_part", "noisy_part", "true_labels", "labels:symmetric:0.6")
Case = tuple[nn.Module, landscape.Objective, Tensor, Tensor]


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
    model, x, y = ResNet20(), torch.randn(samples, 3, 32, 32), torch.randint(10, (samples,))
    model(x[:16])  # so that BatchNorm has statistics
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


def as_tensors(objective: landscape.Objective, vector: Tensor) -> list[Tensor]:
    return list(objective.layout.unflatten(vector).values())


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def directions(model: nn.Module) -> list[Tensor]:
    return [0.05 * landscape.filter_normalized_direction(model, seed=i) for i in (0, 1)]


FORWARD, KEPT, ONE, FIVE = "forward passes alone", "the same, freed memory kept", "ours, one view", "ours, five views"
OBVIOUS = "obvious loop"
TURNS = 3  # of each process
OURS = (FORWARD, KEPT, ONE, FIVE)


def contestant(name: str, case: Case, steps: int) -> Callable[[], np.ndarray | None]:
    """What evaluates a plane of steps × steps points, from the present weights outwards."""
    model, objective, x, y = case
    objective = choose_batch_size(objective).apply(objective)
    d1, d2 = directions(model)
    grid = np.arange(steps, dtype=float)
    if name in (FORWARD, KEPT):
        if name == KEPT:
            keep_freed_memory()
        forward = forward_limit(copy.deepcopy(model), objective, x)
        return lambda: forward(steps * steps)
    if name in (ONE, FIVE):
        chosen = objective if name == FIVE else objective.view("mixed")
        return lambda: landscape.plane(chosen, d1, d2, grid, grid, check=False).loss[0]
    peer = {OBVIOUS: peers.obvious, "loss-landscapes": peers.loss_landscapes, "landscaper": peers.landscaper}[name]
    return lambda: peer(model, x, y, as_tensors(objective, d1), as_tensors(objective, d2), steps)


def serve(name: str, case: str, connection: Connection) -> None:
    """The process of a contestant: once told to, evaluates the plane and says how long that took."""
    torch.set_num_threads(1)
    make, steps, _ = CASES[case]
    run = contestant(name, make(), steps)
    connection.send((0.0, run()))  # warms up
    while connection.recv():
        connection.send((timed(run)[0], None))


@contextmanager
def contestants(names: Sequence[str], case: str) -> Iterator[dict[str, Connection]]:
    """Processes that wait for their turns, one started at a time."""
    context = multiprocessing.get_context("spawn")
    connections, processes = {}, []
    try:
        for name in names:
            connections[name], other = context.Pipe()
            processes.append(context.Process(target=serve, args=(name, case, other), daemon=True))
            processes[-1].start()
            other.close()
            connections[name].poll(None)
        yield connections
    finally:
        for process in processes:
            process.kill()


def measure(name: str, case: Case, rounds: int, names: Sequence[str]) -> dict[str, Any]:
    """Milliseconds a point, ratios to the forward limit and to ours, and how far the values agree."""
    model, objective, x, _ = case
    objective = choose_batch_size(objective).apply(objective)
    layout, steps = objective.layout, CASES[name][1]
    points = steps * steps
    times: dict[str, list[float]] = {arm: [] for arm in names}
    for _ in range(rounds):
        with contestants(names, name) as connections:
            values = {arm: connection.recv()[1] for arm, connection in connections.items()}
            taken: dict[str, list[float]] = {arm: [] for arm in names}
            for turn in range(TURNS):
                for arm in list(names)[:: 1 if turn % 2 else -1]:
                    connections[arm].send(True)
                    taken[arm].append(connections[arm].recv()[0] / points)
        for arm in names:
            times[arm].append(statistics.median(taken[arm]))

    def ratios(a: str, b: str) -> list[float]:
        return [s / t for s, t in zip(times[a], times[b], strict=True)]

    def ratio(a: str, b: str) -> float:
        return round(statistics.median(ratios(a, b)), 3)

    def spread(a: str, b: str) -> list[float]:
        return [round(f(ratios(a, b)), 3) for f in (min, max)]

    d1, d2 = directions(model)
    grid, one = np.arange(steps, dtype=float), objective.view("mixed")
    agreement = {OBVIOUS: float(np.abs(values[OBVIOUS] - values[ONE]).max())}
    if "loss-landscapes" in names:
        wide = landscape.plane(one, d1, d2, grid, np.arange(steps + 1.0), check=False).loss[0]
        same = np.stack([wide[i, 1:] if i % 2 == 0 else wide[i, :-1] for i in range(steps)])
        agreement["loss-landscapes"] = float(np.abs(values["loss-landscapes"] - same).max())
    if "landscaper" in names:
        theirs = [
            layout.flatten(dict(zip(layout.names, d, strict=True)))
            for d in peers.landscaper_directions(model, [as_tensors(objective, d) for d in (d1, d2)], steps)
        ]
        ours = landscape.plane(one, *theirs, grid - steps // 2, grid - steps // 2, check=False).loss[0]
        apart = np.abs(values["landscaper"] - ours)
        apart[np.unravel_index(ours.argmax(), ours.shape)] = 0.0  # where it adds noise
        agreement["landscaper"] = float(apart.max())
    others = [arm for arm in names if arm not in OURS]
    return {
        "samples": len(x),
        "parameters": layout.size,
        "batch": objective.batch_size,
        "memory format": "channels_last" if objective.memory_format == torch.channels_last else "contiguous",
        "points": points,
        "rounds": rounds,
        "turns a round": TURNS,
        "ms a point": {arm: round(1e3 * statistics.median(seconds), 4) for arm, seconds in times.items()},
        "over the forward limit": {arm: ratio(arm, FORWARD) for arm in names},
        "smallest and largest of these": {arm: spread(arm, FORWARD) for arm in names},
        "over the forward limit, freed memory kept": {arm: ratio(arm, KEPT) for arm in (ONE, FIVE)},
        "five views over one": ratio(FIVE, ONE),
        "slower than ours, one view": {arm: ratio(arm, ONE) for arm in others},
        "smallest and largest of those": {arm: spread(arm, ONE) for arm in others},
        "five runs slower than ours, five views": {arm: round(5 * ratio(arm, FIVE), 2) for arm in others},
        "largest difference of values": agreement,
        "load average": load_average(),
    }


def to_tolerance(
    case: Case, measured: dict[str, Any], checked: int | None = None, tolerance: float = 0.01
) -> dict[str, Any]:
    """A 51 × 51 plane of five views to a tolerance, against all of its points or ``checked`` of them, drawn at random.

    The cross-check of its centre counts as cost.
    """
    model, objective, _, _ = case
    objective = choose_batch_size(objective).apply(objective)
    chosen_directions = [landscape.filter_normalized_direction(model, seed=i) for i in (0, 1)]
    grid = np.linspace(-1, 1, 51)
    seconds, found = timed(lambda: landscape.plane(objective, *chosen_directions, grid, grid, tol=tolerance))
    chosen = np.random.default_rng(0).permutation(51 * 51)[:checked]
    whole_seconds, whole = timed(lambda: at_points(objective, chosen_directions, grid, chosen))
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
            arm: round(5 * per_point[arm] * 51 * 51 / 1e3 / seconds, 1) for arm in per_point if arm not in OURS
        },
        "load average": load_average(),
    }


def at_points(
    objective: landscape.Objective, directions: list[Tensor], grid: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    """Losses at some points of the plane, (views, points)."""
    points = list(zip(*np.unravel_index(chosen, (len(grid), len(grid))), strict=True))
    with objective.along(directions) as evaluate:
        losses = [list(evaluate([float(grid[i]), float(grid[j])]).loss.values()) for i, j in points]
    return np.array(losses).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "surface_cost.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    importable = {name: _importable(module) for name, module in peers.MODULES.items()}
    names = [*OURS, OBVIOUS, *(name for name, found in importable.items() if found)]
    results: dict[str, Any] = {}
    for name in args.cases:
        make, _, checked = CASES[name]
        case = make()
        results[name] = measure(name, case, args.rounds, names)
        results[name]["to a tolerance"] = to_tolerance(case, results[name], checked)
        _log.info("%s: %s", name, json.dumps(results[name], indent=1))
    measured_with = environment(
        threads=1,
        peers={name: installed(name) if found else "does not import here" for name, found in importable.items()},
        measure="process CPU time, new processes in every round, interleaved; medians, ratios within a round",
    )
    kept = json.loads(args.out.read_text())["cases"] if args.out.exists() else {}
    cases = {name: results.get(name, kept.get(name)) for name in CASES if name in results or name in kept}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"environment": measured_with, "cases": cases}, indent=1, ensure_ascii=False) + "\n")


# How to make each, points along an axis of the plane that is timed, and how many points of the plane to a tolerance are
# compared, all of them if none.
CASES: dict[str, tuple[Callable[[], Case], int, int | None]] = {
    "digits, mlp": (lambda: trained("mlp", 45), 25, None),
    "digits, cnn": (lambda: trained("cnn", 8), 8, None),
    "32 × 32 images, resnet20": (lambda: synthetic(512), 3, 20),
    "16 such images, resnet20": (lambda: synthetic(16), 8, 100),
}


def _importable(module: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    main()
