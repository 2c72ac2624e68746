"""A model of a disk that loses power: records what a process asked of it, and rebuilds what may be left.

Recorded are all writes, truncations and syncs of files, and all changes of names in the folder. At a crash, any of a
file's writes since its last sync may be missing, the last may be cut short, and the last changes of names since the
folder was synced may be missing too.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from landscape.store import disk
from tests.store.sqlite_calls import hooked

EXHAUSTIVE = 6  # up to so many unsynced writes every subset is tried, above that a sample


@dataclass(frozen=True)
class Event:
    """``what`` is write, truncate, sync, name, unname or sync_folder; ``file`` tells files apart."""

    what: str
    file: int = 0
    offset: int = 0
    data: bytes = b""
    name: str = ""


@dataclass
class Storage:
    """The journal of one folder from the moment recording began."""

    folder: Path
    events: list[Event] = field(default_factory=list)
    marks: list[tuple[int, Any]] = field(default_factory=list)
    before: dict[int, bytes] = field(default_factory=dict)
    names_before: dict[str, int] = field(default_factory=dict)
    tried: int = 0

    def mark(self, promise: Any) -> None:
        """From here on ``promise`` must hold after any crash."""
        self.marks.append((len(self.events), promise))

    def promises(self, point: int) -> list[Any]:
        return [promise for position, promise in self.marks if position <= point]

    def undisturbed(self) -> dict[str, bytes]:
        """Content of the folder when nothing is lost."""
        return self._rebuild(self.events, set(), None)

    def crashes(self, point: int, rng: random.Random) -> Iterator[dict[str, bytes]]:
        """Every content of the folder, by file name, that a crash after ``point`` events may leave (or a sample)."""
        past = self.events[:point]
        lost_writes = list(_choices(_unsynced_writes(past), rng))
        synced = max((i for i, e in enumerate(past) if e.what == "sync_folder"), default=-1)
        names = [i for i, e in enumerate(past) if e.what in ("name", "unname") and i > synced]
        cuts: list[int | None] = [None]
        if past and past[-1].what == "write" and len(past[-1].data) > 1:
            cuts.append(len(past[-1].data) // 2)
        for lost, kept_names, cut in itertools.product(lost_writes, range(len(names), -1, -1), cuts):
            yield self._rebuild(past, lost | set(names[kept_names:]), cut)

    def _rebuild(self, past: list[Event], lost: set[int], cut: int | None) -> dict[str, bytes]:
        contents = {number: bytearray(data) for number, data in self.before.items()}
        names = dict(self.names_before)
        for position, event in enumerate(past):
            if position in lost:
                continue
            content = contents.setdefault(event.file, bytearray())
            if event.what == "write":
                data = event.data[:cut] if cut and position == len(past) - 1 else event.data
                content.extend(bytes(max(0, event.offset + len(data) - len(content))))
                content[event.offset : event.offset + len(data)] = data
            elif event.what == "truncate":
                del content[event.offset :]
                content.extend(bytes(event.offset - len(content)))
            elif event.what == "name":
                names[event.name] = event.file
            elif event.what == "unname":
                names.pop(event.name, None)
        return {name: bytes(contents.get(number, b"")) for name, number in names.items()}


def _unsynced_writes(past: list[Event]) -> list[int]:
    found: list[int] = []
    for position, event in enumerate(past):
        if event.what in ("write", "truncate"):
            found.append(position)
        elif event.what == "sync":
            found = [i for i in found if past[i].file != event.file]
    return found


def _choices(unsynced: list[int], rng: random.Random) -> Iterator[set[int]]:
    """Sets of lost writes: all of them where they are few, else none, all, each alone, all but each, and a sample."""
    if len(unsynced) <= EXHAUSTIVE:
        for size in range(len(unsynced) + 1):
            yield from map(set, itertools.combinations(unsynced, size))
        return
    yield set()
    yield set(unsynced)
    for one in rng.sample(unsynced, min(len(unsynced), 8)):
        yield {one}
        yield set(unsynced) - {one}
    for _ in range(8):
        yield {i for i in unsynced if rng.random() < 0.5}


@contextmanager
def recorded(folder: Path) -> Iterator[Storage]:
    """Record all that the store does to files in ``folder``, itself and through SQLite."""
    storage = Storage(folder)
    numbers: dict[int, int] = {}  # of the files by their inodes, which are used again

    def number(path: str | Path) -> int:
        return numbers.setdefault(os.stat(path).st_ino, len(numbers))

    def created(path: Path) -> None:
        inode = os.stat(path).st_ino
        numbers[inode] = max(numbers.values(), default=-1) + 1
        storage.events.append(Event("name", numbers[inode], name=path.name))

    for path in folder.iterdir():
        storage.before[number(path)] = path.read_bytes()
        storage.names_before[path.name] = number(path)

    class Recorded(io.FileIO):
        def __init__(self, path: Path, mode: str) -> None:
            assert mode == "x+"
            super().__init__(path, mode)
            created(path)
            self.number = number(path)

        def write(self, data: Any) -> int:
            storage.events.append(Event("write", self.number, self.tell(), bytes(data)))
            return super().write(data)

        def truncate(self, size: int | None = None) -> int:
            size = self.tell() if size is None else size
            storage.events.append(Event("truncate", self.number, size))
            return super().truncate(size)

    def fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            storage.events.append(Event("sync_folder"))
        else:
            storage.events.append(Event("sync", numbers[found.st_ino]))

    real_replace, real_link, real_unlink = os.replace, os.link, os.unlink

    def replace(source: Path, target: Path) -> None:
        file = number(source)
        real_replace(source, target)
        # A rename is one entry of the file system's journal: the new name and the end of the old come together.
        storage.events.append(Event("name", file, name=Path(target).name))
        storage.events.append(Event("unname", name=Path(source).name))

    def link(source: Path, target: Path) -> None:
        real_link(source, target)
        storage.events.append(Event("name", number(source), name=Path(target).name))

    def unlink(path: Path, *, dir_fd: int | None = None) -> None:
        real_unlink(path, dir_fd=dir_fd)
        storage.events.append(Event("unname", name=Path(path).name))

    def by_sqlite(what: str, path: Path, offset: int, data: bytes, act: Callable[[], int]) -> int:
        code = act()
        if folder not in (path, path.parent):
            return code
        assert code == 0, (what, path)
        if what == "name":
            created(path)
        elif what == "unname":
            storage.events.append(Event("unname", name=path.name))
        else:
            storage.events.append(Event(what, number(path) if what != "sync_folder" else 0, offset, data))
        return code

    with pytest.MonkeyPatch.context() as monkeypatch, hooked(by_sqlite):
        monkeypatch.setattr(disk, "RawFile", Recorded)
        for name, replacement in (("fsync", fsync), ("replace", replace), ("link", link), ("unlink", unlink)):
            monkeypatch.setattr(os, name, replacement)
        yield storage
