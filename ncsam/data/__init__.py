"""Data sets, read without torchvision and without running anything a file asks for."""

from __future__ import annotations

from ncsam.data import digits
from ncsam.data.dataset import Data, Normalization, split_validation
from ncsam.data.names import unknown

__all__ = ["Data", "Normalization", "load", "split_validation"]


def load(name: str, *, seed: int = 0) -> Data:
    """Load the data set spelled ``name``.

    >>> load("digits").num_classes
    10
    """
    if name == "digits":
        return digits.load(seed=seed)
    raise ValueError(unknown("data set", name, ["digits"]))
