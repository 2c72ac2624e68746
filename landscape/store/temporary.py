"""A file that does not exist until it is whole: written beside its place under a temporary name, then named."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from landscape.store.disk import Disk, fsync_folder
from landscape.store.lock import try_lock

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)


def remove_stale(folder: Path, names: Iterable[str]) -> None:
    """Remove what killed writers of the files of these names left in a folder; what is being written stays."""
    wanted = set(names)
    for entry in os.listdir(folder):
        found = _TEMPORARY.fullmatch(entry)
        if found is not None and found[1] in wanted:
            _remove(folder / entry)


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[Disk]:
    """A new file beside ``path``; after the block it is gone, except under a name it was given.

    A lock on it tells a file that is being written from what a killed writer left; the latter is removed first.
    """
    remove_stale(path.parent, [path.name])
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    disk = Disk(temporary)
    guard = try_lock(temporary)
    try:
        yield disk
    finally:
        disk.close()
        with contextlib.suppress(OSError):  # what cannot be removed now, the next writer removes
            temporary.unlink(missing_ok=True)
        if guard is not None:
            os.close(guard)


def publish(disk: Disk, path: Path, *, overwrite: bool) -> None:
    """Make a temporary file durable, give it its name in one step, and make the name durable.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is false, even if it appeared a moment ago.
        OSError: a write before failed, or the file system refused.
    """
    disk.sync()
    disk.close()
    if overwrite:
        os.replace(disk.path, path)
    elif not _link(disk.path, path):
        if path.exists():
            raise FileExistsError(f"{path} exists")
        os.replace(disk.path, path)
    fsync_folder(path.parent)


def _link(temporary: Path, path: Path) -> bool:
    """Link ``path`` to the file, which unlike a rename never replaces; False where links do not exist (FAT)."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):
        return False
    return True


def _remove(stale: Path) -> None:
    with contextlib.suppress(OSError):  # gone already
        descriptor = try_lock(stale)
        if descriptor is not None:
            stale.unlink()
            os.close(descriptor)
