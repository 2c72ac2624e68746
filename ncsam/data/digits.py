"""The handwritten digits that ship with scikit-learn: real data without a download."""

from __future__ import annotations

import functools

import numpy as np
import torch

from ncsam.data.dataset import Data, Normalization

TEST_FRACTION = 1 / 3


def load(*, seed: int = 0, normalization: str = "own") -> Data:
    """1,797 images of 8×8 pixels in ten classes; inputs float32 (n, 1, 8, 8), ready to use.

    A third, stratified by class and drawn from ``seed``, is the test set. Pixels (0…16) are divided by 16 and
    standardised with the mean and the deviation of the training part, or as ``normalization`` says, see
    :meth:`ncsam.data.Normalization.stated`.
    Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI repository (its test part).

    >>> digits = load(seed=0)
    >>> tuple(digits.train_x.shape), tuple(digits.test_x.shape)
    ((1198, 1, 8, 8), (599, 1, 8, 8))
    """
    # Imported here: it takes longer than reading any other data set.
    from sklearn.model_selection import train_test_split

    images, labels = _images_and_labels()
    train_x, test_x, train_y, test_y = train_test_split(  # copies
        images, labels, test_size=TEST_FRACTION, random_state=seed, stratify=labels
    )
    scaled = train_x / 16.0
    own = Normalization((float(scaled.mean()),), (float(scaled.std()),), scale=16.0)
    prepared = own.stated(normalization, "digits", channels=1)
    return Data(
        train_x=prepared(torch.from_numpy(train_x)[:, None]),
        train_y=torch.from_numpy(train_y).long(),
        test_x=prepared(torch.from_numpy(test_x)[:, None]),
        test_y=torch.from_numpy(test_y).long(),
        num_classes=10,
        name="digits",
        normalization=prepared,
    )


@functools.cache
def _images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 8, 8) and classes (n,), 1 MB, kept: reading their text for every run takes as long as an epoch."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target
