"""How models are put together: containers, frozen, unused and odd parameters, mixed dtypes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.fuzz.registry import Block, Shape, conv, idiom, linear, parameter


@idiom("vector sequence")
def plain_layers(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), nn.Tanh(), linear(s))


@idiom("vector")
def module_dict(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: sum(layer(x).tanh() for layer in m.parts.values()),
        parts=nn.ModuleDict({"first": linear(s), "second": linear(s)}),
    )


@idiom("vector")
def frozen_layer(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s).requires_grad_(False), nn.Tanh(), linear(s))


@idiom("vector")
def frozen_bias(s: Shape) -> nn.Module:
    layer = linear(s)
    layer.bias.requires_grad_(False)
    return nn.Sequential(layer, nn.Tanh())


@idiom("vector")
def scalar_parameters(s: Shape) -> nn.Module:
    return Block(lambda m, x: (x * m.scale + m.shift).sin(), scale=parameter(), shift=parameter())


@idiom("vector")
def unused_parameters(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(x).tanh(), layer=linear(s), spare=nn.Linear(2, 1), odd=parameter())


@idiom("vector")
def parameters_used_at_weight_zero(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(x).tanh() + 0.0 * m.spare, layer=linear(s), spare=parameter())


@idiom("vector")
def empty_parameter(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(x).tanh() + m.nothing.sum(), layer=linear(s), nothing=nn.Parameter(torch.zeros(0, 3))
    )


@idiom("vector")
def parameter_of_many_dims(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: torch.einsum("ni,abij->nj", x, m.w).tanh(), w=parameter(2, 1, s.features, s.features, scale=0.3)
    )


@idiom("vector")
def strided_parameter(s: Shape) -> nn.Module:
    """A parameter whose memory is not contiguous."""
    return Block(lambda m, x: torch.tanh(x @ m.w), w=nn.Parameter((torch.randn(s.features, s.features) * 0.5).t()))


@idiom("vector")
def double_constant(s: Shape) -> nn.Module:
    """A float64 constant in a model that may be float32."""
    return Block(lambda m, x: (m.layer(x).tanh() * m.scale).to(x.dtype), layer=linear(s), scale=_Constant(s.features))


class _Constant:
    """Holds a float64 tensor out of reach of ``Module.to``."""

    def __init__(self, size: int) -> None:
        self.value = torch.linspace(0.5, 1.5, size, dtype=torch.float64)

    def __rmul__(self, other: Any) -> Tensor:
        return other * self.value


@idiom("vector")
def integer_and_boolean_buffers(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(x)[:, m.order].masked_fill(m.hidden, 0.2).tanh(),
        layer=linear(s),
        order=torch.randperm(s.features),
        hidden=torch.arange(s.features) == 1,
        version=torch.tensor(2, dtype=torch.int64),
    )


@idiom("vector", single=True)
def complex_buffer(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        return torch.view_as_real(m.layer(x).to(m.turn.dtype) * m.turn).sum(-1).to(x.dtype)

    return Block(run, layer=linear(s), turn=torch.polar(torch.ones(s.features), torch.rand(s.features)))


@idiom("vector", refuses={"*": "complex"})
def complex_parameter(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        return (x.to(m.w.dtype) @ m.w).abs().to(x.dtype)

    return Block(run, w=nn.Parameter(torch.randn(s.features, s.features, dtype=torch.complex128) * 0.5))


@idiom("vector")
def single_precision_layer(s: Shape) -> nn.Module:
    """One layer stays float32 whatever the model is."""
    return Block(lambda m, x: m.layer(x).tanh() + m.low.to(x.dtype) * 0.5, layer=linear(s), low=_Low(s.features))


class _Low:
    def __init__(self, size: int) -> None:
        self.value = torch.linspace(0.25, 1, size, dtype=torch.float32)

    def to(self, dtype: torch.dtype) -> Tensor:
        return self.value.to(dtype)


@idiom("vector")
def dropped_in_training_only(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), nn.Dropout(0.5, inplace=True), nn.Tanh(), nn.Dropout(0.2))


@idiom("vector")
def stochastic_depth(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        if m.training and torch.rand(()) < 0.5:
            return x
        return x + m.layer(x).tanh()

    return Block(run, layer=linear(s))


@idiom("vector")
def deep_nesting(s: Shape) -> nn.Module:
    inner: nn.Module = linear(s)
    for _ in range(5):
        inner = nn.Sequential(inner)
    return nn.Sequential(inner, nn.Tanh())


@idiom("vector")
def data_parallel(s: Shape) -> nn.Module:
    return nn.DataParallel(nn.Sequential(linear(s), nn.Tanh()))


class _Unregistered(nn.Module):
    """Keeps a layer in a plain list: it belongs to the function, but is no parameter of the model."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.layer = linear(s)
        self.hidden = [torch.randn(s.features, s.features) * 0.5]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh() @ self.hidden[0].to(x)


@idiom("vector")
def constants_in_a_list(s: Shape) -> nn.Module:
    return _Unregistered(s)


class _Delegating(nn.Module):
    """Looks attributes up in what it wraps."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.weight.sum()


@idiom("vector")
def wrapper_that_delegates(s: Shape) -> nn.Module:
    return _Delegating(linear(s))


class _OwnCall(nn.Module):
    """Overrides ``__call__``."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.layer = linear(s)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 1.5

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh()


@idiom("vector")
def own_call(s: Shape) -> nn.Module:
    return _OwnCall(s)


class _Linear(nn.Linear):
    """A subclass with another formula."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 0.7 + input.sum(-1, keepdim=True) * 0.1


class _Norm(nn.BatchNorm1d):
    """A subclass with another formula."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).sin()


@idiom("vector")
def subclassed_layers(s: Shape) -> nn.Module:
    return nn.Sequential(_Linear(s.features, s.features), _Norm(s.features), nn.Tanh())


@idiom("vector")
def functional_linear_with_kept_bias(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: nn.functional.linear(x, m.w, m.b).tanh(),
        w=parameter(s.features, s.features),
        b=torch.randn(s.features),
    )


@idiom("vector")
def buffer_is_a_view_of_a_parameter(s: Shape) -> nn.Module:
    """A buffer that shares memory with a parameter, and is not swapped with it."""
    layer = linear(s)
    return Block(lambda m, x: m.layer(x).tanh() + x, layer=layer, size=torch.tensor(float(s.features)))


@idiom("vector")
def weighted_sum_of_layers(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        seen = [x]
        for layer in m.layers:
            seen.append(layer(seen[-1]).tanh())
        return torch.einsum("k,knf->nf", m.weights.softmax(0), torch.stack(seen))

    return Block(run, layers=nn.ModuleList([linear(s), linear(s)]), weights=parameter(3))


@idiom("image")
def frozen_convolution(s: Shape) -> nn.Module:
    return nn.Sequential(conv(s).requires_grad_(False), nn.Tanh(), conv(s, 1))


@idiom("vector")
def flow_coupling(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        scale, shift = m.net(a).chunk(2, 1)
        return torch.cat([a, b * scale.tanh().exp() + shift], 1)

    return Block(run, net=nn.Linear(s.features // 2, s.features))


@idiom("vector")
def mixed_widths(s: Shape) -> nn.Module:
    return nn.Sequential(nn.Linear(s.features, 17), nn.ReLU(), nn.Linear(17, s.features))
