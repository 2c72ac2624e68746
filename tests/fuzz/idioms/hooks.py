"""Hooks of all sorts, set by the user before anything is measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.fuzz.registry import Block, Shape, idiom, linear


@idiom("vector")
def forward_hook_changes_output(s: Shape) -> nn.Module:
    layer = linear(s)
    layer.register_forward_hook(lambda module, inputs, output: output.tanh() * 1.5)
    return nn.Sequential(layer, linear(s))


@idiom("vector")
def forward_hook_between_layer_and_batchnorm(s: Shape) -> nn.Module:
    layer = linear(s)
    layer.register_forward_hook(lambda module, inputs, output: output.sin())
    return nn.Sequential(layer, nn.BatchNorm1d(s.features), nn.Tanh())


@idiom("vector")
def forward_hook_reads_weight(s: Shape) -> nn.Module:
    layer = linear(s)
    layer.register_forward_hook(lambda module, inputs, output: output + module.weight.sum())
    return nn.Sequential(layer, nn.Tanh())


@idiom("vector sequence")
def pre_hook_changes_input(s: Shape) -> nn.Module:
    layer = linear(s)
    layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0.5 + 0.1,))
    return nn.Sequential(layer, nn.Tanh())


@idiom("vector")
def hook_with_keywords(s: Shape) -> nn.Module:
    layer = linear(s)
    layer.register_forward_hook(lambda module, args, kwargs, output: output + 0.1, with_kwargs=True, always_call=True)
    return nn.Sequential(layer, nn.Tanh())


@idiom("vector", fills="seen")
def features_by_hook(s: Shape) -> nn.Module:
    """A hook stores an activation, which a later part of the model reads."""
    return _Features(s)


class _Features(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.a, self.b = linear(s), linear(s)
        self.seen: dict[str, Tensor] = {}
        self.a.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.seen["a"] = output

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh()) + self.seen["a"] * 0.5


@idiom("vector")
def backward_hook_that_looks(s: Shape) -> nn.Module:
    layer = linear(s)
    layer.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    return nn.Sequential(linear(s), nn.Tanh(), layer)


@idiom("vector")
def backward_pre_hook_that_looks(s: Shape) -> nn.Module:
    layer = linear(s)
    layer.register_full_backward_pre_hook(lambda module, grad_output: None)
    return nn.Sequential(linear(s), nn.Tanh(), layer)


@idiom("vector")
def tensor_hook_that_looks(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        if out.requires_grad:
            out.register_hook(lambda g: None)
        return out.tanh()

    return Block(run, layer=linear(s))


@idiom("vector")
def gradient_retained(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        if out.requires_grad:
            out.retain_grad()
        return out.tanh()

    return Block(run, layer=linear(s))


@idiom("vector")
def parameter_hook_that_looks(s: Shape) -> nn.Module:
    layer = linear(s)
    layer.weight.register_hook(lambda g: None)
    layer.bias.register_post_accumulate_grad_hook(lambda p: None)
    return nn.Sequential(layer, nn.Tanh())


@idiom("vector")
def hook_on_batchnorm(s: Shape) -> nn.Module:
    norm = nn.BatchNorm1d(s.features)
    norm.register_forward_hook(lambda module, inputs, output: output + inputs[0] * 0.1)
    return nn.Sequential(linear(s), norm, nn.Tanh())


@idiom("vector")
def hook_on_container(s: Shape) -> nn.Module:
    inner = nn.Sequential(linear(s), nn.BatchNorm1d(s.features))
    inner[0].register_forward_pre_hook(lambda module, inputs: None)
    inner.register_forward_hook(lambda module, inputs, output: torch.tanh(output))
    return inner


@idiom("vector")
def hook_that_writes_in_place(s: Shape) -> nn.Module:
    layer = linear(s)
    layer.register_forward_hook(lambda module, inputs, output: output.mul_(0.5))
    return nn.Sequential(layer, nn.BatchNorm1d(s.features), nn.Tanh())
