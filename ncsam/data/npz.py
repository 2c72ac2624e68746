"""Four arrays in one ``.npz`` file."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterable
from typing import IO

import numpy as np

from landscape._suggest import unknown
from landscape.inputs import Unfit, check_size, opened
from ncsam.data.arrays import from_arrays
from ncsam.data.dataset import Data

_SPELLINGS = (
    ("train_x", "train_y", "test_x", "test_y"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)


_UNREADABLE = (ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Errors that a damaged archive, or one that is encrypted or packed in an unknown way, makes its reader raise."""


def load(path: str | os.PathLike[str]) -> Data:
    """Arrays ``train_x``, ``train_y``, ``test_x``, ``test_y``, and optionally ``classes`` (names).

    The spellings ``x_train`` … and ``train_images``, ``train_labels`` … are understood as well. What the arrays may
    be is said at :func:`ncsam.data.from_arrays`. Arrays of objects are refused, since they are pickles.

    Raises:
        ValueError: not an ``.npz`` file, arrays missing, arrays of objects, arrays that make no data set, or more than
            :func:`landscape.inputs.limits` allows.
        OSError: it cannot be read.
    """
    with opened(path) as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError(f"{path} is not an .npz file, a zip archive of arrays; is it complete?")
        stream.seek(0)
        try:
            with zipfile.ZipFile(stream) as archive:
                _check_members(path, archive, {*sum(_SPELLINGS, ()), "classes"})
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                names = next((names for names in _SPELLINGS if set(names) <= set(file.files)), None)
                if names is None:
                    raise ValueError(f"it holds {sorted(file.files)}, expected {', '.join(_SPELLINGS[0])}")
                train_x, train_y, test_x, test_y = (file[name] for name in names)
                classes = [str(name) for name in file["classes"]] if "classes" in file.files else None
        except Unfit:
            raise
        except _UNREADABLE as error:
            raise ValueError(f"{path}: {first_line(error)}") from error
    return from_arrays("npz", train_x, train_y, test_x, test_y, classes)


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an ``.npy`` file.

    Raises:
        ValueError: no such file, an array of objects, or a size that the file does not have or that is not allowed.
        OSError: it cannot be read.
    """
    with opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        check_size(path, size)
        try:
            _check_header(stream, size)
            stream.seek(0)
            return np.asarray(np.load(stream, allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: not a readable array ({first_line(error)})") from error


def read_member(path: str | os.PathLike[str], key: str | None = None) -> np.ndarray:
    """The array of that name in an ``.npz`` file, which may be left out where there is one only.

    Raises:
        ValueError: not an ``.npz`` file, no such array, several and no name, or as :func:`read_array`.
        OSError: it cannot be read.
    """
    with opened(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
                if key is None and len(names) == 1:
                    key = names[0]
                if key is None or key not in names:
                    said = "say which" if key is None else unknown("key", key, names)
                    raise ValueError(f"it holds {', '.join(names)}; {said}")
                _check_members(path, archive, [key])
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                return np.asarray(file[key])
        except Unfit:
            raise
        except _UNREADABLE as error:
            raise ValueError(f"{path}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of what an error says, its kind if it says nothing."""
    return (str(error.args[0] if error.args else "").splitlines() or [type(error).__name__])[0]


def _check_members(path: str | os.PathLike[str], archive: zipfile.ZipFile, names: Iterable[str]) -> None:
    """Refuse arrays whose sizes, as the archive and they themselves state them, contradict each other or the limit."""
    wanted = {f"{name}.npy" for name in names} | set(names)
    members = [info for info in archive.infolist() if info.filename in wanted]
    check_size(path, sum(info.file_size for info in members), sum(info.compress_size for info in members))
    for info in members:
        with archive.open(info) as member:
            _check_header(member, info.file_size)


def _check_header(stream: IO[bytes], size: int) -> None:
    """Refuse an array whose header states another size than the ``size`` bytes that there are."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"its format has version {version}, expected 1.0 or 2.0")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
    stated = stream.tell() + math.prod(shape) * dtype.itemsize
    if stated != size or any(axis < 0 for axis in shape):
        raise ValueError(f"it states {stated} bytes for shape {shape}, and has {size}; is it complete?")
