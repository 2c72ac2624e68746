"""Pad-crop and flip, on tensors, on whatever device they are on."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch.nn import functional


class PadCropFlip:
    """The standard CIFAR augmentation: pad with zeros, cut the original size out at random, flip half the images.

    What happens to a sample is a function of (seed, epoch, its index in the data set) alone, read from the stream of a
    counter-based generator (Philox; Salmon et al. 2011): the same under any batch size, batch order, number of workers
    or device, and the random state of torch, numpy and Python is neither read nor changed.

    Apply it to uint8 pixels, where the padding is black as is usual; on normalised inputs zero is the mean colour.

    Args:
        num_samples: number of samples of the data set, bounding the indices.
        pad: pixels added to every side.
        flip: whether to mirror left–right with probability ½.
        seed: ≥ 0.

    Raises:
        ValueError: a negative argument.

    >>> augment = PadCropFlip(num_samples=100, seed=1)
    >>> x = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8).float()
    >>> together = augment(x, index=torch.tensor([5, 17]), epoch=3)
    >>> alone = augment(x[1:], index=torch.tensor([17]), epoch=3)
    >>> torch.equal(together[1:], alone)
    True
    """

    def __init__(self, num_samples: int, *, pad: int = 4, flip: bool = True, seed: int = 0) -> None:
        for name, value in (("num_samples", num_samples), ("pad", pad), ("seed", seed)):
            if value < 0:
                raise ValueError(f"{name} is {value}, expected ≥ 0")
        self.num_samples = num_samples
        self.pad = pad
        self.flip = flip
        self.seed = seed

    def __call__(self, x: torch.Tensor, index: torch.Tensor, epoch: int) -> torch.Tensor:
        """Augment images ``x``, (b, channels, height, width), whose places in the data set are ``index``, (b,).

        Returns a new tensor of the same shape, dtype and device.

        Raises:
            ValueError: shapes that do not match.
            IndexError: an index outside the data set.
        """
        if x.ndim != 4 or index.shape != x.shape[:1]:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, index {tuple(index.shape)}; expected (b, channels, height, width), (b,)"
            )
        top, left, mirrored = self._choices(epoch, x.device)[index.to(x.device)].unbind(1)
        height, width = x.shape[2:]
        windows = functional.pad(x, (self.pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        cropped = windows[torch.arange(len(x), device=x.device), :, top, left]
        return torch.where(mirrored.bool()[:, None, None, None], cropped.flip(-1), cropped)

    def _choices(self, epoch: int, device: torch.device) -> torch.Tensor:
        return _choices(self.num_samples, self.pad, self.flip, self.seed, epoch, device)


@functools.lru_cache(maxsize=2)
def _choices(num_samples: int, pad: int, flip: bool, seed: int, epoch: int, device: torch.device) -> torch.Tensor:
    """(num_samples, 3), int64: top and left of the cut in 0…2·pad, and whether to flip; one row a sample."""
    draws = np.random.Generator(np.random.Philox(key=[seed, epoch])).random((num_samples, 3))
    return torch.from_numpy((draws * [2 * pad + 1, 2 * pad + 1, 1 + flip]).astype(np.int64)).to(device)
