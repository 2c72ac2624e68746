"""Gradient diagnostics against plain autograd, and the guarantee that looking changes nothing."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landscape import store
from ncsam import NCSAM, Run, Trainer
from ncsam.measurements.diagnostics import measure_diagnostics
from ncsam.optimizers.noise_gradient import temporary_labels
from ncsam.runs.train import train_run
from ncsam.statistics import t_interval
from ncsam.study.endpoints import endpoints_of
from ncsam.training.gradient_diagnostics import QUANTITIES, diagnose_batch, probe_of
from tests.ncsam.conftest import CONFIG
from tests.reference import flat

CE = nn.functional.cross_entropy
ALL = {"flip_ratio": 1.0, "rho": 0.1, "kappa": 0.3}  # every sample is picked, so that nothing is left to chance


def problem(n: int = 24) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    true = torch.arange(n) % 3
    observed = true.clone()
    observed[: n // 3] = (observed[: n // 3] + 1) % 3
    return model, torch.randn(n, 4, dtype=torch.float64), observed, true


def gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return flat(torch.autograd.grad(CE(model(x), y), list(model.parameters())))


def named(values: np.ndarray) -> dict[str, float]:
    return dict(zip(QUANTITIES, values.tolist(), strict=True))


def look(model: nn.Module, x: torch.Tensor, observed: torch.Tensor, true: torch.Tensor, **kwargs: object) -> dict:
    given = {"probe": probe_of("ncsam", ALL)[0], "progress": 0.4, "seed": [0], **kwargs}
    return named(diagnose_batch(model, CE, x, observed, true, **given))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_every_quantity_against_plain_autograd() -> None:
    model, x, observed, true = problem()
    found = look(model, x, observed, true)
    wrong = observed != true
    g, truth = gradient(model, x, observed), gradient(model, x, true)
    clean, noise = gradient(model, x[~wrong], observed[~wrong]), gradient(model, x[wrong], observed[wrong])
    temporary = temporary_labels(model(x), observed)
    star = gradient(model, x, temporary)
    s = 0.3 * 2 * 0.4**2 * (3 - 2 * 0.4)
    epsilon = {sign: 0.1 * g / g.norm() + sign * s * star for sign in (1, -1)}
    kept = min(1.0, 0.1 / float(epsilon[1].norm()))
    expected = {
        "noise_share": 1 / 3, "cos_clean_noise": cosine(clean, noise), "cos_star_noise": cosine(star, noise),
        "cos_random_noise": cosine(star, noise), "cos_star_clean": cosine(star, clean),
        "cos_star_true": cosine(star, truth), "cos_sam_true": cosine(g, truth),
        "cos_ncsam_true": cosine(epsilon[1], truth), "cos_mirrored_true": cosine(epsilon[-1], truth),
        "cos_ncsam_sam": cosine(epsilon[1], g), "cos_sam_noise": cosine(g, noise),
        "cos_ncsam_noise": cosine(epsilon[1], noise), "norm_clean": float(clean.norm()),
        "norm_noise": float(noise.norm()), "norm_star": float(star.norm()),
        "norm_ncsam": float(epsilon[1].norm()) * kept, "relative_compensation": s * float(star.norm()) / 0.1,
        "kept": kept, "pick_precision": 1 / 3, "pick_lift": 1.0,
        "flips_to_true": float((temporary == true)[wrong].double().mean()),
        "random_flips_to_true": float((temporary == true)[wrong].double().mean()),
        "cos_true_clean": cosine(truth, clean), "cos_sam_clean": cosine(g, clean),
        "cos_ncsam_clean": cosine(epsilon[1], clean), "cos_mirrored_clean": cosine(epsilon[-1], clean),
    }  # fmt: skip
    assert set(expected) == set(QUANTITIES) - {"cos_noise_halves", "cos_clean_halves"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_the_perturbation_is_the_one_that_ncsam_takes() -> None:
    model, x, observed, true = problem()
    found = look(model, x, observed, true)
    info = NCSAM(model, torch.optim.SGD(model.parameters(), lr=0.1), **ALL).step(x, observed, CE, progress=0.4)
    assert found["norm_ncsam"] == pytest.approx(info.perturbation_norm, rel=1e-9)
    assert found["cos_ncsam_sam"] == pytest.approx(info.cosine, rel=1e-9)
    assert found["relative_compensation"] == pytest.approx(info.relative_compensation, rel=1e-9)
    assert found["kept"] == pytest.approx(info.kept, rel=1e-9)


def test_two_halves_of_equal_samples_point_alike() -> None:
    model, x, observed, true = problem(12)
    x, observed, true = (t[:1].expand(12, *t.shape[1:]).clone() for t in (x, observed, true))
    assert look(model, x, observed, true)["cos_noise_halves"] == pytest.approx(1.0)
    assert look(model, x, true, true)["cos_clean_halves"] == pytest.approx(1.0)


def test_without_wrong_labels_there_is_no_noise_gradient_and_without_clean_ones_no_clean() -> None:
    model, x, _, true = problem()
    found = look(model, x, true, true)
    assert found["noise_share"] == 0
    assert found["cos_sam_true"] == pytest.approx(1.0)
    assert all(math.isnan(found[n]) for n in ("cos_clean_noise", "cos_star_noise", "norm_noise", "pick_lift"))
    assert found["pick_precision"] == 0
    found = look(model, x, (true + 1) % 3, true)
    assert found["noise_share"] == 1
    assert all(math.isnan(found[n]) for n in ("cos_clean_noise", "norm_clean"))
    assert found["cos_sam_noise"] == pytest.approx(1.0)


def test_micro_batches_give_the_whole_batch() -> None:
    model, x, observed, true = problem()
    one, three = (look(model, x, observed, true, microbatches=m) for m in (1, 3))
    for name in QUANTITIES:
        assert three[name] == pytest.approx(one[name], rel=1e-9, nan_ok=True), name


@pytest.mark.parametrize("broken", [False, True])
def test_looking_changes_nothing(broken: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, random = [m.training for m in model.modules()], torch.get_rng_state()
    y = torch.arange(12) % 3
    probe = probe_of("ncsam", {})[0]

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if broken:
            raise RuntimeError("on purpose")
        return CE(outputs, labels)

    arguments = (model, loss, torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), (y + 1) % 3, y)
    if broken:
        with pytest.raises(RuntimeError, match="on purpose"):
            diagnose_batch(*arguments, probe=probe, progress=1.0, seed=[0])
    else:
        one, other = (diagnose_batch(*arguments, probe=probe, progress=1.0, seed=[0]) for _ in range(2))
        np.testing.assert_array_equal(one, other)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


def test_at_checkpoints_of_a_run_with_intervals_over_batches(run: Run) -> None:
    found = measure_diagnostics(run, epochs=run.epochs, batches=3)
    with store.open(run.path) as file:
        stored = file.record("diagnostics/default")
    for field in dataclasses.fields(found):
        np.testing.assert_array_equal(getattr(stored, field.name), getattr(found, field.name))
    assert found.value.shape == (2, len(QUANTITIES), 3)
    index = found.quantities.tolist().index("cos_sam_true")
    interval = t_interval(found.value[1, index])
    assert (found.mean[1, index], found.low[1, index]) == pytest.approx((interval.mean, interval.low))
    flipped = run.labels.flipped[~run.labels.held_out]
    assert found.full[1, 0] == pytest.approx(flipped.mean())
    endpoints = endpoints_of(Run(run.path))
    assert endpoints["full/noise_share"] == pytest.approx(found.full[:, 0].mean())
    assert endpoints["cos_sam_true"] == pytest.approx(found.mean[:, index].mean())
    half = endpoints["cos_noise_halves"]
    assert endpoints["noise_ceiling"] == pytest.approx(2 * half / (1 + half))


def test_the_full_set_is_the_views_of_the_objective(run: Run) -> None:
    found = measure_diagnostics(run, batches=1)
    objective = run.objective()
    g = {view: objective.view(view).gradient() for view in ("mixed", "clean_part", "noisy_part", "true_labels")}
    full = named(found.full[0])
    assert full["cos_sam_true"] == pytest.approx(cosine(g["mixed"], g["true_labels"]), abs=1e-5)
    assert full["cos_clean_noise"] == pytest.approx(cosine(g["clean_part"], g["noisy_part"]), abs=1e-5)
    assert full["norm_noise"] == pytest.approx(float(g["noisy_part"].norm()), rel=1e-4)


def test_other_labels_on_the_checkpoints_of_a_clean_run(tmp_path: Path) -> None:
    clean = train_run(dataclasses.replace(CONFIG, noise="none", epochs=2, checkpoints=()), tmp_path / "clean.h5")
    found = measure_diagnostics(clean, "relabelled-40", batches=2, noise="symmetric:0.40")
    assert found.noise == "symmetric:0.40"
    assert found.full[0, 0] == pytest.approx(0.4, abs=0.05)
    endpoints = endpoints_of(Run(clean.path))
    assert -1 < endpoints["relabelled/symmetric:0.4/cos_sam_true"] < 1
    assert "cos_sam_true" not in endpoints
    with pytest.raises(ValueError, match="batches is 0"):
        measure_diagnostics(clean, batches=0)


LOOKING = dataclasses.replace(CONFIG, optimizer="ncsam", options={"rho": 0.05}, diagnose=2, diagnose_every=4, epochs=6)


@pytest.mark.filterwarnings("ignore:projection keeps")
def test_along_training_it_sees_what_the_checkpoints_show_and_disturbs_nothing(tmp_path: Path) -> None:
    config = dataclasses.replace(LOOKING, checkpoints=(4,))
    plain = train_run(dataclasses.replace(config, diagnose=0), tmp_path / "plain.h5")
    looked = train_run(config, tmp_path / "looked.h5")
    np.testing.assert_array_equal(plain.training.loss, looked.training.loss)
    before, after = plain.model().state_dict(), looked.model().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    along = looked.result("diagnostics/training")
    at = measure_diagnostics(looked, epochs=(4, 6), batches=2, full=False)
    assert along.epochs.tolist() == [4, 6]
    np.testing.assert_array_equal(along.value, at.value)
    assert "diagnostics/training" not in plain.names
    assert looked.attrs["diagnostics_seconds"] > 0


@pytest.mark.filterwarnings("ignore:projection keeps")
def test_a_resumed_training_has_seen_the_same(tmp_path: Path) -> None:
    whole, parts = Trainer(LOOKING), Trainer(LOOKING)
    list(whole.epochs())
    epochs = parts.epochs()
    for _ in range(5):
        next(epochs)
    again = Trainer(LOOKING)
    again.load_state_dict(parts.state_dict())
    list(again.epochs())
    one, other = whole.diagnostics(), again.diagnostics()
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.value, other.value)
