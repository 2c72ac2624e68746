"""Whole calls, as a user makes them, on models that nobody here wrote, beside plain loops and published tools.

Run ``python benchmarks/wild.py`` on an idle machine, with the extras ``wild`` and ``bench``; it writes
``results/wild.json`` after each measurement. ``--models``, ``--tasks`` and ``--rounds`` measure some and keep the
others' results. A package that does not import is noted as such.

The measure is process CPU time on one thread, everything included that the call does: checks, tracing, copies of the
data. Every contestant has a fresh process in every round, in which the imports and the model are made before the clock
starts. Surfaces are given in forward passes over the data a point, the passes being measured in the same process;
eigenpairs in CPU seconds, with the largest residual ‖Hv − λv‖/|λ| that plain double backward in float64 finds. The
plain loop and the peers run with torch's attention in plain arithmetic, without which none of them gets through a
transformer; ours sees to that itself.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment, load_average
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision_style import ResNet18

RESULTS = Path(__file__).parent / "results" / "wild.json"
BATCH, PAIRS, TOLERANCE = 64, 3, 1e-3
_log = logging.getLogger("wild")
Case = tuple[nn.Module, Callable[[Any, Tensor], Tensor], Tensor, Tensor]


class Logits(nn.Module):
    """A model of transformers, called with a tensor and giving its logits, classes on the second axis."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x).logits
        return logits.movedim(-1, 1)


def images(size: int, count: int = 128) -> tuple[Tensor, Tensor]:
    """Smooth random images and their labels, so that a network has something to tell apart."""
    coarse = torch.randn(10, 3, 8, 8)
    labels = torch.arange(count) % 10
    x = functional.interpolate(coarse[labels] + 0.5 * torch.randn(count, 3, 8, 8), size=size, mode="bilinear")
    return x, labels


def tokens(count: int = 64, length: int = 32, words: int = 500) -> Tensor:
    return torch.randint(words, (count, length))


def resnet() -> Case:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[2, 2, 2, 2], layer_type="basic", num_labels=10
    )
    return Logits(ResNetForImageClassification(config)), nn.CrossEntropyLoss(), *images(64)


def vit() -> Case:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=192, num_hidden_layers=4, num_attention_heads=3, intermediate_size=768, image_size=64, patch_size=8,
        num_labels=10,
    )  # fmt: skip
    return Logits(ViTForImageClassification(config)), nn.CrossEntropyLoss(), *images(64)


def convnext() -> Case:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[24, 48, 96, 192], depths=[1, 1, 2, 1], num_labels=10)
    return Logits(ConvNextForImageClassification(config)), nn.CrossEntropyLoss(), *images(64)


def bert() -> Case:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=500, hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=512, num_labels=4
    )
    return Logits(BertForSequenceClassification(config)), nn.CrossEntropyLoss(), tokens(), torch.arange(64) % 4


def gpt2() -> Case:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=500, n_embd=128, n_layer=3, n_head=4, n_positions=64)
    text = tokens(length=33)
    return Logits(GPT2LMHeadModel(config)), nn.CrossEntropyLoss(), text[:, :-1], text[:, 1:].clone()


def torchvision_style() -> Case:
    return ResNet18(16), nn.CrossEntropyLoss(), *images(32)


MODELS: dict[str, Callable[[], Case]] = {
    "resnet": resnet,
    "vit": vit,
    "convnext": convnext,
    "bert": bert,
    "gpt2": gpt2,
    "torchvision-style resnet18": torchvision_style,
}


def trained(name: str) -> Case:
    """The model after a few steps, in eval mode, so that its Hessian is not that of a random start."""
    torch.manual_seed(0)
    model, loss, x, y = MODELS[name]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(5):
        for batch, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
            optimizer.zero_grad()
            loss(model(batch), labels).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval(), loss, x, y


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


def forward_passes(case: Case) -> float:
    """CPU seconds of the bare model over the data, the median of seven."""
    model, loss, x, y = case

    def once() -> None:
        with torch.inference_mode():
            for batch, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
                loss(model(batch), labels).item()

    once()
    return statistics.median(timed(once)[0] for _ in range(7))


def surface(case: Case, call: Callable[[Any, list[Tensor]], Any], axes: int, points: int) -> dict[str, Any]:
    import landscape

    model, loss, x, y = case
    for name in landscape.__all__:  # are imported when they are first asked for
        getattr(landscape, name)
    one = forward_passes(case)

    def whole() -> None:
        objective = landscape.Objective(model, loss, (x, y), batch_size=BATCH)
        call(objective, [0.1 * landscape.filter_normalized_direction(model, seed=seed) for seed in range(axes)])

    cpu, _ = timed(whole)
    after = forward_passes(case)
    return {"cpu": cpu, "forward_pass": (one + after) / 2, "passes_a_point": cpu / points / ((one + after) / 2)}


def line(case: Case, points: int) -> dict[str, Any]:
    import landscape

    grid = np.linspace(-1, 1, points)
    return surface(case, lambda objective, d: landscape.line(objective, *d, grid), 1, points)


def plane(case: Case, points: int) -> dict[str, Any]:
    import landscape

    grid = np.linspace(-1, 1, points)
    return surface(case, lambda objective, d: landscape.plane(objective, *d, grid, grid), 2, points**2)


