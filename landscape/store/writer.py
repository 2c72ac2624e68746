"""Finished files: written whole under a temporary name, made durable, then given their name in one step.

Nothing is ever changed inside a finished file. A crash at any moment leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

import h5py

from landscape.inputs import output
from landscape.records import Record
from landscape.store import manifest, schema, seal
from landscape.store.attributes import write_attribute, write_attributes
from landscape.store.disk import deferred_signals
from landscape.store.errors import StoreError, one_line
from landscape.store.lock import locked
from landscape.store.reader import File
from landscape.store.schema import Content, write_content
from landscape.store.temporary import publish, temporary_file

R = TypeVar("R", bound=Record)
FORMAT = ("v108", "v110")  # readable by every HDF5 since 1.8, so by what distributions ship; metadata with checksums
CHECKS: list[Callable[[Path], None]] = []  # run on a file before it gets its name; see verifier.checked_writes
PATIENCE = 60.0  # seconds `add` waits for another process that is adding to the same file


def create(
    path: str | Path,
    *,
    kind: str,
    attrs: Mapping[str, Any],
    contents: Mapping[str, Content],
    overwrite: bool = False,
) -> None:
    """Write a whole file, in one step: ``contents`` maps group paths to records or to mappings of bare arrays.

    Raises:
        StoreError: ``path`` exists and ``overwrite`` is false, something cannot be stored, or the disk refused; then
            there is no new file, and an old one is as it was.

    >>> import tempfile, numpy as np
    >>> from landscape import store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/run.h5"
    ...     store.create(path, kind="run", attrs={"seed": 3}, contents={"weights/last": {"fc.bias": np.zeros(2)}})
    ...     with store.open(path) as f:
    ...         f.kind, f.attrs["seed"], f.names(), f.arrays("weights/last")["fc.bias"]
    ('run', 3, ['weights/last'], array([0., 0.]))
    """
    with one_line(path, "writing", "check the path"):
        path = output(path)
    if path.exists() and not overwrite:
        raise StoreError(f"{path}: the file exists; choose another name or pass overwrite")
    if attrs.get("schema", schema.VERSION) != schema.VERSION or attrs.get("kind", kind) != kind:
        raise StoreError(
            f"{path}: attrs name schema {attrs.get('schema')} and kind {attrs.get('kind')}; leave them out"
        )
    with _replacing(path, overwrite=overwrite) as (file, hashed):
        write_attributes(file, {**attrs, "schema": schema.VERSION, "kind": kind})
        manifest.write(file, _written(file, contents, hashed))


def add(
    path: str | Path,
    name: str,
    content: Content,
    *,
    overwrite: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Add one record or mapping of arrays to a finished file under the group path ``name``, in one step.

    ``provenance``, JSON-able, says how it came about; it becomes an attribute of the group.

    Raises:
        StoreError: the file is missing, damaged or of a newer schema, ``name`` exists and ``overwrite`` is false, or
            the disk refused; the file is then as it was.

    A symbolic link stays one: the file that it leads to is replaced.

    >>> import tempfile, numpy as np
    >>> from landscape import store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/run.h5"
    ...     store.create(path, kind="run", attrs={}, contents={})
    ...     store.add(path, "weights/last", {"fc.bias": np.zeros(2)})
    ...     with store.open(path) as f:
    ...         "weights/last" in f
    True
    """
    with one_line(path, "opening for writing", "check the path"):
        path = output(path)
    with contextlib.ExitStack() as stack:
        with one_line(path, "opening for writing", "check the path and its permissions"):
            stack.enter_context(locked(path, wait=PATIENCE))
        with File(path) as old:
            if name in old and not overwrite:
                raise StoreError(f"{path}: {name!r} exists; choose another name or pass overwrite")
            entries, version = old.manifest(), old.version
        file, hashed = stack.enter_context(_replacing(path, overwrite=True, start_from=path))
        if version < schema.VERSION:
            schema.migrate(file, version)
            entries = manifest.compute(file, path.stat().st_size)
        if name in file and schema.has_content(file[name]):
            del file[name]
            entries = {key: value for key, value in entries.items() if not f"{key}/".startswith(f"/{name}/")}
        manifest.write(file, entries | _written(file, {name: content}, hashed, provenance))


