"""What may happen to the data before the first linear layer, and how that layer may be used."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fuzz.registry import NOT_THE_SLOPE, Block, Shape, idiom, parameter


@idiom("wide")
def parameter_written_into_data(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        x[:, 0] = m.token
        return x

    return Block(run, token=parameter())


@idiom("wide")
def parameter_added_to_data_in_place(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        x += m.shift
        return x

    return Block(run, shift=parameter(s.inputs))


@idiom("wide")
def data_scaled_in_place(s: Shape) -> nn.Module:
    return Block(lambda m, x: x.mul_(1.25))


@idiom("wide")
def data_rectified_in_place(s: Shape) -> nn.Module:
    return nn.ReLU(inplace=True)


@idiom("wide", refuses=NOT_THE_SLOPE)
def data_written_without_autograd(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        with torch.no_grad():
            x[:, 1] = m.token
        return x

    return Block(run, token=parameter())


@idiom("wide")
def batchnorm_of_data(s: Shape) -> nn.Module:
    return nn.BatchNorm1d(s.inputs, affine=False)


@idiom("wide")
def layernorm_of_data(s: Shape) -> nn.Module:
    return nn.LayerNorm(s.inputs, elementwise_affine=False)


@idiom("wide")
def data_scaled_by_a_gate(s: Shape) -> nn.Module:
    """The data themselves at the centre, something else where a parameter has moved."""
    return Block(lambda m, x: x if float(m.gate) == 0 else x * (1 + m.gate), gate=nn.Parameter(torch.zeros(())))


@idiom("wide")
def layer_used_twice_on_data(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        a, b = m.layer(x), m.layer(x.flip(1))
        return torch.cat([a, b, a * b, x[:, 6:]], 1)

    return Block(run, layer=nn.Linear(s.inputs, 2))


@idiom("wide")
def layer_output_changed_in_place(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        out.tanh_().mul_(m.scale)
        return torch.cat([out, x[:, 2:]], 1)

    return Block(run, layer=nn.Linear(s.inputs, 2), scale=parameter())


@idiom("wide")
def layer_tied_with_a_later_use(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        return x + F.linear(m.layer(x).tanh(), m.layer.weight.t())

    return Block(run, layer=nn.Linear(s.inputs, 2))


@idiom("wide")
def layer_called_on_rows(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        rows = [torch.cat([m.layer(row[None])[0], row[2:]]) for row in x]
        return torch.stack(rows)

    return Block(run, layer=nn.Linear(s.inputs, 2))


@idiom("wide")
def layer_with_frozen_bias(s: Shape) -> nn.Module:
    layer = nn.Linear(s.inputs, 2)
    layer.bias.requires_grad_(False)
    return Block(lambda m, x: torch.cat([m.layer(x).sin(), x[:, 2:]], 1), layer=layer)


@idiom("wide")
def layer_weight_replaced_in_forward(s: Shape) -> nn.Module:
    """The layer is given another weight for one call, by a functional call of its own."""

    def run(m: Block, x: Tensor) -> Tensor:
        other = torch.func.functional_call(m.layer, {"weight": m.layer.weight * 0.5}, (x,))
        return torch.cat([m.layer(x).tanh(), other.sin(), x[:, 4:]], 1)

    return Block(run, layer=nn.Linear(s.inputs, 2))


@idiom("wide")
def layer_on_a_view_of_data(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x[:])
        return torch.cat([out.tanh(), x[:, 2:]], 1)

    return Block(run, layer=nn.Linear(s.inputs, 2))
