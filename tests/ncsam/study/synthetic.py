"""Studies with effects of a stated size, as tables."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ncsam.records import CellTable, Verdicts
from ncsam.study.table import TUNING, table_of

RATES = (0.0, 0.2, 0.4, 0.6)
ARMS = ("sgd", "sam", "ncsam", "matched", "clean-direction", "replay")


def rows(
    seeds: int = 10,
    spread: float = 1e-3,
    noise: str = "symmetric",
    draw: int = 0,
    arms: Sequence[str] = ARMS,
    **effects: float,
) -> list[dict[str, Any]]:
    """Rows of a study in which each effect has the stated size, and no other has; plain SGD memorises by default.

    Effects: bound_tau, gap_tau, risk_tau, error_tau (±1: ranks agree or disagree, 0: unrelated), rotation, opposing,
    simulated, brought, slope, flatter, gain, extra_drop, sgd_drop, memorised. Version 2 of the statements has the same
    effects in endpoints of its own: ``lost`` is its rotation, in units of the ceiling, ``opposed`` its opposition.
    """
    rng = np.random.default_rng(draw)
    get = effects.get
    found = []
    for seed in range(seeds):
        for r, rate in enumerate(RATES):
            for a, arm in enumerate(arms):
                sharpness = 1.0 + get("slope", 0.0) * (rate - 0.3)
                flat = arm in ("sam", "ncsam")
                numbers = {
                    "test_accuracy": 0.8 + (get("gain", 0.0) if arm == "ncsam" else 0.0),
                    "best_accuracy": 0.9,
                    "drop": (get("sgd_drop", 0.2) if arm == "sgd" else 0.05)
                    + (get("extra_drop", 0.0) if arm == "ncsam" and rate == 0.4 else 0.0),
                    "memorisation": get("memorised", 0.9),
                    "adaptive/mixed": sharpness * (1 - get("flatter", 0.0) * flat),
                    "bound/error/total": 1.0 + 0.1 * rng.normal(),
                    "bound/error/risk": 0.2 + 0.1 * rng.normal(),
                    "cos_sam_true": 1.0 - get("rotation", 0.0) * rate,
                    "cos_clean_noise": -get("opposing", 0.0),
                    "cos_star_noise": 0.1 + get("simulated", 0.0),
                    "cos_random_noise": 0.1,
                    "cos_star_clean": 0.05,
                    "cos_ncsam_true": 1.0 - get("rotation", 0.0) * rate + get("brought", 0.0),
                    "mean_drop": (get("sgd_drop", 0.2) if arm == "sgd" else 0.05)
                    + (get("extra_drop", 0.0) if arm == "ncsam" and rate == 0.4 else 0.0),
                    "test_error": 0.2 - (get("gain", 0.0) if arm == "ncsam" else 0.0),
                    "adaptive_trace/clean_part": np.exp(get("slope", 0.0) * rate - get("flatter", 0.0) * flat),
                    "bound/error/neighbourhood": 1.0 + 0.1 * rng.normal(),
                    "cos_true_clean": 0.8,
                    "cos_sam_clean": 0.8 * (1.0 - get("lost", 0.0) * rate / 0.4),
                    "cos_ncsam_clean": 0.8 * (1.0 - get("lost", 0.0) * rate / 0.4) + get("brought", 0.0),
                    "early/cos_clean_noise": -0.6 * get("opposed", 0.0),
                    "early/noise_ceiling": get("ceiling", 0.4),
                    "early/clean_ceiling": 0.9,
                    "noise_ceiling": get("ceiling", 0.4),
                    "perturbation_norm": 0.05,
                    "gap": 0.3 + 0.1 * rng.normal(),
                }
                if tau := get("bound_tau"):
                    numbers |= {"bound/error/total": 1.0 + 0.1 * a, "bound/error/risk": 0.2 + 0.1 * tau * a}
                if tau := get("gap_tau"):
                    numbers |= {"adaptive/mixed": 1.0 + 0.1 * a, "gap": 0.3 + 0.1 * tau * a}
                if tau := get("risk_tau"):
                    numbers |= {"bound/error/neighbourhood": 1.0 + rate, "bound/error/risk": 0.2 + 0.5 * tau * rate}
                if tau := get("error_tau"):
                    numbers |= {"adaptive_trace/clean_part": 1.0 + 0.1 * a, "test_error": 0.2 + 0.02 * tau * a}
                found.append(
                    {
                        "name": f"{arm}-{rate}-{seed}", "arm": arm, "optimizer": arm, "data": "digits", "model": "mlp",
                        "noise": noise, "rate": rate, "seed": seed,
                        **{n: x + spread * _draws(n, draw)[a, r, seed] for n, x in numbers.items()},
                    }
                )  # fmt: skip
    return found


@lru_cache(maxsize=1024)
def _draws(name: str, draw: int) -> np.ndarray:
    """Standard normal draws of one endpoint, (arms, rates, seeds), whatever other endpoints there are."""
    return np.random.default_rng([zlib.crc32(name.encode()), draw]).normal(size=(32, len(RATES), 32))


def table(seeds: int = 10, spread: float = 1e-3, **effects: Any) -> CellTable:
    return table_of(rows(seeds, spread, **effects))


def tuned(seeds: int = 10, spread: float = 1e-3, **effects: Any) -> CellTable:
    """The same with a tuning run of SAM and NCSAM each, without which version 2 says nothing of tuned SAM."""
    reported = rows(seeds, spread, **effects)
    tuning = [
        {**row, "name": f"tuning-{row['name']}", "seed": 100, "role": TUNING}
        for row in reported
        if (row["arm"], row["rate"], row["seed"]) in (("sam", 0.4, 0), ("ncsam", 0.4, 0))
    ]
    return table_of(reported + tuning)


def of(found: Verdicts, statement: str, field: str = "verdict") -> str:
    """A field of the verdict on one statement."""
    return getattr(found, field)[found.statements.tolist().index(statement)]
