"""Pad-crop and flip: what happens to a sample depends on seed, epoch and index, and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy import stats

from ncsam.data import PadCropFlip

N = 500
IMAGES = torch.randint(1, 256, (N, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
EVERY = torch.arange(N)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


def test_any_batching_gives_the_same_images() -> None:
    augment = PadCropFlip(N, seed=3)
    whole = augment(IMAGES, EVERY, epoch=5)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    for size in (1, 7, 128):
        pieces = [PadCropFlip(N, seed=3)(IMAGES[part], part, epoch=5) for part in order.split(size)]
        assert torch.equal(torch.cat(pieces), whole[order])


def test_any_number_of_workers_gives_the_same_images() -> None:
    class Augmented(torch.utils.data.Dataset[torch.Tensor]):
        augment = PadCropFlip(N, seed=3)

        def __len__(self) -> int:
            return 40

        def __getitem__(self, i: int) -> torch.Tensor:
            return self.augment(IMAGES[i : i + 1], torch.tensor([i]), epoch=2)[0]

    expected = PadCropFlip(N, seed=3)(IMAGES[:40], EVERY[:40], epoch=2)
    for workers in (0, 2):
        loader = torch.utils.data.DataLoader(Augmented(), batch_size=16, num_workers=workers)
        assert torch.equal(torch.cat(list(loader)), expected)


def by_hand(image: torch.Tensor, pad: int, top: int, left: int, mirrored: bool) -> torch.Tensor:
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * pad, width + 2 * pad, dtype=image.dtype)
    padded[:, pad : pad + height, pad : pad + width] = image
    cut = padded[:, top : top + height, left : left + width]
    return cut.flip(2) if mirrored else cut


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_image_is_one_of_the_possible_cuts_and_all_are_equally_likely(dtype: torch.dtype) -> None:
    pad, n = 1, 3600
    image = torch.arange(1, 1 + 9 * 7, dtype=dtype).reshape(1, 9, 7)
    cuts = [by_hand(image, pad, t, left, m) for t in range(3) for left in range(3) for m in (False, True)]
    augmented = PadCropFlip(n, pad=pad, seed=0)(image.expand(n, 1, 9, 7), torch.arange(n), epoch=0)
    assert augmented.dtype == dtype
    found = torch.stack([(augmented == cut).flatten(1).all(1) for cut in cuts], dim=1)
    assert (found.sum(1) == 1).all()
    assert stats.chisquare(found.sum(0).numpy()).pvalue > 1e-4


def test_without_padding_and_flip_nothing_changes() -> None:
    assert torch.equal(PadCropFlip(N, pad=0, flip=False)(IMAGES, EVERY, epoch=1), IMAGES)


def test_without_flip_nothing_is_mirrored() -> None:
    columns = torch.arange(1, 8, dtype=torch.float32).expand(N, 1, 9, 7)
    augmented = PadCropFlip(N, pad=2, flip=False)(columns, EVERY, epoch=1)[:, 0, 4]
    steps = augmented.diff(dim=1)[(augmented[:, :-1] > 0) & (augmented[:, 1:] > 0)]
    assert (steps == 1).all()


def test_epochs_and_seeds_differ() -> None:
    first = PadCropFlip(N, seed=0)(IMAGES, EVERY, epoch=0)
    for other in (PadCropFlip(N, seed=0)(IMAGES, EVERY, epoch=1), PadCropFlip(N, seed=1)(IMAGES, EVERY, epoch=0)):
        same = (first == other).flatten(1).all(1).double().mean()
        assert same < 0.05  # 1/162 expected


def test_the_global_random_state_is_neither_read_nor_changed() -> None:
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    PadCropFlip(N, seed=0)(IMAGES, EVERY, epoch=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


@pytest.mark.parametrize("device", DEVICES)
def test_devices_agree_bitwise(device: str) -> None:
    augmented = PadCropFlip(N, seed=3)(IMAGES.to(device), EVERY.to(device), epoch=5)
    assert augmented.device.type == device
    assert torch.equal(augmented.cpu(), PadCropFlip(N, seed=3)(IMAGES, EVERY, epoch=5))


def test_impossible_requests() -> None:
    augment = PadCropFlip(N)
    with pytest.raises(ValueError, match=r"x has shape \(500, 3, 9, 7\), index \(3,\)"):
        augment(IMAGES, EVERY[:3], epoch=0)
    with pytest.raises(ValueError, match="expected \\(b, channels, height, width\\)"):
        augment(IMAGES[0], EVERY[:3], epoch=0)
    with pytest.raises(IndexError):
        augment(IMAGES[:1], torch.tensor([N]), epoch=0)
    with pytest.raises(ValueError, match="pad is -1, expected ≥ 0"):
        PadCropFlip(N, pad=-1)
