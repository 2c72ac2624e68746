"""Records of spectra: eigenpairs, traces, densities, and the data and parameters that they come from."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from landscape.records.base import Record, with_error
from landscape.records.fields import parameter, variable


class EigenResult(Record, kind="eigenpairs"):
    """Eigenpairs of a symmetric operator, values in the order of ``which``."""

    values: np.ndarray = variable("pair", long_name="eigenvalue", units="loss / parameter^2")
    residuals: np.ndarray = variable("pair", long_name="residual norm |Hv - lambda v|", units="loss / parameter^2")
    converged: np.ndarray = variable("pair", long_name="residual within tolerance")
    matvecs: int = variable(long_name="operator-vector products used")
    which: str = parameter("end of the spectrum: LA, SA, LM or both")
    tol: float = parameter("relative residual at which a pair counts as converged")
    seed: int = parameter("seed of the start vector")
    vectors: np.ndarray | None = variable("parameter", "pair", long_name="eigenvector")
    errors: np.ndarray | None = variable(
        "pair", long_name="bound on the error of the eigenvalue", units="loss / parameter^2"
    )
    sharp: np.ndarray | None = variable("pair", long_name="bound is residual^2 / gap, else the residual")
    unseen_lower: float | None = variable(
        long_name="lower end of all other eigenvalues, where they were searched for", units="loss / parameter^2"
    )
    unseen_upper: float | None = variable(
        long_name="upper end of all other eigenvalues, where they were searched for", units="loss / parameter^2"
    )
    trace: float | None = variable(
        long_name="trace estimate, where it was measured beside them", units="loss / parameter^2"
    )
    trace_stderr: float | None = variable(long_name="standard error of the trace", units="loss / parameter^2")
    search_matvecs: int | None = variable(long_name="products of these spent on the search")
    block: int = parameter("vectors multiplied at once", 1)
    checks: str | None = parameter("how thoroughly model, loss and data were checked: full, first or off", None)
    label: str | None = parameter("name of the objective, by which figures tell records apart", None)
    scale: str | None = parameter(
        "what changes of the parameters are measured in, such as |w|, so that curvature is in units of the loss", None
    )
    basis: Any = dataclasses.field(
        default=None, repr=False
    )  # of the run, in memory only, to deflate other estimates by

    def in_short(self) -> str:
        """The first three eigenvalues with their errors, and what they took."""
        errors = self.residuals if self.errors is None else self.errors
        told = [with_error(v, e) for v, e in zip(self.values[:3].tolist(), errors[:3].tolist(), strict=True)]
        if len(self.values) > 3:
            told.append(f"… {len(self.values)} pairs")
        missed = int(np.count_nonzero(~np.asarray(self.converged, bool)))
        told += [f"{missed} not converged"] if missed else []
        if self.trace is not None and self.trace_stderr is not None:
            told.append(f"trace {with_error(self.trace, self.trace_stderr)}")
        return ", ".join([*told, f"{self.matvecs:.0f} products"])


class TraceResult(Record, kind="trace"):
    """Stochastic estimate of a trace; ``stderr`` is the standard error over the probes."""

    value: float = variable(long_name="trace estimate", units="loss / parameter^2")
    stderr: float = variable(long_name="standard error of the estimate", units="loss / parameter^2")
    matvecs: int = variable(long_name="operator-vector products used")
    samples: np.ndarray = variable("probe", long_name="estimate from one probe", units="loss / parameter^2")
    seed: int = parameter("seed of the probes")
    deflated: int | None = variable(long_name="dimensions taken exactly, not estimated")
    checks: str | None = parameter("how thoroughly model, loss and data were checked: full, first or off", None)
    label: str | None = parameter("name of the objective, by which figures tell records apart", None)
    scale: str | None = parameter(
        "what changes of the parameters are measured in, such as |w|, so that curvature is in units of the loss", None
    )

    def in_short(self) -> str:
        """Value, standard error and products."""
        return f"{with_error(self.value, self.stderr)}, {self.matvecs} products"


class MomentsResult(Record, kind="moments"):
    """Trace, Frobenius norm and participation ratio of an operator, from the same probes, with standard errors."""

    trace: float = variable(long_name="trace estimate", units="loss / parameter^2")
    trace_stderr: float = variable(long_name="standard error of the trace", units="loss / parameter^2")
    frobenius: float = variable(long_name="Frobenius norm estimate", units="loss / parameter^2")
    frobenius_stderr: float = variable(long_name="standard error of the norm", units="loss / parameter^2")
    effective_rank: float = variable(long_name="participation ratio trace^2 / Frobenius norm^2")
    effective_rank_stderr: float = variable(long_name="standard error of the participation ratio")
    deflated: int = variable(long_name="dimensions taken exactly, not estimated")
    matvecs: int = variable(long_name="operator-vector products used")
    seed: int = parameter("seed of the probes")


class DiagonalResult(Record, kind="diagonal"):
    """Stochastic estimate of an operator's diagonal; ``stderr`` is the standard error over the probes."""

    values: np.ndarray = variable("parameter", long_name="diagonal estimate", units="loss / parameter^2")
    stderr: np.ndarray = variable("parameter", long_name="standard error of the estimate", units="loss / parameter^2")
    deflated: int = variable(long_name="dimensions taken exactly, not estimated")
    matvecs: int = variable(long_name="operator-vector products used")
    seed: int = parameter("seed of the probes")


