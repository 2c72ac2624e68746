"""From a verdict to its numbers: the effect of every seed, and what it was computed from, run by run."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ncsam.records import Verdicts
from ncsam.study.effects import defined
from ncsam.study.files import StudyFiles
from ncsam.study.statements import EVERY_ARM, LATEST, VERSIONS, Statement
from ncsam.study.table import Study

MOST_COLUMNS = 8  # of what the effects are computed from; beyond, the CSV of all runs serves better
_ALSO = ("test_accuracy", "best_accuracy", "drop", "memorisation", "perturbation_norm", "compensation_norm", "gap")


@dataclasses.dataclass(frozen=True)
class Effects:
    """Effects that one verdict follows from.

    Attributes:
        heads: of the table: the contrasts, then the endpoints they are computed from where these are few.
        rows: the seed, then a number for each head.
        needs: what the effects use, in words.
    """

    statement: str
    heads: list[str]
    rows: list[tuple[int, list[float]]]
    needs: str


def effects_of(study: Study, verdicts: Verdicts) -> list[Effects]:
    """The per-seed effects of every statement, in the order of the verdicts."""
    declared = VERSIONS[verdicts.version]
    return [_effects(declared[str(name)], study) for name in verdicts.statements]


def numbers_of(study: Study, files: StudyFiles) -> list[dict[str, Any]]:
    """One row a run: its settings, and every number that a verdict or the radius control uses."""
    statements = VERSIONS[LATEST].statements
    used = dict.fromkeys([*itertools.chain.from_iterable(e for s in statements for e, _, _ in s.needs), *_ALSO])
    measured = set(study.measured())
    rows = []
    for (arm, rate, seed), name in files.names(study).items():
        at = study.seeds.index(seed)
        values = {e: float(study.of(e, arm, rate)[at]) for e in used if e in measured}
        rows.append({"run": name, "arm": arm, "noise": study.noise, "rate": rate, "seed": seed, **values})
    return sorted(rows, key=lambda row: (row["rate"], study.arms.index(row["arm"]), row["seed"]))


def _effects(statement: Statement, study: Study) -> Effects:
    columns: dict[str, np.ndarray] = {
        f"effect: {name}": defined(effect, study) for name, effect in statement.contrasts.items()
    }
    raw = _raw(statement, study)
    if len(raw) <= MOST_COLUMNS:
        columns |= raw
    rows = [
        (seed, [float(values[i]) for values in columns.values()])
        for i, seed in enumerate(study.seeds)
        if any(np.isfinite(values[i]) for values in columns.values())
    ]
    return Effects(statement.id, list(columns), rows, _needs(statement, study))


def _raw(statement: Statement, study: Study) -> Mapping[str, np.ndarray]:
    found = {}
    for endpoints, arms, rates in statement.needs:
        for endpoint, arm, rate in itertools.product(endpoints, _arms(arms, study), rates(study)):
            values = study.of(endpoint, arm, rate)
            if np.isfinite(values).any():
                found[f"{endpoint}, {arm}, {100 * rate:g} %"] = values
    return found


def _needs(statement: Statement, study: Study) -> str:
    said = []
    for endpoints, arms, rates in statement.needs:
        named = "every arm" if EVERY_ARM in arms else ", ".join(arms)
        said.append(
            f"{', '.join(endpoints)} of {named} at {', '.join(f'{100 * rate:g}' for rate in rates(study))} % noise"
        )
    return "; ".join(said)


def _arms(arms: tuple[str, ...], study: Study) -> tuple[str, ...]:
    return study.arms if EVERY_ARM in arms else arms
