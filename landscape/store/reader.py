"""Reading finished files: nothing outside the file is touched, nothing believed that its manifest does not confirm."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from landscape._suggest import did_you_mean
from landscape.inputs import check_regular, opened, read_bytes
from landscape.records import Record
from landscape.store import manifest, schema
from landscape.store.attributes import decoded, raw_attributes
from landscape.store.errors import StoreError, one_line

REMEDY = "check it with `landscape verify`, or restore it from a copy"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
SQLITE = b"SQLite format 3\0"


class File:
    """A finished file, open for reading. Use :func:`landscape.store.open`; a context manager.

    Attributes:
        path: where it lies.
        kind: ``run``, ``study`` or ``result``.
        attrs: attributes of the file, as they were given.
        version: schema version of the file as it lies on disk; an older one is brought up in memory.

    Raises:
        StoreError: the file is missing, damaged, foreign, or of a newer schema.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._names: list[str] | None = None
        with one_line(path, "opening", REMEDY):
            if self.path.is_dir():
                raise StoreError(f"{path}: is a folder, expected a file in it")
            if not self.path.exists():
                raise StoreError(f"{path}: there is no such file")
            check_regular(self.path)
            self.size = self.path.stat().st_size
            with opened(self.path) as raw:
                begin = raw.read(len(SQLITE))
            if begin == SQLITE:
                raise StoreError(f"{path}: is work in progress; `landscape inspect` shows how far it is")
            if not begin.startswith(SIGNATURE):
                raise StoreError(f"{path}: not an HDF5 file, or its beginning is damaged; {REMEDY}")
            self.h5 = h5py.File(path, "r", locking=False)  # writers replace the file, so readers need no lock
            try:
                self._raw = raw_attributes(self.h5, self.size)
                self._manifest: dict[str, str] | None = None
                self.version = schema.version_of(self._raw)
                if self.version < schema.VERSION:
                    self._upgrade()
                self.attrs: dict[str, Any] = decoded({k: v for k, v in self._raw.items() if k != manifest.NAME})
                self.kind = str(self.attrs.get("kind", ""))
            except BaseException:
                self.h5.close()
                raise

    def _upgrade(self) -> None:
        """Continue on a copy in memory that the migrations have brought to the current schema."""
        self.h5.close()
        self.h5 = h5py.File(io.BytesIO(read_bytes(self.path)), "r+")
        schema.migrate(self.h5, self.version)
        self._raw = raw_attributes(self.h5, self.size)
        self._manifest = manifest.compute(self.h5, self.size)

    def manifest(self) -> dict[str, str]:
        """SHA-256 of every object by its path."""
        if self._manifest is None:
            with self._reading():
                self._manifest = manifest.parsed(self._raw)
        return self._manifest

    def names(self, prefix: str = "") -> list[str]:
        """Full paths of the contents at and below ``prefix``, such as ``hessian/top5``, sorted."""
        if self._names is None:
            with self._reading():
                self._names = schema.content_paths(self.h5, self.size)
        return [path for path in self._names if not prefix or f"{path}/".startswith(f"{prefix.strip('/')}/")]

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def kinds(self, prefix: str = "") -> dict[str, str]:
        """Contents as :meth:`names` lists them, each with its kind of record, or ``arrays``."""
        names = self.names(prefix)
        with self._reading():
            return {name: schema.content_of(self.h5[name], self.size) for name in names}

    def record(self, name: str) -> Record:
        """The record under ``name``.

        Raises:
            StoreError: no such record, an unknown kind, or content that the manifest does not confirm.
        """
        with self._reading():
            return schema.read_record(self._group(name), self.size, self.manifest())

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The bare arrays under ``name``, by their names.

        Raises:
            StoreError: no such content, or content that the manifest does not confirm.
        """
        with self._reading():
            return schema.read_arrays(self._group(name), self.size, self.manifest())

    def content(self, name: str) -> Record | dict[str, np.ndarray]:
        """Read what lies under ``name``: a record, or bare arrays by name.

        Raises:
            StoreError: as :meth:`record` and :meth:`arrays`.
        """
        with self._reading():
            bare = schema.content_of(self._group(name), self.size) == schema.ARRAYS
        return self.arrays(name) if bare else self.record(name)

    def _group(self, name: str) -> h5py.Group:
        names = self.names()
        if name not in names:
            hint = did_you_mean(name, names) or ";"
            raise StoreError(f"{self.path}: there is no {name!r}{hint} it holds {', '.join(names) or 'nothing'}")
        return self.h5[name]

    def _reading(self) -> Any:
        return one_line(self.path, "reading", REMEDY)

    def close(self) -> None:
        self.h5.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
