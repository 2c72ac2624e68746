"""Progress on stderr: a bar with the time left in a terminal and in Jupyter, a line now and then where output is piped.

Before a measurement's bar one line says what it will take.
The first bar also marks the moment from which an error is a failure, not a refusal.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import operator
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.inputs import readable

from . import torchrun

if TYPE_CHECKING:
    from ncsam.measurements.forecast import Forecast

EVERY = 30.0  # seconds between lines where there is no terminal
_TOLD = 2**20  # bytes on disk that are worth a word
notes = logging.getLogger("landscape_cli")
"""Notes besides results and errors: ``notes.info(…)``; ``--quiet`` silences it."""
_state: dict[str, Any] = {"started": False, "resume": None, "arguments": []}


def begin(arguments: Sequence[str]) -> None:
    """A command begins; forget an earlier one."""
    _state.update(started=False, resume=None, arguments=list(arguments))


def command_line() -> list[str]:
    """The command that is running, for the record."""
    return ["landscape", *_state["arguments"]]


def started() -> bool:
    """Tell whether work has begun."""
    return bool(_state["started"])


def how_to_resume() -> str | None:
    """The command that continues a stopped one, if it can be continued."""
    return _state["resume"] if started() else None


def program() -> str:
    """Give the words that call this program again from the same shell."""
    started = torchrun.program(_state["arguments"])
    if started is not None:
        return started
    if shutil.which("landscape"):
        return "landscape"
    return sys.argv[0] if Path(sys.argv[0]).stem == "landscape" else f"{Path(sys.executable).name} -m landscape_cli"


def bar(label: str, quiet: bool, *, resumable: bool = False, unit: str = "item") -> Callable[..., Iterable[Any]]:
    """A wrapper for iterables, ``wrap(items, total)``, that shows how far they are unless ``quiet``.

    With ``resumable`` a stop prints this command line with ``--resume``.
    """

    def wrap(items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
        _start(resumable)
        if total is None and (known := operator.length_hint(items, -1)) >= 0:
            total = known
        if quiet:
            return items
        if _in_jupyter() or sys.stderr.isatty():
            return _bar(items, label, total, unit)
        return _lines(items, label, total, unit)

    return wrap


def forecast(label: str) -> Callable[[Callable[[], Forecast]], None]:
    """A teller of what a measurement will take, in one line before its bar; under ``--quiet`` nothing is timed."""

    def tell(find: Callable[[], Forecast]) -> None:
        if notes.isEnabledFor(logging.INFO):
            _start(resumable=True)
            found = find()
            clock = f"about {_clock(found.seconds)}" if found.seconds >= 1 else "less than 0:01"
            memory = f", {readable(found.memory)} of memory" if found.memory else ""
            disk = f", {readable(found.disk)} on disk" if found.disk >= _TOLD else ""
            notes.info("%s: %s for %s%s%s", label, clock, found.work, memory, disk)

    return tell


def _start(resumable: bool) -> None:
    """From now on an error is a failure, and a stopped command can perhaps be continued."""
    _state["started"] = True
    if resumable:
        words = [word for word in _state["arguments"] if word not in ("--overwrite", "--resume")]
        _state["resume"] = f"{program()} {shlex.join([*words, '--resume'])}"


def _in_jupyter() -> bool:
    return "ipykernel" in sys.modules


def _bar(items: Iterable[Any], label: str, total: int | None, unit: str) -> Iterable[Any]:
    widgets = _in_jupyter() and importlib.util.find_spec("ipywidgets")
    tqdm = importlib.import_module("tqdm.notebook" if widgets else "tqdm").tqdm
    shown: Iterable[Any] = tqdm(items, label, total, file=sys.stderr, unit=unit, dynamic_ncols=True)
    return shown


def _lines(items: Iterable[Any], label: str, total: int | None, unit: str) -> Iterator[Any]:
    """The same items; a line every half minute, and one at the end."""
    begun = told = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - told >= EVERY and done != total:
            told = now
            left = "" if total is None else f" of {total}"
            ahead = "" if total is None else f", about {_clock((now - begun) / done * (total - done))} left"
            notes.info("%s: %d%s %ss in %s%s", label, done, left, unit, _clock(now - begun), ahead)
    notes.info("%s: %d %s%s in %s", label, done, unit, "" if done == 1 else "s", _clock(time.monotonic() - begun))


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> _clock(75.4), _clock(3725)
    ('1:15', '1:02:05')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
