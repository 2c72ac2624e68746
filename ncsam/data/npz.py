"""Four arrays in one ``.npz`` file."""

from __future__ import annotations

import os
import zipfile
import zlib

import numpy as np

from ncsam.data.arrays import from_arrays
from ncsam.data.dataset import Data

_SPELLINGS = (
    ("train_x", "train_y", "test_x", "test_y"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)


def load(path: str | os.PathLike[str]) -> Data:
    """Arrays ``train_x``, ``train_y``, ``test_x``, ``test_y``, and optionally ``classes`` (names).

    The spellings ``x_train`` … and ``train_images``, ``train_labels`` … are understood as well. What the arrays may
    be is said at :func:`ncsam.data.from_arrays`. Arrays of objects are refused, since they are pickles.

    Raises:
        ValueError: not an ``.npz`` file, arrays missing, arrays of objects, or arrays that make no data set.
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError(f"{path} is not an .npz file, a zip archive of arrays; is it complete?")
        stream.seek(0)
        try:
            with np.load(stream, allow_pickle=False) as file:
                names = next((names for names in _SPELLINGS if set(names) <= set(file.files)), None)
                if names is None:
                    raise ValueError(f"it holds {sorted(file.files)}, expected {', '.join(_SPELLINGS[0])}")
                train_x, train_y, test_x, test_y = (file[name] for name in names)
                classes = [str(name) for name in file["classes"]] if "classes" in file.files else None
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error
    return from_arrays("npz", train_x, train_y, test_x, test_y, classes)
