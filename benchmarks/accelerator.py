"""Training steps, Hessian products and surface points on one accelerator, within eight minutes.

Run ``python benchmarks/accelerator.py``; it takes the first CUDA device and writes ``results/accelerator.json``. With
``--device cpu --small`` it does the same on a small network in seconds, which is how the tests keep it working; what
that measures says nothing of an accelerator.

Each figure is the median of ``--rounds`` rounds in which all contestants of a row take turns, after a first call that
is not counted; the device is waited for before and after every timed part. Times are wall time, which is what an
accelerator costs.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from environment import environment
from torch import Tensor, nn
from torchvision_style import ResNet18

import landscape
from ncsam import optimizers

RESULTS = Path(__file__).parent / "results" / "accelerator.json"
CLASSES = 10
_log = logging.getLogger("accelerator")
Work = Callable[[], object]


def images(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, 32, 32, generator=generator)
    return x.to(device), (torch.arange(count) % CLASSES).to(device)


def network(width: int, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return ResNet18(width, CLASSES).to(device)


def steps(width: int, batch: int, device: torch.device) -> Iterator[tuple[str, Work]]:
    """A step of each optimizer in float32 and with the forward pass in bfloat16, and that of a bare loop."""
    x, y = images(batch, device)
    loss = nn.CrossEntropyLoss()
    model = network(width, device).train()
    bare = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def plain() -> None:
        bare.zero_grad()
        loss(model(x), y).backward()
        bare.step()

    yield "bare loop", plain
    for name in ("sgd", "sam", "ncsam"):
        for precision in ("fp32", "bf16"):
            own = network(width, device).train()
            opt = optimizers.build(name, own, torch.optim.SGD(own.parameters(), lr=0.01, momentum=0.9))

            def step(opt: optimizers.SharpnessAware = opt, bf16: bool = precision == "bf16") -> None:
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    opt.step(x, y, loss, progress=1.0, true_labels=y)

            yield f"{name}, {precision}", step


def products(width: int, count: int, batch: int, device: torch.device) -> Iterator[tuple[str, Work]]:
    """A Hessian product as ``auto`` makes it, and by double backward."""
    objective = landscape.Objective(
        network(width, device).eval(), nn.CrossEntropyLoss(), images(count, device), batch_size=batch
    )
    for strategy in ("auto", "double_backward"):
        H = landscape.HessianOperator(objective, strategy=strategy)
        if strategy == "auto":
            H.expect(100)
        vector = torch.randn(objective.num_parameters, device=device)
        yield strategy, lambda H=H, vector=vector: H @ vector


def surfaces(width: int, count: int, batch: int, device: torch.device) -> Iterator[tuple[str, Work]]:
    """A line of 11 points, checks included, and as many forward passes over the data."""
    model, data = network(width, device).eval(), images(count, device)
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), data, batch_size=batch)
    direction = landscape.filter_normalized_direction(model, seed=0)

    def passes() -> None:
        with torch.no_grad():
            for _ in range(11):
                for part in data[0].split(batch):
                    model(part)

    yield "line of 11 points", lambda: landscape.line(objective, direction, torch.linspace(-1, 1, 11).tolist())
    yield "11 forward passes", passes


def timed(contestants: dict[str, Work], rounds: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Seconds of each contestant: the median of the rounds and their least and greatest."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for work in contestants.values():
        work()
    for _ in range(rounds):
        for name, work in contestants.items():
            wait(device)
            started = time.perf_counter()
            work()
            wait(device)
            seconds[name].append(time.perf_counter() - started)
    return {n: {"median": statistics.median(s), "least": min(s), "greatest": max(s)} for n, s in seconds.items()}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a small network and few samples")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --small only shows that the script works")
    width, batch, count = (4, 16, 32) if arguments.small else (64, 512, 4096)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    found: dict[str, object] = {
        "environment": environment(device=name, width=width, batch=batch, samples=count, rounds=arguments.rounds)
    }
    groups = {
        "training steps": dict(steps(width, batch, device)),
        "Hessian products": dict(products(width, count, batch, device)),
        "surfaces": dict(surfaces(width, count, batch, device)),
    }
    for title, contestants in groups.items():
        found[title] = timed(contestants, arguments.rounds, device)
        _log.info("%s: %s", title, json.dumps(found[title]))
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
