"""The records of a study file, and of what is computed from one."""

from __future__ import annotations

import numpy as np

from landscape.records import Record, parameter, variable
from landscape.store import declare_layout


class CellTable(Record, kind="cell_table"):
    """One row a run of a study: its settings and every number it is judged by; see :mod:`ncsam.study.table`."""

    names: np.ndarray = variable("cell", long_name="name of the run, that of its file", coordinate=True)
    endpoints: np.ndarray = variable("endpoint", long_name="what was measured", coordinate=True)
    arm: np.ndarray = variable("cell", long_name="name under which the run is compared")
    optimizer: np.ndarray = variable("cell", long_name="optimizer")
    options: np.ndarray = variable("cell", long_name="options of the optimizer, JSON")
    data: np.ndarray = variable("cell", long_name="data set")
    model: np.ndarray = variable("cell", long_name="model")
    noise: np.ndarray = variable("cell", long_name="kind of label noise")
    rate: np.ndarray = variable("cell", long_name="noise rate asked for")
    seed: np.ndarray = variable("cell", long_name="seed, which pairs the runs")
    role: np.ndarray = variable("cell", long_name="reported, or tuning: never judged")
    value: np.ndarray = variable("cell", "endpoint", long_name="number of one run; NaN where not measured")


class Curves(Record, kind="curves"):
    """Every measured quantity against noise rate, for each arm, with every seed's value and an interval."""

    quantities: np.ndarray = variable("quantity", long_name="what was measured", coordinate=True)
    arms: np.ndarray = variable("arm", long_name="optimizer", coordinate=True)
    rates: np.ndarray = variable("rate", long_name="noise rate asked for", coordinate=True)
    seeds: np.ndarray = variable("seed", long_name="seed", coordinate=True)
    value: np.ndarray = variable("quantity", "arm", "rate", "seed", long_name="value of one run; NaN where not run")
    mean: np.ndarray = variable("quantity", "arm", "rate", long_name="mean over seeds")
    low: np.ndarray = variable("quantity", "arm", "rate", long_name="lower end of the t-interval of the mean")
    high: np.ndarray = variable("quantity", "arm", "rate", long_name="upper end of the t-interval of the mean")
    level: float = parameter("confidence level of the interval")

    def of(self, quantity: str, arm: str, rate: float) -> np.ndarray:
        """Values over seeds, (seed,); NaN where a run is missing.

        Raises:
            KeyError: the study does not hold that quantity, arm or rate.
        """
        try:
            return self.value[
                self.quantities.tolist().index(quantity),
                self.arms.tolist().index(arm),
                int(np.flatnonzero(np.isclose(self.rates, rate))[0]),
            ]
        except (ValueError, IndexError):
            raise KeyError(f"the study holds no {quantity!r} of {arm!r} at noise rate {rate:g}") from None


class Verdicts(Record, kind="verdicts"):
    """The verdict on each statement, with the numbers it follows from."""

    statements: np.ndarray = variable("statement", long_name="statement of the theory", coordinate=True)
    text: np.ndarray = variable("statement", long_name="what it says")
    endpoint: np.ndarray = variable("statement", long_name="primary endpoint")
    verdict: np.ndarray = variable("statement", long_name="supported, contradicted or undecided")
    note: np.ndarray = variable("statement", long_name="what limits the verdict")
    estimate: np.ndarray = variable("statement", long_name="mean paired effect")
    low: np.ndarray = variable("statement", long_name="lower end of the t-interval")
    high: np.ndarray = variable("statement", long_name="upper end of the t-interval")
    smallest_effect: np.ndarray = variable("statement", long_name="smallest relevant effect m")
    p_value: np.ndarray = variable("statement", long_name="test of no effect, two-sided")
    p_holm: np.ndarray = variable("statement", long_name="the same, Holm-adjusted over the statements")
    pairs: np.ndarray = variable("statement", long_name="number of seeds")
    preliminary: np.ndarray = variable("statement", long_name="whether there are too few seeds for the test")
    level: float = parameter("confidence level of the interval")
    contrast: np.ndarray | None = variable("statement", long_name="contrast that decided")
    test: np.ndarray | None = variable("statement", long_name="test behind the p-value")
    runs: np.ndarray | None = variable("statement", long_name="number of runs that the estimate uses")
    data: str | None = parameter("data set of the runs", None)
    model: str | None = parameter("model of the runs", None)
    noise: str | None = parameter("kind of label noise of the runs", None)
    family: int | None = parameter("number of endpoints that Holm's adjustment counts", None)
    check: str | None = parameter("manipulation check: whether plain SGD memorised, and what was seen", None)
    joint: str | None = parameter("T3, T4 and T5 read together", None)
    version: int = parameter("version of the statements", 1)


