"""MNIST and Fashion-MNIST: IDX files, plain or gzipped (LeCun, Cortes & Burges; Xiao et al., 1708.07747)."""

from __future__ import annotations

import gzip
import math
import os
import struct
from pathlib import Path

import numpy as np

from ncsam.data.arrays import from_arrays
from ncsam.data.dataset import Data

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
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
        ValueError: not an IDX file, or more or fewer entries than its sizes say.
        OSError: it cannot be read.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, ValueError) as error:
        raise ValueError(f"{path} is not a complete gzip file: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES:
        raise ValueError(f"{path} does not start with the magic number of an IDX file")
    start = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:start]) if len(content) >= start else ()
    dtype = np.dtype(_DTYPES[content[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise ValueError(f"{path} has {len(content)} bytes, expected {expected} for shape {shape}; is it complete?")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


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
