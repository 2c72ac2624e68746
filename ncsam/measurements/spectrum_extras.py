"""Measurements of a Hessian besides its outermost eigenpairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import landscape
from landscape import HessianOperator, Objective
from landscape.records import EigenResult
from landscape.spectrum.layers import layer_spectra
from ncsam.measurements.directions import simulated_noise_gradient
from ncsam.measurements.measurement import Place
from ncsam.runs.run import Run

Operator = Callable[[Objective], HessianOperator]

PARTS = ("clean_part", "noisy_part")
GRADIENTS = ("g_clean", "g_noise", "g_star")
BROADENING = 0.01
_POINTS = 512
_OF_A_LAYER = 10  # products that its largest eigenvalue takes, about


class Extra(ABC):
    """A further quantity of a row.

    Attributes:
        needs: views that the objective must have for it.
    """

    needs: tuple[str, ...] = ()

    @abstractmethod
    def fields(self, objective: Objective, pairs: int) -> dict[str, Any]:
        """Names and shapes of what it adds to a row with that many eigenpairs."""

    @abstractmethod
    def measure(self, place: Place, H: HessianOperator, pairs: EigenResult) -> tuple[dict[str, Any], int]:
        """Its values for a row, and the operator-vector products they took."""

    @abstractmethod
    def products(self, objective: Objective, pairs: int) -> int:
        """Operator-vector products that a row will take, roughly, each over all of a view's samples."""

    def labels(self, objective: Objective, pairs: int) -> dict[str, Any]:
        """Fields that all rows have in common: labels of its axes, settings that follow from the model."""
        return {}


class Trace(Extra):
    """The trace, deflated by the Krylov basis of the eigenpairs."""

    def __init__(self, num_matvecs: int, seed: int) -> None:
        self._num_matvecs, self._seed = num_matvecs, seed

    def fields(self, objective: Objective, pairs: int) -> dict[str, Any]:
        return {"trace": (), "trace_stderr": ()}

    def products(self, objective: Objective, pairs: int) -> int:
        return self._num_matvecs

    def measure(self, place: Place, H: HessianOperator, pairs: EigenResult) -> tuple[dict[str, Any], int]:
        found = landscape.trace(H, self._num_matvecs, seed=self._seed, deflate=pairs)
        return {"trace": found.value, "trace_stderr": found.stderr}, int(found.matvecs)


class Density(Extra):
    """The spectral density."""

    def __init__(self, steps: int, probes: int, seed: int) -> None:
        self._steps, self._probes, self._seed = steps, probes, seed

    def deflated(self, size: int, pairs: int) -> bool:
        """Tell whether the eigenpairs leave room for all steps beside them: in all but the smallest models."""
        return size - pairs >= self._steps

    def fields(self, objective: Objective, pairs: int) -> dict[str, Any]:
        steps = min(self._steps, objective.num_parameters)
        nodes = dict.fromkeys(("density_nodes", "density_weights"), (self._probes, steps))
        return {"density_grid": (_POINTS,), "density": (_POINTS,), "density_stderr": (_POINTS,), **nodes}

    def products(self, objective: Objective, pairs: int) -> int:
        return self._probes * min(self._steps, objective.num_parameters)

    def labels(self, objective: Objective, pairs: int) -> dict[str, Any]:
        return {"density_broadening": BROADENING, "density_deflated": self.deflated(objective.num_parameters, pairs)}

    def measure(self, place: Place, H: HessianOperator, pairs: EigenResult) -> tuple[dict[str, Any], int]:
        size = place.objective.num_parameters
        d = landscape.spectral_density(
            H,
            min(self._steps, size),
            self._probes,
            deflate=pairs if self.deflated(size, len(pairs.values)) else None,
            broadening=BROADENING,
            num_points=_POINTS,
            seed=self._seed,
        )
        values = {"density_grid": d.grid, "density": d.density, "density_stderr": d.stderr}
        return {**values, "density_nodes": d.nodes, "density_weights": d.weights}, int(d.matvecs)


