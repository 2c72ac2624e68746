"""Cost of one Hessian product over one eager gradient: every strategy of ours, a compiled gradient, and three peers.

Run ``python benchmarks/curvature_product.py``, best on an idle machine; it takes some minutes and writes
``results/curvature_product.json``. The measure is process CPU time on one thread. Arms are interleaved: every round
times one call of each, and a ratio is taken within its round. What is paid once — tracing, compiling, the part of a
product that no vector changes, the check against double backward — is the first product's time, shown beside it; the
C++ compiler runs in processes of its own, so compiling is also given in wall time.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from environment import environment
from torch import Tensor, nn
from torch.nn import functional

import landscape

_log = logging.getLogger("curvature_product")
Product = Callable[[Tensor], Tensor]
PEERS = {"PyHessian": "PyHessian", "curvlinops": "curvlinops-for-pytorch", "hessian-eigenthings": "hessian-eigenthings"}
STRATEGIES = {
    "double backward": {"strategy": "double_backward", "memory_budget": 0},
    "double backward, graph kept": {"strategy": "double_backward"},
    "split": {"strategy": "split"},
    "compiled": {"strategy": "compiled"},
    "auto": {},
}


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x))))) + self.shortcut(x))


class ResNet20(nn.Module):
    """He et al. 2016, §4.2: three stages of three blocks with 16, 32 and 64 channels, 0.27 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        shapes = [(16, 16, 1)] * 3 + [(16, 32, 2), (32, 32, 1), (32, 32, 1)] + [(32, 64, 2), (64, 64, 1), (64, 64, 1)]
        self.blocks = nn.Sequential(*(Block(*shape) for shape in shapes))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    # name: model, input shape, samples in a micro-batch, calls timed together
    "resnet20": (ResNet20, (3, 32, 32), 128, 1),
    "mlp-3k": (small, (1, 8, 8), 512, 20),
}


