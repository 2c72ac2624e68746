"""The Hessian's spectrum on the views of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import landscape
from landscape.records import Status
from ncsam.analyses.common import ANALYSIS_VIEWS, Where, by_epoch_and_view
from ncsam.run import Run
from ncsam.schema import Spectrum


def measure_spectrum(
    run: Run,
    name: str = "top5",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epochs: Sequence[int | str] = ("last",),
    k: int = 5,
    which: str = "LA",
    tol: float = 1e-3,
    trace_matvecs: int = 100,
    seed: int = 0,
    **where: Unpack[Where],
) -> Spectrum:
    """Top ``k`` Hessian eigenvalues and trace on each view at each epoch; stored as ``hessian/<name>``.

    Args:
        trace_matvecs: probes of the trace, 0 for none.
        where: see :class:`Where`.

    Raises:
        ValueError, StoreError: something asked for is impossible, exists already, or cannot be written.
    """
    fields: dict[str, tuple[int, ...]] = {"values": (k,), "residuals": (k,), "converged": (k,), "matvecs": ()}
    if trace_matvecs:
        fields |= {"trace": (), "trace_stderr": ()}
    settings = {"which": which, "tol": tol, "trace_matvecs": trace_matvecs, "seed": seed}

    def measure(objective: landscape.Objective) -> tuple[Status, dict[str, Any]]:
        H = landscape.HessianOperator(objective)
        pairs = landscape.top_eigenpairs(H, k, which=which, tol=tol, seed=seed)
        row: dict[str, Any] = {n: getattr(pairs, n) for n in ("values", "residuals", "converged", "matvecs")}
        if trace_matvecs:
            t = landscape.trace(H, trace_matvecs, seed=seed)
            row |= {"trace": t.value, "trace_stderr": t.stderr}
        return Status.OK if pairs.converged.all() else Status.NOT_CONVERGED, row

    return by_epoch_and_view(Spectrum, run, f"hessian/{name}", epochs, views, fields, settings, measure, where)
