"""The training loop: paired, deterministic, resumable, and faithful to a bare PyTorch loop."""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ncsam import TrainConfig, Trainer, models
from ncsam.data import PadCropFlip
from ncsam.optimizers import ProjectionWarning
from ncsam.training.config import learning_rate_schedule
from ncsam.training.problem import VIEWS, Problem
from ncsam.training.samples import Samples

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


@pytest.mark.parametrize("noise", ["symmetric:0.4", "symmetric:1.0", "pair:0.3"])
def test_wrong_labels_are_memorised_corrected_or_neither(noise: str) -> None:
    trainer = trained(optimizer="sgd", noise=noise)
    problem, record = trainer.problem, trainer.record()
    flipped = problem.labels.flipped[problem.train]
    predicted = trainer.model.eval()(problem.inputs()).argmax(1).numpy()[flipped]
    assert record.corrected is not None
    assert record.corrected[-1] == (predicted == problem.true().numpy()[flipped]).mean()
    assert record.memorisation[-1] == pytest.approx((predicted == problem.observed().numpy()[flipped]).mean())
    assert (record.corrected + record.memorisation <= 1).all()


@pytest.mark.parametrize("base", ["adamw", "adam"])
def test_adam_as_base_equals_a_bare_loop_bitwise(base: str) -> None:
    settings = {"lr": 1e-3, "betas": (0.8, 0.99), "weight_decay": 0.01}
    trainer = trained(optimizer="sgd", base_optimizer=base, lr_schedule="constant", epochs=2, **settings)
    problem = trainer.problem
    x, y = problem.inputs(), problem.observed()
    model = models.build("mlp", (1, 8, 8), 10, seed=0)
    optimizer = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[base](model.parameters(), **settings)
    for epoch in (1, 2):
        order = torch.from_numpy(np.random.default_rng([0, epoch]).permutation(len(y)))
        for rows in order.split(SHORT.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    bare = np.concatenate([t.detach().numpy().reshape(-1) for t in model.state_dict().values()])
    assert np.array_equal(weights(trainer), bare)


@pytest.mark.parametrize("optimizer", ["sgd", "ncsam"])
def test_a_warm_up_of_sam_is_sam_with_a_radius_that_all_arms_share(optimizer: str) -> None:
    warm = trained(optimizer=optimizer, warmup=0.5, warmup_step="sam", warmup_rho=0.2)
    sam = trained(optimizer="sam", options={"rho": 0.2}, warmup=0.0)
    for name in ("running_loss", "perturbation_norm", "cosine", "loss", "accuracy"):
        np.testing.assert_array_equal(getattr(warm.record(), name)[:2], getattr(sam.record(), name)[:2])
    np.testing.assert_allclose(warm.record().perturbation_norm[:2], 0.2, rtol=1e-5)
    assert not np.isclose(warm.record().perturbation_norm[2:], 0.2).any()
    assert (warm.record().compensation_norm[:2] == 0).all()


def test_columns_of_the_compensation() -> None:
    options = {"rho": 0.1, "kappa": 0.2, "flip_ratio": 0.25, "project": False}
    record = trained(optimizer="ncsam", options=options, epochs=4, batch_size=100).record()
    assert record.relative_compensation is not None
    assert record.picked is not None
    np.testing.assert_allclose(record.relative_compensation, record.compensation_norm / 0.1, rtol=1e-12)
    assert record.relative_compensation[0] == record.picked[0] == 0  # the warm-up
    assert (record.relative_compensation[1:] > 0).all()
    n = len(trained(optimizer="sgd", epochs=1).problem.train)
    assert record.picked[-1] == (n // 100 * 25 + int(0.25 * (n % 100))) / n
    sgd = trained(optimizer="sgd").record()
    assert np.isnan(sgd.relative_compensation).all()
    assert (sgd.picked == 0).all()


def test_without_noise_there_is_no_memorisation() -> None:
    record = trained(noise="symmetric:0.0", optimizer="sgd").record()
    assert np.isnan(record.memorisation).all()
    assert np.isnan(record.corrected).all()


def test_the_loss_trained_on_is_not_the_loss_reported() -> None:
    trainer = trained(optimizer="sgd", loss="gce:0.7")
    z, y = trainer.model.eval()(trainer.problem.inputs()), trainer.problem.observed()
    record = trainer.record()
    assert record.loss[-1, 0] == pytest.approx(nn.functional.cross_entropy(z, y).item(), rel=1e-5)
    assert record.running_loss[-1] < (1 / 0.7) < record.loss[-1, 0]
    assert not np.array_equal(weights(trainer), weights(trained(optimizer="sgd")))


@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
@pytest.mark.parametrize("loss", ["smooth:0.1", "gce:0.7", "sce:0.1,1.0"])
def test_every_loss_learns_digits(loss: str, optimizer: str) -> None:
    record = trained(optimizer=optimizer, loss=loss, noise="symmetric:0.2", epochs=10, batch_size=32).record()
    assert record.of_view("test")[-1] > 0.8


def test_learning_rates_are_those_of_the_schedule() -> None:
    lr = {
        spec: trained(optimizer="sgd", lr_schedule=spec, epochs=8, val_fraction=0.0, train_samples=20).record().lr
        / 0.05
        for spec in ("constant", "cosine", "step:0.1@0.5,0.75", "step:0.5@0.29")
    }
    np.testing.assert_allclose(lr["constant"], 1)
    np.testing.assert_allclose(lr["cosine"], [(1 + math.cos(math.pi * e / 8)) / 2 for e in range(8)])
    np.testing.assert_allclose(lr["step:0.1@0.5,0.75"], [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    np.testing.assert_allclose(lr["step:0.5@0.29"], [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5])


def test_a_share_of_the_epochs_means_whole_ones() -> None:
    step = learning_rate_schedule("step:0.5@0.29")
    assert [step(epoch, 100) for epoch in (29, 30)] == [1.0, 0.5]
    assert dataclasses.replace(SHORT, warmup=0.29, epochs=100).warmup_epochs == 29


def test_the_first_samples_are_those_of_the_data_set() -> None:
    few, all_of_them = (Problem.of(dataclasses.replace(SHORT, train_samples=n)) for n in (100, None))
    assert len(few.train) + len(few.val) == len(few.labels.true) == 100
    assert torch.equal(few.dataset.train_x, all_of_them.dataset.train_x[:100])
    assert torch.equal(few.dataset.test_x, all_of_them.dataset.test_x)
    few = Problem.of(dataclasses.replace(SHORT, test_samples=100))
    assert torch.equal(few.dataset.test_x, all_of_them.dataset.test_x[:100])
    assert len(few.dataset.test_y) == 100
    assert torch.equal(few.dataset.train_x, all_of_them.dataset.train_x)


def test_time_is_kept_apart_for_steps_and_evaluation() -> None:
    started = time.perf_counter()
    trainer = trained(optimizer="sgd")
    assert all(spent > 0 for spent in trainer.seconds.values())
    assert sum(trainer.seconds.values()) < time.perf_counter() - started


def test_bfloat16_steps_leave_float32_weights_near_those_of_full_precision() -> None:
    low, full = (trained(precision=p, optimizer="ncsam", epochs=2) for p in ("bf16", "fp32"))
    assert all(a.dtype != torch.bfloat16 for a in low.model.state_dict().values())
    difference = np.linalg.norm(weights(low) - weights(full)) / np.linalg.norm(weights(full))
    assert 0 < difference < 0.1  # bfloat16 has eps = 2⁻⁷, and every step rounds anew
    assert not torch.is_autocast_enabled("cpu")


def test_samples_are_augmented_by_epoch_and_place_in_the_data_set_alone() -> None:
    problem = Problem.of(SHORT)
    make = functools.partial(Samples, problem, seed=3, augment=True)

    def by_label_order(samples: Samples, epoch: int) -> torch.Tensor:
        order = np.random.default_rng([3, epoch]).permutation(len(samples))
        x = torch.cat([batch.x for batch in samples.batches(epoch)])
        return x[torch.from_numpy(np.argsort(order))]

    first = by_label_order(make(batch_size=128), 1)
    assert torch.equal(first, by_label_order(make(batch_size=7), 1))
    assert torch.equal(first, by_label_order(make(batch_size=64, resident=False), 1))
    assert not torch.equal(first, by_label_order(make(batch_size=128), 2))
    augment = PadCropFlip(len(problem.dataset.train_y), pad=1, seed=3)
    raw = problem.dataset.train_x[problem.train]
    assert torch.equal(first, augment(raw, torch.from_numpy(problem.train), 1))


def test_batches_hold_labels_that_belong_to_their_inputs() -> None:
    problem = Problem.of(SHORT)
    for batch in Samples(problem, batch_size=100, seed=0).batches(1):
        match = (batch.x[:, None] == problem.inputs()[None]).flatten(2).all(2)
        assert bool((match.any(1)).all())
        found = match.float().argmax(1)
        assert torch.equal(batch.true, problem.true()[found])
        assert torch.equal(batch.observed, problem.observed()[found])


def test_pixels_are_normalised_batch_by_batch_and_evaluated_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"{part}_x": rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8) for part in ("train", "test")}
    arrays |= {f"{part}_y": rng.integers(0, 3, 60) for part in ("train", "test")}
    np.savez(tmp_path / "pixels.npz", **arrays)
    trainer = trained(data=f"npz:{tmp_path / 'pixels.npz'}", optimizer="sgd", model="cnn", augment=True, epochs=2)
    dataset = trainer.problem.dataset
    assert dataset.train_x.dtype == torch.uint8
    batch = next(iter(Samples(trainer.problem, batch_size=5, seed=0).batches(1)))
    rows = trainer.problem.train[np.random.default_rng([0, 1]).permutation(len(trainer.problem.train))[:5]]
    assert torch.equal(batch.x, dataset.prepare(dataset.train_x[rows]))
    z = trainer.model.eval()(dataset.prepare(dataset.test_x))
    expected = nn.functional.cross_entropy(z, dataset.test_y).item()
    assert trainer.record().loss[-1, -1] == pytest.approx(expected, rel=1e-5)
    objective = trainer.problem.objective(trainer.model.double(), ("test",))  # analyses may want float64
    assert objective.loss() == pytest.approx(expected, rel=1e-5)


def test_only_images_are_augmented(tmp_path: Path) -> None:
    x, y = np.zeros((10, 4), np.float32), np.arange(10) % 2
    np.savez(tmp_path / "flat.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    with pytest.raises(ValueError, match=r"augmentation needs images .* shape \(4,\)"):
        Trainer(dataclasses.replace(SHORT, data=f"npz:{tmp_path / 'flat.npz'}", augment=True))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, g++ is not installed")
@pytest.mark.parametrize("optimizer", ["sgd", "sam", "ncsam", "clean-direction"])
@pytest.mark.filterwarnings("default")  # torch's own
def test_a_compiled_model_trains_to_nearly_the_same_weights(optimizer: str) -> None:
    compiled, plain = (trained(optimizer=optimizer, compile=c, model="cnn", epochs=4, lr=0.01) for c in (True, False))
    np.testing.assert_allclose(compiled.record().loss, plain.record().loss, rtol=1e-3)
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()


def test_compile_and_a_look_inside_the_model_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    with pytest.raises(ValueError, match="ncsam-released looks inside the model, which compile does not allow"):
        Trainer(dataclasses.replace(SHORT, optimizer="ncsam-released", compile=True))


def test_without_a_compiler_compile_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> object:
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        ValueError, match=r"does not work here \(RuntimeError: no compiler\); leave --compile out"
    ) as error:
        Trainer(dataclasses.replace(SHORT, compile=True))
    assert "\n" not in str(error.value)


def test_a_cnn_with_batchnorm_trains() -> None:
    record = trained(model="cnn", optimizer="sam", noise="none", epochs=6).record()
    assert record.of_view("test")[-1] > 0.8


def test_without_a_validation_part_the_view_is_absent() -> None:
    assert "val" not in trained(val_fraction=0.0, optimizer="sgd").record().views


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0, expected 1…1000000"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"base_optimizer": "adamax"}, "base_optimizer is 'adamax', expected one of sgd, adamw, adam"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\), expected two numbers in \[0, 1\)"),
        ({"warmup_step": "ncsam"}, "warmup_step is 'ncsam', expected one of base, sam"),
        ({"warmup_rho": -1.0}, "warmup_rho is -1.0"),
        ({"warmup": 1.0}, r"warmup is 1.0, expected a fraction in \[0, 1\)"),
        ({"lr_schedule": "stairs"}, "expected cosine, constant or step:FACTOR@SHARE"),
        ({"lr_schedule": "step:0.1"}, "such as step:0.1@0.5,0.75"),
        ({"lr_schedule": "step:0.1@0.5,x"}, "such as step:0.1@0.5,0.75"),
        ({"lr_schedule": "step:2@0.5"}, "has the factor 2.0, expected 0 < factor ≤ 1"),
        (
            {"lr_schedule": "step:0.1@0.5,0.5"},
            r"lowers at 0.5,0.5, expected rising shares of the epochs within \(0, 1\)",
        ),
        ({"lr_schedule": "step:0.1@1"}, "expected rising shares"),
        ({"loss": "gce:2"}, "loss 'gce:2': q is 2.0"),
        ({"precision": "fp16"}, "precision is 'fp16', expected one of fp32, bf16"),
        ({"train_samples": 0}, "train_samples is 0, expected 1…2147483647"),
        ({"train_samples": 10**6}, "train_samples is 1000000, but digits has 1198 training samples"),
        ({"test_samples": 10**6}, "test_samples is 1000000, but digits has 599 test samples"),
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


@pytest.mark.parametrize("device", ["cudda", "meta", "cuda:99"])
def test_a_device_that_cannot_be_used_is_refused_in_one_line(device: str) -> None:
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used .*; torch finds here: cpu") as error:
        Trainer(SHORT, device=device)
    assert "\n" not in str(error.value)


def test_configuration_round_trips_and_names_unknown_keys() -> None:
    config = dataclasses.replace(SHORT, checkpoints=(1, 2), options={"rho": 0.1})
    assert TrainConfig.from_dict(config.to_dict()) == config
    newer = ("loss", "augment", "train_samples", "test_samples", "base_optimizer", "betas", "warmup_step", "warmup_rho")
    old = {key: value for key, value in config.to_dict().items() if key not in newer}
    assert TrainConfig.from_dict(old) == config  # a file written before these were there
    with pytest.raises(ValueError, match="unknown configuration key 'epoch', did you mean 'epochs'"):
        TrainConfig.from_dict({"epoch": 3})
