"""Peak memory of a Hessian product over that of a training step, and a transformer of 10⁸ parameters on one CPU.

Run ``python benchmarks/memory.py``; it takes a few minutes and 2 GB, with ``--large`` a quarter of an hour and 12 GB,
and writes ``results/memory.json``. Every arm runs alone in a process of its own. Its figure is the highest resident
memory (``VmHWM`` of Linux) less that before the arm began, with models, data and libraries loaded; large blocks are
told to go back to the system at once, so that fragmentation plays no part. A training step is that of SGD with momentum
on the whole micro-batch; a product includes making the operator, its checks and two products of the same micro-batch,
the second of which, without checks, is also given by itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from curvature_product import ResNet20
from environment import environment
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import landscape

MEASURE = "VmHWM less its value before the arm, one process an arm"
_log = logging.getLogger("memory")
MIB = 2**20
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}


class Block(nn.Module):
    """Pre-norm causal self-attention and a feed-forward layer, run again in backward passes if ``again``."""

    def __init__(self, width: int, heads: int, again: bool) -> None:
        super().__init__()
        self.heads, self.again = heads, again
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False) if self.again else self.body(x)

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Predicts the next token; embedding and output layer share their weights."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, length: int, again: bool = False) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, again) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return functional.linear(self.norm(self.blocks(x)), self.tokens.weight)


def over_tokens(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of classes, (n, c) or (n, tokens, c)."""
    return functional.cross_entropy(outputs.flatten(0, -2), labels.flatten())


def cnn() -> nn.Module:
    def convolution(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]

    layers = [*convolution(3, 32), *convolution(32, 64), nn.MaxPool2d(2), *convolution(64, 64), nn.AdaptiveAvgPool2d(4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10))


def case(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    if name == "50,304 words":  # as many as GPT-2 has, padded; the logits take 196 MiB
        tokens = torch.randint(50_304, (4, 257))
        return Transformer(50_304, 128, 4, 4, 256).eval(), tokens[:, :-1], tokens[:, 1:]
    if name.startswith("transformer"):
        model = Transformer(1000, 128, 4, 4, 128, again=name.endswith("checkpointed"))
        tokens = torch.randint(1000, (16, 129))
        return model.eval(), tokens[:, :-1], tokens[:, 1:]
    return {"cnn": cnn, "resnet20": ResNet20}[name]().eval(), torch.randn(128, 3, 32, 32), torch.randint(10, (128,))


CASES = ("cnn", "resnet20", "transformer", "transformer checkpointed", "50,304 words")
ARMS: dict[str, tuple[type, dict[str, object]]] = {
    "lean": (landscape.HessianOperator, {"strategy": "lean"}),
    "lean, GGN": (landscape.GGNOperator, {"strategy": "lean"}),
    "double backward, nothing kept": (landscape.HessianOperator, {"strategy": "double_backward", "memory_budget": 0}),
    "split": (landscape.HessianOperator, {"strategy": "split"}),
}


def peak() -> int:
    """Highest resident memory of this process so far, bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def run_arm(name: str, arm: str) -> dict[str, object]:
    model, x, y = case(name)
    before, start = peak(), time.process_time()
    found: dict[str, object] = {}
    if arm == "training step":
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        for _ in range(2):  # momentum exists from the second on
            optimizer.zero_grad()
            over_tokens(model(x), y).backward()
            optimizer.step()
    else:
        make, options = ARMS[arm]
        objective = landscape.Objective(model, over_tokens, (x, y), batch_size=len(x), metrics={})
        operator = make(objective, **options)
        v = torch.randn(objective.num_parameters)
        operator @ v
        highest = peak()
        Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew, so that one product's own is seen
        operator @ v
        found["mib_of_the_second_product"] = round((peak() - before) / MIB, 1)
        found["mib"] = round((max(highest, peak()) - before) / MIB, 1)
        found["strategy"] = dataclasses.asdict(operator.strategy)
    return {"mib": round((peak() - before) / MIB, 1), "cpu_s": round(time.process_time() - start, 2), **found}


def run_large(tol: float, basis_gib: float) -> dict[str, object]:
    """The largest Hessian eigenvalue of a transformer of 10⁸ parameters, checkpointed, in small micro-batches."""
    torch.manual_seed(0)
    model = Transformer(20_000, 768, 12, 12, 64, again=True)
    tokens = torch.randint(20_000, (4, 17))
    objective = landscape.Objective(model, over_tokens, (tokens[:, :-1], tokens[:, 1:]), batch_size=2, metrics={})
    operator = landscape.HessianOperator(objective, strategy="lean")
    wall, cpu = time.perf_counter(), time.process_time()
    pairs = landscape.top_eigenpairs(operator, 1, tol=tol, basis_bytes=int(basis_gib * 2**30), max_matvecs=60)
    return {
        "parameters": int(objective.num_parameters),
        "sequences": len(tokens),
        "tokens": tokens.shape[1] - 1,
        "micro_batch": 2,
        "value": float(pairs.values[0]),
        "residual": float(pairs.residuals[0]),
        "tol": tol,
        "converged": bool(pairs.converged[0]),
        "matvecs": int(pairs.matvecs),
        "basis_gib": basis_gib,
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "peak_gib_of_the_whole_process": round(peak() / 2**30, 2),
        "strategy": dataclasses.asdict(operator.strategy),
    }


def alone(*arguments: str) -> dict[str, Any]:
    """What this file, run with other arguments in a process of its own, prints."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, env={**os.environ, **ALLOCATOR}, stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", nargs=2, metavar=("CASE", "ARM"), help="print one figure")
    parser.add_argument("--large", action="store_true", help="the large transformer, instead of the table")
    parser.add_argument("--large-alone", action="store_true", help="print it")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES), help="others keep their figures")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=[], help="only these; others keep their figures")
    parser.add_argument("--jobs", type=int, default=2, help="arms measured at a time")
    parser.add_argument("--tol", type=float, default=1e-2)
    parser.add_argument("--basis-gib", type=float, default=4.6)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    if args.arm or args.large_alone:
        found = run_arm(*args.arm) if args.arm else run_large(args.tol, args.basis_gib)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    known = json.loads(args.out.read_text()) if args.out.exists() else {}
    if args.large:
        known["large"] = alone("--large-alone", "--tol", str(args.tol), "--basis-gib", str(args.basis_gib))
        known["large"]["environment"] = environment(threads=1, measure=MEASURE)
        _log.info("%s", known["large"])
    else:
        arms = ["training step", *(args.arms or ARMS)]
        with ThreadPoolExecutor(args.jobs) as pool:  # memory does not depend on what runs beside it
            rows = {(name, arm): pool.submit(alone, "--arm", name, arm) for name in args.cases for arm in arms}
            known["environment"] = environment(threads=1, measure=MEASURE)
            for (name, arm), future in rows.items():
                row = future.result()
                own = known.setdefault("cases", {}).setdefault(name, {})
                own[arm] = {**row, "ratio": round(row["mib"] / rows[name, arms[0]].result()["mib"], 3)}
                _log.info("%-26s %-30s %8.1f MiB %6.2f × a training step", name, arm, row["mib"], own[arm]["ratio"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
