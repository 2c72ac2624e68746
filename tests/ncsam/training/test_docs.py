"""The page on training names every column and every choice; its code and commands run in tests/docs."""

from __future__ import annotations

import re

from landscape_cli.train import command
from ncsam.records import Training
from tests.docs.pages import page

PAGE = page("docs/training.md").text


def test_every_column_has_its_meaning() -> None:
    table = PAGE.split("## What each column means")[1].split("##")[0]
    assert [name for name in Training.variables() if f"`{name}`" not in table] == []


def test_every_choice_it_names_exists() -> None:
    options = {name for parameter in command.params for name in parameter.opts} | {"--epochs"}
    named = set(re.findall(r"`(--[a-z-]+[a-z])(?= |`)", PAGE))
    assert len(named) > 12
    assert named <= options
