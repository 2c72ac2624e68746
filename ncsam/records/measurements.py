"""The records of what is measured on a run, and single rows of a spectrum as records of :mod:`landscape`."""

from __future__ import annotations

from typing import Any

import numpy as np

from landscape.records import CurvatureSplit, DensityResult, EigenResult, LayerSpectra, Record, parameter, variable


class Spectrum(Record, kind="spectrum"):
    """Top eigenvalues and trace of the Hessian at some epochs, on some views; NaN where a view is empty."""

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
    trace: np.ndarray | None = variable("epoch", "view", long_name="trace estimate", units="loss / parameter^2")
    trace_stderr: np.ndarray | None = variable(
        "epoch", "view", long_name="standard error of the trace", units="loss / parameter^2"
    )
    errors: np.ndarray | None = variable(
        "epoch", "view", "pair", long_name="bound on the error of the eigenvalue", units="loss / parameter^2"
    )
    products: np.ndarray | None = variable("epoch", "view", long_name="operator-vector products of the whole row")
    seconds: np.ndarray | None = variable("epoch", "view", long_name="CPU time of the row", units="s")
    strategies: np.ndarray | None = variable(
        "epoch", "view", long_name="how the products were made; empty where there were none"
    )
    previous_cosines: np.ndarray | None = variable(
        "epoch", "view", "angle", long_name="cosines of the principal angles to the eigenspace at the epoch before"
    )
    density_grid: np.ndarray | None = variable(
        "epoch", "view", "point", long_name="eigenvalue at which the density is given", units="loss / parameter^2"
    )
    density: np.ndarray | None = variable(
        "epoch", "view", "point", long_name="spectral density", units="parameter^2 / loss"
    )
    density_stderr: np.ndarray | None = variable(
        "epoch", "view", "point", long_name="its standard error over the probes", units="parameter^2 / loss"
    )
    density_nodes: np.ndarray | None = variable(
        "epoch", "view", "probe", "step", long_name="quadrature node", units="loss / parameter^2"
    )
    density_weights: np.ndarray | None = variable("epoch", "view", "probe", "step", long_name="quadrature weight")
    layers: np.ndarray | None = variable("layer", long_name="name of the module", coordinate=True)
    layer_sizes: np.ndarray | None = variable("layer", long_name="number of parameters")
    layer_values: np.ndarray | None = variable(
        "epoch",
        "view",
        "layer",
        long_name="largest eigenvalue of the layer's diagonal block",
        units="loss / parameter^2",
    )
    layer_residuals: np.ndarray | None = variable(
        "epoch", "view", "layer", long_name="residual norm of it", units="loss / parameter^2"
    )
    layer_converged: np.ndarray | None = variable(
        "epoch", "view", "layer", long_name="1 where that residual is within tolerance"
    )
    layer_trace: np.ndarray | None = variable(
        "epoch", "view", "layer", long_name="trace of the layer's diagonal block", units="loss / parameter^2"
    )
    layer_trace_stderr: np.ndarray | None = variable(
        "epoch", "view", "layer", long_name="standard error of it", units="loss / parameter^2"
    )
    parts: np.ndarray | None = variable("part", long_name="part of the training samples", coordinate=True)
    shares: np.ndarray | None = variable("part", long_name="share of the training samples")
    split: np.ndarray | None = variable(
        "epoch",
        "view",
        "pair",
        "part",
        long_name="curvature v.Hv of the part along the eigenvector",
        units="loss / parameter^2",
    )
    split_mismatch: np.ndarray | None = variable(
        "epoch",
        "view",
        "pair",
        long_name="eigenvalue minus the parts' weighted sum; on the view mixed alone",
        units="loss / parameter^2",
    )
    directions: np.ndarray | None = variable("direction", long_name="gradient", coordinate=True)
    cosines: np.ndarray | None = variable(
        "epoch", "view", "pair", "direction", long_name="magnitude of the cosine of gradient and eigenvector"
    )
    captured: np.ndarray | None = variable(
        "epoch", "view", "direction", long_name="share of the gradient's squared norm in the span of the eigenvectors"
    )
    vectors: np.ndarray | None = variable("epoch", "view", "parameter", "pair", long_name="eigenvector")
    params: list[str] | None = parameter("patterns of the parameters that the Hessian is taken by; all if none", None)
    sampling_errors: np.ndarray | None = variable(
        "epoch",
        "view",
        "pair",
        long_name="standard error of v.Hv over the draw of the subset, v as found",
        units="loss / parameter^2",
    )
    loss: np.ndarray | None = variable("epoch", "view", long_name="loss on the subset", units="loss")
    loss_sampling_error: np.ndarray | None = variable(
        "epoch", "view", long_name="standard error of the loss over the draw of the subset", units="loss"
    )
    density_steps: int = parameter("products of each probe of the density; 0 for none", 0)
    density_probes: int = parameter("probes of the density", 0)
    density_broadening: float = parameter("deviation of its kernel, as a fraction of the width of the spectrum", 0.01)
    density_deflated: bool = parameter("whether the converged eigenvalues were put into it as found", False)
    strategy: str | None = parameter("how products were asked to be made", None)
    basis_bytes: int | None = parameter("bytes that the basis of the eigenpairs could take; not limited if none", None)
    subset: int | None = parameter("samples of each view that were drawn and measured; all if none", None)
    subset_seed: int = parameter("seed of that draw", 0)
    num_parameters: int | None = parameter("number of parameters that the Hessian is taken by", None)
    warm_start: bool = parameter("whether each epoch started from the eigenvectors of the one before it", False)
    processes: int = parameter("processes that shared the data; sums over other shares differ in rounding", 1)

    def at(self, epoch: int | str = "last", view: str | None = None) -> EigenResult:
        """One row: its eigenpairs, with the trace where it was measured.

        Args:
            epoch: of the weights, or ``last``.
            view: of the data; the only one if none.

        Raises:
            KeyError: there is no such row.
            ValueError: no view is named and there are several.
        """
        views = self.views.tolist()
        if view is None and len(views) != 1:
            raise ValueError(f"the spectrum is of several views ({', '.join(views)}); name one: at(view=…)")
        if epoch == "last":
            epoch = int(self.epochs.max())
        elif not isinstance(epoch, int):
            raise KeyError(f"no epoch {epoch!r}; expected 'last' or one of {self.epochs.tolist()}")
        return eigenpairs_at(self, epoch, views[0] if view is None else view)


