"""Rows at fixed places of a part file: HDF5 lays out their chunks once, from then on they are overwritten without it.

A write through HDF5 costs some 25 µs for every chunk, and a full disk beneath it can crash the process. The chunks of
a part file are allocated when it is created and hold one row each, its bytes followed by their Fletcher-32 checksum;
so where a row lies, and what HDF5 expects there, is known.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import h5py
import numpy as np

from landscape.store.disk import Disk
from landscape.store.errors import StoreError

CHECKSUM = 4  # bytes
BLOCK = 1 << 16  # words summed at a time, so that a row of hundreds of megabytes needs no multiple of itself in memory


def fletcher32(rows: np.ndarray) -> np.ndarray:
    """HDF5's Fletcher-32 checksum of each row of bytes (rows, n), (rows,) uint32.

    Over the 16-bit words wᵢ, big-endian, a last odd byte padded with zero: the sums Σ wᵢ and Σ (m − i) wᵢ, i from 0,
    modulo 65535, the second in the upper half. A sum of words that are not all zero is 65535, never 0.

    >>> [hex(value) for value in fletcher32(np.array([[1, 2, 3], [0, 0, 0]], np.uint8))]
    ['0x5040402', '0x0']
    """
    if rows.shape[1] % 2:
        rows = np.pad(rows, ((0, 0), (0, 1)))
    words = np.ascontiguousarray(rows).view(">u2")
    first, second = np.zeros((2, len(rows)), np.uint64)
    used = np.zeros(len(rows), bool)
    for start in range(0, words.shape[1], BLOCK):
        block = words[:, start : start + BLOCK].astype(np.uint64)
        count = block.shape[1]
        second = (second + count * first + block @ np.arange(count, 0, -1, dtype=np.uint64)) % 65535
        total = block.sum(1)
        first = (first + total) % 65535
        used |= total > 0
    first[used & (first == 0)] = 65535
    second[used & (second == 0)] = 65535
    return (second << np.uint64(16) | first).astype("<u4")


@dataclass(frozen=True)
class Slots:
    """Where in the file each row of one field lies, (rows,), and how many bytes one row has without its checksum."""

    offsets: np.ndarray
    row_bytes: int

    @classmethod
    def of(cls, dataset: h5py.Dataset, file_size: int) -> Slots:
        """The places of the rows of a data set.

        Raises:
            StoreError: it is not laid out as part files are.
        """
        row_bytes = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
        found: list[tuple[int, int]] = []

        def note(chunk: h5py.h5d.StoreInfo) -> None:
            inside = 0 < chunk.byte_offset <= file_size - chunk.size
            if inside and chunk.size == row_bytes + CHECKSUM and chunk.filter_mask == 0:
                found.append((chunk.chunk_offset[0], chunk.byte_offset))

        if dataset.chunks == (1, *dataset.shape[1:]) and dataset.fletcher32:
            dataset.id.chunk_iter(note)
        if [row for row, _ in sorted(found)] != list(range(dataset.shape[0])):
            raise StoreError(f"{dataset.name} is not laid out as in a part file, or its index is damaged; start over")
        return cls(np.array([offset for _, offset in sorted(found)]), row_bytes)

    def write(self, disk: Disk, rows: np.ndarray, values: bytes) -> None:
        """Overwrite ``rows`` (ascending) with ``values``, one after the other; neighbours on disk in one go."""
        plain = np.frombuffer(values, np.uint8).reshape(len(rows), self.row_bytes)
        stored = np.concatenate([plain, fletcher32(plain)[:, None].view(np.uint8)], axis=1)
        places = self.offsets[rows]
        starts = [0, *(np.flatnonzero(np.diff(places) != self.row_bytes + CHECKSUM) + 1).tolist(), len(rows)]
        for first, last in itertools.pairwise(starts):
            disk.seek(int(places[first]))
            disk.write(stored[first:last])
