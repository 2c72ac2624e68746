"""Result records: frozen, labelled, numpy only.

A record is a frozen dataclass whose fields say, once, what they hold: an array with named dimensions, units and
a long name, or a parameter of the measurement. Everything downstream (HDF5, xarray, CSV, figures) reads that
declaration, so a new kind of result needs no code of its own to be stored.

Nothing here imports the rest of the package; ``save`` and ``to_xarray`` do, when called.
"""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

if TYPE_CHECKING:
    import xarray


class Status(enum.IntEnum):
    """What became of one measured value; stored as ``uint8`` beside it."""

    PENDING = 0
    OK = 1
    NONFINITE = 2
    NOT_CONVERGED = 3
    EMPTY = 4
    INTERPOLATED = 5
    FAILED = 6


@dataclasses.dataclass(frozen=True)
class Variable:
    """Declaration of an array field: ``dims`` names each axis; ``coordinate`` marks the labels of that one axis."""

    dims: tuple[str, ...]
    units: str
    long_name: str
    coordinate: bool = False


@dataclasses.dataclass(frozen=True)
class Parameter:
    """Declaration of a setting of the measurement: text, number, ``None``, or a JSON-able dict or list."""

    long_name: str


def variable(*dims: str, long_name: str, units: str = "1", coordinate: bool = False, optional: bool = False) -> Any:
    """Declare an array field of a record; without ``dims`` it is a single number."""
    if coordinate and len(dims) != 1:
        raise ValueError(f"a coordinate labels one dimension, got dims {dims}")
    metadata = {"declares": Variable(dims, units, long_name, coordinate)}
    if optional:
        return dataclasses.field(default=None, metadata=metadata)
    return dataclasses.field(metadata=metadata)


def parameter(long_name: str, default: Any = dataclasses.MISSING) -> Any:
    """Declare a setting of the measurement as a field of a record."""
    metadata = {"declares": Parameter(long_name)}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


_KINDS: dict[str, type[Record]] = {}
R = TypeVar("R", bound="Record")


