"""BatchNorm over a batch that lies on several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from landscape.ranks import Ranks


class BatchNormOverRanks(TorchFunctionMode):
    """Context in which ``functional.batch_norm``, and so ``nn.BatchNorm*d``, normalises over all processes' samples.

    ``nn.SyncBatchNorm`` does so on accelerators only. Modules are left as they are; in eval mode nothing differs.
    Gradients go through the statistics to the samples of every process, so that all processes must go back through
    the graph together.

    Args:
        ranks: the processes, each of which runs the same model on its own samples, at least one.
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func``, or what stands for it here."""
        if func is functional.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        number = wide.new_full((1,), x.numel() / x.shape[1], dtype=torch.float64)
        added = self._total(torch.cat([wide.sum(axes, dtype=torch.float64), number]))
        sums, count = added.split([x.shape[1], 1])
        if count.item() <= 1:
            raise ValueError(f"BatchNorm needs more than one value per channel to train, got {int(count.item())}")
        mean = sums / count
        centred = wide - mean.to(wide.dtype).view(shape)
        variance = self._total(centred.square().sum(axes, dtype=torch.float64)) / count
        found = centred * torch.rsqrt(variance + eps).to(wide.dtype).view(shape)
        if weight is not None:
            found = found * weight.view(shape)
        if bias is not None:
            found = found + bias.view(shape)
        with torch.no_grad():
            unbiased = variance * (count / (count - 1))
            for running, seen in ((running_mean, mean), (running_var, unbiased)):
                if running is not None:
                    running.lerp_(seen.to(running.dtype), momentum)
        return found.to(x.dtype)

    def _total(self, own: Tensor) -> Tensor:
        found: Tensor = _Total.apply(own, self._ranks)
        return found


class _Total(torch.autograd.Function):
    """The sum over processes; what is done with it on each of them adds to the gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.total(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        found: Tensor = ctx.ranks.total(gradient)
        return found, None
