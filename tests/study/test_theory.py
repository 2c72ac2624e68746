"""Each verdict can come out all three ways, and follows from the numbers in the curves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ncsam import theory
from ncsam.schema import Curves, Verdicts
from ncsam.statistics import t_interval

RATES = (0.0, 0.2, 0.4, 0.6)
ARMS = ("sgd", "sam", "ncsam")
QUANTITIES = ("adaptive/mixed", "test_accuracy", "drop", "memorisation")


def curves(seeds: int = 10, spread: float = 1e-3, **effects: float) -> Curves:
    """A study in which each effect has the stated size: slope, flatter, gain, extra_drop; SGD memorises by default."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, spread, (len(QUANTITIES), len(ARMS), len(RATES), seeds))
    value = np.zeros_like(noise)
    for r, rate in enumerate(RATES):
        sharpness = 1.0 + effects.get("slope", 0.0) * (rate - 0.3)
        value[0, :, r] = sharpness
        value[0, 2, r] = sharpness * (1 - effects.get("flatter", 0.0))
        value[1, :, r] = 0.8
        value[1, 2, r] = 0.8 + effects.get("gain", 0.0)
        value[2, 0, r] = effects.get("sgd_drop", 0.2)
        value[2, 2, r] = 0.05 + (effects.get("extra_drop", 0.0) if rate == 0.4 else 0.0)
        value[3, :, r] = effects.get("memorised", 0.9)
    value += noise
    intervals = [t_interval(v) for v in value.reshape(-1, seeds)]
    mean, low, high = (
        np.array([getattr(i, e) for i in intervals]).reshape(value.shape[:3]) for e in ("mean", "low", "high")
    )
    return Curves(
        quantities=np.array(QUANTITIES), arms=np.array(ARMS), rates=np.array(RATES), seeds=np.arange(seeds),
        value=value, mean=mean, low=low, high=high, level=0.95,
    )  # fmt: skip


def of(verdicts: Verdicts, statement: str) -> str:
    return str(verdicts.verdict[verdicts.statements.tolist().index(statement)])


@pytest.mark.parametrize(
    ("statement", "effects", "expected"),
    [
        ("T6a", {"slope": 0.5}, "supported"),
        ("T6a", {"slope": 0.0}, "contradicted (equivalent)"),
        ("T6a", {"slope": -0.5}, "contradicted (opposite)"),
        ("T6b", {"flatter": 0.4}, "supported"),
        ("T6b", {"flatter": 0.0}, "contradicted (equivalent)"),
        ("T6b", {"flatter": -0.5}, "contradicted (opposite)"),
        ("T7", {"gain": 0.05}, "supported"),
        ("T7", {"gain": 0.0}, "contradicted (equivalent)"),
        ("T7", {"gain": -0.05}, "contradicted (opposite)"),
        ("T8", {"extra_drop": 0.0}, "supported"),
        ("T8", {"extra_drop": 0.1}, "contradicted (opposite)"),
    ],
)
def test_a_clear_effect_decides(statement: str, effects: dict[str, float], expected: str) -> None:
    assert of(theory.judge(curves(**effects)), statement) == expected


@pytest.mark.parametrize("statement", ["T6a", "T6b", "T7", "T8"])
def test_an_effect_drowned_in_noise_is_undecided(statement: str) -> None:
    at_m = {"slope": 0.1, "flatter": 0.1, "gain": 0.01, "extra_drop": 0.02}
    assert of(theory.judge(curves(seeds=5, spread=0.05, **at_m)), statement) == "undecided"


@pytest.mark.parametrize("weak", [{"memorised": 0.3}, {"sgd_drop": 0.01}])
def test_where_sgd_does_not_memorise_t7_and_t8_cannot_be_told(weak: dict[str, float]) -> None:
    found = theory.judge(curves(gain=0.05, slope=0.5, **weak))
    assert of(found, "T7") == of(found, "T8") == "undecided"
    assert of(found, "T6a") == "supported"
    assert "did not memorise" in str(found.note[found.statements.tolist().index("T7")])


def test_too_few_seeds_are_called_preliminary() -> None:
    assert theory.judge(curves(seeds=5)).preliminary.all()
    assert not theory.judge(curves(seeds=10)).preliminary.any()
    assert not theory.judge(curves(seeds=theory.seeds_needed())).preliminary.any()


def test_the_numbers_behind_a_verdict_are_the_paired_differences() -> None:
    study = curves(gain=0.03, spread=0.01)
    found = theory.judge(study)
    i = found.statements.tolist().index("T7")
    differences = study.of("test_accuracy", "ncsam", 0.4) - study.of("test_accuracy", "sam", 0.4)
    assert found.estimate[i] == pytest.approx(differences.mean())
    assert (found.low[i], found.high[i]) == pytest.approx((t_interval(differences).low, t_interval(differences).high))
    assert found.pairs[i] == 10
    assert (found.p_holm >= found.p_value).all()


def test_a_missing_run_is_named() -> None:
    study = curves()
    with pytest.raises(KeyError, match="holds no 'adaptive/mixed' of 'sgd'"):
        theory.judge(dataclasses.replace(study, arms=np.array(["adam", "sam", "ncsam"])))
