"""Independent float64 references and the table of cases that numerics are checked on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def dense_loss(model: nn.Module, loss_fn: Callable[..., Tensor], x: Any, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The plain full-batch loss as a function of the flat vector, by writing into a copy of the state dict."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    shapes = [p.shape for p in model.parameters() if p.requires_grad]

    def loss(w: Tensor) -> Tensor:
        parts = w.split([s.numel() for s in shapes])
        swapped = {n: part.view(s) for n, part, s in zip(names, parts, shapes, strict=True)}
        training = model.training
        model.eval()
        try:
            return loss_fn(torch.func.functional_call(model, swapped, (x,)), y)
        finally:
            model.train(training)

    return loss


def dense_hessian(model: nn.Module, loss_fn: Callable[..., Tensor], x: Any, y: Tensor) -> Tensor:
    w = flat([p.detach() for p in model.parameters() if p.requires_grad])
    return torch.autograd.functional.hessian(dense_loss(model, loss_fn, x, y), w)


def symmetric_with(eigenvalues: list[float], seed: int = 0) -> Tensor:
    """A float64 matrix with prescribed eigenvalues."""
    g = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=g, dtype=torch.float64))
    return q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T


class TinyCNN(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(12, 3),
        )


class Tied(nn.Module):
    """Two uses of one weight, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(torch.tanh(self.second(torch.tanh(self.first(x)))))


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    model: Callable[[], nn.Module]
    loss: Callable[..., Tensor]
    x: Callable[[], Tensor]
    y: Callable[[], Tensor]

    def make(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Callable[..., Tensor], Tensor, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            model, x, y = self.model().to(dtype), self.x().to(dtype), self.y()
            if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
                model(x)  # running statistics that differ from the fresh ones
        return model, self.loss, x, y.to(dtype) if y.is_floating_point() else y

    def __str__(self) -> str:
        return self.name


N = 11

CASES = [
    Case(
        "mlp-ce",
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)),
        nn.CrossEntropyLoss(),
        lambda: torch.randn(N, 4),
        lambda: torch.arange(N) % 3,
    ),
    Case(
        "mlp-mse",
        lambda: nn.Sequential(nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 2)),
        nn.MSELoss(),
        lambda: torch.randn(N, 4),
        lambda: torch.randn(N, 2),
    ),
    Case(
        "cnn-bn-dropout", TinyCNN, nn.CrossEntropyLoss(), lambda: torch.randn(N, 1, 5, 5), lambda: torch.arange(N) % 3
    ),
    Case("tied-frozen", Tied, nn.CrossEntropyLoss(), lambda: torch.randn(N, 4), lambda: torch.arange(N) % 3),
    Case(
        "weighted-ce",
        lambda: nn.Linear(4, 3),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), ignore_index=2),
        lambda: torch.randn(N, 4),
        lambda: torch.arange(N) % 3,
    ),
]
