"""Parts of all HTML pages: links that hold their content, figures, CSV, and the environment of the templates."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape  # jinja2 rests on it
from matplotlib.figure import Figure
from PIL import Image  # matplotlib needs it, so it is there

from landscape.figures.style import STYLE
from landscape.store.escaping import csv_cell

LARGEST_DRAWING = 90_000  # bytes of SVG up to which a figure is drawn in lines, beyond in pixels
LARGEST_DATA = 150_000  # characters of a figure's CSV up to which it lies in the page
_DIGITS = 6  # of the numbers in the page's CSV files; the study file has them in full


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure in a page: image and numbers as ``data:`` links; ``data`` is empty where these are too many."""

    anchor: str
    title: str
    caption: str
    image: str
    data: str


def link(content: str | bytes, kind: str) -> str:
    """A ``data:`` address that holds the content.

    >>> link("a,b", "text/csv")
    'data:text/csv;charset=utf-8;base64,YSxi'
    """
    text = isinstance(content, str)
    encoded = base64.b64encode(content.encode() if isinstance(content, str) else content).decode()
    return f"data:{kind}{';charset=utf-8' if text else ''};base64,{encoded}"


def code(text: object) -> Markup:
    """Text as HTML, with what stands in backticks as code; everything in it is escaped.

    >>> code("a < `b`")
    Markup('a &lt; <code>b</code>')
    """
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, numbers to six digits; what a row lacks, and NaN, is empty."""
    out = io.StringIO()
    heads = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.{_DIGITS}g}"
    return csv_cell(value)


def image(drawn: Figure) -> str:
    """The figure as a ``data:`` address: SVG, which stays sharp, or PNG where that would take too much of the page."""
    if len(svg := _svg(drawn)) <= LARGEST_DRAWING:
        return link(svg, "image/svg+xml")
    pixels, out = io.BytesIO(), io.BytesIO()
    with mpl.rc_context(STYLE):
        drawn.savefig(pixels, format="png")
    # Sixty-four colours show bands as well as all of them do, in a third of the bytes.
    few = Image.open(pixels).convert("RGB").quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(out, "PNG", optimize=True)
    return link(out.getvalue(), "image/png")


def _svg(drawn: Figure) -> bytes:
    """The figure as SVG: text as outlines, since no font is sure to be there; the same figure gives the same bytes."""
    out = io.BytesIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": "report", "svg.fonttype": "path"}):
        drawn.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    # Paths to a hundredth of a point: no eye can tell.
    return re.sub(rb' d="[^"]*"', lambda path: re.sub(rb"(\.\d\d)\d+", rb"\1", path[0]), out.getvalue())


def environment() -> jinja2.Environment:
    """Templates of this folder, everything escaped: names of arms, data sets and files must not become markup."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("ncsam.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["code"] = code
    made.globals["zip"] = zip
    return made


def style() -> str:
    """The style sheet of the pages."""
    return resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
