"""The sharpness-aware step: look at the gradient, move to w + ε, take the gradient there, move back, update."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from landscape.ranks import Ranks
from ncsam.optimizers import closure as closures
from ncsam.optimizers.checks import check_base, check_hooks, check_initialised, check_scaler, features_module, usable
from ncsam.optimizers.closure import Closure
from ncsam.optimizers.first_pass import NO_PART, FirstPass, GradientPass
from ncsam.optimizers.in_place import Buffers, Slots, buffers_in, length, norm, realised, scaled, shifted, slots_of
from ncsam.optimizers.loss_mean import LossFn, ignored_label
from ncsam.optimizers.mini_batch import Forward, MiniBatch, Passes, unwrapped
from ncsam.optimizers.nested import join, rows_in
from ncsam.optimizers.options import is_finite
from ncsam.optimizers.perturbations import Perturbation
from ncsam.optimizers.step_info import Ascent, StepInfo, merged
from ncsam.optimizers.wrapper import OptimizerWrapper


class ProjectionWarning(UserWarning):
    """The projection onto the ρ-ball discards most of SAM's direction."""


class RoundingWarning(UserWarning):
    """The perturbation that was added differs from the one asked for, because the weights are rounded."""


class SkippedWarning(UserWarning):
    """A ``step(closure)``, which returns the loss and not the record of the step, made no update."""