@sdpa_kernel(SDPBackend.MATH)
def residual(case: Case, values: np.ndarray, vectors: np.ndarray) -> float:
    """The largest ‖Hv − λv‖/|λ| of the pairs, by plain double backward in float64."""
    model, loss, x, y = case
    double = model.double()
    parameters = list(double.parameters())
    wide = x.double() if x.is_floating_point() else x
    units = [np.ascontiguousarray(v, dtype=np.float64) / np.linalg.norm(v) for v in vectors.T]
    images = [np.zeros(len(v)) for v in units]
    for batch, labels in zip(wide.split(BATCH), y.split(BATCH), strict=True):
        gradient = torch.autograd.grad(loss(double(batch), labels), parameters, create_graph=True)
        for unit, image in zip(units, images, strict=True):
            parts = torch.from_numpy(unit).split([p.numel() for p in parameters])
            shaped = [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
            product = torch.autograd.grad(gradient, parameters, shaped, retain_graph=True)
            image += torch.cat([part.flatten() for part in product]).numpy() * len(batch) / len(x)
    return max(
        float(np.linalg.norm(image - value * unit) / abs(value))
        for value, unit, image in zip(values, units, images, strict=True)
    )


def eigenpairs(case: Case, strategy: str) -> dict[str, Any]:
    """Ours."""
    import landscape

    model, loss, x, y = case

    def whole() -> Any:
        H = landscape.HessianOperator(landscape.Objective(model, loss, (x, y), batch_size=BATCH), strategy=strategy)
        return H, landscape.top_eigenpairs(H, PAIRS, which="LM", tol=TOLERANCE)

    cpu, (H, found) = timed(whole)
    return {
        "cpu": cpu,
        "products": int(found.matvecs),
        "strategy": H.strategy.name,
        "values": found.values.tolist(),
        "residual": residual(case, np.asarray(found.values), np.asarray(found.vectors)),
    }


@sdpa_kernel(SDPBackend.MATH)
def plain(case: Case) -> dict[str, Any]:
    """Double backward on each batch and SciPy's eigsh, as one writes it."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    model, loss, x, y = case
    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)
    products = 0

    def product(vector: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        v = torch.from_numpy(vector).float().split([p.numel() for p in parameters])
        v = [part.view_as(p) for part, p in zip(v, parameters, strict=True)]
        total = torch.zeros(size, dtype=torch.float64)
        for batch, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
            gradient = torch.autograd.grad(loss(model(batch), labels), parameters, create_graph=True)
            image = torch.autograd.grad(gradient, parameters, v)
            total += torch.cat([part.flatten() for part in image]).double() * len(batch) / len(x)
        return total.numpy()

    def whole() -> Any:
        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        return eigsh(operator, PAIRS, which="LM", tol=TOLERANCE, v0=np.random.default_rng(0).standard_normal(size))

    cpu, (values, vectors) = timed(whole)
    return {"cpu": cpu, "products": products, "values": values.tolist(), "residual": residual(case, values, vectors)}


@sdpa_kernel(SDPBackend.MATH)
def curvlinops(case: Case) -> dict[str, Any]:
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import eigsh

    model, loss, x, y = case
    data = list(zip(x.split(BATCH), y.split(BATCH), strict=True))

    def whole() -> Any:
        H = HessianLinearOperator(model, loss, list(model.parameters()), data)
        start = np.random.default_rng(0).standard_normal(H.shape[0]).astype(np.float32)
        return eigsh(H.to_scipy(), PAIRS, which="LM", tol=TOLERANCE, v0=start)

    cpu, (values, vectors) = timed(whole)
    return {"cpu": cpu, "values": values.tolist(), "residual": residual(case, values, vectors)}


@sdpa_kernel(SDPBackend.MATH)
def pyhessian(case: Case) -> dict[str, Any]:
    from pyhessian import hessian

    model, loss, x, y = case
    data = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    cpu, (values, vectors) = timed(
        lambda: hessian(model, loss, dataloader=data, cuda=False).eigenvalues(200, TOLERANCE, top_n=PAIRS)
    )
    flat = np.stack([np.concatenate([t.detach().numpy().ravel() for t in vector]) for vector in vectors], 1)
    return {"cpu": cpu, "values": list(map(float, values)), "residual": residual(case, np.array(values), flat)}


TASKS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "line 21": lambda case: line(case, 21),
    "plane 7": lambda case: plane(case, 7),
    "plane 21": lambda case: plane(case, 21),
    "eigenpairs": lambda case: eigenpairs(case, "auto"),
    "eigenpairs by split": lambda case: eigenpairs(case, "split"),
    "eigenpairs by double backward": lambda case: eigenpairs(case, "double_backward"),
    "eigenpairs, plain loop and eigsh": plain,
    "eigenpairs, curvlinops and eigsh": curvlinops,
    "eigenpairs, PyHessian": pyhessian,
}


def in_a_process(model: str, task: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--models", model, "--tasks", task, "--here"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help="measure once, in this process, and print it")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.here:
        print(json.dumps(TASKS[given.tasks[0]](trained(given.models[0]))))  # noqa: T201
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    packages = ("transformers", "scipy", "pyhessian", "curvlinops-for-pytorch")
    known = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {"results": {}}
    for model in given.models:
        rows: dict[str, list[dict[str, Any]]] = {task: [] for task in given.tasks}
        for turn in range(given.rounds):
            for task in given.tasks if turn % 2 == 0 else reversed(given.tasks):
                rows[task].append({**in_a_process(model, task), "load": load_average()[:1]})
                _log.info("%s, %s: %s", model, task, rows[task][-1])
                known["results"].setdefault(model, {}).update({name: row for name, row in rows.items() if row})
                known["environment"] = environment(*packages)
                given.out.write_text(f"{json.dumps(known, indent=1)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
