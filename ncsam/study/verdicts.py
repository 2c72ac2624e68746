"""The verdict on each statement of the flatness–noise theory, from a study's table by the declared rule.

The statements are in :mod:`ncsam.study.statements`, what a study's table holds in :mod:`ncsam.study.table`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from ncsam.records import CellTable, Curves, Secondary, Verdicts
from ncsam.statistics import (
    LEVEL,
    Interval,
    holm,
    page_p,
    sign_flip_p,
    t_interval,
    verdict,
)
from ncsam.study.effects import CONTRAST_RATE, defined
from ncsam.study.statements import EVERY_ARM, LATEST, VERSIONS, Statement
from ncsam.study.table import Study, spell, studies, table_of_curves

__all__ = [
    "CONTRAST_RATE",
    "NOT_MEASURED",
    "ContrastVerdict",
    "contrasts_of",
    "describe",
    "judge",
    "studies_of",
]

NOT_MEASURED = "not measured"


def studies_of(source: CellTable | Curves | Study) -> list[Study]:
    """Studies that are judged by themselves: the studies of a table, of curves, or the one given.

    Raises:
        ValueError: there is no reported run.
    """
    if isinstance(source, Study):
        return [source]
    return studies(table_of_curves(source) if isinstance(source, Curves) else source)


def judge(source: CellTable | Curves | Study, version: int = LATEST) -> Verdicts:
    """The verdict on each statement, with every number it follows from.

    Supported if the t-interval of the per-seed effects lies above m, contradicted if it lies below (equivalent,
    opposite, or too small), else undecided; *not measured* where the study lacks what the endpoint needs. Holm's
    adjustment counts all declared endpoints, measured or not.

    Args:
        source: a table or curves that hold a single study, or one of :func:`studies_of`.
        version: of the statements, see :data:`ncsam.study.statements.VERSIONS`.

    Raises:
        ValueError: the table holds several studies, or none.
        KeyError: there is no such version.
    """
    study, declared = _single(source), VERSIONS[version]
    statements = declared.statements
    outcomes = [_outcome(statement, study) for statement in statements]
    adjusted = holm([o.p for o in outcomes], len(statements))
    by_id = {s.id: o.verdict for s, o in zip(statements, outcomes, strict=True)}
    return Verdicts(
        statements=np.array([s.id for s in statements]),
        text=np.array([s.text for s in statements]),
        endpoint=np.array([s.endpoint for s in statements]),
        verdict=np.array([o.verdict for o in outcomes]),
        note=np.array([_note(o, p) for o, p in zip(outcomes, adjusted, strict=True)]),
        estimate=np.array([o.interval.mean for o in outcomes]),
        low=np.array([o.interval.low for o in outcomes]),
        high=np.array([o.interval.high for o in outcomes]),
        smallest_effect=np.array([s.smallest_effect for s in statements]),
        p_value=np.array([o.p for o in outcomes]),
        p_holm=adjusted,
        pairs=np.array([o.interval.n for o in outcomes]),
        preliminary=np.array([o.interval.n < declared.seeds_needed for o in outcomes]),
        level=LEVEL,
        contrast=np.array([o.contrast for o in outcomes]),
        test=np.array([o.test for o in outcomes]),
        runs=np.array([o.runs for o in outcomes]),
        data=study.data,
        model=study.model,
        noise=study.noise,
        family=len(statements),
        check=f"plain SGD at {CONTRAST_RATE:.0%} noise: {declared.memorisation(study)[1]}",
        joint=joint_reading(by_id["T3"], by_id["T4"], by_id["T5"]),
        version=version,
    )


def describe(source: CellTable | Curves | Study, version: int = LATEST) -> Secondary:
    """The secondary endpoints that were measured: estimates and unadjusted intervals, no test, no verdict.

    Raises:
        ValueError, KeyError: as :func:`judge`.
    """
    study = _single(source)
    rows: list[tuple[str, str, Interval]] = []
    for statement in VERSIONS[version].statements:
        named = {**statement.contrasts} if len(statement.contrasts) > 1 else {}
        for name, effect in {**named, **statement.secondary(study)}.items():
            rows.append((statement.id, name, t_interval(defined(effect, study), LEVEL)))
        rows += [(statement.id, name, interval) for name, interval in statement.described(study).items()]
    rows = [row for row in rows if row[2].n]
    return Secondary(
        statement=np.array([r[0] for r in rows], dtype=str),
        quantity=np.array([r[1] for r in rows], dtype=str),
        estimate=np.array([r[2].mean for r in rows]),
        low=np.array([r[2].low for r in rows]),
        high=np.array([r[2].high for r in rows]),
        pairs=np.array([r[2].n for r in rows], dtype=int),
        level=LEVEL,
    )


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """Outcome of one statement."""

    verdict: str
    interval: Interval
    contrast: str
    p: float
    test: str
    runs: int
    remarks: tuple[str, ...] = ()


def _outcome(statement: Statement, study: Study) -> _Outcome:
    effects = {name: defined(effect, study) for name, effect in statement.contrasts.items()}
    intervals = {name: _interval(statement, study, values) for name, values in effects.items()}
    if any(interval.n == 0 for interval in intervals.values()):
        empty = Interval(math.nan, math.nan, math.nan, 0, LEVEL)
        return _Outcome(NOT_MEASURED, empty, "", math.nan, "", 0, (_missing(statement, study),))
    contrast, found = _deciding(intervals, statement.smallest_effect)
    p, test, remark = _p_value(statement, study, effects[contrast])
    remarks = [f"decided by {contrast}"] if len(intervals) > 1 else []
    remarks += [remark] * bool(remark) + _left_out(statement, study, effects[contrast])
    for check in statement.checks:
        if said := check(study):
            found = "undecided"
            remarks.append(said)
    return _Outcome(found, intervals[contrast], contrast, p, test, _runs(statement, study), tuple(remarks))


def _interval(statement: Statement, study: Study, effects: np.ndarray) -> Interval:
    if statement.interval is None or np.isnan(effects).all():
        return t_interval(effects, LEVEL)
    return statement.interval(study)


def _left_out(statement: Statement, study: Study, effects: np.ndarray) -> list[str]:
    """Seeds that were run but have no effect, and why: a number is missing, or is one whose logarithm there is not."""
    ran, measured = np.ones(len(study.seeds), bool), np.ones(len(study.seeds), bool)
    for endpoints, arms, rates in statement.needs:
        for arm, rate in itertools.product(_arms(arms, study), rates(study)):
            ran &= study.ran(arm, rate)
            for endpoint in endpoints:
                measured &= np.isfinite(study.of(endpoint, arm, rate))
    without = ran & np.isnan(effects)
    reasons = {
        "the effect is not defined there": without & measured,
        "a training there diverged or was not measured": without & ~measured,
    }
    return [
        f"left out, since {why}: seeds {', '.join(str(s) for s, out in zip(study.seeds, here, strict=True) if out)}"
        for why, here in reasons.items()
        if here.any()
    ]


@dataclasses.dataclass(frozen=True)
class ContrastVerdict:
    """One contrast of a statement by itself: its per-seed effects' interval, and the verdict that this alone gives."""

    name: str
    interval: Interval
    verdict: str


