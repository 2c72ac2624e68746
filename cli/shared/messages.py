"""Messages on stderr besides progress bars: notes, warnings and the one line of an error."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import click

from .progress import notes


def color() -> bool | None:
    """``False`` where the environment asks for no colour (https://no-color.org), else for click to decide.

    It then colours terminals only.
    """
    return False if os.environ.get("NO_COLOR") else None


def error(message: str, file: IO[str] | None = None) -> None:
    """Say in one line what went wrong, on stderr or in another ``file``."""
    _say("error", "red", message, file)


def silence() -> None:
    """No notes until the command ends; warnings stay."""
    notes.setLevel(logging.WARNING)


@contextmanager
def on_stderr() -> Iterator[None]:
    """While a command runs, notes and warnings of any library are lines on stderr; afterwards all is as it was."""
    handler, root = _Lines(), logging.getLogger()
    level, format_warning = notes.level, warnings.formatwarning
    root.addHandler(handler)
    notes.setLevel(logging.INFO)
    warnings.formatwarning = lambda message, *_args, **_more: str(message)  # no path and source line for users
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        warnings.formatwarning = format_warning
        notes.setLevel(level)
        root.removeHandler(handler)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if record.levelno >= logging.ERROR:
            _say("error", "red", message)
        elif record.levelno >= logging.WARNING:
            _say("warning", "yellow", message)
        else:
            _say("", "", message)


def _say(word: str, colour: str, message: str, file: IO[str] | None = None) -> None:
    text = f"landscape: {click.style(f'{word}:', fg=colour, bold=True)} {message}" if word else message
    bars = sys.modules.get("tqdm")
    if bars is None or not sys.stderr.isatty():
        click.echo(text, file, err=True, color=color())
        return
    with bars.tqdm.external_write_mode(file=sys.stderr):  # a bar is taken away first, and drawn again below
        click.echo(text, file, err=True, color=color())
