"""The measurements that an audit makes of one checkpoint, and what speaks for and against each picture."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import landscape
from landscape.records import Record, Status
from landscape.spectrum.density import negative_mass
from landscape.surfaces.centre_check import beyond_rounding, check_centre, seen_curvature
from landscape.surfaces.directions import filter_normalized_direction
from landscape.surfaces.draws import line_draws
from ncsam.measurements.audit_plan import Plan
from ncsam.measurements.measurement import DTYPES, Subset, drawn
from ncsam.measurements.sampling_error import curvature_errors, sampling_error
from ncsam.runs.run import Run
from ncsam.training.execution import usable_device

RHO, ADAPTIVE_RHO, SIGMA, ADAPTIVE_SIGMA, KESKAR = 0.05, 0.5, 0.01, 0.1, 1e-3
_TOL = 1e-2  # relative residual of the largest eigenvalue
_SAMPLING = 0.25  # relative sampling error of the largest eigenvalue, up to which it is that of all samples
_REFINED = 15  # points along a side from which on a plane is refined where it bends
_TOLERANCE = 0.01
_CONFIRMED = {"agrees": "yes", "kinks": "gradients do, as the loss has kinks", "coarse": "at larger steps"}
_RESOLVED = 2.0  # factor within which a grid shows the curvature at its centre


@dataclasses.dataclass(frozen=True)
class Place:
    """Device and precision of a measurement."""

    device: torch.device
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, device: str, dtype: str) -> Place:
        """The place that the options name; errors as :func:`usable_device`."""
        return cls(usable_device(device), DTYPES[dtype])


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One column of an audit: weights of a run, under the name that the page has for them."""

    label: str
    run: Run
    epoch: int
    file: str

    def objective(self, views: Sequence[str], place: Place, **options: Any) -> landscape.Objective:
        """The mean cross-entropy on the views."""
        return self.run.problem.objective(self.model(place), views, **options)

    def model(self, place: Place) -> nn.Module:
        """The model with these weights."""
        return self.run.model(self.epoch, str(place.device), place.dtype)


@dataclasses.dataclass
class Quantity:
    """One quantity of one checkpoint."""

    value: float
    error: float = 0.0
    kind: str = "none"
    view: str = ""
    samples: int = 0
    status: Status = Status.OK

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and math.isfinite(self.error)):
            self.status = Status.NONFINITE


