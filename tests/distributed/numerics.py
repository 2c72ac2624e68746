"""What processes compute together beside what one of them computes alone; run by ``test_numerics.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, TensorDataset

import landscape
from landscape import Objective, View
from landscape.curvature.operators import EmpiricalFisherOperator, GGNOperator, HessianOperator
from landscape.curvature.strategies import MEMORY_BUDGET
from landscape.ranks import Ranks, RanksDisagreeError
from tests.distributed import training
from tests.reference import ARCHITECTURES, CASES, Case

F64 = torch.float64


def operators() -> dict[str, Any]:
    """Losses, metrics, gradients and products of every kind of model, on views that leave processes without samples."""
    return {case.name: _of_case(case) for case in CASES} | {"traced": _of_case(ARCHITECTURES[6], strategy="split")}


def analyses(*, short: bool = False) -> dict[str, Any]:
    """Whole analyses, and surfaces bit by bit; ``short`` leaves out what takes many steps together."""
    alone = _classifier()
    shared = landscape.sharded(alone)
    return {
        "spectra": _spectra(alone, shared, short),
        "sharpness": _sharpness(alone, shared, short),
        "bits": _same_everywhere(shared),
        "surfaces": _surfaces(short),
        "refusals": _refusals(alone, shared),
    }


def quick() -> dict[str, Any]:
    """One kind of model with everything that is hard to share, whole analyses, and a few training steps."""
    weighted = next(case for case in CASES if case.name == "weighted-ce")
    return {"operators": {"weighted-ce": _of_case(weighted)}, **analyses(short=True), "training": training.quick()}


def _off(a: Any, b: Any) -> float:
    """Largest deviation, relative to the largest entry."""
    a, b = (torch.as_tensor(v, dtype=F64) for v in (a, b))
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300)) if b.numel() else 0.0


def _of_case(case: Case, strategy: str = "auto") -> dict[str, float]:
    model, loss_fn, x, y = case.make()
    few = torch.tensor(
        [2, 3, 4]
    )  # one of three processes holds position 2 alone, whose label one of the losses ignores
    views = [View("data"), View("few", "data", few), View("one", "data", torch.tensor([7]))]
    alone = Objective(model, loss_fn, (x, y), batch_size=3, views=views)
    shared = landscape.sharded(alone)
    here, there = alone.evaluate(), shared.evaluate()
    found = {"loss": _off([here.loss[v.name] for v in views], [there.loss[v.name] for v in views])}
    for name, by_view in here.metrics.items():
        found[f"metric {name}"] = _off(list(by_view.values()), list(there.metrics[name].values()))
    vectors = torch.randn(alone.num_parameters, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    for view in alone.views:
        a, b = alone.view(view), shared.view(view)
        found[f"gradient {view}"] = _off(b.gradient(), a.gradient())
        for kind, budget in ((HessianOperator, MEMORY_BUDGET), (GGNOperator, 0)):  # kept, and made anew each time
            A, B = (kind(o, strategy=strategy, memory_budget=budget) for o in (a, b))
            found[f"{kind.__name__} {view}"] = max(
                _off(B @ vectors, A @ vectors), _off(B @ vectors[:, 0], A @ vectors[:, 0])
            )
            assert B.strategy.name == A.strategy.name
    block = alone.layout.names[0]
    found["restricted"] = _off(
        HessianOperator(shared.view("data").restricted(block)) @ vectors[: alone.restricted(block).num_parameters],
        HessianOperator(alone.view("data").restricted(block)) @ vectors[: alone.restricted(block).num_parameters],
    )
    F, G = (EmpiricalFisherOperator(o.view("data")) for o in (alone, shared))
    if case.name != "attention":
        found["fisher"] = _off(G @ vectors, F @ vectors)
    return found


def _classifier(samples: int = 31, dtype: torch.dtype = F64) -> Objective:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(samples, 4, generator=g, dtype=F64).to(dtype)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    views = [
        View("all"),
        View("part", "data", torch.arange(0, samples, 4)),
        View("none", "data", torch.tensor([], dtype=torch.int64)),
    ]
    return Objective(model.to(dtype), nn.CrossEntropyLoss(), (x, torch.arange(samples) % 3), batch_size=7, views=views)


def _spectra(alone: Objective, shared: Objective, short: bool) -> dict[str, float]:
    A, B = (HessianOperator(o.view("all")) for o in (alone, shared))
    how: dict[str, Any] = {"k": 1, "tol": 1e-4} if short else {"k": 2, "tol": 1e-10, "which": "both"}
    a, b = (landscape.top_eigenpairs(H, seed=0, **how) for H in (A, B))
    assert b.converged.all()
    signs = np.sign((a.vectors * b.vectors).sum(0))
    t, u = (landscape.trace(H, 4, seed=0) for H in (A, B))
    found = {
        "values": _off(b.values, a.values),
        "vectors": _off(b.vectors * signs, a.vectors),
        "matvecs": float(a.matvecs != b.matvecs),
        "trace": _off([u.value, u.stderr], [t.value, t.stderr]),
    }
    if short:
        return found
    d, e = (landscape.spectral_density(H, 5, 1, seed=0) for H in (A, B))
    layers = [landscape.layer_spectra(o.view("all"), tol=1e-10, num_matvecs=2) for o in (alone, shared)]
    return {
        **found,
        "density nodes": _off(e.nodes, d.nodes),
        "layers": _off(layers[1].values, layers[0].values),
        "layer traces": _off(layers[1].trace, layers[0].trace),
    }


def _sharpness(alone: Objective, shared: Objective, short: bool) -> dict[str, float]:
    def of(objective: Objective) -> list[float]:
        one = objective.view("part")
        sam = float(landscape.sam_sharpness(one, rho=0.1))
        if short:
            return [sam]
        return [
            sam,
            float(landscape.sam_sharpness(one, rho=0.1, steps=2, restarts=1)),
            float(landscape.adaptive_sharpness(one, rho=0.5)),
            float(landscape.average_sharpness(one, sigma=0.05, num_samples=2)),
            float(landscape.keskar_sharpness(one, 1e-2, steps=2)),
            float(landscape.sam_sharpness(landscape.with_normalized_logits(one), rho=0.1)),
        ]

    return {"measures": _off(of(shared), of(alone))}


def _same_everywhere(shared: Objective) -> bool:
    """Whether every process has the same bits."""
    view = shared.view("all")
    H = HessianOperator(view)
    found = [view.gradient(), H @ torch.ones(H.shape[0], dtype=F64), torch.tensor(view.loss(), dtype=F64)]
    mine = torch.cat([t.reshape(-1) for t in found])
    return all(torch.equal(mine, other) for other in Ranks().gather(mine))


def _surfaces(short: bool) -> dict[str, bool]:
    """Whether surfaces of float32 models have the bits of one process, whoever evaluated what."""
    alone = _classifier(dtype=torch.float32)
    shared = landscape.sharded(alone)
    d1, d2 = (landscape.filter_normalized_direction(alone.model, seed=s) for s in (0, 1))
    axis = np.linspace(-1, 1, 4)
    fine = np.linspace(-1, 1, 33)  # of which some are interpolated
    other = alone.at(alone.weights + 0.3 * d1)

    def all_of(o: Objective) -> dict[str, Any]:
        found = {"plane": landscape.plane(o, d1, d2, axis, axis)}
        if short:
            return found
        return {
            **found,
            "line": landscape.line(o, d1, axis, by_class=True),
            "recalibrated": landscape.plane(o, d1, d2, axis[:3], axis[:2], batchnorm="recalibrated", check=False),
            "tolerance": landscape.line(o, d1, fine, tol=0.02),
            "draws": landscape.line_draws(o, axis, 2),
            "plane draws": landscape.plane_draws(o, axis[:2], axis[:2], draws=2),
            "connection": landscape.connect(o, other, [0.0, 0.3, 0.6, 1.0]),
        }

    a, b = all_of(alone), all_of(shared)
    return {name: _same(a[name], b[name]) for name in a}


def _same(a: Any, b: Any) -> bool:
    fields = ("loss", "accuracy", "class_loss", "status", "curvature", "second_difference", "interpolation_error")
    pairs = [(getattr(a, f, None), getattr(b, f, None)) for f in fields]
    return all((x is None and y is None) or x.tobytes() == y.tobytes() for x, y in pairs)


def _refusals(alone: Objective, shared: Objective) -> dict[str, str]:
    """What processes say that are not at the same point."""
    ranks = Ranks()
    found = {}
    try:
        landscape.sharded(alone.at(alone.weights + ranks.rank))
    except ValueError as error:
        found["weights"] = str(error)
    generator = torch.Generator().manual_seed(ranks.rank)
    for name, sampler in {
        "part": DistributedSampler(range(12), shuffle=False),  # what a training has on each process
        "order": RandomSampler(range(12), generator=generator),
    }.items():
        data = DataLoader(TensorDataset(torch.arange(12.0)[:, None], torch.arange(12) % 2), 4, sampler=sampler)
        try:
            landscape.sharded(Objective(nn.Linear(1, 2), nn.CrossEntropyLoss(), data))
        except ValueError as error:
            found[name] = str(error)
    try:
        HessianOperator(shared.view("all")) @ torch.full((alone.num_parameters,), 1.0 + ranks.rank, dtype=F64)
    except RanksDisagreeError as error:
        found["vectors"] = str(error)
    try:
        ranks.share(_fails)
    except ZeroDivisionError as error:
        found["shared"] = str(error)
    found["empty"] = str(shared.evaluate().loss["none"])
    return found


def _fails() -> Tensor:
    raise ZeroDivisionError("on one process")
