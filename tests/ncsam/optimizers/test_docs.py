"""The method's page names what there is; its code runs in tests/docs."""

from __future__ import annotations

from ncsam.optimizers import OPTIMIZERS
from tests.docs.pages import page


def test_the_page_names_every_optimizer() -> None:
    assert [name for name in OPTIMIZERS if f"`{name}`" not in page("docs/method.md").text] == []
