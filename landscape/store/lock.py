"""One writer at a time: an advisory lock that dies with its holder, however it dies."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from landscape.store.errors import StoreError

if sys.platform == "win32":
    import msvcrt

    def _try(descriptor: int) -> None:
        # Locks are mandatory on Windows: take a byte far behind the end, so that readers are not stopped.
        os.lseek(descriptor, 1 << 60, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _lock_file(path: Path) -> Path:
        # An open file cannot be replaced there, so the lock lives beside it.
        return path.with_name(path.name + ".lock")
else:
    import fcntl

    def _try(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _lock_file(path: Path) -> Path:
        return path


def try_lock(path: Path) -> int | None:
    """Lock an existing file for writing; its descriptor (close it to unlock), or None where another writer holds it.

    Raises:
        FileNotFoundError: there is no such file, or no longer.
    """
    target = _lock_file(path)
    flags = os.O_RDWR | (os.O_CREAT if target != path else 0)
    descriptor = os.open(target, flags)
    try:
        _try(descriptor)
        # While we were opening it, the file may have been replaced or removed: then this lock guards nothing.
        same = os.path.samestat(os.fstat(descriptor), os.stat(target))
    except FileNotFoundError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    if not same:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def locked(path: Path, *, wait: float) -> Iterator[None]:
    """Hold the only write lock on ``path``; another writer gets ``wait`` seconds to finish.

    Raises:
        StoreError: another process is still writing.
    """
    deadline = time.monotonic() + wait
    while (descriptor := try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise StoreError(f"{path}: another process is writing to it; wait until it is done, then try again")
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(descriptor)