class SharpnessTable(Record, kind="sharpness_table"):
    """Sharpness at some epochs, on some views; NaN where a view is empty."""

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
    average: np.ndarray | None = variable("epoch", "view", long_name="average sharpness", units="loss")
    average_stderr: np.ndarray | None = variable("epoch", "view", long_name="standard error of it", units="loss")
    adaptive_average: np.ndarray | None = variable(
        "epoch", "view", long_name="adaptive average sharpness", units="loss"
    )
    adaptive_average_stderr: np.ndarray | None = variable(
        "epoch", "view", long_name="standard error of the adaptive average", units="loss"
    )
    adaptive_trace: np.ndarray | None = variable("epoch", "view", long_name="trace of D H D, D = |w|", units="loss")
    adaptive_trace_stderr: np.ndarray | None = variable(
        "epoch", "view", long_name="standard error of the trace over its random vectors", units="loss"
    )
    adaptive_top: np.ndarray | None = variable(
        "epoch", "view", long_name="largest eigenvalue of D H D, D = |w|", units="loss"
    )
    adaptive_top_residual: np.ndarray | None = variable(
        "epoch", "view", long_name="norm of its residual, which bounds its error", units="loss"
    )
    rise_radius: np.ndarray | None = variable(
        "epoch", "view", long_name="radius, in units of |w|, at which ascent raises the loss by `rise`"
    )
    m_sharpness: np.ndarray | None = variable(
        "epoch", "view", long_name="SAM sharpness of groups of m samples, each with its own perturbation", units="loss"
    )
    m_sharpness_stderr: np.ndarray | None = variable(
        "epoch", "view", long_name="standard error of it over the groups", units="loss"
    )
    keskar: np.ndarray | None = variable(
        "epoch", "view", long_name="Keskar's sharpness: 100 (largest loss - loss) / (1 + loss)", units="percent"
    )
    sam_rises: np.ndarray | None = variable(
        "epoch", "view", "start", "step", long_name="rise in loss along each ascent in the SAM ball", units="loss"
    )
    adaptive_rises: np.ndarray | None = variable(
        "epoch", "view", "start", "step", long_name="rise in loss along each ascent in the adaptive ball", units="loss"
    )
    loss_sampling_error: np.ndarray | None = variable(
        "epoch", "view", long_name="standard error of the loss over the draw of the subset", units="loss"
    )
    seconds: np.ndarray | None = variable("epoch", "view", long_name="CPU time of the row", units="s")
    restarts: int = parameter("ascents from random points, besides the one from the weights", 0)
    adaptive_sigma: float | None = parameter("deviation of the adaptive average, in units of |w|", None)
    keskar_epsilon: float | None = parameter("half width of Keskar's box, relative to |w| + 1", None)
    normalize_logits: bool = parameter("whether the loss is that of normalised logits", False)
    trace_matvecs: int = parameter("products of the trace of D H D; 0 if not asked for", 0)
    rise: float | None = parameter("rise of the loss that the radius is found for; none if not asked for", None)
    m: int | None = parameter("samples of a group of the m-sharpness; none if not asked for", None)
    top_tol: float | None = parameter(
        "relative residual of the largest eigenvalue of D H D; none if not asked for", None
    )
    subset: int | None = parameter("samples of each view that were drawn and measured; all if none", None)
    subset_seed: int = parameter("seed of that draw", 0)
    params: list[str] | None = parameter("patterns of the parameters that are perturbed; all if none", None)
    processes: int = parameter("processes that shared the data; sums over other shares differ in rounding", 1)


