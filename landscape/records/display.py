"""Display of a record in a notebook: a row for each field with its size, numbers, units and meaning.

What a reader must not miss (values that are not finite, eigenpairs that did not converge, rows that failed) is
marked, and said once more above the table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from html import escape
from typing import Any, ClassVar, Protocol

import numpy as np

from landscape.records.fields import Parameter, Status, Variable

_LISTED = 12  # values that are shown one by one; of more, the range
_SCANNED = 10**7  # values of an array that are looked at; above that only its size is told
_LONGEST = 40  # characters of a text in an array, such as a hash
_LEFT = "text-align:left"
_MARK = "color:#c62828;font-weight:bold"


class Declared(Protocol):
    """A record: a dataclass that declares what its fields hold."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def variables(self) -> dict[str, Variable]:
        """Array fields by name."""
        ...

    def parameters(self) -> dict[str, Parameter]:
        """Settings of the measurement by field name."""
        ...


def as_html(record: Declared) -> str:
    """The record as a table; all text is escaped, and nothing is loaded from elsewhere.

    >>> from landscape.records import Sharpness
    >>> found = Sharpness(value=0.25, loss=float("nan"), measure="sam", radius=0.05, steps=1)
    >>> html = as_html(found)
    >>> "0.25" in html, "1 value is not finite: loss" in html, "radius = 0.05" in html
    (True, True, True)
    """
    shown = {n: (d, getattr(record, n)) for n, d in _ordered(record) if getattr(record, n) is not None}
    rows = "".join(
        f"<tr>{_cell(name)}{_cell(_size(declared, value))}<td style='{_LEFT}'>{_summary(name, value)}</td>"
        f"{_cell('' if declared.units == '1' else declared.units)}{_cell(declared.long_name)}</tr>"
        for name, (declared, value) in shown.items()
    )
    head = "".join(f"<th style='{_LEFT}'>{title}</th>" for title in ("field", "size", "value", "unit", "meaning"))
    warnings = "".join(
        f"<br><span style='{_MARK}'>{escape(text)}</span>" for text in _troubles({n: v for n, (_, v) in shown.items()})
    )
    settings = " · ".join(escape(f"{n} = {_setting(getattr(record, n))}") for n in _settings(record))
    return (
        f"<div><b>{escape(type(record).__name__)}</b>{warnings}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"{f'<small>{settings}</small>' if settings else ''}</div>"
    )


def _ordered(record: Declared) -> list[tuple[str, Variable]]:
    """Coordinates, then what every record of the kind has, then the rest."""
    optional = {field.name for field in dataclasses.fields(record) if field.default is None}
    return sorted(record.variables().items(), key=lambda item: (not item[1].coordinate, item[0] in optional))


def _troubles(values: dict[str, Any]) -> Iterator[str]:
    """List what went wrong, a line each: status and convergence first, then values that are not finite."""
    if "status" in values:
        bad = {s: n for s, n in _statuses(values["status"]).items() if s not in (Status.OK, Status.INTERPOLATED)}
        if bad:
            yield "status: " + ", ".join(f"{n} of {np.size(values['status'])} {_said(s)}" for s, n in bad.items())
    if "converged" in values and not np.all(values["converged"]):
        flags = np.asarray(values["converged"])
        yield f"{np.size(flags) - np.count_nonzero(flags)} of {np.size(flags)} not converged"
    odd = {name: count for name, value in values.items() if (count := _not_finite(value))}
    if odd:
        total = sum(odd.values())
        yield f"{total} value{'s are' if total > 1 else ' is'} not finite: {', '.join(odd)}"


def _summary(name: str, value: Any) -> str:
    array = np.asarray(value)
    if name == "status":
        return ", ".join(_marked(f"{n} {_said(s)}", s != Status.OK) for s, n in _statuses(array).items())
    if array.size == 0 or array.size > _SCANNED:
        return "–"
    if (array.dtype == bool and array.size > 1) or name == "converged":
        return _marked(f"{np.count_nonzero(array)} of {array.size} true", name == "converged" and not array.all())
    if array.size <= _LISTED and array.ndim <= 1:
        return ", ".join(_marked(_text(v), not _finite(v)) for v in array.ravel().tolist())
    if not np.issubdtype(array.dtype, np.number):
        first = [_text(v) for v in array.ravel()[:_LISTED].tolist()]
        return escape(", ".join(first)) + (", …" if array.size > _LISTED else "")
    finite = array[np.isfinite(array)]
    span = f"{_text(finite.min().item())} … {_text(finite.max().item())}" if finite.size else ""
    lost = _not_finite(array)
    return "; ".join(filter(None, (span, _marked(f"{lost} of {array.size} not finite", True) if lost else "")))


def _statuses(codes: Any) -> dict[int, int]:
    found, counts = np.unique(codes, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _said(code: int) -> str:
    return Status(code).name.lower().replace("_", " ") if code in set(Status) else f"code {code}"


def _not_finite(value: Any) -> int:
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.inexact) or array.size > _SCANNED:
        return 0
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _short(str(value), _LONGEST)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _marked(text: str, mark: bool) -> str:
    return f"<span style='{_MARK}'>{escape(text)}</span>" if mark else escape(text)


def _size(declared: Variable, value: Any) -> str:
    sizes = zip(declared.dims, np.shape(value), strict=True)
    return ", ".join(f"{dim}: {count}" for dim, count in sizes)


def _cell(text: str) -> str:
    return f"<td style='{_LEFT}'>{escape(text)}</td>"


def _settings(record: Declared) -> list[str]:
    return [name for name in record.parameters() if getattr(record, name) is not None]


def _setting(value: Any) -> str:
    return _text(value) if isinstance(value, float) else _short(str(value), 2 * _LONGEST)
