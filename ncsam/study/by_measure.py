"""Every verdict on sharpness under every measure and on every view that a study holds, beside the declared one."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator

import numpy as np

from ncsam.records import ByMeasure
from ncsam.statistics import LEVEL
from ncsam.study.statements import Statement, version2
from ncsam.study.table import Study
from ncsam.study.verdicts import NOT_MEASURED, contrasts_of

MEASURES = {
    "adaptive_trace": "tr DHD",
    "adaptive_top": "λ1 of DHD",
    "trace": "tr H",
    "top_eigenvalue": "λ1 of H",
    "adaptive": "adaptive sharpness",
    "rise_curvature": "2Δ/ρ² at a stated rise",
    "sam": "SAM sharpness",
    "m_sharpness": "m-sharpness",
    "average": "average sharpness",
}
"""Printed names of measures by the first part of an endpoint's name, in the order of the tables."""
VIEWS = ("clean_part", "mixed", "true_labels", "test")
_NAME = re.compile(rf"({'|'.join(MEASURES)})(@[^/]*)?/({'|'.join(VIEWS)})")
_STATEMENTS: tuple[Callable[[str], Statement], ...] = (
    version2.grows,
    lambda sharpness: version2.flatter("ncsam", "NCSAM", sharpness),
    lambda sharpness: version2.flatter("sam", "SAM", sharpness),
    version2.generalises,
)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure of sharpness on a view: the endpoint's name, what it is printed as, and the view."""

    endpoint: str
    printed: str
    view: str


def measures_of(study: Study) -> list[Measure]:
    """The measures that a study holds, by measure and then by view."""
    found = []
    for endpoint in study.measured():
        if match := _NAME.fullmatch(endpoint):
            name, at, view = match.groups()
            found.append(
                ((list(MEASURES).index(name), at or "", VIEWS.index(view)), Measure(endpoint, _printed(name, at), view))
            )
    return [measure for _, measure in sorted(found, key=lambda pair: pair[0])]


def _printed(name: str, at: str | None) -> str:
    """A measure as it is printed, with the radius, ascent and logits of one that is not the default of its kind."""
    if at is None:
        return MEASURES[name]
    radius, *how = at[1:].split(",")
    told = [f"radius {radius}" if name in ("sam", "adaptive") else radius]
    told += ["normalised logits" if word == "normalized" else word.replace("steps", " steps") for word in how]
    return f"{MEASURES[name]}, {', '.join(told)}"


def by_measure(study: Study) -> ByMeasure:
    """T6a, T6b and T9 with each measure in place of the declared one: intervals and what each alone would say.

    One measure was declared before the data (``primary``); the rest is descriptive, and no p-value is given for it.

    Raises:
        ValueError: the study holds no measure of sharpness, or none of the arms that are compared by it.
    """
    rows = list(_rows(study))
    if not measures_of(study):
        raise ValueError("the study holds no measure of sharpness; measure with `landscape sharpness` on its runs")
    if not rows:
        raise ValueError(
            "sharpness was measured, but of none of what is compared: sgd at several noise rates; sgd beside sam or "
            "ncsam at 40% noise; four families of arms there"
        )
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return ByMeasure(**columns, level=LEVEL, noise=study.noise)


def _rows(study: Study) -> Iterator[dict[str, object]]:
    for make in _STATEMENTS:
        for measure in measures_of(study):
            statement = make(measure.endpoint)
            (found,) = contrasts_of(statement, study)
            if found.verdict == NOT_MEASURED or math.isnan(found.interval.mean):
                continue
            yield {
                "statement": statement.id,
                "text": statement.text,
                "measure": measure.printed,
                "view": measure.view,
                "estimate": found.interval.mean,
                "low": found.interval.low,
                "high": found.interval.high,
                "verdict": found.verdict,
                "pairs": found.interval.n,
                "smallest_effect": statement.smallest_effect,
                "primary": measure.endpoint == version2.SHARPNESS,
            }
