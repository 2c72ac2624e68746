"""Small classification problems and models that the optimizer tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ncsam import optimizers
from ncsam.optimizers import OPTIMIZERS, SharpnessAware

CLASSES, FEATURES, BATCH = 5, 6, 20
loss_fn = nn.functional.cross_entropy
ALL = sorted(OPTIMIZERS)
WHOLE = [name for name in ALL if name != "m-sam"]
"""Those that perturb by the whole batch, not by groups of it."""
UNSEEDED = (
    "sgd",
    "sam",
    "asam",
    "m-sam",
    "logit-sam",
    "jacobian-sam",
    "clean-direction",
    "clean-part-direction",
    "replay",
)
"""Those that draw nothing and take no seed."""
NEEDED: dict[str, dict[str, Any]] = {"m-sam": {"m": 5}, "replay": {"norms": [0.05 + 0.01 * step for step in range(20)]}}
"""Options without which an optimizer cannot step, or not with BatchNorm."""


def data(seed: int = 0, dtype: torch.dtype = torch.float32, batch: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (B, 6), observed labels of which two fifths are wrong, true labels."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, FEATURES, generator=g, dtype=dtype)
    true = torch.randint(CLASSES, (batch,), generator=g)
    observed = true.clone()
    wrong = 2 * batch // 5
    observed[:wrong] = (true[:wrong] + 1) % CLASSES
    return x, observed, true


def mlp(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES)).to(dtype)


def bn(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, CLASSES)).to(dtype)


def dropout(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(), nn.Linear(8, CLASSES)).to(dtype)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


BASES: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "nesterov": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01),
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), lr=0.01),
    "adagrad": lambda m: torch.optim.Adagrad(m.parameters(), lr=0.01),
}


def train(opt: SharpnessAware, steps: int = 3, *, first: int = 0, **more: Any) -> list[Any]:
    """A few steps, each on its own batch; with everything any arm asks for."""
    infos = []
    for i in range(first, first + steps):
        x, y, true = data(seed=i)
        infos.append(opt.step(x, y, loss_fn, progress=(i + 1) / 10, true_labels=true, **more))
    return infos


def build(name: str, model: nn.Module, base: torch.optim.Optimizer, **options: Any) -> SharpnessAware:
    """The optimizer of that name, with the options that it cannot do without."""
    return optimizers.build(name, model, base, **{**NEEDED.get(name, {}), **options})


def make(name: str, model: nn.Module, **options: Any) -> SharpnessAware:
    return build(name, model, sgd(model), **options)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def everything(model: nn.Module) -> list[Tensor]:
    return [t.detach().clone() for t in [*model.parameters(), *model.buffers()]]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(s, t) for s, t in zip(a, b, strict=True))
