"""Per-seed effects of a study, (seeds,) each: positive where they speak for a statement, NaN where not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ncsam.statistics import kendall_tau, t_intervals
from ncsam.study.table import Study

CONTRAST_RATE = 0.4  # the noise rate at which arms are compared
Effect = Callable[[Study], np.ndarray]


def defined(effect: Effect, study: Study) -> np.ndarray:
    """The effects of a study, (seeds,) or (seeds, rates); NaN where one is no finite number."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = np.asarray(effect(study), float)
    return np.where(np.isfinite(found), found, np.nan)


def value(endpoint: str, arm: str, rate: float = CONTRAST_RATE, sign: int = 1) -> Effect:
    """The endpoint itself."""
    return lambda study: sign * study.of(endpoint, arm, rate)


def difference(endpoint: str, arm: str, other: str, rate: float = CONTRAST_RATE) -> Effect:
    """``arm`` − ``other``."""
    return lambda study: study.of(endpoint, arm, rate) - study.of(endpoint, other, rate)


def relative_fall(endpoint: str, arm: str, other: str, rate: float = CONTRAST_RATE) -> Effect:
    """(``other`` − ``arm``) / |``other``|: how much lower ``arm`` is."""
    return lambda study: -difference(endpoint, arm, other, rate)(study) / np.abs(study.of(endpoint, other, rate))


def log_ratio(endpoint: str, arm: str, other: str, rate: float = CONTRAST_RATE) -> Effect:
    """log(``other`` / ``arm``): how much lower ``arm`` is, whatever the unit; NaN where one of them is not positive."""
    return lambda study: log(study.of(endpoint, other, rate)) - log(study.of(endpoint, arm, rate))


def log_slope(endpoint: str, arm: str) -> Effect:
    """Least-squares slope of the endpoint's logarithm over the noise rates; NaN where it is not positive at one."""
    return lambda study: _slopes(log(study.over_rates(endpoint, arm)), study.rates)


def log(values: np.ndarray) -> np.ndarray:
    """The natural logarithm; NaN, without a warning, of what is not positive."""
    return np.log(np.where(values > 0, values, np.nan))


def slope(endpoint: str, arm: str, *, relative: bool = False, sign: int = 1) -> Effect:
    """Least-squares slope of the endpoint over the noise rates, per unit of rate; over its mean where ``relative``."""

    def effect(study: Study) -> np.ndarray:
        table = study.over_rates(endpoint, arm)
        slopes = _slopes(table, study.rates)
        return sign * (slopes / np.abs(table.mean(axis=1)) if relative else slopes)

    return effect


def _slopes(table: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    """Slopes over the rates of the rows of (seeds, rates), (seeds,); NaN where there is one rate."""
    if len(rates) < 2:
        return np.full(len(table), np.nan)
    centred = np.array(rates) - np.mean(rates)
    return table @ centred / (centred @ centred)


def rank_agreement(x: str, y: str, rates: Callable[[Study], Sequence[float]]) -> Effect:
    """Kendall's τ over the arms of a seed at one noise rate, averaged over ``rates``; four arms at least."""

    def effect(study: Study) -> np.ndarray:
        taus = np.full((len(study.seeds), 1), np.nan)
        for rate in rates(study):
            a, b = study.over_arms(x, rate), study.over_arms(y, rate)
            taus = np.column_stack([taus, [kendall_tau(one, other) for one, other in zip(a, b, strict=True)]])
        return nanmean(taus)

    return effect


def rank_agreement_over_rates(x: str, y: str, arm: str) -> Effect:
    """Kendall's τ over the noise rates for one and the same arm; four rates at least."""

    def effect(study: Study) -> np.ndarray:
        pairs = zip(study.over_rates(x, arm), study.over_rates(y, arm), strict=True)
        return np.array([kendall_tau(one, other) for one, other in pairs])

    return effect


def rank_agreement_over_all(x: str, y: str) -> Effect:
    """Kendall's τ over all runs of a seed, whatever their noise rate."""

    def effect(study: Study) -> np.ndarray:
        a, b = (np.column_stack([study.over_arms(e, rate) for rate in study.rates]) for e in (x, y))
        return np.array([kendall_tau(one, other) for one, other in zip(a, b, strict=True)])

    return effect


def mean_over_runs(endpoint: str, of: Callable[[np.ndarray], np.ndarray] = lambda v: v) -> Effect:
    """Mean over all runs of a seed of a function of the endpoint."""

    def effect(study: Study) -> np.ndarray:
        table = np.column_stack([study.over_arms(endpoint, rate) for rate in study.rates])
        return nanmean(np.where(np.isnan(table), np.nan, of(table)))

    return effect


def at_contrast(study: Study) -> tuple[float, ...]:
    """The noise rate of the contrasts alone."""
    return (CONTRAST_RATE,)


def noisy(study: Study) -> tuple[float, ...]:
    """All noise rates but zero."""
    return tuple(rate for rate in study.rates if rate > 0)


def at_rates(endpoint: str, arm: str, rates: Callable[[Study], Sequence[float]]) -> Effect:
    """The endpoint at several rates, (seeds, rates), for a test of trend."""
    return lambda study: np.stack([study.of(endpoint, arm, rate) for rate in rates(study)], axis=1)


def every_rate(study: Study) -> tuple[float, ...]:
    """All noise rates."""
    return study.rates


def clean_and_contrast(study: Study) -> tuple[float, ...]:
    """No noise, and the noise rate of the contrasts."""
    return (0.0, CONTRAST_RATE)


def nanmean(table: np.ndarray) -> np.ndarray:
    """Mean along the last axis of what is not NaN; NaN, without a warning, where nothing is left."""
    return t_intervals(table)[0]
