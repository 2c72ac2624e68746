"""Options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from landscape import inputs

from . import completion, messages, progress
from .command import (
    Renamed as Renamed,
    command as command,
    long_name,
    section as section,
    several as several,
    within as within,
)
from .config_file import CONFIG as CONFIG

if TYPE_CHECKING:
    from ncsam.runs.run import Run

F = TypeVar("F", bound=Callable[..., Any])

_MOST_EPOCHS = 100_000  # in a range
LARGEST = 1e6  # of radii, deviations and spans: beyond, float32 losses overflow


def count(low: int, high: int) -> click.IntRange:
    """A whole number from ``low`` to ``high``."""
    return click.IntRange(low, high)


def size(high: float = LARGEST) -> click.FloatRange:
    """A number from 0 to ``high``."""
    return click.FloatRange(0, high)


def positive(high: float = LARGEST) -> click.FloatRange:
    """A number above 0 and up to ``high``."""
    return click.FloatRange(0, high, min_open=True)


SIGNED = click.FloatRange(-LARGEST, LARGEST)
SHARE = click.FloatRange(0, 1)
BELOW_1 = click.FloatRange(0, 1, max_open=True)
SEEDS = click.IntRange(0, 2**32 - 1)  # what NumPy's and scikit-learn's generators take
RUN = click.argument("run", type=click.Path(path_type=Path))


def out(text: str, default: str, *, metavar: str | None = None) -> Callable[[F], F]:
    """The option ``-o``, ``--out``; ``default`` is what is written where it is not given, in words."""
    flags = ("-o", "--out")
    option = click.option(*flags, type=click.Path(path_type=Path), metavar=metavar, show_default=default, help=text)
    return within("Output", option)


def split(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Callback: a comma-separated list."""
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


