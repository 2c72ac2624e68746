"""Barriers between arms over pairs of seeds: who is joined with whom, known heights, stopping and resuming."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import landscape
from landscape.records import Connection
from landscape.store import StoreError
from landscape.surfaces.channels import channels_of, renumbered
from ncsam import Run, TrainConfig, train_run
from ncsam.measurements import measure_barriers
from ncsam.records import Barriers
from ncsam.statistics import t_interval

Runs = dict[str, dict[int, Run]]
QUICK: dict[str, Any] = {"points": 3, "gradients": 2, "dtype": "float64"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    found: Runs = {"sgd": {}, "sam": {}}
    for arm, seed in itertools.product(found, range(5)):
        options = {"rho": 0.05} if arm == "sam" else {}
        config = TrainConfig(
            optimizer=arm, options=options, epochs=12, train_samples=150, model="mlp", noise="symmetric:0.4"
        )
        train_run(config.with_seed(seed), folder / f"{arm}-{seed}.h5")
        found[arm][seed] = Run(folder / f"{arm}-{seed}.h5")
    return found


class Renumbered(Run):
    """A run whose hidden units come in another order."""

    def model(self, *arguments: Any, **options: Any) -> nn.Module:
        model = super().model(*arguments, **options)
        groups = channels_of(model)
        generator = torch.Generator().manual_seed(7)
        orders = [torch.randperm(group.size, generator=generator) for group in groups]
        model.load_state_dict(renumbered(model.state_dict(), groups, orders))
        return model


def test_renumbered_units_are_no_barrier_once_they_are_matched(runs: Runs, tmp_path: Path) -> None:
    one = runs["sgd"][0]
    found = measure_barriers({"sgd": {0: one, 1: Renumbered(one.path)}}, tmp_path / "barriers.h5", **QUICK)
    straight, aligned, _ = found.height[:, 0, 0, 0]
    assert straight > 0.01
    assert aligned == pytest.approx(0, abs=1e-12)
    lengths = dict(zip(found.ways.tolist(), found.length[:, 0, 0, 0], strict=True))
    assert lengths["aligned"] == pytest.approx(0, abs=1e-12)
    assert 0 < lengths["straight"] <= lengths["curved"]


def test_every_cell_joins_the_runs_that_it_names(runs: Runs, tmp_path: Path) -> None:
    found = measure_barriers(runs, tmp_path / "barriers.h5", view="mixed", ways=("straight", "aligned"), **QUICK)
    assert found.first_seed.tolist() == [0, 2]
    assert found.second_seed.tolist() == [1, 3]  # the fifth seed is left over
    assert found.arms.tolist() == ["sgd", "sam"]
    assert found.buffers == "none"
    for pair, i, j in itertools.product(range(2), range(2), range(2)):
        start, end = (
            runs[arm][seed].objective(views=["mixed"], dtype=torch.float64)
            for arm, seed in (
                (found.arms[i], found.first_seed[pair]),
                (found.arms[j], found.second_seed[pair]),
            )
        )
        for way, other in enumerate((end, landscape.align(start, end).objective)):
            direct = landscape.connect(start, other, [0.0, 0.5, 1.0])
            assert found.height[way, pair, i, j] == pytest.approx(direct.barrier[0], rel=1e-9)
            assert found.length[way, pair, i, j] == pytest.approx(direct.distance, rel=1e-9)
    interval = t_interval(found.height[1, :, 0, 1])
    assert (found.mean[1, 0, 1], found.low[1, 0, 1], found.high[1, 0, 1]) == pytest.approx(
        (interval.mean, interval.low, interval.high)
    )
    assert landscape.load(tmp_path / "barriers.h5", Barriers) == found


def test_one_pair_has_no_interval(runs: Runs, tmp_path: Path) -> None:
    found = measure_barriers(runs, tmp_path / "barriers.h5", pairs=1, ways=["straight"], **QUICK)
    assert found.height.shape == (1, 1, 2, 2)
    assert np.isfinite(found.mean).all()
    assert np.isnan(found.low).all()


class Diverged(Run):
    def model(self, *arguments: Any, **options: Any) -> nn.Module:
        model = super().model(*arguments, **options)
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))
        return model


def test_a_mean_is_not_one_of_the_pairs_that_are_left(runs: Runs, tmp_path: Path) -> None:
    sgd = runs["sgd"] | {1: Diverged(runs["sgd"][1].path)}
    found = measure_barriers({"sgd": sgd}, tmp_path / "barriers.h5", **QUICK)
    assert np.isnan(found.height[:, :, 0, 0]).tolist() == [[True, False]] * 3
    assert np.isnan([found.mean, found.low, found.high]).all()


def test_an_infinite_barrier_is_in_no_mean(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heights, measured = iter([np.inf, 1.0]), landscape.connect

    def connect(*arguments: Any, **options: Any) -> Connection:
        return dataclasses.replace(measured(*arguments, **options), barrier=np.array([0.0, next(heights)]))

    monkeypatch.setattr(landscape, "connect", connect)
    found = measure_barriers({"sgd": runs["sgd"]}, tmp_path / "barriers.h5", ways=["straight"], **QUICK)
    assert found.height[0, :, 0, 0].tolist() == [np.inf, 1.0]
    assert np.isnan([found.mean, found.low, found.high]).all()


def stopping_after(count: int) -> Callable[[Iterable[int]], Iterator[int]]:
    def progress(rows: Iterable[int]) -> Iterator[int]:
        for done, row in enumerate(rows):
            if done == count:
                raise KeyboardInterrupt
            yield row

    return progress


def test_what_was_stopped_is_resumed(runs: Runs, tmp_path: Path) -> None:
    whole = measure_barriers(runs, tmp_path / "whole.h5", **QUICK)
    with pytest.raises(KeyboardInterrupt):
        measure_barriers(runs, tmp_path / "part.h5", **QUICK, progress=stopping_after(3))
    assert not (tmp_path / "part.h5").exists()
    with pytest.raises(StoreError, match="resume"):
        measure_barriers(runs, tmp_path / "part.h5", **QUICK)
    with pytest.raises(StoreError):
        measure_barriers(runs, tmp_path / "part.h5", **{**QUICK, "gradients": 3}, resume=True)
    left: list[int] = []
    found = measure_barriers(
        runs, tmp_path / "part.h5", **QUICK, resume=True, progress=lambda rows: left.extend(rows) or left
    )
    assert len(left) == 5
    assert found == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part.h5", "whole.h5"]
    with pytest.raises(StoreError, match="exists"):
        measure_barriers(runs, tmp_path / "part.h5", **QUICK)
    assert measure_barriers(runs, tmp_path / "part.h5", **QUICK, overwrite=True) == whole


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ways": ["bent"]}, "ways are bent, expected some of straight"),
        ({"ways": []}, "ways are nothing"),
        ({"view": "other"}, "no view 'other'"),
        ({"points": 2}, "points is 2"),
        ({"gradients": 0}, "gradients is 0"),
        ({"pairs": 0}, "pairs is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_is_refused_before_work(runs: Runs, tmp_path: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        measure_barriers(runs, tmp_path / "barriers.h5", **{**QUICK, **given})
    assert not list(tmp_path.iterdir())


def test_arms_without_two_seeds_in_common_are_refused(runs: Runs, tmp_path: Path) -> None:
    some = {"sgd": runs["sgd"], "sam": {4: runs["sam"][4]}}
    with pytest.raises(ValueError, match="sgd, sam have 1 seeds in common"):
        measure_barriers(some, tmp_path / "barriers.h5")
    with pytest.raises(ValueError, match="0 seeds in common"):
        measure_barriers({}, tmp_path / "barriers.h5")
