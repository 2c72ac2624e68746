"""Everything the store's tests write is verified before it gets its name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from landscape import store


@pytest.fixture(autouse=True)
def writes_are_checked() -> Iterator[None]:
    with store.checked_writes():
        yield
