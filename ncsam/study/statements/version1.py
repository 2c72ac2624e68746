"""Version 1 of the statements, superseded: see :data:`VERSION` for what was wrong with its endpoints."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ncsam.study.effects import (
    CONTRAST_RATE,
    Effect,
    at_contrast,
    at_rates,
    clean_and_contrast,
    difference,
    every_rate,
    mean_over_runs,
    nanmean,
    noisy,
    rank_agreement,
    rank_agreement_over_all,
    relative_fall,
    slope,
    value,
)
from ncsam.study.statements.statement import EVERY_ARM, Statement, Version, memorises
from ncsam.study.table import Study, spell

PRIMARY_VIEW = "mixed"
SHARPNESS = f"adaptive/{PRIMARY_VIEW}"
MEMORISED_SHARE = 0.5  # plain SGD must fit this share of the wrong labels …
MEMORISATION_DROP = 0.02  # … and lose this much accuracy from its best epoch, or T7 and T8 cannot be told


def memorisation(study: Study) -> tuple[bool, str]:
    """Tell whether plain SGD memorises at the contrast rate, and what was seen."""
    fitted, drop = (float(nanmean(study.of(name, "sgd", CONTRAST_RATE))) for name in ("memorisation", "drop"))
    return memorises(study, fitted, drop, (MEMORISED_SHARE, MEMORISATION_DROP))


def _memorises(study: Study) -> str:
    enough, seen = memorisation(study)
    return "" if enough else f"plain SGD did not memorise: {seen}"


def _above_nulls(study: Study) -> np.ndarray:
    """cos(g*, g_noise) over the highest of its nulls: 0, random picks in g*'s place, and cos(g*, g_clean)."""
    nulls = [study.of(name, "ncsam", CONTRAST_RATE) for name in ("cos_random_noise", "cos_star_clean")]
    return study.of("cos_star_noise", "ncsam", CONTRAST_RATE) - np.maximum(0.0, np.maximum(*nulls))


def _brought_back(prefix: str = "", arm: str = "ncsam") -> Effect:
    def effect(study: Study) -> np.ndarray:
        ncsam, sam = (study.of(f"{prefix}cos_{which}_true", arm, CONTRAST_RATE) for which in ("ncsam", "sam"))
        return ncsam - sam

    return effect


def _t1(study: Study) -> Mapping[str, Effect]:
    return {
        "τ(bound, clean risk) over all noise rates (algebra helps it)": rank_agreement_over_all(
            "bound/error/total", "bound/error/risk"
        ),
        "the primary with cross-entropy clipped": rank_agreement(
            "bound/clipped_ce/total", "bound/clipped_ce/risk", noisy
        ),
        "share of runs whose bound is vacuous": mean_over_runs("bound/error/total", lambda v: v >= 1.0),
        "bound / 1, mean over runs": mean_over_runs("bound/error/total"),
        "share of runs with L(w) ≤ E L(w+ε) on the test data": mean_over_runs(
            "bound/clipped_ce/smoothing", lambda v: v >= 0
        ),
    }


def _t2(study: Study) -> Mapping[str, Effect]:
    found: dict[str, Effect] = {
        f"cos(ε_SAM(ỹ), ε_SAM(y)) of {arm} at 40 %": value("cos_sam_true", arm) for arm in study.arms
    }
    found["the same of sam, full training set"] = value("full/cos_sam_true", "sam")
    for rate in noisy(study):
        name = f"relabelled/{spell(study.noise, rate)}/cos_sam_true"
        found[f"the same on clean sam runs, labels of {rate:.0%} noise"] = value(name, "sam", 0.0)
    return found


def _t3(study: Study) -> Mapping[str, Effect]:
    others = {f"-cos(g_clean, g_noise) of {arm}": value("cos_clean_noise", arm, sign=-1) for arm in study.arms}
    return others | {"the primary, full training set": value("full/cos_clean_noise", "ncsam", sign=-1)}


def _t4(study: Study) -> Mapping[str, Effect]:
    shown = {
        "cos(g*, g_noise)": "cos_star_noise",
        "null: cos(g*, g_noise) with random picks": "cos_random_noise",
        "null: cos(g*, g_clean)": "cos_star_clean",
        "ceiling: cos of two g_noise of as many samples": "noise_ceiling",
        "precision of the picks / chance": "pick_lift",
        "share of wrong-labelled picks flipped to the true label": "flips_to_true",
        "cos(g*, g_noise), full training set": "full/cos_star_noise",
    }
    return {name: value(endpoint, "ncsam") for name, endpoint in shown.items()}


