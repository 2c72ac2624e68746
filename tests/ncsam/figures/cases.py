"""Every figure of the package with data of every kind that it meets: the table that the check goes through."""

from __future__ import annotations

import csv
import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from landscape import figures, persistence, persistence_draws
from landscape.records import (
    Alignment,
    Connection,
    Course,
    CurvatureSplit,
    Curve,
    DensityResult,
    DiagonalResult,
    EigenResult,
    LayerSpectra,
    Line,
    LineDraws,
    MomentsResult,
    NegativeMass,
    Persistence,
    PersistenceDraws,
    Plane,
    PlaneDraws,
    Sharpness,
    Status,
    SubspaceOverlap,
    TraceResult,
    Trajectory,
)
from ncsam import figures as study_figures
from ncsam.figures.catalogue import figures_of_study
from ncsam.records import (
    Barriers,
    BoundTable,
    Diagnostics,
    Labels,
    SampleCurvatures,
    SampleHistory,
    SharpnessTable,
    Spectrum,
    Training,
)
from ncsam.statistics import LEVEL, t_intervals
from ncsam.study.arms import family_of
from ncsam.study.by_measure import by_measure
from ncsam.study.files import curves_of
from ncsam.study.radius_control import radius_control
from ncsam.study.table import Study, studies, table_of
from ncsam.study.verdicts import judge
from ncsam.training.gradient_diagnostics import QUANTITIES

RESULTS = Path(__file__).parents[3] / "docs" / "results"
VIEWS = ("mixed", "clean_part", "noisy_part", "test")
TEXTS = ("name", "arm", "optimizer", "data", "model", "noise", "role")
EPOCHS = np.arange(1, 46)
ARMS = ("sgd", "sam", "ncsam", "ncsam-unprojected", "matched", "clean-direction", "sam-rho0.2")


