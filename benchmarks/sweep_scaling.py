"""What a sweep costs besides its cells, on the local pool and on Dask, and what that means for up to 64 workers.

    python benchmarks/sweep_scaling.py [--rounds 3] [--out benchmarks/results/sweep_scaling.json]

Measured: the same cells (training on the digits, sharpness, a line) one after another in one process, in the pool and
on a Dask scheduler over loopback, with 1 and 2 workers, taking turns; a cell's processor time is told by the process
that runs it, so that other load on the machine does not count as the cell's. Then a sweep whose cells are complete,
which leaves what handing a cell out and looking at its file cost. Simulated, not measured: see ``ASSUMPTIONS``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import heapq
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import torch
from environment import environment, load_average

from ncsam.sweep import Cluster, Sweep, SweepFolder, run_cells

WORKERS = (1, 2, 4, 8, 16, 32, 64)
ASSUMPTIONS = [
    "Every worker has a core of its own and is as fast as the one that was measured; no two share memory bandwidth.",
    "Cells take the processor seconds measured here, in the order of the sweep; each free worker takes the next cell.",
    "Handing a cell out and taking its result back costs the client and the scheduler the processor seconds measured "
    "with complete cells, less the worker's own look at the file; they are spent one cell after another, whatever the "
    "number of workers.",
    "The worker's own look at the file and its checks cost it what was measured with complete cells.",
    "The network and the shared file system cost nothing beyond loopback and the local disk; starting workers (seconds "
    "each, at the same time) is left out; nothing fails.",
    "The sweep of 1000 cells repeats the measured cell times in turn.",
]


def sweep(seeds: int, epochs: int) -> Sweep:
    arms = [{"optimizer": "sgd"}, {"optimizer": "sam"}, {"optimizer": "ncsam"}]
    train = {"data": "digits", "epochs": epochs, "weight_decay": 0.0, "batch_size": 64}
    measure: dict[str, Any] = {"sharpness": {}, "line": {"points": 11}}
    noise = ["symmetric:0.0", "symmetric:0.4"]
    return Sweep.from_dict({"seeds": seeds, "noise": noise, "arms": arms, "train": train, "measure": measure})


def silent(items: Iterable[Any], total: int) -> Iterable[Any]:
    return items


def cpu_seconds(process: int) -> float:
    """Processor time of a process and its ended children so far, in seconds, from /proc."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def timed(call: Callable[[], Any], processes: Sequence[int] = ()) -> dict[str, float]:
    """Wall seconds, processor seconds of this process, of its ended children, and of other processes."""
    others, own, began = [cpu_seconds(p) for p in processes], time.process_time(), time.perf_counter()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    call()
    found = {"wall_s": time.perf_counter() - began, "client_cpu_s": time.process_time() - own}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found["children_cpu_s"] = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    found["others_cpu_s"] = [cpu_seconds(p) - b for p, b in zip(processes, others, strict=True)]  # type: ignore[assignment]
    return found


@contextlib.contextmanager
def dask(workers: int) -> Iterator[tuple[Cluster, list[int]]]:
    """A scheduler and workers over loopback; the cluster and the process ids of scheduler and workers."""
    with tempfile.TemporaryDirectory() as here, contextlib.ExitStack() as stack:
        file = Path(here) / "scheduler.json"

        def start(name: str, *more: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *more, "--host", "127.0.0.1"]
            process = subprocess.Popen([*command, "--no-dashboard"], stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        scheduler = start("scheduler", "--port", "0", "--scheduler-file", str(file))
        while not file.exists():
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        flags = ["--nthreads", "1", "--no-nanny", "--local-directory", here]
        started = [start("worker", address, *flags).pid for _ in range(workers)]
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers)
            yield Cluster(client), [scheduler.pid, *started]


def one_by_one(folder: SweepFolder) -> list[float]:
    """Run the cells here; the processor seconds of each."""
    folder.runs.mkdir()
    found = []
    for cell in folder.cells():
        began = time.process_time()
        cell.run(cell.path(folder.runs))
        found.append(time.process_time() - began)
    return found


def measure(described: Sweep, rounds: int) -> dict[str, Any]:
    """Every way of running the sweep in turn, ``rounds`` times; processes that stay have run a cell before."""
    cells: list[list[float]] = []
    walls: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        clusters = {n: stack.enter_context(dask(n)) for n in (1, 2)}
        first = described.cells()[0]
        for n, (cluster, _) in clusters.items():
            # As many cells of one kind as workers, at once: each takes one.
            warm = [dataclasses.replace(first, name=f"warm-{n}-{i}") for i in range(n)]
            assert not cluster.run_cells(warm, Path(name))
        first.run(Path(name) / "warm.h5")
        for number in range(rounds):
            for way in ("one by one", "pool 1", "pool 2", "dask 1", "dask 2"):
                root = Path(name) / f"{number}-{way.replace(' ', '-')}"
                folder = SweepFolder.create(described, root)
                if way == "one by one":
                    cells.append(one_by_one(folder))
                    continue
                kind, workers = way.split()
                for what in (way, f"{way}, complete"):
                    if kind == "pool":

                        def run(folder: SweepFolder = folder, workers: str = workers) -> None:
                            run_cells(folder.cells(), folder.runs, workers=int(workers), progress=silent)

                        folder.runs.mkdir(exist_ok=True)
                        found = timed(run)
                    else:
                        cluster, processes = clusters[int(workers)]

                        def run(folder: SweepFolder = folder, cluster: Cluster = cluster) -> None:
                            assert not folder.run(folder.cells(), partial(cluster.run_cells, progress=silent))

                        found = timed(run, processes)
                    walls.setdefault(what, []).append(found)
    return {"cells": np.median(cells, axis=0).tolist(), "ways": walls}


