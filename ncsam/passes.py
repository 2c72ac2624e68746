"""The forward and backward passes of one training step, and what a perturbation may learn from the first of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves, tree_map

from landscape.ranks import Ranks

Forward = Callable[[nn.Module, Any], Any]
LossFn = Callable[[Any, Any], Tensor]
_HALF = (torch.float16, torch.bfloat16)


class Part(NamedTuple):
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
        self.parts = [Part(x, y, 0, -1, 1.0)] if microbatches == 1 else _split(x, y, loss_fn, microbatches)

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
        return self.mean(_total(losses)), join(outputs)

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


class FirstPass:
    """The unperturbed pass: the batch gradient at w, the outputs, and further gradients from the same graph.

    Vectors are flat, over the parameters that took part in the loss, in float32 (float64 for a float64 model), free of
    the loss scale and of weight decay. A perturbation gets this object and returns its ε in the same layout.

    In a synchronised step the batch is that of all processes: ``outputs``, ``labels`` and the like hold the rows of
    all, gathered when they are first asked for, ``rows`` count over all, and gradients are means over all.

    Attributes:
        gradient: g_B, shape (K,), the gradient of the mean loss with the observed labels.
        own_outputs: detached outputs of this process's rows.
        progress: epoch / epochs in [0, 1], None where the caller gave none.
        generator: the optimizer's own CPU generator, the only source of randomness to use.
        params: the parameters behind the flat vector.
    """

    def __init__(
        self,
        batch: MiniBatch,
        params: Sequence[Tensor],
        *,
        true_labels: Any,
        progress: float | None,
        generator: torch.Generator,
        reuse_graph: bool,
        features_of: nn.Module | None = None,
    ) -> None:
        self._batch = batch
        self._own_true_labels, self.progress, self.generator = true_labels, progress, generator
        self.loss_fn = batch.loss_fn
        whole = len(batch.parts) == 1
        seen: list[Tensor] = []
        grads: list[Tensor | None] = [None] * len(params)
        losses, outputs = [], []
        for part in batch.parts:
            with _capture(features_of, seen):
                out = batch.forward(part.x, sync=False)
            loss = batch.loss(out, part.y)
            loss = loss if whole else loss * part.share
            grads = _add(grads, batch.gradient(loss, params, retain_graph=reuse_graph and whole))
            losses.append(loss.detach())
            outputs.append(out)
        self.loss = batch.mean(_total(losses))
        self.own_outputs = join(outputs)
        self._own_features = torch.cat(seen).flatten(1).float() if seen else None
        self._graph = outputs[0] if reuse_graph and whole else None
        used = [g is not None for g in grads]
        if batch.ranks is not None:  # what one process leaves out, another may use
            used = [any(flags) for flags in zip(*batch.ranks.gather(used), strict=True)]
            grads = [torch.zeros_like(p) if g is None and u else g for p, g, u in zip(params, grads, used, strict=True)]
        self.params = [p for p, u in zip(params, used, strict=True) if u]
        wide = any(p.dtype == torch.float64 for p in self.params)
        self._dtype = torch.float64 if wide else torch.float32
        self.gradient = batch.mean(self._flat([g for g in grads if g is not None]))

    @cached_property
    def outputs(self) -> Any:
        """Detached outputs of the whole batch, for a classifier of shape (B, C)."""
        return self._batch.gathered(self.own_outputs)

    @cached_property
    def labels(self) -> Any:
        """As given to ``step``."""
        return self._batch.gathered(self._batch.y)

    @cached_property
    def true_labels(self) -> Any:
        """As given to ``step``."""
        return self._batch.gathered(self._own_true_labels)

    @cached_property
    def features(self) -> Tensor | None:
        """Input of the layer named by the perturbation, shape (B, F), where it asks for it."""
        found: Tensor | None = self._batch.gathered(self._own_features)
        return found

    def gradient_of(
        self,
        labels: Any,
        rows: Tensor | None = None,
        *,
        loss_fn: LossFn | None = None,
        fresh: bool = False,
        keep_graph: bool = False,
    ) -> Tensor:
        """Gradient at w of the mean loss over ``rows`` of the batch with other labels, shape (K,).

        Args:
            labels: one a row, in the order of ``rows``.
            rows: integer indices into the batch, all of it if None; the zero vector where there are none.
            loss_fn: another mean-reduced loss than the one trained on.
            fresh: run these rows through the model alone (BatchNorm then normalises over them alone) rather than go
                back through the graph of the whole batch.
            keep_graph: needed in every call but the last, which frees the graph's memory as it goes.

        With micro-batches the graph is gone, so each is run again; a model with dropout then draws new masks.
        """
        if rows is not None and len(rows) == 0:
            return torch.zeros_like(self.gradient)
        ranks = self._batch.ranks
        if ranks is None:
            return self._gradient_here(labels, rows, loss_fn, fresh, keep_graph)
        if fresh and any(isinstance(m, nn.SyncBatchNorm) for m in self._batch.model.modules()):
            raise ValueError("a process without picked rows would miss SyncBatchNorm; leave synchronised out")
        share, labels, rows = self._of_this_process(labels, rows)
        return ranks.total(self._gradient_here(labels, rows, loss_fn, fresh, keep_graph) * share)

    def _of_this_process(self, labels: Any, rows: Tensor | None) -> tuple[float, Any, Tensor | None]:
        """Which share of the rows of all processes this one has, and its labels and rows."""
        start, stop, size = self._batch.start, self._batch.stop, self._batch.size
        if rows is None:
            return (stop - start) / size, take(labels, slice(start, stop)), None
        mine = (rows >= start) & (rows < stop)
        return float(mine.sum()) / len(rows), labels[mine], rows[mine] - start

    def _gradient_here(
        self, labels: Any, rows: Tensor | None, loss_fn: LossFn | None, fresh: bool, keep_graph: bool
    ) -> Tensor:
        batch = self._batch
        if rows is not None and len(rows) == 0:
            self._graph = self._graph if keep_graph else None
            return torch.zeros_like(self.gradient)
        if fresh:
            with batch.callers_precision():
                out = batch.forward(batch.x if rows is None else take(batch.x, rows), sync=False)
                loss = batch.loss(out, labels, loss_fn)
            return self._backward(loss, retain=False)
        if self._graph is not None:
            with batch.callers_precision():
                out = self._graph if rows is None else self._graph.index_select(0, rows)
                loss = batch.loss(out, labels, loss_fn)
            if not keep_graph:
                self._graph = None
            return self._backward(loss, retain=keep_graph)
        if len(batch.parts) == 1:
            raise RuntimeError("the graph is gone; set reuses_graph, and keep_graph=True in all calls but the last")
        total = torch.zeros_like(self.gradient)
        every = torch.arange(batch.parts[-1].stop) if rows is None else rows
        for part in batch.parts:
            mine = ((every >= part.start) & (every < part.stop)).nonzero().flatten()
            if len(mine):
                with batch.callers_precision():
                    out = batch.forward(part.x, sync=False)[every[mine] - part.start]
                    loss = batch.loss(out, labels[mine], loss_fn)
                total += self._backward(loss, retain=False) * (len(mine) / len(every))
        return total

    def weights(self) -> Tensor:
        """The weights w, shape (K,), in the layout of ``gradient``; a copy."""
        return self._flat([p.detach() for p in self.params], scale=1.0)

    def _backward(self, loss: Tensor, *, retain: bool) -> Tensor:
        grads = self._batch.gradient(loss, self.params, retain_graph=retain)
        return self._flat([torch.zeros_like(p) if g is None else g for p, g in zip(self.params, grads, strict=True)])

    def _flat(self, tensors: Sequence[Tensor], scale: float | None = None) -> Tensor:
        if not tensors:
            raise ValueError("no parameter of the optimizer takes part in the loss; was it built for another model?")
        device, dtype = tensors[0].device, self._dtype
        pieces = []
        for t in tensors:
            piece = (t.to_dense() if t.is_sparse else t).reshape(-1)
            pieces.append(_cast(piece, device, dtype))
        flat = torch.cat(pieces)
        scale = self._batch.scale if scale is None else scale
        return flat if scale == 1.0 else flat.mul_(1.0 / scale)


class Buffers:
    """A snapshot of the model's buffers (BatchNorm statistics and their like), to be put back in place."""

    def __init__(self, live: Sequence[Tensor]) -> None:
        self.live = [b.detach() for b in live]
        self._kept = [b.clone() for b in self.live]

    def restore(self) -> None:
        """Write the snapshot back into the same tensors."""
        if self.live:
            torch._foreach_copy_(self.live, self._kept)


