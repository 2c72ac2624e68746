"""Outputs of a model sample by sample: accuracy by class, the confusion matrix, and the history of every sample."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ncsam.data import Data
from ncsam.data.dataset import Inputs
from ncsam.records import SampleHistory


@torch.no_grad()
def logits(
    model: nn.Module,
    dataset: Data,
    inputs: Inputs,
    batch_size: int,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Outputs of the model in eval mode for inputs of the data set, (n, C) float32 on the CPU; the mode is set back."""
    table = torch.empty(0)
    training = model.training
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # a model may draw in eval mode, too
        model.eval()
        try:
            for at in range(0, len(inputs), batch_size):
                batch = dataset.prepare(inputs[at : at + batch_size].to(device))
                found: Tensor = model(batch.contiguous(memory_format=memory_format))
                if not at:  # one block for all: small ones kept between large ones let the heap grow with every batch
                    table = torch.empty(len(inputs), *found.shape[1:], dtype=torch.float32, device="cpu")
                table[at : at + batch_size] = found
        finally:
            model.train(training)
    return table


def confusion_matrix(outputs: Tensor, labels: Tensor) -> np.ndarray:
    """Number of samples of each class (rows) that are predicted as each (columns), (C, C) int64.

    Those whose largest output is not finite are left out.

    >>> confusion_matrix(torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1, 1])).tolist()
    [[1, 0], [1, 1]]
    """
    classes, told = outputs.shape[1], outputs.amax(dim=1).isfinite()
    outputs, labels = outputs[told], labels[told]
    flat = labels * classes + outputs.argmax(dim=1)
    return torch.bincount(flat, minlength=classes**2).reshape(classes, classes).numpy()


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of each class that is predicted rightly, (C,); NaN where there are no samples of it."""
    totals = confusion.sum(axis=1)
    return np.divide(confusion.diagonal(), totals, out=np.full(len(totals), np.nan), where=totals > 0)


def losses_and_margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, and by how much its label's output exceeds the largest other one, (2, n) float32.

    >>> losses_and_margins(torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([0]))[1].tolist()
    [-2.0]
    """
    loss = functional.cross_entropy(outputs, labels, reduction="none")
    own = outputs.gather(1, labels[:, None]).squeeze(1)
    others = outputs.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return torch.stack([loss, own - others])


@dataclasses.dataclass
class Histories:
    """Loss and margin of every training sample at the end of each epoch.

    Attributes:
        index: positions of the samples in the training set, (n,).
        by_epoch: (2, n) float32 each, see :func:`losses_and_margins`.
    """

    index: np.ndarray
    by_epoch: dict[int, Tensor] = dataclasses.field(default_factory=dict)

    def record(self) -> SampleHistory:
        """The record of what was noted so far, with AUM and forgetting counts.

        The area under the margin (Pleiss et al. 2020, arXiv 2001.10528) is the mean margin over the epochs. A sample
        is forgotten (Toneva et al. 2019, arXiv 1812.05159) whenever it is predicted as its label at the end of an epoch
        and not at that of the next.
        """
        table = torch.stack(list(self.by_epoch.values())).numpy()
        margins = table[:, 1]
        right = margins > 0
        return SampleHistory(
            epochs=np.array(list(self.by_epoch)),
            index=self.index,
            loss=table[:, 0],
            margin=margins,
            aum=margins.mean(axis=0, dtype=np.float64),
            forgetting=(right[:-1] & ~right[1:]).sum(axis=0),
            learned=np.asarray(right.any(axis=0)),
        )
