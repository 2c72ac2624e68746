"""Symbols: the colour, marker and dashes that a label has in every figure, and records by label."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from matplotlib.colors import to_hex, to_rgb

from landscape.records import Record

# Okabe & Ito, without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
Dash: TypeAlias = str | tuple[float, tuple[float, ...]]
DASHES: tuple[Dash, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))

R = TypeVar("R", bound=Record)
T = TypeVar("T")
Records: TypeAlias = R | Mapping[str, R]  # what figures take: one record, or records by label
Groups: TypeAlias = R | Mapping[str, R | Sequence[R]]  # or several of each label, e.g. one a seed


@dataclasses.dataclass(frozen=True)
class Symbol:
    """Style in which everything of one label is drawn, and the name that is printed for it.

    Attributes:
        colour, marker, dash: as matplotlib has them.
        filled: whether the marker is; an open one is white inside.
        name: in legends and titles.
    """

    colour: str
    marker: str = "o"
    dash: Dash = "-"
    filled: bool = True
    name: str = ""

    @property
    def line(self) -> dict[str, Any]:
        """Options of a line without markers."""
        return {"color": self.colour, "linestyle": self.dash}

    @property
    def points(self) -> dict[str, Any]:
        """Options of markers without a line."""
        face = self.colour if self.filled else "white"
        return {"marker": self.marker, "color": self.colour, "linestyle": "", "markerfacecolor": face}

    @property
    def both(self) -> dict[str, Any]:
        """Options of a line with markers."""
        return {**self.points, **self.line}

    def variant(self, number: int, name: str) -> Symbol:
        """The symbol of a variant: of another shade, with other dashes, its marker open and filled in turn.

        >>> Symbol("#0072B2", "o").variant(1, "mine").filled
        False
        """
        shade = (0.45, -0.4, 0.25, -0.65)[(number - 1) % 4]  # towards white, or black
        towards = 1.0 if shade > 0 else 0.0
        red, green, blue = ((1 - abs(shade)) * part + abs(shade) * towards for part in to_rgb(self.colour))
        colour = to_hex((red, green, blue))
        at = DASHES.index(self.dash) if self.dash in DASHES else 0
        dash = DASHES[(at + number) % len(DASHES)]
        return Symbol(colour, self.marker, dash, self.filled != (number % 2 == 1), name)


def symbols_of(labels: Iterable[str], known: Mapping[str, Symbol] | None = None) -> dict[str, Symbol]:
    """A symbol for each label: the known one, else the next by position; no two of up to 28 labels share one.

    >>> found = symbols_of(["a", "b"], {"b": Symbol("#000000", "P", name="the other")})
    >>> found["a"].colour, found["b"].name
    ('#0072B2', 'the other')
    """
    known = known or {}
    found: dict[str, Symbol] = {}
    for label in dict.fromkeys(labels):
        found[label] = known[label] if label in known else _by_position(len(found), label)
    return found


def by_label(records: T | Mapping[str, T]) -> dict[str, T]:
    """Records by label, also where one alone is given: it needs no label."""
    return dict(records) if isinstance(records, Mapping) else {"": records}


def grouped(records: Groups[R]) -> dict[str, list[R]]:
    """Records by label, a list each, also where one alone is given."""
    labelled = records if isinstance(records, Mapping) else {"": records}
    return {k: [v] if isinstance(v, Record) else list(v) for k, v in labelled.items()}


def plain(text: object) -> str:
    """A label as it is written: no mathematics, and not hidden from legends.

    >>> plain("_a$b$")
    ' _a\\\\$b\\\\$'
    """
    shown = str(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _by_position(n: int, name: str) -> Symbol:
    colour = n % len(COLOURS)
    again = n // len(COLOURS)
    return Symbol(COLOURS[colour], MARKERS[colour], DASHES[(colour + again) % len(DASHES)], again % 2 == 0, name)
