"""The manifest: a SHA-256 of every object of a finished file, over its data and attributes.

HDF5's own checksums cover chunks of data only. The digest of an object is taken over what a reader sees, not over
file bytes, so anyone can recompute it from the file with any HDF5 library; docs/schema.md spells it out. The content of
a large array has a digest of its own, which the seal shares, so that a byte is hashed once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import h5py
import numpy as np

from landscape.store.arrays import LARGE, is_contiguous, is_only_a_length, read_raw
from landscape.store.attributes import decode, raw_attributes, write_attribute
from landscape.store.errors import StoreError

NAME = "manifest"
MAX_DEPTH = 32
UNBOUNDED = sys.maxsize  # size of a file for objects just written, whose claims need no check
THREADS = 2  # that hash, and read where reading goes past HDF5
APART = " "  # between the two digests of an object whose content has its own


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
            children = sorted(member_names(current, file_size), reverse=True)
            pending += [(f"{path.rstrip('/')}/{name}", member(current, name)) for name in children]


def member_names(group: h5py.Group, file_size: int) -> list[str]:
    """Names of what a group holds, as HDF5 orders them."""
    if len(group) > file_size:
        raise StoreError(f"{group.name} claims {len(group)} members")
    names: list[bytes] = []
    group.id.links.iterate(names.append)
    return [name.decode(errors="surrogateescape") for name in names]


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """One member of a group; links to other places and other files are refused, not followed."""
    encoded = name.encode(errors="surrogateescape")
    if group.id.links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
        raise StoreError(f"{group.name}/{name} is a soft or external link, which is not followed")
    found = h5py.h5o.open(group.id, encoded)
    if isinstance(found, h5py.h5g.GroupID):
        return h5py.Group(found)
    if isinstance(found, h5py.h5d.DatasetID):
        return h5py.Dataset(found)
    raise StoreError(f"{group.name}/{name} is neither a group nor a data set")


Piece = bytes | memoryview


def pieces(
    found: h5py.Group | h5py.Dataset, file_size: int, data: np.ndarray | None = None
) -> tuple[list[Piece], Piece]:
    """The bytes that an object's digest is taken over, and the content of a data set (``data`` where it is known)."""
    head: list[Piece] = []

    def add(label: str, array: np.ndarray) -> memoryview:
        shape = ",".join(str(size) for size in array.shape)
        head.append(f"{label}\0{array.dtype.newbyteorder('<').str}\0{shape}\0".encode(errors="surrogateescape"))
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

    attributes = raw_attributes(found, file_size)
    for name, value in attributes.items():
        if not (name == NAME and found.name == "/"):
            head.append(add(f"attribute {name}", value))
    if not isinstance(found, h5py.Dataset):
        return head, b""
    if is_only_a_length(attributes):
        return [*head, f"length\0{found.shape[0]}\0".encode()], b""
    return head, add("data", read_raw(found, file_size) if data is None else data)


def digest(found: h5py.Group | h5py.Dataset, file_size: int, like: str, data: np.ndarray | None = None) -> str:
    """SHA-256 of one object in the form of the entry ``like``; ``data`` as for :func:`pieces`."""
    head, content = pieces(found, file_size, data)
    return f"{_sha256(head)}{APART}{_sha256([content])}" if APART in like else _sha256([*head, content])


def _sha256(taken: Iterable[Piece]) -> str:
    state = hashlib.sha256()
    for piece in taken:
        state.update(piece)
    return state.hexdigest()


class Digests:
    """Digests of many objects, by path: large ones are taken in threads while the caller reads or writes the next.

    A context manager. HDF5 is used by the caller alone.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS)  # no thread before the first large object
        self._results: dict[str, Callable[[], str]] = {}
        self._apart: list[tuple[h5py.Dataset, int, Callable[[], str]]] = []

    def add(self, found: h5py.Group | h5py.Dataset, file_size: int, data: np.ndarray | None = None) -> None:
        """Take the digest of one object, as it is now; ``data`` as for :func:`pieces`, not to be changed meanwhile."""
        head, content = pieces(found, file_size, data)
        if len(content) >= LARGE and is_contiguous(found):
            of_head, of_content = _sha256(head), self._pool.submit(_sha256, [content]).result
            self._results[found.name] = lambda: f"{of_head}{APART}{of_content()}"
            self._apart.append((found, len(content), of_content))
        else:
            self._take([*head, content], len(content), found.name)

    def add_as_read(
        self, found: h5py.Dataset, file_size: int, like: str, data: np.ndarray, blocks: Iterable[Piece] | None
    ) -> None:
        """Take the digest of a data set, in the form of the entry ``like``, as :func:`read_in_blocks` gave it."""
        head, content = pieces(found, file_size, data)
        taken = [content] if blocks is None else blocks
        if APART in like:
            self._take(taken, len(content), found.name, f"{_sha256(head)}{APART}")
        else:
            self._take(itertools.chain(head, taken), len(content), found.name)

    def _take(self, taken: Iterable[Piece], size: int, name: str, before: str = "") -> None:
        if size < LARGE:
            done = before + _sha256(taken)
            self._results[name] = lambda: done
        else:
            result = self._pool.submit(_sha256, taken).result
            self._results[name] = lambda: before + result()

    def by_path(self) -> dict[str, str]:
        """All digests, once they are there."""
        return {path: result() for path, result in self._results.items()}

    def by_place(self) -> dict[int, tuple[int, str]]:
        """Size and digest, by offset in the file, of written content that has a digest of its own."""
        return {found.id.get_offset(): (size, result()) for found, size, result in self._apart}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=error is not None)


def compute(root: h5py.Group, file_size: int) -> dict[str, str]:
    """Digest of every object at and below ``root``, by path."""
    with Digests() as digests:
        for _, found in objects(root, file_size):
            digests.add(found, file_size)
        return digests.by_path()


def parsed(attributes: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The manifest among the raw attributes of a finished file.

    Raises:
        StoreError: there is none, or it cannot be understood.
    """
    if NAME not in attributes:
        raise StoreError("there is no manifest")
    try:
        entries = json.loads(decode(attributes[NAME]))
    except (TypeError, ValueError) as error:
        raise StoreError(f"the manifest is damaged ({error})") from error
    if isinstance(entries, dict) and all(isinstance(v, str) for v in entries.values()):
        return entries
    raise StoreError("the manifest is damaged (not a table of digests)")


def write(file: h5py.File, entries: dict[str, str]) -> None:
    write_attribute(file, NAME, json.dumps(dict(sorted(entries.items()))))
