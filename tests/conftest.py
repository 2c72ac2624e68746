"""Every test runs on one thread and must leave the global random states and defaults as it found them.

Every file the tests write is verified before it gets its name: its bytes, its records, and its kind's layout.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
import torch

from landscape import store

# A shell's background job starts with Ctrl-C ignored, and so would every process a test sends one to.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # numbers are bitwise the same for one thread count only
# Processes that tests start, too; threads that wait for each other on busy cores take a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Exempt the imported modules and the collected tests from garbage collection: walking them takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    assert torch.get_default_dtype() == torch.float32


@pytest.fixture(
    autouse=True, scope="package"
)  # fixtures of modules and sessions write files too; doctests are no package
def writes_are_checked() -> Iterator[None]:
    with store.checked_writes():
        yield
