"""State of the process that a measurement sets aside: random numbers, gradients, autocast, settings of torch."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch

_BLOCK = 32 * 2**20 - 2**13  # bytes; freeing a larger one leaves the C library's limits as they are


class SharedSetting:
    """A setting of the process's that threads share: made by the first that needs it, given back by the last.

    Args:
        make: a context in which it holds.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make, self._lock, self._users, self._held = make, threading.Lock(), 0, ExitStack()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Let it hold."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._held.enter_context(self._make())
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._held.close()


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Let torch's transformer layers compute what is differentiated also where no gradient is wanted.

    Their other way writes zeros into padded positions.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_ONE_PATH = SharedSetting(_without_fast_path)


@contextmanager
def process_state_restored(device: torch.device) -> Iterator[None]:
    """Gradients on, no autocast, inference mode or fast path; random states and torch's settings are given back."""
    on_device = getattr(torch, device.type) if device.type != "cpu" else None
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - the user's
    device_state = on_device.get_rng_state(device) if on_device is not None else None
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast(device.type, enabled=False),
        _ONE_PATH.shared(),
    ):
        try:
            yield
        finally:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            random.setstate(states[2])
            if on_device is not None:
                on_device.set_rng_state(device_state, device)
            if torch.get_default_dtype() != dtype:
                torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            now = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
            if now != deterministic:
                torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])


GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
"""Generators of random numbers, which have a state."""


def setting_back(generator: Any) -> Callable[[], Any]:
    """Give a function that sets a generator of random numbers back to its present state.

    >>> own = random.Random(0)
    >>> set_back = setting_back(own)
    >>> first = own.random()
    >>> set_back()
    >>> own.random() == first
    True
    """
    if isinstance(generator, torch.Generator):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return partial(setattr, bits, "state", copy.deepcopy(bits.state))
    if isinstance(generator, np.random.RandomState):
        return partial(generator.set_state, generator.get_state())
    return partial(generator.setstate, generator.getstate())


@cache
def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MiB of freed memory, by allocating and freeing one large block, untouched.

    glibc, the C library of most Linux systems, gives blocks of more than 128 KiB back to the operating system as soon
    as they are freed, which then has to clear pages for the next tensor: on networks for images up to half of a forward
    pass without gradients, where every output is freed at once, and a sixth of a training step. The library raises
    these limits by itself when a large block is freed for the first time, up to 32 MiB, and twice that for what lies
    free at the end of its heap; so how fast a process is would depend on what it happened to free before.

    Programs that free arrays of this size do it in passing. It lasts until the process ends, and has no effect where
    ``MALLOC_MMAP_THRESHOLD_`` or its like are set, nor with other C libraries.

    >>> keep_freed_memory()
    """
    torch.empty(_BLOCK, dtype=torch.uint8)
