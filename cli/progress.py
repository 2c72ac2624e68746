"""Progress bars on stderr; the first one marks the moment from which an error is a failure, not a refusal."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import processes

_state: dict[str, Any] = {"started": False, "resume": None}


def begin() -> None:
    """Forget an earlier command."""
    _state.update(started=False, resume=None)


def started() -> bool:
    """Whether work has begun."""
    return bool(_state["started"])


def how_to_resume() -> str | None:
    """The command that continues a stopped one, if it can be continued."""
    return _state["resume"] if started() else None


def program() -> str:
    """How to call this program again from the same shell."""
    started = processes.program()
    if started is not None:
        return started
    if shutil.which("landscape"):
        return "landscape"
    return sys.argv[0] if Path(sys.argv[0]).stem == "landscape" else f"{Path(sys.executable).name} -m landscape_cli"


def bar(label: str, quiet: bool, *, resumable: bool = False, unit: str = "it") -> Callable[..., Iterable[Any]]:
    """A wrapper for iterables, ``wrap(items, total)``, that shows a bar unless ``quiet``.

    With ``resumable`` a stop prints this command line with ``--resume``.
    """

    def wrap(items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
        from tqdm import tqdm

        _state["started"] = True
        if resumable:
            words = [word for word in sys.argv[1:] if word not in ("--overwrite", "--resume")]
            _state["resume"] = f"{program()} {shlex.join([*words, '--resume'])}"
        interval = 0.1 if sys.stderr.isatty() else 10.0
        return tqdm(items, label, total, file=sys.stderr, disable=quiet, mininterval=interval, unit=unit)

    return wrap