def _t5(study: Study) -> Mapping[str, Effect]:
    return {
        "the primary, full training set": _brought_back("full/"),
        "the other sign: cos(ε(−), ε_SAM(y)) - cos(ε_SAM(ỹ), ε_SAM(y))": lambda s: (
            s.of("cos_mirrored_true", "ncsam", CONTRAST_RATE) - s.of("cos_sam_true", "ncsam", CONTRAST_RATE)
        ),
        "s‖g*‖ / ρ": value("relative_compensation", "ncsam"),
    }


def _t6a(study: Study) -> Mapping[str, Effect]:
    radii = [name for name in study.measured("adaptive@") if name.endswith(f"/{PRIMARY_VIEW}")]
    others = [*radii, f"sam/{PRIMARY_VIEW}", f"top_eigenvalue/{PRIMARY_VIEW}", f"trace/{PRIMARY_VIEW}"]
    found: dict[str, Effect] = {
        f"relative slope of {SHARPNESS}, {arm}": slope(SHARPNESS, arm, relative=True) for arm in ("sam", "ncsam")
    }
    return found | {f"relative slope of {name}, sgd": slope(name, "sgd", relative=True) for name in others}


def _t6b(study: Study) -> Mapping[str, Effect]:
    names = (f"sam/{PRIMARY_VIEW}", f"top_eigenvalue/{PRIMARY_VIEW}", f"trace/{PRIMARY_VIEW}", "adaptive/test")
    found: dict[str, Effect] = {f"NCSAM against SAM, {SHARPNESS}": relative_fall(SHARPNESS, "ncsam", "sam")}
    return found | {f"NCSAM against SGD, {name}": relative_fall(name, "ncsam", "sgd") for name in names}


def _t7(study: Study) -> Mapping[str, Effect]:
    found: dict[str, Effect] = {
        f"NCSAM - {arm}": difference("test_accuracy", "ncsam", arm)
        for arm in study.arms
        if arm not in ("ncsam", "sam", "sgd")
    }
    return found | {"NCSAM - SAM, best epochs": difference("best_accuracy", "ncsam", "sam")}


def _t8(study: Study) -> Mapping[str, Effect]:
    found: dict[str, Effect] = {}
    for arm in ("sgd", "sam", "ncsam"):
        found[f"drop from the best epoch, {arm}"] = value("drop", arm)
        found[f"wrong labels fitted, {arm}"] = value("memorisation", arm)
    return found


def _t9(study: Study) -> Mapping[str, Effect]:
    measures = (f"sam/{PRIMARY_VIEW}", f"top_eigenvalue/{PRIMARY_VIEW}", f"trace/{PRIMARY_VIEW}", "adaptive/clean_part")
    return {f"τ({name}, gap)": rank_agreement(name, "gap", at_contrast) for name in measures}


