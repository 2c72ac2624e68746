"""Version 2 of the statements: endpoints that no identity decides, with the clean gradient as the paper defines it.

Everything that could be chosen after looking (endpoint, view, contrast, smallest relevant effect) is a constant here.
The endpoints were written after version 1 had been judged on digits, so digits are not fresh data for them; the data of
a study whose plan (``landscape plan``) names this version are. ``docs/theory.md`` says when what was fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ncsam.statistics import LEVEL, Interval, kendall_interval, mediation, t_interval
from ncsam.statistics.mediation import LEAST_DOSES
from ncsam.study.arms import family_of
from ncsam.study.effects import (
    CONTRAST_RATE,
    Effect,
    at_contrast,
    at_rates,
    clean_and_contrast,
    difference,
    every_rate,
    log,
    log_ratio,
    log_slope,
    mean_over_runs,
    nanmean,
    noisy,
    rank_agreement,
    rank_agreement_over_rates,
    value,
)
from ncsam.study.statements.statement import EVERY_ARM, Check, Secondary, Statement, Version, memorises
from ncsam.study.table import Study

VIEW = "clean_part"
SHARPNESS = f"adaptive_trace/{VIEW}"
UNTUNED = "sgd-untuned"  # plain SGD with the settings that all arms share, where the arm sgd is tuned
MEMORISED_SHARE = 0.5  # untuned SGD must fit this share of the wrong labels …
MEMORISATION_DROP = 0.02  # … and lose this much accuracy from its best five epochs
_NAMED = ("sgd", "sam", "ncsam")


def memorisation(study: Study) -> tuple[bool, str]:
    """Tell whether untuned SGD memorises at the contrast rate, and what was seen."""
    arm = UNTUNED if UNTUNED in study.arms else "sgd"
    if arm in study.tuned:
        return False, f"SGD was tuned, and there is no arm {UNTUNED!r}"
    fitted, drop = (float(nanmean(study.of(name, arm, CONTRAST_RATE))) for name in ("memorisation", "mean_drop"))
    return memorises(study, fitted, drop, (MEMORISED_SHARE, MEMORISATION_DROP))


def _memorises(study: Study) -> str:
    enough, seen = memorisation(study)
    return "" if enough else f"plain SGD did not memorise: {seen}"


def _sam_is_tuned(study: Study) -> str:
    return "" if "sam" in study.tuned else "SAM was not tuned here, and its radius decides what it reaches"


def _measurable(*ceilings: str) -> Callable[[Study], str]:
    """Undecided where the interval of a ceiling reaches zero: then the batches hold too few such samples."""

    def check(study: Study) -> str:
        for name in ceilings:
            found = t_interval(study.of(name, "ncsam", CONTRAST_RATE), LEVEL)
            if found.n > 1 and found.low <= 0:
                return f"{name} is {found.mean:.2g} and its interval reaches 0: too little signal in a batch"
        return ""

    return check


def _rotation(rate: float) -> Effect:
    """1 − cos(g(ỹ), g_clean) / cos(g(y), g_clean) of SAM's runs: the alignment lost to wrong labels alone."""
    return lambda study: 1 - study.of("cos_sam_clean", "sam", rate) / study.of("cos_true_clean", "sam", rate)


def _opposition(phase: str, arm: str = "ncsam") -> Effect:
    """−cos(g_clean, g_noise), disattenuated by the reliabilities of both (Spearman)."""

    def effect(study: Study) -> np.ndarray:
        names = ("cos_clean_noise", "noise_ceiling", "clean_ceiling")
        cosine, noise, clean = (study.of(f"{phase}{name}", arm, CONTRAST_RATE) for name in names)
        return -cosine / np.sqrt(np.where((noise > 0) & (clean > 0), noise * clean, np.nan))

    return effect


def _likeness(study: Study) -> np.ndarray:
    """cos(g*, g_noise) above the null of the highest mean, in units of its ceiling."""
    # The highest null of each seed would be too high on average: a maximum of noisy numbers.
    nulls = [study.of(name, "ncsam", CONTRAST_RATE) for name in ("cos_random_noise", "cos_star_clean")]
    highest = max([np.zeros(len(study.seeds)), *nulls], key=lambda values: float(nanmean(values)))
    ceiling = study.of("noise_ceiling", "ncsam", CONTRAST_RATE)
    above = study.of("cos_star_noise", "ncsam", CONTRAST_RATE) - highest
    return above / np.where(ceiling > 0, ceiling, np.nan)


