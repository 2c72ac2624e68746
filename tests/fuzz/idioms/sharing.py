"""Shared modules, tied parameters, and parameters used in several places."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fuzz.registry import Block, Shape, conv, idiom, linear, parameter


@idiom("vector sequence")
def tied_weights(s: Shape) -> nn.Module:
    a, b = linear(s), linear(s)
    b.weight = a.weight
    return nn.Sequential(a, nn.Tanh(), b)


@idiom("vector")
def tied_transposed(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: F.linear(m.layer(x).tanh(), m.layer.weight.t(), m.bias), layer=linear(s), bias=parameter(1)
    )


@idiom("vector")
def module_under_two_names(s: Shape) -> nn.Module:
    layer = linear(s)
    return Block(lambda m, x: m.second(m.first(x).tanh()), first=layer, second=layer)


@idiom("vector")
def module_twice_in_sequential(s: Shape) -> nn.Module:
    layer = linear(s)
    return nn.Sequential(layer, nn.Tanh(), layer)


@idiom("vector")
def block_with_batchnorm_twice_in_sequential(s: Shape) -> nn.Module:
    block = nn.Sequential(linear(s), nn.BatchNorm1d(s.features), nn.Tanh())
    return nn.Sequential(block, block)


@idiom("vector")
def tied_weights_with_batchnorms(s: Shape) -> nn.Module:
    a, b = linear(s), linear(s)
    b.weight = a.weight
    return nn.Sequential(a, nn.BatchNorm1d(s.features), nn.Tanh(), b, nn.BatchNorm1d(s.features))


@idiom("vector")
def tied_norm_parameters(s: Shape) -> nn.Module:
    a, b = nn.LayerNorm(s.features), nn.LayerNorm(s.features)
    b.weight, b.bias = a.weight, a.bias
    return nn.Sequential(a, linear(s), b)


@idiom("vector")
def tied_bias_and_norm(s: Shape) -> nn.Module:
    """A layer's bias and its BatchNorm's shift are one parameter."""
    layer, norm = linear(s), nn.BatchNorm1d(s.features)
    norm.bias = layer.bias
    return nn.Sequential(layer, norm, nn.Tanh())


@idiom("vector")
def parameter_reused_many_times(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(x @ m.weight)
        return x

    return Block(run, weight=parameter(s.features, s.features))


@idiom("vector")
def parameters_that_share_memory(s: Shape) -> nn.Module:
    """Two parameters are views of one flat tensor, as in flattened optimisers."""
    flat = torch.randn(2 * s.features * s.features) * 0.5
    a, b = (nn.Parameter(part.view(s.features, s.features)) for part in flat.chunk(2))
    return Block(lambda m, x: torch.tanh(x @ m.a) @ m.b, a=a, b=b)


@idiom("vector")
def childs_parameter_used_by_parent(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(x).tanh() * m.layer.weight.sum() + m.layer.bias, layer=linear(s))


@idiom("vector")
def shared_in_two_branches(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(x).tanh() * m.layer(x.flip(-1)), layer=linear(s))


@idiom("image")
def shared_convolution_at_two_scales(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        coarse = m.layer(F.avg_pool2d(x, 2, ceil_mode=True))
        return m.layer(x).tanh() + F.interpolate(coarse, size=x.shape[2:])

    return Block(run, layer=conv(s))


@idiom("vector")
def parameter_list_indexed(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: sum((torch.tanh(x * w) for w in m.weights), x),
        weights=nn.ParameterList([parameter(s.features) for _ in range(3)]),
    )


@idiom("vector")
def parameter_dict(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: torch.tanh(x @ m.held["weight"]) + m.held["bias"],
        held=nn.ParameterDict({"weight": parameter(s.features, s.features), "bias": parameter(s.features)}),
    )


@idiom("sequence")
def tied_embedding_and_head(s: Shape) -> nn.Module:
    """Tokens made of the data are embedded and scored by one matrix."""

    def run(m: Block, x: Tensor) -> Tensor:
        tokens = (x[..., 0] > 0).long() + 2 * (x[..., 1] > 0).long()
        hidden = torch.tanh(m.embedding(tokens) + x)
        return F.linear(hidden, m.head.weight)[..., : x.shape[-1]]

    embedding, head = nn.Embedding(4, s.features), nn.Linear(s.features, 4, bias=False)
    head.weight = embedding.weight
    return Block(run, embedding=embedding, head=head)


@idiom("vector")
def weight_computed_from_another(s: Shape) -> nn.Module:
    """A property gives the weight: softplus of the stored parameter."""
    return _Positive(s)


class _Positive(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.raw = parameter(s.features, s.features)

    @property
    def weight(self) -> Tensor:
        return F.softplus(self.raw)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight * 0.3


@idiom("vector")
def hypernetwork(s: Shape) -> nn.Module:
    """One layer's output is another's weight."""

    def run(m: Block, x: Tensor) -> Tensor:
        weight = m.maker(m.code).view(x.shape[-1], x.shape[-1])
        return F.linear(x, weight).tanh()

    return Block(run, code=parameter(2), maker=nn.Linear(2, s.features**2))
