"""The first pass of a training step, and what a perturbation may learn from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ncsam.optimizers.in_place import cast, evaluating, real
from ncsam.optimizers.loss_mean import LossFn, check_classes, class_mean, counted_classes, counts
from ncsam.optimizers.mini_batch import MiniBatch, nothing_of, total, unwrapped
from ncsam.optimizers.nested import join, mapped, take

NO_PART = "no parameter of the optimizer takes part in the loss; was it built for another model?"


class _Piece(NamedTuple):
    """Some rows of a batch that go through the model together: its inputs, which rows of them, their labels."""

    x: Any
    rows: Tensor | None
    labels: Any


class GradientPass:
    """The unperturbed pass as a closure tells of it: the gradient at w, and not the batch that it came from.

    Vectors are flat, over the parameters that took part in the loss, in float32 (float64 for a float64 model), free of
    weight decay; a complex parameter is two real numbers. They are scaled as the closure scales its loss.

    Attributes:
        gradient: g_B, shape (K,), the gradient of the mean loss with the observed labels.
        progress: epoch / epochs in [0, 1], None where the caller gave none.
        step: steps that the optimizer took before this one.
        generator: the optimizer's own CPU generator, the only source of randomness to use.
        params: the parameters behind the flat vector.
    """

    gradient: Tensor

    def __init__(
        self,
        params: Sequence[Tensor],
        *,
        progress: float | None,
        generator: torch.Generator,
        step: int,
    ) -> None:
        self.params, self.progress, self.generator, self.step = list(params), progress, generator, step
        wide = any(p.dtype in (torch.float64, torch.complex128) for p in self.params)
        self._dtype = torch.float64 if wide else torch.float32

    def weights(self) -> Tensor:
        """The weights w, shape (K,), in the layout of ``gradient``; a copy."""
        return self.flat([p.detach() for p in self.params])

    def flat(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors that belong to ``params`` as one vector (K,), a copy."""
        if not tensors:
            raise ValueError(NO_PART)
        device, dtype = tensors[0].device, self._dtype
        pieces = []
        for t in tensors:
            piece = real(t.to_dense() if t.is_sparse else t).reshape(-1)
            pieces.append(cast(piece, device, dtype))
        return torch.cat(pieces)


