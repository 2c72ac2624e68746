"""Arrays as data sets: which types are stored, how they are laid out, and reading them within bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from landscape.store.errors import StoreError

COMPRESS_FROM = 4 * 1024  # bytes; below, chunk bookkeeping outweighs the gain
COMPRESS_TO = 16 * 1024 * 1024  # above (eigenvectors), gzip costs seconds for the few percent that mantissas give
FILTERS = {h5py.h5z.FILTER_DEFLATE: 1032, h5py.h5z.FILTER_SHUFFLE: 1, h5py.h5z.FILTER_FLETCHER32: 1}
# the filters we use, built into HDF5, with the greatest factor by which each can inflate
ONLY_A_LENGTH = b"This is a netCDF dimension but not a netCDF variable"  # netCDF's mark of a dimension without labels


def storable(value: Any, where: str) -> np.ndarray:
    """``value`` as an array of bool, integers, float16/32/64 or fixed-length UTF-8 text, little-endian.

    Raises:
        StoreError: any other type; text that holds a NUL.
    """
    array = np.asarray(value)
    if array.dtype.kind == "T" or (array.dtype.kind == "O" and all(isinstance(v, str) for v in array.flat)):
        array = array.astype(np.str_)
    if array.dtype.kind == "U":
        if any("\0" in text for text in array.flat):
            raise StoreError(f"{where} holds text with a NUL character, which HDF5 cannot store; remove it")
        encoded = np.char.encode(array, "utf-8")
        return encoded.astype(h5py.string_dtype("utf-8", max(encoded.dtype.itemsize, 1)))
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise StoreError(f"{where} has dtype {array.dtype}; expected bool, integers, float16/32/64 or str")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def create_array(group: h5py.Group, name: str, array: np.ndarray, *, compress: bool) -> h5py.Dataset:
    """A data set for a storable array; with ``compress``, of gzip chunks at middling size and checked ones if large."""
    options: dict[str, Any] = {}
    if compress and array.nbytes >= COMPRESS_FROM:
        options = {"chunks": True, "fletcher32": True}
        if array.nbytes <= COMPRESS_TO:
            options |= {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    return group.create_dataset(name, shape=array.shape, dtype=array.dtype, **options)


def fill(dataset: h5py.Dataset, array: np.ndarray) -> None:
    """Write the content of a data set."""
    if array.size:
        dataset.id.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array).reshape(array.shape))


def is_only_a_length(attributes: Mapping[str, np.ndarray]) -> bool:
    """True for the raw attributes of a dimension without labels: it has a size and no content."""
    return "NAME" in attributes and bytes(attributes["NAME"]).startswith(ONLY_A_LENGTH)


def read_raw(dataset: h5py.Dataset, file_size: int) -> np.ndarray:
    """The stored array (text as bytes), after checking that its claimed size can come from this file.

    Raises:
        StoreError: a foreign type, a filter we do not use (its plugin is not loaded), data outside the file, or a
            size that the bytes on disk cannot yield.
    """
    where, dtype, shape = dataset.name, dataset.id.dtype, dataset.id.shape
    if dtype.kind not in "biufS":
        raise StoreError(f"{where} has type {dtype}, which this store does not write")
    properties = dataset.id.get_create_plist()
    if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
        raise StoreError(f"{where} keeps its data in another file, which is not followed")
    inflation = 1
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    for number in filters:
        if number not in FILTERS or filters.count(number) > 1:
            raise StoreError(f"{where} uses HDF5 filter {number}, which this store does not write or load")
        inflation *= FILTERS[number]
    stored = dataset.id.get_storage_size()
    size = math.prod(shape) * dtype.itemsize
    chunked = properties.get_layout() == h5py.h5d.CHUNKED
    chunk = math.prod(properties.get_chunk()) * dtype.itemsize if chunked else 0
    if stored > file_size or max(size, chunk if size else 0) > stored * inflation:
        raise StoreError(f"{where} claims {size} bytes in chunks of {chunk}, but {stored} of {file_size} are on disk")
    array = np.empty(shape, dtype)
    if size:
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array


def decoded(array: np.ndarray) -> np.ndarray:
    """Text as ``str``, everything else as it is."""
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
