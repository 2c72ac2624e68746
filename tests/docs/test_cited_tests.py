"""Every test that the documentation cites for a claim exists."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import PAGES, ROOT, Page, page

_CITED = re.compile(r"tests/[\w/]+\.py(?:::\w+)?")


@pytest.mark.parametrize("page", [p for p in PAGES if _CITED.search(p.text)], ids=lambda page: page.name)
def test_cited_tests_exist(page: Page) -> None:
    for cited in _CITED.findall(page.text):
        path, _, name = cited.partition("::")
        assert (ROOT / path).is_file(), cited
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), cited


def test_every_answer_of_the_questions_cites_one() -> None:
    answers = re.split(r"^### ", page("docs/faq.md").text, flags=re.MULTILINE)[1:]
    assert len(answers) > 30
    assert [a.splitlines()[0] for a in answers if not _CITED.search(a)] == []
