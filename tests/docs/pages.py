"""The documentation as it is tested: its pages, their code blocks, links and headings."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=fence)`*\s*$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*(?P<target>[^)\s]+)\s*\)")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: ``line`` is the first line of its code, counted from 1."""

    language: str
    code: str
    line: int


@dataclasses.dataclass(frozen=True)
class Page:
    """One Markdown file; ``name`` is its path from the root of the repository."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @functools.cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @functools.cached_property
    def blocks(self) -> list[Block]:
        return [
            Block(m["language"].strip(), m["code"], self.text.count("\n", 0, m.start("code")) + 1)
            for m in _FENCE.finditer(self.text)
        ]

    def code(self, language: str) -> list[Block]:
        return [block for block in self.blocks if block.language == language]

    @functools.cached_property
    def prose(self) -> str:
        """The text without its fenced blocks and HTML comments."""
        return re.sub(r"<!--.*?-->", "", _FENCE.sub("", self.text), flags=re.DOTALL)

    @property
    def inline(self) -> list[str]:
        """What stands between single backticks."""
        return [" ".join(found.split()) for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", self.prose)]

    @property
    def links(self) -> list[str]:
        """Targets of links and pictures in the prose, a link around code too."""
        return [m["target"] for m in _LINK.finditer(re.sub(r"(?<!`)`[^`]+`(?!`)", "code", self.prose))]

    @functools.cached_property
    def anchors(self) -> set[str]:
        """Names that code hosts and the site give to the headings."""
        seen: Counter[str] = Counter()
        found = set()
        for title in re.findall(r"^#{1,6}\s+(.*?)\s*#*$", self.prose, flags=re.MULTILINE):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").replace("*", "")
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
        return found


PAGES = [
    Page(path)
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted(DOCS.rglob("*.md")),
    )
]


def page(name: str) -> Page:
    """The page of that name, such as ``docs/theory.md``."""
    return next(p for p in PAGES if p.name == name)
