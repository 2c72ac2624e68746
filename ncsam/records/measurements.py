"""The groups of a run file and of a study file, as records."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from landscape.records import Record, parameter, variable
from landscape.store import declare_layout


@dataclasses.dataclass(frozen=True, eq=False)
class Labels(Record):
    """Labels of the whole training set of a run."""

    kind: ClassVar[str] = "labels"

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


@dataclasses.dataclass(frozen=True, eq=False)
class Training(Record):
    """One row an epoch."""

    kind: ClassVar[str] = "training"

    epochs: np.ndarray = variable("epoch", long_name="epoch, counted from 1", coordinate=True)
    views: np.ndarray = variable("view", long_name="view of the data", coordinate=True)
    loss: np.ndarray = variable("epoch", "view", long_name="mean loss at the end of the epoch", units="loss")
    accuracy: np.ndarray = variable("epoch", "view", long_name="share of correct predictions")
    memorisation: np.ndarray = variable("epoch", long_name="share of wrong labels that are predicted")
    running_loss: np.ndarray = variable("epoch", long_name="mean training loss over the epoch's steps", units="loss")
    lr: np.ndarray = variable("epoch", long_name="learning rate")
    perturbation_norm: np.ndarray = variable("epoch", long_name="mean norm of the perturbation", units="parameter")
    compensation_norm: np.ndarray = variable("epoch", long_name="mean norm of s g*", units="parameter")
    cosine: np.ndarray = variable("epoch", long_name="mean cosine between perturbation and SAM's direction")
    projected: np.ndarray = variable("epoch", long_name="share of steps in which the projection shortened")
    skipped: np.ndarray = variable("epoch", long_name="steps skipped because loss or gradient was not finite")
    corrected: np.ndarray | None = variable(
        "epoch", long_name="share of wrong-labelled samples predicted as their true class", optional=True
    )
    relative_compensation: np.ndarray | None = variable("epoch", long_name="mean norm of s g* over rho", optional=True)
    picked: np.ndarray | None = variable("epoch", long_name="share of samples that g* was computed from", optional=True)

    def of_view(self, name: str) -> np.ndarray:
        """Accuracy on one view, (epoch,)."""
        return self.accuracy[:, self.views.tolist().index(name)]


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum(Record):
    """Top eigenvalues and trace of the Hessian at some epochs, on some views; NaN where a view is empty."""

    kind: ClassVar[str] = "spectrum"

    epochs: np.ndarray = variable("epoch", long_name="epoch of the weights", coordinate=True)
    views: np.ndarray = variable("view", long_name="view of the data", coordinate=True)
    values: np.ndarray = variable("epoch", "view", "pair", long_name="eigenvalue", units="loss / parameter^2")
    residuals: np.ndarray = variable(
        "epoch", "view", "pair", long_name="residual norm |Hv - lambda v|", units="loss / parameter^2"
    )
    converged: np.ndarray = variable("epoch", "view", "pair", long_name="1 where the residual is within tolerance")
    matvecs: np.ndarray = variable("epoch", "view", long_name="Hessian-vector products for the eigenvalues")
    weight_norm: np.ndarray = variable("epoch", long_name="norm of the weights", units="parameter")
    status: np.ndarray = variable("epoch", "view", long_name="status code of the row")
    which: str = parameter("end of the spectrum")
    tol: float = parameter("relative residual at which a pair counts as converged")
    trace_matvecs: int = parameter("probes of the trace estimate")
    seed: int = parameter("seed of start vectors and probes")
    dtype: str = parameter("precision of the products")
    trace: np.ndarray | None = variable(
        "epoch", "view", long_name="trace estimate", units="loss / parameter^2", optional=True
    )
    trace_stderr: np.ndarray | None = variable(
        "epoch", "view", long_name="standard error of the trace", units="loss / parameter^2", optional=True
    )
    errors: np.ndarray | None = variable(
        "epoch",
        "view",
        "pair",
        long_name="bound on the error of the eigenvalue",
        units="loss / parameter^2",
        optional=True,
    )
    products: np.ndarray | None = variable(
        "epoch", "view", long_name="operator-vector products of the whole row", optional=True
    )
    seconds: np.ndarray | None = variable("epoch", "view", long_name="CPU time of the row", units="s", optional=True)
    strategies: np.ndarray | None = variable(
        "epoch", "view", long_name="how the products were made; empty where there were none", optional=True
    )
    previous_cosines: np.ndarray | None = variable(
        "epoch", "view", "angle", long_name="cosines of the principal angles to the eigenspace at the epoch before",
        optional=True,
    )  # fmt: skip
    density_grid: np.ndarray | None = variable(
        "epoch", "view", "point", long_name="eigenvalue at which the density is given", units="loss / parameter^2",
        optional=True,
    )  # fmt: skip
    density: np.ndarray | None = variable(
        "epoch", "view", "point", long_name="spectral density", units="parameter^2 / loss", optional=True
    )
    density_stderr: np.ndarray | None = variable(
        "epoch", "view", "point", long_name="its standard error over the probes", units="parameter^2 / loss",
        optional=True,
    )  # fmt: skip
    density_nodes: np.ndarray | None = variable(
        "epoch", "view", "probe", "step", long_name="quadrature node", units="loss / parameter^2", optional=True
    )
    density_weights: np.ndarray | None = variable(
        "epoch", "view", "probe", "step", long_name="quadrature weight", optional=True
    )
    layers: np.ndarray | None = variable("layer", long_name="name of the module", coordinate=True, optional=True)
    layer_sizes: np.ndarray | None = variable("layer", long_name="number of parameters", optional=True)
    layer_values: np.ndarray | None = variable(
        "epoch", "view", "layer", long_name="largest eigenvalue of the layer's diagonal block",
        units="loss / parameter^2", optional=True,
    )  # fmt: skip
    layer_residuals: np.ndarray | None = variable(
        "epoch", "view", "layer", long_name="residual norm of it", units="loss / parameter^2", optional=True
    )
    layer_converged: np.ndarray | None = variable(
        "epoch", "view", "layer", long_name="1 where that residual is within tolerance", optional=True
    )
    layer_trace: np.ndarray | None = variable(
        "epoch", "view", "layer", long_name="trace of the layer's diagonal block", units="loss / parameter^2",
        optional=True,
    )  # fmt: skip
    layer_trace_stderr: np.ndarray | None = variable(
        "epoch", "view", "layer", long_name="standard error of it", units="loss / parameter^2", optional=True
    )
    parts: np.ndarray | None = variable(
        "part", long_name="part of the training samples", coordinate=True, optional=True
    )
    shares: np.ndarray | None = variable("part", long_name="share of the training samples", optional=True)
    split: np.ndarray | None = variable(
        "epoch", "view", "pair", "part", long_name="curvature v.Hv of the part along the eigenvector",
        units="loss / parameter^2", optional=True,
    )  # fmt: skip
    split_mismatch: np.ndarray | None = variable(
        "epoch", "view", "pair", long_name="eigenvalue minus the parts' weighted sum; on the view mixed alone",
        units="loss / parameter^2", optional=True,
    )  # fmt: skip
    directions: np.ndarray | None = variable("direction", long_name="gradient", coordinate=True, optional=True)
    cosines: np.ndarray | None = variable(
        "epoch", "view", "pair", "direction", long_name="magnitude of the cosine of gradient and eigenvector",
        optional=True,
    )  # fmt: skip
    captured: np.ndarray | None = variable(
        "epoch", "view", "direction", long_name="share of the gradient's squared norm in the span of the eigenvectors",
        optional=True,
    )  # fmt: skip
    vectors: np.ndarray | None = variable("epoch", "view", "parameter", "pair", long_name="eigenvector", optional=True)
    params: list[str] | None = parameter("patterns of the parameters that the Hessian is taken by; all if none", None)
    density_steps: int = parameter("products of each probe of the density; 0 for none", 0)
    density_probes: int = parameter("probes of the density", 0)
    density_broadening: float = parameter("deviation of its kernel, as a fraction of the width of the spectrum", 0.01)
    density_deflated: bool = parameter("whether the converged eigenvalues were put into it as found", False)
    strategy: str | None = parameter("how products were asked to be made", None)
    num_parameters: int | None = parameter("number of parameters that the Hessian is taken by", None)
    warm_start: bool = parameter("whether each epoch started from the eigenvectors of the one before it", False)
    processes: int = parameter("processes that shared the data; sums over other shares differ in rounding", 1)


@dataclasses.dataclass(frozen=True, eq=False)
class SharpnessTable(Record):
    """Sharpness at some epochs, on some views; NaN where a view is empty."""

    kind: ClassVar[str] = "sharpness_table"

    epochs: np.ndarray = variable("epoch", long_name="epoch of the weights", coordinate=True)
    views: np.ndarray = variable("view", long_name="view of the data", coordinate=True)
    loss: np.ndarray = variable("epoch", "view", long_name="loss at the weights", units="loss")
    sam: np.ndarray = variable("epoch", "view", long_name="SAM sharpness", units="loss")
    adaptive: np.ndarray = variable("epoch", "view", long_name="adaptive sharpness", units="loss")
    weight_norm: np.ndarray = variable("epoch", long_name="norm of the weights", units="parameter")
    status: np.ndarray = variable("epoch", "view", long_name="status code of the row")
    rho: float = parameter("radius of the SAM ball, parameter units")
    adaptive_rho: float = parameter("radius of the adaptive ball, in units of |w|")
    sigma: float | None = parameter("deviation of the Gaussian of the average sharpness; none if not asked for")
    steps: int = parameter("ascent steps")
    samples: int = parameter("antithetic pairs of the average sharpness")
    seed: int = parameter("seed of the Gaussian perturbations")
    dtype: str = parameter("precision of the losses")
    average: np.ndarray | None = variable("epoch", "view", long_name="average sharpness", units="loss", optional=True)
    average_stderr: np.ndarray | None = variable(
        "epoch", "view", long_name="standard error of it", units="loss", optional=True
    )
    adaptive_average: np.ndarray | None = variable(
        "epoch", "view", long_name="adaptive average sharpness", units="loss", optional=True
    )
    adaptive_average_stderr: np.ndarray | None = variable(
        "epoch", "view", long_name="standard error of the adaptive average", units="loss", optional=True
    )
    keskar: np.ndarray | None = variable(
        "epoch", "view", long_name="Keskar's sharpness: 100 (largest loss - loss) / (1 + loss)", units="percent",
        optional=True,
    )  # fmt: skip
    sam_rises: np.ndarray | None = variable(
        "epoch", "view", "start", "step", long_name="rise in loss along each ascent in the SAM ball", units="loss",
        optional=True,
    )  # fmt: skip
    adaptive_rises: np.ndarray | None = variable(
        "epoch", "view", "start", "step", long_name="rise in loss along each ascent in the adaptive ball",
        units="loss", optional=True,
    )  # fmt: skip
    seconds: np.ndarray | None = variable("epoch", "view", long_name="CPU time of the row", units="s", optional=True)
    restarts: int = parameter("ascents from random points, besides the one from the weights", 0)
    adaptive_sigma: float | None = parameter("deviation of the adaptive average, in units of |w|", None)
    keskar_epsilon: float | None = parameter("half width of Keskar's box, relative to |w| + 1", None)
    normalize_logits: bool = parameter("whether the loss is that of normalised logits", False)
    params: list[str] | None = parameter("patterns of the parameters that are perturbed; all if none", None)
    processes: int = parameter("processes that shared the data; sums over other shares differ in rounding", 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnostics(Record):
    """How the gradients of clean and wrong labels, g* and the perturbations lie to each other, batch by batch."""

    kind: ClassVar[str] = "diagnostics"

    epochs: np.ndarray = variable("epoch", long_name="epoch after which it was measured", coordinate=True)
    quantities: np.ndarray = variable(  # the text stays as it is in files: ncsam.training.gradient_diagnostics has them
        "quantity", long_name="see ncsam.diagnostics.QUANTITIES", coordinate=True
    )
    value: np.ndarray = variable("epoch", "quantity", "batch", long_name="value on one batch; NaN where undefined")
    mean: np.ndarray = variable("epoch", "quantity", long_name="mean over the batches")
    low: np.ndarray = variable("epoch", "quantity", long_name="lower end of the t-interval over batches, weights fixed")
    high: np.ndarray = variable("epoch", "quantity", long_name="upper end of the t-interval over batches")
    full: np.ndarray = variable("epoch", "quantity", long_name="on the full training set, eval mode; NaN if not asked")
    batch_size: int = parameter("samples of a batch")
    noise: str = parameter("label noise of the labels, as spelled on the command line")
    relabelled: bool = parameter("whether those are other labels than the run was trained on")
    probe: dict[str, Any] = parameter("options of the NCSAM perturbation that is looked at")
    loss: str = parameter("loss whose gradients they are")
    seed: int = parameter("seed of picks and halves")
    level: float = parameter("confidence level of the intervals")
    processes: int = parameter("processes that shared the data; sums over other shares differ in rounding", 1)


@dataclasses.dataclass(frozen=True, eq=False)
class BoundTable(Record):
    """Theorem 1 term by term at some epochs, for losses in [0, 1], beside the clean test risk that it bounds."""

    kind: ClassVar[str] = "bound_table"

    epochs: np.ndarray = variable("epoch", long_name="epoch of the weights", coordinate=True)
    losses: np.ndarray = variable("loss", long_name="loss in [0, 1]", coordinate=True)
    at_weights: np.ndarray = variable("epoch", "loss", long_name="L_M(w), on the training set with observed labels")
    highest: np.ndarray = variable("epoch", "loss", long_name="highest L_M(w+e) that the ascents met: a lower estimate")
    neighbourhood: np.ndarray = variable("epoch", "loss", long_name="1/(1-alpha) times highest")
    sampling: np.ndarray = variable("epoch", "loss", long_name="1/((1-alpha) sqrt(n_S))")
    complexity: np.ndarray = variable("epoch", "loss", long_name="sqrt(X/(n_S-1))")
    total: np.ndarray = variable("epoch", "loss", long_name="the bound; 1 or more says nothing")
    risk: np.ndarray = variable("epoch", "loss", long_name="risk on the clean test data")
    smoothing: np.ndarray = variable("epoch", "loss", long_name="E L(w+e) - L(w) on the test data; assumed to be >= 0")
    smoothing_stderr: np.ndarray = variable("epoch", "loss", long_name="standard error of it over the draws of e")
    history: np.ndarray = variable("epoch", "loss", "ascent", "step", long_name="highest loss so far of each ascent")
    converged: np.ndarray = variable("epoch", "loss", long_name="1 if the last quarter of the steps raised it < 1 %")
    weight_norm: np.ndarray = variable("epoch", long_name="norm of the weights", units="parameter")
    status: np.ndarray = variable("epoch", "loss", long_name="status code of the row")
    alpha: float = variable(long_name="share of wrong labels in the training set")
    samples: int = parameter("n, samples of the training set")
    num_parameters: int = parameter("K")
    rho: float = parameter("radius of the neighbourhood")
    delta: float = parameter("probability with which the bound may fail")
    clip: float = parameter("cross-entropy (nats) at which the clipped loss reaches 1")
    sigma: float = parameter("deviation of the Gaussian e of the smoothing")
    draws: int = parameter("antithetic pairs of it")
    steps: int = parameter("steps of an ascent")
    restarts: int = parameter("ascents on each of the two surrogate losses")
    seed: int = parameter("seed of the starting points and of e")
    violated: str = parameter("why the clean part is no sample of the clean distribution; empty if it is")
    dtype: str = parameter("precision of the losses")
    processes: int = parameter("processes that shared the data; sums over other shares differ in rounding", 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Curves(Record):
    """Every measured quantity against noise rate, for each arm, with every seed's value and an interval."""

    kind: ClassVar[str] = "curves"

    quantities: np.ndarray = variable("quantity", long_name="what was measured", coordinate=True)
    arms: np.ndarray = variable("arm", long_name="optimizer", coordinate=True)
    rates: np.ndarray = variable("rate", long_name="noise rate asked for", coordinate=True)
    seeds: np.ndarray = variable("seed", long_name="seed", coordinate=True)
    value: np.ndarray = variable("quantity", "arm", "rate", "seed", long_name="value of one run; NaN where not run")
    mean: np.ndarray = variable("quantity", "arm", "rate", long_name="mean over seeds")
    low: np.ndarray = variable("quantity", "arm", "rate", long_name="lower end of the t-interval of the mean")
    high: np.ndarray = variable("quantity", "arm", "rate", long_name="upper end of the t-interval of the mean")
    level: float = parameter("confidence level of the interval")

    def of(self, quantity: str, arm: str, rate: float) -> np.ndarray:
        """Values over seeds, (seed,); NaN where a run is missing.

        Raises:
            KeyError: the study does not hold that quantity, arm or rate.
        """
        try:
            return self.value[
                self.quantities.tolist().index(quantity),
                self.arms.tolist().index(arm),
                int(np.flatnonzero(np.isclose(self.rates, rate))[0]),
            ]
        except (ValueError, IndexError):
            raise KeyError(f"the study holds no {quantity!r} of {arm!r} at noise rate {rate:g}") from None


