"""Every test runs on one thread and must leave the global random states and defaults as it found them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)  # numbers are bitwise the same for one thread count; session fixtures too run on this one


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    assert torch.get_default_dtype() == torch.float32
