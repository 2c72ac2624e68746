"""Settings chosen on the validation part, with its observed labels, on seeds that no reported run has."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ncsam.runs.run import Run
from ncsam.sweep.cells import Cell
from ncsam.training.config import LAST_EPOCHS

RULE = "highest mean"
"""Name of the rule by which a candidate is chosen, which a plan records."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Trials for one arm under one noise, and the best of them.

    Attributes:
        tried: every candidate with its validation accuracy, the mean over the tuning seeds.
        chosen: the first of those with the highest.
    """

    arm: str
    noise: str
    tried: Sequence[tuple[Mapping[str, Any], float]]
    chosen: Mapping[str, Any]


def choose(tried: Sequence[tuple[Cell, Mapping[str, Any]]], score: Callable[[Cell], float]) -> list[Choice]:
    """The best candidate of each arm under each noise.

    Args:
        tried: the tuning's cells with the candidate that each tries.
        score: :func:`validation_accuracy` of a cell's finished run.
    """
    groups: dict[tuple[str, str], list[tuple[Mapping[str, Any], list[float]]]] = defaultdict(list)
    for cell, candidate in tried:
        accuracies = groups[cell.arm, cell.config.noise]
        of_candidate = next((found for known, found in accuracies if known == candidate), None)
        if of_candidate is None:
            of_candidate = []
            accuracies.append((candidate, of_candidate))
        of_candidate.append(score(cell))
    choices = []
    for (arm, noise), accuracies in groups.items():
        means = [(candidate, float(np.mean(found))) for candidate, found in accuracies]
        choices.append(Choice(arm, noise, means, max(means, key=lambda pair: pair[1])[0]))
    return choices


def validation_accuracy(run: Run) -> float:
    """Accuracy on the held-out samples with their observed labels, the mean over the last five epochs.

    Raises:
        ValueError: the run has no validation part.
    """
    training = run.training
    if "val" not in training.views:
        raise ValueError(f"{run.path}: nothing was held out to tune on; set val_fraction above 0")
    return float(training.of_view("val")[-LAST_EPOCHS:].mean())
