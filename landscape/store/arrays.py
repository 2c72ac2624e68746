"""Arrays as data sets: which types are stored, how they are laid out, and reading them within bounds."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from landscape.inputs import check_size
from landscape.store.errors import StoreError

COMPRESS_FROM = 4 * 1024  # bytes; below, chunk bookkeeping outweighs the gain
COMPRESS_TO = 16 * 1024 * 1024  # above (eigenvectors), gzip costs seconds for the few percent that mantissas give
FILTERS = {h5py.h5z.FILTER_DEFLATE: 1032, h5py.h5z.FILTER_SHUFFLE: 1, h5py.h5z.FILTER_FLETCHER32: 1}
# the filters we use, built into HDF5, with the greatest factor by which each can inflate
LARGE = 64 * 1024  # bytes; from here on the content of a data set is hashed apart, and read past HDF5
BLOCK = 4 << 20  # bytes; read and hashed in turn, each while Python does other things
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
    if compress and array.nbytes >= COMPRESS_FROM:
        options: dict[str, Any] = {"chunks": True, "fletcher32": True}
        if array.nbytes <= COMPRESS_TO:
            options |= {"compression": "gzip", "compression_opts": 4, "shuffle": True}
        return group.create_dataset(name, shape=array.shape, dtype=array.dtype, **options)
    # What create_dataset does for a plain data set, at less cost, which counts for a model of many small arrays
    dtype, space = h5py.h5t.py_create(array.dtype, logical=True), h5py.h5s.create_simple(array.shape)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_char_encoding(h5py.h5t.CSET_UTF8)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    return h5py.Dataset(
        h5py.h5d.create(group.id, name.encode(errors="surrogateescape"), dtype, space, properties, links)
    )


def fill(dataset: h5py.Dataset, array: np.ndarray) -> None:
    """Write the content of a data set."""
    if array.size:
        dataset.id.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array).reshape(array.shape))


def is_only_a_length(attributes: Mapping[str, np.ndarray]) -> bool:
    """True for the raw attributes of a dimension without labels: it has a size and no content."""
    return "NAME" in attributes and bytes(attributes["NAME"]).startswith(ONLY_A_LENGTH)


def is_contiguous(dataset: h5py.Dataset) -> bool:
    """Tell whether the content lies in the file in one piece."""
    return bool(dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS)


def read_raw(dataset: h5py.Dataset, file_size: int) -> np.ndarray:
    """The stored array (text as bytes), after checking that its claimed size can come from this file.

    Raises:
        StoreError: as :func:`room_for`.
    """
    array = room_for(dataset, file_size)
    if array.size:
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array


def read_in_blocks(dataset: h5py.Dataset, file_size: int) -> tuple[np.ndarray, Iterator[memoryview] | None]:
    """The stored array as :func:`read_raw` gives it, or one still to be filled, and its bytes in blocks.

    A large array that lies in the file as it lies in memory is read past HDF5, when its blocks are taken; that may be
    done in a thread, while the file is open.

    Raises:
        StoreError: as :func:`room_for`; from the blocks, if the file ends early.
    """
    array = room_for(dataset, file_size)
    place = _place(dataset, array) if array.nbytes >= LARGE else None
    if place is not None:
        return array, _blocks(*place, array)
    if array.size:
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array, None


def _place(dataset: h5py.Dataset, array: np.ndarray) -> tuple[int, int] | None:
    """Descriptor and offset at which the bytes of ``array`` lie in the file HDF5 has open; None if they do not."""
    if not is_contiguous(dataset):
        return None
    file = h5py.h5i.get_file_id(dataset.id)
    on_disk = file.get_access_plist().get_driver() == h5py.h5fd.SEC2
    if not on_disk or dataset.id.get_type() != h5py.h5t.py_create(array.dtype, logical=True):
        return None
    descriptor, offset = file.get_vfd_handle(), dataset.id.get_offset()
    with contextlib.suppress(OSError):  # only a hint
        os.posix_fadvise(descriptor, offset, array.nbytes, os.POSIX_FADV_WILLNEED)
    return descriptor, offset


def _blocks(descriptor: int, offset: int, array: np.ndarray) -> Iterator[memoryview]:
    content, done = array.reshape(-1).view(np.uint8).data, 0
    while done < len(content):
        count = os.preadv(descriptor, [content[done : done + BLOCK]], offset + done)
        if not count:
            raise StoreError(f"the file ends {len(content) - done} bytes before a data set does")
        yield content[done : done + count]
        done += count


def room_for(dataset: h5py.Dataset, file_size: int) -> np.ndarray:
    """An array for the content of a data set, after checking that its claimed size can come from this file.

    Raises:
        StoreError: a foreign type, a filter we do not use (its plugin is not loaded), data outside the file, a size
            that the bytes on disk cannot yield, or compressed data larger than this store compresses.
        ValueError: more bytes than :func:`landscape.inputs.limits` allows.
    """
    dtype, shape, properties = dataset.id.dtype, dataset.id.shape, dataset.id.get_create_plist()
    if dtype.kind not in "biufS":
        raise StoreError(f"{dataset.name} has type {dtype}, which this store does not write")
    layout = properties.get_layout()
    if properties.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise StoreError(f"{dataset.name} keeps its data in another file, which is not followed")
    inflation = 1
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    for number in filters:
        if number not in FILTERS or filters.count(number) > 1:
            raise StoreError(f"{dataset.name} uses HDF5 filter {number}, which this store does not write or load")
        inflation *= FILTERS[number]
    stored = dataset.id.get_storage_size()
    size = math.prod(shape) * dtype.itemsize
    chunk = math.prod(properties.get_chunk()) * dtype.itemsize if layout == h5py.h5d.CHUNKED else 0
    if stored > file_size or max(size, chunk if size else 0) > stored * inflation:
        raise StoreError(
            f"{dataset.name} claims {size} bytes in chunks of {chunk}, but {stored} of {file_size} are on disk"
        )
    if max(size, chunk) > COMPRESS_TO:
        if h5py.h5z.FILTER_DEFLATE in filters:
            raise StoreError(f"{dataset.name} unpacks to {size} bytes; this store compresses up to {COMPRESS_TO}")
        check_size(dataset.name, size)
    return np.empty(shape, dtype)


def decoded(array: np.ndarray) -> np.ndarray:
    """Text as ``str``, everything else as it is."""
    # numpy before 2 decodes an array without entries to floats.
    return np.char.decode(array, "utf-8").astype(np.str_, copy=False) if array.dtype.kind == "S" else array


def as_bytes(text: np.ndarray) -> np.ndarray:
    """Text of fixed length as single bytes along one more axis, netCDF's form of text.

    >>> as_bytes(np.array([b"ab", b"c"])).tolist()
    [[b'a', b'b'], [b'c', b'']]
    """
    single = h5py.string_dtype("utf-8", 1)
    return np.ascontiguousarray(text).view("S1").reshape(*text.shape, text.dtype.itemsize).astype(single)


def from_bytes(single: np.ndarray) -> np.ndarray:
    """Undo :func:`as_bytes`."""
    return np.ascontiguousarray(single).view(f"S{single.shape[-1]}").reshape(single.shape[:-1])
