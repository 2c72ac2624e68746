"""Functions that change their form away from the centre, with the data or with shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import checkpoint

from tests.fuzz.registry import NOT_THE_SLOPE, Block, Shape, idiom, linear, parameter


def _closed() -> nn.Parameter:
    """A parameter that is zero at the centre."""
    return nn.Parameter(torch.zeros(()))


@idiom("vector sequence")
def where_on_a_parameter(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: torch.where(m.gate > 0.02, m.a(x).sin() * 2, m.b(x).tanh()) + m.gate,
        a=linear(s),
        b=linear(s),
        gate=_closed(),
    )


@idiom("vector")
def relu_of_a_parameter(s: Shape) -> nn.Module:
    """A branch that is shut at the centre and opens away from it."""
    return Block(
        lambda m, x: m.a(x).tanh() + F.relu(m.gate - 0.02) * m.b(x).exp(), a=linear(s), b=linear(s), gate=_closed()
    )


@idiom("vector")
def branch_on_a_parameter(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: (m.a(x).tanh() if m.gate.item() < 0.02 else m.b(x).sin()) + m.gate,
        a=linear(s),
        b=linear(s),
        gate=_closed(),
    )


@idiom("vector")
def truth_of_a_parameter(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.a(x).tanh() * (m.gate if m.gate > 0.05 else m.gate * 0.5 + 0.025), a=linear(s), gate=_closed()
    )


@idiom("vector")
def skipped_while_zero(s: Shape) -> nn.Module:
    """A residual branch that is not run while its scale is zero, as zero-initialised adapters do it."""
    return Block(
        lambda m, x: x + m.gate * m.a(x).tanh() if bool((m.gate != 0).any()) else x.clone() + m.gate,
        a=linear(s),
        gate=_closed(),
    )


@idiom("vector")
def equal_to_stored_start(s: Shape) -> nn.Module:
    """Another form as soon as the weights differ from those stored at the start."""

    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x).tanh()
        return out if torch.equal(m.layer.weight.detach(), m.start) else out * 1.25

    layer = linear(s)
    return Block(run, layer=layer, start=layer.weight.detach().clone())


@idiom("vector")
def largest_weight_row_chosen(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(x).tanh() * x[:, m.layer.weight.abs().sum(0).argmax()][:, None], layer=linear(s))


@idiom("vector")
def weight_mask_by_threshold(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        kept = (m.layer.weight.abs() > 0.15).to(x.dtype)
        return F.linear(x, m.layer.weight * kept, m.layer.bias).tanh()

    return Block(run, layer=linear(s))


@idiom("vector")
def weight_clipped_to_norm(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        norm = m.layer.weight.norm()
        weight = m.layer.weight * (1.2 / norm) if norm > 1.2 else m.layer.weight
        return F.linear(x, weight, m.layer.bias).tanh()

    return Block(run, layer=linear(s))


@idiom("vector")
def rows_by_their_content(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        return torch.stack([m.a(row).tanh() if row[0] > 0 else m.b(row).sin() for row in x])

    return Block(run, a=linear(s), b=linear(s))


@idiom("vector")
def early_exit_of_rows(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.a(x).tanh()
        going_on = x[:, 0] > 0.2
        if going_on.any():
            out = out.clone()
            out[going_on] = m.b(out[going_on]).sin()
        return out

    return Block(run, a=linear(s), b=linear(s))


@idiom("vector")
def steps_by_content(s: Shape) -> nn.Module:
    """Iterates until every row has settled; more steps change nothing for those that have."""

    def run(m: Block, x: Tensor) -> Tensor:
        out, left = x, (x[:, 0].abs() * 3).long().clamp(max=3)
        while bool((left > 0).any()):
            out = torch.where((left > 0)[:, None], m.layer(out).tanh(), out)
            left = left - 1
        return out

    return Block(run, layer=linear(s))


@idiom("sequence")
def branch_on_length(s: Shape) -> nn.Module:
    return Block(lambda m, x: (m.a(x) if x.shape[1] > 2 else m.b(x)).tanh(), a=linear(s), b=linear(s))


@idiom("vector")
def in_chunks_of_the_batch(s: Shape) -> nn.Module:
    return Block(lambda m, x: torch.cat([m.layer(part).tanh() for part in x.split(2)]), layer=linear(s))


@idiom("vector")
def one_sample_treated_apart(s: Shape) -> nn.Module:
    """Squeezes a batch of one, as hand-written code does, and restores it."""

    def run(m: Block, x: Tensor) -> Tensor:
        if len(x) == 1:
            return m.layer(x[0]).tanh()[None]
        return m.layer(x).tanh()

    return Block(run, layer=linear(s))


@idiom("vector")
def fixed_point_of_a_loop(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for _ in range(6):
            z = torch.tanh(0.4 * m.layer(z) + x)
        return z

    return Block(run, layer=linear(s))


@idiom("vector")
def hard_threshold_of_data(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(torch.where(x > 0.1, x, torch.zeros_like(x))).tanh(), layer=linear(s))


@idiom("vector", refuses=NOT_THE_SLOPE)
def detached_branch(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.a(x).tanh() * m.b(x).detach().sigmoid(), a=linear(s), b=linear(s))


@idiom("vector", refuses=NOT_THE_SLOPE)
def no_grad_branch(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        with torch.no_grad():
            weight = m.b(x).sigmoid()
        return m.a(x).tanh() * weight

    return Block(run, a=linear(s), b=linear(s))


@idiom("vector", refuses=NOT_THE_SLOPE)
def rounded_straight_through(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        return out + ((out * 4).round() / 4 - out).detach()

    return Block(run, layer=linear(s))


@idiom("vector")
def dropout_by_training_flag(s: Shape) -> nn.Module:
    return Block(lambda m, x: F.dropout(m.layer(x), 0.5, m.training).tanh(), layer=linear(s))


@idiom("vector")
def other_path_in_training(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.a(x).tanh() if m.training else m.a(x).tanh() + m.b(x) * 0.5, a=linear(s), b=linear(s))


@idiom("vector", random=True)
def dropout_that_ignores_eval(s: Shape) -> nn.Module:
    return Block(lambda m, x: F.dropout(m.layer(x), 0.5), layer=linear(s))


@idiom("vector", random=True)
def noise_in_every_pass(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(x) + 0.1 * torch.randn_like(x), layer=linear(s))


@idiom("vector")
def noise_from_a_seeded_generator(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return m.layer(x).tanh() + torch.randn(x.shape[-1], generator=generator).to(x) * m.scale

    return Block(run, layer=linear(s), scale=parameter())


@idiom("vector sequence")
def checkpointed(s: Shape) -> nn.Module:
    inner = nn.Sequential(linear(s), nn.Tanh(), linear(s))
    return Block(lambda m, x: checkpoint.checkpoint(m.inner, x, use_reentrant=False), inner=inner)


@idiom("vector")
def checkpointed_with_batchnorm(s: Shape) -> nn.Module:
    inner = nn.Sequential(linear(s), nn.BatchNorm1d(s.features), nn.Tanh())
    return Block(lambda m, x: checkpoint.checkpoint(m.inner, x, use_reentrant=False), inner=inner)


@idiom("vector", refuses={"*": "[Cc]heckpoint"})
def checkpointed_reentrant(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: checkpoint.checkpoint(m.inner, m.first(x), use_reentrant=True),
        first=linear(s),
        inner=nn.Sequential(linear(s), nn.Tanh()),
    )


@idiom("vector")
def checkpointed_sequential(s: Shape) -> nn.Module:
    inner = nn.Sequential(linear(s), nn.Tanh(), linear(s), nn.Tanh())
    return Block(lambda m, x: checkpoint.checkpoint_sequential(m.inner, 2, x, use_reentrant=False), inner=inner)


@idiom("vector")
def checkpointed_reads_parent(s: Shape) -> nn.Module:
    """What is checkpointed is a closure that reads the module's parameters when it runs, also in the backward pass."""
    return Block(
        lambda m, x: checkpoint.checkpoint(lambda z: torch.tanh(z @ m.weight), x, use_reentrant=False),
        weight=parameter(s.features, s.features),
    )
