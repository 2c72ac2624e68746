"""Convolutional models train in channels_last by rule: the same training up to rounding, resumed to the same bits."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape.store import StoreError
from ncsam import Run, TrainConfig, Trainer, data, models, noise
from ncsam.runs import train
from ncsam.runs.resume_state import state_path
from ncsam.runs.train import train_run
from ncsam.training import execution
from ncsam.training.problem import Problem

CNN = TrainConfig(model="cnn", optimizer="sgd", epochs=3, train_samples=300, test_samples=100, warmup=0.0)


def weights(trainer: Trainer) -> np.ndarray:
    return np.concatenate([a.reshape(-1) for a in trainer.checkpoints[trainer.config.epochs].values()])


def trained(config: TrainConfig = CNN, **changes: object) -> Trainer:
    trainer = Trainer(dataclasses.replace(config, **changes))
    list(trainer.epochs())
    return trainer


class Viewing(nn.Module):
    """Takes a view of its activations, which channels_last does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classifier = nn.Conv2d(1, 4, 3), nn.Linear(144, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.conv(x).relu().view(len(x), -1))
        return out


def viewing(_: Any, __: int) -> nn.Module:
    return Viewing()


VIEWING = f"{__name__}:viewing"


def bare(memory_format: torch.memory_format, dtype: torch.dtype) -> np.ndarray:
    """Weights after plain SGD as anybody writes it."""
    problem = Problem.of(CNN)
    x, y = problem.inputs().to(dtype), problem.observed()
    model = models.build("cnn", (1, 8, 8), 10, seed=0).to(dtype)
    model = model.to(memory_format=memory_format)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=CNN.lr, momentum=CNN.momentum, weight_decay=CNN.weight_decay)
    for epoch in range(1, CNN.epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = CNN.lr * 0.5 * (1 + np.cos(np.pi * (epoch - 1) / CNN.epochs))
        order = torch.from_numpy(np.random.default_rng([0, epoch]).permutation(len(y)))
        for rows in order.split(CNN.batch_size):
            optimizer.zero_grad()
            logits = model(x[rows].contiguous(memory_format=memory_format))
            nn.functional.cross_entropy(logits, y[rows]).backward()
            optimizer.step()
    return np.concatenate([t.detach().numpy().reshape(-1) for t in model.state_dict().values()])


def test_the_rule_is_convolutions_on_images() -> None:
    assert Trainer(CNN).memory_format == "channels_last"
    resnet = models.build("resnet18", (1, 8, 8), 10, seed=0)
    assert execution.memory_format("auto", resnet, torch.zeros(2, 1, 8, 8)) == "channels_last"
    assert Trainer(dataclasses.replace(CNN, model="mlp")).memory_format == "contiguous"
    assert Trainer(dataclasses.replace(CNN, memory_format="contiguous")).memory_format == "contiguous"
    conv = Trainer(CNN).model.convs[1].weight
    assert conv.is_contiguous(memory_format=torch.channels_last)
    assert not conv.is_contiguous()


@pytest.mark.parametrize("name", execution.FORMATS)
def test_each_format_equals_a_bare_loop_in_it_bitwise(name: str) -> None:
    trainer = trained(memory_format=name)
    assert np.array_equal(weights(trainer), bare(execution.FORMATS[name], torch.float32))


def test_no_format_is_further_from_float64_than_the_other() -> None:
    exact = bare(torch.contiguous_format, torch.float64)
    away = {name: np.linalg.norm(weights(trained(memory_format=name)) - exact) for name in execution.FORMATS}
    assert 0 < away["channels_last"] < 10 * away["contiguous"]
    assert away["channels_last"] < np.finfo(np.float32).eps ** 0.5 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("optimizer", "base", "precision"),
    [("sam", "sgd", "fp32"), ("ncsam", "adamw", "fp32"), ("sgd", "adam", "fp32"), ("ncsam", "sgd", "bf16")],
)
@pytest.mark.filterwarnings("ignore::ncsam.optimizers.ProjectionWarning")
def test_resumed_in_channels_last_to_the_same_bits(optimizer: str, base: str, precision: str, tmp_path: Path) -> None:
    changes = {"optimizer": optimizer, "base_optimizer": base, "lr": 0.01, "precision": precision, "diagnose": 1}
    config = dataclasses.replace(CNN, **changes)
    whole = trained(config)
    stopped = Trainer(config)
    next(stopped.epochs())
    torch.save(stopped.state_dict(), tmp_path / "state")
    resumed = Trainer(config)
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    list(resumed.epochs())
    assert resumed.memory_format == "channels_last"
    assert np.array_equal(weights(whole), weights(resumed))
    for name, value in vars(whole.record()).items():
        np.testing.assert_array_equal(value, getattr(resumed.record(), name))
    np.testing.assert_array_equal(whole.diagnosed[3], resumed.diagnosed[3])


class Stop(Exception):
    """Stands for whatever ends a process in the middle."""


