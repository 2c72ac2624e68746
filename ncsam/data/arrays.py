"""Data sets from plain arrays: what is a pixel, what is a label, what is normalised."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from landscape import LazyInputs
from landscape.inputs import check_classes
from ncsam.data.dataset import Data, Normalization

_CHUNK = 2**20  # pixels of a channel counted at once, for which numpy takes eight bytes each


def from_arrays(
    name: str,
    train_x: ArrayLike,
    train_y: ArrayLike,
    test_x: ArrayLike,
    test_y: ArrayLike,
    classes: Sequence[str] | None = None,
) -> Data:
    """A data set from four arrays.

    Floating inputs are taken as ready and become float32. uint8 inputs are pixels: images (n, height, width) gain a
    channel axis, images (n, height, width, 1 or 3) are put channels first, and the normalisation is that of the
    training pixels. Images of another number of channels are (n, channels, height, width), with fewer channels than
    rows and columns. Labels are integers, (n,) or (n, 1), in 0…C−1; C is the number of ``classes``, or the largest
    label plus one.

    Raises:
        ValueError: inputs neither floating nor uint8, images without a clear axis of channels, labels not integers,
            more classes than :func:`landscape.inputs.limits` allows, or as :class:`~ncsam.data.Data`.

    >>> images = np.zeros((2, 8, 8), dtype=np.uint8)
    >>> from_arrays("blank", images, [0, 1], images, [1, 0]).input_shape
    (1, 8, 8)
    """
    labels = [_labels(f"{name}: {part}", y) for part, y in (("train", train_y), ("test", test_y))]
    num_classes = len(classes) if classes is not None else int(max(y.max(initial=0) for y in labels)) + 1
    check_classes(name, num_classes)
    inputs = [_inputs(f"{name}: {part}", x) for part, x in (("train", train_x), ("test", test_x))]
    return Data(
        train_x=torch.from_numpy(inputs[0]),
        train_y=torch.from_numpy(labels[0]),
        test_x=torch.from_numpy(inputs[1]),
        test_y=torch.from_numpy(labels[1]),
        num_classes=num_classes,
        name=name,
        classes=tuple(map(str, classes)) if classes is not None else (),
        normalization=pixel_statistics(inputs[0]) if inputs[0].dtype == np.uint8 else None,
    )


def pixel_statistics(x: np.ndarray | LazyInputs) -> Normalization:
    """Mean and deviation of each channel of uint8 inputs (n, channels, …), over all samples and positions, of x / 255.

    Exact, from counts of the 256 levels; a channel that never varies is left unscaled.
    """
    levels = np.arange(256) / 255.0
    counts = np.zeros((x.shape[1], 256), dtype=np.int64)
    step = max(1, _CHUNK // math.prod(x.shape[2:]))
    for start in range(0, len(x), step):
        part = np.asarray(x[start : start + step])
        for channel in range(x.shape[1]):
            counts[channel] += np.bincount(part[:, channel].ravel(), minlength=256)
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
    return Normalization(tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist()), scale=255.0)


def _inputs(what: str, x: ArrayLike) -> np.ndarray:
    array = np.asarray(x)
    if np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):  # what does not fit is infinite, and refused as such
            return np.array(array, dtype=np.float32)
    if array.dtype != np.uint8:
        raise ValueError(f"{what} inputs are {array.dtype}, expected floating (ready) or uint8 (pixels); convert them")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4:
        first, last = (array.shape[axis] in (1, 3) for axis in (1, 3))
        if first == last and (first or array.shape[1] >= min(array.shape[2:])):
            raise ValueError(
                f"{what} inputs are uint8 of shape {array.shape}, where it is not clear which axis is that of the "
                "channels; give 1 or 3 channels, or floating inputs (ready)"
            )
        array = np.moveaxis(array, -1, 1) if last else array
    return np.array(array, order="C")


def _labels(what: str, y: ArrayLike) -> np.ndarray:
    array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what} labels are {array.dtype} of shape {array.shape}, expected integers of shape (n,)")
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{what} labels go up to {array.max()}, expected 0…C−1")
    return array.astype(np.int64)