class FirstPass(GradientPass):
    """The unperturbed pass: the batch gradient at w, the outputs, and further gradients from the same graph.

    Vectors are free of the loss scale. A perturbation gets this object and returns its ε in the layout of
    ``gradient``; where it sets ``needs_batch = False``, it may get a :class:`GradientPass` instead.

    In a synchronised step the batch is that of all processes: ``outputs``, ``labels`` and the like hold the rows of
    all, gathered when they are first asked for, ``rows`` count over all, and gradients are means over all.

    Attributes:
        own_outputs: detached outputs of this process's rows.
        parts_outputs: the same, of each micro-batch.
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
        step: int = 0,
    ) -> None:
        self._batch, self._own_true_labels, self.loss_fn = batch, true_labels, batch.loss_fn
        # A compiled graph gives its buffers away with the first gradient.
        keep = reuse_graph and len(batch.parts) == 1 and unwrapped(batch.model) is batch.model
        grads: list[Tensor | None] = [None] * len(params)
        losses, outputs = [], []
        for part in batch.parts:
            out = batch.forward(part.x, sync=False)
            loss = batch.share_of_loss(out, part)
            grads = _add(grads, batch.gradient(loss, params, retain_graph=keep))
            losses.append(loss.detach())
            outputs.append(out)
        batch.check_adds_up(outputs, [p.y for p in batch.parts], [p.share for p in batch.parts], batch.loss_fn)
        self.loss = batch.total(total(losses))
        self.parts_outputs = [mapped(out, Tensor.detach) for out in outputs]
        self.own_outputs = join(outputs)
        self._features_of = features_of
        self._graph = outputs[0] if keep else None
        self._once = keep
        used = [g is not None for g in grads]
        if batch.ranks is not None:  # what one process leaves out, another may use
            used = [any(flags) for flags in zip(*batch.ranks.gather(used), strict=True)]
            grads = [torch.zeros_like(p) if g is None and u else g for p, g, u in zip(params, grads, used, strict=True)]
        taking_part = [p for p, u in zip(params, used, strict=True) if u]
        super().__init__(taking_part, progress=progress, generator=generator, step=step)
        self.gradient = batch.total(self._unscaled([g for g in grads if g is not None]))

    @cached_property
    def outputs(self) -> Any:
        """Detached outputs of the whole batch, for a classifier of shape (B, C)."""
        return self._batch.gathered(self.own_outputs)

    @cached_property
    def labels(self) -> Any:
        """The argument of ``step``."""
        return self._batch.gathered(self._batch.y)

    @cached_property
    def true_labels(self) -> Any:
        """The argument of ``step``.

        Raises:
            ValueError: there is not one for each label.
        """
        true, observed = self._own_true_labels, self._batch.y
        if isinstance(true, Tensor) and isinstance(observed, Tensor) and true.shape != observed.shape:
            got, expected = tuple(true.shape), tuple(observed.shape)
            raise ValueError(f"true_labels have shape {got}, expected the labels' {expected}")
        return self._batch.gathered(true)

    @cached_property
    def counted(self) -> Tensor:
        """Mask of the observed ``labels`` that count in the loss, bool in their shape: none that it ignores."""
        return self.counts(self.labels, "labels")

    @cached_property
    def counted_classes(self) -> Tensor:
        """Mask of the labels 0…C−1 that count in the loss, (C,) bool, for a classifier of shape (B, C)."""
        z = self.outputs
        return counted_classes(self.loss_fn, torch.arange(z.shape[1], device=z.device), z)

    @cached_property
    def _every_class_counts(self) -> bool:
        return bool(self.counted_classes.all())

    def counts(self, labels: Any, name: str) -> Tensor:
        """Mask of those of ``labels``, of the batch, that count in the loss, bool in their shape.

        Negative labels and the loss's ``ignore_index`` do not; nor, for a classifier of shape (B, C), do those that
        have no weight in the loss.

        Raises:
            ValueError: the labels are not integers, or hold something else than 0…C−1.
        """
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
            got = str(labels.dtype) if isinstance(labels, Tensor) else type(labels).__name__
            raise ValueError(f"{name} are {got}, expected integer classes")
        z = self.outputs
        if not isinstance(z, Tensor) or z.dim() != 2 or labels.shape != z.shape[:1]:
            check_classes(self.loss_fn, z, labels, name)
            return counts(self.loss_fn, labels)
        if labels.is_cpu and len(labels) and self._every_class_counts:  # mostly so, and then told from two numbers
            lowest, highest = (int(label) for label in labels.aminmax())
            if lowest >= 0 and highest < z.shape[1]:
                return torch.ones_like(labels, dtype=torch.bool)
        found = counts(self.loss_fn, labels)
        outside = found & (labels >= z.shape[1])
        if outside.any():  # a label that a function of unknown mean ignores, or a mistake
            values = torch.cat([torch.arange(z.shape[1], device=z.device), labels[outside].unique()])
            if class_mean(self.loss_fn) is not None or counted_classes(self.loss_fn, values, z)[z.shape[1] :].any():
                check_classes(self.loss_fn, z, labels, name)
        inside = found & ~outside
        return inside & self.counted_classes[labels.where(inside, 0)]

    @cached_property
    def features(self) -> Tensor | None:
        """Input of the layer named by the perturbation, shape (B, F), where it asks for it.

        It is taken in a pass of its own with the model in eval mode: without dropout and with BatchNorm's running
        statistics, which it does not move.
        """
        if self._features_of is None:
            return None
        seen: list[Tensor] = []
        batch = self._batch
        with evaluating(batch.model), torch.no_grad(), batch.callers_precision(), _capture(self._features_of, seen):
            for part in batch.parts:
                batch.forward(part.x, sync=False, compiled=False)
        found: Tensor | None = batch.gathered(torch.cat(seen).flatten(1).to(self._dtype) if seen else None)
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

        With micro-batches, or a compiled model, the graph is gone, so the model is run again; dropout then draws new
        masks.

        Raises:
            ValueError: the loss is no mean whose parts add up, of several processes or micro-batches.
        """
        if rows is not None and len(rows) == 0:
            return torch.zeros_like(self.gradient)
        batch, loss_fn = self._batch, loss_fn or self._batch.loss_fn
        if fresh and batch.ranks is not None and any(isinstance(m, nn.SyncBatchNorm) for m in batch.model.modules()):
            raise ValueError("a process without picked rows would miss SyncBatchNorm; leave synchronised out")
        pieces = self._pieces(labels, rows, whole=fresh or len(batch.parts) == 1)
        alone = len(pieces) == 1 and batch.ranks is None
        shares = [1.0] if alone else batch.shares([piece.labels for piece in pieces], loss_fn)
        found = self.gradient if alone else torch.zeros_like(self.gradient)
        outputs = []
        for piece, share in zip(pieces, shares, strict=True):
            if share == 0.0 and (fresh or batch.ranks is None):
                outputs.append(take(self.own_outputs, slice(0, 0)))
                continue
            with batch.callers_precision():
                outputs.append(self._outputs_of(piece, fresh))
                # A layer that spans the processes hands gradients around in the backward pass: of losses that already
                # are shares of the whole, from every process, be there such rows on it or not.
                loss = batch.loss(outputs[-1], piece.labels, loss_fn) if share else nothing_of(outputs[-1])
                loss = loss if alone else loss * share
            gradient = self._backward(loss, retain=keep_graph and self._graph is not None)
            found = gradient if alone else found.add_(gradient)
        if not keep_graph:
            self._graph = None
        with batch.callers_precision():
            batch.check_adds_up(outputs, [piece.labels for piece in pieces], shares, loss_fn)
        return batch.total(found)

    def _pieces(self, labels: Any, rows: Tensor | None, whole: bool) -> list[_Piece]:
        """The rows that are asked for, cut as they will go through the model on this process."""
        batch = self._batch
        if whole and batch.ranks is None:
            return [_Piece(batch.x, rows, labels)]
        spans = [(batch.x, 0, batch.parts[-1].stop)] if whole else [(p.x, p.start, p.stop) for p in batch.parts]
        found = []
        for x, start, stop in spans:
            if rows is None:
                found.append(_Piece(x, None, take(labels, slice(batch.start + start, batch.start + stop))))
            else:
                mine = (rows >= batch.start + start) & (rows < batch.start + stop)
                found.append(_Piece(x, rows[mine] - batch.start - start, labels[mine]))
        return found

    def _outputs_of(self, piece: _Piece, fresh: bool) -> Any:
        batch = self._batch
        if self._graph is not None and not fresh:
            return self._graph if piece.rows is None else take(self._graph, piece.rows)
        if self._once and not fresh:
            raise RuntimeError("the graph is gone; give keep_graph=True in all calls but the last")
        if fresh:
            return batch.forward(piece.x if piece.rows is None else take(piece.x, piece.rows), sync=False)
        out = batch.forward(piece.x, sync=False)
        return out if piece.rows is None else take(out, piece.rows)

    def _backward(self, loss: Tensor, *, retain: bool) -> Tensor:
        grads = self._batch.gradient(loss, self.params, retain_graph=retain)
        return self._unscaled(
            [torch.zeros_like(p) if g is None else g for p, g in zip(self.params, grads, strict=True)]
        )

    def _unscaled(self, grads: Sequence[Tensor]) -> Tensor:
        flat, scale = self.flat(grads), self._batch.scale
        return flat if scale == 1.0 else flat.mul_(1.0 / scale)


@contextmanager
def _capture(module: nn.Module, into: list[Tensor]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _, inputs: into.append(inputs[0].detach()))
    try:
        yield
    finally:
        handle.remove()


def _add(totals: list[Tensor | None], grads: list[Tensor | None]) -> list[Tensor | None]:
    return [g if t is None else t if g is None else t + g for t, g in zip(totals, grads, strict=True)]