class DensityResult(Record, kind="density"):
    """Spectral density of an operator with its standard error, and the quadrature it was drawn from."""

    grid: np.ndarray = variable("grid", long_name="eigenvalue", units="loss / parameter^2", coordinate=True)
    density: np.ndarray = variable("grid", long_name="spectral density", units="parameter^2 / loss")
    stderr: np.ndarray = variable("grid", long_name="standard error over the probes", units="parameter^2 / loss")
    nodes: np.ndarray = variable("probe", "step", long_name="quadrature node", units="loss / parameter^2")
    weights: np.ndarray = variable("probe", "step", long_name="quadrature weight")
    matvecs: int = variable(long_name="operator-vector products used")
    broadening: float = parameter("deviation of the kernel as a fraction of the width of the spectrum")
    seed: int = parameter("seed of the probes")
    outliers: np.ndarray | None = variable(
        "outlier", long_name="eigenvalue put in as found", units="loss / parameter^2"
    )
    size: int | None = parameter("dimension of the operator; every outlier weighs one over it", None)
    checks: str | None = parameter("how thoroughly model, loss and data were checked: full, first or off", None)
    label: str | None = parameter("name of the objective, by which figures tell records apart", None)


class NegativeMass(Record, kind="negative_mass"):
    """The part of a spectrum below zero, by number and by magnitude; standard errors over a density's probes."""

    count: float = variable(long_name="share of the eigenvalues that are below the threshold")
    count_stderr: float = variable(long_name="standard error of that share")
    magnitude: float = variable(long_name="share of the sum of |eigenvalue| that negative ones hold")
    magnitude_stderr: float = variable(long_name="standard error of that share")
    threshold: float = parameter("eigenvalues above minus this do not count as negative")


class LayerSpectra(Record, kind="layer_spectra"):
    """Largest eigenvalue, and trace, of the diagonal block of every layer."""

    layers: np.ndarray = variable("layer", long_name="name of the module", coordinate=True)
    sizes: np.ndarray = variable("layer", long_name="number of parameters")
    values: np.ndarray = variable("layer", long_name="largest eigenvalue of the block", units="loss / parameter^2")
    residuals: np.ndarray = variable("layer", long_name="residual norm |Hv - lambda v|", units="loss / parameter^2")
    converged: np.ndarray = variable("layer", long_name="residual within tolerance")
    matvecs: int = variable(long_name="operator-vector products used")
    tol: float = parameter("relative residual at which a pair counts as converged")
    seed: int = parameter("seed of start vectors and probes")
    trace: np.ndarray | None = variable("layer", long_name="trace of the block", units="loss / parameter^2")
    trace_stderr: np.ndarray | None = variable(
        "layer", long_name="standard error of the trace", units="loss / parameter^2"
    )


class CurvatureSplit(Record, kind="curvature_split"):
    """Curvature along given directions, and how much of it each part of a weighted sum of operators contributes."""

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


class SubspaceOverlap(Record, kind="subspace_overlap"):
    """Principal angles between two subspaces."""

    angles: np.ndarray = variable("angle", long_name="principal angle, ascending", units="rad")
    overlap: float = variable(long_name="mean squared cosine of the principal angles")
    chance: float = variable(long_name="overlap expected of random subspaces of these dimensions")


class Alignment(Record, kind="alignment"):
    """Shares of given directions that point along eigenvectors, whose sign has no meaning."""

    directions: np.ndarray = variable("direction", long_name="name of the direction", coordinate=True)
    cosines: np.ndarray = variable(
        "direction", "pair", long_name="magnitude of the cosine between direction and eigenvector"
    )
    captured: np.ndarray = variable(
        "direction", long_name="share of the direction's squared norm within the span of the eigenvectors"
    )
    chance: float = variable(long_name="share expected of a random direction")
