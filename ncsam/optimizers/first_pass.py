"""The first pass of a training step, and what a perturbation may learn from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ncsam.optimizers.in_place import cast
from ncsam.optimizers.mini_batch import LossFn, MiniBatch, join, take, total


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
        self.loss = batch.mean(total(losses))
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
            pieces.append(cast(piece, device, dtype))
        flat = torch.cat(pieces)
        scale = self._batch.scale if scale is None else scale
        return flat if scale == 1.0 else flat.mul_(1.0 / scale)


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
