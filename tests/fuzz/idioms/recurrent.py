"""Recurrent layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from tests.fuzz.registry import Block, Shape, idiom, linear, parameter

# The fused kernels on accelerators have no second derivative; the CPU's have.


@idiom("sequence")
def rnn(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(x)[0], layer=nn.RNN(s.features, s.features, batch_first=True))


@idiom("sequence")
def rnn_of_relus(s: Shape) -> nn.Module:
    layer = nn.RNN(s.features, s.features, batch_first=True, nonlinearity="relu", bias=False)
    return Block(lambda m, x: m.layer(x)[0] + x, layer=layer)


@idiom("sequence")
def lstm(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(x)[0].repeat(1, 1, 2), layer=nn.LSTM(s.features, s.features // 2, batch_first=True)
    )


@idiom("sequence")
def lstm_bidirectional(s: Shape) -> nn.Module:
    layer = nn.LSTM(s.features, s.features // 2, batch_first=True, bidirectional=True)
    return Block(lambda m, x: m.layer(x)[0], layer=layer)


@idiom("sequence")
def lstm_with_projection(s: Shape) -> nn.Module:
    layer = nn.LSTM(s.features, 2, batch_first=True, proj_size=1)
    return Block(lambda m, x: x + m.layer(x)[0], layer=layer)


@idiom("sequence")
def gru(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(x)[0].repeat(1, 1, 2), layer=nn.GRU(s.features, s.features // 2, batch_first=True)
    )


@idiom("sequence")
def gru_of_two_layers_with_dropout(s: Shape) -> nn.Module:
    layer = nn.GRU(s.features, 2, 2, batch_first=True, dropout=0.3)
    return Block(lambda m, x: torch.cat([m.layer(x)[0], x[..., 2:]], -1), layer=layer)


@idiom("sequence")
def gru_with_learned_start(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        return m.layer(x, m.start.expand(1, len(x), -1).contiguous())[0].repeat(1, 1, 2)

    return Block(run, layer=nn.GRU(s.features, s.features // 2, batch_first=True), start=parameter(s.features // 2))


@idiom("sequence")
def packed_gru(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        lengths = 1 + (x[:, 0, 0] > 0).long() + (x[:, 0, 1] > 0).long()
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(m.layer(packed)[0], batch_first=True, total_length=x.shape[1])
        return out.repeat(1, 1, 2)

    return Block(run, layer=nn.GRU(s.features, s.features // 2, batch_first=True))


@idiom("sequence")
def lstm_cell_in_a_loop(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 2)
        out = []
        for token in x.unbind(1):
            h, c = m.cell(token, (h, c))
            out.append(torch.cat([h, token[:, 2:]], 1))
        return torch.stack(out, 1)

    return Block(run, cell=nn.LSTMCell(s.features, 2))


@idiom("sequence")
def gru_cell_in_a_loop(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 2)
        out = torch.zeros_like(x)
        for t in range(x.shape[1]):
            state = m.cell(x[:, t], state)
            out[:, t] = torch.cat([state, x[:, t, 2:]], 1)
        return out

    return Block(run, cell=nn.GRUCell(s.features, 2))


@idiom("sequence")
def linear_recurrence(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        decay, state, out = m.decay.sigmoid(), torch.zeros_like(x[:, 0]), []
        for token in x.unbind(1):
            state = decay * state + (1 - decay) * m.layer(token)
            out.append(state)
        return torch.stack(out, 1)

    return Block(run, decay=parameter(s.features), layer=linear(s))


@idiom("sequence")
def list_of_unequal_sequences(s: Shape) -> nn.Module:
    """Cuts each sample to a length of its own and pads again."""

    def run(m: Block, x: Tensor) -> Tensor:
        parts = [row[: 1 + int(row[0, 0] > 0)] for row in x]
        padded = pad_sequence(parts, batch_first=True)
        return x + m.layer(padded).tanh().sum(1, keepdim=True)

    return Block(run, layer=linear(s, bias=False))
