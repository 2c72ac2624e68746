"""An optimizer of one's own, ``package.module:factory``, trains, resumes and is swept like those of the package."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from landscape_cli.main import run as landscape
from ncsam import SAM, TrainConfig, Trainer
from ncsam.optimizers import StepInfo
from ncsam.runs.run import Run
from ncsam.runs.train import train_run
from ncsam.sweep import Sweep, pool
from tests.ncsam.sweep.small import without_processes

SHORT = TrainConfig(epochs=4, batch_size=100, train_samples=450, test_samples=100, noise="symmetric:0.4", warmup=0.25)


class Bare:
    """Plain steps of the base optimizer, with a state of its own."""

    def __init__(self, model: nn.Module, base: Optimizer, *, scale: float = 1.0, seed: int = -1) -> None:
        self.model, self.base, self.scale, self.seed, self.steps = model, base, scale, seed, 0
        self.param_groups = base.param_groups

    def step(self, x: Tensor, y: Tensor, loss_fn: Any, *, progress: float, true_labels: Tensor) -> StepInfo:
        self.steps += 1
        self.base.zero_grad()
        loss = self.scale * loss_fn(self.model(x), y)
        loss.backward()
        self.base.step()
        assert 0 < progress <= 1
        assert len(true_labels) == len(y)
        return StepInfo(float(loss.detach()), float(loss.detach()), 0.0, perturbation_norm=0.25)

    def state_dict(self) -> dict[str, Any]:
        return {**self.base.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.base.load_state_dict({key: value for key, value in state.items() if key != "steps"})
        self.param_groups = self.base.param_groups


class Silent(Bare):
    """Says nothing of its step."""

    def step(self, *args: Any, **more: Any) -> None:  # type: ignore[override]
        super().step(*args, **more)


def sam(model: nn.Module, base: Optimizer) -> SAM:
    return SAM(model, base, rho=0.3)


def broken(model: nn.Module, base: Optimizer) -> None:
    raise RuntimeError("not\ntoday")


def nothing(model: nn.Module, base: Optimizer) -> nn.Module:
    return model


def own(name: str, **changes: Any) -> TrainConfig:
    return dataclasses.replace(SHORT, optimizer=f"{__name__}:{name}", **changes)


def state(trainer: Trainer) -> dict[str, Tensor]:
    list(trainer.epochs())
    return trainer.model.state_dict()


def test_a_class_from_scratch_trains_as_it_says() -> None:
    mine = Trainer(own("Bare"), trust=True)
    expected = state(Trainer(dataclasses.replace(SHORT, optimizer="sgd")))
    for name, tensor in state(mine).items():
        assert torch.equal(tensor, expected[name])
    record = mine.record()
    assert record.perturbation_norm.tolist() == [0.0, 0.25, 0.25, 0.25]  # the warm-up is shared by all
    assert mine.steps().perturbation_norm.shape == (4, 5)
    assert mine._optimizer.seed == SHORT.seeds["picks"]


def test_an_optimizer_of_the_package_from_a_factory_is_itself() -> None:
    expected = state(Trainer(dataclasses.replace(SHORT, optimizer="sam", options={"rho": 0.3})))
    for name, tensor in state(Trainer(own("sam", options={}), trust=True)).items():
        assert torch.equal(tensor, expected[name])


def test_it_resumes_bitwise_and_its_run_can_be_replayed(tmp_path: Path) -> None:
    config = own("Bare", options={"scale": 0.5})
    whole = Trainer(config, trust=True)
    expected = state(whole)
    stopped = Trainer(config, trust=True)
    epochs = stopped.epochs()
    next(epochs), next(epochs)
    torch.save(stopped.state_dict(), tmp_path / "state")
    resumed = Trainer(config, trust=True)
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for name, tensor in state(resumed).items():
        assert torch.equal(tensor, expected[name])
    run = train_run(config, tmp_path / "own.h5", trust=True)
    assert run.config.options == {"scale": 0.5}
    replay = dataclasses.replace(config, optimizer="replay", options={}, like=str(run.path))
    again = train_run(replay, tmp_path / "replay.h5")
    assert again.training.perturbation_norm[-1] == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "tests.nowhere:Bare"}, "cannot import 'tests.nowhere:Bare'"),
        ({"optimizer": f"{__name__}:broken"}, "broken, called as factory.model, base., raised RuntimeError: not today"),
        ({"optimizer": f"{__name__}:nothing"}, "is a Sequential|is a MLP without step, param_groups"),
        (
            {"optimizer": f"{__name__}:Bare", "options": {"skale": 2}},
            "cannot take .* unexpected keyword argument 'skale'",
        ),
        ({"optimizer": f"{__name__}:Bare", "compile": True}, "which compile does not reach"),
        ({"optimizer": f"{__name__}:Bare", "mixup": 1.0}, "mixup 1 works on whole batches, which"),
    ],
)
def test_what_is_no_training_step_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Trainer(dataclasses.replace(SHORT, **changes), trust=True)
    assert "\n" not in str(error.value)


def test_a_step_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"step of .*:Silent returned NoneType, expected ncsam.optimizers.StepInfo"):
        state(Trainer(own("Silent", warmup=0.0), trust=True))


def test_it_is_imported_only_where_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="would import and run code; if you trust it"):
        Trainer(own("Bare"))
    monkeypatch.chdir(tmp_path)
    train = ["train", "--epochs", "1", "--train-samples", "100", "--quiet", "--out"]
    assert landscape([*train, "typed.h5", "--optimizer", f"{__name__}:Bare"]) == 0
    Path("c.toml").write_text(f'optimizer = "{__name__}:Bare"\n')
    assert landscape([*train, "file.h5", "--config", "c.toml"]) == 2
    assert "is from a file or the environment and would import" in capsys.readouterr().err
    assert landscape([*train, "file.h5", "--config", "c.toml", "--trust"]) == 0
    assert Run("file.h5").config.optimizer == f"{__name__}:Bare"
    table = f'[[arms]]\nname = "mine"\noptimizer = "{__name__}:Bare"\nscale = 0.5\n'
    Path("s.toml").write_text(f'seeds = 1\nnoise = ["none"]\ntrain = {{ epochs = 1, train_samples = 100 }}\n{table}')
    sweep = ["sweep", "--config", "s.toml", "--workers", "1", "--quiet", "--json", "--out", "sweep"]
    assert landscape(sweep) == 2
    assert "would import and run code" in capsys.readouterr().err
    assert landscape([*sweep, "--trust"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"]
    assert Run("sweep/runs/mine-none-seed0.h5").config.options == {"scale": 0.5}


def test_its_options_are_swept_and_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_processes(monkeypatch)
    described = {
        "seeds": [3],
        "noise": ["none"],
        "train": {"epochs": 1, "train_samples": 100, "warmup": 0.0},
        "tune": {"seeds": [7]},
        "arms": [{"optimizer": f"{__name__}:Bare", "lr": [0.01, 0.1], "tune": {"scale": [0.5, 1.0]}}],
    }
    sweep = dataclasses.replace(Sweep.from_dict(described), trust=True)
    named = f"{__name__}-Bare"
    assert [arm.name for arm in sweep.arms] == [f"{named}-lr0.01", f"{named}-lr0.1"]
    tried = [(cell.config.lr, cell.config.options) for cell, _ in sweep.tuning_cells()]
    assert tried == [(lr, {"scale": scale}) for lr in (0.01, 0.1) for scale in (0.5, 1.0)]
    chosen = {(f"{named}-lr0.1", "none"): {"scale": 0.5}}
    assert [cell.config.options for cell in sweep.cells(chosen)] == [{}, {"scale": 0.5}]
    assert pool.run_cells(sweep.cells(chosen), tmp_path, workers=1) == []