def _brought_back(which: str = "ncsam", prefix: str = "") -> Effect:
    def effect(study: Study) -> np.ndarray:
        moved, before = (study.of(f"{prefix}cos_{name}_clean", "ncsam", CONTRAST_RATE) for name in (which, "sam"))
        return moved - before

    return effect


def _mean_of(effects: Mapping[str, Effect]) -> Effect:
    return lambda study: np.mean([effect(study) for effect in effects.values()], axis=0)


_FOLLOWS = {arm: rank_agreement_over_rates("bound/error/neighbourhood", "bound/error/risk", arm) for arm in _NAMED}


def _t1(study: Study) -> Mapping[str, Effect]:
    return {
        **{f"τ(max L_M / (1-α), clean risk) over the rates, {arm}": effect for arm, effect in _FOLLOWS.items()},
        "share of runs whose whole bound is vacuous": mean_over_runs("bound/error/total", lambda v: v >= 1.0),
        "bound / 1, mean over runs": mean_over_runs("bound/error/total"),
        "share of runs with L(w) ≤ E L(w+ε) on the test data": mean_over_runs(
            "bound/clipped_ce/smoothing", lambda v: v >= 0
        ),
    }


def _t2(study: Study) -> Mapping[str, Effect]:
    found: dict[str, Effect] = {f"the same at {rate:.0%}": _rotation(rate) for rate in noisy(study)}
    found["cos(g(y), g_clean) of sam: the ceiling"] = value("cos_true_clean", "sam")
    found["cos(g(ỹ), g_clean) of sam"] = value("cos_sam_clean", "sam")
    return found


def _t3(study: Study) -> Mapping[str, Effect]:
    return {
        "-cos(g_clean, g_noise), early, as it is in a batch": value("early/cos_clean_noise", "ncsam", sign=-1),
        "late, disattenuated": _opposition("late/"),
        "full training set, last epoch: near 1 by stationarity": value("full/cos_clean_noise", "ncsam", sign=-1),
        "reliability of g_clean, early": value("early/clean_ceiling", "ncsam"),
        "reliability of g_noise, early": value("early/noise_ceiling", "ncsam"),
    }


def _t4(study: Study) -> Mapping[str, Effect]:
    shown = {
        "cos(g*, g_noise)": "cos_star_noise",
        "ceiling: cos of two g_noise of as many samples": "noise_ceiling",
        "null: cos(g*, g_noise) with random picks": "cos_random_noise",
        "null: cos(g*, g_clean)": "cos_star_clean",
        "precision of the picks / chance": "pick_lift",
        "share of wrong-labelled picks flipped to the true label": "flips_to_true",
    }
    return {name: value(endpoint, "ncsam") for name, endpoint in shown.items()}


def _t5(study: Study) -> Mapping[str, Effect]:
    return {
        "the primary, full training set": _brought_back(prefix="full/"),
        "the other sign": _brought_back("mirrored"),
        "s‖g*‖ / ρ": value("relative_compensation", "ncsam"),
    }


def _t6a(study: Study) -> Mapping[str, Effect]:
    return {f"the same of {arm}, {view}": log_slope(f"adaptive_trace/{view}", arm)
            for arm in _NAMED for view in (VIEW, "mixed") if (arm, view) != ("sgd", VIEW)}  # fmt: skip


def _t6b(arm: str) -> Callable[[Study], Mapping[str, Effect]]:
    return lambda study: {
        f"the same on {view}": log_ratio(f"adaptive_trace/{view}", arm, "sgd") for view in ("mixed", "true_labels")
    }


def _t7(study: Study) -> Mapping[str, Effect]:
    found: dict[str, Effect] = {
        f"NCSAM - {arm}": difference("test_accuracy", "ncsam", arm) for arm in study.arms if arm != "ncsam"
    }
    for endpoint in study.measured("test_accuracy@"):
        at = endpoint.partition("@")[2].replace("_", " ")
        found[f"NCSAM - SAM at {at}"] = difference(endpoint, "ncsam", "sam")
    return found


