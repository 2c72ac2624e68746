"""What is evaluated when, from one pass, and that whoever reads the record takes what was not evaluated for that."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape.objective.checks import NotDeterministicError
from landscape_cli.main import run as landscape
from ncsam import Run, TrainConfig, Trainer
from ncsam.figures import training_by_rate, training_curves, training_of_controls
from ncsam.runs.train import train_run
from ncsam.study.endpoints import early_stopped_accuracy, endpoints_of
from ncsam.sweep.cells import Cell
from ncsam.sweep.estimate import estimate
from ncsam.sweep.tuning import validation_accuracy
from ncsam.training.config import LAST_EPOCHS

EVERY = TrainConfig(optimizer="sgd", epochs=14, train_samples=200, test_samples=100, samples=True)
FOURTH = dataclasses.replace(EVERY, evaluate_every=4)
AT = [4, 8, 10, 11, 12, 13, 14]  # every fourth, and the last five
OF_VIEWS = ("loss", "accuracy", "memorisation", "corrected", "class_accuracy", "balanced_accuracy")


def trained(config: TrainConfig) -> Trainer:
    trainer = Trainer(config)
    list(trainer.epochs())
    return trainer


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        config.evaluate_every: train_run(
            config, folder / f"{config.evaluate_every}.h5", log=folder / f"{config.evaluate_every}.jsonl"
        )
        for config in (EVERY, FOURTH)
    }


def test_what_is_evaluated_is_what_it_would_be_every_epoch_and_the_rest_is_nan(runs: dict[int, Run]) -> None:
    every, fourth = runs[1].training, runs[4].training
    assert every.evaluated.all()
    assert fourth.epochs[fourth.evaluated].tolist() == AT
    for name, declared in type(every).variables().items():
        ours, theirs = getattr(fourth, name), getattr(every, name)
        if name in OF_VIEWS:
            np.testing.assert_array_equal(ours[fourth.evaluated], theirs[fourth.evaluated])
            assert np.isnan(ours[~fourth.evaluated]).all()
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{name} {declared.dims}")
    np.testing.assert_array_equal(runs[4].result("samples").margin, runs[1].result("samples").margin)
    states = (run.model().state_dict() for run in runs.values())
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))


def test_every_view_against_float64() -> None:
    trainer = trained(dataclasses.replace(EVERY, epochs=2))
    problem, record = trainer.problem, trainer.record()
    data, flipped = problem.dataset, problem.labels.flipped[problem.train]
    model = trainer.model.double().eval()
    held_out = torch.from_numpy(problem.labels.observed[problem.val])
    train, observed = problem.inputs(), problem.observed()
    views = {
        "mixed": (train, observed),
        "clean_part": (train[~flipped], observed[~flipped]),
        "noisy_part": (train[flipped], observed[flipped]),
        "true_labels": (train, problem.true()),
        "val": (data.prepare(data.train_x[problem.val]), held_out),
        "test": (data.prepare(data.test_x), data.test_y),
    }
    for i, view in enumerate(record.views):
        x, y = views[view]
        z = model(x.double())
        assert record.loss[-1, i] == pytest.approx(nn.functional.cross_entropy(z, y).item(), rel=1e-5)
        assert record.accuracy[-1, i] == pytest.approx((z.argmax(1) == y).double().mean().item(), abs=1e-12)
    assert record.memorisation[-1] == record.of_view("noisy_part")[-1]


@pytest.mark.parametrize("samples", [False, True])
def test_an_evaluation_is_one_pass_over_each_sample(samples: bool) -> None:
    trainer = Trainer(dataclasses.replace(EVERY, epochs=3, samples=samples))
    epochs = trainer.epochs()
    next(epochs)  # the first evaluation also checks the model
    seen: list[int] = []

    def count(model: nn.Module, inputs: tuple[Tensor]) -> None:
        if not model.training:
            seen.append(len(inputs[0]))

    with trainer.model.register_forward_pre_hook(count):
        next(epochs)
    problem = trainer.problem
    assert sum(seen) == len(problem.train) + len(problem.val) + len(problem.dataset.test_y)


def test_between_evaluations_nothing_runs_in_eval_mode() -> None:
    trainer = Trainer(dataclasses.replace(FOURTH, samples=False))
    modes: list[bool] = []
    trainer.model.register_forward_pre_hook(lambda model, _: modes.append(model.training))
    next(trainer.epochs())
    assert all(modes)
    assert modes


def test_a_training_resumed_between_evaluations_is_bitwise_the_undisturbed_one(tmp_path: Path) -> None:
    whole, stopped, resumed = trained(FOURTH), Trainer(FOURTH), Trainer(FOURTH)
    epochs = stopped.epochs()
    for _ in range(6):
        next(epochs)
    torch.save(stopped.state_dict(), tmp_path / "state")
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    list(resumed.epochs())
    for name, value in vars(whole.record()).items():
        np.testing.assert_array_equal(value, getattr(resumed.record(), name))


class Restless(nn.Module):
    """Draws in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(nn.functional.dropout(x.flatten(1), training=True))
        return out


