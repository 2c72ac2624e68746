"""CIFAR-10N/100N label files: what people answered, image by image (Wei et al., 2110.12088; non-commercial licence)."""

from __future__ import annotations

import os

import numpy as np

from ncsam.data import pickles

CLEAN = "clean_label"


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The label columns of ``CIFAR-10_human.pt`` or ``CIFAR-100_human.pt``, each (n,), int64, in training order.

    Raises:
        ValueError: the file asks for anything but arrays, or is not a dict of integer columns of one length with
            the column ``clean_label``.
        OSError: it cannot be read.
    """
    content = pickles.load_torch(path)
    if not isinstance(content, dict) or CLEAN not in content:
        raise ValueError(f"{path}: expected a dict with the key {CLEAN!r}, got {_described(content)}")
    columns = {str(key): pickles.as_integers(path, str(key), value) for key, value in content.items()}
    for key, column in columns.items():
        if len(column) != len(columns[CLEAN]):
            raise ValueError(f"{path}: {key!r} is of shape {column.shape}, {CLEAN!r} of shape {columns[CLEAN].shape}")
    return columns


def _described(content: object) -> str:
    return f"one with {sorted(map(str, content))}" if isinstance(content, dict) else f"a {type(content).__name__}"
