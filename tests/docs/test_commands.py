"""Every ``landscape …`` of the documentation is understood by the real commands: names, options, values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from landscape_cli.main import COMMANDS, LazyCommands
from tests.docs.pages import PAGES, Page
from tests.docs.test_code import COMMANDS_RUN, SLOW

LANDSCAPE = LazyCommands()
# Of other programs, and `--debug`, `--version`, which belong to no command.
OTHERS = {"--debug", "--version", "--help", "--standalone", "--nproc-per-node", "--nnodes", "--array"}


def command(name: str) -> click.Command:
    found = LANDSCAPE.get_command(click.Context(click.Command("landscape")), name)
    assert found is not None, f"there is no command {name!r}"
    return found


def lines() -> Iterator[tuple[str, str]]:
    """Every command line of the blocks that do not run, or not in the quick suite."""
    for page in PAGES:
        run = page.name in COMMANDS_RUN and page.name not in SLOW
        for block in page.code("bash") + ([] if run else page.code("sh")):
            for line in re.sub(r"\\\n\s*", "", block.code).splitlines():
                for part in re.split(r"&&|\|\||;|\|", line):
                    found = re.search(r"(?:^|\s|/)(landscape\s+(?:\w+)\b.*)$", part.partition(" #")[0])
                    if found and not part.lstrip().startswith("#"):
                        yield page.name, found[1].strip()


@pytest.mark.parametrize(("page", "line"), sorted(set(lines())))
def test_a_command_line_is_understood(page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)
    command(words[1]).make_context(words[1], words[2:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_prose_exist(page: Page) -> None:
    known = {o for name in COMMANDS for p in command(name).params for o in (*p.opts, *p.secondary_opts)} | OTHERS
    for code in page.inline:
        if named := re.match(r"landscape ([a-z]+)", code):
            own = {o for p in command(named[1]).params for o in (*p.opts, *p.secondary_opts)} | OTHERS
            assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code)) <= own, code
        elif code.startswith("--"):
            assert code.split()[0].split("=")[0] in known, code
