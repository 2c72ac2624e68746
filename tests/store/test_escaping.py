"""Names in CSV, LaTeX and pictures are names: nothing is carried out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from landscape import figures
from landscape.figures.data import save_data
from landscape.figures.style import figure
from landscape.records import Line
from landscape.store.escaping import latex
from landscape.store.export import to_csv, to_latex
from ncsam.report.html import as_csv

FORMULAS = ["=cmd|'/c calc'!A1", "+1+1", "-1+cmd", "@SUM(A1)", "\t=1", "\r=1"]


def line(view: str) -> Line:
    return Line([view], [0.0, 1.0], [[-0.5, 0.7]], np.ones((1, 2), np.uint8), 1.0, 1.0, None)


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_csv_holds_a_formula(formula: str, tmp_path: Path) -> None:
    drawn, _ = figure(1, 1)
    drawn.note(arm=formula, x=[-1.0, np.nan])
    files = [*to_csv(line(formula), tmp_path / "a.csv"), save_data(drawn, tmp_path / "b")]
    (tmp_path / "c.csv").write_text(as_csv([{"arm": formula, "x": -1.0}]), newline="")
    cells = set()
    for path in [*files, tmp_path / "c.csv"]:
        assert path is not None
        with path.open(newline="") as rows:
            cells |= {cell for row in csv.reader(rows) for cell in row}
    assert "'" + formula.replace("\t", " ").replace("\r", " ") in cells
    assert {"-0.5", "-1.0"} <= cells
    assert {cell for cell in cells if cell.lstrip().startswith(tuple("=+-@"))} == {"-0.5", "-1.0", "-1"} & cells


def test_latex_carries_nothing_out(tmp_path: Path) -> None:
    payload = "\\input{/etc/passwd}\n\\write18{x} %$^~_#&\x07"
    assert latex(payload) == (
        r"\textbackslash{}input\{/etc/passwd\} \textbackslash{}write18\{x\} "
        r"\%\$\textasciicircum{}\textasciitilde{}\_\#\&"
    )
    text = to_latex(line(payload), tmp_path / "a.tex").read_text()
    assert "\\input" not in text.replace(r"\textbackslash{}input", "")


@pytest.mark.parametrize("name", [r"$\frac$", r"$\input{x}$", "$$", "$a_{$"])
def test_names_with_dollars_are_drawn(name: str, tmp_path: Path) -> None:
    made = figures.lines({name: [line(name)]}, [name])
    for path in figures.save(made, tmp_path / "a", ("svg", "pdf", "png")):
        assert path.stat().st_size


def test_interactive_surfaces_take_no_markup_from_names() -> None:
    pytest.importorskip("plotly")
    from landscape.figures.interactive import interactive
    from tests.store.samples import plane

    shown = plane()
    payload = "<a href='javascript:x'>%{x}</a>"
    made = interactive({payload: shown, "b": shown}, str(shown.views[0]))
    assert "<a " not in made.to_json()
    assert "%{x}<" not in made.to_json()
