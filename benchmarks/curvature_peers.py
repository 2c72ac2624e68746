"""Whole jobs beside PyHessian, curvlinops with eigsh, and hessian-eigenthings: time, products, true error, memory.

Run ``python benchmarks/curvature_peers.py``, best on an idle machine; it takes about half an hour, nearly all of it in
the peers, and writes ``results/curvature_peers.json`` case by case, so that ``--cases`` and ``--jobs`` renew a part.
Each arm runs in a process of its own, on one thread, first on a tiny case, so that imports are done; process CPU time
is then taken from model and data in memory to the eigenvalues, tracing and every check included. Jobs:

``top five``: the five largest eigenvalues to 1e-3 on one view of the data. Every peer is asked for just that.
hessian-eigenthings takes a fixed number of steps and stops by itself at none: it is given the least of 10, 15, 20, 30,
40, 60 after which it calls all five converged, and only that last run is counted.

``study``: the same on four training views (mixed, clean_part, noisy_part, true_labels) at three checkpoints. Ours is
one objective with four views, warm starts from checkpoint to checkpoint; PyHessian is run twelve times.

Errors are the largest relative one of the five, against our solver from another start at a tolerance of 1e-4, whose own
error is about that squared; all is float32, so below about 1e-6 there is only rounding.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curvature_product import PEERS, ResNet20
from environment import environment
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import landscape

_log = logging.getLogger("curvature_peers")
K, TOLERANCE, BATCH = 5, 1e-3, 64
VIEWS = ("mixed", "clean_part", "noisy_part", "true_labels")
States = list[dict[str, Tensor]]
Images = tuple[Tensor, Tensor, Tensor]


def small() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 64, 14), nn.Tanh(), nn.Linear(14, 14), nn.Tanh(), nn.Linear(14, 10)
    )


# name: model, side of the images, images of "top five", images of "study", epochs between checkpoints
CASES: dict[str, tuple[Callable[[], nn.Module], int, int, int, int]] = {
    "mlp-3k": (small, 8, 512, 512, 10),
    "resnet20": (ResNet20, 32, 128, 64, 10),
}


def data(side: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Digits as images (count, 3, side, side), labels of which 40 % are wrong, and the true ones."""
    source = load_digits()
    x = functional.interpolate(torch.from_numpy(source.images[:count]).float()[:, None] / 16, size=(side, side))
    true = torch.from_numpy(source.target[:count])
    wrong = torch.rand(count, generator=torch.Generator().manual_seed(1)) < 0.4
    return x.expand(-1, 3, -1, -1).contiguous(), torch.where(wrong, (true + 1) % 10, true), true


def checkpoints(case: str, count: int) -> States:
    """States at three times of a training with SGD on the wrong labels."""
    make, side, _, _, epochs = CASES[case]
    torch.manual_seed(0)
    model, (x, y, _) = make(), data(side, count)
    opt, states = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), []
    for _ in range(3):
        for _ in range(epochs):
            for rows in torch.randperm(count).split(64):
                opt.zero_grad()
                functional.cross_entropy(model(x[rows]), y[rows]).backward()
                opt.step()
        states.append({name: t.clone() for name, t in model.state_dict().items()})
    return states


def views_of(x: Tensor, y: Tensor, true: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    clean = y == true
    return {
        "mixed": (x, y),
        "clean_part": (x[clean], y[clean]),
        "noisy_part": (x[~clean], y[~clean]),
        "true_labels": (x, true),
    }


def batches(view: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(view[0].split(BATCH), view[1].split(BATCH), strict=True))


def model_at(case: str, state: dict[str, Tensor]) -> nn.Module:
    model = CASES[case][0]()
    model.load_state_dict(state)
    return model.eval()


def ours(case: str, images: Images, states: States, views: tuple[str, ...]) -> tuple[list[Any], int]:
    """One objective for all views and checkpoints; each checkpoint starts from the eigenvectors of the one before."""
    objective = our_objective(case, images, states[0])
    found, products = [], 0
    previous: dict[str, np.ndarray] = {}
    for state in states:
        buffers = {n: t for n, t in state.items() if n in dict(objective.model.named_buffers())}
        here = objective.at(objective.layout.flatten({n: state[n] for n in objective.layout.names})).with_buffers(
            buffers
        )
        for view in views:
            H = landscape.HessianOperator(here.view(view))
            pairs = landscape.top_eigenpairs(H, K, tol=TOLERANCE, start=previous.get(view))
            assert pairs.converged.all()
            previous[view], products = pairs.vectors, products + int(pairs.matvecs)
            found.append(pairs.values.tolist())
    return found, products


def our_objective(case: str, images: Images, state: dict[str, Tensor]) -> Any:
    x, y, true = images
    wrong = y != true
    views = [
        landscape.View("mixed"),
        landscape.View("clean_part", indices=(~wrong).nonzero().squeeze(1)),
        landscape.View("noisy_part", indices=wrong.nonzero().squeeze(1)),
        landscape.View("true_labels", labels=true),
    ]
    model = model_at(case, state)
    return landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=BATCH, views=views)


def pyhessian(model: nn.Module, view: tuple[Tensor, Tensor]) -> tuple[list[float], int]:
    from pyhessian import hessian

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operator = hessian(model, nn.CrossEntropyLoss(), dataloader=batches(view), cuda=False)
        count, product = [0], operator.dataloader_hv_product

        def counted(v: Any) -> Any:
            count[0] += 1
            return product(v)

        operator.dataloader_hv_product = counted
        values, _ = operator.eigenvalues(maxIter=100, tol=TOLERANCE, top_n=K)
    return [float(v) for v in values], count[0]


