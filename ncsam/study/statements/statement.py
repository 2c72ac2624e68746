"""A statement of the theory with its one primary endpoint, and the versions of the list of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import numpy as np

from ncsam.statistics import LEVEL, Interval, smallest_sign_flip_p
from ncsam.study.effects import Effect
from ncsam.study.table import Study

EVERY_ARM = ""

Rates = Callable[[Study], tuple[float, ...]]
Check = Callable[[Study], str]
"""Why a study cannot tell, in words; "" if it can."""
Secondary = Callable[[Study], Mapping[str, Effect]]
"""Descriptive effects by name."""


@dataclasses.dataclass(frozen=True)
class Statement:
    """One statement with its primary endpoint.

    Attributes:
        id, text: as in the literature, in one sentence.
        endpoint: what is computed for each seed, in words.
        contrasts: per-seed effects by name, positive where they speak for the statement. A statement about two things
            has two: it holds if it holds of both, and fails if it fails of one.
        smallest_effect: m.
        needs: endpoints, arms and rates that the effects use: how many runs there are, and what is missing.
        unit: factor that the effect is printed with, and its unit in words.
        question: that a reader comes with, where the report answers it.
        null: effect that the sign-flip test tests against.
        trend: (seeds, conditions) whose trend Page's test judges in place of the sign-flip test.
        interval: of the effect, where it is not the t-interval over the seeds; its seeds are those of the contrast.
        checks: undecided where one of them says why the study cannot tell.
        secondary: descriptive effects by name.
        described: descriptive intervals by name, where these are not over per-seed effects.
        claim: what the paper says, and where.
        why: the reason for this endpoint.
        control: what could have refuted the statement, or a verdict on it.
    """

    id: str
    text: str
    endpoint: str
    contrasts: Mapping[str, Effect]
    smallest_effect: float
    needs: tuple[tuple[tuple[str, ...], tuple[str, ...], Rates], ...]
    unit: tuple[float, str]
    question: str = ""
    null: float = 0.0
    trend: Effect | None = None
    interval: Callable[[Study], Interval] | None = None
    checks: tuple[Check, ...] = ()
    secondary: Secondary = lambda study: {}
    described: Callable[[Study], Mapping[str, Interval]] = lambda study: {}
    claim: str = ""
    why: str = ""
    control: str = ""


@dataclasses.dataclass(frozen=True)
class Version:
    """The statements as they were declared at one time; a study is judged by all of one version.

    Attributes:
        number: counted from 1.
        statements: in the order of the tables.
        memorisation: whether plain SGD memorises, without which some statements cannot be told, and what was seen.
        superseded: why a later version took its place; "" if none did.
    """

    number: int
    statements: tuple[Statement, ...]
    memorisation: Callable[[Study], tuple[bool, str]]
    superseded: str = ""

    def __getitem__(self, name: str) -> Statement:
        """The statement of that id."""
        return next(statement for statement in self.statements if statement.id == name)

    @property
    def seeds_needed(self) -> int:
        """Least number of seeds at which the sign-flip test can decide after Holm's correction."""
        family = len(self.statements)
        return next(n for n in itertools.count(1) if smallest_sign_flip_p(n) * family < 1 - LEVEL)


def memorises(study: Study, fitted: float, drop: float, least: tuple[float, float]) -> tuple[bool, str]:
    """Compare what plain SGD fits and drops with the least that would count as memorisation."""
    if np.isnan(fitted) or np.isnan(drop):
        return False, "it was not measured"
    enough = fitted >= least[0] and drop >= least[1]
    seen = f"it fits {fitted:.0%} of the wrong labels and drops {100 * drop:.1f} points from its best"
    return enough, seen if enough else f"{seen} - too little"
