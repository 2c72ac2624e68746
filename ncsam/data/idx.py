"""MNIST and Fashion-MNIST: IDX files, plain or gzipped (LeCun, Cortes & Burges; Xiao et al., 1708.07747)."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from landscape.inputs import check_size, opened
from ncsam.data.arrays import from_arrays
from ncsam.data.dataset import Data

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_AXES = 8  # images in colour have four
_INFLATION = 1032  # times that gzip can make of a byte at most
_FOLDERS = (".", "raw", "MNIST/raw", "FashionMNIST/raw")

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def load_mnist(directory: str | os.PathLike[str]) -> Data:
    """MNIST; uint8 (n, 1, 28, 28), ten classes.

    Files are ``train-images-idx3-ubyte`` and so on, with or without ``.gz``, in ``directory`` or in the subfolder
    ``raw`` or ``MNIST/raw`` that other loaders make.

    Raises:
        FileNotFoundError: one of the four files is missing.
        ValueError: one is not an IDX file, or is cut short.
    """
    return _load("mnist", directory, tuple("0123456789"))


def load_fashion_mnist(directory: str | os.PathLike[str]) -> Data:
    """Fashion-MNIST, as :func:`load_mnist`."""
    return _load("fashion-mnist", directory, FASHION_CLASSES)


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an IDX file: magic number, big-endian sizes, then the entries.

    Raises:
        ValueError: not an IDX file, more or fewer entries than its sizes say, or more than
            :func:`landscape.inputs.limits` allows.
        OSError: it cannot be read.
    """
    path = Path(path)
    with opened(path) as file:
        stored = os.fstat(file.fileno()).st_size
        if path.suffix != ".gz":
            return _read(path, file, stored, stored)
        try:
            return _read(path, gzip.GzipFile(fileobj=file), stored, None)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is not a complete gzip file: {error}") from error


def _read(path: Path, stream: IO[bytes] | gzip.GzipFile, stored: int, size: int | None) -> np.ndarray:
    """The array in a stream of ``size`` bytes, none if that is known only after unpacking the ``stored`` ones."""
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES:
        raise ValueError(f"{path} does not start with the magic number of an IDX file")
    if head[3] > _AXES:
        raise ValueError(f"{path} has {head[3]} axes, expected at most {_AXES}; is it an IDX file?")
    sizes = stream.read(4 * head[3])
    start = 4 + len(sizes)
    shape = struct.unpack(f">{len(sizes) // 4}I", sizes[: len(sizes) // 4 * 4])
    dtype = np.dtype(_DTYPES[head[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if size is None and len(shape) == head[3] and expected <= stored * _INFLATION:
        check_size(path, expected, stored)
        content = stream.read(expected - start + 1)
        size = start + len(content)
    elif size == expected:
        check_size(path, expected)
        content = stream.read()
    if size != expected or len(shape) < head[3]:
        found = f"{stored} compressed" if size is None else size
        raise ValueError(f"{path} has {found} bytes, expected {expected} for shape {shape}; is it complete?")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _load(name: str, directory: str | os.PathLike[str], classes: tuple[str, ...]) -> Data:
    root = Path(directory)
    train_x, train_y, test_x, test_y = (
        read(_find(root, f"{part}-{content}-{kind}"))
        for part in ("train", "t10k")
        for content, kind in (("images", "idx3-ubyte"), ("labels", "idx1-ubyte"))
    )
    return from_arrays(name, train_x, train_y, test_x, test_y, classes)


def _find(root: Path, stem: str) -> Path:
    for folder in _FOLDERS:
        for name in (stem, f"{stem}.gz"):
            if (root / folder / name).is_file():
                return root / folder / name
    raise FileNotFoundError(f"no {stem} or {stem}.gz in {root} (nor in {', '.join(_FOLDERS[1:])} below it)")
