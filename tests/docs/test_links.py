"""Every link of the documentation leads somewhere, to a heading too."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, Page


def dead(page: Page) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for target in page.links:
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.path.parent / unquote(name)).resolve() if name else page.path
        if not path.is_relative_to(ROOT) or not path.exists():
            found.append(f"{target}: no such file")
        elif page.path.is_relative_to(DOCS) and path.is_dir():
            found.append(f"{target}: a folder, which the site cannot show")
        elif anchor and anchor not in (page if path == page.path else Page(path)).anchors:
            found.append(f"{target}: no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Page) -> None:
    assert dead(page) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    page = Page(DOCS / "theory.md")
    page.__dict__["text"] = (
        "[a](nowhere.md) [b](method.md#sam) [c](method.md#mas) [d](#here) [e](../docs) ![f](https://x.org/y.png)\n"
        "```text\n[g](neither.md)\n```\n`[h](code.md)` [`i`](gone.md)\n# Here\n"
    )
    assert dead(page) == [
        "nowhere.md: no such file",
        "method.md#mas: no such heading",
        "../docs: a folder, which the site cannot show",
        "gone.md: no such file",
    ]
