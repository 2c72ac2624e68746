"""The page: everything that a study says, put together and rendered as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape  # jinja2 rests on it
from matplotlib.figure import Figure
from PIL import Image  # matplotlib needs it, so it is there

from landscape._version import __version__
from landscape.figures.data import DataFigure
from landscape.figures.style import STYLE
from landscape.store.escaping import csv_cell
from ncsam.figures.catalogue import figures_of_study
from ncsam.records import RadiusControl, Secondary, Verdicts
from ncsam.report import prose, provenance
from ncsam.report.captions import CAPTIONS
from ncsam.report.effects import Effects, effects_of, numbers_of
from ncsam.statistics import LEVEL
from ncsam.study.arms import printed
from ncsam.study.effects import CONTRAST_RATE
from ncsam.study.files import StudyFiles
from ncsam.study.radius_control import radius_control
from ncsam.study.statements import LATEST, VERSIONS, Version
from ncsam.study.table import Study, studies
from ncsam.study.verdicts import describe, judge

LARGEST_DRAWING = 90_000  # bytes of SVG up to which a figure is drawn in lines, beyond in pixels
LARGEST_DATA = 150_000  # characters of a figure's CSV up to which it lies in the page
_DIGITS = 6  # of the numbers in the page's CSV files; the study file has them in full

Progress = Callable[[list[Any], int], Iterable[Any]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure in the page: image and numbers as ``data:`` links; ``data`` is empty where these are too many."""

    anchor: str
    title: str
    caption: str
    image: str
    data: str
    file: str


@dataclasses.dataclass(frozen=True)
class StudySection:
    """One study of the page."""

    title: str
    anchor: str
    runs: int
    study: Study
    verdicts: Verdicts
    secondary: Secondary
    control: RadiusControl | None
    tally: str
    answers: list[prose.Answer]
    effects: list[Effects]
    pictures: list[Picture]
    limits: list[str]
    rivals: list[str]
    numbers: str
    declared: Version
    superseded: list[tuple[Verdicts, str]]


def report(files: StudyFiles, *, title: str | None = None, progress: Progress | None = None) -> str:
    """The report of a study as one HTML page: no script, nothing loaded from elsewhere.

    Args:
        files: of the study; figures that need runs are left out where their files are not there.
        title: of the page.
        progress: wraps the iteration over the figures; gets a list and its length.

    Raises:
        ValueError: the table holds no reported run.
        StoreError: a run file is damaged.
    """
    found = studies(files.table)
    runs = files.run_attributes()
    planned = [
        (n, study, name, draw) for n, study in enumerate(found) for name, draw in figures_of_study(study, files).items()
    ]
    drawn: dict[int, list[Picture]] = {n: [] for n in range(len(found))}
    for n, study, name, draw in planned if progress is None else progress(planned, len(planned)):
        drawn[n].append(_picture(f"{name}-{_anchor(n)}", name, study, draw()))
    lines, described = provenance.commands(files)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            title=title or "Does label noise sharpen the loss landscape, and does compensating for it help?",
            style=resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8"),
            parts=[_part(n, study, files, drawn[n]) for n, study in enumerate(found)],
            folder=files.root.resolve().name,
            settings=provenance.shared_settings(runs),
            measured=(files.description or {}).get("measure", {}),
            arms=provenance.arms(files),
            seeds=provenance.seeds(files, runs),
            tuned=provenance.tuned(files),
            provenance=provenance.provenance(files, runs),
            commit=provenance.checkout(files, runs),
            commands=lines,
            described=described,
            described_link=link(described, "application/toml") if described else "",
            version=__version__,
            contrast=f"{100 * CONTRAST_RATE:g} %",
            level=f"{100 * LEVEL:g} %",
            needed=VERSIONS[LATEST].seeds_needed,
            controls=prose.CONTROLS,
        )
    )


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


def _part(n: int, study: Study, files: StudyFiles, pictures: list[Picture]) -> StudySection:
    verdicts, control = judge(study), _control(study)
    named = ", ".join(filter(None, (provenance.without_folders(study.data), study.model)))
    return StudySection(
        title=f"{(study.noise or 'label').capitalize()} noise{f' on {named}' if named else ''}",
        anchor=_anchor(n),
        runs=len(files.names(study)),
        study=study,
        verdicts=verdicts,
        secondary=describe(study),
        control=control,
        tally=prose.tally(verdicts),
        answers=prose.answers(study, verdicts, control),
        effects=effects_of(study, verdicts),
        pictures=pictures,
        limits=prose.limits(study, verdicts),
        rivals=prose.rivals(study, control),
        numbers=link(as_csv(numbers_of(study, files)), "text/csv"),
        declared=VERSIONS[verdicts.version],
        superseded=[(judge(study, v.number), v.superseded) for v in VERSIONS.values() if v.superseded],
    )


def _control(study: Study) -> RadiusControl | None:
    try:
        return radius_control(study)
    except ValueError:  # it was not measured: the page says so
        return None


def _picture(anchor: str, name: str, study: Study, drawn: Figure) -> Picture:
    data = as_csv(drawn.points) if isinstance(drawn, DataFigure) and drawn.points else ""
    return Picture(
        anchor=anchor,
        title=CAPTIONS[name].title,
        caption=CAPTIONS[name].text(study),
        image=_image(drawn),
        data=link(data, "text/csv") if 0 < len(data) <= LARGEST_DATA else "",
        file=f"{anchor}.csv",
    )


def _image(drawn: Figure) -> str:
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


def _anchor(n: int) -> str:
    return f"study{n + 1}"


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("ncsam.report", "."),
        autoescape=True,  # arms and data sets have any names: nothing of a study may become markup
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "signed": prose.signed, "percent": prose.percent, "number": prose.number, "p": prose.p_value,
        "plain": provenance.plain, "code": code, "printed": printed,
    }  # fmt: skip
    made.filters |= filters
    made.globals |= {"interval": prose.interval, "zip": zip}
    return made
