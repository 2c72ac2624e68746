"""The page: everything that a study says, put together and rendered as one HTML file that needs nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jinja2
from matplotlib.figure import Figure

from landscape._version import __version__
from landscape.figures.data import DataFigure
from ncsam.figures.catalogue import figures_of_study
from ncsam.records import RadiusControl, Secondary, Verdicts
from ncsam.report import prose, provenance
from ncsam.report.captions import CAPTIONS
from ncsam.report.effects import Effects, effects_of, numbers_of
from ncsam.report.html import LARGEST_DATA, Picture, as_csv, environment, image, link, style
from ncsam.statistics import LEVEL
from ncsam.study.arms import printed
from ncsam.study.effects import CONTRAST_RATE
from ncsam.study.files import StudyFiles
from ncsam.study.radius_control import radius_control
from ncsam.study.statements import LATEST, VERSIONS, Version
from ncsam.study.table import Study, studies
from ncsam.study.verdicts import describe, judge

Progress = Callable[[list[Any], int], Iterable[Any]]


@dataclasses.dataclass(frozen=True)
class StudyPicture(Picture):
    """A figure of a study, with the name of its file."""

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
    pictures: list[StudyPicture]
    controls: dict[str, str]
    limits: list[str]
    rivals: list[str]
    numbers: str
    declared: Version
    superseded: list[tuple[Verdicts, str]]


def report(
    files: StudyFiles,
    *,
    title: str | None = None,
    followed: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> str:
    """The report of a study as one HTML page: no script, nothing loaded from elsewhere.

    Args:
        files: of the study; figures that need runs are left out where their files are not there.
        title: of the page.
        followed: deviations from the plan by which the study was run, none where it was followed; no word of a plan if
            None.
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
    drawn: dict[int, list[StudyPicture]] = {n: [] for n in range(len(found))}
    for n, study, name, draw in planned if progress is None else progress(planned, len(planned)):
        drawn[n].append(_picture(f"{name}-{_anchor(n)}", name, study, draw()))
    lines, described = provenance.commands(files)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            title=title or "Does label noise sharpen the loss landscape, and does compensating for it help?",
            style=style(),
            parts=[_part(n, study, files, drawn[n]) for n, study in enumerate(found)],
            folder=files.root.resolve().name,
            followed=followed,
            plan=str(files.attrs.get("plan", "")),
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
            runs_at_hand=bool(runs),
        )
    )


def _part(n: int, study: Study, files: StudyFiles, pictures: list[StudyPicture]) -> StudySection:
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
        controls={arm: text for arm in study.arms if (text := prose.CONTROLS.get(arm))},
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


def _picture(anchor: str, name: str, study: Study, drawn: Figure) -> StudyPicture:
    data = as_csv(drawn.points) if isinstance(drawn, DataFigure) and drawn.points else ""
    return StudyPicture(
        anchor=anchor,
        title=CAPTIONS[name].title,
        caption=CAPTIONS[name].text(study),
        image=image(drawn),
        data=link(data, "text/csv") if 0 < len(data) <= LARGEST_DATA else "",
        file=f"{anchor}.csv",
    )


def _anchor(n: int) -> str:
    return f"study{n + 1}"


def _environment() -> jinja2.Environment:
    made = environment()
    filters: dict[str, Callable[..., Any]] = {
        "signed": prose.signed, "percent": prose.percent, "number": prose.number, "p": prose.p_value,
        "plain": provenance.plain, "printed": printed,
    }  # fmt: skip
    made.filters |= filters
    made.globals["interval"] = prose.interval
    return made
