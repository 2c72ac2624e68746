"""One writer at a time: an advisory lock that dies with its holder, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from landscape.store.errors import StoreError


def try_lock(path: Path) -> int | None:
    """Lock a file for writing; its descriptor (close it to unlock), or None where another writer holds the lock.

    Raises:
        FileNotFoundError: there is no such file, or no longer.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        # While we were opening it, the file may have been replaced or removed: then this lock guards nothing.
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


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


class Held(StoreError):
    """Another process is at the same work."""


@contextlib.contextmanager
def sole(path: Path, purpose: str, refusal: str) -> Iterator[None]:
    """Be the only process at some work on ``path``, which need not exist; a file beside it holds the lock meanwhile.

    The lock dies with its holder, so what a kill leaves of the file does no harm. The file says who holds it.

    Args:
        purpose: part of the lock file's name, ``PATH.PURPOSE.lock``.
        refusal: message to another process, e.g. ``"another process is training into it; wait until it is done"``.

    Raises:
        Held: another process is at it.
        StoreError: the folder cannot be written.
    """
    lock = path.with_name(f"{path.name}.{purpose}.lock")
    while True:
        try:
            lock.touch()
        except OSError as error:
            raise StoreError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
        with contextlib.suppress(FileNotFoundError):  # its holder has ended between the two
            descriptor = try_lock(lock)
            break
    if descriptor is None:
        raise Held(f"{path}: {refusal}{_holder(lock)}")
    try:
        with contextlib.suppress(OSError):  # the name is a courtesy
            lock.write_text(f"{platform.node()}, process {os.getpid()}", encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):  # what is left of it does no harm
            lock.unlink()  # before it is given free, so that nobody locks a file that is going away
        os.close(descriptor)


def _holder(lock: Path) -> str:
    try:
        return f" ({text})" if (text := lock.read_text(encoding="utf-8")) else ""
    except (OSError, UnicodeDecodeError):  # it has just ended
        return ""