def record_type(kind: str) -> type[Record]:
    """The record class stored under ``kind``.

    Raises:
        KeyError: no imported module defines that kind.
    """
    if kind not in _KINDS:
        raise KeyError(f"unknown kind of record {kind!r}; known: {', '.join(sorted(_KINDS))}")
    return _KINDS[kind]


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """Base of all result records.

    Subclasses are frozen dataclasses with a class attribute ``kind`` and fields made by :func:`variable` and
    :func:`parameter`. Array fields are converted with :func:`numpy.asarray`, and dimensions that share a name must
    share a length.

    Raises:
        ValueError: a field's shape contradicts its declared dimensions.
    """

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.kind:
            _KINDS[cls.kind] = cls

    @classmethod
    def variables(cls) -> dict[str, Variable]:
        """Array fields by name, in the order they are declared."""
        return {
            f.name: f.metadata["declares"]
            for f in dataclasses.fields(cls)
            if isinstance(f.metadata.get("declares"), Variable)
        }

    @classmethod
    def parameters(cls) -> dict[str, Parameter]:
        """Settings of the measurement by field name."""
        return {
            f.name: f.metadata["declares"]
            for f in dataclasses.fields(cls)
            if isinstance(f.metadata.get("declares"), Parameter)
        }

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, declared in self.variables().items():
            value = getattr(self, name)
            if value is None:
                continue
            array = np.asarray(value)
            if array.ndim != len(declared.dims):
                raise ValueError(
                    f"{type(self).__name__}.{name} has shape {array.shape}, expected the dimensions "
                    f"({', '.join(declared.dims)})"
                )
            for dim, size in zip(declared.dims, array.shape, strict=True):
                if sizes.setdefault(dim, size) != size:
                    raise ValueError(
                        f"{type(self).__name__}.{name} has {size} entries along {dim!r}, other fields {sizes[dim]}"
                    )
            object.__setattr__(self, name, array if declared.dims else array[()])

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the record to an HDF5 file of its own; read it back with :func:`landscape.load`."""
        from landscape import store

        store.save(self, path, overwrite=overwrite)

    def to_xarray(self) -> xarray.Dataset:
        """The record as an ``xarray.Dataset`` with named dimensions and coordinates (extra ``xarray``)."""
        import xarray

        coords: dict[str, Any] = {}
        data: dict[str, Any] = {}
        for name, declared in self.variables().items():
            value = getattr(self, name)
            if value is None:
                continue
            attrs = {"units": declared.units, "long_name": declared.long_name}
            target = coords if declared.coordinate else data
            target[declared.dims[0] if declared.coordinate else name] = (declared.dims, value, attrs)
        attrs = {name: getattr(self, name) for name in self.parameters()}
        return xarray.Dataset(data, coords, {k: v for k, v in attrs.items() if v is not None})


@dataclasses.dataclass(frozen=True, eq=False)
class EigenResult(Record):
    """Eigenpairs of a symmetric operator, values in the order of ``which``."""

    kind: ClassVar[str] = "eigenpairs"

    values: np.ndarray = variable("pair", long_name="eigenvalue", units="loss / parameter^2")
    residuals: np.ndarray = variable("pair", long_name="residual norm |Hv - lambda v|", units="loss / parameter^2")
    converged: np.ndarray = variable("pair", long_name="residual within tolerance")
    matvecs: int = variable(long_name="operator-vector products used")
    which: str = parameter("end of the spectrum: LA, SA, LM or both")
    tol: float = parameter("relative residual at which a pair counts as converged")
    seed: int = parameter("seed of the start vector")
    vectors: np.ndarray | None = variable("parameter", "pair", long_name="eigenvector", optional=True)
    errors: np.ndarray | None = variable(
        "pair", long_name="bound on the error of the eigenvalue", units="loss / parameter^2", optional=True
    )
    sharp: np.ndarray | None = variable("pair", long_name="bound is residual^2 / gap, else the residual", optional=True)
    unseen_lower: float | None = variable(
        long_name="lower end of all other eigenvalues, where they were searched for",
        units="loss / parameter^2",
        optional=True,
    )
    unseen_upper: float | None = variable(
        long_name="upper end of all other eigenvalues, where they were searched for",
        units="loss / parameter^2",
        optional=True,
    )
    search_matvecs: int | None = variable(long_name="products of these spent on the search", optional=True)
    block: int = parameter("vectors multiplied at once", 1)
    basis: Any = dataclasses.field(
        default=None, repr=False
    )  # of the run, in memory only, to deflate other estimates by


@dataclasses.dataclass(frozen=True, eq=False)
class TraceResult(Record):
    """Stochastic estimate of a trace; ``stderr`` is the standard error over the probes."""

    kind: ClassVar[str] = "trace"

    value: float = variable(long_name="trace estimate", units="loss / parameter^2")
    stderr: float = variable(long_name="standard error of the estimate", units="loss / parameter^2")
    matvecs: int = variable(long_name="operator-vector products used")
    samples: np.ndarray = variable("probe", long_name="estimate from one probe", units="loss / parameter^2")
    seed: int = parameter("seed of the probes")
    deflated: int | None = variable(long_name="dimensions taken exactly, not estimated", optional=True)


@dataclasses.dataclass(frozen=True, eq=False)
class MomentsResult(Record):
    """Trace, Frobenius norm and participation ratio of an operator, from the same probes, with standard errors."""

    kind: ClassVar[str] = "moments"

    trace: float = variable(long_name="trace estimate", units="loss / parameter^2")
    trace_stderr: float = variable(long_name="standard error of the trace", units="loss / parameter^2")
    frobenius: float = variable(long_name="Frobenius norm estimate", units="loss / parameter^2")
    frobenius_stderr: float = variable(long_name="standard error of the norm", units="loss / parameter^2")
    effective_rank: float = variable(long_name="participation ratio trace^2 / Frobenius norm^2")
    effective_rank_stderr: float = variable(long_name="standard error of the participation ratio")
    deflated: int = variable(long_name="dimensions taken exactly, not estimated")
    matvecs: int = variable(long_name="operator-vector products used")
    seed: int = parameter("seed of the probes")


@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalResult(Record):
    """Stochastic estimate of an operator's diagonal; ``stderr`` is the standard error over the probes."""

    kind: ClassVar[str] = "diagonal"

    values: np.ndarray = variable("parameter", long_name="diagonal estimate", units="loss / parameter^2")
    stderr: np.ndarray = variable("parameter", long_name="standard error of the estimate", units="loss / parameter^2")
    deflated: int = variable(long_name="dimensions taken exactly, not estimated")
    matvecs: int = variable(long_name="operator-vector products used")
    seed: int = parameter("seed of the probes")


