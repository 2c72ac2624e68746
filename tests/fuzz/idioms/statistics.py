"""Order statistics, sums and transforms along a dim."""

from __future__ import annotations

import torch
from torch import nn

from tests.fuzz.registry import Block, add, linear

_ALONG = {
    "quantile": lambda t: t.quantile(0.3, dim=-1, keepdim=True) + t,
    "nanquantile": lambda t: t.nanquantile(0.6, dim=-1, keepdim=True) * t,
    "sort": lambda t: t.sort(-1).values.sin(),
    "argsort_gather": lambda t: t.gather(-1, t.argsort(-1, descending=True)) * 0.5,
    "topk": lambda t: t.topk(2, -1).values.sum(-1, keepdim=True) * t,
    "median": lambda t: t - t.median(-1, keepdim=True).values,
    "nanmedian": lambda t: t + t.nanmedian(-1, keepdim=True).values,
    "kthvalue": lambda t: t * t.kthvalue(2, -1, keepdim=True).values,
    "mode": lambda t: t + t.mode(-1, keepdim=True).values,
    "cumsum": lambda t: t.cumsum(-1).tanh(),
    "cumprod": lambda t: t.cumprod(-1).tanh(),
    "cummax": lambda t: t.cummax(-1).values,
    "logcumsumexp": lambda t: t.logcumsumexp(-1),
    "logsumexp": lambda t: t - t.logsumexp(-1, keepdim=True),
    "amax": lambda t: t - t.amax(-1, keepdim=True),
    "max_min": lambda t: t.max(-1, keepdim=True).values - t.min(-1, keepdim=True).values + t,
    "aminmax": lambda t: (t - t.aminmax(dim=-1, keepdim=True).min) / 2,
    "std": lambda t: t / (t.std(-1, keepdim=True) + 0.1),
    "var_mean": lambda t: (lambda f: (t - f[1]) * f[0])(torch.var_mean(t, -1, keepdim=True)),
    "prod": lambda t: t + t.prod(-1, keepdim=True),
    "norm": lambda t: t / t.norm(dim=-1, keepdim=True),
    "norm_p3": lambda t: t / torch.linalg.vector_norm(t, 3, -1, keepdim=True),
    "diff": lambda t: torch.cat([t[..., :1], t.diff(dim=-1)], -1),
    "softmax": lambda t: t.softmax(-1) * 3,
    "log_softmax": lambda t: t.log_softmax(-1),
    "softmin": lambda t: nn.functional.softmin(t, -1) * 2,
    "glu": lambda t: nn.functional.glu(torch.cat([t, t.flip(-1)], -1), -1),
    "renorm": lambda t: t.renorm(2, 0, 1.0),
    "rfft": lambda t: torch.fft.irfft(torch.fft.rfft(t) * 0.7, n=t.shape[-1]).sin(),
    "fft_magnitude": lambda t: torch.fft.fft(t).abs() * 0.4,
    "hfft": lambda t: torch.fft.ihfft(t).real.repeat_interleave(2, -1)[..., : t.shape[-1]],
    "dct_by_matmul": lambda t: t @ torch.ones(t.shape[-1], t.shape[-1], dtype=t.dtype).tril() * 0.3,
    "angle": lambda t: torch.view_as_real(torch.polar(t.exp(), t)).sum(-1) * 0.3,
    "unflatten": lambda t: t.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2),
    "histogram_soft": lambda t: torch.exp(-((t[..., None] - torch.linspace(-1, 1, 3, dtype=t.dtype)) ** 2)).sum(-1),
    "trace_of_outer": lambda t: t * torch.einsum("...i,...i->...", t, t)[..., None].sqrt(),
    "entropy": lambda t: t + torch.special.entr(t.softmax(-1)).sum(-1, keepdim=True),
    "masked_mean": lambda t: t + (t * (t > 0)).sum(-1, keepdim=True) / ((t > 0).sum(-1, keepdim=True) + 1),
    "nan_to_num": lambda t: t.nan_to_num(0.0),
    "count_nonzero": lambda t: t / (t > 0).count_nonzero(-1)[..., None].clamp(min=1),
    "segment_sum": lambda t: t + torch.stack([t[..., :2].sum(-1), t[..., 2:].sum(-1)], -1).repeat_interleave(2, -1),
}

_REFUSES = {
    "logcumsumexp": {"*": "not finite"}
}  # its second derivative takes the logarithm of cotangents, which may be 0

for _name, _apply in _ALONG.items():
    for _kind in ("vector", "sequence"):
        add(
            f"along.{_name}.{_kind}",
            _kind,
            (lambda apply: lambda s: Block(lambda m, x: m.after(apply(m.layer(x))), layer=linear(s), after=linear(s)))(
                _apply
            ),
            _REFUSES.get(_name),
        )
