"""The run file: what was trained comes back, and measurements on it resume bitwise."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import h5py
import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn

import landscape
from landscape import store
from landscape.store import StoreError
from ncsam import Run, Trainer
from ncsam.measurements import ANALYSIS_VIEWS, measure_line, measure_plane, measure_sharpness, measure_spectrum
from ncsam.records import Spectrum
from ncsam.runs.resume_state import state_path
from ncsam.runs.train import train_run
from tests.ncsam.conftest import CONFIG


class Stop(Exception):
    """Stands for whatever ends a process in the middle."""


def _before(method: Callable[..., object], hook: Callable[..., None]) -> Callable[..., object]:
    def both(*args: object, **kwargs: object) -> object:
        hook(*args)
        return method(*args, **kwargs)

    return both


def stop_after(count: int) -> object:
    def progress(rows: Iterable[int]) -> Iterator[int]:
        for done, row in enumerate(rows):
            if done == count:
                raise Stop
            yield row

    return progress


def test_the_file_gives_back_what_was_trained(run: Run) -> None:
    trainer = Trainer(CONFIG)
    list(trainer.epochs())
    assert run.config == CONFIG
    assert run.epochs == [2, 6]
    state = run.model().state_dict()
    assert all(torch.equal(state[n], t) for n, t in trainer.model.state_dict().items())
    np.testing.assert_array_equal(run.training.accuracy, trainer.record().accuracy)
    np.testing.assert_array_equal(run.labels.flipped, trainer.problem.labels.flipped)
    assert run.labels.realized_rate == pytest.approx(run.labels.flipped.mean())
    assert run.attrs["seeds"] == CONFIG.seeds
    assert run.attrs["versions"]["torch"] == torch.__version__


def test_the_objective_of_a_run_agrees_with_its_training_rows(run: Run) -> None:
    found = run.objective().evaluate()
    for i, view in enumerate(run.training.views):
        assert found.loss[view] == pytest.approx(run.training.loss[-1, i], rel=1e-6)
        assert found.metrics["accuracy"][view] == pytest.approx(run.training.accuracy[-1, i])


def test_spectrum_of_a_run_against_scipy_on_plain_tensors(run: Run) -> None:
    found = measure_spectrum(run, views=["noisy_part"], k=2, tol=1e-6, trace_matvecs=0, dtype="float64")
    flipped = run.labels.flipped & ~run.labels.held_out
    dataset = run.problem.dataset
    data = dataset.train_x[flipped], torch.from_numpy(run.labels.observed[flipped])
    plain = landscape.Objective(run.model(dtype=torch.float64), nn.CrossEntropyLoss(), data, batch_size=100)
    operator = landscape.HessianOperator(plain).to_scipy()
    values = eigsh(operator, k=2, which="LA", tol=1e-6, v0=np.ones(operator.shape[0]), return_eigenvectors=False)
    np.testing.assert_allclose(found.values[0, 0], values[::-1], rtol=1e-6)


def test_the_usual_spectrum_is_found_by_both_of_its_names(run: Run) -> None:
    measure_spectrum(run, "top5", views=["mixed"], k=1, trace_matvecs=0)  # as earlier versions stored it
    earlier = Run(run.path)
    assert earlier.stored("hessian/default") == "hessian/top5"
    assert earlier.stored("hessian/other") is None
    old = earlier.result("hessian/default")
    assert isinstance(old, Spectrum)
    np.testing.assert_array_equal(old.values, cast(Spectrum, earlier.result("hessian/top5")).values)
    measure_spectrum(run, views=["mixed"], k=2, trace_matvecs=0)
    both = Run(run.path)
    assert both.stored("hessian/default") == "hessian/default"
    shapes = {n: cast(Spectrum, both.result(f"hessian/{n}")).values.shape[-1] for n in ("default", "top5")}
    assert shapes == {"default": 2, "top5": 1}


def test_the_former_name_of_the_usual_spectrum_warns(run: Run) -> None:
    found = measure_spectrum(run, views=["mixed"], k=1, trace_matvecs=0)
    with pytest.warns(DeprecationWarning, match="is now called 'hessian/default'"):
        old = run.result("hessian/top5")
    np.testing.assert_array_equal(cast(Spectrum, old).values, found.values)


def test_measurements_are_stored_with_settings_and_status(run: Run) -> None:
    spectrum = measure_spectrum(run, epochs=run.epochs, k=2, trace_matvecs=4, tol=1e-2)
    sharpness = measure_sharpness(run, sigma=0.01, samples=3)
    line = measure_line(run, alphas=[-1, 0, 1], seed=3)
    plane = measure_plane(run, alphas=[-1, 0, 1], betas=[0, 1], seed=3)
    with store.open(run.path) as file:
        assert {"hessian/default", "sharpness/default", "surface/line", "surface/plane"} <= set(file.names())
        for name, record in [("hessian/default", spectrum), ("sharpness/default", sharpness), ("surface/plane", plane)]:
            stored = file.record(name)
            for field in dataclasses.fields(record):
                np.testing.assert_array_equal(getattr(stored, field.name), getattr(record, field.name))
    assert spectrum.values.shape == (2, 5, 2)
    assert (spectrum.status == landscape.Status.OK).all()
    assert sharpness.weight_norm[0] == pytest.approx(float(run.objective().weights.double().norm()))
    # The line of a seed is the first axis of the plane of that seed, at equal norms.
    np.testing.assert_allclose(plane.loss[:, :, 0], line.loss, rtol=1e-6)
    assert line.loss[0, 1] == run.objective(views=ANALYSIS_VIEWS).evaluate().loss["mixed"]
    assert not list(run.path.parent.glob("*.part"))


def test_an_empty_view_is_empty_not_a_number(tmp_path: Path) -> None:
    run = train_run(dataclasses.replace(CONFIG, noise="symmetric:0", epochs=2, checkpoints=()), tmp_path / "clean.h5")
    spectrum = measure_spectrum(run, k=1, trace_matvecs=2)
    sharpness = measure_sharpness(run)
    row = list(ANALYSIS_VIEWS).index("noisy_part")
    for record in (spectrum, sharpness):
        assert record.status[0, row] == landscape.Status.EMPTY
        assert (np.delete(record.status[0], row) == landscape.Status.OK).all()
    assert np.isnan(spectrum.values[0, row]).all()


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_resumed_measurement_is_bitwise_the_undisturbed_one(run: Run, stop: int) -> None:
    settings = {"k": 1, "trace_matvecs": 2, "tol": 1e-2}
    whole = measure_spectrum(run, "whole", **settings)
    with pytest.raises(Stop):
        measure_spectrum(run, "parts", **settings, progress=stop_after(stop))
    asked: list[int] = []

    def counting(rows: Iterable[int]) -> Iterable[int]:
        asked.extend(rows)
        return asked

    parts = measure_spectrum(run, "parts", **settings, resume=True, progress=counting)
    assert asked == list(range(stop, 5))
    for field in dataclasses.fields(Spectrum):
        if field.name != "seconds":
            np.testing.assert_array_equal(getattr(whole, field.name), getattr(parts, field.name))


def test_unfinished_work_is_neither_overwritten_nor_mixed(run: Run) -> None:
    with pytest.raises(Stop):
        measure_line(run, alphas=[0, 1], progress=stop_after(1))
    with pytest.raises(StoreError, match="unfinished work exists"):
        measure_line(run, alphas=[0, 1])
    with pytest.raises(StoreError, match="seed"):
        measure_line(run, alphas=[0, 1], seed=1, resume=True)
    measure_line(run, alphas=[0, 1], resume=True)
    with pytest.raises(StoreError, match="'surface/line' exists"):
        measure_line(run, alphas=[0, 1])
    assert measure_line(run, alphas=[0, 2], overwrite=True).alphas.tolist() == [0, 2]


def test_a_kill_between_adding_a_result_and_removing_its_part_file_is_mended(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(store.PartFile, "discard", killed)
        with pytest.raises(Stop):
            measure_line(run, alphas=[0, 1])
    part = store.part_path(run.path, "surface/line")
    assert part.exists()
    with store.open(run.path) as file:
        before = file.record("surface/line")
    again = measure_line(run, alphas=[0, 1], resume=True, progress=lambda rows: iter(list(rows)))
    assert not part.exists()
    np.testing.assert_array_equal(before.loss, again.loss)


def test_an_interrupted_training_goes_on_bitwise(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.h5"
    monkeypatch.setattr("ncsam.runs.train.SAVE_EVERY", 0.0)
    steps = []

    def interrupt(optimizer: object, *_: object) -> None:
        steps.append(1)
        if len(steps) == 3 * 9 + 4:  # in the middle of the fourth epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", _before(torch.optim.SGD.step, interrupt))
        with pytest.raises(KeyboardInterrupt):
            train_run(CONFIG, path)
    assert not path.exists()
    with pytest.raises(StoreError, match="unfinished training exists"):
        train_run(CONFIG, path)
    with pytest.raises(StoreError, match=r"epochs = 6, asked for 7"):
        train_run(dataclasses.replace(CONFIG, epochs=7), path, resume=True)
    left: list[int] = []

    def count(epochs: Iterable[object], total: int) -> Iterable[object]:
        left.append(total)
        return epochs

    resumed = train_run(CONFIG, path, resume=True, progress=count)
    assert left == [3]
    assert not state_path(path).exists()
    with store.open(trained) as whole, store.open(path) as again:
        for name in ("weights/2", "weights/6"):
            for key, array in whole.arrays(name).items():
                assert np.array_equal(array, again.arrays(name)[key])
    np.testing.assert_array_equal(resumed.training.accuracy, Run(trained).training.accuracy)
    assert train_run(CONFIG, path, resume=True).config == CONFIG  # complete: nothing to do


@pytest.mark.parametrize("changes", [{}, {"base_optimizer": "adamw", "lr": 1e-3, "warmup_step": "sam", "warmup": 0.5}])
def test_base_optimizer_and_warm_up_resume_bitwise(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, epochs=4, checkpoints=(), **changes)
    whole = train_run(config, tmp_path / "whole.h5")
    path = tmp_path / "run.h5"
    with monkeypatch.context() as patch:
        patch.setattr("ncsam.runs.train.SAVE_EVERY", 0.0)
        with pytest.raises(Stop):
            train_run(config, path, progress=lambda rows, total: stop_after(3)(rows))
    if not changes:  # a state from before these choices existed
        content = torch.load(state_path(path), weights_only=True)
        identity = json.loads(content["identity"])
        for key in ("base_optimizer", "betas", "warmup_step", "warmup_rho"):
            del identity[key]
        torch.save({**content, "identity": json.dumps(identity)}, state_path(path))
    else:
        with pytest.raises(StoreError, match="base_optimizer = 'adamw', asked for 'adam'"):
            train_run(dataclasses.replace(config, base_optimizer="adam"), path, resume=True)
    resumed = train_run(config, path, resume=True)
    assert resumed.config == config
    for name, array in whole.model().state_dict().items():
        assert torch.equal(array, resumed.model().state_dict()[name])
    for name, value in vars(whole.training).items():
        np.testing.assert_array_equal(value, getattr(resumed.training, name))


def test_two_trainings_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path, lock = tmp_path / "run.h5", tmp_path / "run.h5.training.lock"
    config = dataclasses.replace(CONFIG, epochs=2, checkpoints=())
    seen = []

    def meanwhile(epochs: Iterable[object], total: int) -> Iterator[object]:
        for row in epochs:
            for how in ({}, {"resume": True}, {"overwrite": True}):
                with pytest.raises(StoreError, match=r"run.h5: another process is training into it; wait"):
                    train_run(config, path, **how)
            seen.append(lock.exists())
            yield row

    lock.touch()  # as a kill leaves it
    train_run(config, path, progress=meanwhile)
    assert seen == [True, True]
    assert {p.name for p in tmp_path.iterdir()} == {"run.h5"}


def test_a_foreign_or_hostile_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    state_path(path).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(StoreError, match="not a readable training state"):
        train_run(CONFIG, path, resume=True)
    assert not (tmp_path / "owned").exists()


def test_outputs_are_not_overwritten_unasked(run: Run, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the file exists"):
        train_run(CONFIG, run.path)
    with pytest.raises(StoreError, match="no such folder"):
        train_run(CONFIG, tmp_path / "nowhere" / "run.h5")


def test_other_data_than_the_runs_are_noticed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store.open

    def with_other_hash(path: Path) -> object:
        file = real(path)
        file.attrs["data_hash"] = "0" * 64
        return file

    monkeypatch.setattr(store, "open", with_other_hash)
    with pytest.raises(StoreError, match="data 'digits' differ from those it was trained on"):
        Run(run.path).objective()


def test_wrong_files_and_epochs_are_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        Run(tmp_path / "missing.h5")
    line = measure_line(run, alphas=[0])
    line.save(tmp_path / "line.h5")
    with pytest.raises(StoreError, match="is a result file, expected a run"):
        Run(tmp_path / "line.h5")
    with pytest.raises(StoreError, match="no weights of epoch 3; it has 2, 6"):
        run.model(3)
    with pytest.raises(ValueError, match="unknown view 'tests'"):
        run.objective(views=["tests"])


def test_a_run_opens_in_plain_h5py_with_named_axes(run: Run) -> None:
    measure_plane(run, alphas=[-1, 0, 1], betas=[0, 1])
    with h5py.File(run.path) as file:
        loss = file["surface/plane/loss"]
        assert [dim.label or dim[0].name.rsplit("/", 1)[1] for dim in loss.dims] == ["view", "alpha", "beta"]
        assert file["weights/6/classifier.weight"].shape == (10, 128)
        assert np.char.decode(file.attrs["kind"]) == "run"


def test_xarray_reads_a_surface_by_view_name(run: Run) -> None:
    xarray = pytest.importorskip("xarray")
    plane = measure_plane(run, alphas=[-1, 0, 1], betas=[0, 1])
    with xarray.open_dataset(run.path, engine="h5netcdf", group="surface/plane") as ds:
        np.testing.assert_array_equal(ds.loss.sel(view="mixed"), plane.loss[0])


def test_a_run_is_written_through_a_link(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    link = tmp_path / "other" / "link.h5"
    link.symlink_to(run.path)
    measure_line(Run(link), alphas=[0, 1], views=["mixed"])
    train_run(dataclasses.replace(CONFIG, epochs=1, checkpoints=()), link, overwrite=True)
    assert link.is_symlink()
    assert Run(run.path).config.epochs == 1
    assert [path.name for path in link.parent.iterdir()] == ["link.h5"]


def test_a_dangling_link_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "link.h5").symlink_to(tmp_path / "gone.h5")
    with pytest.raises(ValueError, match=r"is a symbolic link to .*gone\.h5, which is not there"):
        train_run(CONFIG, tmp_path / "link.h5", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["link.h5"]


def test_a_file_that_was_cut_short_is_told_before_anything_is_measured(run: Run, tmp_path: Path) -> None:
    """HDF5 does not miss the end of the seal, which lies behind its data; the result could not be added."""
    path = tmp_path / "cut.h5"
    path.write_bytes(run.path.read_bytes()[:-100])

    def never(rows: Iterable[int]) -> Iterator[int]:
        raise AssertionError("measured")

    with pytest.raises(StoreError, match=r"cut\.h5: the seal at its end is missing"):
        measure_sharpness(Run(path), views=("test",), progress=never)
    assert not list(tmp_path.glob("*.part"))
