"""Schema of the files: its version, how records and bare arrays lie in a group, and how older files are brought up.

A record declares its own layout (see :mod:`landscape.records`), so this module knows no record by name. A group that
holds content says so in its attribute ``content``: the kind of the record, or "arrays" for bare arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from landscape.records import Record, Status, Variable, record_type
from landscape.store.arrays import ONLY_A_LENGTH, decoded, read_raw, write_array
from landscape.store.attributes import RESERVED, read_attributes, write_attribute, write_attributes
from landscape.store.errors import StoreError
from landscape.store.manifest import digest, member, objects

VERSION = 1
MIGRATIONS: dict[int, Callable[[h5py.File], None]] = {}
"""``MIGRATIONS[v]`` turns a file of schema ``v`` into one of ``v + 1``, in place, on a copy."""

ARRAYS = "arrays"

Content = Record | Mapping[str, Any]


def write_content(group: h5py.Group, content: Content) -> None:
    """Store a record, or a mapping of names to arrays, in an empty group."""
    if isinstance(content, Record):
        _write_record(group, content)
        return
    write_attribute(group, "content", ARRAYS)
    for name, value in content.items():
        if not name or "/" in name or name in (".", ".."):
            raise StoreError(f"{group.name}: {name!r} cannot name an array; use a name without '/'")
        dataset = write_array(group, name, value, compress=False)
        _mark_text(dataset)


def _write_record(group: h5py.Group, record: Record) -> None:
    declared = record.variables()
    values = {name: getattr(record, name) for name in declared if getattr(record, name) is not None}
    taken = RESERVED & set(record.parameters())
    if not record.kind or record.kind == ARRAYS or taken:
        raise StoreError(f"{type(record).__name__} cannot be stored: rename its kind {record.kind!r} or fields {taken}")
    write_attribute(group, "content", record.kind)
    write_attributes(group, {name: getattr(record, name) for name in record.parameters()})
    sizes: dict[str, int] = {}
    for name in values:
        sizes.update(zip(declared[name].dims, np.shape(values[name]), strict=True))
    labels = {declared[name].dims[0]: name for name in values if declared[name].coordinate}
    clash = sizes.keys() & (values.keys() - set(labels.values()))
    if clash:
        raise StoreError(f"{type(record).__name__} has dimensions and variables both named {sorted(clash)}; rename one")
    for dimension, size in sizes.items():
        if dimension in labels:
            name = labels[dimension]
            _write_variable(group, dimension, values[name], declared[name].units, declared[name].long_name)
            write_attribute(group[dimension], "dimensions", dimension)
            group[dimension].make_scale(dimension)
        else:
            # netCDF's convention for a dimension without labels: a length, marked as being nothing else
            group.create_dataset(dimension, shape=(size,), dtype="u1")
            group[dimension].make_scale(f"{ONLY_A_LENGTH.decode()}. {size:10d}")
    for name in values.keys() - set(labels.values()):
        _write_variable(group, name, values[name], declared[name].units, declared[name].long_name)
        # HDF5 keeps an axis's scale in its global heap, where it hangs on a damaged length: for others to read, not us
        write_attribute(group[name], "dimensions", " ".join(declared[name].dims))
        for axis, dimension in enumerate(declared[name].dims):
            group[name].dims[axis].attach_scale(group[dimension])


def _write_variable(group: h5py.Group, name: str, value: Any, units: str, long_name: str) -> None:
    dataset = write_array(group, name, value, compress=True)
    write_attributes(dataset, {"units": units, "long_name": long_name})
    _mark_text(dataset)


def _mark_text(dataset: h5py.Dataset) -> None:
    if dataset.dtype.kind == "S":
        write_attribute(dataset, "_Encoding", "utf-8")  # tells xarray to decode the bytes


def content_paths(file: h5py.File, file_size: int) -> list[str]:
    """Paths of the groups that hold content, sorted, without the leading slash."""
    found = objects(file, file_size, enter=lambda group: "content" not in group.attrs)
    return [path[1:] for path, entry in found if "content" in entry.attrs]


def content_of(group: h5py.Group, file_size: int) -> str:
    """What a group holds: the kind of a record, or "arrays"."""
    return str(read_attributes(group, file_size)["content"])


def read_array(group: h5py.Group, name: str, file_size: int, manifest: Mapping[str, str]) -> np.ndarray:
    """One array of a finished file, text decoded.

    Raises:
        StoreError: its content does not match the manifest.
    """
    dataset = member(group, name)
    if not isinstance(dataset, h5py.Dataset):
        raise StoreError(f"{dataset.name} is a group, expected a data set")
    raw = read_raw(dataset, file_size)
    if digest(dataset, file_size, raw) != manifest.get(dataset.name):
        raise StoreError(f"{dataset.name} does not match its SHA-256 in the manifest")
    return decoded(raw)


def read_arrays(group: h5py.Group, file_size: int, manifest: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The bare arrays of a group by name."""
    return {name: read_array(group, name, file_size, manifest) for name in group}


