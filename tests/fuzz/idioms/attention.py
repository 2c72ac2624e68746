"""Attention: torch's own modules and hand-written ones, with masks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fuzz.registry import Block, Shape, idiom, linear, parameter

HEADS = 2


def _causal(x: Tensor) -> Tensor:
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)


def _padding(x: Tensor) -> Tensor:
    """Which tokens are padding, by their content; never the first."""
    hidden = x[..., 0] > 0.8
    hidden[:, 0] = False
    return hidden


@idiom("sequence")
def multihead_attention(s: Shape) -> nn.Module:
    layer = nn.MultiheadAttention(s.features, HEADS, batch_first=True)
    return Block(lambda m, x: x + m.layer(x, x, x, need_weights=False)[0], layer=layer)


@idiom("sequence")
def multihead_attention_causal(s: Shape) -> nn.Module:
    layer = nn.MultiheadAttention(s.features, HEADS, batch_first=True, bias=False)
    return Block(lambda m, x: x + m.layer(x, x, x, attn_mask=_causal(x))[0], layer=layer)


@idiom("sequence")
def multihead_attention_with_padding(s: Shape) -> nn.Module:
    layer = nn.MultiheadAttention(s.features, HEADS, batch_first=True, dropout=0.2)
    return Block(
        lambda m, x: x + m.layer(x, x, x, key_padding_mask=_padding(x.clone()), need_weights=False)[0], layer=layer
    )


@idiom("sequence")
def attention_weights_used(s: Shape) -> nn.Module:
    layer = nn.MultiheadAttention(s.features, 1, batch_first=True)
    return Block(lambda m, x: m.layer(x, x, x)[1] @ x, layer=layer)


@idiom("sequence")
def multihead_attention_with_added_keys(s: Shape) -> nn.Module:
    layer = nn.MultiheadAttention(s.features, HEADS, batch_first=True, add_bias_kv=True, add_zero_attn=True)
    return Block(lambda m, x: m.layer(x, x.flip(1), x)[0], layer=layer)


@idiom("sequence")
def encoder_layer(s: Shape) -> nn.Module:
    return nn.TransformerEncoderLayer(s.features, HEADS, 4, batch_first=True)


@idiom("sequence")
def encoder_layer_norm_first(s: Shape) -> nn.Module:
    return nn.TransformerEncoderLayer(s.features, HEADS, 4, 0.1, F.gelu, batch_first=True, norm_first=True)


@idiom("sequence")
def encoder_with_padding(s: Shape) -> nn.Module:
    inner = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(s.features, HEADS, 4, batch_first=True), 1, enable_nested_tensor=False
    )
    return Block(lambda m, x: m.inner(x, src_key_padding_mask=_padding(x.clone())), inner=inner)


@idiom("sequence")
def encoder_layer_causal(s: Shape) -> nn.Module:
    inner = nn.TransformerEncoderLayer(s.features, HEADS, 4, batch_first=True)
    return Block(lambda m, x: m.inner(x, src_mask=_causal(x), is_causal=True), inner=inner)


@idiom("sequence")
def decoder_layer(s: Shape) -> nn.Module:
    inner = nn.TransformerDecoderLayer(s.features, 1, 2, batch_first=True)
    return Block(lambda m, x: m.inner(x, x.flip(1), tgt_mask=_causal(x)), inner=inner)


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


@idiom("sequence")
def scaled_dot_product_causal(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        q, k, v = (_heads(part) for part in m.qkv(x).chunk(3, -1))
        return x + _merged(F.scaled_dot_product_attention(q, k, v, is_causal=True))

    return Block(run, qkv=nn.Linear(s.features, 3 * s.features))


@idiom("sequence")
def scaled_dot_product_with_bias_parameter(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        q, k, v = (_heads(part) for part in m.qkv(x).chunk(3, -1))
        return _merged(F.scaled_dot_product_attention(q, k, v, attn_mask=m.bias))

    return Block(run, qkv=nn.Linear(s.features, 3 * s.features), bias=parameter(HEADS, s.length, s.length))


@idiom("sequence")
def scaled_dot_product_with_mask(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        q = m.q(x)
        return x + F.scaled_dot_product_attention(q, x, x, attn_mask=~_padding(x.clone())[:, None], scale=0.5)

    return Block(run, q=linear(s))


@idiom("sequence")
def attention_of_one_head_with_temperature(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        scores = m.q(x) @ x.transpose(1, 2) * m.temperature.exp() / math.sqrt(x.shape[-1])
        return scores.masked_fill(_causal(x), float("-inf")).softmax(-1) @ m.v(x)

    return Block(run, q=linear(s), v=linear(s), temperature=parameter())


@idiom("sequence")
def attention_by_einsum(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        weights = torch.einsum("nif,njf->nij", m.q(x), m.k(x)).softmax(-1)
        return x + torch.einsum("nij,njf->nif", weights, x)

    return Block(run, q=linear(s), k=linear(s))


@idiom("sequence")
def linear_attention(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        q, k = F.elu(m.q(x)) + 1, F.elu(m.k(x)) + 1
        state = torch.einsum("ntf,ntg->ntfg", k, x).cumsum(1)
        return torch.einsum("ntf,ntfg->ntg", q, state) / (q * k.cumsum(1)).sum(-1, keepdim=True)

    return Block(run, q=linear(s), k=linear(s))


@idiom("sequence")
def relative_positions(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1])
        bias = m.table(steps[:, None] - steps + x.shape[1] - 1)[..., 0]
        return (m.q(x) @ x.transpose(1, 2) + bias).softmax(-1) @ x

    return Block(run, q=linear(s), table=nn.Embedding(2 * s.length - 1, 1))


@idiom("sequence")
def learned_query(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        weights = (x @ m.query).softmax(1)
        return x + (weights[..., None] * m.layer(x)).sum(1, keepdim=True)

    return Block(run, query=parameter(s.features), layer=linear(s))


@idiom("sequence")
def positions_added(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(x + m.positions[: x.shape[1]]).tanh(),
        positions=parameter(s.length + 2, s.features),
        layer=linear(s),
    )


@idiom("sequence")
def class_token_prepended(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        longer = torch.cat([m.token.expand(len(x), 1, -1), x], 1)
        return m.layer(longer).tanh()[:, : x.shape[1]] + x

    return Block(run, token=parameter(s.features), layer=linear(s))


@idiom("image")
def attention_over_pixels(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        weights = (m.q(tokens) @ tokens.transpose(1, 2)).softmax(-1)
        return (weights @ m.v(tokens)).transpose(1, 2).reshape(x.shape)

    return Block(run, q=nn.Linear(s.channels, s.channels), v=nn.Linear(s.channels, s.channels))
