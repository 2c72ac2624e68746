"""Inference over seeds and arms: intervals, exact tests, rank agreement, comparisons at equal fit, mediation."""

from ncsam.statistics.at_equal_fit import difference_at_equal, drop_from_best_mean, mean_difference_at_equal, value_at
from ncsam.statistics.auc import auc, precision_at
from ncsam.statistics.inference import (
    LEVEL,
    Interval,
    detectable_effect,
    holm,
    kendall_tau,
    page_p,
    sign_flip_p,
    smallest_sign_flip_p,
    t_interval,
    t_intervals,
    verdict,
)
from ncsam.statistics.mediation import Mediation, mediation
from ncsam.statistics.rank_agreement import kendall_interval

__all__ = [
    "LEVEL",
    "Interval",
    "Mediation",
    "auc",
    "detectable_effect",
    "difference_at_equal",
    "drop_from_best_mean",
    "holm",
    "kendall_interval",
    "kendall_tau",
    "mean_difference_at_equal",
    "mediation",
    "page_p",
    "precision_at",
    "sign_flip_p",
    "smallest_sign_flip_p",
    "t_interval",
    "t_intervals",
    "value_at",
    "verdict",
]
