"""A mini-batch with its model and loss: its passes, micro-batch by micro-batch, on one process or on several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves, tree_map

from landscape.ranks import Ranks

Forward = Callable[[nn.Module, Any], Any]
LossFn = Callable[[Any, Any], Tensor]


class MicroBatch(NamedTuple):
    """One micro-batch: rows ``start…stop`` of the batch and their share of it."""

    x: Any
    y: Any
    start: int
    stop: int
    share: float


class MiniBatch:
    """One mini-batch together with the model and the loss it is trained on.

    It knows how to run a forward pass (``no_sync`` under DistributedDataParallel where asked, the caller's autocast
    left on) and a backward pass (autocast off, loss scaled), micro-batch by micro-batch.

    With ``ranks``, the batch is that of all these processes, of which this one has some rows, those of lower ranks
    before it; then ``start`` is the place of its first row, ``size`` the rows of all, and means are over all.

    Raises:
        ValueError: ``microbatches`` is not in 1…batch size, or the loss is not a plain mean over the rows, so that the
            micro-batches' losses, or the processes', would not add up to the batch's.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward | None,
        x: Any,
        y: Any,
        loss_fn: LossFn,
        microbatches: int,
        scale: float,
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks, self.start, self.weight = ranks, 0, 1.0
        if ranks is not None:
            check_plain_mean(loss_fn, y, "leave synchronised out")
            sizes = ranks.gather(len(tree_leaves(y)[0]))
            if not all(sizes):
                raise ValueError(f"the processes have batches of {sizes} rows, expected at least one on each")
            self.start, self.size = sum(sizes[: ranks.rank]), sum(sizes)
            self.stop = self.start + sizes[ranks.rank]
            self.weight = sizes[ranks.rank] * ranks.size / self.size  # of its mean in the mean over processes
        self.model, self.x, self.y, self.loss_fn, self.scale = model, x, y, loss_fn, scale
        self._forward = forward
        self._ddp = model if isinstance(model, DistributedDataParallel) else None
        self._device = device
        self.autocast = torch.is_autocast_enabled(device.type)
        self._low = torch.get_autocast_dtype(device.type) if self.autocast else None
        self.parts = [MicroBatch(x, y, 0, -1, 1.0)] if microbatches == 1 else _split(x, y, loss_fn, microbatches)

    def forward(self, x: Any, *, sync: bool) -> Any:
        """Outputs of the model for ``x``; only with ``sync`` will DDP reduce the gradients of the backward pass."""
        if self._ddp is not None and not sync:
            with self._ddp.no_sync():  # DDP decides in the forward pass whether the backward pass will reduce
                return self._run(x)
        return self._run(x)

    def _run(self, x: Any) -> Any:
        return self.model(x) if self._forward is None else self._forward(self.model, x)

    def loss(self, outputs: Any, y: Any, loss_fn: LossFn | None = None) -> Tensor:
        """The scalar loss of ``outputs`` against ``y``."""
        loss = (loss_fn or self.loss_fn)(outputs, y)
        if loss.dim():
            raise ValueError(f"loss_fn returned shape {tuple(loss.shape)}, expected a scalar; use reduction='mean'")
        return loss

    def gradient(self, loss: Tensor, params: Sequence[Tensor], *, retain_graph: bool) -> list[Tensor | None]:
        """Gradients of ``scale · loss``, None where a parameter took no part; touches no ``.grad``."""
        with self.full_precision():
            return list(
                torch.autograd.grad(
                    loss * self.scale if self.scale != 1.0 else loss,
                    params,
                    retain_graph=retain_graph,
                    allow_unused=True,
                )
            )

    def full_precision(self) -> AbstractContextManager[Any]:
        """Autocast is for forward passes: backward passes and vector arithmetic run outside it."""
        return torch.autocast(self._device.type, enabled=False) if self.autocast else nullcontext()

    def callers_precision(self) -> AbstractContextManager[Any]:
        """The autocast that ``step`` was called in, for a forward pass or a loss while :meth:`full_precision` is on."""
        return torch.autocast(self._device.type, dtype=self._low) if self.autocast else nullcontext()

    def forget_casts(self) -> None:
        """Drop autocast's cached low-precision weights: they do not notice that the weights were changed in place."""
        if self.autocast:
            torch.clear_autocast_cache()

    def descend(self) -> tuple[Tensor, Any]:
        """Forward and backward into ``.grad`` (reduced over DDP ranks); the mean loss and the detached outputs."""
        last = len(self.parts) - 1
        losses, outputs = [], []
        for j, part in enumerate(self.parts):
            with self._accumulating() if j < last else nullcontext():
                out = self._run(part.x)
                loss = self.loss(out, part.y)
                share = loss if last == 0 else loss * part.share
                scale = self.scale * self.weight
                with self.full_precision():
                    (share * scale if scale != 1.0 else share).backward()
            losses.append(share.detach())
            outputs.append(out)
        return self.mean(total(losses)), join(outputs)

    def mean(self, own: Tensor) -> Tensor:
        """Of a mean over this process's rows, that over all rows of the batch."""
        return own if self.ranks is None else self.ranks.total(own * (self.weight / self.ranks.size))

    def gathered(self, own: Any) -> Any:
        """The rows of all processes of every tensor in a nested structure."""
        ranks = self.ranks
        return own if ranks is None else tree_map(lambda t: ranks.rows(t) if isinstance(t, Tensor) else t, own)

    def _accumulating(self) -> AbstractContextManager[Any]:
        return self._ddp.no_sync() if self._ddp is not None else nullcontext()

    def any_rank(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any DDP rank: ranks must skip a step together or wait for each other for ever."""
        if self._ddp is None:
            return flag
        shared = torch.tensor(float(flag), device=self._device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX, group=self._ddp.process_group)
        return bool(shared.item())


def take(tree: Any, index: Tensor | slice) -> Any:
    """Rows ``index`` of every tensor in a tensor, mapping, tuple or list; scalars stay as they are.

    >>> take({"ids": torch.arange(4), "scale": torch.tensor(2.0)}, slice(1, 3))
    {'ids': tensor([1, 2]), 'scale': tensor(2.)}
    """
    if isinstance(tree, Tensor):
        return tree[index] if tree.dim() else tree
    if isinstance(tree, Mapping):
        return {key: take(value, index) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(take(value, index) for value in tree)
    return tree


def join(outputs: list[Any]) -> Any:
    """Detached outputs of the whole batch: tensors, mappings, tuples and lists of them are joined along the rows."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return first.detach() if len(outputs) == 1 or not first.dim() else torch.cat([o.detach() for o in outputs])
    if isinstance(first, Mapping):
        return {key: join([o[key] for o in outputs]) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(join(list(column)) for column in zip(*outputs, strict=True))
    return first


def _split(x: Any, y: Any, loss_fn: LossFn, microbatches: int) -> list[MicroBatch]:
    size = len(y)
    if not isinstance(microbatches, int) or not 1 <= microbatches <= size:
        raise ValueError(f"microbatches is {microbatches!r}, expected an integer in 1…{size} (the batch size)")
    check_plain_mean(loss_fn, y, "use microbatches=1")
    edges = [size * j // microbatches for j in range(microbatches + 1)]
    return [MicroBatch(take(x, slice(a, b)), take(y, slice(a, b)), a, b, (b - a) / size) for a, b in pairwise(edges)]


def check_plain_mean(loss_fn: LossFn, y: Any, instead: str) -> None:
    """A ValueError, ending in what to do ``instead``, where parts of a batch would not add up to its loss."""
    reduction = getattr(loss_fn, "reduction", "mean")
    ignored = getattr(loss_fn, "ignore_index", None)
    why = None
    if reduction != "mean":
        why = f"reduction={reduction!r}"
    elif getattr(loss_fn, "weight", None) is not None:
        why = "class weights"
    elif ignored is not None and isinstance(y, Tensor) and bool((y == ignored).any()):
        why = f"rows with ignore_index={ignored}"
    if why is not None:
        raise ValueError(f"the loss has {why}, expected a plain mean over the rows; {instead}")


def total(losses: list[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()
