"""The seal: lines of text behind the HDF5 data, with the SHA-256 of every piece of the file before them.

The manifest says which object is damaged, but HDF5 has to read the file to get there, and HDF5 is not safe on damaged
bytes (it was seen to hang on a flipped bit in its global heap). The seal is checked without HDF5 and covers every
byte. HDF5 ignores what lies behind its data. A piece is a large array, whose digest the manifest has too, or what lies
between two of them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path

from landscape.inputs import opened
from landscape.store.disk import Disk
from landscape.store.errors import StoreError

LINE = "{:16} {}\n"  # size and SHA-256 of a piece
LAST_LINE = "ncsam-landscape {} pieces sha256 {}\n"  # how many lines stand before it, and their SHA-256
WIDTH = len(LINE.format(0, "0" * 64))
LINES = re.compile(rb"\n((?: *[0-9]+ [0-9a-f]{64}\n)*)ncsam-landscape [0-9]+ pieces sha256 ([0-9a-f]{64})\n")
END = re.compile(rb"ncsam-landscape ([0-9]{1,9}) pieces sha256 [0-9a-f]{64}\n\Z")
EARLIER = re.compile(rb"\nncsam-landscape sha256 ([0-9a-f]{64})\n\Z")  # of files with one digest of all bytes
BLOCK = 1 << 18  # bytes; stays in the processor's cache between reading and hashing

Pieces = list[tuple[int, str]]  # sizes and digests, in the order of the file


def append(disk: Disk, hashed: Mapping[int, tuple[int, str]]) -> None:
    """Seal a file whose HDF5 data are complete.

    ``hashed`` has the size and SHA-256 of what lies at some offsets and need not be read again.
    """
    pieces: Pieces = []
    position, size = 0, os.fstat(disk.fileno()).st_size
    for offset in [*sorted(hashed), size]:
        if offset > position:
            disk.seek(position)
            pieces.append((offset - position, _sha256(disk, offset - position)))
        if offset in hashed:
            pieces.append(hashed[offset])
            position = offset + hashed[offset][0]
    lines = "".join(LINE.format(*piece) for piece in pieces)
    disk.seek(0, os.SEEK_END)
    disk.write(f"\n{lines}{LAST_LINE.format(len(pieces), hashlib.sha256(lines.encode()).hexdigest())}".encode())


def copy_unsealed(source: BufferedReader, size: int, target: Disk | None) -> None:
    """Check the seal of ``source``, and copy what it covers to ``target`` on the way.

    Raises:
        StoreError: there is no seal, or a byte has changed since.
    """
    pieces = _pieces(source, size)
    source.seek(0)
    if any(_sha256(source, length, target) != digest for length, digest in pieces):
        raise StoreError("its bytes do not match the SHA-256 at its end: it was damaged, or changed by another program")


def check(path: Path) -> None:
    """Check the seal of a finished file.

    Raises:
        StoreError: there is no seal, or a byte has changed since.
        Unfit: it is no regular file.
    """
    with opened(path) as source:
        copy_unsealed(source, os.fstat(source.fileno()).st_size, None)  # the path may get another file meanwhile


def _pieces(source: BufferedReader, size: int) -> Pieces:
    """The pieces that cover all of ``source`` but the seal itself, as the seal has them."""
    last = _tail(source, size, 128)
    earlier, end = EARLIER.search(last), END.search(last)
    if earlier is not None:
        return [(size - len(earlier[0]), earlier[1].decode())]
    text = b"" if end is None else _tail(source, size, 1 + int(end[1]) * WIDTH + len(end[0]))
    found = LINES.fullmatch(text)
    if found is None:
        raise StoreError("the seal at its end is missing: it was cut short, or changed by another program")
    lines = [line.split() for line in found[1].splitlines()]
    pieces = [(int(length), digest.decode()) for length, digest in lines]
    whole = sum(length for length, _ in pieces) == size - len(text)
    if not whole or hashlib.sha256(found[1]).hexdigest() != found[2].decode():
        raise StoreError("its bytes do not match the SHA-256 at its end: it was damaged, or changed by another program")
    return pieces


def _tail(source: BufferedReader, size: int, count: int) -> bytes:
    source.seek(max(0, size - count))
    return source.read(count)


def _sha256(source: Disk | BufferedReader, left: int, target: Disk | None = None) -> str:
    """Digest of the next ``left`` bytes of ``source``, copied to ``target`` on the way."""
    state, buffer = hashlib.sha256(), memoryview(bytearray(BLOCK))
    while left > 0 and (count := source.readinto(buffer[: min(BLOCK, left)])):
        state.update(buffer[:count])
        left -= count
        if target is not None:
            target.write(buffer[:count])
    return state.hexdigest()
