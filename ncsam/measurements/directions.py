"""The directions of a run that a surface is drawn along, from how they are spelt on the command line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import landscape
from landscape._suggest import did_you_mean
from landscape.objective.objective import Objective
from landscape.records import Trajectory
from landscape.surfaces.directions import direction_hash, eigen_direction, gradient_direction, signed, with_norm
from landscape.surfaces.trajectory import principal_directions, project_path
from ncsam.measurements.measurement import Subset, drawn
from ncsam.optimizers.first_pass import FirstPass
from ncsam.optimizers.mini_batch import MiniBatch
from ncsam.optimizers.noise_gradient import SimulatedNoise
from ncsam.runs.run import Run

KINDS = ("random", "eigen", "gradient", "noise-gradient", "trajectory", "between")
_PAIRS = {"random": "random", "eigen": "eigen", "trajectory": "trajectory", "gradient": "noise-gradient"}
_WITH_VIEW = ("eigen", "gradient")
_SAMPLES = 1024  # of a micro-batch of the simulated noise gradient


@dataclasses.dataclass(frozen=True, eq=False)
class Directions:
    """One or two directions and how they came about.

    Attributes:
        vectors: (K,) each, in the layout of the objective they were made for.
        names: what each is, e.g. ``random`` or ``eigen:mixed #1``.
        hashes: SHA-256 of each as float64.
        seed: of what was drawn.
        settings: JSON-able, with which the same directions come out again.
        ratios: shares along the principal components of the trajectory.
    """

    vectors: tuple[Tensor, ...]
    names: tuple[str, ...]
    hashes: tuple[str, ...]
    seed: int | None
    settings: dict[str, Any]
    ratios: np.ndarray | None = None

    def on(self, device: torch.device | str) -> Directions:
        """The same on another device."""
        return dataclasses.replace(self, vectors=tuple(v.to(device) for v in self.vectors))


def parse_directions(spec: str, count: int) -> list[tuple[str, str]]:
    """Kind and argument of each of ``count`` directions.

    ``random | eigen[:VIEW] | gradient[:VIEW] | noise-gradient | trajectory | between:RUN.h5``, or two of them with a
    comma between. One alone, for a plane, stands for itself and its natural second: the next draw, eigenvector or
    principal component, or the noise gradient beside the gradient.

    Raises:
        ValueError: an unknown kind, or a wrong number of them.

    >>> parse_directions("eigen:test", 2)
    [('eigen', 'test'), ('eigen', 'test')]
    >>> parse_directions("gradient,random", 2)
    [('gradient', 'mixed'), ('random', '')]
    """
    chosen = []
    for part in spec.split(","):
        kind, _, argument = part.strip().partition(":")
        takes = kind == "between" or kind in _WITH_VIEW
        if kind not in KINDS or (argument and not takes) or (kind == "between" and not argument):
            hint = did_you_mean(kind, KINDS, ";") if kind not in KINDS else ""
            raise ValueError(
                f"directions are {part.strip()!r}, expected random, eigen[:VIEW], gradient[:VIEW], noise-gradient, "
                f"trajectory or between:RUN.h5{hint}"
            )
        chosen.append((kind, argument or ("mixed" if kind in _WITH_VIEW else "")))
    if len(chosen) == 1 and count == 2 and chosen[0][0] in _PAIRS:
        kind, argument = chosen[0]
        chosen.append((_PAIRS[kind], argument if kind == "eigen" else ""))
    if len(chosen) != count:
        raise ValueError(
            f"{spec!r} names {len(chosen)} direction{'s' * (len(chosen) > 1)}, expected {count}"
            + ("; name two, e.g. between:A.h5,between:B.h5" if count == 2 else "; ask for a plane, or name one")
        )
    return chosen


def usual_span(spec: str, count: int) -> tuple[float, float]:
    """The displacements between which a surface is usually drawn along directions of that spelling.

    >>> usual_span("between:b.h5,between:c.h5", 2), usual_span("trajectory", 2)
    ((-0.25, 1.25), (-1.0, 1.0))
    """
    if all(kind == "between" for kind, _ in parse_directions(spec, count)):
        return (0.0, 1.0) if count == 1 else (-0.25, 1.25)
    return -1.0, 1.0


def directions_for(
    run: Run,
    spec: str,
    objective: Objective,
    *,
    count: int,
    epoch: int | str = "last",
    seed: int = 0,
    layers: Sequence[str] = (),
    policy: Mapping[str, str] | None = None,
    norm: float | None = None,
    trust: bool = False,
    subset: Subset | None = None,
) -> Directions:
    """One or two directions at a checkpoint of a run.

    ``random``: filter-normalised, of the seeds 2·seed and 2·seed + 1. ``eigen``: of the view's Hessian.
    ``gradient``: of the view, the direction of SAM's ε there. ``noise-gradient``: NCSAM's g* of the whole training set
    (:func:`simulated_noise_gradient`). ``trajectory``: principal components of the run's checkpoints about this one,
    both as long as the furthest of them is away. ``between``: the other run's last weights minus these.

    Args:
        spec: see :func:`parse_directions`.
        objective: of the run at that epoch; eigenvectors and gradients are those of its data.
        layers: patterns of parameters or modules to which random directions, eigenvectors and gradients are confined.
        policy: of random directions, see :func:`landscape.filter_normalized_direction`.
        norm: of eigenvectors and gradients; ‖w‖ if none, so that displacements along them are relative.
        trust: as for :class:`ncsam.Run`, for other runs.
        subset: samples to draw for eigenvectors and gradients of views that the objective has not; all if none.

    Raises:
        ValueError: the spelling, or what it asks for, is impossible here.
        StoreError: the other run cannot be read.
    """
    chosen = parse_directions(spec, count)
    kinds = [kind for kind, _ in chosen]
    if layers and {"trajectory", "between"} & set(kinds):
        raise ValueError("layers go with random directions, eigenvectors and gradients: checkpoints move all")
    factory = _DirectionFactory(run, objective, seed, tuple(layers), policy, norm, trust, subset)
    vectors, names = [], []
    for axis, (kind, argument) in enumerate(chosen):
        vector, name = factory.make(kind, argument, axis, chosen[:axis].count((kind, argument)))
        vectors.append(objective.layout.as_vector(vector.to(objective.layout.device)))
        names.append(name)
    return Directions(
        vectors=tuple(vectors),
        names=tuple(names),
        hashes=tuple(direction_hash(v) for v in vectors),
        seed=seed if {"random", "noise-gradient", "eigen"} & set(kinds) else None,
        settings={
            "directions": spec, "epoch": run.epoch(epoch), "seed": seed, "layers": list(layers),
            "policy": dict(policy or {}), "norm": norm,
        },
        ratios=factory.ratios,
    )  # fmt: skip


def checkpoints_of(run: Run, objective: Objective) -> list[Tensor]:
    """The (K,) weights of every kept epoch, in the layout of an objective of the run."""
    layout = objective.layout
    return [layout.weights(run.model(epoch, str(layout.device), layout.dtype)) for epoch in run.epochs]


def trajectory_on(run: Run, objective: Objective, directions: Directions) -> Trajectory:
    """Every kept checkpoint of the run in the coordinates of these directions, and its distance from their plane."""
    points = checkpoints_of(run, objective)
    return project_path(points, run.epochs, objective.weights, directions.vectors, ratios=directions.ratios)


def simulated_noise_gradient(run: Run, model: nn.Module, seed: int = 0) -> Tensor:
    """NCSAM's g* with the whole training set as one batch, in eval mode, flat (K,) in the model's layout.

    r_flip is the run's own, or the paper's 0.4 where it was trained without; the picks are drawn with ``seed``.
    """
    problem = run.problem
    labels = problem.observed()
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    device = next(iter(parameters.values())).device
    dtype = next(iter(parameters.values())).dtype
    batch = MiniBatch(
        model, problem.inputs().to(device, dtype), labels.to(device), nn.CrossEntropyLoss(),
        microbatches=math.ceil(len(labels) / _SAMPLES),
    )  # fmt: skip
    first = FirstPass(
        batch, list(parameters.values()), true_labels=None, progress=None,
        generator=torch.Generator().manual_seed(seed), reuse_graph=True,
    )  # fmt: skip
    noise = SimulatedNoise(flip_ratio=float(run.config.options.get("flip_ratio", 0.4)))
    found = noise(first).vector
    parts = dict(zip(map(id, first.params), found.split([p.numel() for p in first.params]), strict=True))
    return torch.cat([parts.get(id(p), torch.zeros(p.numel(), device=device)) for p in parameters.values()]).detach()


@dataclasses.dataclass
class _DirectionFactory:
    """Makes one direction at a time; what several share is computed once."""

    run: Run
    objective: Objective
    seed: int
    layers: tuple[str, ...]
    policy: Mapping[str, str] | None
    length: float | None
    trust: bool
    subset: Subset | None
    ratios: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.part = self.objective.restricted(*self.layers) if self.layers else self.objective
        self.norm = float(self.part.weights.double().norm()) if self.length is None else self.length

    def make(self, kind: str, argument: str, axis: int, repeat: int) -> tuple[Tensor, str]:
        if kind == "random":
            direction = landscape.filter_normalized_direction(
                self.objective.model, 2 * self.seed + axis, layers=self.layers or None, policy=self.policy
            )
            return direction, f"random {axis + 1}"
        if kind == "eigen":
            H = landscape.HessianOperator(self._one_view(argument))
            pairs = landscape.top_eigenpairs(H, k=repeat + 1, seed=self.seed)
            return self._whole(eigen_direction(pairs, repeat, self.norm)), f"eigenvector {repeat + 1} ({argument})"
        if kind == "gradient":
            return self._whole(gradient_direction(self._one_view(argument), self.norm)), f"gradient ({argument})"
        if kind == "noise-gradient":
            noise = simulated_noise_gradient(self.run, self.objective.model, self.seed)
            return self._whole(with_norm(self.part.extract(noise), self.norm, "g*")), "simulated noise gradient"
        if kind == "trajectory":
            return self._principal(repeat), f"principal component {repeat + 1}"
        return self._to(argument), f"to {argument.rpartition('/')[2]}"

    def _one_view(self, name: str) -> Objective:
        if name in self.part.views:
            return self.part.view(name)
        fresh = self.run.problem.objective(self.objective.model, (name,))
        fresh = fresh if self.subset is None else drawn(fresh, self.subset)
        return fresh.restricted(*self.layers) if self.layers else fresh

    def _whole(self, vector: Tensor) -> Tensor:
        """A vector of the chosen layers as one of all parameters, zero elsewhere."""
        layout = self.objective.layout
        parts = self.part.layout.unflatten(self.part.layout.as_vector(vector))
        zeros = layout.unflatten(torch.zeros(layout.size, dtype=layout.dtype, device=layout.device))
        return layout.flatten({**zeros, **parts})

    def _principal(self, index: int) -> Tensor:
        points = checkpoints_of(self.run, self.objective)
        centre = self.objective.weights
        furthest = max(float((p.double() - centre.double()).norm()) for p in points)
        directions, self.ratios = principal_directions(points, centre, index + 1)
        return signed(directions[index]) * furthest

    def _to(self, path: str) -> Tensor:
        layout = self.objective.layout
        other = Run(path, trust=self.trust).model("last", str(layout.device), layout.dtype)
        shapes = {n: p.shape for n, p in other.named_parameters() if p.requires_grad}
        if shapes != dict(zip(layout.names, layout.shapes, strict=True)):
            raise ValueError(f"{path}: its model has other parameters; only runs of one architecture can be connected")
        held = self.objective.context.fixed()
        for name, tensor in other.named_parameters():
            if not (tensor.requires_grad or (name in held and torch.equal(held[name], tensor))):
                raise ValueError(f"{path}: its frozen parameter {name!r} is another one, so no direction leads there")
        return layout.weights(other) - self.objective.weights
