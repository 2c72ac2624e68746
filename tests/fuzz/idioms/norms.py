"""Normalisation layers in usual and unusual places."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fuzz.registry import NOT_THE_SLOPE, Block, Shape, conv, idiom, linear, parameter

_BATCH = {"*": "batch|statistics|BatchNorm"}


def _bn(s: Shape, **options: object) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(s.features, **options)  # type: ignore[arg-type]


@idiom("vector")
def batchnorm_after_linear(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), _bn(s), nn.Tanh())


@idiom("vector")
def batchnorm_twice_in_a_row(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), _bn(s), nn.ReLU(), linear(s), _bn(s), nn.ReLU())


@idiom("vector")
def batchnorm_before_linear(s: Shape) -> nn.Module:
    return nn.Sequential(_bn(s), linear(s))


@idiom("vector")
def batchnorm_after_batchnorm(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), _bn(s), _bn(s))


@idiom("vector")
def batchnorm_not_affine(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s, bias=False), _bn(s, affine=False), nn.SiLU())


@idiom("vector")
def batchnorm_with_frozen_affine(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), _bn(s).requires_grad_(False), nn.Tanh())


@idiom("vector")
def batchnorm_after_frozen_linear(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s).requires_grad_(False), _bn(s), nn.Tanh())


@idiom("vector")
def batchnorm_after_residual(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.norm(x + m.layer(x)), layer=linear(s), norm=_bn(s))


@idiom("vector")
def batchnorm_fed_twice(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.norm(m.layer(x)).tanh() + m.norm(x), layer=linear(s), norm=_bn(s))


@idiom("vector")
def batchnorm_shared_by_two_layers(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.norm(m.a(x)).tanh() + m.norm(m.b(x)).sin(), a=linear(s), b=linear(s), norm=_bn(s))


@idiom("vector")
def linear_into_two_batchnorms(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        return m.first(out).tanh() * m.second(out)

    return Block(run, layer=linear(s), first=_bn(s), second=_bn(s))


@idiom("vector")
def linear_used_beside_its_batchnorm(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        return m.norm(out).tanh() + 0.5 * out

    return Block(run, layer=linear(s), norm=_bn(s))


@idiom("vector")
def batchnorm_weight_read_elsewhere(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.norm(m.layer(x)).tanh() * m.norm.weight + m.layer.bias, layer=linear(s), norm=_bn(s))


@idiom("vector")
def batchnorm_of_a_slice(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: torch.cat([m.norm(m.layer(x)[:, :2]), x[:, 2:]], 1), layer=linear(s), norm=nn.BatchNorm1d(2)
    )


@idiom("vector")
def batchnorm_after_a_write(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        out += x
        return m.norm(out).tanh()

    return Block(run, layer=linear(s), norm=_bn(s))


@idiom("vector", refuses=NOT_THE_SLOPE)
def batchnorm_after_a_write_into_detached_memory(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        out.detach()[:, 0] = 0.5
        return m.norm(out).tanh()

    return Block(run, layer=linear(s), norm=_bn(s))


@idiom("vector")
def batchnorm_of_a_gated_choice(s: Shape) -> nn.Module:
    """Takes the layer's output or the input, by a parameter that is zero at the centre."""

    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        return m.norm(torch.where(m.gate > 0.05, out.cos(), out)).tanh() + m.gate

    return Block(run, layer=linear(s), norm=_bn(s), gate=nn.Parameter(torch.zeros(())))


@idiom("vector")
def batchnorm_chosen_by_a_parameter(s: Shape) -> nn.Module:
    """Runs the norm on the layer's output at the centre, without it where a parameter has moved."""

    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        return (m.norm(out) if float(m.gate) < 0.05 else out).tanh() + m.gate

    return Block(run, layer=linear(s), norm=_bn(s), gate=nn.Parameter(torch.zeros(())))


@idiom("vector")
def batchnorm_by_position_in_batch(s: Shape) -> nn.Module:
    """Rows go through the norm or not, by their own content."""

    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        return torch.where(x[:, :1] > 0, m.norm(out), out).tanh()

    return Block(run, layer=linear(s), norm=_bn(s))


