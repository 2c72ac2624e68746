"""The front page leads to the answer of each question that a newcomer has; numbers in these answers are measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, Page, page

# What a newcomer asks, and words of the answer.
QUESTIONS = {
    "How do I get eigenvalues of my own model?": "obj.summary(",
    "How do I draw a loss surface, and can I see the code?": "landscape.plot(planes)",
    "Which measure should I report?": "If you may report only two",
    "Is an eigenvalue of 13 large?": "edge of stability",
    "How large a subset is enough?": "Double the subset until",
    "How long will it take?": "products × r × G",
    "Can I measure weights that were trained elsewhere?": "landscape import --weights",
    "How do I train with NCSAM under label noise?": "landscape train --optimizer ncsam",
    "What was found about NCSAM?": "# Results",
    "Does it run on Windows, and with how many threads?": "Not Windows and not macOS",
    "Does measuring change my model?": "Was it changed?",
    "How do I complete commands in my shell?": "_LANDSCAPE_COMPLETE=bash_source",
}


def linked(start: Page) -> set[Path]:
    """The pages of the site that a page links to, in its text or in the navigation that every page shows."""
    targets = {target.partition("#")[0] for target in start.links}
    return {(start.path.parent / target).resolve() for target in targets if target.endswith(".md")}


def navigation() -> set[Path]:
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", page("docs/index.md").text, flags=re.MULTILINE | re.DOTALL)
    return {DOCS / f"{name}.md" for tree in trees for name in tree.split("\n") if name and not name.startswith(":")}


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_is_within_two_clicks_of_the_front_page(question: str) -> None:
    front = page("docs/index.md")
    first = linked(front) | navigation()
    second = {path for one in first if one.is_relative_to(DOCS) for path in linked(Page(one))}
    answering = [path for path in {front.path} | first | second if QUESTIONS[question] in path.read_text("utf-8")]
    assert answering, question


def test_every_page_is_in_the_navigation() -> None:
    trees = [page(f"docs/{name}index.md") for name in ("", "gallery/", "notebooks/")]
    named = set()
    for holder in trees:
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", holder.text, flags=re.MULTILINE | re.DOTALL):
            named |= {holder.path.parent / f"{name}.md" for name in tree.split("\n") if name and name[0] != ":"}
    assert named == {path for path in DOCS.rglob("*.md") if path.name != "README.md"} - {DOCS / "index.md"}


def result(name: str) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = json.loads(
        (ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8")
    )
    return found


def test_the_cost_of_a_product_is_what_the_benchmark_found() -> None:
    cases = result("curvature_product")["cases"]
    columns = [cases[name]["arms"] for name in ("mlp-3k", "resnet20")]
    arms = {
        "`auto`": "auto", "double backward, nothing kept": "double backward",
        "double backward, graph kept": "double backward, graph kept", "`split` (traced)": "split",
        "`compiled`": "compiled",
    }  # fmt: skip
    text = page("docs/how-long.md").text
    for head, arm in arms.items():
        shown = [f"{column[arm]['ratio']['median']:.2f}" for column in columns]  # type: ignore[index]
        assert f"| {head} | {' | '.join(shown)} |" in text


def test_the_gallery_has_a_picture_and_the_code_of_each() -> None:
    pages = [path for path in sorted((DOCS / "gallery").glob("*.md")) if path.name != "index.md"]
    assert len(pages) > 6
    index = (DOCS / "gallery" / "index.md").read_text("utf-8")
    for path in pages:
        assert f"{path.stem}.png" in path.read_text("utf-8").split("```python")[1]
        picture = path.with_suffix(".png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) < 200_000
        assert f"({path.name})" in index
