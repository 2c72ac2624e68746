"""Directions of runs: shared draws, named gradients against autograd on plain tensors, and ways between runs."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import landscape
from landscape.records import Connection
from landscape.surfaces.directions import cosine
from ncsam import Run, TrainConfig
from ncsam.measurements import measure_line
from ncsam.measurements.directions import directions_for, parse_directions, simulated_noise_gradient, trajectory_on
from ncsam.measurements.draws_and_paths import measure_connection, measure_draws
from ncsam.models import build
from ncsam.runs.train import train_run

QUICK = TrainConfig(
    model="mlp", optimizer="sgd", noise="none", epochs=4, train_samples=200, weight_decay=0.0, checkpoints=(1, 2, 3)
)
GRID = [-0.5, 0.0, 0.5]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Three runs of other optimizers, noise rates and initial weights; ``again`` is SGD in other batches."""
    folder = tmp_path_factory.mktemp("runs")
    noisy = dataclasses.replace(QUICK, noise="symmetric:0.4")
    configs = {
        "sgd": QUICK,
        "sam": dataclasses.replace(noisy, optimizer="sam", options={"rho": 0.05}),
        "ncsam": dataclasses.replace(noisy, optimizer="ncsam", options={"rho": 0.05, "kappa": 0.02}).with_seed(3),
        "cnn": dataclasses.replace(QUICK, model="cnn", epochs=1, checkpoints=()),
        "cnn-again": dataclasses.replace(QUICK, model="cnn", epochs=1, checkpoints=()).with_seed(1),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NCSAM's projection warning
        return {name: train_run(config, folder / f"{name}.h5") for name, config in configs.items()}


def test_the_same_seed_is_the_same_draw_for_every_optimizer_and_noise_rate(runs: dict[str, Run]) -> None:
    def units(name: str, seed: int) -> list[torch.Tensor]:
        objective = runs[name].objective(views=("mixed",), dtype=torch.float64)
        found = directions_for(runs[name], "random", objective, count=2, seed=seed)
        filters = [objective.layout.unflatten(v)["layers.0.weight"] for v in found.vectors]
        return [nn.functional.normalize(f, dim=1) for f in filters]

    for a, b in zip(units("sgd", 1), units("sam", 1), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)
    for a, b in zip(units("sgd", 1), units("ncsam", 1), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)
    assert float((units("sgd", 1)[0] * units("sgd", 2)[0]).sum(1).abs().max()) < 0.6  # 64 weights a filter
    once, twice = (directions_for(runs["sam"], "random", runs["sam"].objective(), count=2) for _ in range(2))
    assert once.hashes == twice.hashes
    assert all(torch.equal(a, b) for a, b in zip(once.vectors, twice.vectors, strict=True))


def test_gradients_of_views_are_autograds(runs: dict[str, Run]) -> None:
    run = runs["sam"]
    objective = run.objective(views=("mixed", "test"), dtype=torch.float64)
    found = directions_for(run, "gradient,gradient:true_labels", objective, count=2, norm=0.05)
    model = run.model(dtype=torch.float64)
    x = run.problem.inputs().double()
    for vector, labels in zip(found.vectors, (run.problem.observed(), run.problem.true()), strict=True):
        model.zero_grad()
        nn.CrossEntropyLoss()(model(x), labels).backward()
        g = torch.cat([p.grad.flatten() for p in model.parameters()])
        torch.testing.assert_close(vector, 0.05 * g / g.norm(), rtol=1e-9, atol=1e-12)
    assert found.names == ("gradient (mixed)", "gradient (true_labels)")
    relative = directions_for(run, "gradient", objective, count=1)
    assert float(relative.vectors[0].norm()) == pytest.approx(float(objective.weights.norm()))


def test_the_noise_gradient_is_that_of_likely_wrong_labels_on_the_picks(runs: dict[str, Run]) -> None:
    run = runs["ncsam"]
    model = run.model(dtype=torch.float64)
    x, y = run.problem.inputs().double(), run.problem.observed()
    g = simulated_noise_gradient(run, model, seed=2)
    assert torch.equal(g, simulated_noise_gradient(run, model, seed=2))
    assert all(p.grad is None for p in model.parameters())
    # Over many seeds the mean over picks is between the extremes of the per-sample gradients; over all of them exact:
    everything = dataclasses.replace(run.config, options={**run.config.options, "flip_ratio": 1.0})
    run.config = everything
    try:
        g = simulated_noise_gradient(run, model)
    finally:
        run.config = dataclasses.replace(everything, options={"rho": 0.05, "kappa": 0.02})
    with torch.no_grad():
        logits = model(x)
        logits[torch.arange(len(y)), y] = -torch.inf
    nn.CrossEntropyLoss()(model(x), logits.argmax(1)).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(g, expected, rtol=1e-9, atol=1e-12)


def test_eigenvectors_of_some_layers_are_those_of_their_block(runs: dict[str, Run]) -> None:
    run = runs["sgd"]
    objective = run.objective(views=("mixed",), dtype=torch.float64)
    found = directions_for(run, "eigen", objective, count=2, layers=("classifier",), norm=1.0)
    block = objective.restricted("classifier")
    H = landscape.HessianOperator(block)
    for vector, value in zip(found.vectors, landscape.top_eigenpairs(H, k=2, tol=1e-3).values, strict=True):
        part = block.extract(vector)
        assert float(part.norm()) == pytest.approx(1.0)  # nothing outside the classifier
        assert float(part @ (H @ part)) == pytest.approx(value, rel=1e-5)
    assert cosine(*found.vectors) == pytest.approx(0, abs=1e-2)


def test_a_trajectory_lies_in_its_principal_plane_as_far_as_the_shares_say(runs: dict[str, Run]) -> None:
    run = runs["sgd"]
    objective = run.objective(views=("mixed",), dtype=torch.float64)
    found = directions_for(run, "trajectory", objective, count=2)
    path = trajectory_on(run, objective, found)
    assert path.epochs.tolist() == [1, 2, 3, 4]
    assert path.explained == pytest.approx(found.ratios[:2].sum())
    np.testing.assert_allclose(path.coordinates[-1], 0, atol=1e-10)
    assert np.hypot(*path.coordinates.T).max() <= 1 + 1e-9  # directions are as long as the furthest checkpoint is away
    rebuilt = objective.weights + sum(c * v for c, v in zip(path.coordinates[0], found.vectors, strict=True))
    first = objective.layout.weights(run.model(1, dtype=torch.float64))
    assert float((rebuilt - first).norm()) == pytest.approx(path.distance[0], rel=1e-6)
    random = trajectory_on(run, objective, directions_for(run, "random", objective, count=2))
    assert random.explained < 0.05  # a random plane misses the path


def test_the_way_between_two_optimizers(runs: dict[str, Run]) -> None:
    sgd, sam = runs["sgd"], runs["sam"]
    found = measure_connection(sgd, sam, views=("mixed", "test"), alphas=np.linspace(0, 1, 5))
    objective = sgd.objective(views=("mixed", "test"))
    assert found.loss[0, 0] == objective.evaluate().loss["mixed"]
    there = sgd.problem.objective(sam.model(), ("mixed", "test")).evaluate().loss
    assert found.loss[:, -1].tolist() == [there["mixed"], there["test"]]
    assert (found.start, found.end) == ("sgd.h5 epoch 4", "sam.h5 epoch 4")
    assert (found.barrier >= 0).all()
    direction = directions_for(sgd, f"between:{sam.path}", objective, count=1)
    assert float(direction.vectors[0].norm()) == pytest.approx(found.distance, rel=1e-6)
    stored = Run(sgd.path).result("surface/connection")
    assert isinstance(stored, Connection)
    np.testing.assert_array_equal(stored.loss, found.loss)


def test_batchnorm_statistics_go_along_between_two_runs(runs: dict[str, Run], caplog: pytest.LogCaptureFixture) -> None:
    first, second = runs["cnn"], runs["cnn-again"]
    found = measure_connection(first, second, views=("test",), alphas=[0.0, 0.5, 1.0])
    assert found.buffers == "interpolated"
    assert found.loss[0, -1] == first.problem.objective(second.model(), ("test",)).loss()
    assert "split other data off" in caplog.text  # its test samples were in part trained on by the other run
    frozen = measure_connection(first, second, "frozen", views=("test",), alphas=[0.0, 0.5, 1.0], buffers="start")
    assert frozen.loss[0, -1] != found.loss[0, -1]


def test_the_span_of_a_recalibrated_surface_is_that_of_its_own_rise(runs: dict[str, Run]) -> None:
    how: Any = {"views": ("test",), "alphas": [-1.0, 0.0, 1.0], "rise": 0.5}
    recalibrated = measure_line(runs["cnn"], "own-rise", batchnorm="recalibrated", **how)
    frozen = measure_line(runs["cnn"], "frozen-rise", **how)
    for found in (recalibrated, frozen):
        rises = found.loss[0] - found.loss[0, 1]
        assert rises.max() == pytest.approx(0.5, rel=0.05)
    assert recalibrated.auto_range != frozen.auto_range


def test_draws_are_stored_and_share_their_first_with_the_single_line(runs: dict[str, Run]) -> None:
    run = runs["sam"]
    lines = measure_draws(run, "bands", views=("mixed",), alphas=GRID, draws=2, seed=1)
    objective = run.objective(views=("mixed",))
    d = directions_for(run, "random", objective, count=1, seed=1)
    np.testing.assert_array_equal(lines.loss[0], landscape.line(objective, d.vectors[0], GRID).loss)
    assert lines.hashes[0, 0] == d.hashes[0]
    planes = measure_draws(run, "planes", views=("mixed",), alphas=GRID, betas=[0.0, 1.0], draws=2, layers=("layers*",))
    assert Run(run.path).result("surface/planes").loss.shape == planes.loss.shape == (2, 1, 3, 2)


@pytest.mark.parametrize(
    ("spec", "count", "message"),
    [
        ("hessian", 1, "directions are 'hessian', expected random, eigen"),
        ("random:3", 1, "directions are 'random:3'"),
        ("between", 1, "directions are 'between', expected"),
        ("between:a.h5", 2, "names 1 direction, expected 2; name two, e.g. between:A.h5,between:B.h5"),
        ("random,random", 1, "names 2 directions, expected 1; ask for a plane"),
    ],
)
def test_bad_spellings(spec: str, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_directions(spec, count)


def half_frozen(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    model = build("mlp", shape, num_classes)
    next(model.parameters()).requires_grad_(False)
    return model


def test_no_direction_leads_to_a_run_with_other_frozen_parameters(tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, model=f"{__name__}:half_frozen", epochs=1, checkpoints=())
    first, second = (train_run(config.with_seed(seed), tmp_path / f"{seed}.h5", trust=True) for seed in (0, 1))
    objective = first.objective(views=("mixed",))
    directions_for(first, f"between:{first.path}", objective, count=1, trust=True)
    with pytest.raises(ValueError, match=r"1.h5: its frozen parameter 'layers.0.weight' is another one"):
        directions_for(first, f"between:{second.path}", objective, count=1, trust=True)


def test_impossible_directions_of_a_run(runs: dict[str, Run]) -> None:
    objective = runs["sgd"].objective(views=("mixed",))
    with pytest.raises(ValueError, match="only runs of one architecture can be connected"):
        directions_for(runs["sgd"], f"between:{runs['cnn'].path}", objective, count=1)
    with pytest.raises(ValueError, match="layers go with random directions"):
        directions_for(runs["sgd"], "trajectory", objective, count=2, layers=("classifier",))
    with pytest.raises(ValueError, match="1 checkpoints span 0 directions, expected at least 1; keep more"):
        directions_for(runs["cnn"], "trajectory", runs["cnn"].objective(views=("mixed",)), count=2)
