"""A study in words: numbers as they are written, the answers that follow from its verdicts, and what limits them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ncsam.records import RadiusControl, Verdicts
from ncsam.report.provenance import without_folders
from ncsam.statistics import LEVEL, Interval, t_interval
from ncsam.study.arms import printed
from ncsam.study.effects import CONTRAST_RATE, nanmean
from ncsam.study.statements import VERSIONS
from ncsam.study.table import Study
from ncsam.study.verdicts import NOT_MEASURED, ContrastVerdict, contrasts_of

_ANSWERS = {
    "supported": "Yes.",
    "contradicted (opposite)": "No, the opposite.",
    "contradicted (equivalent)": "No: no difference that would matter.",
    "contradicted (too small)": "No: less than would matter.",
    "undecided": "Undecided.",
    NOT_MEASURED: "Not measured.",
}
_WITH_ITS_SIGN = (printed("ncsam"), printed("ncsam-unprojected"))  # families that are NCSAM as published
_CLEAN = ("clean-direction", "clean-part-direction")
_EXCESS = ("excess", "excess_low", "excess_high")
CONTROLS = {  # what each control of the method would show; see docs/theory.md
    "matched": "SAM’s direction with NCSAM’s own ‖ε‖ at every step",
    "replay": "SAM’s direction with the ‖ε‖ that NCSAM had at the same step of its run",
    "clean-part-direction": "ε from the rightly labelled samples alone",
    "clean-direction": "ε from the true labels: what perfect compensation would give",
    "random-direction": "a random direction of g*’s length in its place",
    "random-picks": "g* from samples picked at random",
    "gstar-only": "g* without SAM’s part",
    "oracle": "the batch’s true noise gradient in g*’s place",
}


@dataclasses.dataclass(frozen=True)
class Answer:
    """A question, the answer that its verdict gives, and the numbers behind it."""

    question: str
    answer: str
    because: str
    statement: str = ""


def number(value: float, digits: int = 3) -> str:
    """A number with as many significant digits, plain where it can be; a dash for what is not there.

    >>> number(0.012345), number(12345.0), number(float("nan"))
    ('0.0123', '12300', '–')
    """
    if not math.isfinite(value):
        return "–"
    shown = f"{value:.{digits}g}"
    return f"{float(shown):.0f}" if "e+" in shown else shown.replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """With its sign and as many decimals; a dash for what is not there.

    >>> signed(-0.5), signed(2, 1)
    ('−0.500', '+2.0')
    """
    return f"{value:+.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def interval(low: float, high: float, digits: int = 3) -> str:
    """Both ends; words where there is one seed only."""
    return f"[{signed(low, digits)}, {signed(high, digits)}]" if math.isfinite(low) else "(one seed)"


def percent(value: float, digits: int = 1) -> str:
    """A share in percent."""
    return f"{100 * value:.{digits}f} %".replace("-", "−") if math.isfinite(value) else "–"


def p_value(value: float) -> str:
    """To three decimals."""
    return "–" if math.isnan(value) else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def mean(study: Study, endpoint: str, arm: str, rate: float = CONTRAST_RATE) -> float:
    """Mean over the seeds; NaN where it was not measured."""
    return float(nanmean(study.of(endpoint, arm, rate)))


def of_arm(control: RadiusControl, arm: str) -> int | None:
    """The row of an arm in the radius control."""
    found = np.flatnonzero(control.arms == arm)
    return int(found[0]) if len(found) else None


def answers(study: Study, verdicts: Verdicts, control: RadiusControl | None) -> list[Answer]:
    """The questions that a reader comes with, each with the answer that the study gives."""
    found = []
    asked = [i for i, name in enumerate(verdicts.statements) if VERSIONS[verdicts.version][str(name)].question]
    for i in asked:
        statement = VERSIONS[verdicts.version][str(verdicts.statements[i])]
        contrasts = contrasts_of(statement, study)
        answer = _answer(verdicts, i, contrasts)
        found.append(Answer(statement.question, answer, because(verdicts, i, contrasts), statement.id))
    found.append(_against_sam(control))
    joint = verdicts.joint or "not measured"
    found.append(Answer("Is it compensation that helps, as the theory says (T3–T5)?", "", f"{_capital(joint)}."))
    return found


def because(verdicts: Verdicts, i: int, contrasts: Sequence[ContrastVerdict]) -> str:
    """The effect of every contrast of one statement with its interval, against m, in its own unit."""
    if str(verdicts.verdict[i]) == NOT_MEASURED:
        return f"{_capital(str(verdicts.note[i]))}."
    factor, unit = VERSIONS[verdicts.version][str(verdicts.statements[i])].unit
    digits = 1 if factor == 100 else 2
    m = signed(factor * float(verdicts.smallest_effect[i]), digits)
    told = [
        f"{signed(factor * c.interval.mean, digits)} {unit} ({c.name}), "
        f"{interval(factor * c.interval.low, factor * c.interval.high, digits)} over {_seeds(c.interval.n)}"
        for c in contrasts
    ]
    why = str(verdicts.note[i]) if str(verdicts.verdict[i]) == "undecided" and len(told) == 1 else ""
    return f"Effect{'s' if len(told) > 1 else ''} {'; '.join(told)}; m = {m}.{f' {_capital(why)}.' if why else ''}"


def tally(verdicts: Verdicts) -> str:
    """Count the statements by outcome."""
    groups = {
        word: [str(s) for s, v in zip(verdicts.statements, verdicts.verdict, strict=True) if str(v).startswith(word)]
        for word in ("supported", "contradicted", "undecided", NOT_MEASURED)
    }
    said = [f"{len(names)} {word} ({', '.join(names)})" for word, names in groups.items() if names]
    return f"Of {len(verdicts.statements)} statements: {'; '.join(said)}."


def limits(study: Study, verdicts: Verdicts) -> list[str]:
    """List what a reader must know before believing the verdicts of one study, computed from it."""
    found = []
    few = [
        str(s)
        for s, early, v in zip(verdicts.statements, verdicts.preliminary, verdicts.verdict, strict=True)
        if early and v != NOT_MEASURED
    ]
    if few:
        found.append(
            f"Preliminary (*): {', '.join(few)}. They rest on fewer than {VERSIONS[verdicts.version].seeds_needed} "
            "seeds, with which the sign-flip test cannot decide by itself after Holm’s correction: its least p-value, "
            "2/2ⁿ, times the number of statements is above 0.05."
        )
    if verdicts.check:
        found.append(f"Manipulation check for T7 and T8: {verdicts.check}.")
    missing = [str(s) for s, v in zip(verdicts.statements, verdicts.verdict, strict=True) if v == NOT_MEASURED]
    if missing:
        notes = {str(s): str(n) for s, n in zip(verdicts.statements, verdicts.note, strict=True)}
        told = "; ".join(f"{name} {notes[name]}" for name in missing)
        found.append(f"Not measured, and nothing is guessed for them: {told}.")
    bound = nanmean(np.concatenate([study.over_arms("bound/error/total", rate).ravel() for rate in study.rates]))
    if np.isfinite(bound):
        found.append(
            f"Theorem 1’s bound (0–1 error) is {number(float(bound))} on average over all runs, and its maximum over "
            f"the neighbourhood a lower estimate: {'vacuous' if bound >= 1 else 'below 1'}."
        )
    if study.noise.split(",")[0] in ("instance", "asymmetric", "pair"):
        found.append(
            "Theorem 1 assumes that the rightly labelled part is a sample of the clean distribution; under noise that "
            "depends on the input or on the class it is not."
        )
    found.append(
        f"Intervals are over seeds: {len(study.seeds)} of them, one data set "
        f"({without_folders(study.data) or 'not recorded'}), one model ({study.model or 'not recorded'}). They say "
        "nothing of other data or architectures."
    )
    return found


def rivals(study: Study, control: RadiusControl | None) -> list[str]:
    """Rival explanations by name, each with the number that bears on it, where it was measured."""
    found = []
    radius = _against_sam(control)
    found.append(f"A larger effective radius. {radius.because}")
    told = [
        f"{printed(arm)} {_points(*(float(getattr(control, name)[i]) for name in _EXCESS))}"
        for arm in study.arms
        if control is not None and arm.startswith(_CLEAN) and (i := of_arm(control, arm)) is not None
        if math.isfinite(control.excess[i])
    ]
    found.append(
        "No compensation could help: ε from the true labels, or from the rightly labelled samples alone. "
        f"{f'Over SAM of the same ‖ε‖: {listed(told)}' if told else 'Not measured here'}."
    )
    for arm, other, what in (
        ("random-direction", "ncsam-unprojected", "Any vector would do: a random direction"),
        ("random-picks", "ncsam-unprojected", "Any picks would do: random picks"),
    ):
        arms = [name for name in study.arms if name == arm or name.startswith(f"{arm}-rho")]
        told = [
            f"{printed(name)} {_points(d.mean, d.low, d.high)} over {printed(other)}"
            for name in arms
            if (d := _difference(study, name, other)).n
        ]
        found.append(f"{what}. {'; '.join(told) if told else 'Not measured here'}.")
    found.append("The Jacobian effect (Baek et al. 2024, arXiv 2405.03676): gains need not come from flatness at all.")
    found.append(
        "Element-wise down-weighting (SANER, arXiv 2411.17132): single components of the gradient may explain it."
    )
    fits = [
        f"{printed(arm)} {percent(fitted, 0)}"
        for arm in ("sgd", "sam", "ncsam")
        if math.isfinite(fitted := mean(study, "memorisation", arm))
    ]
    found.append(
        "Early stopping: an arm that has fitted less has memorised less. "
        f"Wrong labels fitted at {CONTRAST_RATE:.0%}: {', '.join(fits) if fits else 'not measured'}."
    )
    return found


def _points(mean: float, low: float, high: float) -> str:
    return f"{signed(100 * mean, 1)} {interval(100 * low, 100 * high, 1)} points of accuracy"


def _difference(study: Study, arm: str, other: str) -> Interval:
    return t_interval(
        study.of("test_accuracy", arm, CONTRAST_RATE) - study.of("test_accuracy", other, CONTRAST_RATE), LEVEL
    )


def _answer(verdicts: Verdicts, i: int, contrasts: Sequence[ContrastVerdict]) -> str:
    """The answer that a verdict gives; where its contrasts differ, that of each, since the verdict is of one alone."""
    verdict = str(verdicts.verdict[i])
    told = {c.name: _ANSWERS[c.verdict][:-1] for c in contrasts}
    forced = "did not memorise" in str(verdicts.note[i])  # then the intervals have no say
    if verdict == NOT_MEASURED or forced or len(set(told.values())) == 1:
        found = _ANSWERS[verdict][:-1]
        if len(told) > 1 and verdict != NOT_MEASURED and not forced:
            found += f" ({listed(list(told))})"
    else:
        whole = "Undecided of some" if verdict == "undecided" else f"Not of {'both' if len(told) == 2 else 'all'}"
        found = f"{whole} ({'; '.join(f'{name}: {_lower(answer)}' for name, answer in told.items())})"
    return f"{found} (preliminary)." if verdicts.preliminary[i] and verdict != NOT_MEASURED else f"{found}."


def _against_sam(control: RadiusControl | None) -> Answer:
    """NCSAM's variants against SAM of the same realised ‖ε‖: descriptive, no verdict follows from it."""
    question = "Is it better than SAM with a perturbation as large as its own?"
    variants = [] if control is None else [i for i, f in enumerate(control.family.tolist()) if f in _WITH_ITS_SIGN]
    here = [] if control is None else [i for i in variants if np.isfinite(control.excess[i])]
    if control is None or not here:
        return Answer(
            question, "Not measured.",
            "It needs SAM at several radii around NCSAM’s (the radius control): `landscape sweep --optimizer sam --rho "
            "0.02,0.05,0.1,0.2,0.4`, or `rho = [...]` of its arm.",
        )  # fmt: skip
    told = [
        f"{printed(str(control.arms[i]))} (‖ε‖ {number(float(control.radius[i]), 2)}) "
        f"{signed(100 * float(control.excess[i]), 1)} "
        f"{interval(100 * float(control.excess_low[i]), 100 * float(control.excess_high[i]), 1)}"
        for i in here
    ]
    better = [printed(str(control.arms[i])) for i in here if control.excess_low[i] > 0]
    worse = [printed(str(control.arms[i])) for i in here if control.excess_high[i] < 0]
    unclear = [name for i in here if (name := printed(str(control.arms[i]))) not in (*better, *worse)]
    groups = (("better", better), ("worse", worse), ("not told apart", unclear))
    said = "; ".join(f"{word}: {listed(names)}" for word, names in groups if names)
    answer = ("In part" if worse or unclear else "Yes") if better else "No" if worse else "Not shown"
    left = [printed(str(control.arms[i])) for i in variants if i not in here]
    beyond = f" Not compared, since no SAM arm has a ‖ε‖ as large: {listed(left)}." if left else ""
    because = f"Points of accuracy over SAM of the same ‖ε‖: {'; '.join(told)}. Descriptive.{beyond}"
    return Answer(question, f"{answer} ({said}).", because)


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count != 1 else ''}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _capital(text: str) -> str:
    return text if text.startswith("g*") else text[:1].upper() + text[1:]


def listed(items: Sequence[str]) -> str:
    """``a, b and c``.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
