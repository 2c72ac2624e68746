"""The seal: one line behind the HDF5 data with the SHA-256 of every byte before it.

The manifest says which object is damaged, but HDF5 has to read the file to get there, and HDF5 is not safe on damaged
bytes (it was seen to hang on a flipped bit in its global heap). The seal is checked without HDF5 and covers every
byte. HDF5 ignores what lies behind its data.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import BinaryIO

from landscape.store.disk import Disk
from landscape.store.errors import StoreError

TEXT = "\nncsam-landscape sha256 {}\n"
PATTERN = re.compile(rb"\nncsam-landscape sha256 ([0-9a-f]{64})\n")
LENGTH = len(TEXT.format("0" * 64))
BLOCK = 1 << 20


def append(disk: Disk) -> None:
    """Seal a file whose HDF5 data are complete."""
    disk.seek(0)
    state = hashlib.sha256()
    while block := disk.read(BLOCK):
        state.update(block)
    disk.write(TEXT.format(state.hexdigest()).encode())


def copy_unsealed(source: BinaryIO, size: int, target: Disk | None) -> None:
    """Check the seal of ``source``, and copy what it covers to ``target`` on the way.

    Raises:
        StoreError: there is no seal, or a byte has changed since.
    """
    state = hashlib.sha256()
    left = size - LENGTH
    while left > 0 and (block := source.read(min(BLOCK, left))):
        state.update(block)
        left -= len(block)
        if target is not None:
            target.write(block)
    found = PATTERN.fullmatch(source.read())
    if found is None:
        raise StoreError("the seal at its end is missing: it was cut short, or changed by another program")
    if found[1].decode() != state.hexdigest():
        raise StoreError("its bytes do not match the SHA-256 at its end: it was damaged, or changed by another program")


def check(path: Path) -> None:
    """Check the seal of a finished file.

    Raises:
        StoreError: there is no seal, or a byte has changed since.
    """
    with path.open("rb") as source:
        copy_unsealed(source, path.stat().st_size, None)