def contrasts_of(statement: Statement, source: CellTable | Curves | Study) -> list[ContrastVerdict]:
    """Every contrast of a statement by itself, *not measured* where there is no seed; the statement needs them all."""
    study, found = _single(source), []
    for name, effect in statement.contrasts.items():
        interval = _interval(statement, study, defined(effect, study))
        said = verdict(interval.low, interval.high, statement.smallest_effect) if interval.n else NOT_MEASURED
        found.append(ContrastVerdict(name, interval, said))
    return found


def _deciding(intervals: dict[str, Interval], m: float) -> tuple[str, str]:
    """The contrast that decides and its verdict: one that fails, else the one least clear of m."""
    worst = min(intervals, key=lambda name: np.nan_to_num(intervals[name].high, nan=math.inf))
    if intervals[worst].high < m:
        return worst, verdict(intervals[worst].low, intervals[worst].high, m)
    least = min(intervals, key=lambda name: np.nan_to_num(intervals[name].low, nan=-math.inf))
    return least, verdict(intervals[least].low, intervals[least].high, m)


def _p_value(statement: Statement, study: Study, effects: np.ndarray) -> tuple[float, str, str]:
    """The p-value, its test, and what is to be said of it."""
    if statement.interval is not None:  # its seeds are not all that varies, so that flipping their signs is no test
        return math.nan, "none, the interval alone", ""
    if statement.trend is not None:
        table = np.where(np.isnan(effects)[:, None], np.nan, defined(statement.trend, study))
        complete, n = int((~np.isnan(table).any(axis=1)).sum()), int((~np.isnan(effects)).sum())
        p = page_p(table)
        if not math.isnan(p):
            return p, "Page", "" if complete == n else f"Page's test is of the {complete} seeds that have every rate"
    return sign_flip_p(effects - statement.null), "sign-flip", ""


def _note(outcome: _Outcome, p_holm: float) -> str:
    remarks = list(outcome.remarks)
    decided = outcome.verdict in ("supported", "contradicted (opposite)")
    if decided and p_holm > 1 - LEVEL:
        remarks.append(f"the interval decides; the exact test, adjusted, does not reach {1 - LEVEL:.2g}")
    return "; ".join(remarks)


def _missing(statement: Statement, study: Study) -> str:
    """Say what the endpoint lacks, and the command that gives it."""
    for endpoints, arms, rates in statement.needs:
        for rate in rates(study):
            for arm in _arms(arms, study):
                for endpoint in endpoints:
                    if np.isnan(study.of(endpoint, arm, rate)).all():
                        return f"needs {endpoint} of {arm} at {rate:.0%} noise: {_command(endpoint, arm, rate, study)}"
    return "needs at least four arms at one rate" if EVERY_ARM in statement.needs[0][1] else "needs seeds in common"


