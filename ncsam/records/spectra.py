"""Single rows of a stored spectrum, as the records that :mod:`landscape` makes and draws."""

from __future__ import annotations

import numpy as np

from landscape.records import CurvatureSplit, DensityResult, EigenResult, LayerSpectra
from ncsam.records.measurements import Spectrum


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
