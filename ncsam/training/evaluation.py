"""Evaluation of a model in training on the views of its problem: losses, accuracies, memorisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.ranks import Ranks, on_first
from ncsam import data
from ncsam.data.dataset import Inputs
from ncsam.training.predictions import class_accuracy, confusion_matrix, logits
from ncsam.training.problem import VIEWS, Problem, batch_size_for

_NUMBERS = ("memorisation", "corrected", "balanced_accuracy")  # one each, besides what has an axis


class ViewEvaluation:
    """Evaluates a model on every view of a problem, from one forward pass over each set of inputs.

    Args:
        problem: data and labels.
        model: in training; evaluated in eval mode, and set back.
        device: of the model.
        ranks: processes that share the batches; all have the same results.

    Attributes:
        views: names of the views.
        memory_format: of images.
    """

    def __init__(self, problem: Problem, model: nn.Module, device: torch.device, ranks: Ranks | None) -> None:
        self._problem, self._model, self._device, self._ranks = problem, model, device, ranks
        self._checked = False
        self.memory_format = torch.contiguous_format
        self.views = tuple(v for v in VIEWS if v != "val" or len(problem.val))

    def train_outputs(self) -> Tensor:
        """Outputs for the training samples, (n, C)."""
        return self._outputs(data.picked(self._problem.dataset.train_x, self._problem.train))

    def row(self, train: Tensor) -> dict[str, Any]:
        """Loss and accuracy of every view, and what they say about the wrong labels.

        Args:
            train: the :meth:`train_outputs`.
        """
        self._check()
        problem = self._problem
        dataset, wrong = problem.dataset, torch.from_numpy(problem.labels.flipped[problem.train])
        test = self._outputs(dataset.test_x)
        observed, true = _losses_and_hits(train, problem.observed()), _losses_and_hits(train, problem.true())
        tables = {
            "mixed": observed,
            "clean_part": observed[:, ~wrong],
            "noisy_part": observed[:, wrong],
            "true_labels": true,
            "test": _losses_and_hits(test, dataset.test_y),
        }
        if "val" in self.views:
            held_out = torch.from_numpy(problem.labels.observed[problem.val])
            tables["val"] = _losses_and_hits(self._outputs(data.picked(dataset.train_x, problem.val)), held_out)
        means = np.stack([tables[view].mean(dim=1).numpy() for view in self.views], axis=1)
        by_class = class_accuracy(confusion_matrix(test, dataset.test_y))
        return {
            "loss": means[0],
            "accuracy": means[1],
            "memorisation": float(tables["noisy_part"][1].mean()),
            "corrected": float(true[1, wrong].mean()),
            "class_accuracy": by_class,
            "balanced_accuracy": float(np.nanmean(by_class)) if np.isfinite(by_class).any() else math.nan,
        }

    def empty_row(self) -> dict[str, Any]:
        """The row of an epoch that is not evaluated: NaN."""
        views, classes = len(self.views), self._problem.dataset.num_classes
        arrays = {"loss": views, "accuracy": views, "class_accuracy": classes}
        return {name: np.full(size, np.nan) for name, size in arrays.items()} | dict.fromkeys(_NUMBERS, math.nan)

    def confusion(self) -> np.ndarray:
        """Test samples of each class by what they are predicted as, (C, C)."""
        dataset = self._problem.dataset
        return confusion_matrix(self._outputs(dataset.test_x), dataset.test_y)

    def _check(self) -> None:
        """Refuse, at the first evaluation, a model whose outputs are not a function of its weights and a sample."""
        if not self._checked:
            test = self._problem.objective(self._model, ("test",), self._batch_size())
            on_first(lambda: bool(test.evaluate()), self._ranks)
            self._checked = True

    def _batch_size(self) -> int:
        # An accelerator is busy only with more at once than serves a CPU's caches.
        return batch_size_for(self._problem.dataset) if self._device.type == "cpu" else 1024

    def _outputs(self, inputs: Inputs) -> Tensor:
        """Outputs for inputs of the data set, the same on all processes, which share the batches."""
        dataset, size, memory_format = self._problem.dataset, self._batch_size(), self.memory_format

        def outputs(of: Inputs) -> Tensor:
            return logits(self._model, dataset, of, size, self._device, memory_format)

        if self._ranks is None:
            return outputs(inputs)
        mine = self._ranks.share_of(-(-len(inputs) // size))
        own = data.picked(inputs, slice(mine.start * size, mine.stop * size))
        none = torch.empty(0, dataset.num_classes, dtype=torch.float32, device="cpu")
        return self._ranks.rows(outputs(own) if len(own) else none)


def _losses_and_hits(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, and 1 where it is predicted as its label, (2, n) float64.

    Where the largest output is not finite nothing is predicted, so both are NaN.
    """
    loss = functional.cross_entropy(outputs.double(), labels, reduction="none")
    hits = (outputs.argmax(dim=1) == labels).double()
    return torch.stack([loss, hits.masked_fill(~outputs.amax(dim=1).isfinite(), math.nan)])