@idiom("vector")
def batchnorm_with_cumulative_average(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), _bn(s, momentum=None), nn.Tanh())


@idiom("vector", refuses=_BATCH)
def batchnorm_without_statistics(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), _bn(s, track_running_stats=False), nn.Tanh())


@idiom("vector")
def batchnorm_written_out(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        return F.batch_norm(m.layer(x), m.mean, m.var, m.weight, m.bias, False)

    held = {"mean": torch.randn(s.features), "var": torch.rand(s.features) + 0.5}
    return Block(run, layer=linear(s), weight=parameter(s.features), bias=parameter(s.features), **held)


class KeptInEval(nn.Module):
    """A norm whose module overrides ``train`` to keep it in eval mode, as detection models do."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.layer, self.norm = linear(s), _bn(s)

    def train(self, mode: bool = True) -> KeptInEval:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)).tanh()


@idiom("vector")
def batchnorm_kept_in_eval(s: Shape) -> nn.Module:
    return KeptInEval(s).train()


@idiom("sequence")
def batchnorm_over_tokens(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.norm(m.layer(x).transpose(1, 2)).transpose(1, 2).tanh(), layer=linear(s), norm=_bn(s))


@idiom("sequence")
def batchnorm_with_length_as_channels(s: Shape) -> nn.Module:
    """The norm's channels are dim 1, the tokens, which the linear layer before it does not know of."""
    return nn.Sequential(linear(s), nn.BatchNorm1d(s.length), nn.Tanh())


@idiom("sequence")
def batchnorm_of_flattened_tokens(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.norm(m.layer(x).flatten(0, 1)).unflatten(0, x.shape[:2]).tanh(), layer=linear(s), norm=_bn(s)
    )


@idiom("sequence")
def batchnorm_after_conv1d(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.norm(m.layer(x.transpose(1, 2))).relu().transpose(1, 2),
        layer=nn.Conv1d(s.features, s.features, 3, padding=1),
        norm=_bn(s),
    )


@idiom("image")
def batchnorm_after_conv(s: Shape) -> nn.Module:
    return nn.Sequential(conv(s), nn.BatchNorm2d(s.channels), nn.ReLU(inplace=True))


@idiom("image")
def batchnorm_before_conv(s: Shape) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(s.channels), nn.Tanh(), conv(s))


@idiom("image")
def batchnorm_after_transposed_conv(s: Shape) -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(s.channels, s.channels, 3, padding=1), nn.BatchNorm2d(s.channels), nn.SiLU()
    )


@idiom("image")
def batchnorm_after_grouped_conv(s: Shape) -> nn.Module:
    return nn.Sequential(conv(s, groups=s.channels, bias=False), nn.BatchNorm2d(s.channels), nn.SiLU())


@idiom("image")
def batchnorm_of_residual_block(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = F.relu(m.norm1(m.conv1(x)), inplace=True)
        out = m.norm2(m.conv2(out))
        out += x
        return out.tanh()

    n = s.channels
    return Block(run, conv1=conv(s), norm1=nn.BatchNorm2d(n), conv2=conv(s, 1), norm2=nn.BatchNorm2d(n))


@idiom("image")
def batchnorm3d_after_conv3d(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.norm(m.layer(x[:, None])).tanh()[:, 0],
        layer=nn.Conv3d(1, 1, (1, 3, 3), padding=(0, 1, 1)),
        norm=nn.BatchNorm3d(1),
    )


@idiom("image")
def batchnorm_of_flattened_image(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.norm(m.layer(x).flatten(2)).unflatten(2, x.shape[2:]),
        layer=conv(s),
        norm=nn.BatchNorm1d(s.channels),
    )


@idiom("vector sequence")
def layernorm(s: Shape) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(s.features), linear(s), nn.GELU())


@idiom("vector")
def layernorm_after_linear_without_affine(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), nn.LayerNorm(s.features, elementwise_affine=False))


@idiom("sequence")
def layernorm_over_two_dims(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), nn.LayerNorm((s.length, s.features)))


