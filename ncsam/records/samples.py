"""The record of the training samples that hold the curvature of a run."""

from __future__ import annotations

import numpy as np

from landscape.records import Record, parameter, variable


class SampleCurvatures(Record, kind="sample_curvatures"):
    """Every training sample with its observed label: its curvature along the leading eigenvectors, loss and margin.

    The eigenvectors are those of the mean loss over these samples; the mean of a vector's curvatures is its eigenvalue.
    """

    epochs: np.ndarray = variable("epoch", long_name="epoch of the weights", coordinate=True)
    index: np.ndarray = variable("sample", long_name="position in the training set", coordinate=True)
    observed: np.ndarray = variable("sample", long_name="observed label")
    true: np.ndarray = variable("sample", long_name="true label")
    flipped: np.ndarray = variable("sample", long_name="whether the label is wrong")
    curvature: np.ndarray = variable(
        "epoch", "pair", "sample", long_name="v.Hv of the loss of the sample", units="loss / parameter^2"
    )
    values: np.ndarray = variable("epoch", "pair", long_name="eigenvalue", units="loss / parameter^2")
    residuals: np.ndarray = variable(
        "epoch", "pair", long_name="residual norm |Hv - lambda v|", units="loss / parameter^2"
    )
    converged: np.ndarray = variable("epoch", "pair", long_name="1 where the residual is within tolerance")
    loss: np.ndarray = variable("epoch", "sample", long_name="cross-entropy", units="nat")
    margin: np.ndarray = variable("epoch", "sample", long_name="output of the label less the largest other one")
    weight_norm: np.ndarray = variable("epoch", long_name="norm of the weights", units="parameter")
    status: np.ndarray = variable("epoch", long_name="status code of the row")
    tol: float = parameter("relative residual at which a pair counts as converged")
    seed: int = parameter("seed of start vectors")
    dtype: str = parameter("precision of the products")

    @property
    def contributions(self) -> np.ndarray:
        """Share of each sample in each eigenvalue, (epoch, pair, sample); they add up to 1, some may be negative."""
        return np.asarray(self.curvature / self.curvature.sum(axis=-1, keepdims=True))

    def scores(self, epoch: int = -1) -> dict[str, np.ndarray]:
        """Scores that may tell wrong labels from right ones at the epoch of that position, higher for wrong, (sample,).

        ``curvature`` along the first eigenvector, ``loss``, ``margin`` with its sign turned, and ``confident``: how far
        the probability of a sample's label lies below its mean over the samples with that label, by which confident
        learning ranks (Northcutt, Jiang & Chuang 2021, arXiv 1911.00068; cleanlab's adjusted self-confidence).
        """
        probability, label = np.exp(-self.loss[epoch]), np.asarray(self.observed, int)
        known = np.isfinite(probability)
        members = np.bincount(label[known], minlength=label.max(initial=0) + 1)
        mean = np.bincount(label[known], probability[known], minlength=len(members)) / np.maximum(members, 1)
        return {
            "curvature": self.curvature[epoch, 0],
            "loss": self.loss[epoch],
            "margin": -self.margin[epoch],
            "confident": mean[label] - probability,
        }