def result_name(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Callback: a name under which the file can hold a result."""
    try:
        for part in value.split("/") if value is not None else ():
            inputs.file_name(part, "a result")  # it becomes the name of a file meanwhile
    except ValueError as error:
        words = "use letters, digits and -_.+, no dot at the beginning; parts of it may be joined by /"
        raise click.BadParameter(f"{value!r} cannot name a result; {words}") from error
    return value


def _silence(_ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    """Callback: ``--quiet``."""
    if value:
        messages.silence()
    return value


ORIGINS = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "config",
}
"""Place that a value was given at, in the words of the files."""


def refuse_imports(names: Iterable[str], trust: bool) -> None:
    """Refuse names of data sets and models that were not typed, where loading them would run code, unless trusted.

    Raises:
        click.UsageError: there is such a name.
    """
    from ncsam.data import imports_code

    for name in names:
        if imports_code(name) and not trust:
            raise click.UsageError(
                f"{name!r} is from a file or the environment and would import and run code; name it on the command "
                "line, or add --trust"
            )


def refuse_untyped(names: Mapping[str, str], trust: bool) -> None:
    """Refuse names, by their option, as :func:`refuse_imports` does, where a file or the environment gave them.

    Raises:
        click.UsageError: there is such a name.
    """
    source_of = click.get_current_context().get_parameter_source
    elsewhere = ORIGINS.keys() - {ParameterSource.COMMANDLINE}
    refuse_imports([value for option, value in names.items() if source_of(option) in elsewhere], trust)


def provenance() -> dict[str, Any]:
    """The command that is running, its options as they were resolved, and where each that was given is from."""
    ctx = click.get_current_context()
    shown = [p for p in ctx.command.params if isinstance(p, click.Option) and p.name in ctx.params]
    sources = {long_name(p): ctx.get_parameter_source(str(p.name)) for p in shown}
    return {
        "command": progress.command_line(),
        "options": {long_name(p): _plain(ctx.params[str(p.name)]) for p in shown},
        "given": {name: ORIGINS[source] for name, source in sources.items() if source in ORIGINS},
    }


def _plain(value: Any) -> Any:
    """JSON-able form of an option's value."""
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _on_the_command_line(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    """Callback: what a file or the environment says is not the user's own word."""
    if value and ctx.get_parameter_source(str(param.name)) is not ParameterSource.COMMANDLINE:
        raise click.BadParameter("must be given on the command line, not in the environment or a file", ctx, param)
    return value


def _limits(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Callback: ``--limits``, kept in the environment, where other processes of the command find it."""
    if value is not None:
        try:
            inputs.parse_limits(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        os.environ[inputs.VARIABLE] = value


def whole_numbers(text: tuple[str, ...], option: str) -> list[int]:
    """Epochs as they are listed on the command line, with ranges.

    >>> whole_numbers(("1", "4-6"), "--checkpoints")
    [1, 4, 5, 6]

    Raises:
        click.BadParameter: something else than numbers and ranges, or a range of very many.
    """
    found: list[int] = []
    for part in text:
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part, re.ASCII)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if high < low:
            raise click.BadParameter(f"{part!r}, expected epochs such as 10,20 or 4-6", param_hint=option)
        if high - low >= _MOST_EPOCHS:
            raise click.BadParameter(f"{part!r} are {high - low + 1} epochs, at most {_MOST_EPOCHS}", param_hint=option)
        found += range(low, high + 1)
    return found


def checkpoints(run: Run, listed: Iterable[str]) -> list[int]:
    """The checkpoints of a run that ``--checkpoints`` lists: epochs, ``last``, ranges of them, or ``all``.

    Raises:
        click.UsageError: a range in which no weights were kept.
        StoreError: no weights of an epoch, or no epoch.
    """
    found: list[int] = []
    for part in listed:
        match = re.fullmatch(r"(\d{1,9})-(\d{1,9}|last)", part, re.ASCII)
        if part == "all":
            found += run.epochs
        elif match is None:
            found.append(run.epoch(part))
        else:
            low, high = int(match[1]), run.epoch("last") if match[2] == "last" else int(match[2])
            within_range = [epoch for epoch in run.epochs if low <= epoch <= high]
            if not within_range:
                there = ", ".join(map(str, run.epochs))
                raise click.UsageError(f"{run.path}: no weights of the epochs {part}; it has {there}")
            found += within_range
    return found


def views(run: Run, listed: Iterable[str]) -> list[str]:
    """The views that ``--views`` lists; ``all`` stands for those that the run has, and so do the default ones.

    A run on a token file has none of those that differ in labels.
    """
    if click.get_current_context().get_parameter_source("views") is ParameterSource.DEFAULT:
        listed = [name for name in listed if name in run.views]
    return [name for part in listed for name in (run.views if part == "all" else (part,))]


LIMITS = within(
    "General",
    click.option(
        "--limits",
        metavar="LIST",
        envvar=inputs.VARIABLE,
        callback=_limits,
        expose_value=False,
        is_eager=True,
        show_default="input=8GiB,memory=2GiB,classes=4096,cells=100000",
        help="Accept larger inputs, more classes, more runs of a sweep, or keep more of lazy inputs in memory: "
        "input=64GiB,classes=20000.",
    ),
)
RESIDUAL = click.option(
    "--tol",
    type=positive(1.0),
    default=1e-3,
    show_default=True,
    help="Residual at which an eigenvalue counts as converged.",
)
DEVICE = within(
    "Computation",
    click.option(
        "--device", default="cpu", show_default=True, help="Device to compute on, as torch spells it: cuda:0."
    ),
)
DTYPE = within(
    "Computation",
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float64"]),
        default="float32",
        show_default=True,
        help="Precision of the measurement.",
    ),
)
SEED = within(
    "Computation",
    click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of all that is drawn at random."),
)
OVERWRITE = within("Output", click.option("--overwrite", is_flag=True, help="Replace what exists under this name."))
RESUME = within("Output", click.option("--resume", is_flag=True, help="Continue what a stopped command left."))
JSON = within("Output", click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."))
_QUIET: dict[str, Any] = {"is_flag": True, "callback": _silence, "help": "No progress and no notes; warnings stay."}
QUIET = within("General", click.option("-q", "--quiet", **_QUIET))
QUICK = within("General", click.option("-q", "--quiet", expose_value=False, **_QUIET))
"""``--quiet`` of a command that shows no progress itself."""
TRUST = within(
    "General",
    click.option(
        "--trust",
        is_flag=True,
        callback=_on_the_command_line,
        help="Import a package.module:factory that a file names; importing runs its code.",
    ),
)
VIEWS = within(
    "Measured on",
    click.option(
        "--views",
        metavar="LIST",
        callback=split,
        default="mixed,clean_part,noisy_part,true_labels,test",
        show_default="all but val",
        shell_complete=completion.VIEWS,
        help="Views of the data, comma-separated: mixed, clean_part, noisy_part, true_labels, val, test, labels:NOISE, "
        "documents:SET, or all.",
    ),
)
EPOCHS = within(
    "Measured on",
    click.option(
        "--checkpoints",
        "epochs",
        cls=Renamed,
        former="--epochs",
        metavar="LIST",
        callback=split,
        default="last",
        show_default=True,
        shell_complete=completion.CHECKPOINTS,
        help="Epochs whose weights were kept, comma-separated, with ranges: 5,10-20,last, or all.",
    ),
)
PARAMS = within(
    "Measured on",
    click.option(
        "--params",
        metavar="PATTERNS",
        callback=split,
        default="",
        show_default="all",
        help="Only these parameters: patterns of parameter or module names, comma-separated, such as 'layers.*'.",
    ),
)

SUBSET = within(
    "Measured on",
    click.option(
        "--subset",
        type=count(1, 2**31 - 1),
        show_default="all",
        help="Samples to draw from each view, by --subset-seed.",
    ),
    click.option("--subset-seed", type=count(0, 2**32 - 1), default=0, show_default=True, help="Seed of that draw."),
)


def measuring(name: str, *, shown: str | None = None, views: bool = True) -> Callable[[F], F]:
    """The options of a command that measures something on a run file.

    Args:
        name: of the result if none is given.
        shown: what the help says of that, if not the name itself.
        views: whether it is measured on views that can be chosen.
    """
    named = within(
        "Output",
        click.option(
            "-n",
            "--name",
            default=name or None,
            callback=result_name,
            shell_complete=completion.NAMES,
            show_default=shown or name,
            help="Name of the result in the file.",
        ),
    )
    chosen = [VIEWS] if views else []
    return several(RUN, *chosen, SEED, DTYPE, DEVICE, named, OVERWRITE, RESUME, JSON, CONFIG, TRUST, LIMITS, QUIET)
