"""Files one can trust: HDF5 written whole, work in progress resumable row by row, self-describing, verifiable.

A *finished* file is only ever replaced as a whole (:func:`create`, :func:`add`, :func:`save`) and carries a SHA-256
of everything in it; :func:`open` and :func:`load` check what they read against it, :func:`verify` checks all. Work in
progress lies beside it in a :class:`PartFile`, an SQLite database. Every failure is a :class:`StoreError`.
docs/schema.md describes the layout; a package declares its own kinds of file with :func:`declare_layout`.
"""

from landscape.store.errors import StoreError
from landscape.store.layouts import declare as declare_layout
from landscape.store.part_file import PartFile, Progress, part_path, progress
from landscape.store.provenance import stamp
from landscape.store.reader import File, File as open
from landscape.store.verifier import check_seal, checked_writes, verify
from landscape.store.writer import add, create, load, save

__all__ = [
    "File",
    "PartFile",
    "Progress",
    "StoreError",
    "add",
    "check_seal",
    "checked_writes",
    "create",
    "declare_layout",
    "load",
    "open",
    "part_path",
    "progress",
    "save",
    "stamp",
    "verify",
]
