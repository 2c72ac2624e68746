"""Names, the record, digits, the validation split, and data of one's own."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from ncsam import data
from ncsam.data import Data, Normalization

# ---- digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_ready_to_use() -> None:
    digits = data.load("digits", seed=0)
    assert tuple(digits.train_x.shape) == (1198, 1, 8, 8)
    assert tuple(digits.test_x.shape) == (599, 1, 8, 8)
    assert digits.train_x.dtype == torch.float32
    assert digits.train_y.dtype == torch.int64
    assert abs(float(digits.train_x.mean())) < 1e-5
    assert abs(float(digits.train_x.std(correction=0)) - 1) < 1e-5


def test_the_test_part_of_digits_is_stratified() -> None:
    digits = data.load("digits", seed=3)
    everything = torch.bincount(torch.cat([digits.train_y, digits.test_y]))
    assert int(everything.sum()) == 1797
    assert (torch.bincount(digits.test_y) - everything / 3).abs().max() < 1


def test_the_seed_draws_the_test_part() -> None:
    assert data.load("digits", seed=1).hash == data.load("digits", seed=1).hash
    assert data.load("digits", seed=1).hash != data.load("digits", seed=2).hash


def test_loading_leaves_the_global_random_state_alone() -> None:
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    data.load("digits", seed=5)
    data.split_validation(100, 0.3, 5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


# ---- the record -----------------------------------------------------------------------------------------------------

IMAGES = torch.arange(4 * 2 * 3 * 3, dtype=torch.uint8).reshape(4, 2, 3, 3)
LABELS = torch.tensor([0, 1, 2, 1])


def record(**changes: object) -> Data:
    fields: dict[str, object] = {
        "train_x": IMAGES, "train_y": LABELS, "test_x": IMAGES, "test_y": LABELS, "num_classes": 3, "name": "toy",
        "normalization": Normalization((0.5, 0.5), (0.1, 0.2), 255.0),
    }  # fmt: skip
    return Data(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"train_x": IMAGES.flip(0)},
        {"test_y": LABELS.flip(0)},
        {"classes": ("a", "b", "c")},
        {"normalization": Normalization((0.5, 0.5), (0.1, 0.3), 255.0)},
        {"train_x": IMAGES.reshape(4, 3, 2, 3), "test_x": IMAGES.reshape(4, 3, 2, 3)},
    ],
)
def test_the_hash_knows_every_part(changes: dict[str, object]) -> None:
    assert record().hash == record().hash
    assert len(record().hash) == 64
    assert record(**changes).hash != record().hash


def test_pixels_are_normalised_per_channel() -> None:
    ready = record().prepare(IMAGES)
    expected = (IMAGES.double() / 255 - 0.5) / torch.tensor([0.1, 0.2]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(ready, expected.float())
    assert record().prepare(ready) is ready


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_y": LABELS.int()}, r"train labels are torch\.int32 of shape \(4,\), expected int64"),
        ({"test_y": LABELS[:3]}, r"test inputs have shape \(4, 2, 3, 3\) and there are 3 labels"),
        ({"num_classes": 2}, "train labels lie in 0…2, expected 0…1"),
        ({"train_x": IMAGES.double()}, r"train inputs are torch\.float64, expected float32 \(ready\) or uint8"),
        ({"test_x": IMAGES.float()}, "they must agree"),
        ({"test_x": IMAGES[:, :1]}, "they must agree"),
        ({"normalization": None}, "uint8 inputs need a normalization"),
        ({"classes": ("a",)}, "1 class names for 3 classes"),
        ({"train_x": IMAGES[:0], "train_y": LABELS[:0]}, "n ≥ 1"),
    ],
)
def test_what_contradicts_itself_is_no_record(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record(**changes)


def test_statistics_of_pixels_are_exact() -> None:
    from ncsam.data.arrays import pixel_statistics

    x = np.random.default_rng(0).integers(0, 256, (5000, 3, 4, 4), dtype=np.uint8)
    x[:, 2] = 7
    found = pixel_statistics(x)
    np.testing.assert_allclose(found.mean, (x / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std[:2], (x / 255).std((0, 2, 3))[:2], rtol=1e-12)
    assert found.std[2] == 1.0  # a channel that never varies


# ---- how pixels are prepared ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "mean", "std"),
    [
        ("none", (0.0,), (1.0,)),
        ("0.5/0.25", (0.5,), (0.25,)),
        ("0.1,0.2/1,2e-1", (0.1, 0.2), (1.0, 0.2)),
        ("-0.5,0/1/255", None, None),
    ],
)
def test_pixels_are_prepared_as_is_said(spec: str, mean: tuple[float, ...] | None, std: tuple[float, ...]) -> None:
    if mean is None:
        with pytest.raises(ValueError, match=r"normalization is '-0\.5,0/1/255', expected own, none"):
            record().normalized(spec)
        return
    found = record().normalized(spec)
    columns = [torch.tensor(v, dtype=torch.float64).reshape(1, -1, 1, 1) for v in (mean, std)]
    torch.testing.assert_close(found.prepare(IMAGES), ((IMAGES.double() / 255 - columns[0]) / columns[1]).float())
    assert torch.equal(found.train_x, IMAGES)
    assert found.hash != record().hash


def test_own_is_what_the_data_set_has() -> None:
    assert record().normalized("own").hash == record().hash
    assert data.load("digits", normalization="own").hash == data.load("digits").hash


def test_imagenet_is_the_published_one() -> None:
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = record(train_x=images, test_x=images).normalized("imagenet")
    assert found.normalization == Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255.0)


def test_digits_are_prepared_as_is_said() -> None:
    from sklearn.datasets import load_digits

    plain = data.load("digits", seed=2, normalization="none")
    own = data.load("digits", seed=2)
    assert plain.normalization == Normalization((0.0,), (1.0,), 16.0)
    assert set(plain.train_x.unique().tolist()) == {k / 16 for k in range(17)}
    assert float(torch.cat([plain.train_x, plain.test_x]).sum()) == load_digits().images.sum() / 16
    again = data.load("digits", seed=2, normalization="0.5/0.5")
    torch.testing.assert_close(again.train_x, (plain.train_x - 0.5) / 0.5)
    assert torch.equal(plain.train_y, own.train_y)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("imagnet", "normalization is 'imagnet', expected own, none, imagenet or MEANS/DEVIATIONS such as 0.5/0.25"),
        ("0.5", "normalization is '0.5', expected own"),
        ("0.5/", "normalization is '0.5/', expected own"),
        ("a/b", "normalization is 'a/b', expected own"),
        ("nan/1", "normalization is 'nan/1': means lie within ±1e6, deviations in 1e-6…1e6"),
        ("0/0", "normalization is '0/0': means lie within"),
        ("0/-1", "normalization is '0/-1': means lie within"),
        ("1e7/1", "normalization is '1e7/1': means lie within"),
        ("0.5,0.5/0.2", "normalization is '0.5,0.5/0.2': means: 2, deviations: 1; give as many of both"),
        ("imagenet", "normalization 'imagenet' has 3 channels, the inputs of toy have 2"),
        ("127.5/127.5", "has a mean of 127.5, but pixels are divided by 255 before it is subtracted and are at most 1"),
        ("0,0,0,0/1,1,1,1", "has 4 channels, the inputs of toy have 2"),
    ],
)
def test_a_preparation_that_cannot_be_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        record().normalized(spec)


def test_ready_inputs_are_not_prepared_again() -> None:
    ready = record(train_x=IMAGES.float(), test_x=IMAGES.float(), normalization=None)
    message = "inputs of toy are ready for the model; normalization 'none' prepares pixels (uint8), leave it"
    with pytest.raises(ValueError, match=re.escape(message)):
        ready.normalized("none")
    assert ready.normalized("own") is ready
    assert ready.preparation == "as the data set has them (float32)"


def test_the_preparation_is_said_in_words() -> None:
    assert record().preparation == "pixels / 255, minus 0.5 0.5, divided by 0.1 0.2, by channel"
    assert record().normalized("none").preparation == "pixels / 255"
    assert record().normalized("0.5/0.25").preparation == "pixels / 255, minus 0.5, divided by 0.25"


# ---- the validation split -------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.floats(0, 0.99), st.integers(0, 1000))
def test_the_split_is_a_partition(n: int, fraction: float, seed: int) -> None:
    if round(n * fraction) == n:
        with pytest.raises(ValueError, match="leaves none"):
            data.split_validation(n, fraction, seed)
        return
    train_idx, val_idx = data.split_validation(n, fraction, seed)
    assert len(val_idx) == round(n * fraction)
    assert sorted([*train_idx, *val_idx]) == list(range(n))
    again = data.split_validation(n, fraction, seed)
    assert np.array_equal(train_idx, again[0])
    assert np.array_equal(val_idx, again[1])


def test_a_larger_validation_part_contains_the_smaller_one() -> None:
    small, large = (data.split_validation(1000, fraction, 7)[1] for fraction in (0.1, 0.3))
    assert set(small) <= set(large)


def test_splits_of_different_seeds_differ_and_are_not_the_noise_draw() -> None:
    from ncsam import noise

    first, second = (data.split_validation(10_000, 0.5, seed)[1] for seed in (0, 1))
    assert 2300 < len(set(first) & set(second)) < 2700  # 2500 expected; eight deviations of the hypergeometric
    flipped = noise.symmetric(np.arange(10_000) % 10, 0.5, 10, seed=0).flipped
    assert 2300 < flipped[first].sum() < 2700


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_is_a_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match="expected 0 ≤ fraction < 1"):
        data.split_validation(10, fraction, 0)


# ---- names and data of one's own ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown data set 'digit', did you mean 'digits'\\? known: digits, cifar10, cifar100, mnist"),
        ("cifr10:/somewhere", "did you mean 'cifar10'"),
        ("cifr10:somewhere", "did you mean 'cifar10'.*; as a factory: 'cifr10:somewhere' would import"),
        ("cifar10", "does not say where; spell it cifar10:PATH"),
        ("npz:", "does not say where"),
        ("my.sets:flowers", "'my.sets:flowers' would import and run code; if you trust it"),
        ("", "unknown data set ''"),
    ],
)
def test_names_nobody_knows(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.load(name)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_sets_of_the_test.py").write_text(
        """
