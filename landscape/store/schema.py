"""Schema of the files: its version, how records and bare arrays lie in a group, and how older files are brought up.

A record declares its own layout (see :mod:`landscape.records`), so this module knows no record by name. A group that
holds content says so in its attribute ``content``: the kind of the record, or "arrays" for bare arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from landscape.records import Record, Status, Variable, record_type
from landscape.store.arrays import (
    ONLY_A_LENGTH,
    as_bytes,
    create_array,
    decoded,
    fill,
    from_bytes,
    read_in_blocks,
    read_raw,
    storable,
)
from landscape.store.attributes import RESERVED, decode, read_attributes, write_attribute, write_attributes
from landscape.store.errors import StoreError
from landscape.store.manifest import UNBOUNDED, Digests, digest, member, member_names, objects

VERSION = 1
MIGRATIONS: dict[int, Callable[[h5py.File], None]] = {}
"""``MIGRATIONS[v]`` turns a file of schema ``v`` into one of ``v + 1``, in place, on a copy."""

ARRAYS = "arrays"
TEXT = "string"  # with a length: the axis of text's bytes
DIMENSIONS_EACH = 1000  # numbers that the dimensions of one content may take, and netCDF between them for bare arrays

Content = Record | Mapping[str, Any]


def write_content(group: h5py.Group, content: Content, digests: Digests) -> None:
    """Store a record, or a mapping of names to arrays, in an empty group, and note the digests of what is stored."""
    if isinstance(content, Record):
        _write_record(group, content, digests)
    else:
        write_attribute(group, "content", ARRAYS)
        for name, value in content.items():
            if not name or "/" in name or name in (".", ".."):
                raise StoreError(f"{group.name}: {name!r} cannot name an array; use a name without '/'")
            array = storable(value, f"{group.name}/{name}")
            dataset = create_array(group, name, array, compress=False)
            digests.add(dataset, UNBOUNDED, array)  # in its thread while the next line writes
            fill(dataset, array)
    digests.add(group, UNBOUNDED)


def _write_record(group: h5py.Group, record: Record, digests: Digests) -> None:
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
    stored: dict[str, h5py.Dataset] = {}
    arrays = {name: storable(value, f"{group.name}/{name}") for name, value in values.items()}
    lengths = {name: array.dtype.itemsize for name, array in arrays.items() if array.dtype.kind == "S"}
    axes = {name: declared[name].dims + ((f"{TEXT}{lengths[name]}",) if name in lengths else ()) for name in values}
    arrays |= {name: as_bytes(arrays[name]) for name in lengths}
    sizes |= {f"{TEXT}{length}": length for length in lengths.values()}

    def write(stored_name: str, name: str) -> h5py.Dataset:
        dataset = stored[stored_name] = create_array(group, stored_name, arrays[name], compress=True)
        fill(dataset, arrays[name])
        write_attributes(dataset, {"units": declared[name].units, "long_name": declared[name].long_name})
        if name in lengths:
            write_attribute(dataset, "_Encoding", "utf-8")  # netCDF's mark of text
        # HDF5 keeps an axis's scale in its global heap, where it hangs on a damaged length: for others to read, not us
        write_attribute(dataset, "dimensions", " ".join(declared[name].dims))
        return dataset

    numbers = _numbers(group.file, sizes)
    for dimension, size in sizes.items():
        if dimension in labels:
            write(dimension, labels[dimension]).make_scale(dimension)
        else:
            # netCDF's convention for a dimension without labels: a length, marked as being nothing else
            stored[dimension] = group.create_dataset(dimension, shape=(size,), dtype="u1")
            stored[dimension].make_scale(f"{ONLY_A_LENGTH.decode()}. {size:10d}")
        stored[dimension].attrs["_Netcdf4Dimid"] = np.int32(numbers[dimension])
    for name in values:
        if name not in labels.values():
            dataset = write(name, name)
            for axis, dimension in enumerate(axes[name]):
                dataset.dims[axis].attach_scale(stored[dimension])
        elif name in lengths:  # labels that are text have two axes, of which netCDF-4 asks this attribute
            found = np.array([numbers[dimension] for dimension in axes[name]], np.int32)
            stored[declared[name].dims[0]].attrs["_Netcdf4Coordinates"] = found
    for stored_name, dataset in stored.items():
        digests.add(dataset, UNBOUNDED, arrays.get(labels.get(stored_name, stored_name)))


def _numbers(file: h5py.File, dimensions: Iterable[str]) -> dict[str, int]:
    """Numbers for a content's dimensions, which netCDF-4 wants to be unique in the whole file.

    netCDF numbers the dimensions of other data sets itself, on from the last that it has read, so contents keep apart.
    """
    content = int(file.attrs.get("_Netcdf4Contents", 0)) + 1
    file.attrs["_Netcdf4Contents"] = np.int32(content)
    return {dimension: content * DIMENSIONS_EACH + i for i, dimension in enumerate(dimensions)}


def content_paths(file: h5py.File, file_size: int) -> list[str]:
    """Paths of the groups that hold content, sorted, without the leading slash."""
    found = objects(file, file_size, enter=lambda group: not has_content(group))
    return [path[1:] for path, entry in found if has_content(entry)]


def has_content(found: h5py.Group | h5py.Dataset) -> bool:
    """Tell whether this is a group that holds content, not a folder."""
    return bool(h5py.h5a.exists(found.id, b"content"))


def content_of(group: h5py.Group, file_size: int) -> str:
    """Name what a group holds: the kind of a record, or "arrays"."""
    return str(read_attributes(group, file_size)["content"])


def read_array(group: h5py.Group, name: str, file_size: int, manifest: Mapping[str, str]) -> np.ndarray:
    """One array of a finished file, text decoded.

    Raises:
        StoreError: its content does not match the manifest, or is text of no bytes.
    """
    dataset = _dataset(group, name)
    raw = read_raw(dataset, file_size)
    _confirm(dataset.name, digest(dataset, file_size, manifest.get(dataset.name, ""), raw), manifest)
    if shape_of(dataset, file_size) == raw.shape:
        return decoded(raw)
    if not raw.shape[-1]:
        raise StoreError(f"{dataset.name} is text of no bytes, which this store does not write")
    return decoded(from_bytes(raw))


def shape_of(dataset: h5py.Dataset, file_size: int) -> tuple[int, ...]:
    """Shape of the values: without the axis of text's bytes, which files of earlier versions do not have."""
    shape: tuple[int, ...] = dataset.shape
    if dataset.dtype.kind == "S" and dataset.dtype.itemsize == 1:
        attributes = read_attributes(dataset, file_size)
        if "dimensions" in attributes and len(shape) == len(str(attributes["dimensions"]).split()) + 1:
            return shape[:-1]
    return shape


