"""Weights that are computed from other parameters."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.fuzz.registry import NOT_THE_SLOPE, Block, Shape, conv, idiom, linear, parameter


@idiom("vector sequence")
def weight_norm(s: Shape) -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(linear(s)), nn.Tanh())


@idiom("image")
def weight_norm_of_convolution(s: Shape) -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(conv(s)), nn.Tanh())


@idiom("vector")
def weight_norm_before_batchnorm(s: Shape) -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(linear(s)), nn.BatchNorm1d(s.features), nn.Tanh())


@idiom("vector", fills="weight")
def weight_norm_by_hook(s: Shape) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(linear(s)), nn.Tanh())


@idiom("vector")
def spectral_norm(s: Shape) -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(linear(s)), nn.Tanh())


@idiom("vector", fills="weight")
def spectral_norm_by_hook(s: Shape) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.spectral_norm(linear(s)), nn.Tanh())


@idiom("vector")
def orthogonal(s: Shape) -> nn.Module:
    return nn.Sequential(parametrizations.orthogonal(linear(s)), nn.Tanh())


@idiom("vector")
def orthogonal_by_cayley(s: Shape) -> nn.Module:
    return nn.Sequential(parametrizations.orthogonal(linear(s), orthogonal_map="cayley"), nn.Tanh())


class _Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).transpose(-1, -2)


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, w: Tensor) -> Tensor:
        return w * self.log_scale.exp()


@idiom("vector")
def symmetric(s: Shape) -> nn.Module:
    layer = linear(s)
    parametrize.register_parametrization(layer, "weight", _Symmetric())
    return nn.Sequential(layer, nn.Tanh())


@idiom("vector")
def two_parametrisations_in_a_row(s: Shape) -> nn.Module:
    layer = linear(s)
    parametrize.register_parametrization(layer, "weight", _Symmetric())
    parametrize.register_parametrization(layer, "weight", _Scaled())
    parametrize.register_parametrization(layer, "bias", _Scaled())
    return nn.Sequential(layer, nn.BatchNorm1d(s.features), nn.Tanh())


@idiom("vector")
def parametrised_under_cache(s: Shape) -> nn.Module:
    layer = linear(s)
    parametrize.register_parametrization(layer, "weight", _Scaled())

    def run(m: Block, x: Tensor) -> Tensor:
        with parametrize.cached():
            return m.layer(m.layer(x).tanh())

    return Block(run, layer=layer)


@idiom("vector", fills="weight")
def pruned(s: Shape) -> nn.Module:
    return nn.Sequential(prune.l1_unstructured(linear(s), "weight", amount=0.4), nn.Tanh())


@idiom("vector", fills="weight")
def pruned_before_batchnorm(s: Shape) -> nn.Module:
    layer = prune.l1_unstructured(linear(s), "weight", amount=0.4)
    return nn.Sequential(layer, nn.BatchNorm1d(s.features), nn.Tanh())


@idiom("vector")
def low_rank_adapter(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.base(x) + x @ m.down @ m.up,
        base=linear(s).requires_grad_(False),
        down=parameter(s.features, 1),
        up=nn.Parameter(torch.zeros(1, s.features)),
    )


@idiom("vector", refuses=NOT_THE_SLOPE)
def fake_quantised(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        w = m.layer.weight
        return nn.functional.linear(x, w + ((w * 8).round() / 8 - w).detach(), m.layer.bias).tanh()

    return Block(run, layer=linear(s))


@idiom("vector")
def exponential_map(s: Shape) -> nn.Module:
    return Block(lambda m, x: x @ torch.matrix_exp(m.a - m.a.t()), a=parameter(s.features, s.features))
