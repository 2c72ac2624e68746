"""One training on several processes: each steps with its share of every batch, and all hold the same weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from landscape.objective.isolation import undisturbed
from landscape.ranks import RankLostError, Ranks, RanksDisagreeError
from ncsam.optimizers import OPTIMIZERS, StepInfo
from ncsam.optimizers.cluster_inversion import ClusterInversion
from ncsam.optimizers.step_info import merged
from ncsam.training.batch_norm import BatchNormOverRanks
from ncsam.training.config import TrainConfig

T = TypeVar("T")


class SharedStep(NamedTuple):
    """The record of a step, how many samples of the batch this process had, and how many the batch has."""

    info: StepInfo
    own: int
    whole: int


class DataParallel:
    """The processes that train a model, by DistributedDataParallel, on shares of each batch.

    With ``perturbed_shares=1`` in the configuration the step is that of one process with the whole batch: one
    perturbation, along the gradient of all shares, picks among all samples, BatchNorm over all samples. Otherwise each
    process perturbs along the gradient of its own share, on which BatchNorm normalises (m-sharpness); the gradients
    there are averaged by the shares' sizes, and the running statistics of the processes after each epoch.

    Args:
        ranks: the processes, all of which make this at the same point of the program.
        model: to be trained, with the same weights on all of them afterwards.
        inputs: a few of them ready for the model.
        samples: number of training samples.

    Attributes:
        model: the model in DistributedDataParallel.

    Raises:
        ValueError: something in the configuration or the model is for one process.
    """

    def __init__(self, ranks: Ranks, config: TrainConfig, model: nn.Module, inputs: Tensor, samples: int) -> None:
        self.ranks, self._config, self._plain = ranks, config, model
        self._whole = config.perturbed_shares == 1
        _check(config, model, ranks.size, samples)
        self.model = DistributedDataParallel(model, find_unused_parameters=_has_idle_parameters(model, inputs))
        self.model.broadcast_buffers = False  # after the start; torch 2.13 has another name for the argument
        self._weight = 1.0  # of this process's gradient in the batch's
        if not self._whole:
            self.model.register_comm_hook(None, lambda _, bucket: self._weighted_mean(bucket))

    def options(self) -> dict[str, Any]:
        """Options that every optimizer of the training is built with besides its own."""
        return {"synchronised": self._whole, "forward": self._forward if self._whole else None}

    def seed(self, seed: int) -> int:
        """The seed of this process's draws in the step: the same on all processes where they draw together."""
        return seed if self._whole else _seed_of(seed, self.ranks.rank)

    @contextmanager
    def epoch(self, epoch: int) -> Iterator[None]:
        """Context of an epoch's steps, in which what the model draws itself is each process's own, and resumable."""
        device = next(self._plain.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(_seed_of(self._config.seeds["order"], epoch, self.ranks.rank))
            yield

    @contextmanager
    def step(self, own: int, whole: int) -> Iterator[None]:
        """Context of a step with ``own`` of the batch's ``whole`` samples.

        Raises:
            RankLostError: another process is gone.
        """
        self._weight = own / whole
        try:
            yield
        except RuntimeError as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if isinstance(error, dist.DistError) or "gloo" in line.lower():  # gloo's errors have no class of their own
                raise RankLostError(f"another of the {self.ranks.size} processes was lost ({line[:200]})") from error
            raise

    def of_batches(self, steps: Sequence[SharedStep]) -> list[tuple[StepInfo, int]]:
        """Records of the whole batches, the same on all processes, each with the batch's number of samples.

        Where each process perturbs by itself, losses and picks are the batch's, norms and cosines means over processes.
        """
        if self._whole:
            return [(step.info, step.whole) for step in steps]
        return [
            (merged([part.info for part in parts], [part.own / part.whole for part in parts]), parts[0].whole)
            for parts in zip(*self.ranks.gather(steps), strict=True)
        ]

    def settle(self, own: T) -> list[T]:
        """Make weights and buffers the same on all processes after an epoch, or check that they are.

        Returns:
            What the processes gave as ``own``.

        Raises:
            RanksDisagreeError: they are not, and cannot be made so.
        """
        if not self._whole:
            # Running means are linear in what they are means of, so when they are averaged does not matter.
            norms = [module for module in self._plain.modules() if isinstance(module, _BatchNorm)]
            for running in [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]:
                if running is not None:
                    running.copy_(self.ranks.total(running.double()) / self.ranks.size)
        found = {name: _digest(tensor) for name, tensor in self._plain.state_dict().items()}
        for other in self.ranks.gather(found):
            if differing := [name for name in found if found[name] != other[name]]:
                raise RanksDisagreeError(
                    f"{differing[0]} is not the same on all {self.ranks.size} processes after an epoch; train on one "
                    "process if the model computes it from the samples that it sees, else use machines of one kind"
                )
        return self.ranks.gather(own)

    def _forward(self, model: nn.Module, x: Any) -> Any:
        with BatchNormOverRanks(self.ranks):
            return model(x)

    def _weighted_mean(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        work = dist.all_reduce(bucket.buffer().mul_(self._weight), group=self.ranks.group, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])


def _check(config: TrainConfig, model: nn.Module, processes: int, samples: int) -> None:
    """Refuse what is for one process.

    Raises:
        ValueError: there is such a thing.
    """
    shares = config.perturbed_shares
    if shares not in (1, processes):
        raise ValueError(f"perturbed_shares is {shares}, expected 1 or {processes}, as many as there are processes")
    alone = f"runs in one process, and these are {processes}"
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"{config.optimizer} {alone}; train without torchrun")
    perturbation = OPTIMIZERS[config.optimizer].prototype
    if perturbation.group is not None:
        raise ValueError(
            f"{config.optimizer} {alone}; take sam with perturbed_shares {processes}, where each process is a group"
        )
    if config.compile:
        raise ValueError(f"compile {alone}; leave it out")
    if config.mixup or config.loss.partition(":")[0] == "elr":
        what = f"mixup {config.mixup:g}" if config.mixup else f"loss {config.loss}"
        raise ValueError(f"{what} works on whole batches, so it {alone}; train without torchrun")
    last = samples % config.batch_size or config.batch_size
    if last < processes:
        raise ValueError(
            f"the last of the batches of {config.batch_size} has {last} of {samples} samples, less than one for each "
            f"of {processes} processes; choose another batch_size"
        )
    normalised = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if shares == 1 and normalised and isinstance(getattr(perturbation, "noise", None), ClusterInversion):
        raise ValueError(
            f"{config.optimizer} runs its picks through the model by themselves, but a process without picks would be "
            f"missing in BatchNorm ({normalised[0]}); take perturbed_shares {processes}, or train without torchrun"
        )


def _has_idle_parameters(model: nn.Module, inputs: Tensor) -> bool:
    """Tell whether there are parameters that a pass does not use, which DistributedDataParallel must look for."""
    trained = [p for p in model.parameters() if p.requires_grad]
    with undisturbed(model):
        gradients = torch.autograd.grad(model(inputs).float().sum(), trained, allow_unused=True)
    return any(gradient is None for gradient in gradients)


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()