def _dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    dataset = member(group, name)
    if not isinstance(dataset, h5py.Dataset):
        raise StoreError(f"{dataset.name} is a group, expected a data set")
    return dataset


def _confirm(path: str, found: str, manifest: Mapping[str, str]) -> None:
    if found != manifest.get(path):
        raise StoreError(f"{path} does not match its SHA-256 in the manifest")


def read_arrays(group: h5py.Group, file_size: int, manifest: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The bare arrays of a group by name.

    Raises:
        StoreError: the content of one does not match the manifest.
    """
    arrays: dict[str, np.ndarray] = {}
    with Digests() as digests:
        for name in member_names(group, file_size):
            dataset = _dataset(group, name)
            arrays[name], blocks = read_in_blocks(dataset, file_size)
            digests.add_as_read(dataset, file_size, manifest.get(dataset.name, ""), arrays[name], blocks)
        for path, found in digests.by_path().items():
            _confirm(path, found, manifest)
    return {name: decoded(array) for name, array in arrays.items()}


def read_record(group: h5py.Group, file_size: int, manifest: Mapping[str, str]) -> Record:
    """The record a group holds.

    Raises:
        StoreError: no imported module defines this kind of record, a declared field is missing, or what is stored
            does not match the manifest.
    """
    if digest(group, file_size, "") != manifest.get(group.name):
        raise StoreError(f"the attributes of {group.name} do not match their SHA-256 in the manifest")
    attributes = read_attributes(group, file_size)
    kind = attributes.get("content", ARRAYS)
    if kind == ARRAYS:
        raise StoreError(f"{group.name} holds bare arrays, not a record; read it with arrays({group.name[1:]!r})")
    try:
        record = record_type(kind)
    except KeyError as error:
        raise StoreError(
            f"{group.name}: {error.args[0]}; import the module that defines it (of runs, studies and audits: "
            "ncsam.records)"
        ) from error
    fields: dict[str, Any] = {}
    for name, declared in record.variables().items():
        stored_name = declared.dims[0] if declared.coordinate else name
        fields[name] = read_array(group, stored_name, file_size, manifest) if stored_name in group else None
    for name, setting in record.parameters().items():
        if (stored_as := name if name in attributes else setting.former) in attributes:
            fields[name] = attributes[stored_as]
    try:
        return record(**fields)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{group.name} is not a valid {kind!r} ({error})") from error


def version_of(attributes: Mapping[str, np.ndarray]) -> int:
    """Schema version that the raw attributes of a file state.

    Raises:
        StoreError: it states none, or one newer than this package knows.
    """
    version = decode(attributes["schema"]) if "schema" in attributes else None
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
    """Differences of a stored record from the declaration of its kind; nothing for bare arrays and unknown kinds."""
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
    others = [name for name in sorted(set(group) - known) if not _is_axis_of_text(name)]
    found += [f"{group.name}/{name} is not declared by {record.__name__}" for name in others]
    if "status" in record.variables() and not found:
        found += _broken_promises(group, record, file_size)
    return found


def _is_axis_of_text(name: str) -> bool:
    return name.startswith(TEXT) and name[len(TEXT) :].isdigit()


def _departures(group: h5py.Group, name: str, declared: Variable, file_size: int) -> Iterator[str]:
    dataset = member(group, name)
    if not isinstance(dataset, h5py.Dataset):
        yield f"{dataset.name} is a group, expected a data set"
        return
    attributes = read_attributes(dataset, file_size)
    for key, expected in (("units", declared.units), ("long_name", declared.long_name)):
        if attributes.get(key) != expected and (key, attributes.get(key)) != ("long_name", declared.former or None):
            yield f"{dataset.name} has {key} {attributes.get(key)!r}, declared is {expected!r}"
    dimensions = tuple(str(attributes.get("dimensions", "")).split())
    if dimensions != declared.dims:
        yield f"{dataset.name} has dimensions {dimensions}, declared are {declared.dims}"
        return
    sizes = tuple(group[dimension].shape[0] for dimension in dimensions)
    shape = shape_of(dataset, file_size)
    if shape != sizes:
        yield f"{dataset.name} has shape {shape}, its dimensions have {sizes}"


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