@dataclasses.dataclass(frozen=True, eq=False)
class Verdicts(Record):
    """The verdict on each statement, with the numbers it follows from."""

    kind: ClassVar[str] = "verdicts"

    statements: np.ndarray = variable("statement", long_name="statement of the theory", coordinate=True)
    text: np.ndarray = variable("statement", long_name="what it says")
    endpoint: np.ndarray = variable("statement", long_name="primary endpoint")
    verdict: np.ndarray = variable("statement", long_name="supported, contradicted or undecided")
    note: np.ndarray = variable("statement", long_name="what limits the verdict")
    estimate: np.ndarray = variable("statement", long_name="mean paired effect")
    low: np.ndarray = variable("statement", long_name="lower end of the t-interval")
    high: np.ndarray = variable("statement", long_name="upper end of the t-interval")
    smallest_effect: np.ndarray = variable("statement", long_name="smallest relevant effect m")
    p_value: np.ndarray = variable("statement", long_name="test of no effect, two-sided")
    p_holm: np.ndarray = variable("statement", long_name="the same, Holm-adjusted over the statements")
    pairs: np.ndarray = variable("statement", long_name="number of seeds")
    preliminary: np.ndarray = variable("statement", long_name="whether there are too few seeds for the test")
    level: float = parameter("confidence level of the interval")
    contrast: np.ndarray | None = variable("statement", long_name="contrast that decided", optional=True)
    test: np.ndarray | None = variable("statement", long_name="test behind the p-value", optional=True)
    runs: np.ndarray | None = variable("statement", long_name="number of runs that the estimate uses", optional=True)
    data: str | None = parameter("data set of the runs", None)
    model: str | None = parameter("model of the runs", None)
    noise: str | None = parameter("kind of label noise of the runs", None)
    family: int | None = parameter("number of endpoints that Holm's adjustment counts", None)
    check: str | None = parameter("manipulation check: whether plain SGD memorised, and what was seen", None)
    joint: str | None = parameter("T3, T4 and T5 read together", None)