class Layers(Extra):
    """The largest eigenvalue and the trace of each layer's diagonal block."""

    def __init__(self, tol: float, trace_matvecs: int, seed: int, operator: Operator) -> None:
        self._tol, self._trace_matvecs, self._seed, self._operator = tol, trace_matvecs, seed, operator

    def fields(self, objective: Objective, pairs: int) -> dict[str, Any]:
        names = ["layer_values", "layer_residuals", "layer_converged"]
        if self._trace_matvecs:
            names += ["layer_trace", "layer_trace_stderr"]
        return dict.fromkeys(names, (len(objective.layers()),))

    def products(self, objective: Objective, pairs: int) -> int:
        return len(objective.layers()) * (_OF_A_LAYER + self._trace_matvecs)

    def labels(self, objective: Objective, pairs: int) -> dict[str, Any]:
        blocks = {layer or "(model)": objective.restricted(*names) for layer, names in objective.layers().items()}
        sizes = np.array([block.num_parameters for block in blocks.values()])
        return {"layers": np.array(list(blocks)), "layer_sizes": sizes}

    def measure(self, place: Place, H: HessianOperator, pairs: EigenResult) -> tuple[dict[str, Any], int]:
        found = layer_spectra(
            place.here, tol=self._tol, num_matvecs=self._trace_matvecs, seed=self._seed, operator=self._operator
        )
        values: dict[str, Any] = {
            "layer_values": found.values,
            "layer_residuals": found.residuals,
            "layer_converged": found.converged,
        }
        if self._trace_matvecs:
            values |= {"layer_trace": found.trace, "layer_trace_stderr": found.trace_stderr}
        return values, int(found.matvecs)


class Sources(Extra):
    """Each eigenvector's curvature on the rightly and wrongly labelled samples, and its cosines with gradients."""

    needs = ("mixed", *PARTS)

    def __init__(self, run: Run, seed: int, operator: Operator) -> None:
        self._run, self._seed, self._operator = run, seed, operator
        self._compared: tuple[int, dict[str, Any]] = (-1, {})

    def fields(self, objective: Objective, pairs: int) -> dict[str, Any]:
        return {
            "split": (pairs, len(PARTS)),
            "split_mismatch": (pairs,),
            "cosines": (pairs, len(GRADIENTS)),
            "captured": (len(GRADIENTS),),
        }

    def products(self, objective: Objective, pairs: int) -> int:
        return pairs

    def labels(self, objective: Objective, pairs: int) -> dict[str, Any]:
        shares = self._shares(objective)
        weights = np.array([shares.get(part, 0.0) for part in PARTS])
        return {"parts": np.array(PARTS), "shares": weights, "directions": np.array(GRADIENTS)}

    def measure(self, place: Place, H: HessianOperator, pairs: EigenResult) -> tuple[dict[str, Any], int]:
        shares = self._shares(place.objective)
        operators = {part: self._operator(place.objective.view(part)) for part in shares}
        # On the mixed view the parts must add up to the eigenvalue; on another they add up to the curvature there.
        whole = pairs.values if place.view == "mixed" else None
        found = landscape.split_curvature(pairs.vectors, operators, shares, whole=whole)
        split = np.full((len(pairs.values), len(PARTS)), np.nan)
        split[:, [PARTS.index(part) for part in shares]] = found.curvature.T
        if self._compared[0] != place.index:
            self._compared = (place.index, gradients(self._run, place.objective, self._seed))
        aligned = landscape.alignment(pairs.vectors, self._compared[1])
        values = {"split": split, "cosines": aligned.cosines.T, "captured": aligned.captured}
        if whole is not None:
            values["split_mismatch"] = found.mismatch
        return values, int(found.matvecs)

    @staticmethod
    def _shares(objective: Objective) -> dict[str, float]:
        """Share of each part that has samples."""
        sizes = {part: objective.num_samples(part) for part in PARTS if objective.num_samples(part)}
        return {part: size / sum(sizes.values()) for part, size in sizes.items()}


def gradients(run: Run, objective: Objective, seed: int = 0) -> dict[str, Tensor]:
    """g_clean, g_noise and g* at a checkpoint of a run, (K,) each; zero where a part is empty.

    g_clean and g_noise are the mean gradients of the rightly and wrongly labelled training samples. g* is NCSAM's
    simulated noise gradient with the whole training set as one batch
    (:func:`ncsam.measurements.directions.simulated_noise_gradient`).

    Args:
        objective: of the run at that checkpoint, with the views ``clean_part`` and ``noisy_part``.
        seed: of the picks.
    """
    parts = {"g_clean": objective.view("clean_part"), "g_noise": objective.view("noisy_part")}
    found = {
        name: part.gradient() if part.num_samples(part.views[0]) else torch.zeros_like(part.weights)
        for name, part in parts.items()
    }
    return {**found, "g_star": objective.extract(simulated_noise_gradient(run, objective.model, seed))}