_MEASURED_BY = {  # by the first part of an endpoint's name
    "bound/": "`landscape diagnose --bound` on its runs, or `bound = {}` under `[measure]` of the sweep",
    "cos_": "`landscape train --diagnose 8`, or `diagnose = 8` under `[train]` of the sweep",
    "early/": "`landscape train --diagnose 8`, or `diagnose = 8` under `[train]` of the sweep",
    "noise_ceiling": "`landscape train --diagnose 8`, or `diagnose = 8` under `[train]` of the sweep",
    "adaptive_": "`landscape sharpness --trace 30`, or `sharpness = { trace_matvecs = 30 }` under `[measure]` of the "
    "sweep",
    "adaptive": "`landscape sharpness` on its runs, or `sharpness = {}` under `[measure]` of the sweep",
    "sam/": "`landscape sharpness` on its runs, or `sharpness = {}` under `[measure]` of the sweep",
    "auc/": "`landscape blame` on its runs, or `samples = {}` under `[measure]` of the sweep",
}


def _command(endpoint: str, arm: str, rate: float, study: Study) -> str:
    """The command that measures an endpoint; that which trains, where there is no run to measure it on."""
    quantity = endpoint.removeprefix("early/")
    if quantity != endpoint and any(np.isfinite(study.of(f"{at}{quantity}", arm, rate)).any() for at in ("", "late/")):
        return (
            "a tenth of the wrong labels was predicted before the first diagnosed epoch; `landscape train --diagnose 8 "
            "--diagnose-every 0` diagnoses earlier ones"
        )
    if np.isfinite(study.of("test_accuracy", arm, rate)).any():
        for start, command in _MEASURED_BY.items():
            if endpoint.startswith(start):
                return command
    optimizer = study.optimizers[arm][0] if arm in study.optimizers else arm
    return f"`landscape train --optimizer {optimizer} --noise {spell(study.noise or 'symmetric', rate)}`"


def _runs(statement: Statement, study: Study) -> int:
    count = 0
    for endpoints, arms, rates in statement.needs:
        for rate, arm in itertools.product(rates(study), _arms(arms, study)):
            there = [~np.isnan(study.of(endpoint, arm, rate)) for endpoint in endpoints]
            count += int(np.logical_and.reduce(there).sum())
    return count


def _arms(arms: tuple[str, ...], study: Study) -> tuple[str, ...]:
    return study.arms if EVERY_ARM in arms else arms


def _single(source: CellTable | Curves | Study) -> Study:
    found = studies_of(source)
    if len(found) > 1:
        kinds = ", ".join(f"{s.data} {s.model} {s.noise}".strip() for s in found)
        raise ValueError(
            f"the table holds {len(found)} studies ({kinds}); judge each of ncsam.study.verdicts.studies_of by itself"
        )
    return found[0]


def joint_reading(t3: str, t4: str, t5: str) -> str:
    """The sign logic of the compensation, in words.

    ε_SAM already contains +λ g_noise. If g* really resembled g_noise (T4) and g_noise opposed g_clean (T3), adding
    s g* would turn ε further from the clean perturbation, so T5 could not hold: the three together are not the
    mechanism. The paper's own reading, that it undoes the drift −η g_noise of the weights, is not what T5 measures.

    Args:
        t3, t4, t5: verdicts as :func:`ncsam.study.verdicts.judge` gives them.

    >>> joint_reading("supported", "contradicted (opposite)", "contradicted (opposite)")
    'g* is not the noise gradient and the perturbation is not brought back: whatever NCSAM gains, ...'
    """
    if any(v == "not measured" for v in (t3, t4, t5)):
        missing = ", ".join(name for name, v in (("T3", t3), ("T4", t4), ("T5", t5)) if v == "not measured")
        return f"cannot be read together: {missing} not measured (`landscape train --diagnose`, `landscape diagnose`)"
    if "undecided" in (t4, t5):
        return "cannot be read together yet: T4 or T5 is undecided"
    stands_for_noise, comes_back = t4 == "supported", t5 == "supported"
    if stands_for_noise and comes_back:
        if t3 == "supported":
            return (
                "at odds with the sign logic: adding a vector like g_noise to a perturbation that already contains "
                "g_noise brought it back although g_noise opposes g_clean; projection or the wrong-labelled samples' "
                "own true gradient must be what turns it"
            )
        return (
            "consistent only because T3 does not hold: g_noise does not oppose g_clean, so moving along it need not "
            "lead away from the clean perturbation; that is not the paper's picture of opposing gradients"
        )
    if stands_for_noise:
        return (
            "g* is like the noise gradient, and adding it turns the perturbation towards the noise, as the sign logic "
            "says it must; compensation would need the opposite sign"
        )
    if comes_back:
        return (
            "the perturbation comes back although g* is not the noise gradient: g* helps for another reason, such as "
            "temporary labels that are the true ones (see the share of flips to the true label)"
        )
    return (
        "g* is not the noise gradient and the perturbation is not brought back: whatever NCSAM gains, it is not by the "
        "mechanism the paper states; look at the realised ‖ε‖ first"
    )