class Measuring:
    """The measurements of a checkpoint, each a step that returns quantities, and keeps records and findings."""

    def __init__(
        self,
        view: str,
        views: Sequence[str],
        drawing: Subset | None,
        chosen: Plan,
        seed: int,
        span: float,
        place: Place,
    ) -> None:
        self.view, self.views, self.drawing, self.plan = view, views, drawing, chosen
        self.seed, self.span, self.place = seed, span, place
        self.surface_views = tuple(dict.fromkeys((view, "test")))
        self.records: dict[str, Record] = {}
        self.trust: list[dict[str, Any]] = []
        self._made: dict[int, landscape.Objective] = {}  # by model, since what they check and trace is costly
        self._operators: dict[int, landscape.HessianOperator] = {}

    def steps(self, null: bool) -> Iterator[Callable[[int, str, nn.Module, Checkpoint], dict[str, Quantity]]]:
        """Yield what measures a checkpoint, or a null, in order."""
        effort = self.plan.effort
        yield self.losses
        if effort.products:
            yield self.curvature
        yield self.sharpness
        if effort.draws:
            yield self.line
        if effort.plane and not null:
            yield self.plane

    def losses(self, n: int, label: str, model: nn.Module, checkpoint: Checkpoint) -> dict[str, Quantity]:
        """Loss and accuracy of every view with their sampling errors."""
        whole = checkpoint.run.problem.objective(model, self.views, metrics=_METRICS)
        part = reduced(whole, self.drawing)
        evaluation = part.evaluate()
        found = {}
        for view in self.views:
            samples, everything = part.num_samples(view), whole.num_samples(view)
            if not samples:
                continue
            loss = evaluation.loss[view]
            accuracy = evaluation.metrics["accuracy"][view]
            squares = evaluation.metrics["square"][view]
            for name, value, variance in (
                ("loss", loss, squares - loss**2), ("accuracy", accuracy, accuracy * (1 - accuracy))
            ):  # fmt: skip
                error = sampling_error(variance, samples, everything)
                found[f"{name} of {view}"] = Quantity(value, error, "standard error", view, samples)
        return found

    def curvature(self, n: int, label: str, model: nn.Module, checkpoint: Checkpoint) -> dict[str, Quantity]:
        """Largest eigenvalue, its sampling error, trace, tr DHD, density and negative mass."""
        effort, objective = self.plan.effort, self._objective(model, checkpoint, (self.view,))
        H = self._hessian(model, objective)
        found: dict[str, Quantity] = {}
        top = None
        if effort.top:
            top = landscape.top_eigenpairs(H, 1, tol=_TOL, max_matvecs=effort.top, seed=self.seed, keep_basis=True)
            self.records[f"{n}/eigenpairs"] = dataclasses.replace(top, vectors=None, basis=None)
            error = top.residuals[0] if top.errors is None else top.errors[0]
            found["λ₁"] = self._quantity(float(top.values[0]), float(error), "bound", objective)
            if not top.converged[0] and found["λ₁"].status == Status.OK:
                found["λ₁"].status = Status.NOT_CONVERGED
            residual = float(top.residuals[0]) / max(abs(float(top.values[0])), 1e-30)
            told = f"relative residual {residual:.2g} after {top.matvecs} products"
            self._judge("λ₁", label, "has it converged?", told, bool(top.converged[0]))
            assert top.vectors is not None
            sampling = self._sampling_error_of_curvature(objective, top.vectors[:, 0], checkpoint)
            if sampling is not None:
                found["sampling error of λ₁"] = self._quantity(sampling, 0.0, "none", objective)
                share = sampling / max(abs(float(top.values[0])), 1e-30)
                told = f"its sampling error on {objective.num_samples(self.view)} of them is {share:.0%}"
                self._judge("λ₁", label, "are there samples enough?", told, share <= _SAMPLING)
        if effort.trace:
            trace = landscape.trace(H, effort.trace, deflate=top, seed=self.seed)
            self.records[f"{n}/trace"] = trace
            found["trace"] = self._quantity(trace.value, trace.stderr, "standard error", objective)
        if effort.dhd:
            relative = landscape.ScaledOperator(H, objective.weights.abs())
            dhd = landscape.trace(relative, effort.dhd, seed=self.seed)
            self.records[f"{n}/trace_dhd"] = dhd
            found["tr DHD"] = self._quantity(dhd.value, dhd.stderr, "standard error", objective)
        if effort.steps:
            steps = min(effort.steps, objective.num_parameters)
            density = landscape.spectral_density(H, steps, effort.probes, seed=self.seed)
            mass = negative_mass(density)
            self.records |= {f"{n}/density": density, f"{n}/negative_mass": mass}
            error = mass.magnitude_stderr
            found["negative mass"] = self._quantity(mass.magnitude, error, "standard error", objective)
        return found

    def sharpness(self, n: int, label: str, model: nn.Module, checkpoint: Checkpoint) -> dict[str, Quantity]:
        """Every measure of sharpness."""
        effort, objective = self.plan.effort, self._objective(model, checkpoint, (self.view,))
        measured = {
            "SAM sharpness": landscape.sam_sharpness(objective, RHO, seed=self.seed),
            "adaptive sharpness": landscape.adaptive_sharpness(objective, ADAPTIVE_RHO, seed=self.seed),
        }
        draws: dict[str, Any] = {"num_samples": effort.average, "seed": self.seed}
        if effort.average:
            measured["average sharpness"] = landscape.average_sharpness(objective, SIGMA, **draws)
            measured["adaptive average sharpness"] = landscape.average_sharpness(
                objective, ADAPTIVE_SIGMA, adaptive=True, **draws
            )
        if effort.keskar:
            measured["Keskar sharpness in %"] = landscape.keskar_sharpness(
                objective, KESKAR, steps=effort.keskar, seed=self.seed
            )
        sam = measured["SAM sharpness"]
        found = {"loss on these samples": self._quantity(sam.loss, 0.0, "none", objective)}
        for name, record in measured.items():
            self.records[f"{n}/sharpness_{record.measure}"] = record
            kind = "lower bound" if record.stderr is None else "standard error"
            found[name] = self._quantity(record.value, record.stderr or 0.0, kind, objective)
        return found

    def line(self, n: int, label: str, model: nn.Module, checkpoint: Checkpoint) -> dict[str, Quantity]:
        """Lines along filter-normalised random directions, so that a band can be drawn."""
        effort, objective = self.plan.effort, self._objective(model, checkpoint, self.surface_views)
        alphas = self._axis(effort.line)
        draws = line_draws(objective, alphas, effort.draws, seed=self.seed)
        self.records[f"{n}/line"] = draws
        middle = int(np.flatnonzero(alphas == 0)[0])
        at_centre = dict(zip(draws.views.tolist(), draws.loss[0, :, middle].tolist(), strict=True))
        direction = filter_normalized_direction(objective, 2 * self.seed)  # that of the first draw
        checked = check_centre(objective, [direction], at_centre, points=effort.draws * effort.line)
        self._judge_centre("line", label, checked.centre_loss, checked.plain_loss, checked.check)
        self._judge_grid("line", label, objective, [direction], [seen_curvature(draws.loss[0, 0], alphas)])
        bad = float(np.mean(draws.status == Status.NONFINITE))
        self._judge("line", label, "are all points finite?", f"{1 - bad:.0%} of {draws.status.size}", bad == 0)
        rises = np.sort(draws.loss[:, 0, [0, -1]].max(axis=1) - draws.loss[:, 0, middle])
        told = f"highest rise at the ends from {rises[0]:.3g} to {rises[-1]:.3g} over {effort.draws} draws"
        alike = bool(rises[0] > 0 and rises[-1] < _RESOLVED * rises[0])
        self._judge("line", label, "do the draws agree within a factor of 2?", told, alike)
        return {}

    def plane(self, n: int, label: str, model: nn.Module, checkpoint: Checkpoint) -> dict[str, Quantity]:
        """A plane of two filter-normalised random directions."""
        points, objective = self.plan.effort.plane, self._objective(model, checkpoint, self.surface_views)
        tolerance = _TOLERANCE if points >= _REFINED else None
        axis = self._axis(points)
        directions = [filter_normalized_direction(objective, 2 * self.seed + k) for k in (0, 1)]
        plane = landscape.plane(objective, directions[0], directions[1], axis, axis, seed=self.seed, tol=tolerance)
        self.records[f"{n}/plane"] = plane
        self._judge_centre("plane", label, plane.centre_loss, plane.plain_loss, plane.check or {})
        if plane.seen_curvature is not None:
            self._judge_grid("plane", label, objective, directions, plane.seen_curvature.tolist())
        share = float(np.mean(plane.status[0] == Status.INTERPOLATED))
        told = f"{share:.0%} of {plane.status[0].size} points are interpolated"
        if share and plane.interpolation_error is not None:
            spread = float(np.nanmax(plane.loss[0]) - np.nanmin(plane.loss[0]))
            error = float(plane.interpolation_error[0])
            told += f", estimated error {error / spread if spread else 0.0:.1%} of the range"
            self._judge("plane", label, "how much is interpolated?", told, error <= 2 * _TOLERANCE * spread)
        else:
            self._judge("plane", label, "how much is interpolated?", told, True)
        bad = float(np.mean(plane.status == Status.NONFINITE))
        self._judge("plane", label, "are all points finite?", f"{1 - bad:.0%} of {plane.status.size}", bad == 0)
        return {}

    def barrier(
        self, n: int, label: str, model: nn.Module, checkpoint: Checkpoint, end: Checkpoint
    ) -> dict[str, Quantity]:
        """The loss on the straight way to the reference, and its barrier."""
        start = self._objective(model, checkpoint, self.surface_views)
        goal = self._objective(end.model(self.place), end, self.surface_views)
        way = landscape.connect(start, goal, np.linspace(0, 1, self.plan.effort.barrier), names=(label, end.label))
        self.records[f"{n}/barrier"] = way
        finite = bool(np.isfinite(way.loss).all())
        told = f"{way.alphas.size} points, the highest of {way.views[0]} at {way.peak[0]:.2g} of the way"
        self._judge("barrier", label, "are all points finite?", told, finite)
        return {
            f"barrier on {view}": Quantity(float(height), 0.0, "lower bound", view, start.num_samples(view))
            for view, height in zip(way.views.tolist(), way.barrier, strict=True)
        }

    def _axis(self, points: int) -> np.ndarray:
        """An odd number of places from −span to span, 0 exactly among them."""
        return np.arange(-(points // 2), points // 2 + 1) * (self.span / (points // 2))

    def _objective(self, model: nn.Module, checkpoint: Checkpoint, views: Sequence[str]) -> landscape.Objective:
        """The objective on as many samples as the plan has work for, the first of those that the subset holds."""
        if id(model) not in self._made:
            whole = checkpoint.run.problem.objective(model, self.surface_views)
            seed = 0 if self.drawing is None else self.drawing.seed
            self._made[id(model)] = drawn(whole, Subset(self.plan.samples, seed))  # which keeps the model
        return self._made[id(model)].view(*views)

    def _hessian(self, model: nn.Module, objective: landscape.Objective) -> landscape.HessianOperator:
        """The Hessian of the measured view, one for each model."""
        if id(model) not in self._operators:
            self._operators[id(model)] = landscape.HessianOperator(objective)
            self._operators[id(model)].expect(self.plan.effort.products)
        return self._operators[id(model)]

    def _quantity(self, value: float, error: float, kind: str, objective: landscape.Objective) -> Quantity:
        return Quantity(float(value), float(error), kind, self.view, objective.num_samples(self.view))

    def _sampling_error_of_curvature(
        self, objective: landscape.Objective, vector: Any, checkpoint: Checkpoint
    ) -> float | None:
        """Standard error of vᵀHv over samples, from that of each; none where all samples are used."""
        whole = checkpoint.run.problem.num_samples(self.view)
        if objective.num_samples(self.view) == whole:
            return None
        return float(curvature_errors(objective, vector[:, None], whole)[0])

    def _judge_centre(self, picture: str, label: str, centre: Any, plain: Any, check: Mapping[str, Any]) -> None:
        """Findings of the cross-check of a surface's centre."""
        eps = torch.finfo(self.place.dtype).eps
        differs = bool(beyond_rounding(centre, plain, eps).any())
        told = f"{float(centre[0]):.6g} in the picture, {float(plain[0]):.6g} by plain evaluation"
        self._judge(picture, label, "is the loss at the centre right?", told, not differs)
        question = "do second differences confirm the Hessian?"
        if "unavailable" in check:
            self._judge(picture, label, question, str(check["unavailable"]), None)
        else:
            confirmed = all(outcome in _CONFIRMED for outcome in check["outcome"])
            self._judge(picture, label, question, ", ".join(_CONFIRMED.get(o, o) for o in check["outcome"]), confirmed)

    def _judge_grid(
        self, picture: str, label: str, objective: landscape.Objective, directions: Sequence[Any], seen: Sequence[float]
    ) -> None:
        """Compare what the grid shows of the curvature at its centre with d·Hd there, on the same samples."""
        H = self._hessian(objective.model, objective.view(self.view))
        told, alike = [], True
        for direction, shown in zip(directions, seen, strict=True):
            d = objective.layout.as_vector(direction)
            curvature = float(d.double() @ (H @ d).double())
            told.append(f"{shown:.3g} between neighbouring points, d·Hd = {curvature:.3g}")
            alike &= curvature != 0 and 1 / _RESOLVED <= shown / curvature <= _RESOLVED
        self._judge(picture, label, "does the grid show the curvature at the centre?", "; ".join(told), alike)

    def _judge(self, picture: str, label: str, question: str, answer: str, ok: bool | None) -> None:
        self.trust.append({"picture": picture, "checkpoint": label, "question": question, "answer": answer, "ok": ok})


def _accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    right = (outputs.argmax(1) == labels).double()
    return right.masked_fill(~outputs.amax(1).isfinite(), math.nan)  # then nothing is predicted


def _square(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs.double(), labels, reduction="none") ** 2


_METRICS = {"accuracy": _accuracy, "square": _square}


def reduced(objective: landscape.Objective, drawing: Subset | None) -> landscape.Objective:
    return objective if drawing is None else drawn(objective, drawing)
