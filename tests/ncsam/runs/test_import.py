"""Weights from elsewhere: every form of file, what does not fit told by name, nothing executed, and the way back."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import landscape
import ncsam
from landscape import store
from landscape.inputs import limited
from landscape.store import StoreError
from ncsam import Run, models
from ncsam.measurements import measure_sharpness
from ncsam.runs.fitting import fit
from ncsam.runs.weight_files import read_state_dicts

SMALL = {"train_samples": 200, "test_samples": 100}


class Norms(nn.Module):
    """With BatchNorm, whose statistics are part of the weights, for digits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


@pytest.fixture(autouse=True)
def factories(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with factories as a user has them."""
    module = types.ModuleType("own_nets")
    vars(module).update(
        norms=lambda shape, classes: Norms(),
        double=lambda shape, classes: Norms().double(),
        half=lambda shape, classes: Norms().bfloat16(),
        one=lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 1)),
    )
    monkeypatch.setitem(sys.modules, "own_nets", module)


def trained(seed: int = 0) -> dict[str, Tensor]:
    """A state dict whose every entry differs from that of a fresh model."""
    torch.manual_seed(seed)
    model = Norms()
    for _ in range(3):
        model(torch.randn(20, 1, 8, 8))
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def imported(file: str | Path | list[Path], out: Path, **more: Any) -> Run:
    files = file if isinstance(file, list) else [file]
    settings: dict[str, Any] = {"model": "own_nets:norms", "data": "digits", "trust": True, **SMALL, **more}
    return ncsam.import_run(files, out, **settings)


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def prefixed(prefix: str, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in (state or trained()).items()}


LIGHTNING = {
    "epoch": 3, "global_step": 40, "pytorch-lightning_version": "2.6.6", "state_dict": prefixed("model."),
    "hparams_name": "kwargs", "hyper_parameters": {"lr": 0.1}, "lr_schedulers": [],
    "loops": {"fit_loop": {"state_dict": {}}},
    "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(6, 64)}}, "param_groups": [{"lr": 0.1}]}],
}  # fmt: skip
FORMS: dict[str, tuple[Any, str, list[str]]] = {
    "bare": (trained(), "", []),
    "of DataParallel": (prefixed("module."), "", ["module."]),
    "compiled": (prefixed("_orig_mod."), "", ["_orig_mod."]),
    "compiled, then parallel": (prefixed("module._orig_mod."), "", ["module.", "_orig_mod."]),
    "with a compiled part": (
        {n.replace("body.", "body._orig_mod."): t for n, t in trained().items()}, "", ["_orig_mod."],
    ),
    "averaged": ({"n_averaged": torch.tensor(3), **prefixed("module.")}, "", ["module."]),
    "beside numbers": ({"epoch": 3, **trained()}, "", []),
    "of Lightning": (LIGHTNING, "state_dict", ["model."]),
    "of parameters": ({n: nn.Parameter(t) if t.is_floating_point() else t for n, t in trained().items()}, "", []),
    **{
        key: ({"epoch": 3, "optimizer": {"state": {}}, key: trained()}, key, [])
        for key in ("state_dict", "model", "model_state_dict", "net", "ema")
    },
    "nested twice": ({"model": {"state_dict": prefixed("net.")}}, "model/state_dict", ["net."]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_file_gives_the_same_weights(form: str, tmp_path: Path) -> None:
    content, key, removed = FORMS[form]
    torch.save(content, tmp_path / "w.ckpt")
    before = torch.get_rng_state()
    run = imported(tmp_path / "w.ckpt", tmp_path / "run.h5")
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(run.model().state_dict(), trained())
    (origin,) = run.attrs["weights"]
    assert (origin["epoch"], origin["key"], origin["removed"]) == (1, key, removed)


def test_a_file_of_before_zip_archives(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(imported(tmp_path / "old.pth", tmp_path / "run.h5").model().state_dict(), trained())


def test_a_checkpoint_that_lightning_wrote(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Classifier(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Norms()
            self.save_hyperparameters({"lr": 0.1})

        def training_step(self, batch: Any, index: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    module = Classifier()
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    data = DataLoader(TensorDataset(torch.randn(16, 1, 8, 8), torch.arange(16) % 10), batch_size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own, of the number of workers
        trainer.fit(module, data)
        trainer.save_checkpoint(tmp_path / "l.ckpt")
    run = imported(tmp_path / "l.ckpt", tmp_path / "run.h5")
    assert_same(run.model().state_dict(), module.net.state_dict())
    assert run.attrs["weights"][0]["removed"] == ["net."]


def test_safetensors_there_and_back(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    library.save_file(trained(), tmp_path / "w.safetensors")
    run = imported(tmp_path / "w.safetensors", tmp_path / "run.h5")
    assert_same(run.model().state_dict(), trained())
    assert_same(library.load_file(ncsam.export_weights(run, tmp_path / "back.safetensors")), trained())


@pytest.mark.parametrize("name", ["back.pt", "back.pth"])
def test_the_way_back_is_bitwise(name: str, tmp_path: Path) -> None:
    files = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for seed, file in enumerate(files):
        torch.save(trained(seed), file)
    run = imported(files, tmp_path / "run.h5", epochs=[20, 0])
    assert run.epochs == [0, 20]
    for epoch, seed in ((0, 1), (20, 0), ("last", 0)):
        out = ncsam.export_weights(run.path, tmp_path / name, epoch, overwrite=True)
        assert_same(torch.load(out, weights_only=True), trained(seed))
    again = imported(out, tmp_path / "again.h5", epochs=[20])
    assert_same(again.model().state_dict(), run.model().state_dict())


def test_what_export_refuses(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "w.pt")
    run = imported(tmp_path / "w.pt", tmp_path / "run.h5")
    with pytest.raises(StoreError, match=r"w\.pt: exists; choose another name or --overwrite"):
        ncsam.export_weights(run, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"format is '', expected pt or safetensors"):
        ncsam.export_weights(run, tmp_path / "w.onnx")
    with pytest.raises(StoreError, match="no weights of epoch 7; it has 1"):
        ncsam.export_weights(run, tmp_path / "new.pt", 7)
    with pytest.raises(StoreError, match="writing failed"):
        ncsam.export_weights(run, tmp_path / "nowhere" / "new.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.h5", "w.pt"]


def test_the_numbers_are_those_of_the_model_itself(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "w.pt")
    run = imported(tmp_path / "w.pt", tmp_path / "run.h5", noise="symmetric:0.4")
    dataset = run.problem.dataset
    model = Norms().double().eval()
    model.load_state_dict(trained())
    with torch.no_grad():
        for view, x, y in (
            ("mixed", dataset.train_x, torch.from_numpy(run.labels.observed)),
            ("test", dataset.test_x, dataset.test_y),
        ):
            logits = model(x.double())
            found = run.objective(views=(view,), dtype=torch.float64).evaluate()
            assert found.loss[view] == pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=1e-12)
        origin = run.attrs["weights"][0]
        assert origin["test_accuracy"] == pytest.approx(float((logits.argmax(1) == y).double().mean()))
        assert origin["test_loss"] == pytest.approx(found.loss["test"], rel=1e-5)
    assert run.labels.realized_rate == pytest.approx(0.4, abs=0.1)


def test_what_the_file_says_of_the_training_is_what_is_known(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "w.pt")
    run = imported(tmp_path / "w.pt", tmp_path / "run.h5", epochs=[30])
    assert run.imported
    assert set(run.attrs["config"]) == {
        "data", "noise", "model", "optimizer", "epochs", "batch_size", "loss", "train_samples", "test_samples",
        "val_fraction", "normalization", "seeds",
    }  # fmt: skip
    assert (run.config.optimizer, run.config.epochs, run.config.noise) == ("imported", 30, "none")
    assert run.names == ["labels", "weights/30"]
    with pytest.raises(StoreError, match="was imported, so it has no training rows"):
        _ = run.training


def test_training_rows_lack_in_imported_runs_alone(run: Run, tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "w.pt")
    known = imported(tmp_path / "w.pt", tmp_path / "imported.h5")
    assert store.verify(known.path) == []
    assert not run.imported
    with store.open(run.path) as file:
        contents = {name: file.content(name) for name in file.names() if name not in ("training", "steps")}
        attrs = {name: value for name, value in file.attrs.items() if name not in ("kind", "schema")}
    cut = tmp_path / "cut.h5"
    with pytest.raises(StoreError, match="training is missing, expected 'training'"):  # tests check what is written
        store.create(cut, kind="run", attrs=attrs, contents=contents)
    store.create(cut, kind="run", attrs={**attrs, "source": "import"}, contents=contents)
    assert store.verify(cut) == []
    with pytest.raises(StoreError, match=r"weights/\* is missing, expected 'arrays'"):
        store.create(
            cut, kind="run", attrs={**attrs, "source": "import"}, contents={"labels": known.labels}, overwrite=True
        )


# --- how inputs are prepared


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A file of dark images of three classes, which differ in colour, and a network trained on pixels / 255."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    images = rng.integers(0, 40, (240, 3, 4, 4)).astype(np.uint8)
    images[np.arange(240), labels] += 60
    path = tmp_path_factory.mktemp("pixels") / "dark.npz"
    np.savez(path, train_x=images[:180], train_y=labels[:180], test_x=images[180:], test_y=labels[180:])
    torch.manual_seed(0)
    model = colours((3, 4, 4), 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    x, y = torch.from_numpy(images[:180]).float() / 255, torch.from_numpy(labels[:180])
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return path, model.state_dict()


def colours(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A network whose biases assume that inputs are small."""
    return nn.Sequential(nn.Conv2d(shape[0], 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, classes))


def test_inputs_are_prepared_as_stated_in_everything_that_follows(
    pixels: tuple[Path, dict[str, Tensor]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, state = pixels
    torch.save(state, tmp_path / "w.pt")
    name = {"model": f"{__name__}:colours", "data": f"npz:{file}", "train_samples": None, "test_samples": None}
    run = imported(tmp_path / "w.pt", tmp_path / "run.h5", normalization="none", **name)
    assert caplog.text == ""
    reference = colours((3, 4, 4), 3).double()
    reference.load_state_dict(state)
    with np.load(file) as arrays, torch.no_grad():
        losses = {
            part: float(
                nn.functional.cross_entropy(
                    reference(torch.from_numpy(arrays[f"{part}_x"]).double() / 255),
                    torch.from_numpy(arrays[f"{part}_y"]),
                )
            )
            for part in ("train", "test")
        }
    assert losses["test"] < 0.5
    (origin,) = run.attrs["weights"]
    assert (origin["train_loss"], origin["test_loss"]) == pytest.approx((losses["train"], losses["test"]), rel=1e-4)
    assert (origin["train_accuracy"], origin["train_samples"]) == (1.0, 180)
    assert (run.config.normalization, run.attrs["inputs"]) == ("none", "pixels / 255")
    reopened = Run(run.path, trust=True)  # x / 255 is rounded to float32, the rest is double
    assert reopened.objective(views=("mixed",), dtype=torch.float64).loss() == pytest.approx(losses["train"], rel=1e-5)
    assert measure_sharpness(reopened, views=("mixed",)).loss[0, 0] == pytest.approx(losses["train"], rel=1e-4)


def test_a_preparation_under_which_weights_are_worse_than_a_guess_is_warned_of(
    pixels: tuple[Path, dict[str, Tensor]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, state = pixels
    torch.save(state, tmp_path / "w.pt")
    name = {"model": f"{__name__}:colours", "data": f"npz:{file}", "train_samples": None, "test_samples": None}
    run = imported(tmp_path / "w.pt", tmp_path / "run.h5", normalization="1/0.01", **name)
    (line,) = caplog.messages
    (origin,) = run.attrs["weights"]
    assert min(origin["train_loss"], origin["test_loss"]) > np.log(3)
    for text in (
        "w.pt: its loss is ", f"{origin['train_loss']:.4g} on the training data", "above the 1.099 of a uniform guess",
        "than here (pixels / 255, minus 1, divided by 0.01): state it with --normalization",
    ):  # fmt: skip
        assert text in line
    with pytest.raises(ValueError, match="normalization is 'nine', expected own, none, imagenet"):
        imported(tmp_path / "w.pt", tmp_path / "b.h5", normalization="nine", **name)


def test_weights_that_are_not_finite_are_warned_of_and_have_no_accuracy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = trained()
    state["head.weight"].fill_(torch.nan)
    torch.save(state, tmp_path / "w.pt")
    (origin,) = imported(tmp_path / "w.pt", tmp_path / "run.h5").attrs["weights"]
    assert [origin[f"{part}_{name}"] for part in ("train", "test") for name in ("loss", "accuracy")] == [None] * 4
    (line,) = caplog.messages
    assert "w.pt: its loss is not finite on the training and test data; its training diverged" in line


# --- what does not fit


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (lambda s: {n: t for n, t in s.items() if "head" not in n}, "2 missing: head.weight, head.bias"),
    "unexpected": (
        lambda s: {**s, **{f"x.{i}": torch.ones(1) for i in range(5)}},
        r"5 unexpected: x.0, x.1, x.2 and 2 more \(leave them out with --ignore\)",
    ),
    "of another shape": (
        lambda s: {**s, "head.bias": torch.ones(11)},
        r"1 of another shape than the model's: head.bias \(11,\) for \(10,\)",
    ),
    "another number of axes": (lambda s: {**s, "head.bias": torch.ones(10, 1)}, r"head.bias \(10, 1\) for \(10,\)"),
    "half of a prefix": (lambda s: {**prefixed("module.body.", s)}, "8 missing: body.1.weight"),
    "values too fine": (
        lambda s: {**s, "head.bias": torch.full((10,), 0.1, dtype=torch.float64)},
        "head.bias is torch.float64, and the model's torch.float32 cannot hold its values exactly",
    ),
    "complex": (lambda s: {**s, "head.bias": torch.ones(10, dtype=torch.complex64)}, "head.bias is torch.complex64"),
    "whole numbers": (lambda s: {**s, "head.bias": torch.ones(10, dtype=torch.int64)}, "head.bias is torch.int64"),
    "without values": (lambda s: {**s, "head.bias": torch.ones(10, device="meta")}, "head.bias is no plain tensor"),
    "sparse": (lambda s: {**s, "head.bias": torch.ones(10).to_sparse()}, "head.bias is no plain tensor"),
    "two that fit": (lambda s: {"model": s, "ema": s}, r"several state dicts fit \(model, ema\); say which with --key"),
    "none": (
        lambda s: {"epoch": 3, "other": {"deep": {}}},
        "no state dict in it or under state_dict, .* it holds epoch",
    ),
    "a list": (lambda s: [torch.ones(1)], r"holds a list, expected a state dict"),
    "a tensor": (lambda s: torch.ones(1), r"holds a Tensor, expected a state dict"),
    "no names": (lambda s: {0: torch.ones(1)}, "no state dict in it"),
    "names to fool a terminal": (lambda s: {**s, "\x1b[2J": torch.ones(1)}, r"1 unexpected: '\\x1b\[2J' \(leave"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told_by_name_in_one_line(case: str, tmp_path: Path) -> None:
    make, message = WRONG[case]
    torch.save(make(trained()), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=message) as told:
        imported(tmp_path / "w.pt", tmp_path / "run.h5")
    assert "w.pt" in str(told.value)
    assert "\n" not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_names_are_left_out_and_keys_chosen_on_request(tmp_path: Path) -> None:
    torch.save({"model": trained(0), "ema": {**trained(1), "criterion.weight": torch.ones(10)}}, tmp_path / "w.pt")
    run = imported(tmp_path / "w.pt", tmp_path / "run.h5", key="ema", ignore=["criterion.*"])
    assert_same(run.model().state_dict(), trained(1))
    assert run.attrs["ignored"] == ["criterion.*"]
    with pytest.raises(ValueError, match="there is no 'emma' in it; it holds model, ema"):
        read_state_dicts(tmp_path / "w.pt", "emma")
    torch.save({"deep": {"er": trained(2)}}, tmp_path / "deep.pt")
    assert list(read_state_dicts(tmp_path / "deep.pt", "deep/er")) == ["deep/er"]


def test_counters_that_old_files_lack_are_zero_and_told(tmp_path: Path) -> None:
    state = {n: t for n, t in trained().items() if "num_batches" not in n}
    torch.save(state, tmp_path / "old.pt")
    run = imported(tmp_path / "old.pt", tmp_path / "run.h5")
    assert_same(run.model().state_dict(), {**trained(), "body.2.num_batches_tracked": torch.tensor(0)})
    assert run.attrs["weights"][0]["counters"] == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_are_changed_where_that_changes_no_value(dtype: torch.dtype, tmp_path: Path) -> None:
    coarse = {n: t.bfloat16().half().to(dtype) if t.is_floating_point() else t for n, t in trained().items()}
    if dtype == torch.bfloat16:
        coarse = {n: t.bfloat16() if t.is_floating_point() else t for n, t in trained().items()}
    torch.save(coarse, tmp_path / "w.pt")
    run = imported(tmp_path / "w.pt", tmp_path / "run.h5")
    expected = {n: t.float() if t.is_floating_point() else t for n, t in coarse.items()}
    assert_same(run.model().state_dict(), expected)


def test_weights_that_are_not_finite_are_kept_as_they_are(tmp_path: Path) -> None:
    state = {**trained(), "head.bias": torch.tensor([float("nan"), float("inf"), *range(8)])}
    model = Norms()
    found = fit(model, {"": state}, where="w.pt", name="norms")
    assert found.arrays["head.bias"].tobytes() == state["head.bias"].numpy().tobytes()


def test_a_model_in_double_precision_keeps_it(tmp_path: Path) -> None:
    state = {n: t.double() + 1e-12 if t.is_floating_point() else t for n, t in trained().items()}
    torch.save(state, tmp_path / "w.pt")
    run = imported(tmp_path / "w.pt", tmp_path / "run.h5", model="own_nets:double")
    assert_same(run.model(dtype=torch.float64).state_dict(), state)
    assert_same(torch.load(ncsam.export_weights(run, tmp_path / "b.pt"), weights_only=True), state)


def test_models_that_a_run_file_cannot_serve(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).state_dict(), tmp_path / "one.pt")
    with pytest.raises(ValueError, match=r"own_nets:one' returns \(2, 1\), expected logits of shape \(2, 10\)"):
        imported(tmp_path / "one.pt", tmp_path / "run.h5", model="own_nets:one")
    torch.save({n: t.bfloat16() if t.is_floating_point() else t for n, t in trained().items()}, tmp_path / "half.pt")
    with pytest.raises(ValueError, match=r"in torch\.bfloat16, which run files do not hold"):
        imported(tmp_path / "half.pt", tmp_path / "run.h5", model="own_nets:half")
    with pytest.raises(ValueError, match="would import and run code"):
        imported(tmp_path / "one.pt", tmp_path / "run.h5", trust=False)


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        ([1], "files of weights: 2, epochs: 1; give one"),
        ([3, 3], "expected different ones"),
        ([-1, 2], "each 0…1000000"),
    ],
)
def test_epochs_that_do_not_belong_to_the_files(epochs: list[int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        imported([tmp_path / "a.pt", tmp_path / "b.pt"], tmp_path / "run.h5", epochs=epochs)


def test_what_exists_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "w.pt")
    (tmp_path / "run.h5").write_text("mine")
    with pytest.raises(StoreError, match="the file exists"):
        imported(tmp_path / "w.pt", tmp_path / "run.h5")
    torch.save({}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match="no state dict"):
        imported(tmp_path / "empty.pt", tmp_path / "run.h5", overwrite=True)
    assert (tmp_path / "run.h5").read_text() == "mine"
    assert imported(tmp_path / "w.pt", tmp_path / "run.h5", overwrite=True).epochs == [1]


def test_a_measurement_is_not_resumed_with_other_weights(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        torch.save(trained(seed), tmp_path / f"{name}.pt")

    class Stop(Exception):
        pass

    def stop(rows: Any) -> Any:
        yield next(iter(rows))
        raise Stop

    settings: dict[str, Any] = {"sigma": None, "views": ("mixed", "test")}
    run = imported(tmp_path / "a.pt", tmp_path / "run.h5")
    with pytest.raises(Stop):
        measure_sharpness(run, **settings, progress=stop)
    other = imported(tmp_path / "b.pt", tmp_path / "run.h5", overwrite=True)
    with pytest.raises(StoreError, match="run"):
        measure_sharpness(other, **settings, resume=True)


# --- hostile files


class Payload:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def altered(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Rewrite the pickle in a file of torch.save."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


def many(path: Path) -> None:
    torch.save({"w": torch.zeros(4)}, path)
    altered(path, lambda content: content.replace(b"K\x04", b"J\x00\x00\x00\x08"))


def expanded(path: Path) -> None:
    torch.save({**trained(), "head.bias": torch.zeros(1).expand(2**40)}, path)


def truncated(path: Path) -> None:
    torch.save(trained(), path)
    path.write_bytes(path.read_bytes()[:-300])


def bomb(path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("w/data/9", "w") as member:
        for _ in range(300):
            member.write(bytes(2**20))


def old_huge(path: Path) -> None:
    torch.save({"w": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"K\x04", b"\x8a\x06\x00\x00\x00\x00\x00\x10"))


HOSTILE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "code": ("w.pt", lambda p: torch.save({"w": Payload(os.mkdir, "ran")}, p), r"refused, it asks for 'posix\.mkdir'"),
    "a bare pickle": ("w.pth", lambda p: p.write_bytes(pickle.dumps(Payload(os.mkdir, "ran"))), "not a readable file"),
    "a whole model": ("w.pt", lambda p: torch.save(Norms(), p), r"Norms'; .* save the state dict alone"),
    "settings as objects": (
        "w.ckpt", lambda p: torch.save({**LIGHTNING, "hyper_parameters": argparse.Namespace(lr=1)}, p),
        r"asks for 'argparse\.Namespace'; .* torch\.save\(model\.state_dict\(\), 'weights\.pt'\)",
    ),
    "truncated": ("w.pt", truncated, "not a readable file"),
    "empty": ("w.pt", lambda p: p.touch(), "not a readable file"),
    "text": ("w.pt", lambda p: p.write_text("hello"), "not a readable file"),
    "more elements than bytes": ("w.pt", many, "does not match expected size"),
    "an old file with more elements": ("w.pt", old_huge, "not a readable file"),
    "one element for many": ("w.pt", expanded, r"head.bias \(1099511627776,\) for \(10,\)"),
    "a bomb": ("w.pt", bomb, "times as much"),
    "a pipe": ("w.pt", lambda p: os.mkfifo(p), "is a named pipe"),
    "a pipe of safetensors": ("w.safetensors", lambda p: os.mkfifo(p), "is a named pipe"),
    "no safetensors": ("w.safetensors", lambda p: p.write_bytes(b"\xff" * 100), "not a readable file of safetensors"),
    "safetensors that claim more": (
        "w.safetensors",
        lambda p: p.write_bytes(_header({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})),
        "not a readable file of safetensors",
    ),
    "a folder that is none": ("hf:nowhere", lambda p: None, r"hf:nowhere: there is no config\.json"),
}  # fmt: skip


def _header(content: dict[str, Any]) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_runs_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, make, message = HOSTILE[case]
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    make(tmp_path / name)
    there = sorted(os.listdir())
    with pytest.raises(ValueError, match=message) as told:
        imported(name, tmp_path / "run.h5")
    assert "\n" not in str(told.value)
    assert sorted(os.listdir()) == there


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    for name in ("w.pt", "w.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**21)
        with limited("input=1MiB"), pytest.raises(ValueError, match="2 MiB are more than the 1 MiB allowed"):
            read_state_dicts(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    for name in ("w.pt", "w.safetensors"):
        with pytest.raises(FileNotFoundError, match=name):
            imported(tmp_path / name, tmp_path / "run.h5")


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("safetensors.torch", "w.safetensors", r"install it with: pip install 'ncsam-landscape\[safetensors\]'"),
        ("transformers", "hf:folder", "install it with: pip install transformers"),
    ],
)
def test_a_package_that_is_not_there_is_named(
    module: str, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder/config.json").write_text("{}")
    Path("folder/model.safetensors").touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=message):
        read_state_dicts(name)


# --- folders of transformers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("hf") / "net"
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=10
    )
    torch.manual_seed(3)
    model = transformers.ResNetForImageClassification(config)
    model.train()(torch.randn(4, 1, 8, 8))
    model.save_pretrained(path)
    return path, {n: t.clone() for n, t in model.state_dict().items()}


def test_a_folder_of_transformers(
    folder: tuple[Path, dict[str, Tensor]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where, state = folder
    run = imported(f"hf:{where}", tmp_path / "run.h5", model=f"hf:{where}")
    model = run.model()
    assert_same(model.state_dict(), state)
    x = run.problem.dataset.test_x[:3]
    import transformers

    own = transformers.AutoModelForImageClassification.from_pretrained(where, local_files_only=True).eval()
    capfd.readouterr()
    torch.testing.assert_close(model(x), own(x).logits)
    top = landscape.top_eigenpairs(landscape.HessianOperator(run.objective(views=("mixed",))), k=1, tol=1e-2)
    assert np.isfinite(top.values).all()
    imported(f"hf:{where}", tmp_path / "again.h5", model=f"hf:{where}")
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_was_changed_is_noticed(folder: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    where = Path(shutil.copytree(folder[0], tmp_path / "net"))
    run = imported(f"hf:{where}", tmp_path / "run.h5", model=f"hf:{where}")
    config = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    with pytest.raises(StoreError, match="differs from that of the import"):
        Run(run.path).model()
    (where / "config.json").unlink()
    with pytest.raises(StoreError, match=r"put config\.json back"):
        Run(run.path).model()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_sizes": [4, 6]}, "its weights are not those of an image classifier"),
        ({"id2label": {"0": "a"}, "label2id": {"a": 0}}, "is for 1 classes, and the data have 10"),
        ({"num_channels": 3}, "is for 3 channels, and the data have 1"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.C"}}, "transformers cannot read it"),
    ],
)
def test_folders_that_do_not_fit(
    change: dict[str, Any], message: str, folder: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    where = Path(shutil.copytree(folder[0], tmp_path / "net"))
    config = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps({**config, **change}))
    (where / "own.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    with pytest.raises(ValueError, match=message) as told:
        imported(f"hf:{where}", tmp_path / "run.h5", model=f"hf:{where}")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_with_code_in_a_folder_runs_nothing(
    folder: tuple[Path, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder[0], "net")
    Path("net/model.safetensors").unlink()
    torch.save({"w": Payload(os.mkdir, "ran")}, "net/pytorch_model.bin")
    with pytest.raises(ValueError, match="transformers cannot read it") as told:
        imported("hf:net", tmp_path / "run.h5", model="hf:net")
    assert "\n" not in str(told.value)
    assert os.listdir() == ["net"]


def test_a_folder_of_pipes_does_not_wait(folder: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    where = Path(shutil.copytree(folder[0], tmp_path / "net"))
    (where / "model.safetensors").unlink()
    os.mkfifo(where / "model.safetensors")
    with pytest.raises(ValueError, match="holds no weights"):
        imported(f"hf:{where}", tmp_path / "run.h5", model=f"hf:{where}")
    (where / "config.json").write_text("[" * 100 + "]" * 100)
    with pytest.raises(ValueError, match="is nested too deep"):
        imported(f"hf:{where}", tmp_path / "run.h5", model=f"hf:{where}")


def test_a_model_by_name_takes_weights_too(tmp_path: Path) -> None:
    model = models.build("cnn", (1, 8, 8), 10, seed=5)
    torch.save(model.state_dict(), tmp_path / "cnn.pt")
    run = imported(tmp_path / "cnn.pt", tmp_path / "run.h5", model="cnn", trust=False)
    assert_same(run.model().state_dict(), model.state_dict())
