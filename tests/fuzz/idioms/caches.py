"""What a model keeps between calls: lazily filled caches, counters, remembered activations."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from tests.fuzz.registry import Block, Shape, idiom, linear, parameter

# A table in the model's own dtype does not go with a copy in another, whoever makes the copy.
_OTHER_DTYPE = {"* in another dtype": "dtype"}


@idiom("vector", fills="cache", refuses=_OTHER_DTYPE)
def dict_by_batch_size(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        if len(x) not in m.cache:
            m.cache[len(x)] = torch.full((len(x), 1), 2.0, dtype=x.dtype)
        return m.layer(x).tanh() * m.cache[len(x)]

    return Block(run, layer=linear(s), cache={})


@idiom("vector sequence", fills="scale", refuses=_OTHER_DTYPE)
def attribute_filled_once(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        if m.scale is None:
            m.scale = torch.linspace(0.5, 1.5, x.shape[-1], dtype=x.dtype)
        return m.layer(x).tanh() * m.scale

    return Block(run, layer=linear(s), scale=None)


@idiom("vector", fills="_non_persistent_buffers_set scale")
def buffer_registered_lazily(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        if not hasattr(m, "scale"):
            m.register_buffer("scale", torch.linspace(0.5, 1.5, x.shape[-1], dtype=x.dtype))
        return m.layer(x).tanh() * m.scale

    return Block(run, layer=linear(s))


@idiom("sequence", fills="_non_persistent_buffers_set mask")
def causal_mask_grown_on_demand(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        if m.mask is None or len(m.mask) < x.shape[1]:
            m.register_buffer("mask", torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(), persistent=False)
        scores = m.q(x) @ m.k(x).transpose(1, 2)
        return scores.masked_fill(~m.mask[: x.shape[1], : x.shape[1]], float("-inf")).softmax(-1) @ x

    block = Block(run, q=linear(s), k=linear(s))
    block.register_buffer("mask", None, persistent=False)
    return block


@idiom("sequence", fills="cos sin seen", refuses=_OTHER_DTYPE)
def rotary_tables(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        if m.seen < x.shape[1]:
            m.seen = x.shape[1]
            angles = torch.arange(x.shape[1], dtype=x.dtype)[:, None] / 10 ** torch.arange(2, dtype=x.dtype)
            m.cos, m.sin = angles.cos(), angles.sin()
        a, b = m.layer(x).unflatten(-1, (2, -1)).unbind(-1)
        return torch.cat([a * m.cos - b * m.sin, a * m.sin + b * m.cos], -1)

    return Block(run, layer=linear(s), cos=None, sin=None, seen=0)


@functools.lru_cache
def _positions(length: int, features: int) -> Tensor:
    return torch.outer(torch.arange(length).float(), torch.arange(features).float()).sin()


@idiom("sequence")
def table_from_a_cached_function(s: Shape) -> nn.Module:
    _positions.cache_clear()  # so that whoever runs first fills it
    return Block(lambda m, x: m.layer(x + _positions(*x.shape[1:])).tanh(), layer=linear(s))


@idiom("vector")
def table_from_a_cached_closure(s: Shape) -> nn.Module:
    @functools.cache
    def ramp(size: int, dtype: torch.dtype) -> Tensor:
        return torch.linspace(-1, 1, size, dtype=dtype)

    return Block(lambda m, x: m.layer(x + ramp(x.shape[-1], x.dtype)).tanh(), layer=linear(s))


class _WithCachedProperty(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.layer = linear(s)

    @functools.cached_property
    def ramp(self) -> Tensor:
        return torch.linspace(-1, 1, self.layer.in_features, dtype=self.layer.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x * self.ramp).sin()


@idiom("vector", fills="ramp", refuses=_OTHER_DTYPE)
def cached_property(s: Shape) -> nn.Module:
    return _WithCachedProperty(s)


@idiom("vector", fills="kept", refuses=_OTHER_DTYPE)
def list_appended_once(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        if not m.kept:
            m.kept.append(torch.eye(x.shape[-1], dtype=x.dtype))
        return m.layer(x) @ (m.kept[0] + 0.1)

    return Block(run, layer=linear(s), kept=[])


@idiom("vector", fills="cache")
def dict_by_dtype_of_random_constants(s: Shape) -> nn.Module:
    """A fixed random projection, drawn when first needed."""

    def run(m: Block, x: Tensor) -> Tensor:
        if x.dtype not in m.cache:
            generator = torch.Generator().manual_seed(1)
            m.cache[x.dtype] = torch.randn(x.shape[-1], x.shape[-1], generator=generator).to(x.dtype)
        return m.layer(x).tanh() @ m.cache[x.dtype]

    return Block(run, layer=linear(s), cache={})


@idiom("vector")
def counter_buffer(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        m.calls += 1
        return m.layer(x).tanh()

    return Block(run, layer=linear(s), calls=torch.zeros((), dtype=torch.int64))


@idiom("vector", fills="calls")
def counter_attribute(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        m.calls += 1
        return m.layer(x).tanh()

    return Block(run, layer=linear(s), calls=0)


@idiom("vector", fills="last")
def last_activation_remembered(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        m.last = m.layer(x)
        return m.last.tanh()

    return Block(run, layer=linear(s), last=None)


@idiom("vector", fills="last")
def last_activation_detached(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        m.last = out.detach()
        return out.tanh()

    return Block(run, layer=linear(s), last=None)


@idiom("vector")
def moving_average_buffer(s: Shape) -> nn.Module:
    """A buffer that every forward pass changes, in eval mode too, and that no output depends on."""

    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        m.average.mul_(0.9).add_(out.detach().mean(0).to(m.average), alpha=0.1)
        return out.tanh()

    return Block(run, layer=linear(s), average=torch.zeros(s.features))


@idiom("vector")
def buffer_replaced_in_forward(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        m.largest = torch.maximum(m.largest, out.detach().abs().max().to(m.largest))
        return out.tanh()

    return Block(run, layer=linear(s), largest=torch.zeros(()))


@idiom("vector", fills="losses")
def auxiliary_losses_collected(s: Shape) -> nn.Module:
    """A list that the forward pass clears and fills, as mixture-of-experts layers do."""

    def run(m: Block, x: Tensor) -> Tensor:
        m.losses.clear()
        out = m.layer(x)
        m.losses.append(out.square().mean())
        return out.tanh()

    return Block(run, layer=linear(s), losses=[])


@idiom("sequence", fills="cache")
def key_value_cache_cleared(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        m.cache.clear()
        out = []
        for t in range(x.shape[1]):
            m.cache.append(m.layer(x[:, t]).tanh())
            out.append(torch.stack(m.cache, 1).mean(1))
        return torch.stack(out, 1)

    return Block(run, layer=linear(s), cache=[])


@idiom("vector", fills="ready")
def initialised_by_first_batch(s: Shape) -> nn.Module:
    """A flag that the first call sets; what it guards only checks shapes."""

    def run(m: Block, x: Tensor) -> Tensor:
        if not m.ready:
            assert x.shape[-1] == m.layer.in_features
            m.ready = True
        return m.layer(x).tanh()

    return Block(run, layer=linear(s), ready=False)


class _Shared:
    """What several modules share: a plain object with a table inside."""

    def __init__(self) -> None:
        self.tables: dict[Any, Tensor] = {}

    def of(self, x: Tensor) -> Tensor:
        key = x.shape[-1], x.dtype
        if key not in self.tables:
            self.tables[key] = torch.linspace(0.5, 1, x.shape[-1], dtype=x.dtype)
        return self.tables[key]


@idiom("vector")
def table_in_a_shared_object(s: Shape) -> nn.Module:
    shared = _Shared()
    part = [Block(lambda m, x: m.layer(x * m.shared.of(x)).tanh(), layer=linear(s), shared=shared) for _ in range(2)]
    return nn.Sequential(*part)


@idiom("vector", fills="powers")
def cache_of_matrix_powers(s: Shape) -> nn.Module:
    """A table of constants grown in a loop, of a buffer and not of a parameter."""

    def run(m: Block, x: Tensor) -> Tensor:
        while len(m.powers) < 3:
            m.powers.append(torch.linalg.matrix_power(m.base, len(m.powers)))
        return sum(x @ power.to(x) * w for power, w in zip(m.powers, m.weights, strict=True)).tanh()

    return Block(run, base=torch.randn(s.features, s.features) * 0.4, powers=[], weights=parameter(3))