def buffers_of(module: nn.Module) -> list[Tensor]:
    """What ``module.buffers()`` yields, without the names, which take most of its time."""
    own = [b for b in module._buffers.values() if b is not None]
    return own + [b for child in module._modules.values() if child is not None for b in buffers_of(child)]


@contextmanager
def shifted(params: Sequence[Tensor], epsilon: Tensor) -> Iterator[None]:
    """Move the parameters by ``epsilon`` (K,) in place; however one leaves, they are bitwise what they were.

    >>> w = torch.nn.Parameter(torch.tensor([0.1, 0.2]))
    >>> with shifted([w], torch.tensor([1.0, 0.0])):
    ...     w.tolist()[0] > 1
    True
    >>> w.tolist() == torch.tensor([0.1, 0.2]).tolist()
    True
    """
    live = [p.detach() for p in params]  # the same memory, outside of autograd
    kept = [p.clone() for p in live]  # w + ε − ε is not w in floating point
    pieces = epsilon.split([p.numel() for p in live])
    shifts = [_cast(e.view_as(p), p.device, p.dtype) for e, p in zip(pieces, live, strict=True)]
    try:
        torch._foreach_add_(live, shifts)
        yield
    finally:
        torch._foreach_copy_(live, kept)


def norm(tensors: Sequence[Tensor]) -> Tensor | float:
    """‖·‖₂ over all tensors together, in float32 at least (half precision would overflow at 65504).

    A number where the tensors lie on the CPU, else a scalar on their device, so that nothing waits for it.
    """
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    if not dense:
        return 0.0
    dtypes = {t.dtype for t in dense}
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    parts = torch._foreach_norm(dense, 2, None if dtypes.isdisjoint(_HALF) else wide)
    if parts[0].is_cpu:
        return math.hypot(*[n.item() for n in parts])
    return torch.linalg.vector_norm(torch.stack([_cast(n, parts[0].device, wide) for n in parts]))


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


def _cast(t: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return t if t.dtype == dtype and t.device == device else t.to(device, dtype)


def _split(x: Any, y: Any, loss_fn: LossFn, microbatches: int) -> list[Part]:
    size = len(y)
    if not isinstance(microbatches, int) or not 1 <= microbatches <= size:
        raise ValueError(f"microbatches is {microbatches!r}, expected an integer in 1…{size} (the batch size)")
    check_plain_mean(loss_fn, y, "use microbatches=1")
    edges = [size * j // microbatches for j in range(microbatches + 1)]
    return [Part(take(x, slice(a, b)), take(y, slice(a, b)), a, b, (b - a) / size) for a, b in pairwise(edges)]


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


@contextmanager
def _capture(module: nn.Module | None, into: list[Tensor]) -> Iterator[None]:
    if module is None:
        yield
        return
    handle = module.register_forward_pre_hook(lambda _, inputs: into.append(inputs[0].detach()))
    try:
        yield
    finally:
        handle.remove()


def _add(totals: list[Tensor | None], grads: list[Tensor | None]) -> list[Tensor | None]:
    return [g if t is None else t if g is None else t + g for t, g in zip(totals, grads, strict=True)]


def _total(losses: list[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()
