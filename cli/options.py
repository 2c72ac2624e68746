"""Options that several commands share."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

RUN = click.argument("run", type=click.Path(path_type=Path))


def several(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Apply decorators as if written above each other in this order."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def split(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Callback: a comma-separated list."""
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


def load_config(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Callback: values of a TOML file become the defaults of the options of the same names."""
    if value is None:
        return None
    try:
        values = tomllib.loads(value.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.BadParameter(f"{value}: {error.strerror or error}", ctx, param) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value}: not a TOML file ({error})", ctx, param) from error
    known = {p.name for p in ctx.command.params if isinstance(p, click.Option)} - {param.name}
    for key in values:
        if key.replace("-", "_") not in known:
            raise click.BadParameter(f"{value}: unknown key {key!r}; known: {', '.join(sorted(filter(None, known)))}")
    ctx.default_map = {key.replace("-", "_"): v for key, v in values.items()}
    return value


CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=load_config,
    help="TOML file with defaults for the options here.",
)
DEVICE = click.option("--device", default="cpu", show_default=True, help="Where to compute, as torch spells it.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace an existing output or result.")
RESUME = click.option("--resume", is_flag=True, help="Continue what a stopped command left.")
QUIET = click.option("--quiet", is_flag=True, help="No progress bar.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
DTYPE = click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True, help="Precision."
)
VIEWS = click.option(
    "--views",
    callback=split,
    default="mixed,clean_part,noisy_part,true_labels,test",
    show_default=True,
    help="Views of the data, comma-separated; also: val, labels:NOISE.",
)
SEED = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of what is drawn.")
PARAMS = click.option(
    "--params",
    callback=split,
    default="",
    help="Only these parameters: patterns of parameter or module names, comma-separated, such as 'layers.*'.",
)
EPOCHS = click.option(
    "--epochs", callback=split, default="last", show_default=True, help="Checkpoints, comma-separated, or `all`."
)


TRUST = click.option("--trust", is_flag=True, help="Import the data or model factory that the file names.")


def measuring(name: str) -> Callable[[F], F]:
    """The options of a command that measures something on a run file."""
    named = click.option("--name", default=name, show_default=True, help="Name of the result in the file.")
    return several(RUN, named, VIEWS, SEED, DTYPE, DEVICE, OVERWRITE, RESUME, TRUST, JSON, QUIET)
