"""In a sweep a replay is run after the arm that it is like, with that arm's settings, and fails where it failed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ncsam.runs.run import Run
from ncsam.runs.step_norms import read_step_norms
from ncsam.sweep import Sweep, SweepFolder, pool
from ncsam.sweep.cells import Cell
from ncsam.sweep.estimate import estimate
from ncsam.sweep.folder import shard
from tests.ncsam.sweep.small import without_processes

NCSAM = {"optimizer": "ncsam", "name": "ncsam-unprojected", "project": False}
REPLAY = {"optimizer": "replay", "like": "ncsam-unprojected"}


def sweep_of(*arms: dict[str, Any], **more: Any) -> Sweep:
    train = {"epochs": 2, "train_samples": 200, "test_samples": 100, "warmup": 0.0}
    return Sweep.from_dict({"seeds": [3, 4], "noise": ["symmetric:0.4"], "train": train, "arms": arms, **more})


def test_a_replay_names_the_cell_of_its_noise_and_seed() -> None:
    sweep = sweep_of(REPLAY, NCSAM, noise=["none", "symmetric:0.4"])
    cells = {cell.name: cell for cell in sweep.cells()}
    replays = {cell.name: cell.replays for cell in cells.values() if cell.arm == "replay"}
    assert replays == {
        f"replay-{noise}-seed{seed}": f"ncsam-unprojected-{noise}-seed{seed}"
        for noise in ("none", "symmetric-0.4")
        for seed in (3, 4)
    }
    assert set(replays.values()) < set(cells)
    cell = cells["replay-none-seed3"]
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell


def test_a_replay_has_the_settings_of_its_source_and_what_was_tuned_for_it() -> None:
    source = {**NCSAM, "lr": 0.1, "noise": ["symmetric:0.4"], "tune": {"rho": [0.1, 0.2], "weight_decay": [0.0, 1e-3]}}
    sgd = {"optimizer": "sgd", "tune": {"lr": [0.01, 0.02, 0.05, 0.1]}}
    sweep = sweep_of(sgd, source, REPLAY, noise=["none", "symmetric:0.4"], tune={"seeds": [100]})
    assert not [cell for cell, _ in sweep.tuning_cells() if cell.arm == "replay"]
    chosen = {("ncsam-unprojected", "symmetric:0.4"): {"rho": 0.2, "weight_decay": 0.0}}
    cells = {cell.arm: cell.config for cell in sweep.cells(chosen) if cell.config.noise == "symmetric:0.4"}
    assert cells["ncsam-unprojected"].options["rho"] == 0.2
    assert (cells["replay"].lr, cells["replay"].weight_decay, cells["replay"].options) == (0.1, 0.0, {})
    assert [cell.config.noise for cell in sweep.cells() if cell.arm == "replay"] == 2 * ["symmetric:0.4"]


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([NCSAM, {"optimizer": "replay"}], "is like None, expected of a replay an arm"),
        ([NCSAM, {"optimizer": "replay", "like": "ncsam-unproject"}], "did you mean 'ncsam-unprojected'"),
        ([NCSAM, {"optimizer": "sam", "like": "ncsam-unprojected"}], r"arm 'sam' \(sam\) is like"),
        ([{"optimizer": "sgd"}, {"optimizer": "replay", "like": "sgd"}], r"\(sgd\), which has no ‖ε‖ of its own"),
        ([{"optimizer": "replay", "like": "replay"}], r"\(replay\), which has no ‖ε‖ of its own"),
        ([{**NCSAM, "noise": ["pair:0.1"]}, {**REPLAY, "noise": ["symmetric:0.4"]}], "is run at symmetric:0.4, where"),
        ([NCSAM, {**REPLAY, "tune": {"lr": [0.1]}}], "a replay shares the settings of 'ncsam-unprojected'"),
    ],
)
def test_a_replay_of_nothing_is_refused_in_one_line(arms: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        sweep_of(*arms)
    assert "\n" not in str(error.value)


def test_no_sweep_as_a_whole_is_like_something() -> None:
    with pytest.raises(ValueError, match=r"\[train\] has an unknown key 'like'"):
        sweep_of(NCSAM, train={"like": "ncsam"})


@pytest.mark.filterwarnings("ignore:projection keeps")
def test_the_pool_runs_a_replay_after_its_source_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_processes(monkeypatch)
    folder = SweepFolder.create(sweep_of(REPLAY, NCSAM), tmp_path)
    ended: list[str] = []

    def progress(items, total):  # type: ignore[no-untyped-def]
        for cell in items:
            ended.append(cell.name)
            yield cell

    cells = folder.cells()
    assert folder.run(cells, lambda c, f: pool.run_cells(c, f, workers=1, progress=progress)) == []
    names = [f"{arm}-symmetric-0.4-seed{seed}" for seed in (3, 4) for arm in ("ncsam-unprojected", "replay")]
    assert ended == names
    for seed in (3, 4):
        source = read_step_norms(folder.runs / f"ncsam-unprojected-symmetric-0.4-seed{seed}.h5")
        run = Run(folder.runs / f"replay-symmetric-0.4-seed{seed}.h5")
        assert run.attrs["replayed"] == {"source": source.source, "sha256": source.digest}
        np.testing.assert_allclose(read_step_norms(run.path).norms, source.norms, rtol=1e-6)
    # What is complete stays so, with its source or without it.
    (folder.runs / f"{names[0]}.h5").unlink()
    before = (folder.runs / f"{names[1]}.h5").read_bytes()
    next(cell for cell in cells if cell.name == names[1]).run(folder.runs / f"{names[1]}.h5")
    assert (folder.runs / f"{names[1]}.h5").read_bytes() == before


@pytest.mark.filterwarnings("ignore:projection keeps")
@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_replay_whose_source_failed_fails_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: bool
) -> None:
    if not processes:
        without_processes(monkeypatch)
    source, replay, *others = sweep_of(NCSAM, REPLAY).cells()
    broken = dataclasses.replace(source, config=dataclasses.replace(source.config, data="npz:none.npz"))
    failures = pool.run_cells([replay, broken, *others], tmp_path, workers=2)
    reasons = {failure.cell.name: failure.reason for failure in failures}
    assert set(reasons) == {source.name, replay.name}
    assert reasons[replay.name] == f"the run that it replays, {source.name}, failed; mend that and --resume"
    assert all(cell.complete(cell.path(tmp_path)) for cell in others)


def test_a_replay_whose_source_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_processes(monkeypatch)
    replay = sweep_of(NCSAM, REPLAY).cells()[1]
    (failure,) = pool.run_cells([replay], tmp_path, workers=1)
    assert "ncsam-unprojected-symmetric-0.4-seed3.h5" in failure.reason


def test_norms_that_are_passed_take_the_place_of_the_file(tmp_path: Path) -> None:
    source, replay = sweep_of(NCSAM, REPLAY).cells()[:2]
    source.run(source.path(tmp_path))
    norms = read_step_norms(source.path(tmp_path))
    source.path(tmp_path).unlink()
    replay.run(replay.path(tmp_path), replay=norms)
    assert Run(replay.path(tmp_path)).attrs["replayed"]["sha256"] == norms.digest


def test_shards_keep_a_replay_with_its_source() -> None:
    cells = sweep_of({"optimizer": "sgd"}, NCSAM, REPLAY, seeds=5).cells()
    parts = [shard(cells, i, 3) for i in (1, 2, 3)]
    assert sorted(cell.name for part in parts for cell in part) == sorted(cell.name for cell in cells)
    for part in parts:
        names = {cell.name for cell in part}
        assert {cell.replays for cell in part} - {None} <= names
    alone = [cell for cell in cells if cell.replays]
    assert sorted(cell.name for i in (1, 2) for cell in shard(alone, i, 2)) == sorted(cell.name for cell in alone)


def test_the_cost_of_a_replay_can_be_estimated() -> None:
    cells = sweep_of(NCSAM, REPLAY).cells()
    assert estimate(cells).seconds > estimate([cell for cell in cells if cell.replays is None]).seconds
