"""The code on the method's page runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ncsam.optimizer import OPTIMIZERS

PAGE = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore:projection keeps")
@pytest.mark.parametrize("block", BLOCKS, ids=["a training loop", "a new perturbation"])
def test_the_pages_code_runs(block: str) -> None:
    exec(compile(block, "docs/method.md", "exec", dont_inherit=True), {"__name__": "page"})


def test_the_page_names_every_optimizer() -> None:
    assert [name for name in OPTIMIZERS if f"`{name}`" not in PAGE] == []