def _early_stopped(study: Study) -> Mapping[str, Effect]:
    def effect(study: Study) -> np.ndarray:
        stopped = study.of("early_stopped_accuracy", "sgd", CONTRAST_RATE)
        return study.of("test_accuracy", "ncsam", CONTRAST_RATE) - stopped

    return {"NCSAM - SGD stopped early on validation labels as noisy as the others": effect}


def _nothing(study: Study) -> Mapping[str, Effect]:
    return {}


def _t8(study: Study) -> Mapping[str, Effect]:
    found: dict[str, Effect] = {}
    for arm in _NAMED:
        found[f"drop from the best five epochs, {arm}"] = value("mean_drop", arm)
        found[f"wrong labels fitted, {arm}"] = value("memorisation", arm)
    return found


def grows(sharpness: str = SHARPNESS, arm: str = "sgd") -> Statement:
    """T6a with a measure of sharpness on a view, by the name of its endpoint."""
    return Statement(
        "T6a",
        "sharpness grows with the noise rate",
        f"slope over the rates of log {sharpness} of SGD, per unit of rate",
        {"SGD": log_slope(sharpness, arm)},
        0.1,
        (((sharpness,), (arm,), every_rate),),
        unit=(1, "in log sharpness per unit of noise rate"),
        question="Does label noise sharpen the loss landscape?",
        trend=at_rates(sharpness, arm, every_rate),
        secondary=_t6a,
        claim="Label noise leads training to sharper minima (introduction; the motivation of Theorem 1).",
        why="tr(D H D), D = |w|, is the average adaptive sharpness without a gradient term and does not change when a "
        "layer's scale moves into the next; the clean part, because a mixed loss holds the wrong labels themselves.",
        control="The mixed view, every other measure (`--by-measure`), and arms that do not memorise.",
    )


def flatter(arm: str, printed: str, sharpness: str = SHARPNESS) -> Statement:
    """T6b for one arm with a measure of sharpness on a view, by the name of its endpoint."""
    return Statement(
        f"T6b-{printed}",
        f"{printed} is flatter than SGD",
        f"log ratio of SGD's {sharpness} to that of {printed}, at 40 %",
        {printed: log_ratio(sharpness, arm, "sgd")},
        0.1,
        (((sharpness,), ("sgd", arm), at_contrast),),
        unit=(1, "in log sharpness"),
        question=f"Is {printed} flatter than SGD?",
        secondary=_t6b(arm),
        claim="SAM, and more so NCSAM, reach flatter minima of the clean loss (Theorem 1 and its discussion).",
        why="The paper speaks of flat minima of the clean landscape; one verdict an arm, because they may differ.",
        control="Every other measure and view (`--by-measure`); equal memorisation.",
    )


def _agreement(sharpness: str, given: str | None = None) -> Callable[[Study], Interval]:
    """Interval of τ(sharpness, clean test error), families of arms and seeds at random; of the partial τ if ``given``.

    Arms that differ in ρ, κ and the like are variants of one method, not methods of their own.
    """

    def interval(study: Study) -> Interval:
        x, y = (study.over_arms(name, CONTRAST_RATE) for name in (sharpness, "test_error"))
        third = None if given is None else study.over_arms(given, CONTRAST_RATE)
        families = [family_of(*study.optimizers[arm]) for arm in study.arms]
        return kendall_interval(x, y, third, families=families)

    return interval


def _mediated(study: Study, sharpness: str) -> Mapping[str, Interval]:
    """Effect of log ρ on test accuracy over SAM's arms, whose ρ was set: total, and what passes through sharpness."""
    doses = {
        arm: float(options["rho"])
        for arm, (optimizer, options) in study.optimizers.items()
        if family_of(optimizer, options) == "SAM" and float(options.get("rho", 0)) > 0
    }
    if len(doses) < LEAST_DOSES:
        return {}
    columns = [
        np.stack([study.of(name, arm, CONTRAST_RATE) for arm in doses], axis=1) for name in (sharpness, "test_accuracy")
    ]
    found = mediation(np.log(list(doses.values())), log(columns[0]), columns[1])
    return {
        "test accuracy per unit of log ρ, over SAM's arms": found.total,
        f"of this through log {sharpness} (assumes no common cause)": found.indirect,
        "of this otherwise": found.direct,
    }


