"""Every figure that the package draws: data inside the axes, no text in another's way, shared axes that agree."""

from __future__ import annotations

import inspect

import pytest

import landscape.figures
import ncsam.figures
from tests.figure_checks import faults
from tests.ncsam.figures import cases
from tests.ncsam.figures.cases import CASES

# Between the studies with the most arms, with two and with one seed, which are drawn by the same code.
SLOW = ("demo-like, two seeds", "eight arms")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.endswith(SLOW) else []) for name in CASES]
)
def test_a_figure_has_no_fault_and_shows_its_numbers(name: str) -> None:
    made = CASES[name]()
    assert isinstance(made, landscape.figures.DataFigure)
    assert made.points
    assert faults(made) == []


def test_the_table_has_every_function_that_draws() -> None:
    drawing = {
        name
        for module in (landscape.figures, ncsam.figures)
        for name in module.__all__
        if inspect.isfunction(getattr(module, name))
        and inspect.signature(getattr(module, name)).return_annotation == "DataFigure"
    }
    assert len(drawing) >= 20
    written = inspect.getsource(cases)
    assert [name for name in drawing if f"figures.{name}(" not in written] == []
