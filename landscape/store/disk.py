"""Bytes on disk: the file HDF5 writes through, and durable flushes.

HDF5 does not survive a failing disk: once a write has failed, closing the file (or leaving Python) can crash the
process. So HDF5 never sees a failure here. :class:`Disk` keeps the first error, pretends that all later writes
succeed, and raises the error where :meth:`Disk.sync` promises durability; a file that was written in vain is
thrown away.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PUSH = 8 << 20  # bytes written that are worth setting the disk to work while the next are prepared

RawFile = io.FileIO  # the one way bytes reach the disk; tests put a recording or failing file here


def fsync_folder(folder: Path) -> None:
    """Make creations, renames and removals in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Disk:
    """A new file, as a file object for h5py, whose failures are kept until :meth:`sync`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error: OSError | None = None
        self._raw = RawFile(path, "x+")
        self._waiting = 0  # bytes written since the disk was last set to work
        self._pushing: threading.Thread | None = None

    def fileno(self) -> int:
        return self._raw.fileno()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return 0 if self._raw.closed else self._raw.seek(offset, whence)

    def tell(self) -> int:
        return 0 if self._raw.closed else self._raw.tell()

    def readinto(self, buffer: Any) -> int:
        # Behind the end of a file whose last writes were dropped there must be zeros, not whatever memory held.
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            count = 0 if self._raw.closed else self._raw.readinto(view[done:])
            if not count:
                view[done:] = bytes(len(view) - done)
                break
            done += count
        return len(view)

    def read(self, size: int = -1) -> bytes:  # by having this, h5py tells a file object from a path
        return self._raw.read(size) or b""

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.error is None:
                count = self._raw.write(view[done:])
                if not count:
                    raise OSError("the file system took no bytes")
                done += count
        except OSError as error:
            self.error = error
        self._waiting += len(view)
        if self._waiting >= PUSH and self.error is None:
            self._push()
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        # HDF5 asks for this at every flush; to "change" the length to what it is would still make the next sync dearer
        try:
            if self.error is None and size != os.fstat(self._raw.fileno()).st_size:
                self._raw.truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def flush(self) -> None:
        """HDF5's flush; durability is :meth:`sync`'s business."""

    def sync(self) -> None:
        """Return when all writes so far are on the medium.

        Raises:
            OSError: a write since the last call failed, or the medium refused; the file takes no more writes.
        """
        self._end_push()
        self._sync()
        if self.error is not None:
            raise self.error

    def _sync(self) -> None:
        self._waiting = 0
        if self.error is None:
            try:
                os.fsync(self._raw.fileno())
            except OSError as error:
                self.error = error

    def _push(self) -> None:
        """Have a thread push the writes so far to the medium, unless one is at it; failures are raised by the sync."""
        if self._pushing is None or not self._pushing.is_alive():
            self._pushing = threading.Thread(target=self._sync)
            self._pushing.start()

    def _end_push(self) -> None:
        if self._pushing is not None:
            self._pushing.join()
            self._pushing = None

    def close(self) -> None:
        """Close; an HDF5 handle that outlives the file then writes into the void."""
        self._end_push()
        self.error = self.error or OSError("the file is closed")
        self._raw.close()


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM until the block is done, so that no exception passes through HDF5 during a write.

    Only the main thread receives signals as exceptions; elsewhere nothing needs to be held back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    held: dict[int, Any] = {
        int(number): signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not None  # None: installed by C code, not ours to put back
    }
    try:
        yield
    finally:
        for held_number, handler in held.items():
            signal.signal(held_number, handler)
        for arrived in received:
            signal.raise_signal(arrived)
