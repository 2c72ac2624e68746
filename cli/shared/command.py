"""Common parts of all commands: options in titled sections, and a suggestion for what is mistyped.

An option belongs to the section whose marker stands above it::

    @command("train")
    @section("Training")
    @click.option("--epochs", type=int, default=200, show_default=True, help="Passes over the training set.")
    @click.option("--lr", type=float, default=0.05, show_default=True, help="Learning rate.")
    @section("Noise")
    @click.option("--noise", default="symmetric:0.4", show_default=True, help="Label noise KIND:RATE, or none.")
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import click
from click.core import ParameterSource

from landscape._suggest import did_you_mean

from .progress import notes

F = TypeVar("F", bound=Callable[..., Any])

COMMANDS = {
    "demo": "Train, measure and judge a small study on scikit-learn's digits, in minutes.",
    "train": "Train under label noise and write a run file.",
    "plan": "Fix a study before its data: what is run, how it is judged, what it can find.",
    "sweep": "Train and measure many runs to be compared, and write one table.",
    "hessian": "Top Hessian eigenvalues, trace and density on every view of a run.",
    "surface": "1D or 2D loss surfaces of a run, on every view.",
    "sharpness": "SAM, adaptive, average and Keskar's sharpness on every view of a run.",
    "diagnose": "Gradients of clean and wrong labels, g* and Theorem 1, of a run.",
    "blame": "Training samples that hold the largest Hessian eigenvalue of a run.",
    "barriers": "Barriers between the minima of a study's arms, straight, matched and curved.",
    "theory": "Judge the statements T1 to T9 by what a study measured.",
    "figure": "Draw every figure that a study or run files allow.",
    "report": "Write a study as one HTML page.",
    "inspect": "Show what a file holds.",
    "verify": "Check files against their checksums and the schema.",
    "export": "Write one result for other programs: CSV, NPZ, LaTeX, ParaView, Li et al.",
    "import": "Make a run file of weights that were trained elsewhere.",
    "audit": "Audit checkpoints on one page: what they are like, how far to trust it.",
}
"""Every command by name, with what the list of commands says of it."""
LAST = ("Computation", "Output", "General")
"""Sections that end a command's help, whatever the order of its options."""
_COLUMN = 24  # longer options have a line of their own
_PLACEHOLDERS = {"integer": "N", "float": "X", "path": "PATH"}
REMOVED_IN = "0.3.0"
"""Version that removes former names of options."""
_HELP = ("help", "help-all")
_ALL = "landscape_cli.help_all"
_sections: WeakKeyDictionary[click.Parameter, str] = WeakKeyDictionary()


def section(title: str) -> Callable[[F], F]:
    """The options below, up to the next section, are shown under ``title``."""

    def mark(function: F) -> F:
        for param in _params(function):
            _sections.setdefault(param, title)
        return function

    return mark


