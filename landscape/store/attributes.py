"""Attributes: text, whole and real numbers and truth values as HDF5 knows them, everything else as JSON.

Text is stored with fixed length, since variable-length text would lie in HDF5's global heap, where a damaged length
is not noticed before memory is asked for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from landscape.store.errors import StoreError

JSON_MARK = "json:"
DIMENSIONS = {  # HDF5's and netCDF's own bookkeeping of dimension scales
    *("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"),
    *("_Netcdf4Contents", "_Netcdf4Dimid", "_Netcdf4Coordinates"),
}
RESERVED = DIMENSIONS | {"content", "schema", "kind", "manifest", "units", "long_name", "provenance"}


def write_attribute(target: h5py.HLObject, name: str, value: Any) -> None:
    """Store one value, so that :func:`read_attributes` gives it back equal (tuples come back as lists).

    Raises:
        StoreError: the value is none of str, int, float, bool, None, list, dict.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bool):
        target.attrs.create(name, np.bool_(value))
    elif isinstance(value, int) and -(2**63) <= value < 2**63:
        target.attrs.create(name, np.int64(value))
    elif isinstance(value, float):
        target.attrs.create(name, np.float64(value))
    else:
        text = value if _is_plain(value) else JSON_MARK + to_json(value, f"attribute {name!r}")
        encoded = text.encode()
        dtype = h5py.string_dtype("utf-8", max(len(encoded), 1))
        target.attrs.create(name, np.array(encoded, dtype=dtype))


def write_attributes(target: h5py.HLObject, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        write_attribute(target, name, value)


def raw_attributes(target: h5py.HLObject, file_size: int) -> dict[str, np.ndarray]:
    """Stored values (0-d; text as bytes) by name, sorted, without HDF5's own bookkeeping of dimensions.

    Raises:
        StoreError: an attribute has a type this store does not write, or claims to be larger than the file.
    """
    names: list[bytes] = []
    h5py.h5a.iterate(target.id, names.append)
    found = {}
    for encoded in sorted(names):
        if encoded in (b"DIMENSION_LIST", b"REFERENCE_LIST"):
            continue
        name = encoded.decode(errors="surrogateescape")
        identifier = h5py.h5a.open(target.id, encoded)  # h5py's mapping of attributes would look it up three times
        dtype, shape = identifier.dtype, identifier.shape
        known = dtype.kind in "biuf" or (dtype.kind == "S" and shape == ())
        if not known or identifier.get_storage_size() > file_size:
            raise StoreError(
                f"attribute {name!r} of {target.name} has type {dtype}, {identifier.get_storage_size()} bytes"
            )
        value = np.empty(shape, dtype)
        identifier.read(value)
        found[name] = value
    return found


def decode(value: np.ndarray) -> Any:
    """The Python value of one stored attribute."""
    item = value.tolist()
    if not isinstance(item, bytes):
        return item
    text = item.decode()
    return json.loads(text.removeprefix(JSON_MARK)) if text.startswith(JSON_MARK) else text


def read_attributes(target: h5py.HLObject, file_size: int) -> dict[str, Any]:
    """All attributes by name, as they were given to :func:`write_attributes`."""
    return decoded(raw_attributes(target, file_size))


def decoded(raw: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The Python values of attributes as :func:`raw_attributes` gives them."""
    return {name: decode(value) for name, value in raw.items() if name not in DIMENSIONS}


def to_json(value: Any, where: str) -> str:
    """JSON text of ``value``.

    Raises:
        StoreError: it would not come back equal.
    """
    if not _jsonable(value):
        raise StoreError(f"{where} is {value!r}; expected str, int, float, bool, None, or lists and dicts of them")
    return json.dumps(value)


def _is_plain(value: Any) -> bool:
    """Text that HDF5 can hold itself: UTF-8 without NUL bytes, and not looking like our JSON."""
    if not isinstance(value, str) or value.startswith(JSON_MARK) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _jsonable(value: Any) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value, dict) and all(isinstance(k, str) and _jsonable(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_jsonable(v) for v in value)
    return value is None or isinstance(value, str | int | float | bool)