def read_record(group: h5py.Group, file_size: int, manifest: Mapping[str, str]) -> Record:
    """The record a group holds.

    Raises:
        StoreError: no imported module defines this kind of record, a declared field is missing, or what is stored
            does not match the manifest.
    """
    if digest(group, file_size) != manifest.get(group.name):
        raise StoreError(f"the attributes of {group.name} do not match their SHA-256 in the manifest")
    attributes = read_attributes(group, file_size)
    kind = attributes.get("content", ARRAYS)
    if kind == ARRAYS:
        raise StoreError(f"{group.name} holds bare arrays, not a record; read it with arrays({group.name[1:]!r})")
    try:
        record = record_type(kind)
    except KeyError as error:
        raise StoreError(f"{group.name}: {error.args[0]}; import the module that defines it") from error
    fields: dict[str, Any] = {}
    for name, declared in record.variables().items():
        stored_name = declared.dims[0] if declared.coordinate else name
        fields[name] = read_array(group, stored_name, file_size, manifest) if stored_name in group else None
    fields |= {name: attributes[name] for name in record.parameters() if name in attributes}
    try:
        return record(**fields)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{group.name} is not a valid {kind!r} ({error})") from error


def version_of(file: h5py.File, file_size: int) -> int:
    """Schema version a file states.

    Raises:
        StoreError: it states none, or one newer than this package knows.
    """
    version = read_attributes(file, file_size).get("schema")
    if not isinstance(version, int):
        raise StoreError("there is no attribute 'schema', so it was not written by this package")
    if version > VERSION:
        raise StoreError(
            f"it has schema {version}, this package knows {VERSION} and older; upgrade ncsam-landscape to read it"
        )
    if any(step not in MIGRATIONS for step in range(version, VERSION)):
        raise StoreError(f"it has schema {version}, and there is no migration from there to {VERSION}")
    return version


def migrate(file: h5py.File, version: int) -> None:
    """Bring a writable file from ``version`` to :data:`VERSION`, one step at a time."""
    for step in range(version, VERSION):
        MIGRATIONS[step](file)
    write_attribute(file, "schema", VERSION)


def problems(group: h5py.Group, file_size: int) -> list[str]:
    """Where a stored record departs from the declaration of its kind; nothing for bare arrays and unknown kinds."""
    attributes = read_attributes(group, file_size)
    try:
        record = record_type(attributes.get("content", ARRAYS))
    except KeyError:
        return []
    found: list[str] = []
    optional = {field.name for field in dataclasses.fields(record) if field.default is not dataclasses.MISSING}
    for name in record.parameters().keys() - optional - attributes.keys():
        found.append(f"{group.name} lacks the parameter {name!r}")
    known: set[str] = set()
    for name, declared in record.variables().items():
        stored_name = declared.dims[0] if declared.coordinate else name
        known |= {stored_name, *declared.dims}
        if stored_name in group:
            found += _departures(group, stored_name, declared, file_size)
        elif name not in optional:
            found.append(f"{group.name} lacks the variable {stored_name!r}")
    found += [f"{group.name}/{name} is not declared by {record.__name__}" for name in sorted(set(group) - known)]
    if "status" in record.variables() and not found:
        found += _broken_promises(group, record, file_size)
    return found


def _departures(group: h5py.Group, name: str, declared: Variable, file_size: int) -> Iterator[str]:
    dataset = member(group, name)
    if not isinstance(dataset, h5py.Dataset):
        yield f"{dataset.name} is a group, expected a data set"
        return
    attributes = read_attributes(dataset, file_size)
    for key, expected in (("units", declared.units), ("long_name", declared.long_name)):
        if attributes.get(key) != expected:
            yield f"{dataset.name} has {key} {attributes.get(key)!r}, declared is {expected!r}"
    dimensions = tuple(str(attributes.get("dimensions", "")).split())
    if dimensions != declared.dims:
        yield f"{dataset.name} has dimensions {dimensions}, declared are {declared.dims}"
        return
    sizes = tuple(group[dimension].shape[0] for dimension in dimensions)
    if dataset.shape != sizes:
        yield f"{dataset.name} has shape {dataset.shape}, its dimensions have {sizes}"


def _broken_promises(group: h5py.Group, record: type[Record], file_size: int) -> Iterator[str]:
    """Status codes that are none, and values called ok that are not finite."""
    status = read_raw(member(group, "status"), file_size)
    unknown = sorted(set(status.reshape(-1).tolist()) - set(Status))
    if unknown:
        yield f"{group.name}/status holds {unknown}, which are no status codes"
    dims = record.variables()["status"].dims
    for name, declared in record.variables().items():
        if declared.dims == dims and name in group and group[name].dtype.kind == "f":
            broken = int(np.sum((status == Status.OK) & ~np.isfinite(read_raw(group[name], file_size))))
            if broken:
                yield f"{group.name}/{name} has {broken} values that are not finite, with status ok"