def several(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Apply decorators as if written above each other in this order."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def within(title: str, *decorators: Callable[[F], F]) -> Callable[[F], F]:
    """These options are shown under ``title``, wherever they stand; those below keep to their own section."""

    def apply(function: F) -> F:
        before = len(_params(function))
        function = several(*decorators)(function)
        for param in _params(function)[before:]:
            _sections.setdefault(param, title)
        return function

    return apply


def _params(function: Callable[..., Any]) -> list[click.Parameter]:
    """List what click's decorators have put on a function so far, the lowest first."""
    found: list[click.Parameter] = getattr(function, "__click_params__", [])
    return found


def command(name: str, *, basic: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Command]:
    """Make a function the command of that name.

    Args:
        basic: options, by name without dashes, that ``--help`` shows where ``--help-all`` shows all; all if none.
    """
    return click.command(name, cls=Command, basic=tuple(basic))


def long_name(option: click.Option) -> str:
    """Spell an option, without its dashes.

    >>> long_name(click.Option(["-n", "--dry-run"]))
    'dry-run'
    """
    return max(option.opts, key=len).lstrip("-")


class Renamed(click.Option):
    """An option that had another name, ``former``, which works with a warning until :data:`REMOVED_IN`.

    The former name also works in the environment and in files, and is in no help.
    """

    def __init__(self, *args: Any, former: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self.former = _Former(self, former)


class _Former(click.Option):
    """The former name of an option."""

    def __init__(self, option: Renamed, flag: str) -> None:
        told = f"Former name of --{long_name(option)}."
        name = f"former_{option.name}"
        super().__init__([flag, name], type=option.type, callback=option.callback, hidden=True, help=told)
        self.present = option

    def resolve(self, ctx: click.Context) -> None:
        """Give what came under this name to the option, and warn."""
        value, source = ctx.params.pop(str(self.name), None), ctx.get_parameter_source(str(self.name))
        if source in (None, ParameterSource.DEFAULT):
            return
        name, old, new = str(self.present.name), f"--{long_name(self)}", f"--{long_name(self.present)}"
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{old} is the former name of {new}; give {new} alone", ctx)
        notes.warning("%s of `%s` is now called %s; %s removes the former name", old, ctx.info_name, new, REMOVED_IN)
        ctx.params[name] = value
        ctx.set_parameter_source(name, source)


class Choice(click.Choice):
    """One of some words; the nearest is suggested for another."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.choices:
            known = [str(choice) for choice in self.choices]
            self.fail(f"{value!r}, expected {_either(known)}{did_you_mean(str(value), known)}", param, ctx)
        return value


class Number(click.FloatRange):
    """A number within bounds, never infinite or NaN, which pass for a number between any."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = click.FLOAT.convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        low = self.min is None or number > self.min or (number == self.min and not self.min_open)
        high = self.max is None or number < self.max or (number == self.max and not self.max_open)
        if not (low and high):
            self.fail(f"{number:g} is not in the range {spelled_range(self._describe_range())}", param, ctx)
        return number


class Count(click.IntRange):
    """A whole number within bounds."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = click.INT.convert(value, param, ctx)
        if (self.min is not None and number < self.min) or (self.max is not None and number > self.max):
            self.fail(f"{number} is not in the range {spelled_range(self._describe_range())}", param, ctx)
        return number


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


class Formatter(click.HelpFormatter):
    """Help with bold headings."""

    def write_heading(self, heading: str) -> None:
        super().write_heading(click.style(heading, bold=True))

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, click.style("Usage:", bold=True) + " " if prefix is None else prefix)


class Context(click.Context):
    """Writes its help with :class:`Formatter`."""

    formatter_class = Formatter


class Command(click.Command):
    """A command whose help shows its options by section, and whose messages suggest what was meant.

    Its docstring is a line that says what it is for, further paragraphs, and ``Examples:``, which end the help.
    """

    context_class = Context

    def __init__(self, *args: Any, basic: Sequence[str] = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self.basic = frozenset((*basic, *_HELP)) if basic else None
        self.params += [param.former for param in self.params if isinstance(param, Renamed)]
        if basic:
            count = sum(isinstance(param, click.Option) and not param.hidden for param in self.params) + len(_HELP)
            self.params.append(_help_all(count))
        text, _, examples = inspect.cleandoc(self.help or "").partition("\b\nExamples:\n")
        self.help, self.examples = text.rstrip(), [line.strip() for line in examples.splitlines()]
        for param in self.params:
            kind = param.type
            if type(kind) is click.Choice:
                param.type = Choice(kind.choices)
            elif type(kind) is click.FloatRange:
                param.type = Number(kind.min, kind.max, kind.min_open, kind.max_open)
            elif type(kind) is click.IntRange:
                param.type = Count(kind.min, kind.max)
            if isinstance(param, click.Option):
                self._complete_option(param)

    def _complete_option(self, option: click.Option) -> None:
        if option.metavar is None and not option.is_flag and option.nargs == 1:
            option.metavar = _PLACEHOLDERS.get(option.type.name)
        if option.name != long_name(option).replace("-", "_"):
            # The environment knows an option as it is spelled, not as the code calls it.
            option.allow_from_autoenv = False
            option.envvar = f"LANDSCAPE_{self.name}_{long_name(option)}".upper().replace("-", "_")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for param in self.params:
            if isinstance(param, _Former):
                param.resolve(ctx)
        return rest

    def sections(self, ctx: click.Context) -> dict[str, list[click.Option]]:
        """The options that the help shows by section, in its order: the basic ones, or all with ``--help-all``."""
        shown = None if ctx.meta.get(_ALL) else self.basic
        found: dict[str, list[click.Option]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and not param.hidden and (shown is None or long_name(param) in shown):
                found.setdefault(_sections.get(param, LAST[-1]), []).append(param)
        return {title: found[title] for title in [*(t for t in found if t not in LAST), *LAST] if title in found}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = {
            title: [_readable(*row) for option in options if (row := option.get_help_record(ctx)) is not None]
            for title, options in self.sections(ctx).items()
        }
        width = min(_COLUMN, max(len(spec) for shown in rows.values() for spec, _ in shown))
        for title, shown in rows.items():
            with formatter.section(title):
                formatter.write_dl([(spec.ljust(width), text) for spec, text in shown], col_max=_COLUMN)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for example in self.examples:  # not wrapped: to be copied
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def _help_all(count: int) -> click.Option:
    """Make the option that shows all ``count`` options."""

    def show(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            ctx.meta[_ALL] = True
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()

    told = f"Show all {count} options and exit."
    return click.Option(
        ["--help-all"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help=told,
        allow_from_autoenv=False,
    )


def _readable(spec: str, text: str) -> tuple[str, str]:
    """click's ``[default: (all)]`` without the brackets, and its ``0<=x<=1`` as people write it."""
    return spec, spelled_range(re.sub(r"\[default: \((.*)\)", r"[default: \1", text))


def spelled_range(text: str) -> str:
    """Text in which ranges are spelled as people spell them.

    >>> [spelled_range(text) for text in ("0<=x<=1000000.0", "0<x<1", "[1<=x<=1e+30]")]
    ['0…1000000', '>0, <1', '[1…1e30]']
    """
    return _RANGE.sub(_spelled, text)


_RANGE = re.compile(r"([\d.e+-]+)(<=?)x(<=?)([\d.e+-]+)(?<!\.)")


def _spelled(found: re.Match[str]) -> str:
    low, high = (number.removesuffix(".0").replace("e+", "e") for number in (found[1], found[4]))
    if (found[2], found[3]) == ("<=", "<="):
        return f"{low}…{high}"
    signs = {"<=": ("≥", "≤"), "<": (">", "<")}
    return f"{signs[found[2]][0]}{low}, {signs[found[3]][1]}{high}"
