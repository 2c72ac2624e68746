"""HDF5 files one can trust: written whole or resumable row by row, self-describing, verifiable.

A *finished* file is only ever replaced as a whole (:func:`create`, :func:`add`, :func:`save`) and carries a SHA-256
of everything in it; :func:`open` and :func:`load` check what they read against it. Work in progress lies beside it
in a :class:`PartFile`. Every failure is a :class:`StoreError`. docs/schema.md describes the layout.
"""

from landscape.store.errors import StoreError
from landscape.store.finished import add, create, load, save
from landscape.store.part import PartFile, part_path
from landscape.store.provenance import stamp
from landscape.store.reader import File
from landscape.store.reader import File as open

__all__ = ["File", "PartFile", "StoreError", "add", "create", "load", "open", "part_path", "save", "stamp"]
