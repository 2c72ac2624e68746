"""``--config FILE.toml``: values that become the defaults of a command's options.

A file holds the options of one command, ``epochs = 40``, or those of several in tables named after them, ``[train]``;
the table of a command goes before what stands outside of tables. Keys are spelled like the options, with ``-`` or
``_``; options that take a comma-separated list take a TOML list, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from landscape._suggest import did_you_mean
from landscape.inputs import read_toml

from .command import COMMANDS, long_name, within

NOT_IN_A_FILE = ("config", "trust", "help")
"""Options that must be given on the command line itself."""


def load(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Callback: values of a TOML file become the defaults of the options of the same names."""
    if value is not None:
        ctx.default_map = {**(ctx.default_map or {}), **_defaults(ctx, param, value)}
    return value


def _defaults(ctx: click.Context, param: click.Parameter, path: Path) -> dict[str, Any]:
    """Read what the file says about this command, by the names that the code has for the options."""

    def wrong(message: str) -> click.BadParameter:
        return click.BadParameter(f"{path}: {message}", ctx, param)

    try:
        values = read_toml(path)
    except OSError as error:
        raise wrong(error.strerror or str(error)) from error
    except ValueError as error:
        raise wrong(str(error).removeprefix(f"{path}: ")) from error
    options = {
        long_name(option): option
        for option in ctx.command.params
        if isinstance(option, click.Option) and long_name(option) not in NOT_IN_A_FILE
    }
    plain = {key: value for key, value in values.items() if key not in COMMANDS}
    own = values.get(ctx.command.name or "", {})
    if not isinstance(own, Mapping):
        raise wrong(f"{ctx.command.name} is {own!r}, expected a table [{ctx.command.name}]")
    found: dict[str, Any] = {}
    for where, table in (("", plain), (f" in [{ctx.command.name}]", own)):
        for key, given in table.items():
            option = options.get(key.replace("_", "-"))
            if option is None:
                if key in NOT_IN_A_FILE:
                    raise wrong(f"{key!r} has no place in a file; give it on the command line")
                known = [*options, *COMMANDS] if not where else [*options]
                hint = did_you_mean(key.replace("_", "-"), known) or f"; known: {', '.join(sorted(options))}"
                raise wrong(f"unknown key {key!r}{where}{hint}")
            if isinstance(given, Mapping):
                raise wrong(f"{key!r} is a table, expected a value")
            joined = isinstance(given, list) and option.nargs == 1 and not option.multiple
            entries = given if isinstance(given, list) else [given]
            if expected := next((told for entry in entries if (told := _expected(option, entry, joined))), None):
                raise wrong(f"{key} is {given!r}, expected {expected}")
            found[str(option.name)] = ",".join(map(str, given)) if joined else given
    return found


def _expected(option: click.Option, value: Any, listed: bool) -> str | None:
    """Name what an option takes, where a value of the file is of another type; click itself rounds 1.9 to 1."""
    if isinstance(value, str):
        return None  # as on the command line
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if option.is_flag:
        return None if isinstance(value, bool) else "true or false"
    if listed or isinstance(option.type, click.types.StringParamType):
        return None if number else "text"
    if isinstance(option.type, click.types.IntParamType):
        return None if number and isinstance(value, int) else "a whole number"
    if isinstance(option.type, click.types.FloatParamType):
        return None if number else "a number"
    return None if number else "text"


CONFIG = within(
    "General",
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE.toml",
        is_eager=True,
        expose_value=False,
        callback=load,
        help="Read the values of options from this file; options given here override it.",
    ),
)
