"""Products and true errors of eigenvalue and trace estimates, beside literal transcriptions of other methods.

Run ``python benchmarks/curvature_spectrum.py`` (some minutes on one thread); it writes
``results/curvature_spectrum.json``. Counted are products with the operator, which is what costs; every method gets the
same operator. Errors are against a converged reference (ARPACK with residuals of 1e-5, that is values to about 1e-9)
or, for the trace, the dense matrix.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import landscape

_log = logging.getLogger("curvature_spectrum")
K, TOLERANCE, IMAGES = 5, 1e-3, 512
BUDGET, SEEDS = 60, 50
Product = Callable[[torch.Tensor], torch.Tensor]


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=self.stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(out + functional.pad(short, (0, 0, 0, 0, 0, out.shape[1] - short.shape[1])))


def resnet20() -> nn.Module:
    """He et al. 2016, §4.2, with shortcuts of type A: 0.27 million parameters."""
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Block(a, b) for a, b in itertools.pairwise(widths)]
    stem = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def digits(count: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (count, 1, side, side) with 40 % of the labels wrong."""
    source = load_digits()
    x = torch.from_numpy(source.images[:count]).float()[:, None] / 16
    y = torch.from_numpy(source.target[:count])
    wrong = torch.rand(count, generator=torch.Generator().manual_seed(1)) < 0.4
    return functional.interpolate(x, size=(side, side), mode="bilinear"), torch.where(wrong, (y + 1) % 10, y)


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, batch: int = 64) -> None:
    model.train()
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            opt.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            opt.step()


class Counted:
    """An operator that counts its products."""

    def __init__(self, operator: Any) -> None:
        self.operator, self.products = operator, 0
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device

    def __matmul__(self, v: torch.Tensor) -> torch.Tensor:
        self.products += 1 if v.ndim == 1 else v.shape[1]
        return self.operator @ v

    def arpack(self, tol: float, ncv: int | None = None) -> np.ndarray:
        size = self.shape[0]
        A = LinearOperator((size, size), matvec=lambda v: (self @ torch.from_numpy(v)).numpy(), dtype=np.float64)
        v0 = np.random.default_rng(0).standard_normal(size)
        return eigsh(A, K, which="LA", tol=tol, ncv=ncv, v0=v0, return_eigenvectors=False)[::-1]


def power_iteration(op: Counted, tol: float = TOLERANCE, most: int = 100) -> np.ndarray:
    """PyHessian's ``eigenvalues``, literally: one vector after the other, stopped on the change of its value."""
    generator, vectors, values = torch.Generator().manual_seed(0), [], []
    for _ in range(K):
        v, value = torch.randn(op.shape[0], generator=generator, dtype=torch.float64), None
        v = v / v.norm()
        for _ in range(most):
            for u in vectors:
                v = v - (v @ u) * u
            v = v / (v.norm() + 1e-6)
            image = op @ v
            new = float(image @ v)
            v = image / (image.norm() + 1e-6)
            if value is not None and abs(value - new) / (abs(value) + 1e-6) < tol:
                break
            value = new
        values.append(new)
        vectors.append(v)
    return np.array(values)


def eigenvalues() -> dict[str, Any]:
    x, y = digits(IMAGES, 8)
    model = resnet20()
    train(model, x, y, 4)
    op = Counted(
        landscape.HessianOperator(landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=IMAGES))
    )
    truth = op.arpack(1e-5, ncv=40)
    rows: dict[str, Any] = {"parameters": op.shape[0], "reference": truth.tolist(), "reference_products": op.products}

    def measure(name: str, method: Callable[[], Any]) -> Any:
        op.products = 0
        found = method()
        values = found if isinstance(found, np.ndarray) else found.values
        error = float(np.abs(values / truth - 1).max())
        rows[name] = {"products": op.products, "largest_relative_error": error}
        _log.info("%s: %s", name, rows[name])
        return found

    measure("landscape", lambda: landscape.top_eigenpairs(op, K, tol=TOLERANCE))
    measure("landscape, 12 vectors of memory", lambda: landscape.top_eigenpairs(op, K, tol=TOLERANCE, max_basis=12))
    r = measure("landscape, with search", lambda: landscape.top_eigenpairs(op, K, tol=TOLERANCE, search_missed=True))
    rows["landscape, with search"] |= {
        "largest_relative_bound": float((r.errors / r.values).max()),
        "bound_holds": bool((np.abs(r.values - truth) <= r.errors).all()),
        "sharp": r.sharp.tolist(),
        "unseen_upper": float(r.unseen_upper),
    }
    measure("ARPACK (scipy eigsh), tol 1e-3", lambda: op.arpack(TOLERANCE))
    measure("power iteration with deflation (PyHessian)", lambda: power_iteration(op))
    return rows


def checkpoints() -> list[dict[str, int]]:
    """Products at checkpoints one epoch apart, from a random start and from the vectors of the one before."""
    x, y = digits(IMAGES, 8)
    model, rows = resnet20(), []
    train(model, x, y, 3)
    start = None
    for epoch in range(3):
        obj = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=IMAGES)
        H = landscape.HessianOperator(obj)
        cold = landscape.top_eigenpairs(H, K, tol=TOLERANCE)
        warm = cold if start is None else landscape.top_eigenpairs(H, K, tol=TOLERANCE, start=start)
        overlap = 1.0 if start is None else float(np.linalg.norm(start.T @ cold.vectors) ** 2 / K)
        agree = float(np.abs(warm.values / cold.values - 1).max())
        rows.append({"epoch": 3 + epoch, "cold": int(cold.matvecs), "warm": int(warm.matvecs), "overlap": overlap})
        rows[-1]["largest_relative_difference"] = agree
        _log.info("%s", rows[-1])
        start = cold.vectors
        train(model, x, y, 1)
    return rows


