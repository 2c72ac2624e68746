"""The training loop: one for every optimizer. It yields a row an epoch and writes nothing."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from landscape.objective.process_state import keep_freed_memory
from landscape.ranks import Ranks, on_first
from ncsam import models
from ncsam.optimizers import StepInfo
from ncsam.optimizers.perturbations import (
    AdaptiveAscent,
    NoPerturbation,
    Perturbation,
    ReplayedAscent,
    SharpnessAscent,
)
from ncsam.records import Diagnostics, SampleHistory, Steps, Training
from ncsam.training import execution, losses
from ncsam.training.config import TrainConfig, learning_rate_schedule
from ncsam.training.data_parallel import DataParallel, SharedStep
from ncsam.training.evaluation import ViewEvaluation
from ncsam.training.gradient_diagnostics import Diagnosis
from ncsam.training.mixup import Mixtures, mixed
from ncsam.training.predictions import Histories, losses_and_margins
from ncsam.training.problem import Problem
from ncsam.training.replay import StepNorms
from ncsam.training.samples import Batch, Samples
from ncsam.training.training_steps import TrainingStep, TrainingSteps

Row = dict[str, Any]
_ARRAYS = ("rows", "checkpoints", "diagnosed", "step_norms")
"""What of a trainer holds arrays; its state has tensors in their place."""
_OWN = "ncsam"  # of an optimizer's state: what is not the base optimizer's
_OF_WHOLE_BATCHES = (NoPerturbation, SharpnessAscent, AdaptiveAscent, ReplayedAscent)
"""Perturbations that ask for no loss but that of the batch as it is."""


class Trainer:
    """Trains as configured; iterate over :meth:`epochs`, then read :attr:`rows` and :attr:`checkpoints`.

    Args:
        config: what to train and how.
        problem: built from the configuration if none; pass one to share its data between trainers.
        device: where to train.
        trust: import a ``package.module:factory`` that the configuration names as data or model.
        ranks: the processes that train together. Each of them makes the same trainer and does the same with it; then
            all have the same rows and checkpoints.

    Attributes:
        model: in training.
        memory_format: of its weights and images, ``contiguous`` or ``channels_last``; with ``auto``, that of the state
            that was loaded, or of :func:`ncsam.training.execution.memory_format`.
        rows: one an epoch, see :class:`ncsam.records.Training` for what they hold.
        checkpoints: weights and buffers by epoch.
        diagnosed: by epoch, what was seen of the gradients, (quantities, batches), see
            :mod:`ncsam.training.gradient_diagnostics`.
        step_norms: by epoch, ‖ε‖ of every step, (steps,) float32, NaN for those that were skipped; nothing where the
            optimizer perturbs nothing.
        seconds: spent so far on ``training``, on ``evaluation`` of the views (with ``samples``) and on ``diagnostics``,
            by the wall clock.

    Raises:
        ValueError: something in the configuration is unknown, impossible or not available here; before any work is
            done.

    >>> trainer = Trainer(TrainConfig(epochs=2, optimizer="sam", noise="symmetric:0.2"))
    >>> for row in trainer.epochs():
    ...     print(row["epoch"], row["accuracy"].shape)
    1 (6,)
    2 (6,)
    """

    def __init__(
        self,
        config: TrainConfig,
        problem: Problem | None = None,
        device: str = "cpu",
        *,
        trust: bool = False,
        replay: StepNorms | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.config, self._ranks = config, ranks
        if ranks is None and config.perturbed_shares != 1:
            n = config.perturbed_shares
            raise ValueError(f"perturbed_shares is {n}, so {n} processes must train; start them with torchrun")
        if (replay is None) is (config.optimizer == "replay"):
            raise ValueError(f"optimizer {config.optimizer!r}: replay, and no other, needs the step norms of a run")
        self._loss = losses.parse(config.loss)
        self._lr_factor = learning_rate_schedule(config.lr_schedule)
        place = execution.usable_device(device)
        context = execution.autocast(place, config.precision)
        self.problem = problem or Problem.of(config, trust=trust)
        dataset = self.problem.dataset
        self.model = models.build(
            config.model, dataset.input_shape, dataset.num_classes, seed=config.seeds["weights"], trust=trust
        ).to(place)
        few = dataset.prepare(dataset.train_x[:2].to(place))
        self.memory_format = "contiguous"
        self._samples = Samples(
            self.problem,
            batch_size=config.batch_size,
            seed=config.seeds["order"],
            augment=config.augment,
            device=place,
        )
        self._evaluation = ViewEvaluation(self.problem, self.model, place, ranks)
        self._use_format(execution.memory_format(config.memory_format, self.model, few))
        if replay is not None:
            replay.check(config, dataset.hash, -(-len(self._samples) // config.batch_size))
        self._parallel = None if ranks is None else DataParallel(ranks, config, self.model, few, len(self._samples))
        self._own_states: list[dict[str, Any]] = []  # of every process's optimizer, what may be its own
        steps = TrainingSteps.of(config, self.model, context, self._parallel, replay=replay, trust=trust)
        self._optimizer, self._warmup, self._step_context = steps
        self._perturbation: Perturbation | None = getattr(self._optimizer, "perturbation", None)
        self._check_loss()
        self._targets: Tensor | None = None  # of the loss that remembers the samples
        if isinstance(self._loss, losses.EarlyLearning):
            self._targets = torch.zeros(len(self._samples), dataset.num_classes, device=place)
        self.views = self._evaluation.views
        self.rows: list[Row] = []
        self.checkpoints: dict[int, dict[str, np.ndarray]] = {}
        self.diagnosed: dict[int, np.ndarray] = {}
        self.step_norms: dict[int, np.ndarray] = {}
        self._diagnosis = (
            Diagnosis(config, self.problem, device=place, samples=self._samples) if config.diagnose else None
        )
        self._histories = Histories(self.problem.train) if config.samples else None
        self.seconds = {"training": 0.0, "evaluation": 0.0}
        if config.diagnose:
            self.seconds["diagnostics"] = 0.0

    def _check_loss(self) -> None:
        """Refuse a loss of whole batches with what takes them apart."""
        config = self.config
        remembers = isinstance(self._loss, losses.EarlyLearning)
        if not remembers and not config.mixup:
            return
        what = f"loss {config.loss}" if remembers else f"mixup {config.mixup:g}"
        if not isinstance(self._perturbation, _OF_WHOLE_BATCHES):
            raise ValueError(
                f"{what} works on whole batches, which {config.optimizer} takes apart; take sgd, sam or asam"
            )
        if remembers and config.mixup:
            raise ValueError(f"{what} remembers samples, which mixup {config.mixup:g} mixes; leave one of them out")
        if remembers and config.diagnose:
            raise ValueError(
                f"{what} works on whole batches, and diagnose looks at parts of them; leave one of them out"
            )

    def epochs(self) -> Iterator[Row]:
        """Train from where the trainer stands to the end, yielding the row of each epoch."""
        for epoch in range(len(self.rows) + 1, self.config.epochs + 1):
            started = time.perf_counter()
            steps = self.train_epoch(epoch)
            trained = time.perf_counter()
            row = {"epoch": epoch, "lr": self._lr(epoch), **steps, **self._after_epoch(epoch)}
            self.seconds["training"] += trained - started
            self.seconds["evaluation"] += time.perf_counter() - trained
            self._diagnose(epoch)
            self.rows.append(row)
            if epoch in self.config.checkpoints or epoch == self.config.epochs:
                self.checkpoints[epoch] = self._weights()
            yield row

    def record(self) -> Training:
        """The rows so far as a record."""
        return Training(
            epochs=np.array([row["epoch"] for row in self.rows]),
            views=np.array(self.views),
            **{
                name: np.array([row[name] for row in self.rows])
                for name in Training.variables()
                if name in self.rows[0]
            },
            confusion=self._evaluation.confusion(),
        )

    def samples(self) -> SampleHistory | None:
        """Loss and margin of every training sample along training; none if they were not to be kept."""
        return None if self._histories is None else self._histories.record()

    def steps(self) -> Steps | None:
        """‖ε‖ of every step; none if the optimizer perturbs nothing, or not all steps were seen by this version."""
        if not self.step_norms or len(self.step_norms) < len(self.rows):
            return None
        return Steps(epochs=np.array(list(self.step_norms)), perturbation_norm=np.stack(list(self.step_norms.values())))

    def diagnostics(self) -> Diagnostics | None:
        """Diagnostics of the gradients so far; none if none were asked for."""
        if self._diagnosis is None or not self.diagnosed:
            return None
        return self._diagnosis.record(list(self.diagnosed), np.stack(list(self.diagnosed.values())), None)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bitwise, in forms that ``torch.load(weights_only=True)`` reads."""
        return {
            "memory_format": self.memory_format,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            **({} if self._parallel is None else {"own": self._own_states}),
            **tree_map_only(np.ndarray, torch.from_numpy, {name: getattr(self, name) for name in _ARRAYS}),
            "samples": dict(self._histories.by_epoch) if self._histories is not None else {},
            "targets": self._targets,
            "seconds": dict(self.seconds),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state_dict` of the same configuration, in the memory format that it was trained in."""
        # States from before there was a choice have none.
        self._use_format(state.get("memory_format", "contiguous"))
        self.model.load_state_dict(state["model"])
        optimizer = state["optimizer"]
        if self._ranks is not None:
            self._own_states = state["own"]
            optimizer = {**optimizer, _OWN: self._own_states[self._ranks.rank]}
        self._optimizer.load_state_dict(optimizer)
        for name in _ARRAYS:
            setattr(self, name, tree_map_only(Tensor, lambda t: t.cpu().numpy(), state.get(name, {})))
        if self._histories is not None:
            self._histories.by_epoch = {epoch: values.cpu() for epoch, values in state["samples"].items()}
        if self._targets is not None:
            self._targets.copy_(state["targets"])
        self.seconds = dict(state["seconds"])

    def _diagnose(self, epoch: int) -> None:
        """Look at the gradients after an epoch, on the batches that come next."""
        config = self.config
        if self._diagnosis is None or not config.diagnoses(epoch):
            return
        started = time.perf_counter()
        diagnosis = self._diagnosis
        self.diagnosed[epoch] = on_first(lambda: diagnosis.batches(self.model, epoch, config.diagnose), self._ranks)
        self.seconds["diagnostics"] += time.perf_counter() - started

    def train_epoch(self, epoch: int) -> Row:
        """One pass over the training samples, and the means over its steps."""
        keep_freed_memory()
        # The warm-up is part of the comparison, not of one optimizer: every arm shares it.
        opt = self._warmup if epoch <= self.config.warmup_epochs else self._optimizer
        for group in opt.param_groups:
            group["lr"] = self._lr(epoch)
        self.model.train()
        if self._parallel is None:
            steps = [(step.info, step.whole) for step in self._steps(opt, epoch)]
        else:
            with self._parallel.epoch(epoch):
                own = list(self._steps(opt, epoch))
            steps = self._parallel.of_batches(own)
            self._own_states = self._parallel.settle(self._optimizer.state_dict()[_OWN])
        means = _Means()
        for info, samples in steps:
            means.add(info, samples)
        if not isinstance(self._perturbation, NoPerturbation):
            norms = [math.nan if info.skipped is not None else info.perturbation_norm for info, _ in steps]
            self.step_norms[epoch] = np.array(norms, np.float32)
        return means.row(0.0 if self._perturbation is None else self._perturbation.rho)

    def _steps(self, opt: TrainingStep, epoch: int) -> Iterator[SharedStep]:
        """Take the steps of an epoch, yielding the record of each without its batch."""
        mixtures = Mixtures(self.config.mixup, self.config.seeds["order"], epoch) if self.config.mixup else None
        for batch in self._samples.batches(epoch, self._ranks):
            x, loss = self._inputs_and_loss(batch, mixtures)
            own = len(batch.observed)
            with (
                self._step_context(),
                nullcontext() if self._parallel is None else self._parallel.step(own, batch.whole),
            ):
                info = opt.step(
                    x,
                    batch.observed,
                    loss,
                    progress=epoch / self.config.epochs,
                    true_labels=batch.true,
                )
            if not isinstance(info, StepInfo):
                got = f"step of {self.config.optimizer} returned {type(info).__name__}"
                raise ValueError(f"{got}, expected ncsam.optimizers.StepInfo(loss, perturbed_loss, gradient_norm)")
            yield SharedStep(dataclasses.replace(info, outputs=None, labels=None), own, batch.whole)

    def _inputs_and_loss(self, batch: Batch, mixtures: Mixtures | None) -> tuple[Tensor, losses.Loss]:
        """Give what a batch is trained on, and by which loss: where one belongs to the batch, that."""
        if self._targets is not None:
            assert isinstance(self._loss, losses.EarlyLearning)
            return batch.x, self._loss.of_batch(self._targets, batch.rows)
        if mixtures is None:
            return batch.x, self._loss
        share, partner = mixtures.next(len(batch.observed))
        x, loss = mixed(batch.x, batch.observed, self._loss, share, partner.to(batch.x.device))
        return x.contiguous(memory_format=self._samples.memory_format), loss

    def _after_epoch(self, epoch: int) -> Row:
        """Note the views and every training sample, from one forward pass over each."""
        evaluates = self.config.evaluates(epoch)
        train = self._evaluation.train_outputs() if evaluates or self._histories is not None else None
        if self._histories is not None and train is not None:
            self._histories.by_epoch[epoch] = losses_and_margins(train, self.problem.observed())
        return self._evaluation.row(train) if evaluates and train is not None else self._evaluation.empty_row()

    def _use_format(self, name: str) -> None:
        """Have weights and images so in memory. No number changes; what is computed from them rounds differently."""
        if name != self.memory_format:
            self.memory_format = name
            self._samples.memory_format = self._evaluation.memory_format = execution.FORMATS[name]
            execution.lay_out(self.model, name)

    def _lr(self, epoch: int) -> float:
        return self.config.lr * self._lr_factor(epoch, self.config.epochs)

    def _weights(self) -> dict[str, np.ndarray]:
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.model.state_dict().items()}


class _Means:
    """Means over the steps of an epoch that were not skipped; the steps' outputs are not kept."""

    _NAMES = ("loss", "perturbation_norm", "compensation_norm", "cosine", "projected")

    def __init__(self) -> None:
        self._sums = dict.fromkeys(self._NAMES, 0.0)
        self._steps = self._picked = self._samples = self._skipped = 0

    def add(self, info: StepInfo, samples: int) -> None:
        if info.skipped is not None:
            self._skipped += 1
            return
        for name in self._NAMES:
            self._sums[name] += getattr(info, name)
        self._steps += 1
        self._picked += info.picked
        self._samples += samples

    def row(self, rho: float) -> Row:
        found = {name: total / self._steps if self._steps else math.nan for name, total in self._sums.items()}
        return {
            "running_loss": found.pop("loss"),
            **found,
            "relative_compensation": found["compensation_norm"] / rho if rho else math.nan,
            "picked": self._picked / self._samples if self._samples else math.nan,
            "skipped": self._skipped,
        }
