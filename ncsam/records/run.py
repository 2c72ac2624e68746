"""The records of run files: labels, and what was kept along training."""

from __future__ import annotations

from typing import Any

import numpy as np

from landscape.records import Record, parameter, variable
from landscape.store import declare_layout


class Labels(Record, kind="labels"):
    """Labels of the whole training set of a run."""

    observed: np.ndarray = variable("sample", long_name="label as trained on")
    true: np.ndarray = variable("sample", long_name="true label")
    flipped: np.ndarray = variable("sample", long_name="whether the observed label is wrong")
    held_out: np.ndarray = variable("sample", long_name="whether the sample belongs to the validation part")
    transition: np.ndarray = variable("true_class", "observed_class", long_name="probability of the flip")
    realized_rate: float = variable(long_name="share of wrong labels")
    noise: str = parameter("kind of label noise")
    rate: float = parameter("noise rate asked for")
    seed: int | None = parameter("seed of the noise")
    options: dict[str, Any] = parameter("further settings of the noise")


class Training(Record, kind="training"):
    """One row an epoch."""

    epochs: np.ndarray = variable("epoch", long_name="epoch, counted from 1", coordinate=True)
    views: np.ndarray = variable("view", long_name="view of the data", coordinate=True)
    loss: np.ndarray = variable(
        "epoch", "view", long_name="mean loss at the end of the epoch, NaN where not evaluated", units="loss"
    )
    accuracy: np.ndarray = variable("epoch", "view", long_name="share of correct predictions, NaN where not evaluated")
    memorisation: np.ndarray = variable("epoch", long_name="share of wrong labels that are predicted")
    running_loss: np.ndarray = variable("epoch", long_name="mean training loss over the epoch's steps", units="loss")
    lr: np.ndarray = variable("epoch", long_name="learning rate")
    perturbation_norm: np.ndarray = variable("epoch", long_name="mean norm of the perturbation", units="parameter")
    compensation_norm: np.ndarray = variable("epoch", long_name="mean norm of s g*", units="parameter")
    cosine: np.ndarray = variable("epoch", long_name="mean cosine between perturbation and SAM's direction")
    projected: np.ndarray = variable("epoch", long_name="share of steps in which the projection shortened")
    skipped: np.ndarray = variable("epoch", long_name="steps skipped because loss or gradient was not finite")
    corrected: np.ndarray | None = variable(
        "epoch", long_name="share of wrong-labelled samples predicted as their true class"
    )
    relative_compensation: np.ndarray | None = variable("epoch", long_name="mean norm of s g* over rho")
    picked: np.ndarray | None = variable("epoch", long_name="share of samples that g* was computed from")
    balanced_accuracy: np.ndarray | None = variable(
        "epoch", long_name="mean over the classes of the accuracy on the test data"
    )
    class_accuracy: np.ndarray | None = variable("epoch", "class", long_name="accuracy on the test data of each class")
    confusion: np.ndarray | None = variable("true_class", "predicted_class", long_name="test samples, last epoch")

    def of_view(self, name: str) -> np.ndarray:
        """Accuracy on one view, (epoch,)."""
        return self.accuracy[:, self.views.tolist().index(name)]

    @property
    def evaluated(self) -> np.ndarray:
        """Mask of the epochs at whose end the views were evaluated, (epoch,) bool; their values are NaN elsewhere."""
        evaluated: np.ndarray = ~np.isnan(self.accuracy).all(axis=1)  # an accuracy is a share even where a loss is NaN
        return evaluated


class SampleHistory(Record, kind="sample_history"):
    """Every training sample along training, with its observed label and without augmentation."""

    epochs: np.ndarray = variable("epoch", long_name="epoch, counted from 1", coordinate=True)
    index: np.ndarray = variable("sample", long_name="position in the training set", coordinate=True)
    loss: np.ndarray = variable("epoch", "sample", long_name="cross-entropy at the end of the epoch", units="nat")
    margin: np.ndarray = variable("epoch", "sample", long_name="output of the label less the largest other one")
    aum: np.ndarray = variable("sample", long_name="mean margin over the epochs (area under the margin)")
    forgetting: np.ndarray = variable("sample", long_name="times it was right after one epoch and wrong after the next")
    learned: np.ndarray = variable("sample", long_name="whether it was ever right")


class Steps(Record, kind="steps"):
    """Every step of a training whose optimizer perturbs the weights."""

    epochs: np.ndarray = variable("epoch", long_name="epoch, counted from 1", coordinate=True)
    perturbation_norm: np.ndarray = variable(
        "epoch", "step", long_name="norm of the perturbation, NaN where the step was skipped", units="parameter"
    )


IMPORT = "import"
"""Attribute ``source`` of a run file whose weights were trained elsewhere: it has no training rows."""
_MEASURED = dict.fromkeys(("hessian/*", "surface/*", "sharpness/*", "diagnostics/*"), "*")

declare_layout(
    "run",
    required={"labels": "labels", "training": "training"},
    allowed={**_MEASURED, "weights/*": "arrays", "samples": "sample_history", "steps": "steps"},
)
declare_layout("run", source=IMPORT, required={"labels": "labels", "weights/*": "arrays"}, allowed=_MEASURED)