def hutchinson(A: torch.Tensor, seed: int) -> float:
    z = signs(A, BUDGET, seed)
    return float((z * (A @ z)).sum() / BUDGET)


def hutch_plus_plus(A: torch.Tensor, seed: int) -> float:
    """Meyer, Musco, Musco, Woodruff 2021, algorithm 1."""
    third = BUDGET // 3
    s, g = signs(A, 2 * third, seed).split(third, dim=1)
    q, _ = torch.linalg.qr(A @ s)
    g = g - q @ (q.T @ g)
    return float((q * (A @ q)).sum() + (g * (A @ g)).sum() / third)


def xtrace(A: torch.Tensor, seed: int) -> float:
    """Epperly, Tropp, Webber 2024, §2, with normalisation: every test vector is left out of the space once."""
    half, size = BUDGET // 2, len(A)
    omega = torch.randn(size, half, generator=torch.Generator().manual_seed(seed), dtype=A.dtype)
    omega = omega / omega.norm(dim=0) * size**0.5
    images = A @ omega
    q, _ = torch.linalg.qr(images)
    of_q = A @ q
    projected = q.T @ of_q
    total = 0.0
    for i in range(half):
        others = torch.cat([images[:, :i], images[:, i + 1 :]], dim=1)
        inner, _ = torch.linalg.qr(q.T @ others)
        known = inner @ (inner.T @ (q.T @ omega[:, i]))
        rest, image = omega[:, i] - q @ known, images[:, i] - of_q @ known  # and A times the rest
        scale = (size - half + 1) / float(rest @ rest)
        total += float(torch.trace(inner.T @ projected @ inner)) + scale * float(rest @ image)
    return total / half


def signs(A: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (len(A), count), generator=generator).to(A.dtype) * 2 - 1


def own(A: torch.Tensor, seed: int) -> float:
    return float(landscape.trace(A, BUDGET, seed=seed).value)


def after_eigenpairs(A: torch.Tensor, seed: int) -> float:
    """What the products of the eigenpairs leave of the budget goes to probes."""
    r = landscape.top_eigenpairs(A, K, tol=TOLERANCE, seed=seed, keep_basis=True)
    return float(landscape.trace(A, BUDGET - int(r.matvecs), deflate=r, seed=seed).value)


def prescribed() -> torch.Tensor:
    """Nine outliers, decaying sides, most of 1000 eigenvalues next to nothing."""
    top = [100.0, 60.0, 45.0, 35.0, 28.0, 20.0, 17.0, 15.0, 12.0]
    sides = [*(8 / np.arange(1, 250) ** 0.8), *(-5 / np.arange(1, 150) ** 0.8)]
    values = torch.tensor([*top, *sides, *np.full(1000 - len(top) - len(sides), 1e-3)], dtype=torch.float64)
    q, _ = torch.linalg.qr(torch.randn(1000, 1000, dtype=torch.float64))
    return q @ torch.diag(values) @ q.T


def network() -> torch.Tensor:
    """The Hessian of a small trained network, 64-16-10, as a matrix."""
    x, y = digits(IMAGES, 8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    train(model, x, y, 30)
    H = landscape.HessianOperator(landscape.Objective(model.double(), nn.CrossEntropyLoss(), (x.double(), y)))
    dense = H @ torch.eye(H.shape[0], dtype=torch.float64)
    return (dense + dense.T) / 2


def traces(A: torch.Tensor) -> dict[str, Any]:
    truth = float(torch.trace(A))
    methods = {
        "landscape, alone": own,
        "landscape, after five eigenpairs to 1e-3": after_eigenpairs,
        "Hutchinson": hutchinson,
        "Hutch++": hutch_plus_plus,
        "XTrace": xtrace,
    }
    rows: dict[str, Any] = {"size": len(A), "trace": truth, "products": BUDGET, "seeds": SEEDS}
    for name, method in methods.items():
        errors = np.array([method(A, seed) for seed in range(SEEDS)]) - truth
        rows[name] = {"root_mean_square_error": float(np.sqrt(np.mean(errors**2))), "bias": float(errors.mean())}
        _log.info("%s: %s", name, rows[name])
    return rows


SECTIONS: dict[str, Callable[[], Any]] = {
    "trace of a prescribed spectrum": lambda: traces(prescribed()),
    "trace of a network's Hessian": lambda: traces(network()),
    "five largest eigenvalues of ResNet-20": eigenvalues,
    "along training, ResNet-20": checkpoints,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curvature_spectrum.json")
    parser.add_argument("--only", default="", help="sections whose name contains this; others stay as they are")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    result = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    result["environment"] = environment("numpy", "scipy", threads=1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name, section in SECTIONS.items():
        if arguments.only in name:
            torch.manual_seed(0)  # each section by itself gives what it gives in the whole
            result[name] = section()
            arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
