"""Captions: what each figure shows, and its numbers, computed from the study."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable

from ncsam.figures.against_noise import compared
from ncsam.figures.at_one_rate import MEASURES
from ncsam.report.prose import interval, listed, mean, number, of_arm, percent, signed, tally
from ncsam.statistics import LEVEL, t_interval
from ncsam.study.arms import printed
from ncsam.study.by_measure import by_measure
from ncsam.study.effects import CONTRAST_RATE, rank_agreement
from ncsam.study.files import curves_of
from ncsam.study.radius_control import radius_control
from ncsam.study.statements import LATEST, VERSIONS
from ncsam.study.statements.version2 import SHARPNESS
from ncsam.study.table import Study
from ncsam.study.verdicts import contrasts_of, judge

_WORDS = ("supported", "contradicted", "undecided")
_AT = f"{CONTRAST_RATE:.0%} noise".replace("%", " %")


@dataclasses.dataclass(frozen=True)
class Caption:
    """Title of a figure, and the text below it with the numbers of a study."""

    title: str
    text: Callable[[Study], str]


def _verdicts(study: Study) -> str:
    return (
        f"{tally(judge(study))} Dots are mean effects over the seeds, bars {LEVEL:.0%} t-intervals; an interval inside "
        "the green area, which begins at m, supports its statement. Every row has its own unit. * preliminary."
    )


def _by_measure(study: Study) -> str:
    found = by_measure(study)
    told = []
    for statement in dict.fromkeys(found.statement.tolist()):
        here = found.statement == statement
        words = Counter(str(verdict).split()[0] for verdict in found.verdict[here])
        told.append(f"{statement} {', '.join(f'{words[w]} {w}' for w in _WORDS if words[w])}")
    return (
        f"What each measure alone would say: {'; '.join(told)}. The filled square is the declared measure, which alone "
        "decides; the rest is descriptive."
    )


def _radius(study: Study) -> str:
    control = radius_control(study)
    sam = [i for i in control.radius.argsort() if control.family[i] == "SAM"]
    told = []
    if sam:
        ends = [
            f"{percent(control.accuracy[i])} at ‖ε‖ = {number(float(control.radius[i]), 2)}" for i in (sam[0], sam[-1])
        ]
        told.append(f"SAM goes from {ends[0]} to {ends[1]}" if len(sam) > 1 else f"SAM reaches {ends[0]}")
    if (sgd := of_arm(control, "sgd")) is not None:
        told.append(f"SGD reaches {percent(control.accuracy[sgd])}")
    for arm in ("ncsam", "ncsam-unprojected"):
        i = of_arm(control, arm)
        if i is None:
            continue
        over = ""
        if math.isfinite(control.excess[i]):
            ends_of = interval(100 * control.excess_low[i], 100 * control.excess_high[i], 1)
            over = f", {signed(100 * float(control.excess[i]), 1)} {ends_of} points from SAM of that ‖ε‖"
        told.append(
            f"{printed(arm)} takes ‖ε‖ = {number(float(control.radius[i]), 2)} and reaches "
            f"{percent(control.accuracy[i])}{over}"
        )
    return (
        f"At {_AT}: {'; '.join(told)}. An arm above SAM’s line gains more than its larger perturbation explains; "
        "one on it gains nothing else. Bars are t-intervals; ticks on the axis mark the ‖ε‖ of each arm."
    )


def _against_noise(study: Study) -> str:
    told = [
        f"{printed(arm)} from {percent(mean(study, 'test_accuracy', arm, study.rates[0]))} to "
        f"{percent(mean(study, 'test_accuracy', arm, study.rates[-1]))}"
        for arm in compared(curves_of(study))
    ]
    ends = f"{100 * study.rates[0]:g} and {100 * study.rates[-1]:g} %"
    return (
        f"Between {ends} wrong labels, clean test accuracy goes: {'; '.join(told)}. Bands: {LEVEL:.0%} t-intervals, "
        "ended where a logarithmic axis or a share ends."
    )


def _sharpness(study: Study) -> str:
    told = []
    for measure, label in MEASURES.items():
        first, last = (mean(study, measure, "sgd", rate) for rate in (study.rates[0], study.rates[-1]))
        if math.isfinite(first + last):
            told.append(f"{_word(label)} from {number(first)} to {number(last)}")
    told = [f"{words} (mixed)" for words in told]
    first, last = (mean(study, SHARPNESS, "sgd", rate) for rate in (study.rates[0], study.rates[-1]))
    if math.isfinite(first + last):
        told.insert(0, f"tr DHD from {number(first)} to {number(last)} (clean part)")
    changed = f"SGD’s {listed(told)}" if told else "SGD was not measured at both ends"
    return (
        f"From {100 * study.rates[0]:g} to {100 * study.rates[-1]:g} % wrong labels: {changed}. Columns are "
        "views of the data; rows share their axis. The raw λ₁ and trace depend on the scale of the "
        "weights, DHD, D = diag(|w|), and the adaptive measure do not."
    )


def _arms(study: Study) -> str:
    reached = {arm: mean(study, "test_accuracy", arm) for arm in study.arms}
    known = sorted((arm for arm in reached if math.isfinite(reached[arm])), key=lambda arm: -reached[arm])
    told = (
        f"best {printed(known[0])} ({percent(reached[known[0]])}), "
        f"worst {printed(known[-1])} ({percent(reached[known[-1]])})"
        if known
        else ""
    )
    rest = [f"{printed(arm)} {percent(reached[arm])}" for arm in ("sgd", "sam", "ncsam") if arm in known]
    return (
        f"At {_AT}, clean test accuracy: {'; '.join(filter(None, [told, ', '.join(rest)]))}. Bars: t-intervals. The "
        "axis of ‖ε‖ is logarithmic; an arm without perturbation has a 0 there."
    )


def _flatness(study: Study) -> str:
    (found,) = contrasts_of(VERSIONS[LATEST]["T9"], study)
    ends = interval(found.interval.low, found.interval.high, 2)
    told = f"{signed(found.interval.mean, 2)} {ends}" if found.interval.n else "not measured"
    return (
        f"At {_AT}, Kendall’s τ over the arms between tr DHD on the clean part and clean test error, as T9 has it: "
        f"{told}, families of arms and seeds at random. Small dots are runs, symbols means of arms; arms of one family "
        "are joined in the order of their ‖ε‖. Flat and accurate is at the lower left."
    )


def _gap(study: Study) -> str:
    told = []
    for measure, label in MEASURES.items():
        tau = t_interval(rank_agreement(measure, "gap", lambda _: (CONTRAST_RATE,))(study), LEVEL)
        if tau.n:
            told.append(f"{_word(label)} {signed(tau.mean, 2)} {interval(tau.low, tau.high, 2)}")
    shown = "; ".join(told) if told else "fewer than four arms have both"
    return (
        f"At {_AT}, Kendall’s τ over the arms of a seed, averaged over seeds: {shown}. The gap is test loss minus "
        "the loss of the rightly labelled training part. Small dots are runs, symbols means of arms; arms of one "
        "family are joined in the order of their ‖ε‖. Version 1 of T9 was judged by adaptive sharpness here; version 2 "
        "looks at the clean part and at test error."
    )


def _bound(study: Study) -> str:
    arm = "sgd" if "sgd" in study.arms else study.arms[0]
    total, risk, largest = (mean(study, f"bound/error/{term}", arm) for term in ("total", "risk", "complexity"))
    told = "was not measured"
    if math.isfinite(total):
        word = f"vacuous by a factor of {number(total, 2)}" if total >= 1 else "not vacuous"
        told = (
            f"is {number(total)} where the clean test error is {number(risk)}: {word}; "
            f"√(X/(n−1)) makes up {percent(largest / total, 0)} of it"
        )
    return (
        f"At {_AT} the bound of {printed(arm)} (0–1 error) {told}. The highest loss nearby is found by projected "
        "ascent, so it and the bound are lower estimates. From the dotted line on a bound says nothing."
    )


def _training(study: Study) -> str:
    told = []
    for arm in compared(curves_of(study)):
        best, last, fitted = (mean(study, name, arm) for name in ("best_accuracy", "test_accuracy", "memorisation"))
        told.append(
            f"{printed(arm)} peaks at {percent(best)}, ends at {percent(last)} and fits {percent(fitted, 0)} of the "
            "wrong labels"
        )
    return f"At {_AT}: {'; '.join(told)}. Bands: {LEVEL:.0%} t-intervals over the seeds."


def _controls(study: Study) -> str:
    lines = compared(curves_of(study))
    ends = [f"{printed(arm)} {percent(mean(study, 'test_accuracy', arm))}" for arm in study.arms if arm not in lines]
    thin = listed([printed(arm) for arm in lines])
    return (
        f"At {_AT}, mean of the last five epochs: {', '.join(ends)}. Thin lines: {thin}, for comparison. The axis "
        "begins just below what is reached after a quarter of the epochs."
    )


def _alignment(study: Study) -> str:
    shown = {
        "cos(g_clean, g_noise)": "cos_clean_noise",
        "cos(g*, g_noise)": "cos_star_noise",
        "the same with random picks": "cos_random_noise",
        "its ceiling": "noise_ceiling",
        "cos(ε_SAM(ỹ), ε_SAM(y))": "cos_sam_true",
        "cos(ε_NCSAM, ε_SAM(y))": "cos_ncsam_true",
        "share of wrong-labelled picks flipped to the true label": "flips_to_true",
    }
    told = [
        f"{label} = {signed(value, 2)}"
        for label, name in shown.items()
        if math.isfinite(value := mean(study, name, "ncsam"))
    ]
    return (
        f"Along NCSAM’s training at {_AT}, after the warm-up (grey): {'; '.join(told) if told else 'not measured'}. "
        "Means over batches, bands over the seeds. The first two rows show several arms, the others NCSAM."
    )


def _density(study: Study) -> str:
    told = [
        f"{printed(arm)} {number(value)}"
        for arm in compared(curves_of(study))
        if math.isfinite(value := mean(study, "top_eigenvalue/mixed", arm))
    ]
    return (
        f"At {_AT}, last epoch, of the first seed’s run of each arm; ticks are the top eigenvalues. Mean λ₁ (mixed) "
        f"over the seeds: {', '.join(told) if told else 'not measured'}."
    )


def _word(label: str) -> str:
    return label.partition(" (")[0].replace("$λ_1$", "λ₁")


CAPTIONS: dict[str, Caption] = {  # by the names of ncsam.figures.catalogue.figures_of_study
    "verdicts": Caption("The verdicts: each effect against its smallest relevant size", _verdicts),
    "by_measure": Caption("The verdicts on sharpness, by measure and view", _by_measure),
    "radius": Caption("The radius control: accuracy and memorisation against the perturbation really taken", _radius),
    "against_noise": Caption("Accuracy, memorisation and sharpness against the noise rate", _against_noise),
    "sharpness": Caption("Sharpness against the noise rate, by measure and view", _sharpness),
    "arms": Caption("Every arm at the noise rate of the contrasts", _arms),
    "flatness": Caption("Flatness against clean test error", _flatness),
    "gap": Caption("Sharpness against generalisation gap", _gap),
    "bound": Caption("Theorem 1, term by term, against the noise rate", _bound),
    "training": Caption("Accuracy and memorisation along training", _training),
    "controls": Caption("Accuracy of the controls along training", _controls),
    "alignment": Caption("Gradients and perturbations along training, with the true labels as oracle", _alignment),
    "density": Caption("Spectral densities of the Hessian", _density),
}