class Diagnostics(Record, kind="diagnostics"):
    """Angles and lengths of the gradients of clean and wrong labels, g* and the perturbations, batch by batch."""

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


class BoundTable(Record, kind="bound_table"):
    """Theorem 1 term by term at some epochs, for losses in [0, 1], beside the clean test risk that it bounds."""

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


def eigenpairs_at(spectrum: Spectrum, epoch: int, view: str) -> EigenResult:
    """The eigenpairs of one view at one epoch, with their vectors where these were stored.

    Raises:
        KeyError: the spectrum has no such row.
    """
    at = _row(spectrum, epoch, view)
    return EigenResult(
        values=spectrum.values[at],
        residuals=spectrum.residuals[at],
        converged=spectrum.converged[at] == 1,
        matvecs=spectrum.matvecs[at],
        which=spectrum.which,
        tol=spectrum.tol,
        seed=spectrum.seed,
        vectors=None if spectrum.vectors is None else spectrum.vectors[at],
        errors=None if spectrum.errors is None else spectrum.errors[at],
        trace=None if spectrum.trace is None else spectrum.trace[at],
        trace_stderr=None if spectrum.trace_stderr is None else spectrum.trace_stderr[at],
    )


def density_at(spectrum: Spectrum, epoch: int, view: str) -> DensityResult | None:
    """The spectral density of one view at one epoch; none where it was not measured.

    Raises:
        KeyError: the spectrum has no such row.
    """
    at = _row(spectrum, epoch, view)
    parts = ("density_grid", "density", "density_stderr", "density_nodes", "density_weights")
    grid, density, stderr, nodes, weights = (getattr(spectrum, name) for name in parts)
    if density is None or not np.isfinite(density[at]).all():
        return None
    outliers = spectrum.values[at][spectrum.converged[at] == 1] if spectrum.density_deflated else np.zeros(0)
    return DensityResult(
        grid=grid[at],
        density=density[at],
        stderr=stderr[at],
        nodes=nodes[at],
        weights=weights[at],
        matvecs=nodes[at].size,
        broadening=spectrum.density_broadening,
        seed=spectrum.seed,
        outliers=outliers,
        size=spectrum.num_parameters,
    )


def layers_at(spectrum: Spectrum, epoch: int, view: str) -> LayerSpectra | None:
    """The layers' blocks of one view at one epoch; none where they were not measured, or the view is empty.

    Raises:
        KeyError: the spectrum has no such row.
    """
    at = _row(spectrum, epoch, view)
    if spectrum.layers is None or spectrum.layer_values is None or not np.isfinite(spectrum.layer_values[at]).all():
        return None
    assert spectrum.layer_residuals is not None  # stored together
    assert spectrum.layer_converged is not None
    assert spectrum.layer_sizes is not None
    return LayerSpectra(
        layers=spectrum.layers,
        sizes=spectrum.layer_sizes,
        values=spectrum.layer_values[at],
        residuals=spectrum.layer_residuals[at],
        converged=spectrum.layer_converged[at] == 1,
        matvecs=spectrum.trace_matvecs,
        tol=spectrum.tol,
        seed=spectrum.seed,
        trace=None if spectrum.layer_trace is None else spectrum.layer_trace[at],
        trace_stderr=None if spectrum.layer_trace_stderr is None else spectrum.layer_trace_stderr[at],
    )


def split_at(spectrum: Spectrum, epoch: int, view: str) -> CurvatureSplit | None:
    """The split of one view's eigenvectors at one epoch; none where it was not measured, or the view is empty.

    A part without samples is left out. On views other than ``mixed`` the total is the curvature of the mixed view along
    the eigenvectors of this one.

    Raises:
        KeyError: the spectrum has no such row.
    """
    at = _row(spectrum, epoch, view)
    if spectrum.parts is None or spectrum.split is None or not np.isfinite(spectrum.values[at]).all():
        return None
    assert spectrum.shares is not None  # stored together
    assert spectrum.split_mismatch is not None
    there = spectrum.shares > 0
    shares, curvature = spectrum.shares[there], spectrum.split[at].T[there]
    mismatch = np.nan_to_num(spectrum.split_mismatch[at])
    return CurvatureSplit(
        parts=spectrum.parts[there],
        shares=shares,
        curvature=curvature,
        total=shares @ curvature + mismatch,
        mismatch=mismatch,
        matvecs=curvature.size,
    )


def _row(spectrum: Spectrum, epoch: int, view: str) -> tuple[int, int]:
    epochs, views = spectrum.epochs.tolist(), spectrum.views.tolist()
    if epoch not in epochs or view not in views:
        raise KeyError(f"no view {view!r} at epoch {epoch}; there are {', '.join(views)} at {epochs}")
    return epochs.index(epoch), views.index(view)
