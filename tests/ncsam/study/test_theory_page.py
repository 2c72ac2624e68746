"""The page on the theory says what the code declares; its code and its commands are tested in tests/docs."""

from __future__ import annotations

from ncsam.study.effects import CONTRAST_RATE
from ncsam.study.endpoints import ENDPOINTS
from ncsam.study.statements import LATEST, VERSIONS
from ncsam.study.statements.version2 import MEMORISATION_DROP, MEMORISED_SHARE, UNTUNED
from ncsam.study.table import SETTINGS
from ncsam.training.gradient_diagnostics import QUANTITIES
from tests.docs.pages import page

PAGE = page("docs/theory.md").text
TABLE = PAGE.split("## The statements")[1].split("##")[0].splitlines()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE if line.startswith("| T")]


def test_the_statements_and_their_smallest_effects_are_those_of_the_code() -> None:
    assert [row[0] for row in ROWS] == [s.id for s in VERSIONS[LATEST].statements]
    assert [float(row[-1].replace("−", "-")) for row in ROWS] == [
        s.smallest_effect for s in VERSIONS[LATEST].statements
    ]


def test_the_constants_it_states_are_those_of_the_code() -> None:
    assert CONTRAST_RATE == 0.4
    assert (MEMORISED_SHARE, MEMORISATION_DROP) == (0.5, 0.02)
    assert VERSIONS[LATEST].seeds_needed == 10
    assert len(VERSIONS[LATEST].statements) == 13
    assert f"`{UNTUNED}`" in PAGE


def test_the_names_it_uses_exist() -> None:
    assert {"cos_mirrored_true", "flips_to_true", "pick_lift"} <= set(QUANTITIES)
    assert {"noise_ceiling", "clean_ceiling"} <= set(ENDPOINTS)
    listed = PAGE.split("## The table")[1]
    assert [name for name in SETTINGS if f"`{name}`" not in listed] == []
