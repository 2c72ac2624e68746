"""Every run that perturbs records ‖ε‖ step by step, and another run of the same seed can replay it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from landscape.store import StoreError
from ncsam import Run, TrainConfig, models
from ncsam.records import Steps
from ncsam.runs.resume_state import state_path
from ncsam.runs.step_norms import read_step_norms
from ncsam.runs.train import train_run
from ncsam.training.problem import Problem
from ncsam.training.replay import StepNorms

SOURCE = TrainConfig(
    optimizer="ncsam", options={"rho": 0.05, "project": False, "flip_ratio": 0.4}, epochs=4, batch_size=100,
    train_samples=450, test_samples=100, noise="symmetric:0.4",
)  # fmt: skip
STEPS = 5  # 405 samples are left of 450 to train on
SINGLE = torch.finfo(torch.float32).eps


def like(path: Path, **changes: Any) -> TrainConfig:
    return dataclasses.replace(SOURCE, **{"optimizer": "replay", "options": {}, "like": str(path), **changes})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_run(SOURCE, tmp_path_factory.mktemp("source") / "source.h5")


def steps_of(run: Run) -> np.ndarray:
    record = run.result("steps")
    assert isinstance(record, Steps)
    return record.perturbation_norm


def test_norms_of_every_step_are_recorded(source: Run) -> None:
    norms = steps_of(source)
    assert norms.shape == (4, STEPS)
    assert norms.dtype == np.float32
    assert (norms[0] == 0).all()  # the warm-up
    assert (norms[1:] > 0.05).any()
    assert len(np.unique(norms[1:])) == 3 * STEPS
    np.testing.assert_allclose(norms.mean(axis=1), source.training.perturbation_norm, rtol=8 * SINGLE)


def test_an_optimizer_that_perturbs_nothing_records_none(tmp_path: Path) -> None:
    path = tmp_path / "sgd.h5"
    run = train_run(dataclasses.replace(SOURCE, optimizer="sgd", options={}, epochs=1), path)
    assert "steps" not in run.names
    with pytest.raises(StoreError, match=r"sgd\.h5: holds no ‖ε‖ of its steps \(sgd\)"):
        train_run(like(path, epochs=1), tmp_path / "replay.h5")


def test_a_replay_is_sam_with_those_norms_written_out(source: Run, tmp_path: Path) -> None:
    run = train_run(like(source.path), tmp_path / "replay.h5")
    norms = steps_of(source)
    np.testing.assert_allclose(steps_of(run), norms, rtol=8 * SINGLE)
    assert (run.training.cosine[1:] > 1 - 1e-5).all()
    digest = read_step_norms(source.path).digest
    assert run.attrs["replayed"] == {"source": "source", "sha256": digest}

    problem = Problem.of(SOURCE)
    x, y = problem.inputs(), problem.observed()
    model = models.build("mlp", problem.dataset.input_shape, 10, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for epoch in range(1, 5):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / 4))
        order = torch.from_numpy(np.random.default_rng([0, epoch]).permutation(len(y)))
        for step, rows in enumerate(order.split(100)):
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            size = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))
            with torch.no_grad():
                for p in model.parameters():
                    p += float(norms[epoch - 1, step]) / size * p.grad
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            with torch.no_grad():
                for p, w in zip(model.parameters(), before, strict=True):
                    p.copy_(w)
            optimizer.step()
    trained = run.model().state_dict()
    for name, tensor in model.state_dict().items():  # twenty steps in single precision
        torch.testing.assert_close(trained[name], tensor, rtol=1e-3, atol=1e-5)


def test_norms_come_from_json_alike(source: Run, tmp_path: Path) -> None:
    norms = read_step_norms(source.path)
    file = tmp_path / "norms.json"
    file.write_text(json.dumps(norms.to_dict()))
    assert read_step_norms(file).digest == norms.digest
    from_file = train_run(like(file), tmp_path / "a.h5")
    passed = train_run(like(Path("ncsam")), tmp_path / "b.h5", replay=norms)
    assert from_file.attrs["replayed"] == passed.attrs["replayed"]
    for name, tensor in from_file.model().state_dict().items():
        assert torch.equal(tensor, passed.model().state_dict()[name])


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "not the step norms of a run"), ('{"norms": [[0.1]]}', "not the step norms of a run"), ("{", "not JSON")],
)
def test_json_of_something_else_is_refused_in_one_line(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "norms.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_step_norms(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("none.h5", "none.json"):
        with pytest.raises(StoreError, match=re.escape(str(tmp_path / name))):
            read_step_norms(tmp_path / name)


class Stop(Exception):
    """Stands for whatever ends a process in the middle."""


def stop_after(count: int) -> Any:
    def progress(rows: Iterable[Any], total: int) -> Iterator[Any]:
        for done, row in enumerate(rows):
            if done == count:
                raise Stop
            yield row

    return progress


@pytest.mark.parametrize("optimizer", ["ncsam", "replay"])
def test_a_resumed_run_has_bitwise_the_same_steps_and_weights(
    optimizer: str, source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsam.runs.train.SAVE_EVERY", 0.0)
    config = SOURCE if optimizer == "ncsam" else like(source.path)
    whole = train_run(config, tmp_path / "whole.h5")
    path = tmp_path / "parts.h5"
    with pytest.raises(Stop):
        train_run(config, path, progress=stop_after(2))
    parts = train_run(config, path, resume=True)
    np.testing.assert_array_equal(steps_of(whole), steps_of(parts))
    for name, tensor in whole.model().state_dict().items():
        assert torch.equal(tensor, parts.model().state_dict()[name])


def test_other_norms_do_not_go_on_where_these_stopped(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsam.runs.train.SAVE_EVERY", 0.0)
    norms = read_step_norms(source.path)
    other = dataclasses.replace(norms, norms=norms.norms * np.float32(2))
    path = tmp_path / "replay.h5"
    with pytest.raises(Stop):
        train_run(like(source.path), path, progress=stop_after(2))
    with pytest.raises(StoreError, match="was trained with replayed"):
        train_run(like(source.path), path, resume=True, replay=other)
    train_run(like(source.path), path, resume=True, replay=norms)
    assert not state_path(path).exists()
    with pytest.raises(StoreError, match="the file exists"):
        train_run(like(source.path), path, resume=True, replay=other)
    train_run(like(source.path), path, resume=True, replay=norms)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 5, "warmup": 0.2}, "has epochs 4, this run has 5"),
        ({"batch_size": 90}, "has batch size 100, this run has 90"),
        ({"batch_size": 64}, "has steps an epoch 5, this run has 7"),
        ({"train_samples": 300}, "has steps an epoch 5, this run has 3"),
        ({"warmup": 0.5}, "has warmup epochs 1, this run has 2"),
        ({"noise": "symmetric:0.2"}, "has noise symmetric:0.4, this run has symmetric:0.2"),
        ({"seeds": SOURCE.with_seed(1).seeds}, "has seeds {'split': 0, .*}, this run has {'split': 1, "),
    ],
)
def test_a_run_that_differs_in_more_than_its_optimizer_is_refused(
    changes: dict[str, Any], message: str, source: Run, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"source, which is to be replayed, {message}") as error:
        train_run(like(source.path, **changes), tmp_path / "replay.h5")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.h5"))


def test_other_data_are_refused(source: Run, tmp_path: Path) -> None:
    norms = dataclasses.replace(read_step_norms(source.path), data_hash="0" * 64)
    with pytest.raises(ValueError, match=r"has data hash 0{64}, this run has [0-9a-f]{64}; replay a run"):
        train_run(like(source.path), tmp_path / "replay.h5", replay=norms)


def test_a_skipped_step_cannot_be_replayed(source: Run, tmp_path: Path) -> None:
    norms = read_step_norms(source.path)
    holed = norms.norms.copy()
    holed[2, 3] = np.nan
    with pytest.raises(ValueError, match="source: step 4 of epoch 3 was skipped, so it has no ‖ε‖ to replay"):
        train_run(like(source.path), tmp_path / "a.h5", replay=dataclasses.replace(norms, norms=holed))


def test_a_skipped_step_is_recorded_as_such(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    x[7] = 3e38  # more than single precision holds once it is multiplied
    y = np.arange(40) % 2
    np.savez(tmp_path / "holed.npz", train_x=x, train_y=y, test_x=x[8:], test_y=y[8:])
    config = TrainConfig(
        data=f"npz:{tmp_path / 'holed.npz'}", optimizer="sam", noise="none", epochs=1, batch_size=10, warmup=0.0,
        val_fraction=0.0,
    )  # fmt: skip
    run = train_run(config, tmp_path / "sam.h5")
    assert int(np.isnan(steps_of(run)).sum()) == run.training.skipped[0] == 1


def test_what_replay_needs_and_others_do_not_is_told_at_once() -> None:
    for changes, message in (
        ({"optimizer": "replay"}, "has no run to replay; name its file with like"),
        ({"optimizer": "sam", "like": "run.h5"}, "like is 'run.h5', but 'sam' replays nothing"),
        ({"optimizer": "replay", "like": 3}, "like is 3, expected the name of a run file"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainConfig(**changes)
    with pytest.raises(ValueError, match="norms are no option of a run"):
        TrainConfig(optimizer="replay", like="run.h5", options={"norms": [0.1]})


def test_step_norms_are_exact_in_json() -> None:
    values = np.random.default_rng(0).lognormal(size=(3, 50)).astype(np.float32)
    shared = StepNorms.shared_by(TrainConfig(), "hash")
    norms = StepNorms("mine", values, **shared)
    back = StepNorms.from_dict(json.loads(json.dumps(norms.to_dict())))
    np.testing.assert_array_equal(back.norms, values)
    assert back.norms.dtype == np.float32
    with pytest.raises(ValueError, match=r"norms have the shape \(2,\)"):
        StepNorms.from_dict({**norms.to_dict(), "norms": [0.1, 0.2]})
