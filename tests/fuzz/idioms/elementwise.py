"""Activations and special functions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fuzz.registry import Block, Shape, add, idiom, linear, parameter

_ONCE = dict.fromkeys(("hessian*", "ggn*", "fisher*", "eigenpairs*", "trace*"), "derivative for .*hardsigmoid_backward")
_ACTIVATIONS = {
    name: getattr(nn, name)
    for name in (
        "CELU", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish", "PReLU",
        "ReLU", "ReLU6", "RReLU", "SELU", "Sigmoid", "SiLU", "Softplus", "Softsign", "Tanh", "Tanhshrink",
    )
} | {
    "Hardshrink": lambda: nn.Hardshrink(0.2),
    "Softshrink": lambda: nn.Softshrink(0.2),
    "Threshold": lambda: nn.Threshold(0.1, 0.4),
    "GELU_tanh": lambda: nn.GELU("tanh"),
    "PReLU_each": lambda: nn.PReLU(4),
    "Dropout": lambda: nn.Dropout(0.4),
    "AlphaDropout": lambda: nn.AlphaDropout(0.2),
    "Identity": lambda: nn.Identity(),
}  # fmt: skip

for _name, _make in _ACTIVATIONS.items():
    add(
        f"activation.{_name}",
        "vector",
        (lambda make: lambda s: nn.Sequential(linear(s), make(), linear(s)))(_make),
        _ONCE if _name == "Hardsigmoid" else None,
    )

_SPECIAL = {
    "erf": torch.erf,
    "erfinv": lambda t: torch.erfinv(0.5 * t.tanh()),
    "lgamma": lambda t: torch.lgamma(t.exp() + 0.5),
    "digamma": lambda t: torch.digamma(t.exp() + 1),
    "bessel_i0e": lambda t: torch.special.i0e(t),
    "xlogy": lambda t: torch.xlogy(t.sigmoid(), t.exp() + 0.2),
    "sinc": torch.sinc,
    "atan2": lambda t: torch.atan2(t, t.flip(1) + 3),
    "hypot": lambda t: torch.hypot(t, torch.ones_like(t)),
    "logaddexp": lambda t: torch.logaddexp(t, t.flip(1)),
    "remainder": lambda t: torch.remainder(t, 2.0) * 0.5,
    "frac": torch.frac,
    "sign": lambda t: t * t.sign(),
    "abs": torch.abs,
    "maximum": lambda t: torch.maximum(t, t.flip(1)),
    "where_sqrt": lambda t: torch.where(t > 0.5, t.clamp(min=0.5).sqrt(), t),
    "rsqrt": lambda t: t * (t.square() + 0.5).rsqrt(),
    "expm1_log1p": lambda t: torch.expm1(0.3 * t) + torch.log1p(t.square()),
    "logit": lambda t: torch.logit(0.9 * t.sigmoid() + 0.05),
    "pow": lambda t: (t.abs() + 0.5) ** 1.7,
    "tensor_power": lambda t: (t.abs() + 0.5) ** t.sigmoid(),
    "addcmul": lambda t: torch.addcmul(t, t, t.flip(1), value=0.3),
    "addcdiv": lambda t: torch.addcdiv(t, t, t.square() + 1, value=0.4),
    "lerp": lambda t: torch.lerp(t, t.flip(1), t.sigmoid()),
    "clamp_by_tensor": lambda t: t.clamp(min=t.flip(1) - 0.5),
    "heaviside": lambda t: t * torch.heaviside(t.detach(), torch.zeros((), dtype=t.dtype)),
    "acosh": lambda t: torch.acosh(t.square() + 1.5),
    "tan": lambda t: torch.tan(t.tanh()),
    "copysign": lambda t: torch.copysign(t, t.flip(1)),
    "multigammaln": lambda t: torch.mvlgamma(t.exp() + 1.0, 2) * 0.3,
    "complex_square": lambda t: torch.view_as_real(torch.complex(t, t.flip(1)) ** 2).sum(-1) * 0.4,
}

for _name, _apply in _SPECIAL.items():
    add(
        f"special.{_name}",
        "vector",
        (lambda apply: lambda s: Block(lambda m, x: m.after(apply(m.layer(x))), layer=linear(s), after=linear(s)))(
            _apply
        ),
    )


@idiom("vector sequence")
def gated_linear_unit(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.down(F.silu(m.up(x)) * m.gate(x)), up=linear(s), gate=linear(s), down=linear(s))


@idiom("vector")
def learned_spline(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        basis = torch.exp(-((x[..., None] - torch.linspace(-1, 1, 3, dtype=x.dtype)) ** 2))
        return torch.einsum("nik,iko->no", basis, m.weights) + x

    return Block(run, weights=parameter(s.features, 3, s.features, scale=0.3))


@idiom("vector")
def fourier_features(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(torch.cat([(x @ m.frequencies).sin(), (x @ m.frequencies).cos()], -1)),
        frequencies=torch.randn(s.features, 2),
        layer=nn.Linear(4, s.features),
    )


@idiom("vector")
def snake(s: Shape) -> nn.Module:
    return Block(lambda m, x: x + (m.rate * x).sin().square() / (m.rate.abs() + 0.5), rate=parameter(s.features))