@dataclasses.dataclass(frozen=True, eq=False)
class Secondary(Record):
    """Secondary endpoints: descriptive, without test or verdict."""

    kind: ClassVar[str] = "secondary"

    statement: np.ndarray = variable("row", long_name="statement of the theory")
    quantity: np.ndarray = variable("row", long_name="what was estimated")
    estimate: np.ndarray = variable("row", long_name="mean over seeds")
    low: np.ndarray = variable("row", long_name="lower end of the t-interval, not adjusted")
    high: np.ndarray = variable("row", long_name="upper end of the t-interval, not adjusted")
    pairs: np.ndarray = variable("row", long_name="number of seeds")
    level: float = parameter("confidence level of the interval")


@dataclasses.dataclass(frozen=True, eq=False)
class CellTable(Record):
    """One row a run of a study: its settings and every number it is judged by; see :mod:`ncsam.study.table`."""

    kind: ClassVar[str] = "cell_table"

    names: np.ndarray = variable("cell", long_name="name of the run, that of its file", coordinate=True)
    endpoints: np.ndarray = variable("endpoint", long_name="what was measured", coordinate=True)
    arm: np.ndarray = variable("cell", long_name="name under which the run is compared")
    optimizer: np.ndarray = variable("cell", long_name="optimizer")
    options: np.ndarray = variable("cell", long_name="options of the optimizer, JSON")
    data: np.ndarray = variable("cell", long_name="data set")
    model: np.ndarray = variable("cell", long_name="model")
    noise: np.ndarray = variable("cell", long_name="kind of label noise")
    rate: np.ndarray = variable("cell", long_name="noise rate asked for")
    seed: np.ndarray = variable("cell", long_name="seed, which pairs the runs")
    role: np.ndarray = variable("cell", long_name="reported, or tuning: never judged")
    value: np.ndarray = variable("cell", "endpoint", long_name="number of one run; NaN where not measured")


