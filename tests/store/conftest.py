"""The store's tests write run files of any contents: the layouts that packages declare do not hold here."""

from __future__ import annotations

import pytest

import ncsam.records  # noqa: F401 - declares its layouts now, not in the middle of a test
from landscape.store import layouts


@pytest.fixture(autouse=True)
def no_declared_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_LAYOUTS", {})
