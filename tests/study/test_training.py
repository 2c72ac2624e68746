"""The training loop: paired, deterministic, resumable, and faithful to a bare PyTorch loop."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from ncsam import TrainConfig, Trainer, models
from ncsam.optimizer import ProjectionWarning
from ncsam.problem import VIEWS, Problem

SHORT = TrainConfig(epochs=4, noise="symmetric:0.4", weight_decay=0.0)


def trained(**changes: object) -> Trainer:
    trainer = Trainer(dataclasses.replace(SHORT, **changes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProjectionWarning)
        list(trainer.epochs())
    return trainer


def weights(trainer: Trainer) -> np.ndarray:
    return np.concatenate([a.reshape(-1) for a in trainer.checkpoints[trainer.config.epochs].values()])


def test_sgd_equals_a_bare_loop_bitwise() -> None:
    trainer = trained(optimizer="sgd")
    problem = Problem.of(SHORT)
    x, y = problem.inputs(), problem.observed()
    model = models.build("mlp", (1, 8, 8), 10, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=SHORT.lr, momentum=0.9, weight_decay=0.0)
    for epoch in range(1, 5):
        for group in optimizer.param_groups:
            group["lr"] = SHORT.lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / 4))
        order = torch.from_numpy(np.random.default_rng([0, epoch]).permutation(len(y)))
        for rows in order.split(SHORT.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    bare = np.concatenate([t.detach().numpy().reshape(-1) for t in model.state_dict().values()])
    assert np.array_equal(weights(trainer), bare)


@pytest.mark.parametrize("optimizer", ["sgd", "sam", "ncsam", "clean-direction", "matched"])
def test_same_seed_same_numbers_and_the_global_random_state_is_left_alone(optimizer: str) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    first, second = trained(optimizer=optimizer), trained(optimizer=optimizer)
    assert np.array_equal(weights(first), weights(second))
    for name, value in vars(first.record()).items():
        np.testing.assert_array_equal(value, getattr(second.record(), name))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
    assert not np.array_equal(
        weights(first),
        weights(Trainer(SHORT.with_seed(1)) and trained(optimizer="sgd", seeds=SHORT.with_seed(1).seeds)),
    )


@pytest.mark.parametrize("optimizer", ["sam", "ncsam"])
def test_a_resumed_run_is_bitwise_the_undisturbed_one(optimizer: str, tmp_path: object) -> None:
    config = dataclasses.replace(SHORT, optimizer=optimizer, checkpoints=(1, 3))
    whole = trained(optimizer=optimizer, checkpoints=(1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProjectionWarning)
        stopped = Trainer(config)
        epochs = stopped.epochs()
        next(epochs), next(epochs)
        path = f"{tmp_path}/state"
        torch.save(stopped.state_dict(), path)
        resumed = Trainer(config)
        resumed.load_state_dict(torch.load(path, weights_only=True))
        list(resumed.epochs())
    assert np.array_equal(weights(whole), weights(resumed))
    for name, value in vars(whole.record()).items():
        np.testing.assert_array_equal(value, getattr(resumed.record(), name))
    assert sorted(resumed.checkpoints) == [1, 3, 4]
    for epoch, arrays in whole.checkpoints.items():
        assert all(np.array_equal(a, resumed.checkpoints[epoch][n]) for n, a in arrays.items())


def test_arms_share_everything_but_the_perturbation() -> None:
    runs = [Trainer(dataclasses.replace(SHORT, optimizer=o, warmup=0.5)) for o in ("sgd", "sam", "ncsam")]
    for trainer in runs:
        next(epochs := trainer.epochs()), next(epochs)
    # Two of four epochs are the shared warm-up: split, noise, weights and order must agree to the bit.
    reference = runs[0].model.state_dict()
    for trainer in runs[1:]:
        assert all(torch.equal(v, reference[n]) for n, v in trainer.model.state_dict().items())


def test_rows_hold_what_was_seen() -> None:
    trainer = trained(optimizer="sam", options={"rho": 0.1}, epochs=8)
    record = trainer.record()
    assert record.views.tolist() == list(VIEWS)
    assert record.loss.shape == record.accuracy.shape == (8, 6)
    assert record.perturbation_norm[:2].tolist() == [0, 0]  # a quarter is warm-up
    np.testing.assert_allclose(record.perturbation_norm[2:], 0.1, rtol=1e-5)
    flipped = trainer.problem.labels.flipped[trainer.problem.train]
    predicted = trainer.model.eval()(trainer.problem.inputs()).argmax(1).numpy()
    observed = trainer.problem.observed().numpy()
    assert record.memorisation[-1] == pytest.approx((predicted == observed)[flipped].mean())
    assert record.of_view("true_labels")[-1] == pytest.approx((predicted == trainer.problem.true().numpy()).mean())
    assert record.lr[0] == 0.05
    assert (np.diff(record.lr) < 0).all()


def test_without_noise_there_is_no_memorisation() -> None:
    assert np.isnan(trained(noise="symmetric:0.0", optimizer="sgd").record().memorisation).all()


def test_a_cnn_with_batchnorm_trains() -> None:
    record = trained(model="cnn", optimizer="sam", noise="none", epochs=6).record()
    assert record.of_view("test")[-1] > 0.8


def test_without_a_validation_part_the_view_is_absent() -> None:
    assert "val" not in trained(val_fraction=0.0, optimizer="sgd").record().views


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"warmup": 1.0}, r"warmup is 1.0, expected a fraction in \[0, 1\)"),
        ({"lr_schedule": "step"}, "expected one of cosine, constant"),
        ({"checkpoints": (5,)}, "checkpoint epoch is 5, expected 1…4"),
        ({"seeds": {"split": 0}}, "expected split, noise"),
        ({"optimizer": "nscam"}, "did you mean 'ncsam'"),
        ({"model": "resnet99"}, "resnet"),
        ({"noise": "symmetric:1.7"}, "1.7"),
        ({"data": "digitz"}, "did you mean"),
        ({"options": {"rhoo": 1}}, "did you mean 'rho'"),
    ],
)
def test_bad_configurations_are_refused_in_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Trainer(dataclasses.replace(SHORT, **changes))
    assert "\n" not in str(error.value)


def test_configuration_round_trips_and_names_unknown_keys() -> None:
    config = dataclasses.replace(SHORT, checkpoints=(1, 2), options={"rho": 0.1})
    assert TrainConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown configuration key 'epoch'; did you mean 'epochs'"):
        TrainConfig.from_dict({"epoch": 3})
