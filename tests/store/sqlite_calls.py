"""What SQLite asks of the operating system, seen and steered from Python.

SQLite reaches files through a table of functions, its VFS (sqlite.org/vfs.html). Here a copy of that table is put in
its place, in which those functions that change something call Python.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, byref, c_char_p, c_int, c_int64, c_void_p, cast
from pathlib import Path
from typing import Any

import pytest

Hook = Callable[[str, Path, int, bytes, Callable[[], int]], int]
"""``(what, path, offset, data, act)``: ``act()`` does what SQLite asked for and tells how that went.

``what`` is write, truncate (``offset`` is the new size), sync, name (a file is created), unname or sync_folder. The
hook returns what ``act()`` told, or raises an OSError, which SQLite then gets to see as its own.
"""

FAILED = {"write": 778, "truncate": 1546, "sync": 1034, "name": 14, "unname": 2570, "sync_folder": 14}
FULL, CREATE = 13, 4
KEPT: list[Any] = []  # what SQLite holds pointers to is never freed


def _table(numbers: str, functions: str) -> Any:
    fields = [(name, c_int) for name in numbers.split()] + [(name, c_void_p) for name in functions.split()]
    return type("Table", (ctypes.Structure,), {"_fields_": fields})


Vfs = _table(
    "version file_size path_length",
    "next name data open delete access full_path dl_open dl_error dl_symbol dl_close random sleep time last_error"
    " time64 set_call get_call next_call",
)
Methods = _table("version", "close read write truncate sync size lock unlock reserved control sector traits")
OPEN = CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_int, c_void_p)
DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
SET_CALL = CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p)
GET_CALL = CFUNCTYPE(c_void_p, c_void_p, c_char_p)
OPEN_FOLDER = CFUNCTYPE(c_int, c_char_p, c_void_p)
WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
SYNC = CFUNCTYPE(c_int, c_void_p, c_int)


def _library() -> Any:
    for place in (_sqlite3.__file__, None):  # SQLite is linked to this module, or part of Python
        library = ctypes.CDLL(place)
        if hasattr(library, "sqlite3_vfs_find"):
            library.sqlite3_vfs_find.restype = c_void_p
            return library
    pytest.skip("SQLite's functions are hidden in this build of Python")


@contextmanager
def hooked(hook: Hook) -> Iterator[None]:
    """Have ``hook`` called for all that SQLite does to files; connections opened within must be closed within."""
    library = _library()
    default = library.sqlite3_vfs_find(None)
    original = Vfs.from_address(default)
    ours = Vfs.from_buffer_copy(original)
    name = ctypes.create_string_buffer(b"hooked")
    ours.name = ctypes.addressof(name)

    paths: dict[int, bytes] = {}  # of the open files, by where SQLite keeps them
    tables: dict[int | None, Any] = {}  # by where the original is

    def call(what: str, path: bytes, offset: int, data: bytes, act: Callable[[], int]) -> int:
        try:
            return hook(what, Path(os.fsdecode(path)), offset, data, act)
        except OSError as error:
            return FULL if error.errno == errno.ENOSPC and what in ("write", "truncate") else FAILED[what]

    def open_file(_: int, path: bytes | None, file: int, flags: int, told: int) -> int:
        def act() -> int:
            return int(OPEN(original.open)(default, path, file, flags, told))

        if path is None:
            return act()
        code = act() if os.path.exists(path) or not flags & CREATE else call("name", path, 0, b"", act)
        pointer = c_void_p.from_address(file)
        if code == 0:
            paths[file] = path
            if pointer.value not in tables:
                tables[pointer.value] = _hooked_methods(pointer.value or 0, paths, call)
            pointer.value = ctypes.addressof(tables[pointer.value])
        else:
            pointer.value = None  # nothing to close
        return code

    def delete(_: int, path: bytes, durably: int) -> int:
        return call("unname", path, 0, b"", lambda: DELETE(original.delete)(default, path, durably))

    def open_folder(path: bytes, told: int) -> int:
        return call("sync_folder", os.path.dirname(path), 0, b"", lambda: OPEN_FOLDER(folder_opener)(path, told))

    functions = OPEN(open_file), DELETE(delete), OPEN_FOLDER(open_folder)
    ours.open, ours.delete = (cast(function, c_void_p).value for function in functions[:2])
    folder_opener = GET_CALL(original.get_call)(default, b"openDirectory")
    KEPT.append((ours, name, functions, tables))
    SET_CALL(original.set_call)(default, b"openDirectory", cast(functions[2], c_void_p))
    library.sqlite3_vfs_register(byref(ours), 1)
    try:
        yield
    finally:
        library.sqlite3_vfs_register(c_void_p(default), 1)
        library.sqlite3_vfs_unregister(byref(ours))
        SET_CALL(original.set_call)(default, b"openDirectory", folder_opener)


@contextmanager
def unsynced() -> Iterator[None]:
    """Nothing waits for the disk: for files that need not survive a crash of this machine."""

    def hook(what: str, path: Path, offset: int, data: bytes, act: Callable[[], int]) -> int:
        if what == "sync_folder":
            return FAILED[what]  # SQLite then does without; it would sync what it believes it was given
        return 0 if what == "sync" else act()

    with pytest.MonkeyPatch.context() as monkeypatch, hooked(hook):
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        yield


def _hooked_methods(address: int, paths: dict[int, bytes], call: Callable[..., int]) -> Any:
    """A table of the functions of open files, of which those that change them go through ``call``."""
    original = Methods.from_address(address)
    ours = Methods.from_buffer_copy(original)
    ours.version = 1  # without shared memory and memory mapping, which part files do not use

    def write(file: int, data: int, count: int, offset: int) -> int:
        content = ctypes.string_at(data, count)
        return call("write", paths[file], offset, content, lambda: WRITE(original.write)(file, data, count, offset))

    def truncate(file: int, size: int) -> int:
        return call("truncate", paths[file], size, b"", lambda: TRUNCATE(original.truncate)(file, size))

    def sync(file: int, flags: int) -> int:
        return call("sync", paths[file], 0, b"", lambda: SYNC(original.sync)(file, flags))

    functions = WRITE(write), TRUNCATE(truncate), SYNC(sync)
    ours.write, ours.truncate, ours.sync = (cast(function, c_void_p).value for function in functions)
    KEPT.append(functions)
    return ours