def middle(rounds: Sequence[dict[str, Any]], key: str) -> dict[str, float]:
    values = [found[key] for found in rounds]
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def makespan(cells: Sequence[float], workers: int, serial: float, own: float) -> float:
    """Seconds until the last of ``cells`` ends: each free worker takes the next, which is handed out after ``serial``
    seconds of the one client and scheduler, and costs the worker ``own`` seconds besides.

    >>> makespan([1.0, 1.0, 1.0], workers=2, serial=0.0, own=0.0)
    2.0
    """
    free = [0.0] * workers
    handed = 0.0
    for seconds in cells:
        handed = max(handed, heapq.heappop(free)) + serial
        heapq.heappush(free, handed + own + seconds)
    return max(free)


def simulate(cells: Sequence[float], serial: float, own: float) -> dict[str, Any]:
    found = {}
    for name, todo in {
        f"{len(cells)} cells": cells,
        "1000 cells": [cells[i % len(cells)] for i in range(1000)],
    }.items():
        ideal = sum(todo)
        rows = []
        for workers in WORKERS:
            seconds = makespan(todo, workers, serial, own)
            limit = max(ideal / workers, max(todo))  # no schedule can be faster than this
            rows.append(
                {
                    "workers": workers,
                    "seconds": seconds,
                    "efficiency": ideal / workers / seconds,
                    "of_what_is_possible": limit / seconds,
                }
            )
        found[name] = rows
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sweep_scaling.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = load_average()
    measured = measure(sweep(options.seeds, options.epochs), options.rounds)
    cells, ways = measured["cells"], measured["ways"]
    count = len(cells)

    results: dict[str, Any] = {
        "cells": {"number": count, "cpu_s": cells, "sum_cpu_s": sum(cells)},
        "ways": {
            way: {"wall_s": middle(rounds, "wall_s"), "client_cpu_s": middle(rounds, "client_cpu_s")}
            for way, rounds in ways.items()
        },
    }
    per_cell: dict[str, Any] = {}
    for n in (1, 2):
        # A complete cell costs the client, the scheduler, and its worker this much.
        rounds = [
            {
                "client": found["client_cpu_s"] / count,
                "scheduler": found["others_cpu_s"][0] / count,
                "worker": sum(found["others_cpu_s"][1:]) / count,
                "wall": found["wall_s"] / count,
            }
            for found in ways[f"dask {n}, complete"]
        ]
        per_cell[f"dask {n}"] = {who: middle(rounds, who) for who in rounds[0]}
        rounds = [
            {"client": f["client_cpu_s"] / count, "workers_and_their_start": f["children_cpu_s"] / count}
            for f in ways[f"pool {n}, complete"]
        ]
        per_cell[f"pool {n}"] = {who: middle(rounds, who) for who in rounds[0]}
    results["overhead of a cell, s"] = per_cell
    busiest = {
        # Processor seconds of the busier of two workers; of the pool's, that end with the run, half of both together,
        # less what starting them and looking at complete cells costs.
        "dask": [max(found["others_cpu_s"][1:]) for found in ways["dask 2"]],
        "pool": [
            (found["children_cpu_s"] - complete["children_cpu_s"]) / 2
            for found, complete in zip(ways["pool 2"], ways["pool 2, complete"], strict=True)
        ],
    }
    results["parallel efficiency on 2 workers"] = {
        kind: {
            "by processor time": middle([{"e": sum(cells) / (2 * b)} for b in busiest[kind]], "e"),
            # Of the same round; other load on the two cores counts against it.
            "by the clock, this machine busy": middle(
                [
                    {"e": one["wall_s"] / (2 * two["wall_s"])}
                    for one, two in zip(ways[f"{kind} 1"], ways[f"{kind} 2"], strict=True)
                ],
                "e",
            ),
        }
        for kind in ("pool", "dask")
    }
    serial = sum(per_cell["dask 2"][who]["median"] for who in ("client", "scheduler"))
    own = per_cell["dask 2"]["worker"]["median"]
    results["simulated"] = {
        "assumptions": ASSUMPTIONS,
        "serial_s_per_cell": serial,
        "worker_s_per_cell": own,
        "sweeps": simulate(cells, serial, own),
    }
    results["environment"] = environment(
        "numpy",
        "distributed",
        threads_per_cell=1,
        rounds=options.rounds,
        epochs=options.epochs,
        load_average_before=before,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