@dataclasses.dataclass(frozen=True, eq=False)
class DensityResult(Record):
    """Spectral density of an operator with its standard error, and the quadrature it was drawn from."""

    kind: ClassVar[str] = "density"

    grid: np.ndarray = variable("grid", long_name="eigenvalue", units="loss / parameter^2", coordinate=True)
    density: np.ndarray = variable("grid", long_name="spectral density", units="parameter^2 / loss")
    stderr: np.ndarray = variable("grid", long_name="standard error over the probes", units="parameter^2 / loss")
    nodes: np.ndarray = variable("probe", "step", long_name="quadrature node", units="loss / parameter^2")
    weights: np.ndarray = variable("probe", "step", long_name="quadrature weight")
    matvecs: int = variable(long_name="operator-vector products used")
    broadening: float = parameter("deviation of the kernel as a fraction of the width of the spectrum")
    seed: int = parameter("seed of the probes")
    outliers: np.ndarray | None = variable(
        "outlier", long_name="eigenvalue put in as found", units="loss / parameter^2", optional=True
    )
    size: int | None = parameter("dimension of the operator; every outlier weighs one over it", None)


@dataclasses.dataclass(frozen=True, eq=False)
class NegativeMass(Record):
    """How much of a spectrum lies below zero, by number and by magnitude; standard errors over a density's probes."""

    kind: ClassVar[str] = "negative_mass"

    count: float = variable(long_name="share of the eigenvalues that are below the threshold")
    count_stderr: float = variable(long_name="standard error of that share")
    magnitude: float = variable(long_name="share of the sum of |eigenvalue| that negative ones hold")
    magnitude_stderr: float = variable(long_name="standard error of that share")
    threshold: float = parameter("eigenvalues above minus this do not count as negative")


@dataclasses.dataclass(frozen=True, eq=False)
class LayerSpectra(Record):
    """Largest eigenvalue, and trace, of the diagonal block of every layer."""

    kind: ClassVar[str] = "layer_spectra"

    layers: np.ndarray = variable("layer", long_name="name of the module", coordinate=True)
    sizes: np.ndarray = variable("layer", long_name="number of parameters")
    values: np.ndarray = variable("layer", long_name="largest eigenvalue of the block", units="loss / parameter^2")
    residuals: np.ndarray = variable("layer", long_name="residual norm |Hv - lambda v|", units="loss / parameter^2")
    converged: np.ndarray = variable("layer", long_name="residual within tolerance")
    matvecs: int = variable(long_name="operator-vector products used")
    tol: float = parameter("relative residual at which a pair counts as converged")
    seed: int = parameter("seed of start vectors and probes")
    trace: np.ndarray | None = variable(
        "layer", long_name="trace of the block", units="loss / parameter^2", optional=True
    )
    trace_stderr: np.ndarray | None = variable(
        "layer", long_name="standard error of the trace", units="loss / parameter^2", optional=True
    )


@dataclasses.dataclass(frozen=True, eq=False)
class CurvatureSplit(Record):
    """Curvature along given directions, and how much of it each part of a weighted sum of operators contributes."""

    kind: ClassVar[str] = "curvature_split"

    parts: np.ndarray = variable("part", long_name="part of the sum", coordinate=True)
    shares: np.ndarray = variable("part", long_name="weight of the part in the sum")
    curvature: np.ndarray = variable(
        "part", "pair", long_name="curvature v.Hv of the part itself", units="loss / parameter^2"
    )
    total: np.ndarray = variable("pair", long_name="curvature v.Hv of the whole", units="loss / parameter^2")
    mismatch: np.ndarray = variable(
        "pair", long_name="curvature of the whole minus the weighted sum", units="loss / parameter^2"
    )
    matvecs: int = variable(long_name="operator-vector products used")

    @property
    def contributions(self) -> np.ndarray:
        """share · curvature, (part, pair): what each part adds to the whole."""
        return self.shares[:, None] * self.curvature