_STATEMENTS = (
    Statement(
        "T1",
        "the bound ranks runs of equal noise as their clean risk does (that it loosens with α is algebra)",
        "Kendall's τ over arms between Theorem 1's total (0-1 error) and clean test error, mean over noisy rates",
        {"bound, clean risk": rank_agreement("bound/error/total", "bound/error/risk", noisy)},
        0.2,
        ((("bound/error/total", "bound/error/risk"), (EVERY_ARM,), noisy),),
        unit=(1, "in Kendall’s τ"),
        secondary=_t1,
    ),
    Statement(
        "T2",
        "wrong labels rotate SAM's perturbation away from the clean one",
        "minus the slope over the rates of cos(ε_SAM(ỹ), ε_SAM(y)) along SAM's training (batches, after the warm-up)",
        {"SAM": slope("cos_sam_true", "sam", sign=-1)},
        0.25,
        ((("cos_sam_true",), ("sam",), every_rate),),
        trend=at_rates("cos_sam_true", "sam", every_rate),
        unit=(1, "in cosine per unit of noise rate"),
        secondary=_t2,
    ),
    Statement(
        "T3",
        "the clean and the noise gradient oppose each other on average",
        "minus the mean of cos(g_clean, g_noise) along NCSAM's training (batches, after the warm-up) at 40 %",
        {"NCSAM": value("cos_clean_noise", "ncsam", sign=-1)},
        0.05,
        ((("cos_clean_noise",), ("ncsam",), at_contrast),),
        unit=(1, "in cosine"),
        secondary=_t3,
    ),
    Statement(
        "T4",
        "the simulated g* stands for the true noise gradient",
        "cos(g*, g_noise) minus the highest of its nulls (0; random picks; cos(g*, g_clean)), NCSAM at 40 %",
        {"NCSAM": _above_nulls},
        0.1,
        ((("cos_star_noise", "cos_random_noise", "cos_star_clean"), ("ncsam",), at_contrast),),
        unit=(1, "in cosine"),
        secondary=_t4,
    ),
    Statement(
        "T5",
        "compensation brings the perturbation back to the clean one",
        "cos(ε_NCSAM, ε_SAM(y)) - cos(ε_SAM(ỹ), ε_SAM(y)) along NCSAM's training (batches, after the warm-up) at 40 %",
        {"NCSAM": _brought_back()},
        0.05,
        ((("cos_ncsam_true", "cos_sam_true"), ("ncsam",), at_contrast),),
        unit=(1, "in cosine"),
        secondary=_t5,
    ),
    Statement(
        "T6a",
        "sharpness grows with the noise rate",
        "slope of SGD's adaptive sharpness (mixed) over the rates, relative to its mean",
        {"SGD": slope(SHARPNESS, "sgd", relative=True)},
        0.1,
        (((SHARPNESS,), ("sgd",), every_rate),),
        trend=at_rates(SHARPNESS, "sgd", every_rate),
        unit=(1, "times its mean per unit of noise rate"),
        question="Does label noise sharpen the loss landscape?",
        secondary=_t6a,
    ),
    Statement(
        "T6b",
        "NCSAM and SAM are flatter than SGD",
        "relative difference to SGD in adaptive sharpness (mixed) at 40 %, for NCSAM and for SAM",
        {"NCSAM": relative_fall(SHARPNESS, "ncsam", "sgd"), "SAM": relative_fall(SHARPNESS, "sam", "sgd")},
        0.1,
        (((SHARPNESS,), ("sgd", "sam", "ncsam"), at_contrast),),
        unit=(100, "% of SGD’s"),
        question="Are NCSAM and SAM flatter than SGD?",
        secondary=_t6b,
    ),
    Statement(
        "T7",
        "NCSAM generalises better than SAM and SGD",
        "difference in test accuracy (mean of the last five epochs) at 40 %, to SAM and to SGD",
        {
            "NCSAM - SAM": difference("test_accuracy", "ncsam", "sam"),
            "NCSAM - SGD": difference("test_accuracy", "ncsam", "sgd"),
        },
        0.01,
        ((("test_accuracy",), ("sgd", "sam", "ncsam"), at_contrast),),
        checks=(_memorises,),
        unit=(100, "points of accuracy"),
        question="Does NCSAM generalise better than SAM and SGD under noise?",
        secondary=_t7,
    ),
    Statement(
        "T8",
        "NCSAM stays as stable as on clean labels",
        "NCSAM's drop from best to last epochs at 0 % minus that at 40 %; m is minus the equivalence margin",
        {"0 % - 40 %": lambda study: study.of("drop", "ncsam", 0.0) - study.of("drop", "ncsam", CONTRAST_RATE)},
        -0.02,
        ((("drop",), ("ncsam",), clean_and_contrast),),
        null=-0.02,
        checks=(_memorises,),
        unit=(100, "points of accuracy"),
        question="Does it stay as stable as on clean labels?",
        secondary=_t8,
    ),
    Statement(
        "T9",
        "flatter solutions generalise better under noise",
        "Kendall's τ over arms at 40 % between adaptive sharpness (mixed) and L_test - L_S, last epoch",
        {"sharpness, gap": rank_agreement(SHARPNESS, "gap", at_contrast)},
        0.2,
        (((SHARPNESS, "gap"), (EVERY_ARM,), at_contrast),),
        unit=(1, "in Kendall’s τ"),
        question="Do flatter solutions generalise better under noise?",
        secondary=_t9,
    ),
)

VERSION = Version(
    1,
    _STATEMENTS,
    memorisation,
    "T2's trend hung on its anchor (a cosine of 1 without noise, by definition); T2 and T5 took the gradient of all "
    "true labels for the clean one, where the paper's eq. 9 has that of the rightly labelled samples; T3 and T4 were "
    "attenuated by the sampling noise of a batch; T1 ranked arms, which the paper does not claim; T6b and T9 looked at "
    "the mixed landscape, where the paper speaks of flat minima of the clean one; T7 had no SAM with NCSAM's own "
    "perturbation norms; T8's drop began at the luckiest epoch; T9's interval treated the arms as fixed.",
)