import numpy as np, torch
from ncsam import data
open(__file__ + ".ran", "w").close()
x = np.random.default_rng(0).standard_normal((6, 4))
def arrays(seed): return x + seed, [0, 1, 2, 0, 1, 2], x, [0, 0, 1, 1, 2, 2]
def record(seed): return data.from_arrays("own", *arrays(seed))
def wrong(seed): return [1, 2, 3]
number = 3
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield str(tmp_path / "own_sets_of_the_test.py")
    sys.modules.pop("own_sets_of_the_test", None)


def test_a_factory_is_not_imported_without_trust(own_module: str) -> None:
    with pytest.raises(ValueError, match="trust=True"):
        data.load("own_sets_of_the_test:arrays")
    assert not Path(own_module + ".ran").exists()


def test_a_trusted_factory_gives_arrays_or_a_record(own_module: str) -> None:
    arrays = data.load("own_sets_of_the_test:arrays", seed=2, trust=True)
    own = data.load("own_sets_of_the_test:record", seed=2, trust=True)
    assert Path(own_module + ".ran").exists()
    assert (arrays.name, own.name) == ("own_sets_of_the_test:arrays", "own")
    assert arrays.hash == own.hash != data.load("own_sets_of_the_test:arrays", seed=3, trust=True).hash


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_sets_of_the_test:wrong", r"returned a list, expected Data or \(train_x"),
        ("own_sets_of_the_test:number", "is a int, expected a callable"),
        ("own_sets_of_the_test:nothing", "cannot import .* has no attribute 'nothing'"),
        ("no_such_module_anywhere:arrays", "No module named 'no_such_module_anywhere'; is its folder on PYTHONPATH"),
    ],
)
def test_factories_that_do_not_work(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.load(name, trust=True)
