"""The record of a trained path between two points of parameter space."""

from __future__ import annotations

import math

import numpy as np

from landscape.records.fields import parameter, variable
from landscape.records.surfaces import Connection

SHAPES = ("bezier", "polyline")


class Curve(Connection, kind="curve", kw_only=True):
    """Loss and accuracy of every view along a curve from one point (t = 0) to another (t = 1).

    ``alphas`` holds the values of t. The ends are the first and the last control point.
    """

    control_points: np.ndarray = variable("point", "parameter", long_name="control points, the two ends among them")
    barrier_error: np.ndarray = variable(
        "view", long_name="how much higher the barrier may be between the points", units="loss"
    )
    barrier_stderr: np.ndarray = variable(
        "view", long_name="standard error of the barrier over the samples, at the points", units="loss"
    )
    history: np.ndarray = variable("step", long_name="loss at the point of each training step", units="loss")
    length: float = variable(long_name="length of the curve", units="parameter")
    shape: str = parameter("bezier or polyline")
    trained_on: str = parameter("view whose loss was lowered")
    gradients: int = parameter("gradients that the training took, of one point each")
    samples: int | None = parameter("samples of each gradient; none for all of the view", None)
    lr: float = parameter("first step size of Adam, as a share of the root mean square distance between the ends")
    seed: int = parameter("seed of points and samples")

    def at(self, t: float) -> np.ndarray:
        """The point of parameter space at t, (K,)."""
        return np.asarray(weights_at(self.shape, len(self.control_points), t) @ self.control_points)


def weights_at(shape: str, count: int, t: float) -> np.ndarray:
    """Weights of ``count`` control points in the point at t, (count,), adding up to 1.

    Bernstein polynomials of degree count − 1 for ``bezier``; for ``polyline`` the two bends next to t, bends being
    equally spaced in t.

    >>> weights_at("bezier", 3, 0.5).tolist(), weights_at("polyline", 3, 0.25).tolist()
    ([0.25, 0.5, 0.25], [0.5, 0.5, 0.0])
    """
    if shape == "bezier":
        n = count - 1
        return np.array([math.comb(n, k) * t**k * (1 - t) ** (n - k) for k in range(count)])
    return np.maximum(0.0, 1 - np.abs(t * (count - 1) - np.arange(count)))