def restless(_: Any, __: int) -> nn.Module:
    return Restless()


def test_a_model_that_gives_no_number_twice_is_refused_at_the_first_evaluation() -> None:
    trainer = Trainer(dataclasses.replace(EVERY, model=f"{__name__}:restless"), trust=True)
    with pytest.raises(NotDeterministicError):
        next(trainer.epochs())


def test_endpoints_are_of_evaluated_epochs(runs: dict[int, Run]) -> None:
    every, fourth = (endpoints_of(run) for run in (runs[1], runs[4]))
    between = {
        name for name in (*every, *fourth) if name.startswith("test_accuracy@")
    }  # lie between the evaluated ones
    assert every.keys() - between == fourth.keys() - between
    assert all(np.isfinite(value) for value in fourth.values())
    test = runs[1].training.of_view("test")
    at = np.isin(runs[1].training.epochs, AT)
    best = test[at].max()
    for name in every.keys() - {"best_accuracy", "drop", "mean_drop", *between}:
        assert fourth[name] == every[name], name
    assert fourth["best_accuracy"] == best
    assert fourth["drop"] == best - test[-LAST_EPOCHS:].mean()


def test_candidates_are_tuned_by_the_last_epochs_whatever_lies_between(runs: dict[int, Run]) -> None:
    assert validation_accuracy(runs[4]) == validation_accuracy(runs[1])


def test_lines_of_figures_join_the_evaluated_epochs(runs: dict[int, Run]) -> None:
    records = [runs[1].training, runs[4].training]
    drawn = training_curves({"sgd": [runs[4].training], "sam": records})
    for ax in drawn.axes[:2]:
        for line in ax.lines:
            assert line.get_xdata().tolist() == AT
            assert np.isfinite(line.get_ydata()).all()
        assert not [text for text in ax.texts if "no wrong labels" in text.get_text()]
    by_rate = training_by_rate({"40 %": {"sgd": records}})
    assert [line.get_xdata().tolist() for line in by_rate.axes[0].lines] == [AT]
    controls = training_of_controls({"matched": [runs[4].training]}, {"sgd": [runs[4].training]})
    assert [line.get_xdata().tolist() for line in controls.axes[0].lines] == [AT, AT]
    assert np.isfinite(controls.axes[0].get_ylim()).all()


def test_the_log_has_null_where_nothing_was_evaluated(runs: dict[int, Run]) -> None:
    lines = [json.loads(line) for line in runs[4].path.with_suffix(".jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["accuracy/test"] is not None] == AT
    assert all(line["running_loss"] is not None for line in lines)
    assert lines[0]["class_accuracy/0"] is lines[0]["loss/mixed"] is lines[0]["memorisation"] is None


def test_the_command_prints_the_best_of_the_evaluated_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run.h5"
    options = ["--optimizer", "sgd", "--epochs", "8", "--train-samples", "100", "--evaluate-every", "3", "--quiet"]
    assert landscape(["train", *options, "--out", str(out)]) == 0
    run = Run(out)
    assert run.config.evaluate_every == 3
    assert f"(best epoch {np.nanmax(run.training.of_view('test')):.1%})" in capsys.readouterr().out
    assert landscape(["figure", str(out), "--out", str(tmp_path / "pictures")]) == 0
    assert list((tmp_path / "pictures").glob("*training*"))


def test_a_sweep_is_estimated_by_the_evaluations_it_makes() -> None:
    config = TrainConfig(optimizer="sgd", epochs=10_000, train_samples=200)
    every, seldom = (
        estimate([Cell("one", "sgd", dataclasses.replace(config, evaluate_every=n))]).seconds for n in (1, 10_000)
    )
    assert seldom < every


def test_early_stopping_reports_the_test_accuracy_of_the_best_validation_epoch(runs: dict[int, Run]) -> None:
    for run in runs.values():
        training, best, found = run.training, -1.0, -1.0
        for epoch, val, test in zip(training.epochs, training.of_view("val"), training.of_view("test"), strict=True):
            if epoch in training.epochs[training.evaluated] and val > best:  # the first of several that are best
                best, found = val, test
        assert early_stopped_accuracy(training) == endpoints_of(run)["early_stopped_accuracy"] == found
        assert found >= 0
