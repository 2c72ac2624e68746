"""Records of the loss along lines, over planes, on the way between points, and of paths through them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from landscape.records.base import Record
from landscape.records.fields import parameter, variable


class OnSubset(Record, kind="", kw_only=True):
    """What is known of a surface on a part of the samples; none where all were measured."""

    loss_sampling_error: np.ndarray | None = variable(
        "view", long_name="standard error of the loss at the weights over the draw of the subset", units="loss"
    )
    subset: int | None = parameter("samples of each view that were drawn and measured; all if none", None)
    subset_seed: int | None = parameter("seed of that draw", None)


class Surface(OnSubset, kind="", kw_only=True):
    """Measurement of a line or plane, and findings of its cross-check at the centre; all optional."""

    interpolation_error: np.ndarray | None = variable(
        "view", long_name="estimated largest error of interpolated losses", units="loss"
    )
    classes: np.ndarray | None = variable("class", long_name="class by label", coordinate=True)
    centre_loss: np.ndarray | None = variable(
        "view", long_name="loss at the centre, evaluated as the surface is", units="loss"
    )
    plain_loss: np.ndarray | None = variable(
        "view", long_name="loss at the centre by a plain forward pass, BatchNorm frozen", units="loss"
    )
    curvature: np.ndarray | None = variable(
        "direction", long_name="d.Hd by a Hessian product in float64", units="loss / direction^2"
    )
    second_difference: np.ndarray | None = variable(
        "direction", long_name="second difference of the loss in float64", units="loss / direction^2"
    )
    seen_curvature: np.ndarray | None = variable(
        "direction", long_name="second difference between the grid's points", units="loss / direction^2"
    )
    tol: float | None = parameter(
        "error sought in interpolation, as a share of a view's range of losses; none if every point was evaluated",
        None,
        former="tolerance",
    )
    batchnorm: str = parameter("BatchNorm statistics: frozen, or recalibrated at every point", "frozen")
    batchnorm_samples: int | None = parameter("evenly spaced samples that statistics are recomputed on", None)
    batch_size: int | None = parameter("samples in a micro-batch", None)
    memory_format: str | None = parameter("layout of images and filters in memory", None)
    batch_choice: str = parameter("who chose batch size and memory format: given, rule or measured", "given")
    auto_range: dict[str, Any] | None = parameter("how the span was found, if it was", None)
    check: dict[str, Any] | None = parameter("view, samples, steps and outcome of the check of the curvature", None)
    along: list[str] | None = parameter("what each direction is", None)
    checks: str | None = parameter("how thoroughly model, loss and data were checked: full, first or off", None)
    label: str | None = parameter("name of the objective, by which figures tell records apart", None)
    hashes: list[str] | None = parameter("SHA-256 of each direction as float64", None)

    @property
    def tolerance(self) -> float | None:
        """Former name of ``tol``."""
        warnings.warn("tolerance is now called tol; 0.3.0 removes the former name", DeprecationWarning, stacklevel=2)
        return self.tol

    def in_short(self) -> str:
        """Points along each direction, and views."""
        axes = [getattr(self, name) for name in ("alphas", "betas") if hasattr(self, name)]
        points = " × ".join(str(len(axis)) for axis in axes)
        return f"{points} points of {', '.join(map(str, self.views))}"  # type: ignore[attr-defined]


class Line(Surface, kind="line"):
    """Loss and accuracy of every view along ``w + alpha d``."""

    views: np.ndarray = variable("view", long_name="view of the data", coordinate=True)
    alphas: np.ndarray = variable(
        "alpha", long_name="displacement along direction 1", units="direction", coordinate=True
    )
    loss: np.ndarray = variable("view", "alpha", long_name="mean loss", units="loss")
    status: np.ndarray = variable("view", "alpha", long_name="status code of the value")
    weight_norm: float = variable(long_name="norm of the weights at alpha = 0")
    direction_norm: float = variable(long_name="norm of the direction")
    seed: int | None = parameter("seed of the random direction; none for a direction given by the caller")
    accuracy: np.ndarray | None = variable("view", "alpha", long_name="share of correct predictions")
    class_loss: np.ndarray | None = variable(
        "view", "class", "alpha", long_name="mean loss of a view's samples of one class", units="loss"
    )
    class_accuracy: np.ndarray | None = variable(
        "view", "class", "alpha", long_name="share of correct predictions in one class"
    )

    @property
    def relative_alphas(self) -> np.ndarray:
        """The axis in relative distance: alpha ‖d‖ / ‖w‖, signed."""
        return np.asarray(_ratio(self.alphas * self.direction_norm, self.weight_norm))

    @property
    def relative_distance(self) -> np.ndarray:
        """‖Δw‖ / ‖w‖ of every point, (alpha,)."""
        return np.abs(self.relative_alphas)


class Plane(Surface, kind="plane"):
    """Loss and accuracy of every view over ``w + alpha d1 + beta d2``."""

    views: np.ndarray = variable("view", long_name="view of the data", coordinate=True)
    alphas: np.ndarray = variable(
        "alpha", long_name="displacement along direction 1", units="direction", coordinate=True
    )
    betas: np.ndarray = variable("beta", long_name="displacement along direction 2", units="direction", coordinate=True)
    loss: np.ndarray = variable("view", "alpha", "beta", long_name="mean loss", units="loss")
    status: np.ndarray = variable("view", "alpha", "beta", long_name="status code of the value")
    weight_norm: float = variable(long_name="norm of the weights at the centre")
    direction_norms: np.ndarray = variable("direction", long_name="norms of the two directions")
    cosine: float = variable(long_name="cosine between the two directions")
    seed: int | None = parameter("seed of the random directions; none for directions given by the caller")
    accuracy: np.ndarray | None = variable("view", "alpha", "beta", long_name="share of correct predictions")
    class_loss: np.ndarray | None = variable(
        "view", "class", "alpha", "beta", long_name="mean loss of a view's samples of one class", units="loss"
    )
    class_accuracy: np.ndarray | None = variable(
        "view", "class", "alpha", "beta", long_name="share of correct predictions in one class"
    )

    @property
    def relative_alphas(self) -> np.ndarray:
        """The first axis in relative distance: alpha ‖d1‖ / ‖w‖, signed."""
        return np.asarray(_ratio(self.alphas * self.direction_norms[0], self.weight_norm))

    @property
    def relative_betas(self) -> np.ndarray:
        """The second axis in relative distance: beta ‖d2‖ / ‖w‖, signed."""
        return np.asarray(_ratio(self.betas * self.direction_norms[1], self.weight_norm))

    @property
    def relative_distance(self) -> np.ndarray:
        """‖Δw‖ / ‖w‖ of every point, (alpha, beta); the angle between the directions is taken into account."""
        a, b = np.meshgrid(self.relative_alphas, self.relative_betas, indexing="ij")
        cosine = self.cosine if np.isfinite(self.cosine) else 0.0  # of a direction without length
        return np.asarray(np.sqrt(np.fmax(a**2 + b**2 + 2 * cosine * a * b, 0)))


class LineDraws(OnSubset, kind="line_draws"):
    """The lines along several random directions, so that a band can be shown instead of a single line."""

    draws: np.ndarray = variable("draw", long_name="seed of the draw", coordinate=True)
    views: np.ndarray = variable("view", long_name="view of the data", coordinate=True)
    alphas: np.ndarray = variable("alpha", long_name="displacement", units="direction", coordinate=True)
    loss: np.ndarray = variable("draw", "view", "alpha", long_name="mean loss", units="loss")
    status: np.ndarray = variable("draw", "view", "alpha", long_name="status code of the value")
    weight_norm: float = variable(long_name="norm of the weights at alpha = 0")
    direction_norms: np.ndarray = variable("draw", "direction", long_name="norm of the direction")
    hashes: np.ndarray = variable("draw", "direction", long_name="SHA-256 of the direction as float64")
    accuracy: np.ndarray | None = variable("draw", "view", "alpha", long_name="share of correct predictions")

    def quantiles(self, view: str, q: Any) -> np.ndarray:
        """Quantiles of the loss over the draws, at each point; (alpha,) or (q, alpha)."""
        return np.asarray(np.quantile(self.loss[:, self.views.tolist().index(view)], q, axis=0))


class PlaneDraws(OnSubset, kind="plane_draws"):
    """The planes of several pairs of random directions."""

    draws: np.ndarray = variable("draw", long_name="seed of the draw", coordinate=True)
    views: np.ndarray = variable("view", long_name="view of the data", coordinate=True)
    alphas: np.ndarray = variable(
        "alpha", long_name="displacement along direction 1", units="direction", coordinate=True
    )
    betas: np.ndarray = variable("beta", long_name="displacement along direction 2", units="direction", coordinate=True)
    loss: np.ndarray = variable("draw", "view", "alpha", "beta", long_name="mean loss", units="loss")
    status: np.ndarray = variable("draw", "view", "alpha", "beta", long_name="status code of the value")
    weight_norm: float = variable(long_name="norm of the weights at the centre")
    direction_norms: np.ndarray = variable("draw", "direction", long_name="norm of the direction")
    cosines: np.ndarray = variable("draw", long_name="cosine between the two directions")
    hashes: np.ndarray = variable("draw", "direction", long_name="SHA-256 of the direction as float64")
    accuracy: np.ndarray | None = variable("draw", "view", "alpha", "beta", long_name="share of correct predictions")

    def quantiles(self, view: str, q: Any) -> np.ndarray:
        """Quantiles of the loss over the draws, at each point; (alpha, beta) or (q, alpha, beta)."""
        return np.asarray(np.quantile(self.loss[:, self.views.tolist().index(view)], q, axis=0))


class Trajectory(Record, kind="trajectory"):
    """Checkpoints of a training run in the coordinates of one or two directions through one of them."""

    epochs: np.ndarray = variable("checkpoint", long_name="epoch of the checkpoint", coordinate=True)
    coordinates: np.ndarray = variable(
        "checkpoint", "direction", long_name="least-squares coordinate", units="direction"
    )
    distance: np.ndarray = variable("checkpoint", long_name="distance from the plane", units="parameter")
    length: np.ndarray = variable("checkpoint", long_name="distance from the centre", units="parameter")
    explained: float = variable(long_name="share of the squared lengths that lies in the plane")
    hashes: np.ndarray = variable("direction", long_name="SHA-256 of the direction as float64")
    ratios: np.ndarray | None = variable(
        "component", long_name="share of the squared lengths along each principal component"
    )


class Connection(OnSubset, kind="connection"):
    """Loss and accuracy of every view on the straight line from one point (alpha = 0) to another (alpha = 1)."""

    views: np.ndarray = variable("view", long_name="view of the data", coordinate=True)
    alphas: np.ndarray = variable("alpha", long_name="position on the way", units="distance", coordinate=True)
    loss: np.ndarray = variable("view", "alpha", long_name="mean loss", units="loss")
    status: np.ndarray = variable("view", "alpha", long_name="status code of the value")
    barrier: np.ndarray = variable(
        "view", long_name="highest rise over the straight line between the losses of the ends", units="loss"
    )
    peak: np.ndarray = variable("view", long_name="where on the way it is", units="distance")
    distance: float = variable(long_name="distance between the ends", units="parameter")
    cosine: float = variable(long_name="cosine between the weights of the ends")
    buffers: str = parameter("buffers on the way: none, start, interpolated or recalibrated")
    start: str = parameter("what lies at 0")
    end: str = parameter("what lies at 1")
    accuracy: np.ndarray | None = variable("view", "alpha", long_name="share of correct predictions")


def _ratio(length: np.ndarray, norm: float) -> np.ndarray:
    """Lengths relative to a norm; infinite where that is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(length / np.float64(norm))
