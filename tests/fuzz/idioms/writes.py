"""Writing in place: into outputs, views, inputs and fresh memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fuzz.registry import NOT_THE_SLOPE, Block, Shape, add, conv, idiom, linear, parameter


@idiom("vector sequence")
def relu_in_place(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), nn.ReLU(inplace=True), linear(s))


@idiom("vector sequence")
def identity_added_in_place(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        out += x
        return out.tanh_()

    return Block(run, layer=linear(s))


@idiom("vector")
def parameter_written_into_input(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        x[:, 0] = m.token
        return m.layer(x)

    return Block(run, token=parameter(), layer=linear(s))


@idiom("vector")
def constant_written_into_input(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        x[:, 1] = 0.25
        return m.layer(x).tanh()

    return Block(run, layer=linear(s))


@idiom("vector")
def input_doubled_in_place(s: Shape) -> nn.Module:
    """Not idempotent: the second pass over the same memory would give something else."""

    def run(m: Block, x: Tensor) -> Tensor:
        x *= 1.5
        return m.layer(x).tanh()

    return Block(run, layer=linear(s))


@idiom("sequence")
def class_token_written_into_input(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        x[:, 0] = m.token
        return x + m.layer(x).tanh()

    return Block(run, token=parameter(s.features), layer=linear(s))


@idiom("vector")
def masked_fill_of_input(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(x.masked_fill_(x < -0.5, -0.5)), layer=linear(s))


@idiom("sequence")
def masked_tokens_replaced(s: Shape) -> nn.Module:
    """Tokens that a mask of the data names are replaced by a parameter, as in masked autoencoders."""

    def run(m: Block, x: Tensor) -> Tensor:
        out = x.clone()
        hidden = x[..., 0] > 0.3
        out[hidden] = m.token
        return m.layer(out).tanh()

    return Block(run, token=parameter(s.features), layer=linear(s))


@idiom("vector")
def index_put_of_parameter(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        rows = torch.arange(len(x))
        columns = (x[:, 0] > 0).long()
        out.index_put_((rows, columns), m.layer(x)[:, 0], accumulate=False)
        out.index_put_((rows, columns), m.values.expand(len(x)), accumulate=True)
        return out + 0.5 * m.layer(x)

    return Block(run, layer=linear(s), values=parameter(1))


@idiom("vector")
def pieces_written_into_fresh_memory(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        out[:, :2] = m.layer(x)[:, :2].sin()
        out[:, 2:] = m.other(x)[:, 2:]
        return out

    return Block(run, layer=linear(s), other=linear(s))


@idiom("vector")
def write_through_chunk(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        out[:, 0].mul_(m.scale)
        out.narrow(1, 1, 2).add_(x[:, :2])
        return out.tanh()

    return Block(run, layer=linear(s), scale=parameter())


@idiom("image")
def write_into_border(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        out[..., 0] = 0
        out[..., -1, :] = m.edge
        return out

    return Block(run, layer=conv(s), edge=parameter(s.width))


@idiom("image")
def channel_of_input_overwritten(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        x[:, 0] = m.plane
        return m.layer(x)

    return Block(run, plane=parameter(s.height, s.width), layer=conv(s))


@idiom("vector")
def write_into_parameter_copy(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        weight = m.layer.weight.clone()
        weight.diagonal().zero_()
        weight[0] = m.row
        return F.linear(x, weight, m.layer.bias)

    return Block(run, layer=linear(s), row=parameter(s.features))


@idiom("vector")
def write_into_expanded_bias(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.bias.expand(len(x), -1).clone()
        return out.addmm_(x, m.weight).tanh()

    return Block(run, weight=parameter(s.features, s.features), bias=parameter(s.features))


@idiom("vector")
def write_under_no_grad_into_output(s: Shape) -> nn.Module:
    """A clean-up of NaNs as it is often written, of a tensor that has none."""

    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        with torch.no_grad():
            out[out != out] = 0.0
        return out

    return Block(run, layer=linear(s))


@idiom("vector", refuses=NOT_THE_SLOPE)
def write_into_data_attribute(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        x.data[:, 0] = 0.5
        return m.layer(x).tanh()

    return Block(run, layer=linear(s))


@idiom("vector")
def running_sum_in_a_loop(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for step in m.steps:
            total += step(x).tanh()
            total *= 0.9
        return total

    return Block(run, steps=nn.ModuleList([linear(s), linear(s)]))


@idiom("vector")
def transposed_in_place(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(x).t_().contiguous().t_().squeeze_().view(x.shape), layer=linear(s))


def _in_place(name: str, write: Callable[[Tensor], Tensor]) -> None:
    add(
        f"in_place.{name}",
        "vector",
        lambda s: Block(lambda m, x: m.after(write(m.layer(x))), layer=linear(s), after=linear(s)),
    )


for _name, _write in {
    "clamp_": lambda t: t.clamp_(-1.5, 1.5),
    "sigmoid_": lambda t: t.sigmoid_(),
    "exp_": lambda t: t.mul_(0.3).exp_(),
    "elu_": lambda t: F.elu_(t),
    "leaky_relu_": lambda t: F.leaky_relu_(t),
    "hardtanh_": lambda t: F.hardtanh_(t, -1.0, 1.2),
    "div_": lambda t: t.div_(2.0),
    "pow_": lambda t: t.pow_(2),
    "copy_": lambda t: torch.empty_like(t).copy_(t),
    "neg_": lambda t: t.neg_(),
    "cumsum_": lambda t: t.cumsum_(1),
    "tril_": lambda t: torch.einsum("ni,nj->nij", t, t).tril_().sum(2).mul_(0.3),
    "index_fill_": lambda t: t.index_fill_(1, torch.tensor([0, 2]), 0.3),
    "index_add_": lambda t: torch.zeros_like(t).index_add_(1, torch.tensor([0, 0, 1, 3])[: t.shape[1]], t),
    "scatter_": lambda t: t.scatter_(1, torch.zeros(len(t), 1, dtype=torch.int64), 0.7),
    "scatter_add_": lambda t: t.scatter_add_(1, torch.zeros(len(t), 2, dtype=torch.int64), t[:, 1:3].clone()),
    "masked_scatter_": lambda t: t.masked_scatter_(t.detach() > 0, t.new_ones(t.numel())),
    "lerp_": lambda t: t.lerp_(t.detach() * 0 + 1, 0.3),
    "swap": lambda t: t.unsqueeze_(1).squeeze_(1),
}.items():
    _in_place(_name, _write)