@dataclasses.dataclass(frozen=True, eq=False)
class SubspaceOverlap(Record):
    """Principal angles between two subspaces."""

    kind: ClassVar[str] = "subspace_overlap"

    angles: np.ndarray = variable("angle", long_name="principal angle, ascending", units="rad")
    overlap: float = variable(long_name="mean squared cosine of the principal angles")
    chance: float = variable(long_name="overlap expected of random subspaces of these dimensions")


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment(Record):
    """How far given directions point along eigenvectors, whose sign has no meaning."""

    kind: ClassVar[str] = "alignment"

    directions: np.ndarray = variable("direction", long_name="name of the direction", coordinate=True)
    cosines: np.ndarray = variable(
        "direction", "pair", long_name="magnitude of the cosine between direction and eigenvector"
    )
    captured: np.ndarray = variable(
        "direction", long_name="share of the direction's squared norm within the span of the eigenvectors"
    )
    chance: float = variable(long_name="share expected of a random direction")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Surface(Record):
    """How a line or plane was measured, and what its cross-check at the centre found; all optional."""

    interpolation_error: np.ndarray | None = variable(
        "view", long_name="estimated largest error of interpolated losses", units="loss", optional=True
    )
    classes: np.ndarray | None = variable("class", long_name="class by label", coordinate=True, optional=True)
    centre_loss: np.ndarray | None = variable(
        "view", long_name="loss at the centre, evaluated as the surface is", units="loss", optional=True
    )
    plain_loss: np.ndarray | None = variable(
        "view", long_name="loss at the centre by a plain forward pass, BatchNorm frozen", units="loss", optional=True
    )
    curvature: np.ndarray | None = variable(
        "direction", long_name="d.Hd by a Hessian product in float64", units="loss / direction^2", optional=True
    )
    second_difference: np.ndarray | None = variable(
        "direction", long_name="second difference of the loss in float64", units="loss / direction^2", optional=True
    )
    seen_curvature: np.ndarray | None = variable(
        "direction", long_name="second difference between the grid's points", units="loss / direction^2", optional=True
    )
    tolerance: float | None = parameter(
        "error sought in interpolation, as a share of a view's range of losses; none if every point was evaluated", None
    )
    batchnorm: str = parameter("BatchNorm statistics: frozen, or recalibrated at every point", "frozen")
    batchnorm_samples: int | None = parameter("evenly spaced samples that statistics are recomputed on", None)
    batch_size: int | None = parameter("samples in a micro-batch", None)
    memory_format: str | None = parameter("layout of images and filters in memory", None)
    batch_choice: str = parameter("who chose batch size and memory format: given, rule or measured", "given")
    auto_range: dict[str, Any] | None = parameter("how the span was found, if it was", None)
    check: dict[str, Any] | None = parameter("view, samples, steps and outcome of the check of the curvature", None)
    along: list[str] | None = parameter("what each direction is", None)
    hashes: list[str] | None = parameter("SHA-256 of each direction as float64", None)


@dataclasses.dataclass(frozen=True, eq=False)
class Line(Surface):
    """Loss and accuracy of every view along ``w + alpha d``."""

    kind: ClassVar[str] = "line"

    views: np.ndarray = variable("view", long_name="view of the data", coordinate=True)
    alphas: np.ndarray = variable(
        "alpha", long_name="displacement along direction 1", units="direction", coordinate=True
    )
    loss: np.ndarray = variable("view", "alpha", long_name="mean loss", units="loss")
    status: np.ndarray = variable("view", "alpha", long_name="status code of the value")
    weight_norm: float = variable(long_name="norm of the weights at alpha = 0")
    direction_norm: float = variable(long_name="norm of the direction")
    seed: int | None = parameter("seed of the random direction; none for a direction given by the caller")
    accuracy: np.ndarray | None = variable("view", "alpha", long_name="share of correct predictions", optional=True)
    class_loss: np.ndarray | None = variable(
        "view", "class", "alpha", long_name="mean loss of a view's samples of one class", units="loss", optional=True
    )
    class_accuracy: np.ndarray | None = variable(
        "view", "class", "alpha", long_name="share of correct predictions in one class", optional=True
    )

    @property
    def relative_alphas(self) -> np.ndarray:
        """The axis in relative distance: alpha ‖d‖ / ‖w‖, signed."""
        return np.asarray(_ratio(self.alphas * self.direction_norm, self.weight_norm))

    @property
    def relative_distance(self) -> np.ndarray:
        """‖Δw‖ / ‖w‖ of every point, (alpha,)."""
        return np.abs(self.relative_alphas)


