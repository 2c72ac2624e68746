"""Folders of images that are read as they are needed: the same numbers, and memory that is bounded."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ncsam
from landscape import LazyInputs
from landscape.inputs import limited
from landscape.store import StoreError
from landscape_cli.main import run as landscape
from ncsam import Run, data, models, train_run
from ncsam.data import folder as module
from ncsam.measurements import measure_spectrum
from ncsam.measurements.measurement import Subset, drawn

pytest.importorskip("PIL", reason="reading images needs Pillow (extra `images`)")


def make_folder(root: Path, train: int = 40, test: int = 12, side: int = 10) -> Path:
    """Images of two classes and of random pixels, which PNG keeps exactly."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for i in range(count):
            name = root / part / "ab"[i % 2]
            name.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(name / f"{i:04}.png")
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


def test_pixels_labels_and_statistics_are_those_of_the_folder(images: Path) -> None:
    whole, lazy = data.load(f"folder:{images},size=8"), data.load(f"folder:{images},size=8,lazy")
    assert isinstance(lazy.train_x, LazyInputs)
    for part in ("train", "test"):
        assert torch.equal(getattr(lazy, f"{part}_x")[:], getattr(whole, f"{part}_x"))
        assert torch.equal(getattr(lazy, f"{part}_y"), getattr(whole, f"{part}_y"))
    assert lazy.normalization == whole.normalization  # all images are sampled for it here
    assert (lazy.classes, lazy.input_shape) == (whole.classes, whole.input_shape)
    plain = data.load(f"folder:{images},lazy")
    assert plain.input_shape == (3, 10, 10)
    assert plain.hash == data.load(f"folder:{images},lazy").hash != lazy.hash


