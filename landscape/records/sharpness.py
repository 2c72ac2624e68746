"""Records of sharpness."""

from __future__ import annotations

import numpy as np

from landscape.records.base import Record, with_error
from landscape.records.fields import parameter, variable

WORST_CASE = ("sam", "adaptive", "keskar")
"""Measures of the largest rise, of which an ascent gives a lower bound."""
_ARGUMENT = {"average": "sigma", "adaptive_average": "sigma", "keskar": "epsilon"}  # rho of the others


class Sharpness(Record, kind="sharpness"):
    """One sharpness of one objective: the rise in loss that a perturbation of the stated radius causes.

    An average has a standard error. The worst case has none: it is a lower bound, and the record says so.
    """

    value: float = variable(long_name="sharpness: perturbed loss minus loss", units="loss")
    loss: float = variable(long_name="loss at the weights", units="loss")
    measure: str = parameter("sam, adaptive, average, adaptive_average or keskar")
    radius: float = parameter("rho of the ball, sigma of the Gaussian, or epsilon of the box")
    steps: int = parameter("ascent steps, or random perturbations drawn")
    seed: int | None = parameter("seed of what is drawn at random; none where nothing is", None)
    stderr: float | None = variable(
        long_name="standard error over random perturbations or groups of samples",
        former="standard error over random perturbations; 0 where none are drawn",
        units="loss",
    )
    bound: str | None = parameter("lower: the largest rise is at least the value; none of an average", None)
    restarts: int = parameter("ascents from random points, besides the one from the weights", 0)
    rises: np.ndarray | None = variable(
        "start", "step", long_name="perturbed loss minus loss along each ascent", units="loss"
    )
    checks: str | None = parameter("how thoroughly model, loss and data were checked: full, first or off", None)
    label: str | None = parameter("name of the objective, by which figures tell records apart", None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure in WORST_CASE and self.bound is None:  # earlier files have a standard error of 0 instead
            object.__setattr__(self, "bound", "lower")
            object.__setattr__(self, "stderr", self.stderr or None)

    @property
    def rho(self) -> float:
        """Radius of the ball, of SAM's and of adaptive sharpness."""
        return self._radius("rho")

    @property
    def sigma(self) -> float:
        """Standard deviation of the perturbations, of averages."""
        return self._radius("sigma")

    @property
    def epsilon(self) -> float:
        """Relative half-width of the box, of Keskar's sharpness."""
        return self._radius("epsilon")

    def _radius(self, argument: str) -> float:
        called = _ARGUMENT.get(self.measure, "rho")
        if argument != called:
            raise AttributeError(f"{self.measure} sharpness has no {argument}; its radius is called {called}")
        return self.radius

    def __float__(self) -> float:
        return float(self.value)

    def in_short(self) -> str:
        """Measure, value, what is known of its error, and rho, sigma or epsilon."""
        value = f"{self.value:.4g}" if self.stderr is None else with_error(self.value, self.stderr)
        kind = "" if self.bound is None else f", {self.bound} bound"
        return f"{self.measure} {value}{kind}, {_ARGUMENT.get(self.measure, 'rho')} {self.radius:g}"


class KeskarSharpness(Sharpness, kind="keskar_sharpness"):
    """Keskar's epsilon-sharpness of one objective: the relative rise in loss over a box, in per cent."""

    value: float = variable(long_name="sharpness: 100 (largest loss - loss) / (1 + loss)", units="percent")