@idiom("image")
def layernorm_over_image(s: Shape) -> nn.Module:
    return nn.Sequential(conv(s), nn.LayerNorm((s.channels, s.height, s.width)), nn.Tanh())


@idiom("image")
def layernorm_over_channels(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: x + m.norm(m.layer(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        layer=conv(s, groups=s.channels),
        norm=nn.LayerNorm(s.channels),
    )


@idiom("vector sequence")
def layernorm_without_bias(s: Shape) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(s.features, bias=False), linear(s))


@idiom("vector")
def groupnorm_of_vectors(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), nn.GroupNorm(2, s.features), nn.Tanh())


@idiom("image")
def groupnorm(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.norm(m.layer(x).contiguous()).relu(), layer=conv(s), norm=nn.GroupNorm(s.channels, s.channels)
    )


@idiom("image")
def groupnorm_without_affine(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: x + m.norm(m.layer(x).contiguous()),
        layer=conv(s),
        norm=nn.GroupNorm(1, s.channels, affine=False),
    )


@idiom("image")
def instancenorm(s: Shape) -> nn.Module:
    return nn.Sequential(conv(s), nn.InstanceNorm2d(s.channels, affine=True), nn.Tanh())


@idiom("image")
def instancenorm_without_affine(s: Shape) -> nn.Module:
    return nn.Sequential(conv(s), nn.InstanceNorm2d(s.channels), nn.Tanh())


@idiom("image")
def instancenorm_with_statistics(s: Shape) -> nn.Module:
    return nn.Sequential(conv(s), nn.InstanceNorm2d(s.channels, affine=True, track_running_stats=True), nn.Tanh())


@idiom("vector sequence")
def rmsnorm(s: Shape) -> nn.Module:
    return nn.Sequential(nn.RMSNorm(s.features), linear(s), nn.SiLU())


@idiom("vector")
def rmsnorm_after_linear(s: Shape) -> nn.Module:
    return nn.Sequential(linear(s), nn.RMSNorm(s.features, eps=1e-3, elementwise_affine=False))


@idiom("image")
def local_response_norm(s: Shape) -> nn.Module:
    return nn.Sequential(conv(s), nn.LocalResponseNorm(2, alpha=0.5))


@idiom("vector sequence")
def unit_length_features(s: Shape) -> nn.Module:
    return Block(lambda m, x: F.normalize(m.layer(x), dim=-1) * m.scale, layer=linear(s), scale=parameter(1))


@idiom("image")
def standardised_weights(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        w = m.layer.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-3)
        return F.conv2d(x, w, m.layer.bias, padding=1).tanh()

    return Block(run, layer=conv(s))


@idiom("vector")
def conditional_batchnorm(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.norm(m.layer(x)) * (1 + m.gamma(x)) + m.beta(x),
        layer=linear(s),
        norm=_bn(s, affine=False),
        gamma=linear(s),
        beta=linear(s),
    )


@idiom("vector")
def batchnorm_replaced_forward(s: Shape) -> nn.Module:
    """The user has set a ``forward`` of its own on the instance."""
    layer, norm = linear(s), _bn(s)
    layer.forward = lambda x: F.linear(x, layer.weight, layer.bias) * 2  # type: ignore[method-assign]
    return _Closed(layer, norm)


class _Closed(nn.Module):
    """A layer with a replaced ``forward`` that refers to the layer itself, so that copies rebind it."""

    def __init__(self, layer: nn.Linear, norm: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm

    def __deepcopy__(self, memo: dict[int, object]) -> _Closed:
        with torch.random.fork_rng():
            layer = nn.Linear(self.layer.in_features, self.layer.out_features).to(self.layer.weight)
        layer.load_state_dict(self.layer.state_dict())
        layer.forward = lambda x: F.linear(x, layer.weight, layer.bias) * 2  # type: ignore[method-assign]
        norm = nn.BatchNorm1d(self.layer.out_features).to(self.layer.weight)
        norm.load_state_dict(self.norm.state_dict())
        return _Closed(layer, norm).train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)).tanh()
