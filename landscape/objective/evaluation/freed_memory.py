"""Freed memory stays with the process, so that the next tensor need not be made of fresh pages.

glibc, the C library of most Linux systems, gives blocks of more than 128 KiB back to the operating system as soon as
they are freed, which then has to clear pages for the next tensor: on networks for images up to half of a forward pass
without gradients, where every output is freed at once. The library raises these limits by itself when a large block
is freed for the first time, up to 32 MiB, and twice that for what lies free at the end of its heap; so how fast a
process is would depend on what it happened to free before.
"""

from __future__ import annotations

from functools import cache

import torch

_BLOCK = 32 * 2**20 - 2**13  # bytes; a larger one leaves the limits as they are


@cache
def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MiB of freed memory, by allocating and freeing one large block, untouched.

    Programs that free arrays of this size do it in passing. It lasts until the process ends, and has no effect where
    ``MALLOC_MMAP_THRESHOLD_`` or its like are set, nor with other C libraries.

    >>> keep_freed_memory()
    """
    torch.empty(_BLOCK, dtype=torch.uint8)
