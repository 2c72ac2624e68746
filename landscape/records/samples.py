"""Records of single samples: their curvature along vectors, and the rise of their losses."""

from __future__ import annotations

import numpy as np

from landscape.records.base import Record
from landscape.records.fields import parameter, variable


class SampleCurvature(Record, kind="sample_curvature"):
    """Curvature of the loss of every single sample along vectors; its weighted mean is that of the mean loss.

    Samples that the loss ignores have weight 0 and NaN.
    """

    curvature: np.ndarray = variable(
        "pair", "sample", long_name="v.Hv of the loss of one sample", units="loss / parameter^2"
    )
    total: np.ndarray = variable("pair", long_name="v.Hv of the mean loss", units="loss / parameter^2")
    loss: np.ndarray = variable("sample", long_name="loss of the sample", units="loss")
    weights: np.ndarray = variable("sample", long_name="weight in the mean loss; they add up to 1")
    positions: np.ndarray = variable("sample", long_name="position in the source of the view", coordinate=True)
    view: str = parameter("view of the data")
    checks: str | None = parameter("how thoroughly model, loss and data were checked: full, first or off", None)
    label: str | None = parameter("name of the objective, by which figures tell records apart", None)

    @property
    def contributions(self) -> np.ndarray:
        """weight · curvature, (pair, sample): what each sample adds to the curvature of the mean loss."""
        return self.weights * np.where(self.weights > 0, self.curvature, 0.0)

    def in_short(self) -> str:
        """Vectors and samples, and the curvature of the mean loss along the first vector."""
        pairs, samples = self.curvature.shape
        return f"{pairs} vectors, {samples} samples of {self.view}, v.Hv {self.total[0]:.4g}"


class SampleRises(Record, kind="sample_rises"):
    """Rise of the loss of every single sample along vectors: at w + step·v minus at w."""

    rises: np.ndarray = variable("pair", "step", "sample", long_name="rise of the loss of one sample", units="loss")
    steps: np.ndarray = variable("step", long_name="step along the vector", units="vector", coordinate=True)
    loss: np.ndarray = variable("sample", long_name="loss of the sample at the weights", units="loss")
    weights: np.ndarray = variable("sample", long_name="weight in the mean loss; they add up to 1")
    positions: np.ndarray = variable("sample", long_name="position in the source of the view", coordinate=True)
    view: str = parameter("view of the data")
    label: str | None = parameter("name of the objective, by which figures tell records apart", None)