@dataclasses.dataclass(frozen=True, eq=False)
class Plane(Surface):
    """Loss and accuracy of every view over ``w + alpha d1 + beta d2``."""

    kind: ClassVar[str] = "plane"

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
    accuracy: np.ndarray | None = variable(
        "view", "alpha", "beta", long_name="share of correct predictions", optional=True
    )
    class_loss: np.ndarray | None = variable(
        "view",
        "class",
        "alpha",
        "beta",
        long_name="mean loss of a view's samples of one class",
        units="loss",
        optional=True,
    )
    class_accuracy: np.ndarray | None = variable(
        "view", "class", "alpha", "beta", long_name="share of correct predictions in one class", optional=True
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


@dataclasses.dataclass(frozen=True, eq=False)
class LineDraws(Record):
    """The lines along several random directions, so that a band can be shown instead of one lucky line."""

    kind: ClassVar[str] = "line_draws"

    draws: np.ndarray = variable("draw", long_name="seed of the draw", coordinate=True)
    views: np.ndarray = variable("view", long_name="view of the data", coordinate=True)
    alphas: np.ndarray = variable("alpha", long_name="displacement", units="direction", coordinate=True)
    loss: np.ndarray = variable("draw", "view", "alpha", long_name="mean loss", units="loss")
    status: np.ndarray = variable("draw", "view", "alpha", long_name="status code of the value")
    weight_norm: float = variable(long_name="norm of the weights at alpha = 0")
    direction_norms: np.ndarray = variable("draw", "direction", long_name="norm of the direction")
    hashes: np.ndarray = variable("draw", "direction", long_name="SHA-256 of the direction as float64")
    accuracy: np.ndarray | None = variable(
        "draw", "view", "alpha", long_name="share of correct predictions", optional=True
    )

    def quantiles(self, view: str, q: Any) -> np.ndarray:
        """Quantiles of the loss over the draws, at each point; (alpha,) or (q, alpha)."""
        return np.asarray(np.quantile(self.loss[:, self.views.tolist().index(view)], q, axis=0))


@dataclasses.dataclass(frozen=True, eq=False)
class PlaneDraws(Record):
    """The planes of several pairs of random directions."""

    kind: ClassVar[str] = "plane_draws"

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
    accuracy: np.ndarray | None = variable(
        "draw", "view", "alpha", "beta", long_name="share of correct predictions", optional=True
    )

    def quantiles(self, view: str, q: Any) -> np.ndarray:
        """Quantiles of the loss over the draws, at each point; (alpha, beta) or (q, alpha, beta)."""
        return np.asarray(np.quantile(self.loss[:, self.views.tolist().index(view)], q, axis=0))


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory(Record):
    """Checkpoints of a training run in the coordinates of one or two directions through one of them."""

    kind: ClassVar[str] = "trajectory"

    epochs: np.ndarray = variable("checkpoint", long_name="epoch of the checkpoint", coordinate=True)
    coordinates: np.ndarray = variable(
        "checkpoint", "direction", long_name="least-squares coordinate", units="direction"
    )
    distance: np.ndarray = variable("checkpoint", long_name="distance from the plane", units="parameter")
    length: np.ndarray = variable("checkpoint", long_name="distance from the centre", units="parameter")
    explained: float = variable(long_name="share of the squared lengths that lies in the plane")
    hashes: np.ndarray = variable("direction", long_name="SHA-256 of the direction as float64")
    ratios: np.ndarray | None = variable(
        "component", long_name="share of the squared lengths along each principal component", optional=True
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Connection(Record):
    """Loss and accuracy of every view on the straight line from one point (alpha = 0) to another (alpha = 1)."""

    kind: ClassVar[str] = "connection"

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
    accuracy: np.ndarray | None = variable("view", "alpha", long_name="share of correct predictions", optional=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Sharpness(Record):
    """One sharpness of one objective: the rise in loss that a perturbation of the stated radius causes."""

    kind: ClassVar[str] = "sharpness"

    value: float = variable(long_name="sharpness: perturbed loss minus loss", units="loss")
    loss: float = variable(long_name="loss at the weights", units="loss")
    stderr: float = variable(long_name="standard error over random perturbations; 0 where none are drawn", units="loss")
    measure: str = parameter("sam, adaptive, average, adaptive_average or keskar")
    radius: float = parameter("rho of the ball, sigma of the Gaussian, or epsilon of the box")
    steps: int = parameter("ascent steps, or random perturbations drawn")
    seed: int | None = parameter("seed of what is drawn at random; none where nothing is", None)
    restarts: int = parameter("ascents from random points, besides the one from the weights", 0)
    rises: np.ndarray | None = variable(
        "start", "step", long_name="perturbed loss minus loss along each ascent", units="loss", optional=True
    )

    def __float__(self) -> float:
        return float(self.value)


@dataclasses.dataclass(frozen=True, eq=False)
class KeskarSharpness(Sharpness):
    """Keskar's epsilon-sharpness of one objective: the relative rise in loss over a box, in per cent."""

    kind: ClassVar[str] = "keskar_sharpness"

    value: float = variable(long_name="sharpness: 100 (largest loss - loss) / (1 + loss)", units="percent")


def _ratio(length: np.ndarray, norm: float) -> np.ndarray:
    """Lengths relative to a norm; infinite where that is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(length / np.float64(norm))