class Secondary(Record, kind="secondary"):
    """Secondary endpoints: descriptive, without test or verdict."""

    statement: np.ndarray = variable("row", long_name="statement of the theory")
    quantity: np.ndarray = variable("row", long_name="what was estimated")
    estimate: np.ndarray = variable("row", long_name="mean over seeds")
    low: np.ndarray = variable("row", long_name="lower end of the t-interval, not adjusted")
    high: np.ndarray = variable("row", long_name="upper end of the t-interval, not adjusted")
    pairs: np.ndarray = variable("row", long_name="number of seeds")
    level: float = parameter("confidence level of the interval")


class ByMeasure(Record, kind="by_measure"):
    """Verdicts on sharpness under every measure and view: descriptive but for the declared one."""

    statement: np.ndarray = variable("row", long_name="statement of the theory")
    text: np.ndarray = variable("row", long_name="what it says")
    measure: np.ndarray = variable("row", long_name="measure of sharpness")
    view: np.ndarray = variable("row", long_name="view of the data")
    estimate: np.ndarray = variable("row", long_name="mean effect")
    low: np.ndarray = variable("row", long_name="lower end of its interval")
    high: np.ndarray = variable("row", long_name="upper end of its interval")
    verdict: np.ndarray = variable("row", long_name="what this measure alone would say")
    pairs: np.ndarray = variable("row", long_name="number of seeds")
    smallest_effect: np.ndarray = variable("row", long_name="smallest relevant effect m")
    primary: np.ndarray = variable("row", long_name="whether it is the measure that was declared")
    level: float = parameter("confidence level of the intervals")
    noise: str = parameter("kind of label noise")


class RadiusControl(Record, kind="radius_control"):
    """Accuracy and memorisation of every arm beside the perturbation that it really took."""

    arms: np.ndarray = variable("arm", long_name="name under which runs are compared", coordinate=True)
    family: np.ndarray = variable("arm", long_name="what the arm is compared as")
    seeds: np.ndarray = variable("arm", long_name="number of seeds")
    radius: np.ndarray = variable("arm", long_name="realised mean norm of the perturbation", units="parameter")
    radius_low: np.ndarray = variable("arm", long_name="lower end of its t-interval", units="parameter")
    radius_high: np.ndarray = variable("arm", long_name="upper end of its t-interval", units="parameter")
    accuracy: np.ndarray = variable("arm", long_name="clean test accuracy, mean of the last five epochs")
    accuracy_low: np.ndarray = variable("arm", long_name="lower end of its t-interval")
    accuracy_high: np.ndarray = variable("arm", long_name="upper end of its t-interval")
    memorisation: np.ndarray = variable("arm", long_name="share of wrong labels that are predicted")
    memorisation_low: np.ndarray = variable("arm", long_name="lower end of its t-interval")
    memorisation_high: np.ndarray = variable("arm", long_name="upper end of its t-interval")
    excess: np.ndarray = variable("arm", long_name="accuracy minus SAM's at the same realised norm, paired by seed")
    excess_low: np.ndarray = variable("arm", long_name="lower end of its t-interval")
    excess_high: np.ndarray = variable("arm", long_name="upper end of its t-interval")
    noise: str = parameter("kind of label noise")
    rate: float = parameter("noise rate")
    level: float = parameter("confidence level of the intervals")


class Barriers(Record, kind="barriers"):
    """Barriers between the minima of every two arms of a study, on several kinds of way, over pairs of seeds.

    Row and column of a matrix are the arms of a way's start and end, the first and second seed of a pair; so the
    diagonal joins two seeds of one arm. No seed is in two pairs.
    """

    ways: np.ndarray = variable("way", long_name="kind of way: straight, aligned or curved", coordinate=True)
    arms: np.ndarray = variable("arm", long_name="name under which runs are compared", coordinate=True)
    first_seed: np.ndarray = variable("pair", long_name="seed of the start")
    second_seed: np.ndarray = variable("pair", long_name="seed of the end")
    height: np.ndarray = variable("way", "pair", "arm", "end", long_name="barrier; NaN where not finite", units="loss")
    length: np.ndarray = variable("way", "pair", "arm", "end", long_name="length of the way", units="parameter")
    mean: np.ndarray = variable(
        "way", "arm", "end", long_name="mean barrier over the pairs; NaN where one is not finite", units="loss"
    )
    low: np.ndarray = variable("way", "arm", "end", long_name="lower end of its t-interval", units="loss")
    high: np.ndarray = variable("way", "arm", "end", long_name="upper end of its t-interval", units="loss")
    level: float = parameter("confidence level of the intervals")
    view: str = parameter("view of the data of the start, whose loss it is")
    buffers: str = parameter("BatchNorm statistics on the way: recalibrated, or none where there are none")
    points: int = parameter("points of each way at which the loss was taken")
    gradients: int = parameter("gradients that each curve was trained with")
    bends: int = parameter("control points of each curve between its ends")
    seed: int = parameter("seed of the curves and of the matching")
    dtype: str = parameter("precision of weights and losses")
    samples: int | None = parameter("samples of each gradient; none for all of the training set", None)
    noise: str = parameter("label noise of the runs", "")


declare_layout(
    "study",
    required={"curves": "curves", "verdicts": "verdicts"},
    allowed={"cells": "cell_table", "secondary": "secondary"},
)
