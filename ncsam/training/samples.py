"""The training samples of a run on its device, handed out batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from landscape import LazyInputs
from landscape.ranks import Ranks
from ncsam.data import PadCropFlip, picked
from ncsam.training.problem import Problem

_SHARE = 0.5  # of an accelerator's free memory that data may take; the rest is the model's


class Batch(NamedTuple):
    """Inputs ready for the model (B, …), observed and true labels (B,), on the device.

    ``rows`` says which of the training samples they are, in the order of :attr:`ncsam.training.problem.Problem.train`;
    ``whole`` is the number of samples of the batch, of which one process of several gets its share.
    """

    x: Tensor
    observed: Tensor
    true: Tensor
    rows: Tensor
    whole: int


class Samples:
    """The training part of a problem. Pixels stay uint8 and are augmented and normalised batch by batch on the device.
    Lazy inputs are read batch by batch.

    Order and augmentation are functions of (seed, epoch) alone, so that resuming needs no generator state and the
    device makes no difference.

    Args:
        problem: whose training part it is.
        batch_size: samples of a batch; the last of an epoch may be smaller.
        seed: of order and augmentation.
        augment: pad by 4 pixels (by an eighth of the side where that is less), crop, flip.
        device: where batches are wanted.
        memory_format: of the inputs in batches.
        resident: keep all inputs on the device; if none, where they take no more than half of its free memory. Lazy
            inputs never are.

    Raises:
        ValueError: augmentation is asked for inputs that are not images.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        batch_size: int,
        seed: int,
        augment: bool = False,
        device: torch.device | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        resident: bool | None = None,
    ) -> None:
        self._dataset, self._batch_size, self._seed = problem.dataset, batch_size, seed
        self._device = device or torch.device("cpu")
        self.memory_format = memory_format
        shape = self._dataset.input_shape
        if augment and len(shape) != 3:
            raise ValueError(f"augmentation needs images (channels, height, width), but inputs have the shape {shape}")
        everything = len(self._dataset.train_y)  # a sample's augmentation does not depend on how the set was split
        self._augment = PadCropFlip(everything, pad=min(4, shape[-1] // 8), seed=seed) if augment else None
        inputs = picked(self._dataset.train_x, problem.train)
        self.resident = not isinstance(inputs, LazyInputs) and (
            _fits(inputs, self._device) if resident is None else resident
        )
        self._inputs = inputs.to(self._device) if isinstance(inputs, Tensor) and self.resident else inputs
        self._index = torch.from_numpy(problem.train).to(self._device)
        self._observed = problem.observed().to(self._device)
        self._true = problem.true().to(self._device)

    def __len__(self) -> int:
        return len(self._index)

    def batches(self, epoch: int, ranks: Ranks | None = None) -> Iterator[Batch]:
        """The batches of an epoch, counted from 1; of each the share of this process, where there are several."""
        order = torch.from_numpy(np.random.default_rng([self._seed, epoch]).permutation(len(self)))
        for rows in order.to(self._device if self.resident else "cpu").split(self._batch_size):
            whole = len(rows)
            if ranks is not None:
                rows = rows[ranks.share_of(whole)]
            x = self._rows(rows).to(self._device)
            rows = rows.to(self._device)
            if self._augment is not None:
                x = self._augment(x, self._index[rows], epoch)
            observed, true = self._observed.index_select(0, rows), self._true.index_select(0, rows)
            ready = self._dataset.prepare(x).contiguous(memory_format=self.memory_format)
            yield Batch(ready, observed, true, rows, whole)

    def _rows(self, rows: Tensor) -> Tensor:
        if isinstance(self._inputs, LazyInputs):
            return self._inputs[rows]
        return self._inputs.index_select(0, rows)  # a third of the time that indexing takes


def _fits(inputs: Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True  # main memory, or memory shared with it
    free, _ = torch.cuda.mem_get_info(device)
    return inputs.nbytes <= _SHARE * free
