"""Accuracy by class, confusion and the history of samples, against plain loops and scikit-learn."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics

from landscape import store
from landscape_cli.main import run as landscape
from ncsam import Run, TrainConfig
from ncsam.records import SampleHistory
from ncsam.runs.resume_state import load_state, save_state
from ncsam.training.predictions import Histories, class_accuracy, confusion_matrix, losses_and_margins
from ncsam.training.trainer import Trainer

CONFIG = TrainConfig(
    optimizer="sgd", epochs=6, train_samples=300, noise="symmetric:0.3", weight_decay=0.0, samples=True
)


def test_confusion_and_accuracy_by_class_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(500, 7, generator=generator), torch.randint(6, (500,), generator=generator)
    found = confusion_matrix(outputs, labels)
    predicted = outputs.argmax(1).numpy()
    np.testing.assert_array_equal(found, metrics.confusion_matrix(labels, predicted, labels=range(7)))
    by_class = class_accuracy(found)
    assert np.isnan(by_class[6])  # no sample of it
    np.testing.assert_allclose(by_class[:6], metrics.recall_score(labels, predicted, average=None, labels=range(6)))
    expected = metrics.recall_score(labels, predicted, average="macro", labels=range(6))
    assert np.nanmean(by_class) == pytest.approx(expected, rel=1e-12)


def test_margins_forgetting_and_aum_by_hand() -> None:
    outputs = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 5.0]])
    loss, margin = losses_and_margins(outputs, torch.tensor([0, 1]))
    assert margin.tolist() == [1.0, -5.0]
    assert loss.tolist() == pytest.approx((-outputs.log_softmax(1)[[0, 1], [0, 1]]).tolist())
    margins = torch.tensor(
        [[1.0, -1.0, 2.0, 0.0], [-1.0, -1.0, 2.0, 1.0], [3.0, -1.0, 2.0, -1.0], [-1.0, 1e9, 2.0, 1.0]]
    )
    found = Histories(np.arange(4), {e + 1: torch.stack([m.abs(), m]) for e, m in enumerate(margins)}).record()
    assert found.forgetting.tolist() == [2, 0, 0, 1]
    assert found.learned.tolist() == [True, True, True, True]
    assert found.aum.tolist() == pytest.approx(margins.double().mean(0).tolist())
    assert found.margin.tolist() == margins.tolist()


def test_a_run_holds_them_and_they_are_those_of_its_model(tmp_path: Path) -> None:
    words = "train --optimizer sgd --epochs 3 --train-samples 300 --noise symmetric:0.3 --samples --quiet"
    path = tmp_path / "run.h5"
    assert landscape([*words.split(), "--checkpoints", "1,2", "--log", str(tmp_path / "log"), "--out", str(path)]) == 0
    run = Run(path)
    training, problem = run.training, run.problem
    history = run.result("samples")
    assert isinstance(history, SampleHistory)
    assert history.index.tolist() == problem.train.tolist()
    margins = []
    for epoch in (1, 2, 3):
        model = run.model(epoch)
        with torch.no_grad():
            outputs = model(problem.dataset.test_x)
            mine = model(problem.inputs())
        predicted = outputs.argmax(1)
        assert training.balanced_accuracy is not None
        assert training.balanced_accuracy[epoch - 1] == pytest.approx(
            metrics.balanced_accuracy_score(problem.dataset.test_y, predicted), rel=1e-12
        )
        loss, margin = losses_and_margins(mine, problem.observed())
        np.testing.assert_allclose(history.loss[epoch - 1], loss, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(history.margin[epoch - 1], margin, rtol=1e-5, atol=1e-5)
        margins.append(margin.numpy())
    assert training.confusion is not None
    np.testing.assert_array_equal(training.confusion, metrics.confusion_matrix(problem.dataset.test_y, predicted))
    np.testing.assert_allclose(history.aum, np.mean(margins, axis=0, dtype=np.float64), rtol=1e-5, atol=1e-5)
    forgotten = sum((a > 0) & (b <= 0) for a, b in itertools.pairwise(margins))
    np.testing.assert_array_equal(history.forgetting, forgotten)
    assert store.verify(path) == []
    assert '"class_accuracy/9": ' in (tmp_path / "log").read_text().splitlines()[-1]


def test_keeping_samples_changes_no_number_and_resumes_bitwise(tmp_path: Path) -> None:
    plain, kept = Trainer(dataclasses.replace(CONFIG, samples=False)), Trainer(CONFIG)
    for _ in zip(plain.epochs(), kept.epochs(), strict=True):
        pass
    for name, weights in plain.checkpoints[6].items():
        np.testing.assert_array_equal(weights, kept.checkpoints[6][name])
    half = Trainer(CONFIG)
    for _, _ in zip(range(3), half.epochs(), strict=False):
        pass
    save_state(tmp_path / "state", {}, half.state_dict())
    again = Trainer(CONFIG)
    again.load_state_dict(load_state(tmp_path / "state", TrainConfig().to_dict(), "cpu"))
    for _ in again.epochs():
        pass
    found, expected = again.samples(), kept.samples()
    assert found is not None
    assert expected is not None
    for name in SampleHistory.variables():
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert plain.samples() is None


def test_wrong_labels_have_the_smaller_margins() -> None:
    trainer = Trainer(dataclasses.replace(CONFIG, epochs=20, train_samples=None))
    for _ in trainer.epochs():
        pass
    history, labels = trainer.samples(), trainer.problem.labels
    assert history is not None
    wrong = labels.flipped[history.index]
    assert metrics.roc_auc_score(wrong, -history.aum) > 0.9
