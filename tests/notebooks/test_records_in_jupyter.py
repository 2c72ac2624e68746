"""How records show in Jupyter: every kind, with what went wrong in sight and the user's text escaped."""

from __future__ import annotations

import dataclasses
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import ncsam.records  # registers its kinds
from landscape.records import EigenResult, Line, Record, Sharpness, Status, base
from landscape.records.display import as_html

KINDS = sorted(kind for kind, cls in base._KINDS.items() if cls.__module__.startswith(("landscape.", "ncsam.")))


def filled(cls: type[Record]) -> Record:
    """A record of this kind with two entries along every axis."""
    values: dict[str, Any] = {}
    for name, declared in cls.variables().items():
        shape = (2,) * len(declared.dims)
        values[name] = np.ones(shape, np.uint8) if name == "status" else np.full(shape, 0.5)
    for field in dataclasses.fields(cls):
        if field.name in cls.parameters() and field.default is dataclasses.MISSING:
            values[field.name] = "<b>7</b>"
    return cls(**values)


def text_of(record: Record) -> str:
    """What a reader sees; that the markup is well-formed comes with it."""
    return " ".join(" ".join(ElementTree.fromstring(as_html(record)).itertext()).split())


def eigenpairs(**changes: Any) -> EigenResult:
    values: dict[str, Any] = {
        "values": np.array([9.0, 2.0, -1.0]),
        "residuals": np.array([1e-9, 1e-7, 1e-3]),
        "converged": np.array([True, True, True]),
        "matvecs": 17,
        "which": "LM",
        "tol": 1e-3,
        "seed": 0,
    }
    return EigenResult(**{**values, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_record_shows_its_fields_with_units_and_settings(kind: str) -> None:
    cls = base.record_type(kind)
    record = filled(cls)
    seen = text_of(record)
    assert seen.startswith(cls.__name__)
    for name, declared in cls.variables().items():
        assert name in seen
        assert " ".join(declared.long_name.split()) in seen
        assert declared.units == "1" or declared.units in seen
    assert "<b>7" not in as_html(record)


def test_key_numbers_are_there() -> None:
    seen = text_of(eigenpairs())
    assert "9, 2, -1" in seen
    assert "loss / parameter^2" in seen
    assert "tol = 0.001" in seen
    assert "not" not in seen.replace("unit", "")


def test_pairs_that_did_not_converge_are_told_above_the_table() -> None:
    html = as_html(eigenpairs(converged=np.array([True, True, False])))
    assert "1 of 3 not converged" in html.split("<table>")[0]
    assert re.search(r"color[^>]*>2 of 3 true", html)


def test_nan_and_status_are_told_above_the_table_and_marked_in_it() -> None:
    loss = np.linspace(0, 1, 20).reshape(2, 10)
    loss[1, 3] = np.nan
    status = np.full((2, 10), Status.OK, np.uint8)
    status[1, 3], status[0, 0] = Status.NONFINITE, Status.INTERPOLATED
    line = Line(
        views=np.array(["a", "<script>"]), alphas=np.arange(10.0), loss=loss, status=status, weight_norm=1.0,
        direction_norm=1.0, seed=None,
    )  # fmt: skip
    above, table = as_html(line).split("<table>")
    assert "1 of 20 nonfinite" in above
    assert "interpolated" not in above
    assert "1 value is not finite: loss" in above
    assert "0 … 1" in table
    assert "1 of 20 not finite" in table
    assert "18 ok" in table
    assert "1 interpolated" in table
    assert "<script>" not in above + table


def test_a_single_number_that_is_not_finite_is_marked() -> None:
    record = Sharpness(value=float("inf"), loss=1.0, measure="sam", radius=0.05, steps=1)
    assert re.search(r"color[^>]*>inf", as_html(record))


def test_long_arrays_are_shown_as_their_range_and_huge_ones_as_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    record = eigenpairs(vectors=np.linspace(-2, 2, 3000).reshape(1000, 3))
    assert "parameter: 1000, pair: 3 -2 … 2" in text_of(record)
    assert len(as_html(record)) < 5000
    monkeypatch.setattr("landscape.records.display._SCANNED", 100)
    assert "parameter: 1000, pair: 3 –" in text_of(record)


def test_empty_fields_do_not_disturb() -> None:
    none = np.zeros(0)
    assert "pair: 0" in text_of(eigenpairs(values=none, residuals=none, converged=none.astype(bool)))


def test_a_record_shows_itself() -> None:
    assert eigenpairs()._repr_html_() == as_html(eigenpairs())
    assert ncsam.records.Labels.kind in KINDS