@functools.cache
def real_rows(name: str) -> tuple[dict[str, Any], ...]:
    """The runs of a committed study, as rows of a table."""
    with (RESULTS / name / "table.csv").open(newline="", encoding="utf-8") as file:
        return tuple({key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(file))


def _value(key: str, text: str) -> Any:
    if key in TEXTS:
        return text
    if key == "options":
        return json.loads(text) if text else {}
    return int(text) if key == "seed" else float(text) if text else math.nan


@functools.cache
def study_of(name: str, arms: tuple[str, ...] = (), seeds: int = 100) -> Study:
    """A committed study: all of it, or some arms and the first seeds."""
    kept = [row for row in real_rows(name) if (not arms or row["arm"] in arms) and row["seed"] < seeds]
    return studies(table_of(kept))[0]


def training(best: float, memorised: float, seed: int, epochs: np.ndarray = EPOCHS) -> Training:
    """A run that rises to its best accuracy, memorises a share of the wrong labels (NaN without any), and falls."""
    at = (epochs - 1) / (len(epochs) - 1)
    noise = 0.01 * np.random.default_rng(seed).standard_normal(len(epochs))
    along = {
        name: np.linspace(0, 1, len(epochs))
        for name, declared in Training.variables().items()
        if declared.dims == ("epoch",) and not declared.coordinate
    }
    along["memorisation"] = (
        np.clip(memorised * at**2 + noise, 0, 1) if memorised == memorised else np.full_like(at, np.nan)
    )
    accuracy = best * (1 - np.exp(-12 * at)) - 0.3 * (memorised if memorised == memorised else 0.0) * at**2 + noise
    table = np.tile(np.clip(accuracy, 0.05, 1)[:, None], len(VIEWS))
    return Training(epochs=epochs, views=np.array(VIEWS), loss=1 - table, accuracy=table, **along)


def trainings(rate: float, arms: tuple[str, ...], seeds: int) -> dict[str, list[Training]]:
    best, fitted = 1 - 0.5 * rate, 0.69 * min(1.0, rate / 0.4) if rate else math.nan
    return {
        arm: [training(best - 0.01 * n, fitted * (1 - 0.1 * n), 10 * n + seed) for seed in range(seeds)]
        for n, arm in enumerate(arms)
    }


def diagnostics(value: float, seed: int) -> Diagnostics:
    epochs = np.array([4, 8, 12, 16])
    rng = np.random.default_rng(seed)
    table = np.clip(value + 0.2 * rng.standard_normal((len(epochs), len(QUANTITIES), 4)), -0.99, 0.99)
    mean = table.mean(-1)
    return Diagnostics(
        epochs=epochs, quantities=np.array(list(QUANTITIES)), value=table, mean=mean, low=mean - 0.1, high=mean + 0.1,
        full=np.full_like(mean, np.nan), batch_size=64, noise="symmetric:0.4", relabelled=False, probe={}, loss="ce",
        seed=seed, level=0.95,
    )  # fmt: skip


def line(scale: float = 1.0, points: int = 21, seed: int = 0, bad: bool = False) -> Line:
    alphas = np.linspace(-1, 1, points)
    loss = np.stack([scale * (0.02 * (n + 1) + (1 + 0.1 * seed) * alphas**2 * (1 + n)) for n in range(len(VIEWS))])
    status = np.ones(loss.shape, np.uint8)
    if bad:
        loss[:, 0], status[:, 0], status[:, 1] = np.inf, Status.NONFINITE, Status.INTERPOLATED
    return Line(
        views=np.array(VIEWS), alphas=alphas, loss=loss, status=status, weight_norm=10.0 + scale,
        direction_norm=9.0 + scale, seed=seed,
    )  # fmt: skip


def plane(scale: float = 1.0, points: int = 13, *, high: float = 1.0, bad: bool = False, **more: Any) -> Plane:
    alphas = np.linspace(-1, 1, points)
    a, b = np.meshgrid(alphas, alphas, indexing="ij")
    loss = np.stack([0.05 + high * scale * (a**2 + 0.5 * b**2 + 0.3 * a * b), 0.3 + scale * (a**2 + b**2)])
    status = np.ones(loss.shape, np.uint8)
    if bad:
        loss[:, 0, :2], status[:, 0, :2], status[:, 1:3, 3] = np.nan, Status.NONFINITE, Status.INTERPOLATED
    return Plane(
        views=np.array(["mixed", "test"]), alphas=alphas, betas=alphas, loss=loss, status=status, weight_norm=10.0,
        direction_norms=np.array([9.0, 9.5]), cosine=0.01, seed=0, accuracy=np.clip(1 - loss / 3, 0, 1), **more,
    )  # fmt: skip


def trajectory() -> Trajectory:
    at = np.linspace(0, 1, 6)
    coordinates = np.stack([1.8 * (1 - at), 0.9 * (1 - at) ** 2], axis=1)
    return Trajectory(
        epochs=np.arange(0, 12, 2), coordinates=coordinates, distance=1 - at, length=2 - at, explained=0.83,
        hashes=np.array(["a", "b"]),
    )  # fmt: skip


def draws(seed: int = 0) -> LineDraws:
    alphas, rng = np.linspace(-1, 1, 11), np.random.default_rng(seed)
    loss = 0.1 + rng.uniform(0.5, 1.5, (6, len(VIEWS), 1)) * alphas**2
    return LineDraws(
        draws=np.arange(6), views=np.array(VIEWS), alphas=alphas, loss=loss, status=np.ones(loss.shape, np.uint8),
        weight_norm=10.0, direction_norms=np.ones((6, 1)), hashes=np.full((6, 1), "x"),
    )  # fmt: skip


def connection(height: float = 0.8) -> Connection:
    at = np.linspace(-0.2, 1.2, 15)
    loss = np.stack([0.2 + 0.1 * n + height * np.exp(-20 * (at - 0.5) ** 2) for n in range(len(VIEWS))])
    rise = np.full(len(VIEWS), height)
    return Connection(
        views=np.array(VIEWS), alphas=at, loss=loss, status=np.ones(loss.shape, np.uint8), barrier=rise,
        peak=np.full(len(VIEWS), 0.5), distance=3.0, cosine=0.8, buffers="none", start="sgd", end="sam",
    )  # fmt: skip


def trained_curve(height: float = 0.05) -> Curve:
    straight = connection(height)
    fields = {name: getattr(straight, name) for name in (*straight.variables(), *straight.parameters())}
    errors = np.full(len(VIEWS), 0.01)
    return Curve(
        **fields, control_points=np.eye(3, 4), barrier_error=errors, barrier_stderr=errors, history=np.ones(5),
        length=4.0, shape="bezier", trained_on="mixed", gradients=5, lr=0.02, seed=0,
    )  # fmt: skip


def density(scale: float = 1.0, probes: int = 2) -> DensityResult:
    grid = scale * np.linspace(-2, 20, 300)
    value = np.exp(-((grid / scale) ** 2)) / scale + 1e-5 * np.exp(-((grid / scale - 18) ** 2) * 4)
    return DensityResult(
        grid=grid, density=value, stderr=0.1 * value if probes > 1 else np.full_like(value, np.nan),
        nodes=scale * np.linspace(-1, 19, 40).reshape(2, 20), weights=np.full((2, 20), 0.05), matvecs=40,
        broadening=0.01, seed=0, outliers=scale * np.array([18.0, 15.0, 12.0]), size=10_000,
    )  # fmt: skip


def eigen(values: tuple[float, ...]) -> EigenResult:
    v = np.array(values)
    return EigenResult(
        values=v, residuals=0.02 * np.abs(v), converged=np.arange(len(v)) < len(v) - 1, matvecs=40, which="LA",
        tol=1e-3, seed=0,
    )  # fmt: skip


def layer_spectra(scale: float = 1.0, trace: bool = True) -> LayerSpectra:
    names = np.array([f"layer{n}.0.conv{m}" for n in range(1, 5) for m in (1, 2)])
    at = scale * np.linspace(1, 5, len(names))
    return LayerSpectra(
        layers=names, sizes=np.full(len(names), 100), values=at, residuals=0.05 * at,
        converged=np.ones(len(names), bool), matvecs=80, tol=1e-2, seed=0, trace=20 * at if trace else None,
        trace_stderr=2 * at if trace else None,
    )  # fmt: skip


def split(sign: float = 1.0) -> CurvatureSplit:
    curvature = np.array([[10.0, 5.0, 2.0], [sign * 30.0, 8.0, 4.0]])
    shares = np.array([0.6, 0.4])
    return CurvatureSplit(
        parts=np.array(["clean_part", "noisy_part"]), shares=shares, curvature=curvature, total=shares @ curvature,
        mismatch=np.zeros(3), matvecs=10,
    )  # fmt: skip


def plane_draws(scale: float = 1.0) -> PlaneDraws:
    one = [plane(scale * (1 + 0.3 * n), 9) for n in range(3)]
    return PlaneDraws(
        draws=np.arange(3), views=one[0].views, alphas=one[0].alphas, betas=one[0].betas,
        loss=np.stack([p.loss for p in one]), status=np.stack([p.status for p in one]), weight_norm=10.0,
        direction_norms=np.ones((3, 2)), cosines=np.zeros(3), hashes=np.full((3, 2), "x"),
        accuracy=np.stack([p.accuracy for p in one]),
    )  # fmt: skip


def course(size: float = 1.0) -> Course:
    """Three measures of two views along a training; an eigenvalue that did not converge, and one that is missing."""
    at = np.arange(1, 9)
    shape = np.stack([np.exp(-at / 4), 10 * at / 8, 30 * at / 8])[:, None] * np.array([1.0, 1.4])[:, None]
    status = np.full((3, 2, 8), int(Status.OK))
    status[1, :, 3], status[1, :, 6] = int(Status.NOT_CONVERGED), int(Status.NONFINITE)
    value = np.where(status == int(Status.NONFINITE), np.nan, size * shape)
    return Course(
        measures=np.array(["loss", "top", "trace"]), views=np.array(["train", "test"]), at=at, value=value,
        error=0.05 * np.array([0.0, 1.0, 2.0])[:, None, None] * np.nan_to_num(value), status=status,
        seconds=np.ones(8), unit="epoch", errors=["none", "bound", "standard error"], settings={},
    )  # fmt: skip


def wells(noise: float = 0.0, *, on_line: bool = False) -> Persistence:
    """Basins of two wells, one of them with a peak in its midst."""
    alphas, betas = np.linspace(-2, 2, 33), np.linspace(-1.5, 1.5, 25)
    a, b = np.meshgrid(alphas, [0.0] if on_line else betas, indexing="ij")
    loss = (a**2 - 1) ** 2 + 0.3 * a + b**2 + 0.9 * np.exp(-((a - 1) ** 2 + b**2) / 0.12)
    loss = loss + noise * np.random.default_rng(0).standard_normal(loss.shape)
    both: dict[str, Any] = {"views": np.array(["mixed"]), "alphas": alphas, "weight_norm": 1.0, "seed": 0}
    if on_line:
        status = np.ones((1, len(alphas)), np.uint8)
        return persistence(Line(loss=loss.T, status=status, direction_norm=1.0, **both))
    status = np.ones((1, *loss.shape), np.uint8)
    norms = np.ones(2)
    return persistence(Plane(loss=loss[None], status=status, betas=betas, direction_norms=norms, cosine=0.0, **both))


def well_draws(scale: float = 1.0) -> PersistenceDraws:
    return persistence_draws(plane_draws(scale))


def sharpness(scale: float = 1.0, measure: str = "sam") -> Sharpness:
    rises = scale * 0.3 * (1 - np.exp(-np.arange(16) / np.array([[3.0], [5.0], [8.0]])))
    return Sharpness(
        value=float(rises.max()), loss=0.2, stderr=0.02 * scale, measure=measure, radius=0.05, steps=15, rises=rises
    )  # fmt: skip


def sharpness_table(scale: float = 1.0, epochs: int = 4) -> SharpnessTable:
    values = scale * np.geomspace(0.01, 0.5, epochs * len(VIEWS)).reshape(epochs, len(VIEWS))
    return SharpnessTable(
        epochs=np.arange(epochs), views=np.array(VIEWS), loss=values, sam=values, adaptive=2 * values,
        weight_norm=np.ones(epochs), status=np.ones(values.shape, np.uint8), rho=0.05, adaptive_rho=0.5, sigma=0.01,
        steps=15, samples=10, seed=0, dtype="float32", average=values / 10, average_stderr=values / 100,
    )  # fmt: skip


def spectrum() -> Spectrum:
    views = VIEWS[:3]
    values = np.geomspace(20.0, 1.0, 5) * np.array([[[1.0], [0.5], [2.0]]])
    return Spectrum(
        epochs=np.array([4]), views=np.array(views), values=values, residuals=values / 50, converged=values > 1,
        matvecs=np.ones((1, 3)), weight_norm=np.ones(1), status=np.ones((1, 3), np.uint8), which="LA", tol=1e-3,
        trace_matvecs=0, seed=0, dtype="float32",
    )  # fmt: skip


def bound_table(scale: float = 1.0) -> BoundTable:
    shape = (3, 2)
    ones = np.ones(shape)
    terms = {name: scale * k * ones for name, k in {"neighbourhood": 0.3, "sampling": 0.05, "complexity": 8.0}.items()}
    terms["neighbourhood"][0] = 0.0
    return BoundTable(
        epochs=np.array([1, 10, 45]), losses=np.array(["error", "clipped_ce"]), at_weights=0.1 * ones,
        highest=0.2 * ones, **terms, total=sum(terms.values()), risk=0.2 * ones, smoothing=0.01 * ones,
        smoothing_stderr=0.001 * ones, history=np.ones((3, 2, 1, 4)), converged=ones, weight_norm=np.ones(3),
        status=np.ones(shape, np.uint8), alpha=0.4, samples=1000, num_parameters=5000, rho=0.05, delta=0.05, clip=4.0,
        sigma=0.01, draws=8, steps=20, restarts=2, seed=0, violated="", dtype="float32",
    )  # fmt: skip


def labels(classes: int = 10) -> Labels:
    rng = np.random.default_rng(0)
    true = rng.integers(classes, size=2000)
    flipped = rng.random(2000) < 0.4
    observed = np.where(flipped, (true + 1) % classes, true)
    return Labels(
        observed=observed, true=true, flipped=flipped, held_out=np.zeros(2000, bool), transition=np.eye(classes),
        realized_rate=0.4, noise="pair", rate=0.4, seed=0, options={},
    )  # fmt: skip


def samples() -> SampleHistory:
    margin = np.random.default_rng(0).standard_normal((10, 300)) + np.linspace(-1, 4, 10)[:, None]
    return SampleHistory(
        epochs=np.arange(1, 11), index=np.arange(300), loss=np.exp(-margin), margin=margin, aum=margin.mean(0),
        forgetting=np.zeros(300), learned=np.ones(300, bool),
    )  # fmt: skip


def sample_curvatures(shift: float = 1.0, wrong: float = 0.3) -> SampleCurvatures:
    rng = np.random.default_rng(0)
    true = rng.integers(10, size=500)
    flipped = rng.random(500) < wrong
    curvature = np.exp(rng.standard_normal((2, 1, 500))) * np.where(flipped, 1 + shift, 1) - 0.2
    loss = np.exp(0.5 * rng.standard_normal((2, 500))) + 2 * flipped
    return SampleCurvatures(
        epochs=np.array([1, 9]), index=np.arange(500), observed=np.where(flipped, (true + 1) % 10, true), true=true,
        flipped=flipped, curvature=curvature, values=curvature.mean(-1), residuals=np.full((2, 1), 1e-3),
        converged=np.ones((2, 1)), loss=loss, margin=1 - loss, weight_norm=np.ones(2), status=np.ones(2, np.uint8),
        tol=1e-3, seed=0, dtype="float32",
    )  # fmt: skip


def trace(scale: float = 1.0) -> TraceResult:
    return TraceResult(value=100 * scale, stderr=5.0, matvecs=10, samples=np.ones(10), seed=0)


def moments(scale: float = 1.0) -> MomentsResult:
    return MomentsResult(
        trace=100 * scale, trace_stderr=5.0, frobenius=40.0, frobenius_stderr=2.0, effective_rank=6.2,
        effective_rank_stderr=0.4, deflated=0, matvecs=10, seed=0,
    )  # fmt: skip


def mass(scale: float = 1.0) -> NegativeMass:
    return NegativeMass(0.3 / scale, 0.02, 0.05, 0.004, 0.0)


def diagonal(scale: float = 1.0) -> DiagonalResult:
    values = scale * np.random.default_rng(0).standard_normal(5000) ** 3
    return DiagonalResult(values=values, stderr=0.1 * np.abs(values), deflated=0, matvecs=10, seed=0)


def overlap(scale: float = 1.0) -> SubspaceOverlap:
    return SubspaceOverlap(angles=np.minimum(np.linspace(0.1, 1.5, 5) * scale, 1.57), overlap=0.4, chance=0.01)


def alignment_with(scale: float = 1.0) -> Alignment:
    cosines = np.array([[0.8, 0.3, 0.1], [0.2, 0.5, 0.4]]) / scale
    return Alignment(
        directions=np.array(["gradient", "noise_gradient"]), cosines=cosines, captured=(cosines**2).sum(1), chance=0.001
    )  # fmt: skip


def study_barriers(arms: tuple[str, ...] = ("sgd", "sam", "ncsam"), pairs: int = 2) -> Barriers:
    ways = ("straight", "aligned", "curved")
    shape = (len(ways), pairs, len(arms), len(arms))
    height = np.random.default_rng(0).gamma(2.0, 0.2, shape) / np.array([1, 2, 10])[:, None, None, None]
    mean, low, high = t_intervals(np.moveaxis(height, 1, -1), LEVEL)
    return Barriers(
        ways=np.array(ways), arms=np.array(arms), first_seed=2 * np.arange(pairs), second_seed=2 * np.arange(pairs) + 1,
        height=height, length=np.ones(shape), mean=mean, low=low, high=high, level=LEVEL, view="test",
        buffers="recalibrated", points=21, gradients=300, bends=1, seed=0, dtype="float32", noise="symmetric:0.4",
    )  # fmt: skip


Draw = Callable[[], Figure]


def _of_study(study: Callable[[], Study], tag: str, names: tuple[str, ...]) -> dict[str, Draw]:
    return {f"{name}, {tag}": functools.partial(lambda name: figures_of_study(study())[name](), name) for name in names}


OF_TRACES = ("against_noise", "sharpness", "arms", "flatness")
FROM_TABLE = ("verdicts", "radius", "against_noise", "sharpness", "arms", "gap")
RATES = (0.0, 0.2, 0.4, 0.6)


def _by_rate(rates: tuple[float, ...], arms: tuple[str, ...], seeds: int) -> Mapping[str, Any]:
    return {f"{100 * rate:g} % wrong labels": trainings(rate, arms, seeds) for rate in rates}


def _along(scale: float) -> list[EigenResult]:
    return [eigen(tuple(scale * epoch * np.array([3.0, 1.0, -0.2]))) for epoch in (1, 2, 4)]


def _labelled(make: Callable[[float], Any], count: int) -> dict[str, Any]:
    return {name: make(1 + 0.2 * n) for n, name in enumerate(ARMS[:count])}


CASES: dict[str, Draw] = {
    **_of_study(lambda: study_of("digits"), "seventeen arms", (*FROM_TABLE, "bound")),
    **_of_study(lambda: study_of("digits", ("sgd", "ncsam")), "two arms", (*FROM_TABLE, "bound")),
    **_of_study(lambda: study_of("digits", ARMS, 2), "demo-like, two seeds", FROM_TABLE),
    **_of_study(lambda: study_of("digits", ("sam", "ncsam"), 1), "one seed", FROM_TABLE),
    **_of_study(lambda: study_of("cifar10-small"), "eight arms", FROM_TABLE),
    **_of_study(lambda: study_of("digits-2"), "of traces", OF_TRACES),
    **_of_study(lambda: study_of("digits-2", ("sam", "ncsam"), 1), "of traces, one seed", OF_TRACES),
    "flatness, each arm a family": lambda: study_figures.sharpness_against_error(curves_of(study_of("digits-2"))),
    "arms": lambda: study_figures.arms_at(curves_of(study_of("digits"))),
    "gap, families": lambda: study_figures.sharpness_against_gap(
        curves_of(study_of("digits")),
        families={arm: family_of(*study_of("digits").optimizers[arm]) for arm in study_of("digits").arms},
    ),
    "plot, labelled planes": lambda: figures.plot({"sgd": plane(), "sam": plane(2.0)}, view="test"),
    "spectrum, three views": lambda: study_figures.spectra_at_the_end(spectrum()),
    "spectra, one view": lambda: study_figures.spectra_at_the_end({"sgd": spectrum(), "sam": spectrum()}, "clean_part"),
    "forest of verdicts": lambda: study_figures.forest(judge(study_of("cifar10-small"))),
    "by measure": lambda: study_figures.by_measure_forest(by_measure(study_of("digits"))),
    "by measure, three arms": lambda: study_figures.by_measure_forest(by_measure(study_of("digits", ARMS[:3], 2))),
    "radius, SGD and one other": lambda: study_figures.radius_figure(
        radius_control(study_of("digits", ("sgd", "oracle"), 3))
    ),
    "radius, rivals and two SGD": lambda: study_figures.radius_figure(radius_control(_with_rivals())),
    "bound": lambda: study_figures.bound_terms(curves_of(study_of("digits"))),
    "against noise, one quantity": lambda: study_figures.against_noise(curves_of(study_of("digits")), ["memorisation"]),
    "sharpness, one view": lambda: study_figures.sharpness_against_noise(curves_of(study_of("digits")), ["test"]),
    "training, one run": lambda: study_figures.training_curves(training(0.9, 0.69, 0)),
    "training, seven arms": lambda: study_figures.training_curves(trainings(0.4, ARMS, 2)),
    "training by rate": lambda: study_figures.training_by_rate(_by_rate(RATES, ARMS[:3], 2)),
    "training by rate, five seeds": lambda: study_figures.training_by_rate(_by_rate(RATES, ARMS[:3], 5)),
    "training by rate, one": lambda: study_figures.training_by_rate(_by_rate((0.6,), ARMS[:2], 3)),
    "controls, four": lambda: study_figures.training_of_controls(
        trainings(0.4, ARMS[3:], 2), trainings(0.4, ARMS[:3], 2)
    ),
    "controls, one": lambda: study_figures.training_of_controls(
        trainings(0.6, ARMS[3:4], 5), trainings(0.6, ARMS[:1], 5)
    ),
    "controls, thirteen": lambda: study_figures.training_of_controls(
        trainings(0.4, tuple(study_of("digits").arms[3:]), 3), trainings(0.4, ARMS[:3], 3)
    ),
    "alignment": lambda: study_figures.alignment(
        {
            f"{100 * rate:g} % wrong labels": {
                arm: [diagnostics(0.8 - rate - 0.3 * n, 7 * n + seed) for seed in range(3)]
                for n, arm in enumerate(ARMS[:3])
            }
            for rate in RATES[1:]
        },
        warmup=5,
    ),
    "alignment, one seed": lambda: study_figures.alignment({"": {"ncsam": [diagnostics(-0.5, 0)]}}),
    "line, one record": lambda: figures.lines(line(bad=True)),
    "lines, seven arms": lambda: figures.lines({a: [line(1 + n, seed=s) for s in (0, 1)] for n, a in enumerate(ARMS)}),
    "slices": lambda: figures.lines(_labelled(line, 3), VIEWS[:2], against="relative", width="neurips"),
    "lines, a column": lambda: figures.lines(_labelled(line, 2), ["mixed"], width="icml-column"),
    "draws, one record": lambda: figures.bands(draws()),
    "draws": lambda: figures.bands(_labelled(lambda x: draws(int(10 * x)), 3), VIEWS[:2]),
    "way, one record": lambda: figures.connections(connection()),
    "ways": lambda: figures.connections({"sgd to sam": connection(), "sgd to ncsam": connection(0.02)}, ["test"]),
    "way, curved": lambda: figures.connections({"straight": connection(), "curved": trained_curve()}, ["test"]),
    "barriers": lambda: figures.barriers(
        {
            kind: {(a, b): connection(h * (1 + n + m)) for n, a in enumerate(ARMS[:3]) for m, b in enumerate(ARMS[:n])}
            for kind, h in (("straight", 0.4), ("curved", 0.05), ("matched", 0.2))
        },
        "test",
    ),
    "barriers of a study": lambda: study_figures.barrier_matrices(study_barriers()),
    "barriers of a study, one arm and pair": lambda: study_figures.barrier_matrices(study_barriers(("sam",), 1)),
    "barriers of a study, six arms": lambda: study_figures.barrier_matrices(study_barriers(ARMS[:6], 5)),
    "barriers, one kind": lambda: figures.barriers({"straight": {("sgd", "sam"): connection()}}),
    "contours, one record": lambda: figures.contours(plane()),
    "contours, seven arms": lambda: figures.contours(_labelled(plane, 7), "test"),
    "contours, gallery": lambda: figures.contours(
        {
            f"{arm}, {rate} % noise, test {90 - rate} %": plane(1 + rate / 40, 25)
            for rate in (0, 40)
            for arm in ("SGD", "SAM", "NCSAM")
        },
        "mixed",
        columns=3,
        levels=30,
    ),
    "contours, logarithmic": lambda: figures.contours({"sgd": plane(high=100.0), "sam": plane(high=30.0)}, "mixed"),
    "contours, holes": lambda: figures.contours(plane(bad=True), "mixed"),
    "contours, trajectory": lambda: figures.contours(
        _labelled(plane, 2), trajectories={"sgd": trajectory(), "sam": trajectory()}
    ),
    "contours, a column": lambda: figures.contours(plane(), width="icml-column"),
    "accuracy": lambda: figures.contours(_labelled(plane, 4), "test", quantity="accuracy"),
    "difference": lambda: figures.difference(("sgd", plane()), ("sam", plane(2.0))),
    "difference, logarithmic": lambda: figures.difference(("sgd", plane(high=100.0)), ("sam", plane(high=20.0))),
    "3D, one record": lambda: figures.surface3d(plane()),
    "3D, seven arms": lambda: figures.surface3d(_labelled(plane, 7)),
    "3D, logarithmic": lambda: figures.surface3d({"sgd": plane(high=100.0), "sam": plane()}, "mixed"),
    "3D, accuracy": lambda: figures.surface3d(_labelled(plane, 2), quantity="accuracy", width="neurips"),
    "density, one record": lambda: figures.densities(density(probes=1)),
    "densities": lambda: figures.densities(
        {"mixed": _labelled(density, 3), "test": _labelled(density, 3), "clean part": _labelled(density, 3)}
    ),
    "eigenvalues": lambda: figures.eigenvalues(
        {v: _labelled(_along, 3) for v in ("mixed", "clean part", "noisy part", "test", "val")}, [1, 2, 4]
    ),
    "eigenvalues, one label": lambda: figures.eigenvalues({"sgd": _along(1.0)}, [1, 2, 4]),
    "layers": lambda: figures.layers({"mixed": _labelled(layer_spectra, 3), "test": _labelled(layer_spectra, 3)}),
    "layers, one record": lambda: figures.layers(layer_spectra(trace=False)),
    "split": lambda: figures.splits({"sgd": split(), "sam": split(-1.0), "ncsam": split(), "matched": split()}),
    "split, one record": lambda: figures.splits(split()),
    "plane draws, one record": lambda: figures.plane_draws(plane_draws()),
    "plane draws": lambda: figures.plane_draws(_labelled(plane_draws, 2), "test"),
    "course, one record": lambda: figures.courses(course()),
    "courses": lambda: figures.courses({"sgd": course(), "sam": course(0.6), "ncsam": course(0.8)}, view="test"),
    "basins": lambda: figures.basins(wells()),
    "basins, noise": lambda: figures.basins(wells(0.1)),
    "basins of a line": lambda: figures.basins(wells(0.02, on_line=True)),
    "merge tree, one record": lambda: figures.merge_trees(wells()),
    "merge trees": lambda: figures.merge_trees({"sgd": wells(), "sam": wells(0.05)}),
    "persistence, one record": lambda: figures.persistence_diagrams(wells(0.05)),
    "persistence": lambda: figures.persistence_diagrams(
        {"sgd": wells(), "sam": wells(0.05), "line": wells(on_line=True)}
    ),
    "persistence of draws, one record": lambda: figures.persistence_spread(well_draws()),
    "persistence of draws": lambda: figures.persistence_spread(_labelled(well_draws, 3)),
    "eigenpairs, one record": lambda: figures.eigenpairs(eigen((5.0, 3.0, -1.0))),
    "eigenpairs": lambda: figures.eigenpairs(_labelled(lambda x: eigen((5.0 * x, 3.0, 1.0)), 5)),
    "eigenpairs, one value": lambda: figures.eigenpairs(eigen((5.0,))),
    "traces": lambda: figures.estimates(_labelled(trace, 3)),
    "moments, one record": lambda: figures.estimates(moments()),
    "negative mass": lambda: figures.estimates(_labelled(mass, 2)),
    "sharpness, records": lambda: figures.estimates(_labelled(sharpness, 7)),
    "sharpness curves": lambda: figures.ascents(_labelled(sharpness, 3)),
    "sharpness curve, one record": lambda: figures.ascents(sharpness()),
    "diagonals": lambda: figures.diagonals(_labelled(diagonal, 2)),
    "overlaps": lambda: figures.overlaps(_labelled(overlap, 3)),
    "cosines, one record": lambda: figures.cosines(alignment_with()),
    "cosines": lambda: figures.cosines(_labelled(alignment_with, 3)),
    "trajectories": lambda: figures.trajectories(_labelled(lambda _: trajectory(), 2)),
    "sharpness along, one record": lambda: study_figures.sharpness_along(sharpness_table()),
    "sharpness along, one epoch": lambda: study_figures.sharpness_along(_labelled(lambda x: sharpness_table(x, 1), 2)),
    "sharpness along": lambda: study_figures.sharpness_along(_labelled(sharpness_table, 3)),
    "bound along": lambda: study_figures.bound_along(_labelled(bound_table, 2)),
    "labels": lambda: study_figures.confusion({"pair": labels(), "other": labels(100)}),
    "labels, one record": lambda: study_figures.confusion(labels(2)),
    "samples": lambda: study_figures.samples_along({"sgd": samples(), "mine": samples()}),
    "samples of curvature, one record": lambda: study_figures.curvature_of_samples(sample_curvatures()),
    "samples of curvature": lambda: study_figures.curvature_of_samples(
        {"sgd": sample_curvatures(), "clean": sample_curvatures(wrong=0.0)}
    ),
    "alignment, records": lambda: study_figures.alignment_of(
        {"ncsam": diagnostics(0.5, 0), "sgd": diagnostics(0.1, 1)}
    ),
}


def _with_rivals() -> Study:
    """SGD, tuned and not, and two rivals that have no ‖ε‖, beside SAM."""
    rivals = (("gce", 0.0, {"loss": "gce:0.7"}), ("mixup", 0.0, {"mixup": 1.0}))
    arms = (("sgd", 0.0, {}), ("sgd-untuned", 0.0, {}), *rivals, ("sam", 0.05, {}), ("sam-rho0.2", 0.2, {}))
    rows = [
        {"name": f"{arm}-{seed}", "arm": arm, "optimizer": "sam" if norm else "sgd", "options": options, "rate": 0.4,
         "seed": seed, "noise": "symmetric", "test_accuracy": 0.5 + 0.05 * i + 0.01 * seed, "perturbation_norm": norm,
         "memorisation": 0.7 - 0.05 * i}
        for seed in range(4) for i, (arm, norm, options) in enumerate(arms)
    ]  # fmt: skip
    return studies(table_of(rows))[0]
