"""Results as text: aligned tables for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from landscape.records import Record, Status


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns under bold heads; short rows are filled up."""
    full = [list(row) + [""] * (len(heads) - len(row)) for row in rows]
    widths = [max(len(head), *(len(row[i]) for row in full), 0) for i, head in enumerate(heads)]
    lines = [click.style("  ".join(h.ljust(w) for h, w in zip(heads, widths, strict=True)).rstrip(), bold=True)]
    lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in full]
    return "\n".join(lines)


def with_error(value: float, error: float) -> str:
    """``12.3 ± 0.4``, or nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.4g} ± {error:.2g}"


def on_subset(samples: int | None, seed: int | None, of: str = "loss is") -> str:
    """The line under a table of what was measured on a subset, with the s.e. ``of`` what is over such draws."""
    drawn = f"on {samples} samples of each view, or all of a smaller one, drawn by the seed {seed}"
    return f"{drawn}; the s.e. of the {of} over such draws"


def status(code: int) -> str:
    """The word for a status that means there is no number, else nothing."""
    found = Status(int(code))
    return found.name.lower().replace("_", " ") if found in (Status.EMPTY, Status.FAILED, Status.PENDING) else ""


def echo_files(kind: str, files: Sequence[Path], as_json: bool) -> None:
    """Print what was written: a path a line, or one JSON object."""
    if as_json:
        echo_json({"kind": kind, "files": [str(path) for path in files]})
        return
    for path in files:
        click.echo(path)


_WHOLE: dict[str, type] = {"converged": bool, "layer_converged": bool, "matvecs": int, "products": int}
"""Fields that are stored as floating point, so that a row which was not measured can be NaN."""


def as_json(record: Record, *, file: Path, name: str, leave_out: Sequence[str] = ()) -> str:
    """A record, which lies in ``file`` as ``name``, as one JSON object; numbers that are not finite become null."""
    values = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name not in leave_out}
    values |= {n: _whole(value, _WHOLE[n]) for n, value in values.items() if n in _WHOLE}
    clash = {"kind", "file", "name"} & values.keys()
    assert not clash, clash
    return to_json({"kind": record.kind, "file": str(file), "name": name, **values})


def to_json(content: Any, indent: int | None = None) -> str:
    """Any content as JSON that every reader takes; numbers that are not finite become null.

    >>> to_json({"a": [np.nan, np.float64(1)], "b": (np.inf, {"c": -np.inf})})
    '{"a": [null, 1.0], "b": [null, {"c": null}]}'
    """
    return json.dumps(_plain(content), indent=indent, allow_nan=False)


def echo_json(content: Any, indent: int | None = None) -> None:
    """Print content as :func:`to_json` spells it."""
    click.echo(to_json(content, indent))


def _whole(value: Any, kind: type) -> Any:
    """Numbers, in lists in lists, as booleans or integers, where they are finite."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [_whole(v, kind) for v in value]
    return kind(value) if isinstance(value, int | float) and math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
