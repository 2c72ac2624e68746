"""The record every reader returns, and the split of a training set into a training and a validation part."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import LazyInputs

Inputs = Tensor | LazyInputs
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PIXEL = 255  # the largest value of a pixel
_LARGEST = 1e6  # of means and deviations, of whose inverse too
_AS_GIVEN = "as the data set has them"


@dataclasses.dataclass(frozen=True)
class Normalization:
    """x ↦ (x / scale − mean) / std, per channel (the first axis of a sample).

    ``mean`` and ``std`` are, unless stated otherwise, those of the training inputs after division by ``scale``; one
    entry serves all channels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to a batch (n, channels, …) on its own device; returns float32 of the same shape.

        >>> Normalization((0.5,), (0.25,), scale=255.0)(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist()
        [[[[-2.0, 2.0]]]]
        """
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean = torch.tensor(self.mean, dtype=torch.float32, device=x.device).reshape(shape)
        std = torch.tensor(self.std, dtype=torch.float32, device=x.device).reshape(shape)
        return (x.float() / self.scale - mean) / std

    def __str__(self) -> str:
        words = [f"pixels / {self.scale:g}"]
        if any(self.mean):
            words.append(f"minus {' '.join(f'{m:.4g}' for m in self.mean)}")
        if any(s != 1 for s in self.std):
            words.append(f"divided by {' '.join(f'{s:.4g}' for s in self.std)}")
        return ", ".join([*words, "by channel"] if len(words) > 1 and len(self.mean) > 1 else words)

    def stated(self, spec: str, name: str, channels: int) -> Normalization:
        """The normalisation spelled ``spec`` in place of this one, of the data set ``name``, with the same scale.

        ====================  =======================================================================================
        ``own``               this one: mean and deviation of the training pixels, by channel
        ``none``              pixels divided by the scale, and nothing more
        ``imagenet``          the mean 0.485, 0.456, 0.406 and the deviation 0.229, 0.224, 0.225 of red, green, blue
        ``MEANS/DEVIATIONS``  numbers for each channel, or one for all: ``0.5,0.5,0.5/0.25,0.25,0.25``, ``0.5/0.25``
        ====================  =======================================================================================

        Raises:
            ValueError: an unknown spelling, numbers out of range, or another number of channels.

        >>> Normalization((0.3,), (0.2,), scale=255.0).stated("0.5/0.25", "mnist", channels=1)
        Normalization(mean=(0.5,), std=(0.25,), scale=255.0)
        """
        found = parse_normalization(spec)
        if found is None:
            return self
        mean, std = found
        if len(mean) not in (1, channels):
            raise ValueError(
                f"normalization {spec!r} has {len(mean)} channels, the inputs of {name} have {channels}; "
                "give one number for each, or one for all"
            )
        most = _PIXEL / self.scale
        if far := [m for m in mean if abs(m) > most]:
            raise ValueError(
                f"normalization {spec!r} has a mean of {far[0]:g}, but pixels are divided by {self.scale:g} before it "
                f"is subtracted and are at most {most:g}; give means and deviations in that unit"
            )
        return Normalization(mean, std, self.scale)


def preparation_in_words(preparation: str, normalization: str) -> str:
    """A :attr:`Data.preparation`, with the option that states it; without where inputs are ready and it does nothing.

    >>> preparation_in_words("pixels / 16", "none"), preparation_in_words("as the data set has them (int64)", "own")
    ('pixels / 16 (--normalization none)', 'as the data set has them (int64)')
    """
    return preparation if preparation.startswith(_AS_GIVEN) else f"{preparation} (--normalization {normalization})"


def parse_normalization(spec: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Means and deviations that ``spec`` spells, see :meth:`Normalization.stated`; none for ``own``.

    Raises:
        ValueError: an unknown spelling, or numbers out of range.
    """
    known: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None]
    known = {"own": None, "none": ((0.0,), (1.0,)), "imagenet": _IMAGENET}
    if spec in known:
        return known[spec]
    try:
        mean, std = (tuple(map(float, numbers.split(","))) for numbers in spec.split("/"))
    except ValueError:
        raise ValueError(
            f"normalization is {spec!r}, expected own, none, imagenet or MEANS/DEVIATIONS such as 0.5/0.25, "
            "of pixels / 255"
        ) from None
    if len(mean) != len(std):
        raise ValueError(f"normalization is {spec!r}: means: {len(mean)}, deviations: {len(std)}; give as many of both")
    if not all(abs(m) <= _LARGEST for m in mean) or not all(1 / _LARGEST <= s <= _LARGEST for s in std):
        raise ValueError(f"normalization is {spec!r}: means lie within ±1e6, deviations in 1e-6…1e6")
    return mean, std


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A classification data set, in memory or with inputs that are read as they are needed.

    Attributes:
        train_x, test_x: inputs, (n, …). **float32 is ready for the model; uint8 is raw pixels**, a quarter of the
            size, to be augmented as they are and made ready by :meth:`prepare` on whatever device they are on.
            :class:`landscape.LazyInputs` of uint8 for data larger than memory.
        train_y, test_y: labels as the data set has them, (n,), int64, in 0…C−1.
        num_classes: C.
        name: how :func:`ncsam.data.load` spells the set, without the folder.
        classes: a name for each class.
        normalization: what was applied (float32) or is still to be applied (uint8); None if the inputs are as given.

    Raises:
        ValueError: shapes, dtypes or labels contradict the above, or an input is not finite.
    """

    train_x: Inputs = dataclasses.field(repr=False)
    train_y: torch.Tensor = dataclasses.field(repr=False)
    test_x: Inputs = dataclasses.field(repr=False)
    test_y: torch.Tensor = dataclasses.field(repr=False)
    num_classes: int
    name: str
    classes: tuple[str, ...] = dataclasses.field(repr=False, default=())
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        if not self.classes:
            object.__setattr__(self, "classes", tuple(str(c) for c in range(self.num_classes)))
        if len(self.classes) != self.num_classes:
            raise ValueError(f"{self.name}: {len(self.classes)} class names for {self.num_classes} classes")
        for part, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            _check_part(f"{self.name}: {part}", x, y, self.num_classes)
        if self.train_x.shape[1:] != self.test_x.shape[1:] or self.train_x.dtype != self.test_x.dtype:
            raise ValueError(
                f"{self.name}: training inputs are {self.train_x.dtype} of shape {self.input_shape}, "
                f"test inputs {self.test_x.dtype} of shape {tuple(self.test_x.shape[1:])}; they must agree"
            )
        if self.train_x.dtype == torch.uint8 and self.normalization is None:
            raise ValueError(f"{self.name}: uint8 inputs need a normalization, got None")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch axis."""
        return tuple(self.train_x.shape[1:])

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        """A batch of this set's inputs, ready for a model: uint8 pixels are normalised, float32 passes through.

        >>> from ncsam import data
        >>> digits = data.load("digits")
        >>> digits.prepare(digits.train_x[:5]) is digits.train_x
        False
        >>> torch.equal(digits.prepare(digits.train_x[:5]), digits.train_x[:5])
        True
        """
        if x.dtype != torch.uint8 or self.normalization is None:
            return x
        return self.normalization(x)

    @property
    def num_outputs(self) -> int:
        """Size of the last axis of a model's outputs: C."""
        return self.num_classes

    @property
    def preparation(self) -> str:
        """Description in words of how inputs become what a model gets.

        >>> from ncsam import data
        >>> data.load("digits", normalization="none").preparation
        'pixels / 16'
        """
        if self.normalization is not None:
            return str(self.normalization)
        return f"{_AS_GIVEN} ({str(self.train_x.dtype).removeprefix('torch.')})"

    def normalized(self, spec: str) -> Data:
        """The same pixels, to be prepared as ``spec`` says, see :meth:`Normalization.stated`.

        Raises:
            ValueError: an impossible spelling; inputs that are ready (float32) and another one than ``own``.
        """
        if parse_normalization(spec) is None:
            return self
        if self.train_x.dtype != torch.uint8 or self.normalization is None:
            raise ValueError(
                f"inputs of {self.name} are ready for the model; normalization {spec!r} prepares pixels "
                "(uint8), leave it out"
            )
        stated = self.normalization.stated(spec, self.name, self.input_shape[0])
        return dataclasses.replace(self, normalization=stated)

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of inputs, labels and class names, computed when first asked for.

        Of lazy inputs it is their ``digest`` that is hashed.
        """
        digest = hashlib.sha256(repr((self.classes, self.normalization)).encode())
        for tensor in (self.train_x, self.train_y, self.test_x, self.test_y):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            if isinstance(tensor, LazyInputs):
                digest.update(tensor.digest.encode())
            else:
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def check_in_memory(self, what: str) -> None:
        """Refuse ``what``, which needs all inputs at once, if the inputs are lazy.

        Raises:
            ValueError: they are.
        """
        if isinstance(self.train_x, LazyInputs):
            raise ValueError(
                f"{what} needs all inputs in memory, and those of {self.name} are read as they are needed; "
                "take the data without ,lazy"
            )


def picked(x: Inputs, rows: Any) -> Inputs:
    """Rows of inputs, still to be read where they are lazy."""
    return x.select(rows) if isinstance(x, LazyInputs) else x[rows]


def _check_part(what: str, x: Inputs, y: torch.Tensor, num_classes: int) -> None:
    if isinstance(x, LazyInputs) and x.dtype != torch.uint8:
        raise ValueError(f"{what} inputs are read as they are needed and {x.dtype}, expected uint8 (raw pixels)")
    if x.dtype not in (torch.float32, torch.uint8):
        raise ValueError(f"{what} inputs are {x.dtype}, expected float32 (ready) or uint8 (raw pixels)")
    if y.dtype != torch.int64 or y.ndim != 1:
        raise ValueError(f"{what} labels are {y.dtype} of shape {tuple(y.shape)}, expected int64 of shape (n,)")
    if x.ndim < 2 or len(x) != len(y) or x.numel() == 0:
        raise ValueError(
            f"{what} inputs have shape {tuple(x.shape)} and there are {len(y)} labels, expected (n, …) and n ≥ 1"
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{what} labels lie in {low}…{high}, expected 0…{num_classes - 1}")
    if isinstance(x, Tensor) and x.dtype == torch.float32 and not bool(torch.isfinite(x).all()):
        raise ValueError(f"{what} inputs hold {int((~torch.isfinite(x)).sum())} non-finite values; clean them first")


def split_validation(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split ``range(n)`` at random into a training part and a validation part of ``round(n·fraction)`` samples.

    Returns:
        ``(train_idx, val_idx)``, int64, each ascending, together every index once. The same arguments give the same
        split; larger fractions with the same seed contain the smaller ones.

    Raises:
        ValueError: ``fraction`` outside [0, 1), or nothing would be left to train on.

    >>> train_idx, val_idx = split_validation(10, 0.2, seed=0)
    >>> len(train_idx), len(val_idx)
    (8, 2)
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"validation fraction is {fraction}, expected 0 ≤ fraction < 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected an integer ≥ 0")
    count = round(n * fraction)
    if count >= n:
        raise ValueError(f"a validation fraction of {fraction} leaves none of {n} samples to train on; take less")
    order = np.random.default_rng([_SPLIT_STREAM, seed]).permutation(n)
    return np.sort(order[count:]), np.sort(order[:count])


_SPLIT_STREAM = 0x51F7  # keeps the split independent of other uses of the same seed
