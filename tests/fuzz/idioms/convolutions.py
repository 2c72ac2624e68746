"""Convolutions, pooling and other operations on images and on sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fuzz.registry import Block, Shape, add, conv, idiom, linear, parameter


@idiom("image")
def convolution(s: Shape) -> nn.Module:
    return nn.Sequential(conv(s), nn.ReLU())


for _mode in ("circular", "reflect", "replicate"):
    add(
        f"padding_{_mode}",
        "image",
        (lambda mode: lambda s: nn.Sequential(conv(s, padding_mode=mode), nn.Tanh()))(_mode),
    )


@idiom("image")
def padding_same_dilated(s: Shape) -> nn.Module:
    return nn.Sequential(nn.Conv2d(s.channels, s.channels, (2, 3), padding="same", dilation=2), nn.Tanh())


@idiom("image")
def depthwise_separable(s: Shape) -> nn.Module:
    return nn.Sequential(conv(s, groups=s.channels, bias=False), nn.SiLU(), conv(s, 1))


@idiom("image")
def strided_and_back(s: Shape) -> nn.Module:
    n = s.channels
    return Block(
        lambda m, x: m.up(m.down(x).tanh(), output_size=x.shape[2:]),
        down=nn.Conv2d(n, n, 2, stride=2),
        up=nn.ConvTranspose2d(n, n, 2, stride=2),
    )


@idiom("image")
def transposed_grouped(s: Shape) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(s.channels, s.channels, 3, padding=1, groups=s.channels), nn.Tanh())


@idiom("image")
def unet(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        skip = m.first(x).tanh()
        deep = m.deep(F.max_pool2d(skip, 2))
        up = F.interpolate(deep, size=x.shape[2:], mode="bilinear", align_corners=False)
        return m.last(torch.cat([skip, up], 1))

    n = s.channels
    return Block(run, first=conv(s), deep=conv(s), last=nn.Conv2d(2 * n, n, 1))


@idiom("image")
def dense_block(s: Shape) -> nn.Module:
    n = s.channels
    return Block(lambda m, x: m.b(torch.cat([x, m.a(x).relu()], 1)), a=conv(s), b=nn.Conv2d(2 * n, n, 1))


@idiom("image")
def squeeze_and_excitation(s: Shape) -> nn.Module:
    n = s.channels
    return Block(
        lambda m, x: x * m.b(m.a(x.mean((2, 3))).relu()).sigmoid()[..., None, None],
        a=nn.Linear(n, 2),
        b=nn.Linear(2, n),
    )


@idiom("image")
def channel_shuffle(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(F.channel_shuffle(m.layer(x), 2)), layer=conv(s, 1))


@idiom("image")
def pixel_shuffle(s: Shape) -> nn.Module:
    n = s.channels
    return Block(
        lambda m, x: F.pixel_unshuffle(F.pixel_shuffle(m.wide(x), 2).sin(), 2)[:, ::4],
        wide=nn.Conv2d(n, 4 * n, 1),
    )


@idiom("image")
def unfold_and_fold(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        patches = F.unfold(x, 3, padding=1)
        return F.fold(torch.tanh(patches * m.weight), x.shape[2:], 3, padding=1)

    return Block(run, weight=parameter(9 * s.channels, 1))


@idiom("image")
def grid_sample(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        grid = F.affine_grid(m.theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    return Block(run, theta=nn.Parameter(torch.tensor([[0.9, 0.05, 0.03], [-0.04, 0.85, 0.02]])))


@idiom("image")
def deformable(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        ys, xs = torch.meshgrid(*(torch.linspace(-0.9, 0.9, k, dtype=x.dtype) for k in x.shape[2:]), indexing="ij")
        grid = torch.stack([xs, ys], -1) + 0.1 * m.offsets(x).tanh().permute(0, 2, 3, 1)
        return F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=True)

    return Block(run, offsets=nn.Conv2d(s.channels, 2, 1))


@idiom("image")
def dynamic_convolution(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernels = m.maker(x.mean((2, 3))).view(n * c, 1, 3, 3)
        return F.conv2d(x.reshape(1, n * c, h, w), kernels, padding=1, groups=n * c).view(n, c, h, w)

    return Block(run, maker=nn.Linear(s.channels, 9 * s.channels))


@idiom("image")
def channels_last_inside(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(x.contiguous(memory_format=torch.channels_last)).tanh().contiguous(), layer=conv(s)
    )


@idiom("image")
def max_unpool(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        pooled, places = F.max_pool2d(m.layer(x), 2, ceil_mode=True, return_indices=True)
        return F.max_unpool2d(pooled, places, 2, output_size=x.shape[2:]) + x

    return Block(run, layer=conv(s))


_POOLS = {
    "max": lambda: nn.MaxPool2d(2, stride=1),
    "max_dilated": lambda: nn.MaxPool2d(2, stride=1, dilation=2),
    "avg": lambda: nn.AvgPool2d(2, stride=1),
    "avg_without_padding": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "lp": lambda: nn.LPPool2d(2, 2, stride=1),
    "adaptive_max": lambda: nn.AdaptiveMaxPool2d((2, 3)),
    "adaptive_avg": lambda: nn.AdaptiveAvgPool2d((3, 2)),
    "global": lambda: nn.AdaptiveAvgPool2d(1),
}

for _name, _make in _POOLS.items():
    add(
        f"pool.{_name}",
        "image",
        (
            lambda make: (
                lambda s: Block(
                    lambda m, x: x + F.interpolate(m.pool(m.layer(x)), size=x.shape[2:]), layer=conv(s), pool=make()
                )
            )
        )(_make),
    )


for _mode in ("nearest", "bilinear", "bicubic", "area"):
    add(
        f"interpolate_{_mode}",
        "image",
        (
            lambda mode: (
                lambda s: Block(
                    lambda m, x: F.interpolate(
                        F.interpolate(m.layer(x), size=(6, 7), mode=mode).tanh(), size=x.shape[2:], mode=mode
                    ),
                    layer=conv(s),
                )
            )
        )(_mode),
    )


@idiom("image")
def dropout_of_channels(s: Shape) -> nn.Module:
    return nn.Sequential(conv(s), nn.Dropout2d(0.3), nn.Tanh())


@idiom("image")
def spectral_convolution(s: Shape) -> nn.Module:
    """Multiplies Fourier modes by learned complex numbers, stored as real ones."""

    def run(m: Block, x: Tensor) -> Tensor:
        modes = torch.fft.rfft2(x)
        return torch.fft.irfft2(modes * torch.view_as_complex(m.weight.to(x.dtype)), s=x.shape[2:]) + x

    return Block(run, weight=parameter(s.channels, 1, 1, 2))


@idiom("image")
def fourier_magnitude(s: Shape) -> nn.Module:
    return Block(lambda m, x: torch.fft.fft2(m.layer(x)).abs().log1p(), layer=conv(s))


@idiom("image")
def conv3d_over_channels(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(x[:, None])[:, 0].tanh(), layer=nn.Conv3d(1, 1, (1, 3, 3), padding=(0, 1, 1)))


@idiom("image")
def depth_to_linear(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(x.permute(0, 2, 3, 1)).tanh().permute(0, 3, 1, 2), layer=nn.Linear(s.channels, s.channels)
    )


@idiom("sequence")
def conv1d_causal(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(F.pad(x.transpose(1, 2), (1, 0))).transpose(1, 2).tanh(),
        layer=nn.Conv1d(s.features, s.features, 2),
    )


@idiom("sequence")
def conv1d_depthwise(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(x.transpose(1, 2)).transpose(1, 2),
        layer=nn.Conv1d(s.features, s.features, 3, padding=1, groups=s.features),
    )


@idiom("sequence")
def conv_transpose1d(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(x.transpose(1, 2)).transpose(1, 2),
        layer=nn.ConvTranspose1d(s.features, s.features, 3, padding=1, groups=2),
    )


@idiom("sequence")
def mixer(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: F.gelu(m.features(x + m.tokens(x.transpose(1, 2)).transpose(1, 2))),
        tokens=nn.Linear(s.length, s.length),
        features=linear(s),
    )


@idiom("sequence")
def fourier_mixing(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(torch.fft.fft2(x, dim=(1, 2)).real * 0.3), layer=linear(s))


@idiom("sequence")
def max_pool1d(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: x + F.max_pool1d(m.layer(x).transpose(1, 2), 2, 1, 1)[..., 1:].transpose(1, 2), layer=linear(s)
    )
