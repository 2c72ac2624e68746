"""Verdicts on sharpness by measure: the declared one decides as in the verdicts, the others are shown beside it."""

from __future__ import annotations

import numpy as np
import pytest

from landscape.figures.style import inches
from ncsam.figures import by_measure_forest
from ncsam.study.by_measure import by_measure, measures_of
from ncsam.study.table import studies, table_of
from ncsam.study.verdicts import judge
from tests import figure_checks
from tests.ncsam.study.synthetic import rows


def study(**effects: float):
    found = rows(flatter=0.4, slope=0.5, **effects)
    for row in found:
        row["trace/mixed"] = 2 - row["adaptive_trace/clean_part"]  # the other way round
        row["adaptive@2,10steps,normalized/test"] = row["adaptive_trace/clean_part"]
    return studies(table_of(found))[0]


def test_the_declared_measure_gives_the_verdicts_and_the_others_what_each_alone_would_say() -> None:
    found, verdicts = by_measure(study()), judge(study())
    of = {
        (str(s), str(m)): (str(v), float(e))
        for s, m, v, e in zip(found.statement, found.measure, found.verdict, found.estimate, strict=True)
    }
    for statement in ("T6a", "T6b-NCSAM", "T6b-SAM", "T9"):
        i = verdicts.statements.tolist().index(statement)
        assert of[statement, "tr DHD"] == (verdicts.verdict[i], pytest.approx(verdicts.estimate[i]))
    assert of["T6b-SAM", "tr DHD"][0] == "supported"
    assert of["T6b-SAM", "tr H"][0] == "contradicted (opposite)"
    assert of["T6a", "tr H"][0] == "contradicted (opposite)"
    assert found.primary.tolist() == [m == "tr DHD" for m in found.measure.tolist()]


def test_measures_are_named_with_their_radius_and_ascent_and_told_apart() -> None:
    names = [(m.printed, m.view) for m in measures_of(study())]
    assert ("adaptive sharpness, radius 2, 10 steps, normalised logits", "test") in names
    assert len(set(names)) == len(names)
    assert next(name for name, _ in names) == "tr DHD"


def test_without_a_measure_it_says_what_to_measure() -> None:
    bare = [{k: v for k, v in row.items() if "/" not in k} for row in rows()]
    with pytest.raises(ValueError, match="landscape sharpness"):
        by_measure(studies(table_of(bare))[0])


def test_sharpness_of_arms_that_nothing_compares_is_told_apart_from_none() -> None:
    alone = [row for row in rows() if row["arm"] == "matched"]
    with pytest.raises(ValueError, match="of none of what is compared"):
        by_measure(studies(table_of(alone))[0])


def test_the_forest_has_every_row_inside_its_axes() -> None:
    made = by_measure_forest(by_measure(study(spread=0.05)))
    assert figure_checks.faults(made) == []
    assert made.get_figwidth() == pytest.approx(inches("icml"))
    found = by_measure(study(spread=0.05))
    assert len(made.points) == len(found.statement)
    assert np.isfinite([point["estimate"] for point in made.points]).all()