@dataclasses.dataclass(frozen=True, eq=False)
class RadiusControl(Record):
    """Accuracy and memorisation of every arm beside the perturbation that it really took."""

    kind: ClassVar[str] = "radius_control"

    arms: np.ndarray = variable("arm", long_name="name under which runs are compared", coordinate=True)
    family: np.ndarray = variable("arm", long_name="what the arm is compared as")
    seeds: np.ndarray = variable("arm", long_name="number of seeds")
    radius: np.ndarray = variable("arm", long_name="realised mean norm of the perturbation", units="parameter")
    radius_low: np.ndarray = variable("arm", long_name="lower end of its t-interval", units="parameter")
    radius_high: np.ndarray = variable("arm", long_name="upper end of its t-interval", units="parameter")
    accuracy: np.ndarray = variable("arm", long_name="clean test accuracy, mean of the last five epochs")
    accuracy_low: np.ndarray = variable("arm", long_name="lower end of its t-interval")
    accuracy_high: np.ndarray = variable("arm", long_name="upper end of its t-interval")
    memorisation: np.ndarray = variable("arm", long_name="share of wrong labels that are predicted")
    memorisation_low: np.ndarray = variable("arm", long_name="lower end of its t-interval")
    memorisation_high: np.ndarray = variable("arm", long_name="upper end of its t-interval")
    excess: np.ndarray = variable("arm", long_name="accuracy minus SAM's at the same realised norm, paired by seed")
    excess_low: np.ndarray = variable("arm", long_name="lower end of its t-interval")
    excess_high: np.ndarray = variable("arm", long_name="upper end of its t-interval")
    noise: str = parameter("kind of label noise")
    rate: float = parameter("noise rate")
    level: float = parameter("confidence level of the intervals")


declare_layout(
    "run",
    required={"labels": "labels", "training": "training"},
    allowed={"weights/*": "arrays", "hessian/*": "*", "surface/*": "*", "sharpness/*": "*", "diagnostics/*": "*"},
)
declare_layout(
    "study",
    required={"curves": "curves", "verdicts": "verdicts"},
    allowed={"cells": "cell_table", "secondary": "secondary"},
)