def save(record: Record, path: str | Path, *, overwrite: bool = False) -> None:
    """Write one record to a file of its own; it lies in the group ``result``.

    Raises:
        StoreError: as :func:`create`.
    """
    create(path, kind="result", attrs={}, contents={"result": record}, overwrite=overwrite)


@overload
def load(path: str | Path) -> Record: ...
@overload
def load(path: str | Path, kind: type[R]) -> R: ...
def load(path: str | Path, kind: type[Record] = Record) -> Record:
    """The record of a file that holds just one, as :func:`save` writes it.

    Args:
        kind: class that the record must be of, such as :class:`landscape.Plane`; type checkers then know it.

    Raises:
        StoreError: the file is missing, damaged, of a newer schema, holds several things, or a record of another kind.
    """
    with File(path) as file:
        names = file.names()
        if len(names) != 1:
            raise StoreError(f"{path}: holds {len(names)} results ({', '.join(names)}); use store.open and pick one")
        found = file.record(names[0])
    if not isinstance(found, kind):
        raise StoreError(f"{path}: holds a {type(found).__name__}, expected a {kind.__name__}")
    return found


def _new_group(file: h5py.File, name: str) -> h5py.Group:
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise StoreError(f"{name!r} is not a group path; write it like 'hessian/top5'")
    for depth in range(1, len(parts)):
        parent = "/".join(parts[:depth])
        if parent in file and schema.has_content(file[parent]):
            raise StoreError(f"{name!r} would lie inside the content {parent!r}; choose another name")
    if name in file:
        raise StoreError(f"{name!r} holds other contents; choose another name")
    return file.create_group(name)


def _written(
    file: h5py.File,
    contents: Mapping[str, Content],
    hashed: dict[int, tuple[int, str]],
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Write ``contents``; the digests of all that is new, and of the groups above it. ``hashed`` as for the seal."""
    with manifest.Digests() as digests:
        for name, content in contents.items():
            group = _new_group(file, name)
            if provenance is not None:
                write_attribute(group, "provenance", dict(provenance))
            write_content(group, content, digests)
        above = {parent.as_posix() for name in contents for parent in Path(f"/{name}").parents}
        for path in above | {"/"}:
            digests.add(file[path], manifest.UNBOUNDED)
        hashed |= digests.by_place()
        return digests.by_path()


@contextlib.contextmanager
def _replacing(
    path: Path, *, overwrite: bool, start_from: Path | None = None
) -> Iterator[tuple[h5py.File, dict[int, tuple[int, str]]]]:
    """An open HDF5 file, new or a copy, that becomes ``path`` when the block ends well and vanishes when not.

    With it a dictionary for the block to tell what bytes it has hashed, as :func:`seal.append` takes it.
    """
    hashed: dict[int, tuple[int, str]] = {}
    remedy = "nothing was changed; check free space and permissions"
    with deferred_signals(), one_line(path, "writing", remedy), temporary_file(path) as disk:
        try:
            if start_from is not None:
                with start_from.open("rb") as source:
                    seal.copy_unsealed(source, start_from.stat().st_size, disk)
            with h5py.File(disk, "w" if start_from is None else "r+", libver=FORMAT) as file:
                yield file, hashed
        except Exception as error:
            if disk.error is not None:  # then HDF5 stumbled over what is missing
                raise disk.error from error
            raise
        seal.append(disk, hashed)
        for check in CHECKS if disk.error is None else ():  # publishing raises the error
            check(disk.path)
        publish(disk, path, overwrite=overwrite)