def curvlinops(model: nn.Module, view: tuple[Tensor, Tensor]) -> tuple[list[float], int]:
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    parameters = list(model.parameters())
    operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, batches(view), check_deterministic=False)
    inner, count = operator.to_scipy(), [0]

    def counted(v: np.ndarray) -> np.ndarray:
        count[0] += 1
        return inner @ v

    outer = LinearOperator(inner.shape, matvec=counted, dtype=inner.dtype)
    start = np.random.default_rng(0).standard_normal(inner.shape[0]).astype(inner.dtype)
    values = eigsh(outer, K, which="LA", tol=TOLERANCE, v0=start, return_eigenvectors=True)[0]
    return sorted((float(v) for v in values), reverse=True), count[0]


def hessian_eigenthings(model: nn.Module, view: tuple[Tensor, Tensor]) -> tuple[list[float], int, list[float]]:
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    operator = HessianOperator(model, batches(view), supervised_loss(functional.cross_entropy))
    for steps in (10, 15, 20, 30, 40, 60):
        start = time.process_time()
        found = lanczos(operator, k=K, max_iter=steps, tol=TOLERANCE, which="LA", seed=0)
        last = time.process_time() - start
        if found.converged.all():
            break
    return found.eigenvalues.tolist(), steps, [last]


def run(job: str, arm: str, case: str, count: int, states: States, repeats: int) -> dict[str, Any]:
    """One arm, in a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tiny = small()
    _job("top five", arm, "mlp-3k", data(8, 64), [tiny.state_dict()])
    images = data(CASES[case][1], count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = [_job(job, arm, case, images, states) for _ in range(repeats)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = statistics.median(seconds for *_, seconds in found)
    return {"cpu_s": seconds, "products": found[0][1], "values": found[0][0], "peak_MiB": (peak - before) / 1024}


def _job(job: str, arm: str, case: str, images: Images, states: States) -> tuple[list[list[float]], int, float]:
    """Eigenvalues, products and CPU seconds."""
    views = VIEWS if job == "study" else ("mixed",)
    states = states if job == "study" else states[-1:]
    todo = views_of(*images)
    peers = {"PyHessian": pyhessian, "curvlinops + eigsh": curvlinops, "hessian-eigenthings": hessian_eigenthings}
    started = time.process_time()
    if arm == "ours":
        found, products = ours(case, images, states, views)
        return found, products, time.process_time() - started
    results = [peers[arm](model_at(case, state), todo[view]) for state in states for view in views]
    seconds = time.process_time() - started
    only_last = [last[0] for *_, last in results if isinstance(last, list)]
    return [values for values, *_ in results], sum(r[1] for r in results), sum(only_last) or seconds


def reference(job: str, case: str, count: int, states: States) -> list[list[float]]:
    torch.set_num_threads(1)
    found = []
    for state in states if job == "study" else states[-1:]:
        objective = our_objective(case, data(CASES[case][1], count), state)
        for view in VIEWS if job == "study" else ("mixed",):
            H = landscape.HessianOperator(objective.view(view))
            found.append(landscape.top_eigenpairs(H, K, tol=1e-4, seed=1).values.tolist())
    return found


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(job: str, case: str, arms: list[str], rounds: int) -> dict[str, Any]:
    count = CASES[case][3 if job == "study" else 2]
    states = alone(checkpoints, case, count)
    exact = np.array(alone(reference, job, case, count, states))
    rows: dict[str, Any] = {}
    for i in range(rounds):
        for arm in arms[:: 1 if i % 2 == 0 else -1]:
            found = alone(run, job, arm, case, count, states, 10 if case == "mlp-3k" else 1)
            row = rows.setdefault(
                arm, {"cpu_s": [], "products": found["products"], "peak_MiB": round(found["peak_MiB"])}
            )
            row["cpu_s"].append(found["cpu_s"])
            row["error"] = float((np.abs(np.array(found["values"]) - exact) / np.abs(exact)).max())
            _log.info(
                "%-8s %-8s %-20s %8.3f s, %3d products, error %.1e",
                job,
                case,
                arm,
                found["cpu_s"],
                *(row[n] for n in ("products", "error")),
            )
    for row in rows.values():
        ratios = [a / b for a, b in zip(row["cpu_s"], rows["ours"]["cpu_s"], strict=True)]
        row["over_ours"] = {"median": round(statistics.median(ratios), 2), "all": [round(r, 2) for r in ratios]}
        row["cpu_s"] = [round(s, 3) for s in row["cpu_s"]]
    size = sum(t.numel() for n, t in CASES[case][0]().named_parameters())
    return {"parameters": size, "images": count, "arms": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1, help="processes an arm")
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--jobs", nargs="*", default=["top five", "study"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curvature_peers.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    measured_with = environment(
        *PEERS.values(),
        threads=1,
        measure="process CPU time of the whole job, a process an arm; over_ours: ratio within a round",
    )
    jobs: dict[str, Any] = json.loads(args.out.read_text())["jobs"] if args.out.exists() else {}
    for job in args.jobs:
        arms = (
            ["ours", "PyHessian"]
            if job == "study"
            else ["ours", "PyHessian", "curvlinops + eigsh", "hessian-eigenthings"]
        )
        for case in args.cases:
            jobs.setdefault(job, {})[case] = measure(job, case, arms, args.rounds)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            load = round(os.getloadavg()[1], 2) if hasattr(os, "getloadavg") else None
            jobs[job][case]["load_average_5min"] = load
            args.out.write_text(json.dumps({"environment": measured_with, "jobs": jobs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
