"""The page on the theory says what the code declares; its code and its commands are tested in tests/docs."""

from __future__ import annotations

from ncsam.study.effects import CONTRAST_RATE
from ncsam.study.endpoints import ENDPOINTS
from ncsam.study.table import SETTINGS
from ncsam.study.verdicts import MEMORISATION_DROP, MEMORISED_SHARE, STATEMENTS, seeds_needed
from ncsam.training.gradient_diagnostics import QUANTITIES
from tests.docs.pages import page

PAGE = page("docs/theory.md").text
TABLE = PAGE.split("## The statements")[1].split("##")[0].splitlines()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE if line.startswith("| T")]


def test_the_statements_and_their_smallest_effects_are_those_of_the_code() -> None:
    assert [row[0] for row in ROWS] == [s.id for s in STATEMENTS]
    assert [float(row[-1].replace("−", "-")) for row in ROWS] == [s.smallest_effect for s in STATEMENTS]


def test_the_constants_it_states_are_those_of_the_code() -> None:
    assert CONTRAST_RATE == 0.4
    assert (MEMORISED_SHARE, MEMORISATION_DROP) == (0.5, 0.02)
    assert seeds_needed() == 9
    assert len(STATEMENTS) == 10


def test_the_names_it_uses_exist() -> None:
    assert {"cos_mirrored_true", "flips_to_true", "pick_lift"} <= set(QUANTITIES)
    assert "noise_ceiling" in ENDPOINTS
    listed = PAGE.split("## The table")[1]
    assert [name for name in SETTINGS if f"`{name}`" not in listed] == []
