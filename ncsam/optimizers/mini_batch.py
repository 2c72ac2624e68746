"""A mini-batch with its model and loss: its passes, micro-batch by micro-batch, on one process or on several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from landscape.ranks import Ranks
from ncsam.optimizers.loss_mean import LossFn, Parts, call, check_adds_up, check_classes, class_mean, part_weights
from ncsam.optimizers.nested import join, leaves, mapped, rows_in, take

Forward = Callable[[nn.Module, Any], Any]


class MicroBatch(NamedTuple):
    """One micro-batch: rows ``start…stop`` of this process's, and their share of the mean over the whole batch."""

    x: Any
    y: Any
    start: int
    stop: int
    share: float


class Passes:
    """The caller's circumstances of the passes of one step: its device, autocast and DistributedDataParallel."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        plain = unwrapped(model)
        self._ddp = plain if isinstance(plain, DistributedDataParallel) else None
        self._device = next(p.device for p in model.parameters())
        self.autocast = torch.is_autocast_enabled(self._device.type)
        self._low = torch.get_autocast_dtype(self._device.type) if self.autocast else None

    @property
    def unseen_ranks(self) -> bool:
        """Tell whether other processes may share the gradients and not the loss: a trainer wraps the model in DDP."""
        return self._ddp is None and torch.distributed.is_available() and torch.distributed.is_initialized()

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

    def accumulating(self) -> AbstractContextManager[Any]:
        """Forward and backward passes whose gradients DDP leaves with each rank."""
        return self._ddp.no_sync() if self._ddp is not None else nullcontext()

    def any_rank(self, flag: bool) -> bool:
        """Tell whether ``flag`` is set on any DDP rank: ranks skip a step together or wait for each other for ever."""
        if self._ddp is None:
            return flag
        shared = torch.tensor(float(flag), device=self._device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX, group=self._ddp.process_group)
        return bool(shared.item())


class MiniBatch(Passes):
    """One mini-batch together with the model and the loss it is trained on.

    It knows how to run a forward pass (``no_sync`` under DistributedDataParallel where asked, the caller's autocast
    left on) and a backward pass (autocast off, loss scaled), micro-batch by micro-batch.

    With ``ranks``, the batch is that of all these processes, of which this one has some rows, those of lower ranks
    before it; then ``start`` is the place of its first row, and means are over all.

    A micro-batch, or a process's rows, counts in the mean what it weighs in the loss: by the class weights of its
    labels that are not ignored where the loss is torch's own, by its rows otherwise, which is then checked.

    Raises:
        ValueError: ``microbatches`` is not in 1…batch size, inputs or labels cannot be cut by rows, or the loss is
            not reduced to a mean.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        y: Any,
        loss_fn: LossFn,
        *,
        forward: Forward | None = None,
        microbatches: int = 1,
        scale: float = 1.0,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(model)
        self.x, self.y, self.loss_fn, self.scale, self.ranks = x, y, loss_fn, scale, ranks
        self._forward, self._seen = forward, set[int]()
        self.start, rows = 0, -1
        self._instead = "use microbatches=1" if microbatches != 1 else "leave synchronised out"
        if ranks is not None:
            sizes = ranks.gather(rows_in(y))
            if not all(sizes):
                raise ValueError(f"the processes have batches of {sizes} rows, expected at least one on each")
            self.start, rows = sum(sizes[: ranks.rank]), sizes[ranks.rank]
        cut = [(x, y, 0, rows)] if microbatches == 1 else _cut(x, y, microbatches)
        in_parts = ranks is not None or microbatches != 1
        shares = self.shares([piece[1] for piece in cut], loss_fn) if in_parts else [1.0]
        self.parts = [MicroBatch(*piece, share) for piece, share in zip(cut, shares, strict=True)]

    def shares(self, labels: Sequence[Any], loss_fn: LossFn) -> list[float]:
        """Shares that this process's parts have in the mean over all processes' parts, from the labels of each.

        Raises:
            ValueError: the loss is not reduced to a mean, or labels are no classes of a loss with class weights.
        """
        reduction = getattr(loss_fn, "reduction", "mean")
        if reduction not in ("mean", "batchmean"):
            raise ValueError(f"the loss has reduction={reduction!r}, expected a mean over the rows; {self._instead}")
        weights, rows = part_weights(loss_fn, labels), [float(rows_in(y)) for y in labels]
        mine = (sum(weights), sum(rows))
        of_all = [mine] if self.ranks is None else self.ranks.gather(mine)
        if weight := sum(w for w, _ in of_all):
            return [w / weight for w in weights]
        return [r / max(sum(r for _, r in of_all), 1.0) for r in rows]  # all left out: the loss says nan by itself

    def check_adds_up(self, outputs: list[Any], labels: list[Any], shares: list[float], loss_fn: LossFn) -> None:
        """Refuse a loss that is not the sum of the parts' by their shares; see :func:`check_adds_up`.

        Raises:
            ValueError: it is not, on this process or on another.
        """
        if len(outputs) == 1 and self.ranks is None:
            return
        parts = Parts([mapped(o, Tensor.detach) for o in outputs], labels, shares)
        check_adds_up(loss_fn, parts, lambda of: self.gathered(join(of)), self.total, self._instead)

    def forward(self, x: Any, *, sync: bool, compiled: bool = True) -> Any:
        """Outputs of the model for ``x``; only with ``sync`` will DDP reduce the gradients of the backward pass.

        Without ``compiled`` a model of ``torch.compile`` is run as it was written, so that its hooks are called.
        """
        if self._ddp is not None and not sync:
            with self._ddp.no_sync():  # DDP decides in the forward pass whether the backward pass will reduce
                return self._run(x, compiled)
        return self._run(x, compiled)

    def _run(self, x: Any, compiled: bool = True) -> Any:
        model = self.model if compiled else unwrapped(self.model)
        return model(x) if self._forward is None else self._forward(model, x)

    def loss(self, outputs: Any, y: Any, loss_fn: LossFn | None = None) -> Tensor:
        """The scalar loss of ``outputs`` against ``y``."""
        return call(loss_fn or self.loss_fn, outputs, y)

    def gradient(self, loss: Tensor, params: Sequence[Tensor], *, retain_graph: bool) -> list[Tensor | None]:
        """Gradients of ``scale · loss``, None where a parameter took no part; touches no ``.grad``."""
        if not loss.requires_grad:
            return [None] * len(params)
        with self.full_precision():
            return list(
                torch.autograd.grad(
                    loss * self.scale if self.scale != 1.0 else loss,
                    params,
                    retain_graph=retain_graph,
                    allow_unused=True,
                )
            )

    def share_of_loss(self, outputs: Any, part: MicroBatch) -> Tensor:
        """The part's share of the batch's loss; 0, whatever the model gives, where the loss leaves out all its rows."""
        if self._device.type != "cpu" and part.start not in self._seen and class_mean(self.loss_fn) is not None:
            check_classes(self.loss_fn, outputs, part.y)  # before an accelerator's assertion ends the process
            self._seen.add(part.start)
        if part.share == 1.0:
            return self.loss(outputs, part.y)
        if part.share == 0.0:
            nothing = nothing_of(outputs)
            return nothing.detach() if self._ddp is None else nothing  # DDP waits for gradients, be they zero
        return self.loss(outputs, part.y) * part.share

    @property
    def _descent_scale(self) -> float:
        return self.scale * (1 if self.ranks is None else self.ranks.size)  # DDP takes the mean over processes

    def outputs(self) -> list[Any]:
        """Detached outputs of each part, of forward passes alone."""
        with torch.no_grad():
            return [self.forward(part.x, sync=False) for part in self.parts]

    def slopes(self, outputs: Sequence[Any]) -> list[list[Tensor]]:
        """Each part's share of the loss's slope in its detached outputs, for every tensor of real or complex numbers.

        They are scaled as the loss is whose gradient :meth:`descend` takes, and by it, since float16 outputs hold no
        slopes below 6e-8.

        Raises:
            ValueError: the loss depends on parameters beside the outputs, or on none of the outputs.
        """
        found = []
        for part, given in zip(self.parts, outputs, strict=True):
            if self.share_of_loss(given, part).requires_grad:
                raise ValueError(
                    "the loss depends on parameters beside the model's outputs, so that its slope in the outputs is "
                    "not all of its gradient; use SAM, or weight decay for a penalty"
                )
            z = mapped(given, lambda t: t.detach().requires_grad_() if _differentiable(t) else t)
            loss, tensors = self.share_of_loss(z, part), _differentiable_leaves(z)
            if part.share and not loss.requires_grad:
                raise ValueError("the loss depends on none of the model's outputs; is it computed without gradients?")
            grads: Sequence[Tensor | None] = [None] * len(tensors)
            if loss.requires_grad:
                with self.full_precision():
                    scaled = loss * self._descent_scale if self._descent_scale != 1.0 else loss
                    grads = torch.autograd.grad(scaled, tensors, allow_unused=True)
            found.append([torch.zeros_like(t) if g is None else g for t, g in zip(tensors, grads, strict=True)])
        return found

    def loss_of(self, outputs: Sequence[Any]) -> Tensor:
        """The mean loss of detached outputs, given by part."""
        return self.total(total([self.share_of_loss(z, part) for z, part in zip(outputs, self.parts, strict=True)]))

    def descend(self, *, check: bool = False, slopes: Sequence[Sequence[Tensor]] | None = None) -> tuple[Tensor, Any]:
        """Forward and backward into ``.grad`` (reduced over DDP ranks); the mean loss and the detached outputs.

        Args:
            check: that the loss is the sum of its parts; not needed where an earlier pass has seen it.
            slopes: what goes back through the model in place of the loss's own slope, as :meth:`slopes` gives it.

        Raises:
            ValueError: it is not.
        """
        last = len(self.parts) - 1
        scale = self._descent_scale
        losses, outputs = [], []
        for j, part in enumerate(self.parts):
            with self.accumulating() if j < last else nullcontext():
                out = self._run(part.x)
                share = self.share_of_loss(out, part)
                if slopes is not None:
                    pairs = zip(_differentiable_leaves(out), slopes[j], strict=True)
                    used = [(z, slope) for z, slope in pairs if z.requires_grad]
                    with self.full_precision():
                        torch.autograd.backward([z for z, _ in used], [slope for _, slope in used])
                elif share.requires_grad:
                    with self.full_precision():
                        (share * scale if scale != 1.0 else share).backward()
            losses.append(share.detach())
            outputs.append(out)
        if check:
            self.check_adds_up(outputs, [p.y for p in self.parts], [p.share for p in self.parts], self.loss_fn)
        return self.total(total(losses)), join(outputs)

    def total(self, own: Tensor) -> Tensor:
        """The sum over the processes that share the batch; of scalars in float64, since their dtypes may differ."""
        if self.ranks is None:
            return own
        return self.ranks.total(own.to(self._device) if own.dim() else own.to(self._device, torch.float64))

    def gathered(self, own: Any) -> Any:
        """The rows of all processes of every tensor in a nested structure."""
        ranks = self.ranks
        return own if ranks is None else mapped(own, ranks.rows)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` made this one of; itself where it did not."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def _differentiable(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def _differentiable_leaves(outputs: Any) -> list[Tensor]:
    return [t for _, t in leaves(outputs) if isinstance(t, Tensor) and _differentiable(t)]


def _cut(x: Any, y: Any, microbatches: int) -> list[tuple[Any, Any, int, int]]:
    """Inputs and labels of each micro-batch, and where its rows start and stop."""
    size = rows_in(y)
    if not isinstance(microbatches, int) or not 1 <= microbatches <= size:
        raise ValueError(f"microbatches is {microbatches!r}, expected an integer in 1…{size} (the batch size)")
    for what, tree in (("inputs", x), ("labels", y)):
        for at, leaf in leaves(tree):
            if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) != size:
                raise ValueError(
                    f"{what}{at} has {len(leaf)} rows, the labels have {size}, so that it cannot be cut into "
                    "micro-batches; give it to the model in forward=, or use microbatches=1"
                )
            if not isinstance(leaf, Tensor | int | float | str | bytes | None):
                raise ValueError(
                    f"{what}{at} is a {type(leaf).__name__}, which cannot be cut into micro-batches; give "
                    "tensors, or structures of them, or use microbatches=1"
                )
    edges = [size * j // microbatches for j in range(microbatches + 1)]
    return [(take(x, slice(a, b)), take(y, slice(a, b)), a, b) for a, b in pairwise(edges)]


def nothing_of(outputs: Any) -> Tensor:
    """Zero, as a function of the outputs, so that a backward pass goes through all that they came from."""
    return total([o.real.float().sum() * 0.0 for _, o in leaves(outputs) if isinstance(o, Tensor)])


def total(losses: list[Tensor]) -> Tensor:
    """The sum of scalars."""
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()