class SharpnessAware(OptimizerWrapper):
    """A base optimizer that takes its gradient at w + ε instead of at w; ε comes from a :class:`Perturbation`.

    ``param_groups``, ``state`` and ``defaults`` are the base optimizer's own, so schedulers and groups added later
    reach it; hooks registered here are registered there. The class runs the forward and backward passes itself, or
    calls a closure twice: see :meth:`step`.

    Attributes:
        info: the record of the last ``step(closure)`` or ``backward(closure)``, without outputs and labels.
        perturbed: whether the weights are at w + ε now, by which a closure recognises its second call, for example to
            log the loss only once.

    Args:
        model: the model, plain or in DistributedDataParallel.
        base: an optimizer *instance* over the model's parameters, for example ``torch.optim.SGD``.
        perturbation: where to look.
        forward: ``(model, x) -> outputs`` where that is not ``model(x)``, for example for batches that are dicts.
        seed: of the optimizer's own random numbers (torch's global state is never touched); under DDP one a rank, or
            the same on all for ``synchronised``.
        synchronised: under DDP, perturb all ranks alike, along the gradient of the batch of all ranks together, with
            picks among all their samples: what one process does with the whole batch. If not, each rank perturbs
            along the gradient of its own samples. Without DDP there is no difference.

    Raises:
        TypeError: ``base`` is not an optimizer instance, or one that evaluates the loss by itself (LBFGS).
        ValueError: ``base`` has no parameter of the model, or synchronised ranks have different seeds.
    """

    info: StepInfo | None = None
    perturbed: bool = False
    _warned_of_skipping: bool = False

    def __init__(
        self,
        model: nn.Module,
        base: Optimizer,
        perturbation: Perturbation,
        *,
        forward: Forward | None = None,
        seed: int = 0,
        synchronised: bool = False,
    ) -> None:
        check_base(base, model, SharpnessAware)
        features_module(model, perturbation.features_of)  # a layer that is not there is told now
        if perturbation.group is not None and isinstance(unwrapped(model), DistributedDataParallel):
            raise ValueError(
                "groups are perturbed on one process; under DistributedDataParallel take SAM, a group a rank"
            )
        super().__init__(base)
        self.model, self.perturbation = model, perturbation
        self.synchronised = synchronised
        ranks = self._ranks()
        if ranks is not None and len(set(seeds := ranks.gather(seed))) > 1:
            raise ValueError(f"synchronised ranks have seeds {seeds}, expected the same on all, as they draw together")
        self._forward = forward
        self._generator = torch.Generator().manual_seed(seed)
        self._warned = self._warned_of_rounding = False
        self._steps = 0

    @overload  # type: ignore[override]
    def step(self, closure: Closure, /, *, progress: float | None = None) -> Any: ...

    @overload
    def step(self, *, closure: Closure, progress: float | None = None) -> Any: ...

    @overload
    def step(
        self,
        x: Any,
        y: Any,
        loss_fn: LossFn,
        *,
        progress: float | None = None,
        true_labels: Any = None,
        scaler: torch.amp.GradScaler | None = None,
        microbatches: int = 1,
    ) -> StepInfo: ...

    def step(
        self,
        x: Any = None,
        y: Any = None,
        loss_fn: LossFn | None = None,
        *,
        progress: float | None = None,
        true_labels: Any = None,
        scaler: torch.amp.GradScaler | None = None,
        microbatches: int = 1,
        closure: Closure | None = None,
    ) -> StepInfo | Any:
        """One update on one mini-batch: all forward and backward passes, and the base optimizer's step.

        ``.grad`` is cleared first, and afterwards holds the gradient that was used. BatchNorm statistics move once, in
        the unperturbed pass. Dropout masks are drawn anew in each pass. Call it inside ``torch.autocast`` for mixed
        precision; backward passes and norms run outside of it. Gradients are computed even inside ``torch.no_grad`` and
        ``torch.inference_mode``.

        ``step(closure)``, as trainers and loops for any optimizer call it, takes a function that clears the gradients,
        runs forward and backward passes and returns the loss. It is called at w and at w + ε, and what it returned at w
        is returned; :attr:`info` has the record. This works where ε depends on the gradient alone (SAM, ASAM, replayed
        norms, the base optimizer), and is bitwise ``step(x, y, loss_fn)``. A closure that clips the gradient clips
        both, which leaves SAM's direction as it is. Parameters of the model that another optimizer moves get the
        gradient at w + ε alone, added to an earlier one unless the closure clears it. Under a ``GradScaler``, or where
        something else makes the update, see :meth:`backward`.

        Args:
            x: inputs; a tensor, or whatever ``forward`` takes.
            y: observed labels or targets.
            loss_fn: ``(outputs, y) -> scalar``, the mean over the batch.
            progress: epoch / epochs in [0, 1], epochs counted from 1; required by NCSAM, ignored by SAM.
            true_labels: the right labels, for the controls that need them.
            scaler: a ``GradScaler``; scaling, unscaling, its ``step`` and its ``update`` are done here.
            microbatches: equal parts into which the batch is cut to save memory. Each has the weight that it has in the
                mean of the loss: class weights and ignored labels of ``nn.CrossEntropyLoss`` and ``nn.NLLLoss`` (or
                ``functional.cross_entropy`` itself) are summed exactly. Any other loss must be a mean over the rows;
                this is checked on the outputs of each step, without a further pass of the model.
            closure: in place of all others but ``progress``.

        Raises:
            TypeError: called without a batch or a closure, with both, or with a closure where the batch is needed.
            ValueError: ``progress`` or ``true_labels`` missing, labels or outputs unfit, micro-batches impossible;
                hooks that only one of the passes would call; a closure that adds to the gradients of earlier batches.

        >>> import ncsam
        >>> model = nn.Linear(2, 1)
        >>> opt = ncsam.SAM(model, torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
        >>> def closure():
        ...     opt.zero_grad()
        ...     loss = model(torch.ones(3, 2)).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> loss = opt.step(closure)
        >>> opt.info.loss == loss.item(), round(opt.info.perturbation_norm, 6)
        (True, 0.05)
        """
        name = type(self).__name__
        if closure is None and y is None and loss_fn is None and callable(x) and not isinstance(x, Tensor):
            x, closure = None, x
        if closure is not None:
            if not (x is None and y is None and loss_fn is None and true_labels is None and microbatches == 1):
                raise TypeError(f"{name}.step got a closure and a batch; a closure runs its own, so give one of them")
            if scaler is not None:
                raise TypeError(
                    f"{name}.step got a closure and a scaler; scale the loss in the closure, call backward(closure), "
                    "then scaler.step(opt.base) and scaler.update()"
                )
            closures.check_closure(name, self.perturbation)
            return self._step_by_closure(closure, progress)
        if loss_fn is None:
            raise TypeError(closures.nothing_given(name, self.perturbation))
        if isinstance(loss_fn, type) or not callable(loss_fn):
            got = f"the class {loss_fn.__name__}" if isinstance(loss_fn, type) else f"a {type(loss_fn).__name__}"
            raise TypeError(
                f"{name}.step got {got} as loss_fn, expected a function (outputs, y) -> loss; write "
                "step(x, y, torch.nn.CrossEntropyLoss())"
            )
        self._check(progress, true_labels)
        with torch.inference_mode(False), torch.enable_grad():
            x, y, true_labels = (usable(given) for given in (x, y, true_labels))
            info = self._step(x, y, true_labels, loss_fn, progress, scaler, microbatches)
        self._steps += 1
        self._warn_once(info)
        return info

    def backward(self, closure: Closure, *, progress: float | None = None) -> Any:
        """Leave the gradient at w + ε in ``.grad`` without an update: the first part of ``step(closure)``.

        It takes the place of ``loss.backward()`` in loops that make the update themselves: step :attr:`base`
        afterwards. Like ``loss.backward()`` it adds to the gradients that are there, so batches can be accumulated,
        each with its own ε; whether the closure clears gradients makes no difference. That holds for all parameters of
        the model, also those that another optimizer moves. The loss may be scaled (``scaler.scale(loss)``), by which
        ``info.gradient_norm`` is too; unscaling and clipping come afterwards, as without SAM. If something is not
        finite at w, the gradient at w is left, so that a scaler backs off.

        Args:
            closure: runs forward and backward passes and returns the loss.
            progress: as in :meth:`step`.

        Returns:
            What the closure returned at w.

        Raises:
            TypeError: as ``step(closure)``.
        """
        closures.check_closure(type(self).__name__, self.perturbation)
        self._check(progress, None)
        params = self.trained_parameters()
        every = [*params, *self._others(params)]
        earlier = [p.grad for p in every]
        _clear(every)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                returned, self.info = self._descend(closure, params, progress)
        except BaseException:
            for p, grad in zip(every, earlier, strict=True):
                p.grad = grad
            raise
        with torch.no_grad():
            for p, grad in zip(every, earlier, strict=True):
                if grad is not None:
                    p.grad = grad if p.grad is None else grad + p.grad
        self._steps += 1
        self._warn_once(self.info)
        return returned

    def _step_by_closure(self, closure: Closure, progress: float | None) -> Any:
        self._check(progress, None)
        params = self.trained_parameters()
        # What was frozen since the last step is no longer the closure's to clear.
        _clear([p for group in self.base.param_groups for p in group["params"] if not p.requires_grad])
        before, passes = Buffers(slots_of(self.model)), Passes(self.model)
        with torch.inference_mode(False), torch.enable_grad():
            try:
                returned, info = self._descend(closure, params, progress, closures.Accumulated(params))
                if info.skipped is None:
                    loss = 0.0 if passes.unseen_ranks else info.perturbed_loss
                    why, _, size = self._update(passes, params, loss, None)
                    at_w = size if math.isnan(info.gradient_norm) else info.gradient_norm
                    info = replace(info, skipped=why, gradient_norm=at_w)
                kept = info.skipped is None
            except BaseException:
                kept = False
                raise
            finally:
                if not kept:
                    before.restore()
                    _clear(params)
        self.info = info
        self._steps += 1
        self._warn_once(info)
        if info.skipped is not None and returned is not None and not self._warned_of_skipping:
            self._warned_of_skipping = True
            warnings.warn(
                f"step {self._steps} made no update: {info.skipped} (said once; .info.skipped says so of each step)",
                SkippedWarning,
                stacklevel=3,
            )
        return returned

    def _step(
        self,
        x: Any,
        y: Any,
        true_labels: Any,
        loss_fn: LossFn,
        progress: float | None,
        scaler: torch.amp.GradScaler | None,
        microbatches: int,
    ) -> StepInfo:
        params = self.trained_parameters()
        slots = slots_of(self.model)
        check_initialised([*params, *buffers_in(slots)])
        if active := self.perturbation.active(progress):
            check_hooks(params, "" if self.perturbation.needs_batch else "step(closure), or ")
        # Also of parameters that were frozen since the last step, which the base would go on moving.
        _clear([p for group in self.base.param_groups for p in group["params"]])
        scaler = scaler if scaler is not None and scaler.is_enabled() else None
        check_scaler(scaler, params)
        scale = _loss_scale(scaler, params[0].device) if scaler is not None else 1.0
        if (group := self.perturbation.group) is not None:  # which saves as much memory as micro-batches do
            microbatches = max(1, -(-rows_in(y) // group))
        batch = MiniBatch(
            self.model,
            x,
            y,
            loss_fn,
            forward=self._forward,
            microbatches=microbatches,
            scale=scale,
            ranks=self._ranks(),
        )
        before = Buffers(slots)
        try:
            if active and self.perturbation.group is not None:
                info = self._grouped_step(batch, params, slots, scaler)
            elif active:
                info = self._perturbed_step(batch, params, slots, progress, true_labels, scaler)
            else:
                info = self._base_step(batch, params, scaler)
        except BaseException:
            before.restore()
            raise
        finally:
            batch.forget_casts()
        if info.skipped is not None:
            before.restore()
            _clear(params)
        return info

    def _base_step(self, batch: MiniBatch, params: list[Tensor], scaler: torch.amp.GradScaler | None) -> StepInfo:
        loss, outputs = batch.descend(check=True)
        skipped, value, size = self._update(batch, params, loss, scaler)
        return StepInfo(
            value,
            value,
            size,
            self.perturbation.rho,
            skipped=skipped,
            outputs=outputs,
            labels=batch.y,
            ignored=ignored_label(batch.loss_fn),
        )

    def _perturbed_step(
        self,
        batch: MiniBatch,
        params: list[Tensor],
        slots: Slots,
        progress: float | None,
        true_labels: Any,
        scaler: torch.amp.GradScaler | None,
    ) -> StepInfo:
        first = FirstPass(
            batch,
            params,
            true_labels=true_labels,
            progress=progress,
            generator=self._generator,
            reuse_graph=self.perturbation.reuses_graph,
            features_of=features_module(self.model, self.perturbation.features_of),
            step=self._steps,
        )
        after_first = Buffers(slots)
        with batch.full_precision():
            ascent = self._ascent(first, first.loss)
        if self.perturbation.needs_batch:
            after_first.restore()  # the perturbation may have run the model again
        outputs, by_part, moved = first.own_outputs, first.parts_outputs, first.params
        del first  # the graph's memory is wanted by the second pass
        why = self._agree(batch, ascent.not_finite)
        perturbed_loss = math.nan
        if why is None:
            loss_there = self._second_pass(batch, moved, ascent.epsilon, by_part, after_first)
            why, perturbed_loss, _ = self._update(batch, params, loss_there, scaler)
        else:
            self._back_off(params, scaler)
        return replace(
            ascent.info(self.perturbation.rho, perturbed_loss, why),
            outputs=outputs,
            labels=batch.y,
            ignored=ignored_label(batch.loss_fn),
        )

    def _ascent(self, first: GradientPass, loss: Tensor | float) -> Ascent:
        """The perturbation at ``first``, as the weights' precision leaves it, and its numbers."""
        perturbed = self.perturbation(cast(FirstPass, first))  # a GradientPass only where it needs no more
        epsilon, g = realised(first.params, perturbed.epsilon), scaled(first.gradient)
        loss, size, factor, applied, wanted, along, compensation, kept = _on_host(
            loss,
            g.size,
            g.factor,
            length(epsilon),
            length(perturbed.epsilon),
            torch.dot(g.vector, epsilon),
            perturbed.compensation_norm,
            perturbed.kept,
        )
        cosine = along / (size * applied) if size * applied > 0 else math.nan
        return Ascent(epsilon, perturbed.picked, loss, size * factor, applied, wanted, cosine, compensation, kept)

    def _second_pass(
        self, batch: MiniBatch, params: Sequence[Tensor], epsilon: Tensor, at_w: Sequence[Any], after_first: Buffers
    ) -> Tensor:
        """The gradient of the descent into ``.grad``, buffers as they were; the loss at w + ε.

        Args:
            at_w: the outputs of the first pass, by part.
        """
        part = self.perturbation.descent
        batch.forget_casts()
        try:
            slopes = batch.slopes(at_w) if part == "jacobian" else None
            with self._moved(params, epsilon):
                if part != "logits":
                    return batch.descend(slopes=slopes)[0]
                outputs = batch.outputs()
            after_first.restore()
            batch.forget_casts()
            batch.descend(slopes=batch.slopes(outputs))
            return batch.loss_of(outputs)
        finally:
            after_first.restore()
            batch.forget_casts()

    @contextmanager
    def _moved(self, params: Sequence[Tensor], epsilon: Tensor) -> Iterator[None]:
        """The parameters at w + ε, and back."""
        self.perturbed = True
        try:
            with shifted(params, epsilon):
                yield
        finally:
            self.perturbed = False

    def _descend(
        self,
        closure: Closure,
        params: list[Tensor],
        progress: float | None,
        accumulated: closures.Accumulated | None = None,
    ) -> tuple[Any, StepInfo]:
        """The closure's gradient at w + ε into ``.grad``, or where it is not finite at w that one; buffers move once.

        Other parameters of the model get the gradient of the last call alone, added to what was there before the first.

        Returns what the closure returned at w, and the record as far as it is known.
        """
        slots = slots_of(self.model)
        check_initialised([*params, *buffers_in(slots)])
        passes, before = Passes(self.model), Buffers(slots)
        active = self.perturbation.active(progress)
        others = self._others(params) if active else []
        found = [p.grad if p.grad is None else p.grad.clone() for p in others]
        try:
            with passes.accumulating() if active and not self.synchronised else nullcontext():
                at_w = closures.call(closure, params, accumulated, type(self).__name__)
            used = [(p, g) for p, g in zip(params, at_w.gradients, strict=True) if g is not None]
            if at_w.returned is None:
                return None, StepInfo(
                    math.nan, math.nan, 0.0, self.perturbation.rho, skipped="the closure gave no loss and no gradient"
                )
            if not used:
                raise ValueError(closures.NO_GRADIENT)
            if not active:
                return at_w.returned, StepInfo(at_w.loss, at_w.loss, math.nan, self.perturbation.rho)
            after_first = Buffers(slots)
            first = GradientPass([p for p, _ in used], progress=progress, generator=self._generator, step=self._steps)
            with torch.no_grad(), passes.full_precision():
                first.gradient = first.flat([g for _, g in used])
                ascent = self._ascent(first, at_w.loss)
            why = self._agree(passes, (ascent._replace(loss=0.0) if passes.unseen_ranks else ascent).not_finite)
            if why is not None:
                return at_w.returned, ascent.info(self.perturbation.rho, math.nan, why)
            passes.forget_casts()
            for p, grad in zip(others, found, strict=True):
                p.grad = grad
            try:
                with self._moved(first.params, ascent.epsilon):
                    there = closures.call(closure, params)
            finally:
                after_first.restore()
            passes.forget_casts()
        except BaseException:
            before.restore()
            raise
        return at_w.returned, ascent.info(self.perturbation.rho, there.loss, None)

    def _grouped_step(
        self, batch: MiniBatch, params: list[Tensor], slots: Slots, scaler: torch.amp.GradScaler | None
    ) -> StepInfo:
        """The step of a perturbation by groups, which are the micro-batches of ``batch``: one after the other."""
        outputs: list[Any] = []
        groups: list[StepInfo] = []
        shares: list[float] = []
        why = None
        for part in batch.parts:
            if part.share == 0.0:  # the loss leaves out all of its samples
                with torch.no_grad():
                    outputs.append(batch.forward(part.x, sync=False))
                continue
            scale = batch.scale * part.share  # so that the gradients of the groups add up to the batch's
            group = MiniBatch(self.model, part.x, part.y, batch.loss_fn, forward=self._forward, scale=scale)
            batch.forget_casts()
            first = FirstPass(
                group, params, true_labels=None, progress=None, generator=self._generator, reuse_graph=False
            )
            outputs.append(first.own_outputs)
            after_first = Buffers(slots)
            with batch.full_precision():
                ascent = self._ascent(first, first.loss)
            if ascent.not_finite is not None:
                why = f"{ascent.not_finite} in a group of the batch"
                break
            there = self._second_pass(group, first.params, ascent.epsilon, first.parts_outputs, after_first)
            groups.append(ascent.info(self.perturbation.rho, float(there), None))
            shares.append(part.share)
        perturbed_loss = math.nan
        if why is None:
            batch.check_adds_up(outputs, [p.y for p in batch.parts], [p.share for p in batch.parts], batch.loss_fn)
            there = torch.tensor(merged(groups, shares).perturbed_loss, dtype=torch.float64)
            why, perturbed_loss, _ = self._update(batch, params, there, scaler)
        else:
            self._back_off(params, scaler)
        return replace(
            merged(groups, shares) if groups else StepInfo(math.nan, math.nan, math.nan, self.perturbation.rho),
            perturbed_loss=perturbed_loss,
            skipped=why,
            outputs=join(outputs),
            labels=batch.y,
            ignored=ignored_label(batch.loss_fn),
        )

    def _others(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Parameters of the model that are trained beside ``params``, by another optimizer."""
        own = {id(p) for p in params}
        return [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]

    def _update(
        self, passes: Passes, params: list[Tensor], loss: Tensor | float, scaler: torch.amp.GradScaler | None
    ) -> tuple[str | None, float, float]:
        """The base optimizer's step on ``.grad``, unless something is not finite; (why not, loss, ‖gradient‖)."""
        with passes.full_precision():
            if scaler is not None:
                scaler.unscale_(self.base)
            grads = [p.grad for p in params if p.grad is not None]
            if not grads:
                raise ValueError(NO_PART)
            value, size = _on_host(loss, norm(grads))
            why = None
            if not math.isfinite(value):
                why = f"loss is {value}"
            elif not math.isfinite(size):
                why = f"gradient has norm {size}"
            why = self._agree(passes, why)
            if why is None:
                if scaler is not None:
                    scaler.step(self.base)
                else:
                    self.base.step()
            if scaler is not None:
                scaler.update()
        return why, value, size

    def _back_off(self, params: list[Tensor], scaler: torch.amp.GradScaler | None) -> None:
        """Let the scaler, which judges ``.grad`` alone, see a gradient that overflows."""
        if scaler is not None:
            params[0].grad = torch.full_like(params[0], torch.inf)
            scaler.unscale_(self.base)
            scaler.update()

    def _ranks(self) -> Ranks | None:
        """The processes that step as one; made anew each time, since an optimizer can be copied and a group cannot."""
        if self.synchronised and isinstance(self.model, DistributedDataParallel):
            return Ranks(self.model.process_group)
        return None

    def _agree(self, passes: Passes, why: str | None) -> str | None:
        anywhere = passes.any_rank(why is not None)  # a collective: every rank must take part
        return why or ("loss or gradient of another rank is not finite" if anywhere else None)

    def _check(self, progress: float | None, true_labels: Any) -> None:
        name = type(self).__name__
        if self.perturbation.needs_progress:
            if progress is None:
                raise ValueError(f"{name}.step needs progress=epoch / epochs (epochs counted from 1); got none")
            if not (is_finite(progress) and 0.0 <= progress <= 1.0):
                raise ValueError(f"progress is {progress!r}, expected epoch / epochs in [0, 1]")
        if self.perturbation.needs_true_labels and true_labels is None:
            raise ValueError(f"{name} is a control that needs true_labels=; got none")
        if any(group.get("maximize") for group in self.param_groups) and self.perturbation.active(progress):
            raise ValueError(
                f"{name}'s base has maximize=True, but the perturbation goes where what is maximised is highest, not "
                "lowest; give a loss to minimise, its negative"
            )

    def _warn_once(self, info: StepInfo) -> None:
        if info.kept < 0.5 and self.perturbation.adds_to_sam and info.skipped is None and not self._warned:
            self._warned = True
            warnings.warn(
                f"projection keeps {info.kept:.0%} of SAM's part of the perturbation: s‖g*‖ is "
                f"{info.relative_compensation:.1f} ρ; lower kappa, or compare with project=False (said once)",
                ProjectionWarning,
                stacklevel=3,
            )

        if abs(info.perturbation_norm - info.wanted_norm) > 0.1 * info.wanted_norm and not self._warned_of_rounding:
            self._warned_of_rounding = True
            warnings.warn(
                f"the weights' precision rounds ε: its norm is {info.perturbation_norm:.3g} instead of "
                f"{info.wanted_norm:.3g}; keep the weights in float32 and step inside torch.autocast (said once)",
                RoundingWarning,
                stacklevel=3,
            )

    def whole_state(self) -> dict[str, Any]:
        """The base optimizer's ``state`` and ``param_groups``; under ``"ncsam"`` pick-RNG, perturbation and steps."""
        own = {
            "perturbation": repr(self.perturbation),
            "generator": self._generator.get_state(),
            "warned": self._warned,
            "steps": self._steps,
        }
        return {**self.base.state_dict(), "ncsam": own}

    def load_whole_state(self, state: dict[str, Any]) -> None:
        """Resume; the run continues bitwise as if it had not stopped.

        Raises:
            ValueError: the state is of a plain optimizer or of another perturbation.
        """
        own = state.get("ncsam")
        if own is None:
            raise ValueError("state_dict has no 'ncsam' entry: it is a plain optimizer's; load it into .base instead")
        if own["perturbation"] != repr(self.perturbation):
            raise ValueError(
                f"state_dict is of {own['perturbation']}, this optimizer has {self.perturbation!r}; build it alike"
            )
        self.base.load_state_dict({key: value for key, value in state.items() if key != "ncsam"})
        self._generator.set_state(own["generator"].cpu())
        self._warned = own["warned"]
        self._steps = own.get("steps", 0)  # states from before steps were counted: of optimizers that do not ask

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.perturbation!r}, base={type(self.base).__name__})"


def _clear(params: Iterable[Tensor]) -> None:
    for p in params:
        p.grad = None


def _on_host(*scalars: Tensor | float) -> list[float]:
    """The scalars as numbers, by a single transfer where they lie on an accelerator."""
    far = [s for s in scalars if isinstance(s, Tensor) and not s.is_cpu]
    if not far:
        return [float(s) for s in scalars]
    wide = torch.float32 if far[0].device.type == "mps" else torch.float64  # MPS has no float64
    near = iter(torch.stack([s.detach().to(far[0].device, wide) for s in far]).tolist())
    return [next(near) if isinstance(s, Tensor) and not s.is_cpu else float(s) for s in scalars]


def _loss_scale(scaler: torch.amp.GradScaler, device: torch.device) -> float:
    scaler.scale(torch.ones((), device=device))  # creates the scale on the device in the first step
    return float(scaler.get_scale())