def _stopped(config: TrainConfig, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that ends after its first epoch and leaves a state."""

    def progress(rows: Iterable[Any], total: int) -> Iterator[Any]:
        for done, row in enumerate(rows):
            if done == 2:
                raise Stop
            yield row

    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    with pytest.raises(Stop):
        train_run(config, path, progress=progress)


def _without_memory_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written names no memory format, as before there was a choice."""
    dictionary, state = TrainConfig.to_dict, Trainer.state_dict
    monkeypatch.setattr(
        TrainConfig, "to_dict", lambda c: {k: v for k, v in dictionary(c).items() if k != "memory_format"}
    )
    monkeypatch.setattr(Trainer, "state_dict", lambda t: {k: v for k, v in state(t).items() if k != "memory_format"})


@pytest.mark.parametrize("asked", ["auto", "contiguous"])
def test_a_training_begun_before_there_was_a_choice_goes_on_contiguous(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contiguous = dataclasses.replace(CNN, memory_format="contiguous")
    whole = train_run(contiguous, tmp_path / "whole.h5")
    with monkeypatch.context() as before:
        _without_memory_format(before)
        _stopped(contiguous, tmp_path / "run.h5", before)
    assert state_path(tmp_path / "run.h5").exists()
    config = dataclasses.replace(CNN, memory_format=asked)
    with pytest.raises(StoreError, match="memory_format = 'contiguous', asked for 'channels_last'"):
        train_run(dataclasses.replace(CNN, memory_format="channels_last"), tmp_path / "run.h5", resume=True)
    resumed = train_run(config, tmp_path / "run.h5", resume=True)
    assert resumed.attrs["memory_format"] == "contiguous"
    assert all(torch.equal(t, resumed.model().state_dict()[n]) for n, t in whole.model().state_dict().items())
    np.testing.assert_array_equal(whole.training.loss, resumed.training.loss)


def test_a_run_file_says_its_format_and_without_one_it_is_contiguous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_run(CNN, tmp_path / "new.h5")
    assert (run.attrs["memory_format"], run.config.memory_format) == ("channels_last", "auto")
    assert train_run(CNN, tmp_path / "new.h5", resume=True).config == CNN
    assert run.objective().evaluate().loss["test"] == pytest.approx(run.training.loss[-1, -1], rel=1e-5)
    with monkeypatch.context() as before:
        _without_memory_format(before)
        train_run(dataclasses.replace(CNN, memory_format="contiguous"), tmp_path / "old.h5")
    old = Run(tmp_path / "old.h5")
    assert old.config.memory_format == "contiguous"
    assert train_run(CNN, tmp_path / "old.h5", resume=True).config == old.config  # finished: nothing is trained
    with pytest.raises(StoreError, match="the file exists"):
        train_run(dataclasses.replace(CNN, memory_format="channels_last"), tmp_path / "old.h5", resume=True)


def test_a_state_in_channels_last_is_not_resumed_as_contiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stopped(dataclasses.replace(CNN, memory_format="channels_last"), tmp_path / "run.h5", monkeypatch)
    with pytest.raises(StoreError, match="memory_format = 'channels_last', asked for 'contiguous'"):
        train_run(dataclasses.replace(CNN, memory_format="contiguous"), tmp_path / "run.h5", resume=True)


def test_a_model_that_cannot_stays_contiguous_by_rule_and_is_refused_by_name(caplog: pytest.LogCaptureFixture) -> None:
    config = dataclasses.replace(CNN, model=VIEWING)
    with caplog.at_level(logging.INFO, logger="ncsam"):
        trainer = Trainer(config, trust=True)
    assert trainer.memory_format == "contiguous"
    assert "contiguous memory format, since the model cannot in channels_last (RuntimeError: view size" in caplog.text
    list(trainer.epochs())
    with pytest.raises(ValueError, match=r"cannot train in channels_last \(RuntimeError: view .* choose memory_format"):
        Trainer(dataclasses.replace(config, memory_format="channels_last"), trust=True)


def test_flat_inputs_have_no_channels(tmp_path: Path) -> None:
    x, y = np.zeros((10, 4), np.float32), np.arange(10) % 2
    np.savez(tmp_path / "flat.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    config = TrainConfig(data=f"npz:{tmp_path / 'flat.npz'}", optimizer="sgd", epochs=1)
    assert Trainer(config).memory_format == "contiguous"
    with pytest.raises(ValueError, match=r"channels_last needs images, but inputs have the shape \(4,\)"):
        Trainer(dataclasses.replace(config, memory_format="channels_last"))
    with pytest.raises(ValueError, match="memory_format is 'nhwc', expected one of auto, contiguous, channels_last"):
        dataclasses.replace(config, memory_format="nhwc")


def test_trying_a_model_leaves_it_and_the_random_state_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(72, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert execution.memory_format("auto", model, torch.ones(2, 1, 8, 8)) == "channels_last"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.is_contiguous() for p in model.parameters())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_thin_resnet_trains_in_channels_last_as_it_does_contiguous() -> None:
    images = np.random.default_rng(0)
    x = images.integers(0, 256, (96, 3, 32, 32), dtype=np.uint8)
    y = np.arange(96) % 4
    problem_of = TrainConfig(model="resnet18-thin", optimizer="sam", epochs=2, batch_size=32, warmup=0.0, lr=0.01,
                             noise="none")  # fmt: skip
    dataset = data.from_arrays("pixels", x[:64], y[:64], x[64:], y[64:])
    labels = noise.parse("none")(y[:64], 4, 0, None)
    problem = Problem(dataset, labels, np.arange(64), np.arange(0))
    found = {}
    for memory_format in ("auto", "contiguous"):
        trainer = Trainer(dataclasses.replace(problem_of, memory_format=memory_format), problem)
        found[trainer.memory_format] = list(trainer.epochs())[-1]["loss"]
    assert set(found) == {"channels_last", "contiguous"}
    np.testing.assert_allclose(found["channels_last"], found["contiguous"], rtol=1e-2)
