"""Cost of one training step: SGD, SAM and NCSAM, beside a bare loop, a literal NCSAM and pytorch_optimizer's SAM.

Run ``python benchmarks/optimizer_step.py``, best on an idle machine; it writes ``results/optimizer_step.json``.
The measure is process CPU time on one thread. Arms are interleaved: every round times a few steps of each, so that a
drift of the machine's clock meets them alike, and a ratio is taken within its round.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from environment import environment
from torch import nn

import ncsam.optimizers as arms
from ncsam.models import build as build_model
from ncsam.optimizers.noise_gradient import draw, pick_chances, temporary_labels

_log = logging.getLogger("optimizer_step")
Step = Callable[[], object]
BATCH = 128
CASES = {
    # name: model, input shape, classes, steps a round
    "cnn": ("cnn", (3, 32, 32), 10, 2),
    "mlp": ("mlp", (1, 8, 8), 10, 40),
}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)


def ours(name: str, **options: object) -> Callable[[nn.Module, torch.Tensor, torch.Tensor], Step]:
    def make(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
        opt = arms.build(name, model, sgd(model), **options)
        loss_fn = nn.CrossEntropyLoss()
        return lambda: opt.step(x, y, loss_fn, progress=0.5, true_labels=y)

    return make


def bare(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    """What anybody writes; ``loss.item()`` stands for the loss that a loop logs."""
    opt, loss_fn = sgd(model), nn.CrossEntropyLoss()

    def step() -> None:
        opt.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        opt.step()
        loss.item()

    return step


def literal_ncsam(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    """Algorithm 1 word by word: a forward and a backward pass for each of its three gradients."""
    opt, loss_fn = sgd(model), nn.CrossEntropyLoss()
    params, generator = list(model.parameters()), torch.Generator().manual_seed(0)

    def gradient(labels: torch.Tensor, rows: torch.Tensor | slice) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss_fn(model(x)[rows], labels), params))

    def size(tensors: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([t.norm() for t in tensors]).norm()

    def step() -> None:
        g = gradient(y, slice(None))
        with torch.no_grad():
            logits = model(x)
            rows = draw(pick_chances(logits), int(0.4 * len(y)), generator)
        noise = gradient(temporary_labels(logits[rows], y[rows]), rows)
        length = size(g)
        epsilon = [0.05 * a / length + 0.1 * b for a, b in zip(g, noise, strict=True)]
        shrink = min(1.0, 0.05 / size(epsilon).item())
        with torch.no_grad():
            for p, e in zip(params, epsilon, strict=True):
                p.add_(e, alpha=shrink)
        opt.zero_grad()
        loss_fn(model(x), y).backward()
        with torch.no_grad():
            for p, e in zip(params, epsilon, strict=True):
                p.sub_(e, alpha=shrink)
        opt.step()

    return step


def peer_sam(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    from pytorch_optimizer import SAM

    loss_fn = nn.CrossEntropyLoss()
    opt = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.01, momentum=0.9, weight_decay=1e-3)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss

    def step() -> None:
        closure().item()
        opt.step(closure)

    return step


ARMS: dict[str, Callable[[nn.Module, torch.Tensor, torch.Tensor], Step]] = {
    "bare loop, SGD": bare,
    "Plain": ours("sgd"),
    "SAM": ours("sam"),
    "adaptive SAM": ours("asam"),
    "NCSAM": ours("ncsam"),
    "NCSAM released": ours("ncsam-released"),
    "clean direction": ours("clean-direction"),
    "NCSAM, literal": literal_ncsam,
    "pytorch_optimizer SAM": peer_sam,
}


def measure(case: str, rounds: int) -> dict[str, object]:
    """Median and quartiles of the CPU time a step (ms), and of its ratio to the bare loop in the same round."""
    kind, shape, classes, steps = CASES[case]
    torch.manual_seed(0)
    x, y = torch.randn(BATCH, *shape), torch.randint(classes, (BATCH,))
    running: dict[str, Step] = {}
    for name, make in ARMS.items():
        try:
            running[name] = make(build_model(kind, shape, classes, seed=0), x, y)
        except ImportError:
            _log.warning("%s: not installed, left out", name)
    times: dict[str, list[float]] = {name: [] for name in running}
    for step in running.values():
        for _ in range(3 * steps):
            step()
    for _ in range(rounds):
        for name, step in running.items():
            start = time.process_time()
            for _ in range(steps):
                step()
            times[name].append((time.process_time() - start) / steps)
    base = times["bare loop, SGD"]
    parameters = sum(p.numel() for p in build_model(kind, shape, classes, seed=0).parameters())
    rows = {}
    for name, seconds in times.items():
        ratio = [a / b for a, b in zip(seconds, base, strict=True)]
        rows[name] = {"ms": summary([1e3 * s for s in seconds]), "ratio": summary(ratio)}
        milliseconds, times_sgd = rows[name]["ms"]["median"], rows[name]["ratio"]["median"]
        _log.info("%-4s %-22s %9.3f ms %6.3f × bare SGD", case, name, milliseconds, times_sgd)
    return {"model": kind, "input": shape, "parameters": parameters, "batch": BATCH, "rounds": rounds, "arms": rows}


def summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": round(median, 4), "q1": round(low, 4), "q3": round(high, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "optimizer_step.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    warnings.simplefilter("ignore", arms.ProjectionWarning)  # κ is not tuned here
    torch.set_num_threads(1)
    cases = {case: measure(case, args.rounds) for case in CASES}
    measured_with = environment(
        "pytorch_optimizer",
        threads=1,
        measure="process CPU time a step, interleaved; ratio to the bare loop in the same round",
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"environment": measured_with, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
