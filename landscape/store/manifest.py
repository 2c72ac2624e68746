"""The manifest: a SHA-256 of every object of a finished file, over its data and attributes.

HDF5's own checksums cover chunks of data only. The digest of an object is taken over what a reader sees, not over
file bytes, so anyone can recompute it from the file with any HDF5 library; docs/schema.md spells it out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator

import h5py
import numpy as np

from landscape.store.arrays import is_only_a_length, read_raw
from landscape.store.attributes import raw_attributes, write_attribute
from landscape.store.errors import StoreError

NAME = "manifest"
MAX_DEPTH = 32


def objects(
    root: h5py.Group, file_size: int, enter: Callable[[h5py.Group], bool] = lambda group: True
) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Every group and data set at and below ``root``, parents first, with its path ("/" for the root of the file).

    Groups for which ``enter`` is false are named, but not what they hold.

    Raises:
        StoreError: a link that leads out of the file or in circles, or something that is neither group nor data set.
    """
    seen: set[int] = set()
    pending = [(root.name, root)]
    while pending:
        path, current = pending.pop()
        address = h5py.h5o.get_info(current.id).addr
        if address in seen or path.count("/") > MAX_DEPTH:
            raise StoreError(f"{path} is reached twice or nested too deep")
        seen.add(address)
        yield path, current
        if isinstance(current, h5py.Group) and enter(current):
            if len(current) > file_size:
                raise StoreError(f"{path} claims {len(current)} members")
            children = sorted(current)
            pending += [(f"{path.rstrip('/')}/{name}", member(current, name)) for name in reversed(children)]


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """One member of a group; links to other places and other files are refused, not followed."""
    encoded = name.encode(errors="surrogateescape")
    if encoded in group and group.id.links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
        raise StoreError(f"{group.name}/{name} is a soft or external link, which is not followed")
    found = group[name]
    if not isinstance(found, h5py.Group | h5py.Dataset):
        raise StoreError(f"{group.name}/{name} is neither a group nor a data set")
    return found


def digest(found: h5py.Group | h5py.Dataset, file_size: int, data: np.ndarray | None = None) -> str:
    """SHA-256 of one object; ``data`` is the content of the data set where the caller has read it already."""
    state = hashlib.sha256()

    def feed(label: str, array: np.ndarray) -> None:
        shape = ",".join(str(size) for size in array.shape)
        state.update(f"{label}\0{array.dtype.newbyteorder('<').str}\0{shape}\0".encode(errors="surrogateescape"))
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    for name, value in raw_attributes(found, file_size):
        if not (name == NAME and found.name == "/"):
            feed(f"attribute {name}", value)
    if isinstance(found, h5py.Dataset):
        if is_only_a_length(found):
            state.update(f"length\0{found.shape[0]}\0".encode())
        else:
            feed("data", read_raw(found, file_size) if data is None else data)
    return state.hexdigest()


def compute(root: h5py.Group, file_size: int) -> dict[str, str]:
    """Digest of every object at and below ``root``, by path."""
    return {path: digest(found, file_size) for path, found in objects(root, file_size)}


def read(file: h5py.File, file_size: int) -> dict[str, str]:
    """The manifest a finished file carries.

    Raises:
        StoreError: there is none, or it cannot be understood.
    """
    for name, value in raw_attributes(file, file_size):
        if name == NAME:
            try:
                entries = json.loads(value.tolist().decode())
            except ValueError as error:
                raise StoreError(f"the manifest is damaged ({error})") from error
            if isinstance(entries, dict) and all(isinstance(v, str) for v in entries.values()):
                return entries
            raise StoreError("the manifest is damaged (not a table of digests)")
    raise StoreError("there is no manifest")


def write(file: h5py.File, entries: dict[str, str]) -> None:
    write_attribute(file, NAME, json.dumps(dict(sorted(entries.items()))))
