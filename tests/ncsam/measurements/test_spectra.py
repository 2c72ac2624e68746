"""Spectra and sharpness of a run: warm starts that resume bitwise, splits that add up, and all of it on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from torch import nn

import landscape
from landscape import store
from landscape.records import Status
from ncsam import Run
from ncsam.measurements import measure_sharpness, measure_spectrum
from ncsam.measurements.spectrum_extras import gradients
from ncsam.measurements.warm_start import WarmStart
from ncsam.records import SharpnessTable, Spectrum, density_at, eigenpairs_at, layers_at, split_at
from ncsam.runs.train import train_run
from tests.ncsam.conftest import CONFIG
from tests.reference import flat

SMALL: dict[str, Any] = {"params": ["classifier"], "k": 2, "trace_matvecs": 2, "tol": 1e-2}
TRACED = dataclasses.replace(CONFIG, epochs=4, checkpoints=(1, 2, 3), train_samples=150)


class Stop(Exception):
    """Stands for whatever ends a process in the middle."""


def stop_after(count: int) -> Any:
    def progress(rows: Iterable[int]) -> Iterator[int]:
        for done, row in enumerate(rows):
            if done == count:
                raise Stop
            yield row

    return progress


def same(a: Spectrum | SharpnessTable, b: Spectrum | SharpnessTable) -> None:
    for field in dataclasses.fields(a):
        if field.name != "seconds":
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traced") / "run.h5"
    train_run(TRACED, path)
    return path


@pytest.fixture
def run(traced: Path, tmp_path: Path) -> Run:
    (tmp_path / "run.h5").write_bytes(traced.read_bytes())
    return Run(tmp_path / "run.h5")


def test_a_basis_of_few_vectors_finds_the_same(run: Run) -> None:
    settings = {**SMALL, "trace_matvecs": 0, "tol": 1e-6, "dtype": "float64"}
    free = measure_spectrum(run, "free", views=["mixed"], **settings)
    size = free.num_parameters
    assert size is not None
    few = measure_spectrum(run, "few", views=["mixed"], basis_bytes=8 * size * 6, **settings)
    assert few.products is not None
    assert free.products is not None
    assert few.products.sum() > free.products.sum()  # it had to start anew
    assert (few.basis_bytes, free.basis_bytes) == (48 * size, None)
    np.testing.assert_allclose(few.values, free.values, atol=float(few.residuals.max() + free.residuals.max()))
    with pytest.raises(ValueError, match="basis_bytes is 8, expected at least"):
        measure_spectrum(run, "none", views=["mixed"], basis_bytes=8, **settings)
    assert not list(run.path.parent.glob("*.part"))


def test_warm_starts_resume_bitwise_whatever_was_left(run: Run) -> None:
    asked = {**SMALL, "views": ["mixed", "noisy_part"], "epochs": run.epochs}
    whole = measure_spectrum(run, "whole", **asked)
    assert whole.warm_start
    assert np.isnan(whole.previous_cosines[0]).all()
    assert (whole.previous_cosines[1:] <= 1 + 1e-6).all()
    for stop, lost in [(1, ""), (7, ""), (5, "the files"), (6, "half a file")]:
        resumed_bitwise(run, asked, whole, stop, lost)


def resumed_bitwise(run: Run, asked: dict[str, Any], whole: Spectrum, stop: int, lost: str) -> None:
    with pytest.raises(Stop):
        measure_spectrum(run, "parts", **asked, progress=stop_after(stop), overwrite=True)
    left = sorted(run.path.parent.glob("*.vectors"))
    assert len(left) == min(stop, 2)
    if lost == "half a file":
        left[0].write_bytes(left[0].read_bytes()[:-5])
    for path in left if lost == "the files" else []:
        path.unlink()
    same(whole, measure_spectrum(run, "parts", **asked, resume=True))
    assert {p.name for p in run.path.parent.iterdir()} == {"run.h5"}


def test_a_warm_start_finds_the_same_eigenvalues_as_a_cold_one(run: Run) -> None:
    asked = {**SMALL, "views": ["mixed"], "epochs": run.epochs, "tol": 1e-6, "dtype": "float64"}
    warm, cold = measure_spectrum(run, "warm", **asked), measure_spectrum(run, "cold", **asked, warm_start=False)
    np.testing.assert_allclose(warm.values, cold.values, rtol=1e-9)
    assert cold.previous_cosines is None
    assert not cold.warm_start


def test_a_timed_choice_is_kept_when_resumed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {**SMALL, "views": ["mixed", "noisy_part"]}
    whole = measure_spectrum(run, "whole", **asked, strategy="split")
    # A choice the clock might not make again: resuming must not ask it.
    monkeypatch.setattr(
        "landscape.curvature.strategies._seconds", lambda product, v: float(product.__class__.__name__ != "KeptProduct")
    )
    with pytest.raises(Stop):
        measure_spectrum(run, "parts", **asked, autotune=True, progress=stop_after(1))
    monkeypatch.setattr("landscape.curvature.strategies._seconds", None)
    resumed = measure_spectrum(run, "parts", **asked, autotune=True, resume=True)
    assert resumed.strategies.tolist() == [["split", "split"]]
    same(whole, resumed)
    with pytest.raises(ValueError, match="autotune chooses the strategy"):
        measure_spectrum(run, "both", **asked, autotune=True, strategy="split")


def test_vectors_of_other_work_or_of_a_later_checkpoint_are_not_used(tmp_path: Path) -> None:
    found: list[tuple[int, bool]] = []

    def find(index: int, view: str, start: torch.Tensor | None) -> torch.Tensor:
        found.append((index, start is not None))
        return torch.full((3, 1), float(index))

    part = tmp_path / "run.h5.part"
    first = WarmStart(part, {"seed": 0}, find)
    assert first.start(0, "mixed") is None
    first.keep(1, "mixed", torch.full((3, 1), 7.0))
    first.save("mixed")
    again = WarmStart(part, {"seed": 0}, find)
    assert torch.equal(again.start(2, "mixed"), torch.full((3, 1), 7.0))
    assert not found
    again.start(4, "mixed")  # from the checkpoint that is known
    assert found == [(2, True), (3, True)]
    found.clear()
    again.start(1, "mixed")  # a row to be computed again, before the one that is known
    WarmStart(part, {"seed": 1}, find).start(2, "mixed")
    assert found == [(0, False), (0, False), (1, True)]
    again.discard(["mixed"])
    assert not list(tmp_path.iterdir())


def test_the_split_adds_up_and_is_the_curvature_of_the_parts(run: Run) -> None:
    s = measure_spectrum(run, views=["mixed", "test"], k=3, trace_matvecs=0, split=True, vectors=True, dtype="float64")
    alpha = run.labels.flipped[~run.labels.held_out].mean()
    np.testing.assert_allclose(s.shares, [1 - alpha, alpha])
    np.testing.assert_allclose(s.split[0, 0] @ s.shares, s.values[0, 0], rtol=1e-9)
    assert np.abs(s.split_mismatch[0, 0]).max() < 1e-9 * s.values[0, 0].max()
    assert np.isnan(s.split_mismatch[0, 1]).all()
    objective = run.objective(views=["mixed", "noisy_part", "test"], dtype=torch.float64)
    H = landscape.HessianOperator(objective.view("noisy_part"))
    for j in range(2):
        V = s.vectors[0, j]
        np.testing.assert_allclose(s.split[0, j, :, 1], (V * (H @ V)).sum(0), rtol=1e-9)
    split = split_at(s, 4, "mixed")
    assert split is not None
    np.testing.assert_allclose(split.contributions.sum(0), s.values[0, 0], rtol=1e-9)
    pairs = eigenpairs_at(s, 4, "test")
    residuals = np.linalg.norm(
        landscape.HessianOperator(objective.view("test")) @ pairs.vectors - pairs.vectors * pairs.values, axis=0
    )
    np.testing.assert_allclose(residuals, pairs.residuals, rtol=1e-6, atol=1e-12)


def test_gradients_are_those_of_the_parts_and_the_cosines_follow(run: Run) -> None:
    objective = run.objective(views=["mixed", "clean_part", "noisy_part"], dtype=torch.float64)
    found = gradients(run, objective, seed=4)
    model, dataset = run.model(dtype=torch.float64), run.problem.dataset
    for name, rows in (("g_clean", ~run.labels.flipped), ("g_noise", run.labels.flipped)):
        rows = rows & ~run.labels.held_out
        x, y = dataset.prepare(dataset.train_x[rows]).double(), torch.from_numpy(run.labels.observed[rows])
        plain = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
        torch.testing.assert_close(found[name], flat(plain), rtol=1e-9, atol=1e-14)
    last = gradients(run, objective.restricted("classifier"), seed=4)
    assert all(torch.allclose(last[n], g[-len(last[n]) :]) for n, g in found.items())
    s = measure_spectrum(run, views=["mixed"], k=2, trace_matvecs=0, split=True, vectors=True, dtype="float64", seed=4)
    for d, g in enumerate(found.values()):
        expected = np.abs(s.vectors[0, 0].T @ (g / g.norm()).numpy())
        np.testing.assert_allclose(s.cosines[0, 0, :, d], expected, rtol=1e-9)
    np.testing.assert_allclose(s.captured[0, 0], (s.cosines[0, 0] ** 2).sum(0), rtol=1e-12)


def test_everything_at_once_is_stored_verified_and_read_back(run: Run) -> None:
    s = measure_spectrum(
        run, views=["mixed", "test"], epochs=[1, 4], k=2, which="both", trace_matvecs=6, density_steps=8,
        per_layer=True, split=True, vectors=True, tol=1e-2,
    )  # fmt: skip
    with store.open(run.path) as file:
        stored = file.record("hessian/default")
    assert isinstance(stored, Spectrum)
    for field in dataclasses.fields(s):
        np.testing.assert_array_equal(getattr(stored, field.name), getattr(s, field.name), err_msg=field.name)
    assert store.verify(run.path) == []
    K = run.objective().num_parameters
    assert s.num_parameters == K
    assert s.vectors.shape == (2, 2, K, 4)
    assert s.vectors.dtype == np.float32
    assert (s.values[..., :2].min(-1) > s.values[..., 2:].max(-1)).all()
    assert (s.products > s.matvecs).all()
    assert (s.seconds > 0).all()
    layers = layers_at(s, 4, "test")
    assert layers is not None
    assert layers.layers.tolist() == list(run.objective().layers())
    assert layers.sizes.sum() == K
    assert (s.layer_values.max(-1) <= s.values[..., 0] * (1 + 1e-3)).all()
    density = density_at(s, 1, "mixed")
    assert density is not None
    assert density.weights.sum(1) + len(density.outliers) / K == pytest.approx(1)
    assert trapezoid(density.density, density.grid) == pytest.approx(1, abs=1e-3)
    with pytest.raises(KeyError, match="no view 'val' at epoch 4; there are mixed, test at"):
        eigenpairs_at(s, 4, "val")


def test_without_wrong_labels_the_split_is_all_clean(tmp_path: Path) -> None:
    run = train_run(dataclasses.replace(TRACED, noise="symmetric:0", epochs=1, checkpoints=()), tmp_path / "clean.h5")
    s = measure_spectrum(run, views=["mixed", "noisy_part"], split=True, per_layer=True, density_steps=4, **SMALL)
    assert s.status.tolist() == [[Status.OK, Status.EMPTY]]
    assert s.shares.tolist() == [1.0, 0.0]
    np.testing.assert_allclose(s.split[0, 0, :, 0], s.values[0, 0], rtol=1e-4)
    assert np.isnan(s.split[..., 1]).all()
    assert np.isnan(s.cosines[0, 0, :, 1]).all()
    split = split_at(s, 1, "mixed")
    assert split is not None
    assert split.parts.tolist() == ["clean_part"]
    assert split_at(s, 1, "noisy_part") is layers_at(s, 1, "noisy_part") is density_at(s, 1, "noisy_part") is None


def test_sharpness_of_every_kind_resumes_bitwise_and_is_that_of_the_library(run: Run) -> None:
    asked: dict[str, Any] = {
        "views": ["mixed", "test"], "epochs": [2], "sigma": 0.01, "adaptive_sigma": 0.1, "keskar": 1e-3,
        "steps": 2, "restarts": 1, "samples": 2, "normalize_logits": True, "params": ["classifier"], "seed": 5,
    }  # fmt: skip
    whole = measure_sharpness(run, "whole", **asked)
    with pytest.raises(Stop):
        measure_sharpness(run, "parts", **asked, progress=stop_after(1))
    same(whole, measure_sharpness(run, "parts", **asked, resume=True))
    assert store.verify(run.path) == []
    objective = run.objective(2, views=["test"]).restricted("classifier")
    objective = landscape.with_normalized_logits(objective)
    found = landscape.adaptive_sharpness(objective, 0.5, steps=2, restarts=1, seed=5)
    assert whole.adaptive[0, 1] == found.value
    np.testing.assert_array_equal(whole.adaptive_rises[0, 1], found.rises)
    average = landscape.average_sharpness(objective, 0.1, num_samples=2, seed=5, adaptive=True)
    assert whole.adaptive_average[0, 1] == average.value
    assert whole.keskar[0, 1] == landscape.keskar_sharpness(objective, 1e-3, restarts=1, seed=5).value


def test_files_from_before_the_new_fields_still_load(run: Run, tmp_path: Path) -> None:
    old_spectrum = ("epochs", "views", "values", "residuals", "converged", "matvecs", "weight_norm", "status")
    old_spectrum += ("which", "tol", "trace_matvecs", "seed", "dtype", "trace", "trace_stderr")
    s = measure_spectrum(run, **SMALL)
    bare = Spectrum(**{name: getattr(s, name) for name in old_spectrum})
    bare.save(tmp_path / "old.h5")
    assert store.verify(tmp_path / "old.h5") == []
    found = store.load(tmp_path / "old.h5")
    assert isinstance(found, Spectrum)
    assert found.split is None
    assert eigenpairs_at(found, 4, "test").values.shape == (2,)
    assert density_at(found, 4, "test") is layers_at(found, 4, "test") is split_at(found, 4, "test") is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"trace_matvecs": 1}, "trace_matvecs is 1"),
        ({"k": 10**6}, "1000000 eigenpairs asked for, expected 1…"),
        ({"density_steps": -1}, "density of -1 steps"),
        ({"params": ["conv*"]}, r"'conv\*' matches no trainable parameter"),
        ({"views": ["mixed", "mixed"]}, "named twice"),
        ({"epochs": [4, "last"]}, "named twice"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_file_is_made(run: Run, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_spectrum(run, **{**SMALL, **asked})
    assert {p.name for p in run.path.parent.iterdir()} == {"run.h5"}
