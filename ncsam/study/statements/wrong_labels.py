"""T10: does the curvature of single samples find wrong labels? In version 3 alone.

The effects, their smallest relevant size and the arm are constants here. They were written down after the code had run
on one short run on digits, whose areas were printed, and before any study.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ncsam.study.effects import CONTRAST_RATE, Effect, at_contrast, difference, noisy, value
from ncsam.study.statements.statement import Statement
from ncsam.study.table import Study

ARM = "sgd"
SMALLEST = 0.02  # in area under the ROC curve
AREA = "auc/curvature"


def above_chance(study: Study) -> np.ndarray:
    """Area under the ROC curve of sample curvature, less that of a coin, per seed."""
    return study.of(AREA, ARM, CONTRAST_RATE) - 0.5


def above_loss(study: Study) -> np.ndarray:
    """Area of sample curvature less that of the loss of the same samples, per seed."""
    return study.of(AREA, ARM, CONTRAST_RATE) - study.of("auc/loss", ARM, CONTRAST_RATE)


def _secondary(study: Study) -> Mapping[str, Effect]:
    found: dict[str, Effect] = {
        f"area of {score}, {arm}": value(f"auc/{score}", arm)
        for arm in study.arms
        for score in ("curvature", "loss", "margin", "aum")
    }
    found |= {
        f"wrong labels among as many samples of highest {score}": value(f"precision/{score}", ARM)
        for score in ("curvature", "loss", "margin", "aum")
    }
    found |= {f"area of curvature at {rate:.0%}": value(AREA, ARM, rate) for rate in noisy(study)}
    found |= {f"area of curvature, {arm} - {ARM}": difference(AREA, arm, ARM) for arm in study.arms if arm != ARM}
    return found


T10 = Statement(
    "T10",
    "the curvature of single samples finds wrong labels, and better than their loss",
    "area under the ROC curve of vᵀ∇²ℓᵢv for wrong labels, v the leading eigenvector of the mixed view at the last "
    "epoch, SGD at 40 %: less 1/2, and less the area of the loss",
    {"above chance": above_chance, "above the loss": above_loss},
    SMALLEST,
    (((AREA, "auc/loss"), (ARM,), at_contrast),),
    unit=(1, "in area under the ROC curve"),
    question="Does curvature find wrong labels?",
    secondary=_secondary,
    claim="None of the paper; that wrong labels make sharp minima suggests that they hold the curvature.",
    why="An area asks for no threshold. Better than chance alone would not make curvature of use, since the loss is at "
    "hand for less.",
    control="Margin, AUM, other arms and other noise rates; wrong labels that are fitted have a small loss.",
)