def flat(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def eager_gradient(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Callable[[], object]:
    parameters = list(model.parameters())
    return lambda: [torch.autograd.grad(functional.cross_entropy(model(x), y), parameters) for x, y in batches]


def compiled_gradient(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Callable[[], object]:
    names, buffers = [n for n, _ in model.named_parameters()], dict(model.named_buffers())

    def loss(parameters: tuple[Tensor, ...], x: Tensor, y: Tensor) -> Tensor:
        tensors = {**dict(zip(names, parameters, strict=True)), **buffers}
        return functional.cross_entropy(torch.func.functional_call(model, tensors, (x,)), y)

    gradient = torch.compile(torch.func.grad(loss))
    weights = tuple(p.detach() for p in model.parameters())
    return lambda: [gradient(weights, x, y) for x, y in batches]


def pyhessian(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Product:
    """Its product over a data loader; a single batch goes the way that keeps the graph."""
    from pyhessian import hessian

    shapes = [p.shape for p in model.parameters()]
    ours = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operator = hessian(model, nn.CrossEntropyLoss(), cuda=False, **ours)

    def product(v: Tensor) -> Tensor:
        parts = [c.view(s) for c, s in zip(v.split([s.numel() for s in shapes]), shapes, strict=True)]
        if len(batches) > 1:
            return flat(operator.dataloader_hv_product(parts)[1])
        from pyhessian.utils import hessian_vector_product

        return flat(hessian_vector_product(operator.gradsH, operator.params, parts))

    return product


def curvlinops(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Product:
    from curvlinops import HessianLinearOperator

    parameters = list(model.parameters())
    operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, batches, check_deterministic=False)
    return lambda v: operator @ v


def hessian_eigenthings(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Product:
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(model, batches, supervised_loss(functional.cross_entropy)).matvec


def ours(case: str, images: int, name: str) -> landscape.HessianOperator:
    model, x, y = data(case, images)
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=CASES[case][2])
    return landscape.HessianOperator(objective, **STRATEGIES[name])


def data(case: str, images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A model with BatchNorm statistics of its own data, in eval mode, and random images."""
    make, shape, _, _ = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x, y = make(), torch.randn(images, *shape), torch.randint(10, (images,))
        with torch.no_grad():
            for _ in range(30):
                model(x[:128])
    return model.eval(), x, y


def batches_of(case: str, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    size = CASES[case][2]
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def measure(case: str, images: int, rounds: int, arms: list[str]) -> dict[str, object]:
    """CPU time of a product (ms), its ratio to an eager gradient in the same round, what it differs by from ours."""
    torch.manual_seed(1)
    model, *_ = data(case, images)
    size = sum(p.numel() for p in model.parameters())
    v = torch.randn(size)
    # Not in float64, whose convolutions are many times slower.
    exact = (ours(case, images, "double backward") @ v).double()
    makers: dict[str, Callable[[], Callable[[], object]]] = {
        "gradient": lambda: eager_gradient(*with_batches(case, images)),
        "compiled gradient": lambda: compiled_gradient(*with_batches(case, images)),
    }
    operators: dict[str, landscape.HessianOperator] = {}
    for name in STRATEGIES:

        def make_ours(name: str = name) -> Callable[[], object]:
            operators[name] = ours(case, images, name)
            return lambda: operators[name] @ v

        makers[name] = make_ours
    for name, make in (
        ("PyHessian", pyhessian),
        ("curvlinops", curvlinops),
        ("hessian-eigenthings", hessian_eigenthings),
    ):
        makers[name] = lambda make=make: functools.partial(make(*with_batches(case, images)), v)

    calls, rows = {}, {}
    for name, make_arm in makers.items():
        if arms and name not in arms and name != "gradient":
            continue
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            call = make_arm()
            found = call()
        except ImportError as error:
            _log.warning("%s: %s, left out", name, error)
            continue
        calls[name] = call
        rows[name] = {
            "first_cpu_s": round(time.process_time() - cpu, 3),
            "first_wall_s": round(time.perf_counter() - wall, 3),
        }
        if isinstance(found, Tensor):
            rows[name]["relative_difference"] = float((found.detach().double() - exact).norm() / exact.norm())
        if name in operators:
            rows[name]["strategy"] = dataclasses.asdict(operators[name].strategy)
        _log.info("%-9s %-28s first call %7.2f s CPU, %7.2f s wall", case, name, *list(rows[name].values())[:2])

    repeats, times = CASES[case][3], {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(repeats):
                call()
            times[name].append((time.process_time() - start) / repeats)
    for name, seconds in times.items():
        ratio = [a / b for a, b in zip(seconds, times["gradient"], strict=True)]
        rows[name] |= {"ms": summary([1e3 * s for s in seconds]), "ratio": summary(ratio)}
        _log.info(
            "%-9s %-28s %10.2f ms %6.2f × a gradient", case, name, *(rows[name][k]["median"] for k in ("ms", "ratio"))
        )
    return {"parameters": size, "images": images, "micro_batch": CASES[case][2], "rounds": rounds, "arms": rows}


def with_batches(case: str, images: int) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    model, x, y = data(case, images)
    return model, batches_of(case, x, y)


def summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": round(median, 4), "q1": round(low, 4), "q3": round(high, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=512, help="of the large case")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES), help="others keep their figures")
    parser.add_argument("--arms", nargs="*", default=[], help="only these, and the gradient")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curvature_product.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.captureWarnings(True)
    torch.set_num_threads(1)
    known = json.loads(args.out.read_text())["cases"] if args.out.exists() else {}
    for case in args.cases:
        images = args.images if case == "resnet20" else CASES[case][2]
        found = measure(case, images, args.rounds, args.arms)
        known[case] = {
            "environment": environment(
                *PEERS.values(),
                threads=1,
                measure="process CPU time of a product, interleaved; ratio to an eager gradient in the same round; "
                "relative difference to a product by double backward",
            ),
            **found,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"cases": known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
