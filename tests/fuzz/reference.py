"""Numbers of a network by plain means: the whole batch at once, weights written into a copy, differences of gradients.

Nothing here comes from the package that is tested.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tests.fuzz.networks import Network, logits_of

STEP = 2e-4


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number found by differences of two step sizes.

    Attributes:
        value: extrapolated to step 0.
        error: how much the two differ.
    """

    value: Tensor
    error: float

    @property
    def scale(self) -> float:
        return float(self.value.norm())


def difference(function: Callable[[float], Tensor], step: float = STEP) -> Estimate:
    """d/dh of ``function(h)`` at 0 by central differences of two steps; they disagree where there is a kink."""
    wide, narrow = ((function(h) - function(-h)) / (2 * h) for h in (step, step / 2))
    return Estimate((4 * narrow - wide) / 3, float((narrow - wide).norm()))


class Reference:
    """A network's loss and derivatives on a model of its own, in float64 unless another dtype is asked for.

    Attributes:
        weights: (K,) where the network is, parameters in their usual order, complex ones as pairs of reals.
    """

    def __init__(self, network: Network, dtype: torch.dtype = torch.float64) -> None:
        self.network, self.dtype = network, dtype
        model = network.model()
        self.model = model.double() if dtype == torch.float64 else model.float()
        self.model.eval()
        task = network.task()
        self.task = task
        loss = network.loss_of(task)
        self.loss_fn = loss.to(dtype) if isinstance(loss, nn.Module) else loss
        self.labels = self._cast(task.labels)
        self.x = self._cast(network.x)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._all = [(p, p.detach().clone()) for p in self.model.parameters()]
        self._buffers = [
            (module, name, value.clone())
            for module in self.model.modules()
            for name, value in module._buffers.items()
            if value is not None
        ]
        self.weights = _flat([p.detach() for p in self._parameters]).to(torch.float64)

    def _cast(self, t: Tensor) -> Tensor:
        return t.to(self.dtype) if t.is_floating_point() else t

    def _place(self, w: Tensor) -> None:
        with torch.no_grad():
            for p, start in self._all:
                p.copy_(start)
            start = 0
            for p in self._parameters:
                real = torch.view_as_real(p) if p.is_complex() else p
                real.copy_(w[start : start + real.numel()].view(real.shape))
                start += real.numel()
        for module, name, value in self._buffers:
            module._buffers[name] = value.clone()

    def outputs(self, w: Tensor) -> Any:
        self._place(w)
        return self.model(self.x.clone())

    def _loss(self, w: Tensor, rows: Tensor | None, labels: Tensor | None) -> Tensor:
        outputs = self.outputs(w)
        labels = self.labels if labels is None else self._cast(labels)
        if rows is not None:
            outputs, labels = rows_of(outputs, rows), labels[rows]
        return self.loss_fn(outputs, labels)

    def loss(self, w: Tensor, rows: Tensor | None = None, labels: Tensor | None = None) -> float:
        with torch.no_grad():
            return self._loss(w, rows, labels).item()

    def gradient(self, w: Tensor, rows: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """(K,) by one backward pass."""
        return self._backward(self._loss(w, rows, labels))

    def _backward(self, value: Tensor, keep: bool = False) -> Tensor:
        for p in self.model.parameters():
            p.grad = None
        if value.requires_grad:
            value.backward(retain_graph=keep)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        found = _flat([g.to_dense() if g.is_sparse else g for g in grads])
        for p in self.model.parameters():
            p.grad = None
        return found.double()

    def slope(self, w: Tensor, v: Tensor) -> Estimate:
        """Derivative of the loss along v."""
        return difference(lambda h: torch.tensor([self.loss(w + h * v)], dtype=torch.float64))

    def hessian(self, w: Tensor, v: Tensor, rows: Tensor | None = None, labels: Tensor | None = None) -> Estimate:
        """Hessian times v, (K,)."""
        return difference(lambda h: self.gradient(w + h * v, rows, labels))

    def ggn(self, w: Tensor, v: Tensor) -> Estimate:
        """Jᵀ ∇²ℓ J v over all outputs, (K,), with J made row by row."""
        leaves, rebuild = _taken_apart(self.outputs(w))
        entries = torch.cat([z.reshape(-1) for z in leaves])
        rows = torch.stack([self._backward(entry, keep=True) for entry in entries])

        def slopes(h: float) -> Tensor:
            moved = (entries.detach() + h * (rows @ v)).requires_grad_()
            parts = [p.view(z.shape) for p, z in zip(moved.split([z.numel() for z in leaves]), leaves, strict=True)]
            return torch.autograd.grad(self.loss_fn(rebuild(parts), self.labels), moved)[0]

        curved = difference(slopes)
        return Estimate(rows.T @ curved.value, curved.error * float(rows.norm()))

    def sample_gradients(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of every sample's own loss, (n, K), and what each counts, (n,) with sum 1."""
        weights = torch.tensor([float(self.task.weight(self.labels[i : i + 1])) for i in range(len(self.labels))])
        weights = weights.double()
        found = []
        for i in range(len(self.labels)):
            found.append(self.gradient(w, torch.tensor([i])) if weights[i] else torch.zeros_like(w))
        return torch.stack(found), weights / weights.sum()

    def accuracy(self, w: Tensor, rows: Tensor | None = None, labels: Tensor | None = None) -> float:
        with torch.no_grad():
            found = logits_of(self.outputs(w)).argmax(1)
        labels = self.labels if labels is None else labels
        if rows is not None:
            found, labels = found[rows], labels[rows]
        counted = labels >= 0
        return float((found == labels)[counted].double().mean())


def rows_of(outputs: Any, rows: Tensor) -> Any:
    return tree_map(lambda t: t[rows] if isinstance(t, Tensor) and t.ndim else t, outputs)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([(torch.view_as_real(t) if t.is_complex() else t).reshape(-1) for t in tensors])


def _taken_apart(outputs: Any) -> tuple[list[Tensor], Callable[[list[Tensor]], Any]]:
    """Floating tensors among outputs, and how to put others in their places."""
    leaves: list[Tensor] = []

    def collect(t: Any) -> Any:
        if isinstance(t, Tensor) and t.is_floating_point():
            leaves.append(t)
        return t

    tree_map(collect, outputs)

    def rebuild(others: list[Tensor]) -> Any:
        rest = iter(others)
        return tree_map(lambda t: next(rest) if isinstance(t, Tensor) and t.is_floating_point() else t, outputs)

    return leaves, rebuild
