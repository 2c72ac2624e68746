"""What two processes gain over one: a Hessian product and a plane, each process with one thread.

    python benchmarks/several_processes.py [--rounds 9] [--out benchmarks/results/several_processes.json]

Two processes over gloo on this machine. One measures alone while the other waits, then both together, in turns, after a
warm-up. Wall time says what is gained here and now, on a machine whose cores may be busy with other work; the CPU time
of the busier process beside that of one alone says how evenly the work was split and what sharing it costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from environment import environment, load_average
from torch import nn

import landscape
from landscape.ranks import Ranks
from ncsam import models

RESULTS = Path(__file__).parent / "results" / "several_processes.json"
SAMPLES = 512


def jobs(objective: landscape.Objective, size: int) -> dict[str, Callable[[], Any]]:
    """What is timed on an objective; products keep nothing, so that each is a pass over the data."""
    H = landscape.HessianOperator(objective, strategy="double_backward", memory_budget=0)
    v = torch.ones(objective.num_parameters)
    d1, d2 = (landscape.filter_normalized_direction(objective.model, seed=s) for s in (0, 1))
    axis = torch.linspace(-1, 1, size)
    return {
        "hessian product": lambda: H @ v,
        f"plane of {size} x {size}": lambda: landscape.plane(objective, d1, d2, axis, axis, check=False),
    }


def models_and_data() -> dict[str, tuple[landscape.Objective, int]]:
    torch.manual_seed(0)
    found = {}
    for name, shape, size in (("cnn", (3, 32, 32), 4), ("mlp", (1, 8, 8), 8)):
        model = models.build(name, shape, 10, seed=0).eval()
        data = torch.randn(SAMPLES, *shape), torch.randint(10, (SAMPLES,))
        found[name] = landscape.Objective(model, nn.CrossEntropyLoss(), data, batch_size=64), size
    return found


def timed(job: Callable[[], Any], ranks: Ranks, *, alone: bool) -> tuple[float, list[float]]:
    """Wall seconds until all are done, and CPU seconds of each process."""
    dist.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    if not alone or ranks.rank == 0:
        job()
    cpu = time.process_time() - cpu
    dist.barrier()
    return time.perf_counter() - wall, ranks.gather(cpu)


def work(rounds: int, out: Path) -> None:
    """Run by each of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = Ranks()
    found = []
    for model, (objective, size) in models_and_data().items():
        one, two = jobs(objective, size), jobs(landscape.sharded(objective), size)
        for name in one:
            samples: dict[str, list[float]] = {k: [] for k in ("wall 1", "wall 2", "cpu 1", "cpu 2")}
            for round_ in range(rounds + 1):
                for key, job, alone in (("1", one[name], True), ("2", two[name], False)):
                    wall, cpu = timed(job, ranks, alone=alone)
                    if round_:  # the first warms up
                        samples[f"wall {key}"].append(wall)
                        samples[f"cpu {key}"].append(max(cpu))
            found.append({"model": model, "job": name, **summary(samples)})
    if ranks.rank == 0:
        out.write_text(json.dumps(found))
    dist.destroy_process_group()


def summary(samples: dict[str, list[float]]) -> dict[str, Any]:
    def spread(values: list[float]) -> list[float]:
        return [round(q, 6) for q in statistics.quantiles(values, n=4)]

    ratio = {
        kind: spread([a / (2 * b) for a, b in zip(samples[f"{kind} 1"], samples[f"{kind} 2"], strict=True)])
        for kind in ("wall", "cpu")
    }
    seconds = {f"{k.replace(' ', '_')}_seconds": spread(v) for k, v in samples.items()}
    return {"efficiency_wall": ratio["wall"], "efficiency_cpu": ratio["cpu"], **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work is not None:
        work(asked.rounds, asked.work)
        return
    before = load_average()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*launcher, __file__, "--rounds", str(asked.rounds), "--work", str(raw)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        rows = json.loads(raw.read_text())
    measured_with = environment(
        processes=2,
        threads=1,
        backend="gloo over loopback",
        samples=SAMPLES,
        measure=f"quartiles over {asked.rounds} interleaved rounds; efficiency = time alone / (2 x time of two); "
        "cpu of two: of the busier process",
        load_average_before=before,
    )
    asked.out.write_text(json.dumps({"environment": measured_with, "results": rows}, indent=1) + "\n")
    for row in rows:
        wall, cpu = (row[f"efficiency_{kind}"] for kind in ("wall", "cpu"))
        sys.stdout.write(f"{row['model']:4} {row['job']:16} efficiency wall {wall}  cpu {cpu}\n")


if __name__ == "__main__":
    main()