def test_images_are_read_where_no_thread_can_be_started(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when memory is left for the images and not for a thread's stack."""
    expected = data.load(f"folder:{images}").train_x

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert torch.equal(data.load(f"folder:{images}").train_x, expected)


@pytest.mark.parametrize("change", ["another size", "another pixel", "one fewer", "another label"])
def test_the_hash_knows_order_labels_and_sizes_of_files_and_sampled_pixels(images: Path, change: str) -> None:
    from PIL import Image

    before = data.load(f"folder:{images},lazy").hash
    file = images / "train" / "a" / "0004.png"
    if change == "another size":
        file.write_bytes(file.read_bytes() + b"\0")
    elif change == "another pixel":
        pixels = np.asarray(Image.open(file)).copy()
        pixels[2, 2] ^= 1
        Image.fromarray(pixels).save(file)
    elif change == "one fewer":
        file.unlink()
    else:
        file.rename(images / "train" / "b" / "0004.png")
    assert data.load(f"folder:{images},lazy").hash != before


def weights(folder: Path) -> Path:
    torch.save(models.build("cnn", (3, 10, 10), 2, seed=0).state_dict(), folder / "w.pt")
    return folder / "w.pt"


def test_a_run_on_lazy_images_has_the_numbers_of_one_on_the_folder(images: Path, tmp_path: Path) -> None:
    found = []
    for lazy in ("", ",lazy"):
        run = ncsam.import_run(
            [weights(tmp_path)], tmp_path / f"run{lazy}.h5", model="cnn", data=f"folder:{images}{lazy}",
            noise="symmetric:0.3", val_fraction=0.1,
        )  # fmt: skip
        reopened = Run(run.path)
        evaluated = reopened.objective(views=("mixed", "noisy_part", "val", "test")).evaluate()
        spectrum = measure_spectrum(reopened, views=("mixed",), k=1, trace_matvecs=4, subset=20, dtype="float64")
        found.append((run.attrs["weights"][0]["test_loss"], evaluated, spectrum.values, spectrum.sampling_errors))
    assert found[0][:2] == found[1][:2]
    np.testing.assert_allclose(found[0][2], found[1][2], rtol=1e-9)
    np.testing.assert_allclose(found[0][3], found[1][3], rtol=1e-6)
    (images / "train" / "a" / "0004.png").unlink()
    with pytest.raises(StoreError, match="differ from those it was trained on"):
        _ = Run(tmp_path / "run,lazy.h5").problem


def test_a_subset_reads_its_own_images(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAMPLED", 2)
    run = ncsam.import_run([weights(tmp_path)], tmp_path / "run.h5", model="cnn", data=f"folder:{images},lazy")
    opened, model = Run(run.path), run.model()
    read: list[Path] = []
    decode = module._read_image

    def counting(path: Path, size: int | None) -> Any:
        read.append(path)
        return decode(path, size)

    problem = opened.problem
    monkeypatch.setattr(module, "_read_image", counting)
    objective = drawn(problem.objective(model, ("mixed",)), Subset(5, 1))
    objective.loss()
    objective.gradient()
    assert len(read) <= 5 + 1  # the first image tells what the model makes of an input
    assert len(set(read)) == len(read)


@pytest.mark.parametrize("limit", ["memory=1KiB", "memory=1MiB"])
def test_training_on_lazy_images_is_that_on_the_folder(images: Path, tmp_path: Path, limit: str) -> None:
    """Bitwise, whether three images fit into the memory or all."""
    runs = []
    for lazy in ("", ",lazy"):
        with limited(limit if lazy else "memory=1MiB"):
            runs.append(
                train_run(
                    ncsam.TrainConfig(
                        data=f"folder:{images}{lazy}", model="cnn", optimizer="sam", noise="symmetric:0.3", epochs=2,
                        batch_size=8, augment=True, val_fraction=0.1, samples=True, diagnose=1,
                    ),
                    tmp_path / f"{limit}{lazy}.h5",
                )
            )  # fmt: skip
    plain, lazily = ({n: t.numpy() for n, t in run.model().state_dict().items()} for run in runs)
    assert all(np.array_equal(plain[name], lazily[name]) for name in plain)
    one, other = (run.training for run in runs)
    np.testing.assert_array_equal(one.loss, other.loss)
    np.testing.assert_array_equal(one.accuracy, other.accuracy)


@pytest.mark.parametrize("command", ["train", "diagnose"])
def test_what_needs_all_images_at_once_is_refused(
    command: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, lazy = tmp_path / "run.h5", ["--data", f"folder:{images},lazy", "--model", "cnn", "--optimizer", "sam"]
    lazy += ["--epochs", "1", "--quiet"]
    if command == "train":
        words, message = ["train", *lazy, "--noise", "instance:0.2", "--out", str(out)], "label noise 'instance:0.2'"
    else:
        assert landscape(["train", *lazy, "--noise", "symmetric:0.2", "--out", str(out)]) == 0
        words, message = ["diagnose", str(out), "--quiet"], "the gradient of the whole training set"
    assert landscape(words) != 0
    expected = f"{message} needs all inputs in memory, and those of folder are read as they are needed"
    assert expected in capsys.readouterr().err
    assert out.exists() == (command == "diagnose")


def test_a_folder_beyond_the_limit_says_how_it_can_be_read(images: Path) -> None:
    with (
        limited("input=5KiB"),
        pytest.raises(ValueError, match="or end the data with ,lazy to read images"),
    ):
        data.load(f"folder:{images}")


COARSE = """
from torch import nn


def net(input_shape, num_classes):
    return nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(48, num_classes))
"""
LIMITED = """
import gc
import resource
import sys
from pathlib import Path

from landscape_cli.main import run as landscape

small, large, lazy = sys.argv[1:]


def measure(folder):
    data = ["--data", f"folder:{folder}{lazy}", "--model", "coarse_net:net"]
    general = ["--limits", "memory=4MiB", "--quiet"]
    spectrum = ["--top", "1", "--trace", "0", "--subset", "100"]
    for words in (
        ["audit", "w.pt", *data, "--work", "4000", "--subset", "40", "--null", "none", "--out", f"{folder}-audit.html"],
        ["import", "--weights", "w.pt", *data, "--out", f"{folder}.h5"],
        ["train", *data, "--epochs", "1", "--batch-size", "16", "--out", f"{folder}-trained.h5", "--trust"],
        ["sharpness", f"{folder}.h5", "--views", "mixed", "--trust"],
        ["hessian", f"{folder}.h5", "--views", "mixed", *spectrum, "--trust"],
    ):
        assert landscape([*words, *general]) == 0
        gc.collect()


measure(small)  # everything that takes memory once has taken it
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
room = int(status["VmSize"].split()[0]) * 1024 + 130 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, room))
measure(large)
print("measured")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc and RLIMIT_AS as Linux has them")
@pytest.mark.slow
@pytest.mark.parametrize("lazy", [",lazy", ""])
def test_images_larger_than_the_memory_are_measured(lazy: str, tmp_path: Path) -> None:
    """With 130 MiB to spare, 288 MiB of images: what is lazy goes through all of them, what is not fails."""
    from PIL import Image

    side, count = 128, 6144
    for name, number in (("small", 200), ("large", count)):
        for part in ("train", "test"):
            for i in range(number if part == "train" else 20):
                file = tmp_path / name / part / "ab"[i % 2] / f"{i:05}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (side, side), (i % 256, i // 256, 128)).save(file)
    (tmp_path / "coarse_net.py").write_text(COARSE)
    torch.save(torch.nn.Sequential(*[torch.nn.Identity()] * 2, torch.nn.Linear(48, 2)).state_dict(), tmp_path / "w.pt")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "small", "large", lazy],
        cwd=tmp_path, capture_output=True, text=True, timeout=900,
        # Else each thread reserves 64 MiB that it does not use, and freed batches leave the heap in pieces.
        env={**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"},
    )  # fmt: skip
    assert count * side * side * 3 > 2 * 130 * 2**20
    assert ("measured" in done.stdout) == bool(lazy), done.stderr[-3000:]
    if not lazy:
        assert "there is not enough memory" in done.stderr