def generalises(sharpness: str = SHARPNESS) -> Statement:
    """T9 with a measure of sharpness on a view, by the name of its endpoint."""
    return Statement(
        "T9",
        "flatter solutions generalise better under noise",
        f"Kendall's τ over the arms at 40 % between {sharpness} and clean test error, arms at random",
        {"sharpness, test error": rank_agreement(sharpness, "test_error", at_contrast)},
        0.2,
        (((sharpness, "test_error"), (EVERY_ARM,), at_contrast),),
        unit=(1, "in Kendall’s τ"),
        question="Do flatter solutions generalise better under noise?",
        interval=_agreement(sharpness),
        described=lambda study: {
            "partial τ, given the share of wrong labels fitted": _agreement(sharpness, "memorisation")(study),
            **_mediated(study, sharpness),
        },
        claim="Flatness of the minimum is what generalisation under label noise depends on (Theorem 1).",
        why="Within one noise rate, since the rate moves both; arms are a sample of methods, so that their number "
        "limits what is known, however many seeds there are.",
        control="τ given memorisation; early stopping, which generalises without being flat.",
    )


_T1 = Statement(
    "T1",
    "the data-dependent part of the bound follows clean risk across noise rates",
    "Kendall's τ over the rates between max L_M/(1-α) (0-1 error) and clean test error, one arm at a time; mean of "
    "SGD, SAM and NCSAM",
    {"SGD, SAM, NCSAM": _mean_of(_FOLLOWS)},
    0.2,
    ((("bound/error/neighbourhood", "bound/error/risk"), _NAMED, every_rate),),
    unit=(1, "in Kendall’s τ"),
    secondary=_t1,
    claim="Label noise loosens the guarantee of Theorem 1: 1/(1-α) grows and n_S falls.",
    why="That 1/(1-α) and 1/n_S grow is algebra and is shown, not judged; what data can refute is that the rest "
    "follows the clean risk.",
    control="The share of runs with a vacuous bound, and whether L(w) ≤ E L(w+ε) held, which the theorem assumes.",
)
_T2 = Statement(
    "T2",
    "wrong labels rotate SAM's perturbation away from the clean direction",
    "1 - cos(g(ỹ), g_clean) / cos(g(y), g_clean) along SAM's training (batches, after the warm-up) at 40 %",
    {"SAM": _rotation(CONTRAST_RATE)},
    0.1,
    ((("cos_sam_clean", "cos_true_clean"), ("sam",), at_contrast),),
    unit=(100, "% of the ceiling"),
    trend=lambda study: np.stack([_rotation(rate)(study) for rate in noisy(study)], axis=1),
    secondary=_t2,
    claim="Under label noise the batch gradient, and with it SAM's perturbation, deviates from the clean one (eq. 9).",
    why="g_clean is the gradient of the rightly labelled samples, as in eq. 9; with true labels the same batch gives "
    "the most that can be reached, so that only the labels differ.",
    control="The ceiling itself; the trend over noisy rates alone (without noise the cosine is 1 by definition).",
)
_T3 = Statement(
    "T3",
    "the clean and the noise gradient oppose each other, before the wrong labels are fitted",
    "-cos(g_clean, g_noise), disattenuated by split halves, in the epochs before a tenth of the wrong labels is "
    "fitted, NCSAM's runs at 40 %",
    {"NCSAM": _opposition("early/")},
    0.1,
    ((("early/cos_clean_noise", "early/noise_ceiling", "early/clean_ceiling"), ("ncsam",), at_contrast),),
    unit=(1, "in cosine"),
    checks=(_measurable("early/noise_ceiling", "early/clean_ceiling"),),
    secondary=_t3,
    claim="Clean and noise gradients have opposite directions on average (discussion of eq. 9).",
    why="Near a minimum of the mixed loss (1-α) g_clean = -α g_noise whatever the data: the cosine is then -1 by "
    "stationarity. Early in training it is free.",
    control="The reliabilities of both gradients; late and full-set values, beside that identity.",
)
_T4 = Statement(
    "T4",
    "the simulated g* stands for the true noise gradient",
    "(cos(g*, g_noise) - the highest of its nulls) / its ceiling, NCSAM at 40 %",
    {"NCSAM": _likeness},
    0.25,
    ((("cos_star_noise", "cos_random_noise", "cos_star_clean", "noise_ceiling"), ("ncsam",), at_contrast),),
    unit=(100, "% of the ceiling"),
    checks=(_measurable("noise_ceiling"),),
    secondary=_t4,
    claim="The gradient of uncertain samples with flipped labels simulates the noise gradient (eq. 16-18).",
    why="In units of what another g_noise of as many samples would reach: an absolute cosine could ask for more than "
    "sampling allows.",
    control="Random picks in its place, and cos(g*, g_clean): a gradient is like any other gradient.",
)
_T5 = Statement(
    "T5",
    "compensation brings the perturbation back to the clean direction",
    "cos(ε_NCSAM, g_clean) - cos(ε_SAM, g_clean) along NCSAM's training (batches, after the warm-up) at 40 %",
    {"NCSAM": _brought_back()},
    0.05,
    ((("cos_ncsam_clean", "cos_sam_clean"), ("ncsam",), at_contrast),),
    unit=(1, "in cosine"),
    secondary=_t5,
    claim="Compensation removes the deviation, so that the perturbation follows the clean gradient (eq. 10-13).",
    why="g_clean as in eq. 9, at the same weights, so that only the compensation differs.",
    control="The other sign; T3 and T4, without which it could not be for the stated reason.",
)
_T8 = Statement(
    "T8",
    "NCSAM stays as stable as on clean labels",
    "NCSAM's drop from its best five-epoch mean to the last five at 0 % minus that at 40 %; m is minus the equivalence "
    "margin",
    {"0 % - 40 %": lambda s: s.of("mean_drop", "ncsam", 0.0) - s.of("mean_drop", "ncsam", CONTRAST_RATE)},
    -0.02,
    ((("mean_drop",), ("ncsam",), clean_and_contrast),),
    unit=(100, "points of accuracy"),
    question="Does it stay as stable as on clean labels?",
    null=-0.02,
    checks=(_memorises,),
    secondary=_t8,
    claim="NCSAM's accuracy stays stable late in training, where SGD and SAM memorise (figure 1 of the paper).",
    why="A mean of five epochs is not the luckiest of all epochs.",
    control="Untuned SGD must memorise and drop; otherwise there is nothing to be stable against.",
)


