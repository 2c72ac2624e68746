"""Independent float64 references and the table of cases that numerics are checked on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


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
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
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


class ResidualBlock(nn.Module):
    """In-place ReLU and addition, BatchNorm after convolutions, a projected shortcut, mean pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 3, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.norm2 = nn.Conv2d(3, 3, 3, padding=1, bias=True), nn.BatchNorm2d(3)
        self.shortcut = nn.Conv2d(1, 3, 1, stride=2)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        out += self.shortcut(x)
        return self.head(torch.tanh(out).mean((2, 3)))


class AttentionBlock(nn.Module):
    """Pre-norm self-attention over three tokens of four numbers, then their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.qkv, self.out, self.head = nn.Linear(4, 12), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).reshape(len(x), 3, 3, 2, 2).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return self.head(x.mean(1))


class DictOutputs(nn.Module):
    """Named outputs, only one of them in the loss, and a trainable parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.spare = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = nn.functional.gelu(self.body(x))
        return {"logits": self.head(hidden), "hidden": hidden}


def _of_logits(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs["logits"], labels)


# More kinds of layers, for tests of products; CASES is what every analysis is tried on.
ARCHITECTURES = [
    *CASES,
    Case(
        "groupnorm",
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3)
        ),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda: torch.randn(N, 1, 5, 5),
        lambda: torch.arange(N) % 3,
    ),
    Case(
        "resnet-block",
        ResidualBlock,
        nn.CrossEntropyLoss(),
        lambda: torch.randn(N, 1, 5, 5),
        lambda: torch.arange(N) % 3,
    ),
    Case("attention", AttentionBlock, nn.CrossEntropyLoss(), lambda: torch.randn(N, 3, 4), lambda: torch.arange(N) % 3),
    Case("dict-unused", DictOutputs, _of_logits, lambda: torch.randn(N, 4), lambda: torch.arange(N) % 3),
]
