"""The Hessian's spectrum on the views of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np
import torch
from torch import Tensor

import landscape
from landscape import HessianOperator, Objective
from landscape.curvature.strategies import STRATEGIES, StrategyName
from landscape.ranks import Ranks
from landscape.records import EigenResult, Status
from landscape.spectrum.eigenpairs import Which, default_basis, vectors_in
from landscape.spectrum.krylov import BASIS_BYTES, memory_of_basis
from landscape.spectrum.probes import memory_of_probes
from landscape.store.room import check_room, watching_memory
from ncsam.measurements.forecast import timed
from ncsam.measurements.measurement import ANALYSIS_VIEWS, DTYPES, Measurement, Place, by_epoch_and_view, objective_of
from ncsam.measurements.resumable import PartRows, Where, recorded_identity
from ncsam.measurements.sampling_error import curvature_errors, loss_error
from ncsam.measurements.spectrum_extras import Density, Extra, Layers, Operator, Sources, Trace
from ncsam.measurements.warm_start import WarmStart
from ncsam.records import Spectrum
from ncsam.runs.run import Run

PRODUCTS_PER_PAIR = 8  # about what an eigenpair takes; the one number of a forecast that is not measured
_PRODUCTS_PER_SAMPLING_ERROR = 2  # about what the curvature of every sample along a vector takes, as measured
PAIRWISE = ("values", "residuals", "converged", "errors")


def measure_spectrum(
    run: Run,
    name: str = "default",
    *,
    views: Sequence[str] = ANALYSIS_VIEWS,
    epochs: Sequence[int | str] = ("last",),
    k: int = 5,
    which: Which = "LA",
    tol: float = 1e-3,
    trace_matvecs: int = 100,
    density_steps: int = 0,
    density_probes: int = 2,
    params: Sequence[str] = (),
    per_layer: bool = False,
    split: bool = False,
    vectors: bool = False,
    warm_start: bool = True,
    strategy: StrategyName = "auto",
    autotune: bool = False,
    basis_bytes: int | None = None,
    subset: int | None = None,
    subset_seed: int = 0,
    seed: int = 0,
    **where: Unpack[Where],
) -> Spectrum:
    """Hessian eigenvalues on each view at each epoch, and what else is asked for; stored as ``hessian/<name>``.

    Args:
        k: eigenpairs of each row; with ``which="both"`` as many from either end.
        which, tol: see :func:`landscape.top_eigenpairs`.
        trace_matvecs: probes of the trace, 0 for none.
        density_steps: products of each probe of the spectral density, 0 for none.
        density_probes: random starts of the density.
        params: patterns of the parameters that the Hessian is taken by, see :meth:`landscape.Objective.restricted`.
        per_layer: also the largest eigenvalue (and trace) of every layer's diagonal block.
        split: also each eigenvector's curvature on the rightly and on the wrongly labelled training samples, and its
            cosines with g_clean, g_noise and g*, see :func:`ncsam.measurements.spectrum_extras.gradients`.
        vectors: store the eigenvectors (in the precision of the products).
        warm_start: start each epoch from the eigenvectors of the one before it in ``epochs``, on the same view.
        strategy: how products are made, see :class:`landscape.curvature.operators.CurvatureOperator`; the result
            records what each row used.
        autotune: time one product each way on the first row and take the faster one throughout, instead of following
            the rule of ``strategy="auto"``. A resumed measurement takes what the stopped one took.
        basis_bytes: memory that the basis of the eigenpairs may take, see :func:`landscape.top_eigenpairs`.
        subset, subset_seed: so many samples of each view, drawn by that seed; all if none.
        where: see :class:`Where`.

    Raises:
        ValueError, StoreError: something asked for is impossible, exists already, or cannot be written.
    """
    if trace_matvecs < 0 or trace_matvecs == 1:
        raise ValueError(f"trace_matvecs is {trace_matvecs}, expected 0 for no trace, or at least 2 to give its error")
    if density_steps < 0 or density_probes < 1:
        raise ValueError(f"density of {density_steps} steps and {density_probes} probes; expected >= 0 and >= 1")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}, expected one of {', '.join(STRATEGIES)}")
    if autotune and strategy != "auto":
        raise ValueError(f"autotune chooses the strategy, but strategy is {strategy!r}; give one of the two")
    if autotune:
        strategy = _timed_strategy(run, f"hessian/{name}", epochs, views, params, where)
    settings: dict[str, Any] = {
        "which": which,
        "tol": tol,
        "trace_matvecs": trace_matvecs,
        "density_steps": density_steps,
        "density_probes": density_probes,
        "params": list(params),
        "warm_start": warm_start and len(epochs) > 1,
        "strategy": strategy,
        "basis_bytes": basis_bytes,
        "subset": subset,
        "subset_seed": subset_seed,
        "seed": seed,
    }
    operator = partial(HessianOperator, strategy=strategy)
    extras: list[Extra] = []
    if trace_matvecs:
        extras.append(Trace(trace_matvecs, seed))
    if density_steps:
        extras.append(Density(density_steps, density_probes, seed))
    if per_layer:
        extras.append(Layers(tol, trace_matvecs, seed, operator))
    if split:
        extras.append(Sources(run, seed, operator))
    dtype = DTYPES[where.get("dtype", "float32")]
    measurement = _Spectra(settings, k, dtype, vectors, extras, operator)
    return by_epoch_and_view(Spectrum, run, f"hessian/{name}", epochs, views, measurement, settings, where)


def _timed_strategy(
    run: Run, name: str, epochs: Sequence[int | str], views: Sequence[str], params: Sequence[str], where: Where
) -> StrategyName:
    """The faster way to make products; the recorded one where a stopped measurement is resumed."""
    recorded = recorded_identity(run, name, where)
    if recorded is not None:
        return cast(StrategyName, recorded["strategy"])
    objective = objective_of(run, next(iter(epochs), "last"), views, where)
    if params:
        objective = objective.restricted(*params)
    measured = [view for view in objective.views if objective.num_samples(view)]
    return HessianOperator(objective.view(measured[0]), autotune=True).strategy.name if measured else "auto"


class _Spectra(Measurement):
    """Eigenpairs of a row, from which the next epoch starts, and the further quantities asked for."""

    def __init__(
        self,
        settings: dict[str, Any],
        k: int,
        dtype: torch.dtype,
        vectors: bool,
        extras: Sequence[Extra],
        operator: Operator,
    ) -> None:
        self._settings, self._k, self._dtype = settings, k, dtype
        self._vectors, self._extras, self._operator = vectors, extras, operator
        self.needs = tuple(view for extra in extras for view in extra.needs)
        self.params = tuple(settings["params"])
        self._warm_start: WarmStart | None = None
        self._at_work = 0  # bytes that the process holds during a product

    @property
    def _count(self) -> int:
        return 2 * self._k if self._settings["which"] == "both" else self._k

    def fields(self, objective: Objective) -> dict[str, Any]:
        pairs = self._count
        if not 1 <= pairs <= objective.num_parameters:
            raise ValueError(f"{pairs} eigenpairs asked for, expected 1…{objective.num_parameters}")
        # Two vectors a pair and a few more are kept, in double precision
        room = 8 * (2 * pairs + 10) * objective.num_parameters
        if (limit := self._settings["basis_bytes"]) is not None:
            vectors_in(limit, objective.num_parameters, self._k, self._settings["which"])  # before anything is written
            room = min(room, limit)
        check_room(f"a basis for {pairs} eigenpairs", Path(), memory=room)
        found: dict[str, Any] = dict.fromkeys(PAIRWISE, (pairs,))
        found |= {"matvecs": (), "products": (), "strategies": ()}
        if self._settings["warm_start"]:
            found["previous_cosines"] = (pairs,)
        if self._settings["subset"] is not None:
            found |= {"loss": (), "loss_sampling_error": (), "sampling_errors": (pairs,)}
        if self._vectors:
            found["vectors"] = ((objective.num_parameters, pairs), "float64" if self._wide else "float32")
        for extra in self._extras:
            found |= extra.fields(objective, pairs)
        return found

    def labels(self, objective: Objective) -> dict[str, Any]:
        found: dict[str, Any] = {"num_parameters": objective.num_parameters}
        for extra in self._extras:
            found |= extra.labels(objective, self._count)
        return found

    def warm_start(
        self,
        part: PartRows,
        objective_at: Callable[[int], Objective],
        identity: dict[str, Any],
        ranks: Ranks | None,
    ) -> WarmStart | None:
        if not self._settings["warm_start"]:
            return None

        def find(index: int, view: str, start: Tensor | None) -> Tensor:
            return self._rounded(self._pairs(self._operator(objective_at(index).view(view)), start))

        self._warm_start = WarmStart(part.path, identity, find, ranks)
        if not part.status.any():
            self._warm_start.discard(identity["views"])  # left by work that was given up
        return self._warm_start

    def measure(self, place: Place) -> tuple[Status, dict[str, Any]]:
        H = self._operator(place.here)
        start = self._warm_start.start(place.index, place.view) if self._warm_start is not None else None
        pairs = self._pairs(H, start)
        row: dict[str, Any] = {name: getattr(pairs, name) for name in PAIRWISE}
        row |= {"matvecs": pairs.matvecs, "products": pairs.matvecs}
        if self._warm_start is not None:
            self._warm_start.keep(place.index, place.view, self._rounded(pairs))
        if start is not None:
            row["previous_cosines"] = np.cos(landscape.subspace_overlap(start, pairs.vectors).angles)
        if self._vectors:
            row["vectors"] = self._rounded(pairs).numpy()
        if place.whole is not None:
            row |= {"loss": place.here.loss(), "loss_sampling_error": loss_error(place.here, place.whole)}
            row["sampling_errors"] = curvature_errors(place.here, pairs.vectors, place.whole)
        row["strategies"] = STRATEGIES.index(H.strategy.name)
        for extra in self._extras:
            values, products = extra.measure(place, H, pairs)
            row |= values
            row["products"] += products
        return Status.OK if pairs.converged.all() else Status.NOT_CONVERGED, row

    def held(self, objective: Objective) -> int:
        size, probes, limit = objective.num_parameters, self._settings["trace_matvecs"], self._settings["basis_bytes"]
        if limit is None:
            most = default_basis(size, self._count)
        else:
            most = vectors_in(limit, size, self._k, self._settings["which"])
        vectors = min(PRODUCTS_PER_PAIR * self._count, most)
        later = [memory_of_basis(self._settings["density_steps"], size)]
        if probes:  # half of a trace's products extend a copy of the basis, by which it deflates
            grown = max(vectors, min(vectors + probes // 2, BASIS_BYTES // (8 * size) - 1))
            later.append(memory_of_basis(grown, size) + memory_of_probes(probes, size))
        return self._at_work + memory_of_basis(vectors, size) + max(later)

    def kept_beside(self, objective: Objective) -> int:
        if not self._settings["warm_start"]:
            return 0
        return 2 * self._count * objective.num_parameters * self._dtype.itemsize  # one that replaces another

    def forecast(self, place: Place) -> tuple[float, str]:
        H = self._operator(place.here)
        products = min(PRODUCTS_PER_PAIR * self._count, place.objective.num_parameters)
        if self._settings["subset"] is not None:
            products += _PRODUCTS_PER_SAMPLING_ERROR * self._count
        products += sum(extra.products(place.objective, self._count) for extra in self._extras)
        H.expect(products)  # so that they are made in the same way
        vector = torch.ones(place.objective.num_parameters, dtype=H.dtype, device=H.device)
        held: list[int] = []

        def product() -> None:
            with watching_memory() as most:
                float((H @ vector).sum())
            held.append(most())

        seconds = timed(product)
        self._at_work = held[-1]  # without what checks come before the first one
        return products * seconds, f"about {products} Hessian products"

    def complete(self, table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = np.array([*STRATEGIES, ""])  # a view without samples used none
        used = np.nan_to_num(table["strategies"], nan=-1).astype(int)
        return {**table, "strategies": names[used]}

    @property
    def _wide(self) -> bool:
        return self._dtype == torch.float64

    def _pairs(self, H: HessianOperator, start: Tensor | None) -> EigenResult:
        which, tol, seed = (self._settings[name] for name in ("which", "tol", "seed"))
        limit = self._settings["basis_bytes"]
        return landscape.top_eigenpairs(
            H, self._k, which=which, tol=tol, seed=seed, start=start, keep_basis=True, basis_bytes=limit
        )

    def _rounded(self, pairs: EigenResult) -> Tensor:
        """Eigenvectors in the precision of the products, (K, k)."""
        return torch.as_tensor(pairs.vectors).to(self._dtype)
