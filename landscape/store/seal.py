"""The seal: one line behind the HDF5 data with the SHA-256 of every byte before it.

The manifest says which object is damaged, but HDF5 has to read the file to get there, and HDF5 is not safe on damaged
bytes (it was seen to hang on a flipped bit in its global heap). The seal is checked without HDF5 and covers every
byte. HDF5 ignores what lies behind its data.
"""

from __future__ import annotations

import hashlib
import os
import re
from io import BufferedReader
from pathlib import Path

from landscape.store.disk import Disk
from landscape.store.errors import StoreError

TEXT = "\nncsam-landscape sha256 {}\n"
PATTERN = re.compile(rb"\nncsam-landscape sha256 ([0-9a-f]{64})\n")
LENGTH = len(TEXT.format("0" * 64))
BLOCK = 1 << 18  # bytes; stays in the processor's cache between reading and hashing


def append(disk: Disk) -> None:
    """Seal a file whose HDF5 data are complete."""
    disk.seek(0)
    digest = _sha256(disk, os.fstat(disk.fileno()).st_size)
    disk.write(TEXT.format(digest).encode())


def copy_unsealed(source: BufferedReader, size: int, target: Disk | None) -> None:
    """Check the seal of ``source``, and copy what it covers to ``target`` on the way.

    Raises:
        StoreError: there is no seal, or a byte has changed since.
    """
    digest = _sha256(source, size - LENGTH, target)
    found = PATTERN.fullmatch(source.read())
    if found is None:
        raise StoreError("the seal at its end is missing: it was cut short, or changed by another program")
    if found[1].decode() != digest:
        raise StoreError("its bytes do not match the SHA-256 at its end: it was damaged, or changed by another program")


def check(path: Path) -> None:
    """Check the seal of a finished file.

    Raises:
        StoreError: there is no seal, or a byte has changed since.
    """
    with path.open("rb") as source:
        copy_unsealed(source, path.stat().st_size, None)


def _sha256(source: Disk | BufferedReader, left: int, target: Disk | None = None) -> str:
    """Digest of the next ``left`` bytes of ``source``, copied to ``target`` on the way."""
    state, buffer = hashlib.sha256(), memoryview(bytearray(BLOCK))
    while left > 0 and (count := source.readinto(buffer[: min(BLOCK, left)])):
        state.update(buffer[:count])
        left -= count
        if target is not None:
            target.write(buffer[:count])
    return state.hexdigest()