def _better_than(
    printed: str, than: str, arm: str, checks: tuple[Check, ...], secondary: Secondary, why: str, control: str
) -> Statement:
    """T7 against one arm."""
    return Statement(
        f"T7-{printed}",
        f"NCSAM generalises better than {than}",
        f"difference in clean test accuracy (mean of the last five epochs) at 40 %, NCSAM - {printed}",
        {f"NCSAM - {printed}": difference("test_accuracy", "ncsam", arm)},
        0.01,
        ((("test_accuracy",), ("ncsam", arm), at_contrast),),
        unit=(100, "points of accuracy"),
        question=f"Does NCSAM generalise better than {than} under noise?",
        checks=checks,
        secondary=secondary,
        claim="NCSAM has the higher clean test accuracy (tables of the paper).",
        why=why,
        control=control,
    )


_T7 = (
    _better_than(
        "SAM",
        "tuned SAM",
        "sam",
        (_memorises, _sam_is_tuned),
        _t7,
        "SAM's radius is tuned with as many candidates as NCSAM's settings.",
        "Tuning seeds apart from the reported ones; the optimum inside the grid.",
    ),
    _better_than(
        "SGD",
        "SGD",
        "sgd",
        (_memorises,),
        _early_stopped,
        "The base optimizer with the same schedule.",
        "Early stopping, label smoothing and GCE, which are cheaper.",
    ),
    _better_than(
        "replay",
        "SAM with NCSAM's own ‖ε‖ at every step",
        "replay",
        (_memorises,),
        _nothing,
        "NCSAM's perturbation may only be longer: SAM's direction with the recorded norms tells.",
        "A random direction in g*'s place, the other sign, and a clean direction.",
    ),
)
VERSION = Version(
    2,
    (_T1, _T2, _T3, _T4, _T5, grows(), flatter("ncsam", "NCSAM"), flatter("sam", "SAM"), *_T7, _T8, generalises()),
    memorisation,
)
