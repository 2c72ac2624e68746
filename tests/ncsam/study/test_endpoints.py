"""Endpoints of the last epoch come from that epoch, the whole model and the usual results, whatever else there is."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ncsam import TrainConfig
from ncsam.measurements import measure_diagnostics, measure_sharpness, measure_spectrum
from ncsam.runs.run import Run
from ncsam.runs.train import train_run
from ncsam.study.arms import family_of
from ncsam.study.endpoints import endpoints_of, row_of
from ncsam.study.radius_control import radius_control
from ncsam.study.table import studies, table_of
from ncsam.sweep.tuning import Trial, best_of, by_rule, choose
from ncsam.training.predictions import class_accuracy, confusion_matrix

CONFIG = TrainConfig(optimizer="sgd", train_samples=150, epochs=4, noise="symmetric:0.4", checkpoints=[2, 4])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    run = train_run(CONFIG, path)
    measure_spectrum(run, views=["mixed"], k=1)
    measure_sharpness(run, views=["mixed"], trace_matvecs=4)
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    return Run(shutil.copy(trained, tmp_path / "run.h5"))


def known(run: Run) -> dict[str, float]:
    """The endpoints that the file holds now; what is NaN was not measured."""
    return {name: value for name, value in endpoints_of(Run(run.path)).items() if not math.isnan(value)}


def test_other_spectra_are_not_the_endpoint(run: Run) -> None:
    before = known(run)
    measure_spectrum(run, "early", epochs=[2], views=["mixed"], k=1)
    measure_spectrum(run, "inner", views=["mixed"], k=1, params=["classifier"])
    measure_spectrum(run, "zsmallest", views=["mixed"], k=1, which="SA")
    measure_spectrum(run, "zsubset", views=["mixed"], k=1, subset=40)
    after = known(run)
    assert {"top_eigenvalue/mixed", "trace/mixed"} <= set(before)
    assert after.pop("top_eigenvalue@zsubset/mixed") != before["top_eigenvalue/mixed"]
    after.pop("trace@zsubset/mixed", None)
    assert after == before


def test_sharpness_of_an_earlier_epoch_is_not_the_endpoint(run: Run) -> None:
    before = known(run)
    measure_sharpness(run, epochs=[2], views=["mixed"], trace_matvecs=4, overwrite=True)
    after = known(run)
    measured = [name for name in before if name not in after]
    assert "adaptive_trace/mixed" in measured
    assert "weight_norm" in measured
    assert after == {name: value for name, value in before.items() if name in after}


def test_two_results_of_one_radius_that_disagree_are_neither(run: Run) -> None:
    rho = 0.05
    measure_sharpness(run, "aaa", views=["mixed"], subset=40, rho=rho)
    alone = known(run)[f"sam@{rho:g}/mixed"]
    assert math.isfinite(alone)
    measure_sharpness(run, "bbb", views=["mixed"], subset=60, rho=rho)
    assert f"sam@{rho:g}/mixed" not in known(run)


def test_a_diagnosis_of_one_epoch_is_no_course_of_training(run: Run) -> None:
    before = known(run)
    measure_diagnostics(run, epochs=[4])
    assert known(run) == before
    measure_diagnostics(run, "both", epochs=[2, 4])
    assert "cos_clean_noise" in known(run)


def rows(seeds: int = 3) -> list[dict[str, object]]:
    arms = [("sgd", "sgd", 0.0, 0.6, {}), ("gce", "sgd", 0.0, 0.9, {"loss": "gce:0.7"}),
            ("sam", "sam", 0.2, 0.7, {"rho": 0.2}), ("sam-gce", "sam", 0.1, 0.95, {"rho": 0.1, "loss": "gce:0.7"}),
            ("ncsam", "ncsam", 0.1, 0.72, {})]  # fmt: skip
    return [
        {"name": f"{arm}-{seed}", "arm": arm, "optimizer": optimizer, "options": options, "rate": 0.4, "seed": seed,
         "noise": "symmetric", "test_accuracy": accuracy + seed / 1000, "perturbation_norm": norm, "memorisation": 0.5}
        for seed in range(seeds) for arm, optimizer, norm, accuracy, options in arms
    ]  # fmt: skip


def test_rivals_are_not_the_sgd_that_the_line_of_sam_begins_with() -> None:
    (study,) = studies(table_of(rows()))
    found = radius_control(study)
    excess = dict(zip(found.arms.tolist(), found.excess.tolist(), strict=True))
    assert excess["ncsam"] == pytest.approx(0.72 - (0.6 + 0.7) / 2)
    assert excess["sgd"] == pytest.approx(0.0)
    assert family_of("sgd", {"loss": "smooth:0.1"}) == "label smoothing"
    assert family_of("sgd", {"mixup": 1.0}) == "mixup"


def test_the_row_of_a_run_says_which_loss_it_minimised(tmp_path: Path) -> None:
    run = train_run(TrainConfig(optimizer="sgd", train_samples=150, epochs=1, loss="gce:0.7"), tmp_path / "gce.h5")
    assert row_of(run)["options"] == {"loss": "gce:0.7"}


def test_arms_tuned_under_one_noise_are_tuned_under_every_other() -> None:
    reported = [
        {**row, "noise": kind, "name": f"{row['name']}-{kind}"} for row in rows() for kind in ("symmetric", "pair")
    ]
    tuning = [{**row, "role": "tuning", "name": f"tuning-{row['name']}", "seed": 100} for row in rows(1)[:1]]
    assert [study.tuned for study in studies(table_of([*reported, *tuning]))] == [{"sgd"}, {"sgd"}]
    own = [{**row, "role": "tuning", "noise": "pair", "name": f"t-{row['name']}"} for row in rows(1)[2:3]]
    assert [study.tuned for study in studies(table_of([*reported, *tuning, *own]))] == [{"sgd"}, {"sam"}]


def test_a_diverged_training_has_no_accuracy(tmp_path: Path) -> None:
    config = TrainConfig(optimizer="sgd", train_samples=150, epochs=2, lr=1e9, noise="symmetric:0.4", val_fraction=0.2)
    found = endpoints_of(train_run(config, tmp_path / "diverged.h5"))
    for name in ("test_accuracy", "memorisation", "balanced_accuracy", "drop", "mean_drop"):
        assert math.isnan(found[name]), name


def test_outputs_that_are_not_finite_predict_nothing() -> None:
    outputs = torch.tensor([[1.0, 2.0], [math.nan, 0.0], [math.inf, 0.0], [-math.inf, 0.0], [-math.inf, -math.inf]])
    confusion = confusion_matrix(outputs, torch.tensor([1, 0, 0, 1, 1]))
    assert confusion.tolist() == [[0, 0], [0, 2]]
    assert np.isnan(class_accuracy(confusion)[0])


def test_a_candidate_that_diverged_is_not_chosen() -> None:
    nan = math.nan
    trials = [Trial({"lr": 0.1}, (0.5, 0.6)), Trial({"lr": 1.0}, (0.4, 0.5)), Trial({"lr": 10.0}, (nan, 0.9))]
    assert best_of(trials) == trials[:1]
    assert by_rule(trials).candidate == {"lr": 0.1}
    with pytest.raises(ValueError, match="all 1 candidates diverged"):
        best_of(trials[2:])
    assert choose([], lambda cell: nan) == []
