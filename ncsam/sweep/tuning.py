"""Settings chosen on the validation part, with its observed labels, on seeds that no reported run has.

Among the candidates within one standard error of the best, over the tuning seeds and paired by seed, the one with the
least ρ is chosen, then the least \\|κ\\|: the smallest departure from the base optimizer that the data do not tell from
the best. Of those that are equal in both, the highest mean, then the first listed. Where the best of an arm lies at the
end of a numeric axis of its grid, the axis is continued, as often as ``widen`` under ``[tune]`` says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ncsam.runs.run import Run
from ncsam.sweep.cells import Cell
from ncsam.sweep.grids import axes, beyond, with_value
from ncsam.training.config import LAST_EPOCHS

RULE = "one standard error: least rho, least |kappa|, highest mean, first listed"
"""Name of the rule by which a candidate is chosen, which a plan records."""

Candidate = Mapping[str, Any]
Tried = Sequence[tuple[Cell, Candidate]]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A candidate and its validation accuracy on each tuning seed, NaN where a run is missing."""

    candidate: Candidate
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the tuning seeds."""
        return float(np.mean(self.scores))


@dataclasses.dataclass(frozen=True)
class Alone:
    """The choice of one tuning seed by itself, which shows the noise of the selection.

    Attributes:
        accuracy: of that candidate on this seed, which chose it.
        elsewhere: its mean over the other tuning seeds; None where there are none.
    """

    seed: int
    chosen: Candidate
    accuracy: float
    elsewhere: float | None


@dataclasses.dataclass(frozen=True)
class Choice:
    """Trials for one arm under one noise, and what was chosen by :data:`RULE`.

    Attributes:
        rule: its name.
        seeds: of the tuning.
        tried: every candidate with its validation accuracy, the mean over the tuning seeds.
        scores: of each candidate on each seed.
        chosen: by the rule.
        best: the first with the highest mean.
        tied: others with exactly that mean.
        within: number of candidates within one standard error of the best, the best among them.
        asked: number of candidates in the grid as it was described.
        extra: number that widening it added.
        widened: values that were added, by setting.
        at_edge: settings whose best value is still the least or greatest that was tried, and why it was left so.
        alone: what each seed alone would have chosen.
    """

    arm: str
    noise: str
    rule: str
    seeds: Sequence[int]
    tried: Sequence[tuple[Candidate, float]]
    scores: Sequence[Sequence[float]]
    chosen: Candidate
    best: Candidate
    tied: Sequence[Candidate]
    within: int
    asked: int
    extra: int
    widened: Mapping[str, Sequence[float]]
    at_edge: Mapping[str, str]
    alone: Sequence[Alone]


def trials_of(tried: Tried, score: Callable[[Cell], float]) -> dict[tuple[str, str], list[Trial]]:
    """The trials of each arm under each noise, in the order in which they are listed.

    Args:
        tried: the tuning's cells with the candidate that each tries.
        score: :func:`validation_accuracy` of a cell's finished run.
    """
    seeds = list(dict.fromkeys(cell.seed for cell, _ in tried))
    found: dict[tuple[str, str], list[tuple[Candidate, dict[int, float]]]] = {}
    for cell, candidate in tried:
        of_arm = found.setdefault((cell.arm, cell.config.noise), [])
        scores = next((scores for known, scores in of_arm if known == candidate), None)
        if scores is None:
            of_arm.append((candidate, scores := {}))
        scores[cell.seed] = score(cell)
    return {
        key: [Trial(candidate, tuple(scores.get(seed, math.nan) for seed in seeds)) for candidate, scores in of_arm]
        for key, of_arm in found.items()
    }


def best_of(trials: Sequence[Trial]) -> list[Trial]:
    """The trials with the highest mean: one, or several that are tied; none that diverged on any seed.

    Raises:
        ValueError: all of them diverged.
    """
    highest = max((trial.mean for trial in trials if not math.isnan(trial.mean)), default=None)
    if highest is None:
        raise ValueError(f"all {len(trials)} candidates diverged: their validation accuracy is not a number")
    return [trial for trial in trials if trial.mean == highest]


def within_one_error(trials: Sequence[Trial]) -> list[Trial]:
    """The trials whose mean lies within one standard error of the best, of their differences paired by seed.

    With one seed there is no error: only those that are tied.

    >>> one, other, far = Trial({"rho": 0.1}, (0.8, 0.9)), Trial({"rho": 0.2}, (0.9, 0.82)), Trial({}, (0.1, 0.1))
    >>> [trial.candidate for trial in within_one_error([one, other, far])]
    [{'rho': 0.1}, {'rho': 0.2}]
    """
    best = best_of(trials)[0]
    found = []
    for trial in trials:
        behind = np.subtract(best.scores, trial.scores)
        error = float(behind.std(ddof=1)) / math.sqrt(len(behind)) if len(behind) > 1 else 0.0
        if float(behind.mean()) <= error or trial.mean == best.mean:
            found.append(trial)
    return found


def by_rule(trials: Sequence[Trial]) -> Trial:
    """The trial that :data:`RULE` chooses.

    >>> trials = [Trial({"rho": r}, scores) for r, scores in ((0.4, (0.8, 0.9)), (0.2, (0.9, 0.79)), (0.1, (0.2, 0.1)))]
    >>> by_rule(trials).candidate
    {'rho': 0.2}
    """

    def order(trial: Trial) -> tuple[float, float, float]:
        rho, kappa = (trial.candidate.get(key, 0.0) for key in ("rho", "kappa"))
        return float(rho), abs(float(kappa)), -trial.mean

    return min(within_one_error(trials), key=order)  # the first of those that are equal


def widenings(
    trials: Sequence[Trial], asked: int, widen: int, possible: Callable[[Candidate], bool] = lambda candidate: True
) -> list[Candidate]:
    """The candidates to add where the best lies at the end of a numeric axis; none where it lies inside.

    Of several that are tied for the best, one inside is enough.

    Args:
        trials: those of the grid as it was described first, then those that were added.
        asked: number of the former.
        widen: values by which an axis may be continued, at both ends together.
        possible: tells whether a candidate may be run.

    >>> trials = [Trial({"rho": rho}, (rho,)) for rho in (0.1, 0.2)]
    >>> widenings(trials, 2, 1), widenings(trials, 2, 0), widenings(trials, 2, 1, lambda candidate: False)
    ([{'rho': 0.4}], [], [])
    """
    known, found = [trial.candidate for trial in trials], list[Candidate]()
    for key, up in edges_of(trials):
        values = axes(known)[key]
        value = beyond(values, up=up)
        further = value > values[-1] or value < values[0]  # whole numbers may have no next one
        if further and len(added(known, asked)[key]) < widen:
            new = [candidate for candidate in with_value(known, key, value) if possible(candidate)]
            known, found = [*known, *new], [*found, *new]
    return found


def added(candidates: Sequence[Candidate], asked: int) -> dict[str, list[float]]:
    """The values of each numeric axis that are not in the first ``asked`` candidates."""
    described = axes(candidates[:asked])
    return {key: [v for v in axes(candidates)[key] if v not in values] for key, values in described.items()}


def edges_of(trials: Sequence[Trial]) -> list[tuple[str, bool]]:
    """The numeric axes at whose end the best lies, with True for the upper end; both where both are tied."""
    best, found = best_of(trials), []
    for key, values in axes([trial.candidate for trial in trials]).items():
        at = {trial.candidate[key] for trial in best}
        if at <= {values[0], values[-1]}:
            found += [(key, up) for up in (False, True) if (values[-1] if up else values[0]) in at]
    return found


def choose(
    tried: Tried, score: Callable[[Cell], float], asked: Mapping[str, int] | None = None, widen: int = 0
) -> list[Choice]:
    """Choose for each arm under each noise by :data:`RULE`; the choices come with all that they follow from.

    Args:
        tried: the tuning's cells with the candidate that each tries, those of the grid as described first.
        score: :func:`validation_accuracy` of a cell's finished run.
        asked: number of candidates of that grid, by arm; all if none.
        widen: values by which an axis was allowed to be continued.

    Raises:
        ValueError: the trainings of all candidates of an arm diverged.
    """
    seeds = list(dict.fromkeys(cell.seed for cell, _ in tried))
    found = []
    for (arm, noise), trials in trials_of(tried, score).items():
        best = best_of(trials)
        count = len(trials) if asked is None else asked[arm]
        candidates = [trial.candidate for trial in trials]
        continued, now = added(candidates, count), axes(candidates)
        edges = {
            key: f"best at the {'greatest' if up else 'least'} value tried, {now[key][-1 if up else 0]:g}; "
            + (f"the limit, widen = {widen}, is reached" if len(continued[key]) >= widen else "none beyond is possible")
            for key, up in edges_of(trials)
        }
        alone = []
        for i, seed in enumerate(seeds):
            if all(math.isnan(trial.scores[i]) for trial in trials):
                continue  # a seed on which all of them diverged chooses nothing
            own = by_rule([Trial(trial.candidate, (trial.scores[i],)) for trial in trials])
            whole = next(trial for trial in trials if trial.candidate is own.candidate)
            others = [score for j, score in enumerate(whole.scores) if j != i]
            alone.append(Alone(seed, own.candidate, own.mean, float(np.mean(others)) if others else None))
        found.append(
            Choice(
                arm=arm,
                noise=noise,
                rule=RULE,
                seeds=seeds,
                tried=[(trial.candidate, trial.mean) for trial in trials],
                scores=[list(trial.scores) for trial in trials],
                chosen=by_rule(trials).candidate,
                best=best[0].candidate,
                tied=[trial.candidate for trial in best[1:]],
                within=len(within_one_error(trials)),
                asked=count,
                extra=len(trials) - count,
                widened={key: values for key, values in continued.items() if values},
                at_edge=edges,
                alone=alone,
            )
        )
    return found


def validation_accuracy(run: Run) -> float:
    """Accuracy on the held-out samples with their observed labels, the mean over the last five epochs.

    Raises:
        ValueError: the run has no validation part.
    """
    training = run.training
    if "val" not in training.views:
        raise ValueError(f"{run.path}: nothing was held out to tune on; set val_fraction above 0")
    return float(training.of_view("val")[-LAST_EPOCHS:].mean())
