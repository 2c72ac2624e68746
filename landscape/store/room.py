"""Room for what is to be made, told from its size before any work."""

from __future__ import annotations

import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from landscape.inputs import readable

_MEMINFO, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_SELF, _STATM = Path("/proc/self/status"), Path("/proc/self/statm")


def check_room(what: str, folder: Path, *, disk: int = 0, memory: int = 0) -> None:
    """Refuse what needs more bytes on the disk of ``folder``, or in memory, than there are.

    Raises:
        ValueError: there is not enough.

    >>> check_room("a picture", Path("."), disk=10**18)
    Traceback (most recent call last):
    ValueError: a picture needs 888 PiB on disk, and ... are free in .; ask for less, or make room
    """
    free = shutil.disk_usage(folder).free
    if disk > free:
        there = f"{readable(free)} are free in {folder}"
        raise ValueError(f"{what} needs {readable(disk)} on disk, and {there}; ask for less, or make room")
    left = available_memory()
    if left is not None and memory > left:
        raise ValueError(f"{what} needs {readable(memory)} of memory, and {readable(left)} are free; ask for less")


def peak_memory() -> int | None:
    """The most bytes of memory that this process has held so far; None where the system does not say.

    >>> (peak_memory() or 2**30) > 2**20
    True
    """
    try:
        lines = _SELF.read_text(encoding="utf-8").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    except (OSError, ValueError, IndexError):  # another system
        return None


@contextmanager
def watching_memory(every: float = 0.005) -> Iterator[Callable[[], int]]:
    """Give what tells, after the context, the most bytes of memory that the process held within it, looked at often.

    Unlike :func:`peak_memory` it forgets what was held before; 0 where the system does not say.

    >>> with watching_memory() as most:
    ...     _ = sum(range(1000))
    >>> most() == 0 or most() > 2**20
    True
    """
    seen, over = [_held()], threading.Event()

    def look() -> None:
        while not over.wait(every):
            seen[0] = max(seen[0], _held())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield lambda: seen[0]
    finally:
        over.set()
        watcher.join()
        seen[0] = max(seen[0], _held())


def _held() -> int:
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):  # another system
        return 0


def available_memory() -> int | None:
    """Bytes of memory that this process can still have; None where the system does not say.

    >>> (available_memory() or 1) > 0
    True
    """
    found = []
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        allowed, used = (
            (_GROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current")
        )
        if allowed != "max":
            found.append(int(allowed) - int(used))
    except (OSError, ValueError, IndexError):  # another system, or not in a group
        pass
    bound = resource.getrlimit(resource.RLIMIT_AS)[0]
    if bound != resource.RLIM_INFINITY:
        try:
            held = int(_STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        except (OSError, ValueError, IndexError):
            held = 0
        found.append(bound - held)
    return max(0, min(found)) if found else None
