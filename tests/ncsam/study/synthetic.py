"""Studies with effects of a stated size, as tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from ncsam.records import CellTable
from ncsam.study.table import table_of

RATES = (0.0, 0.2, 0.4, 0.6)
ARMS = ("sgd", "sam", "ncsam", "matched", "clean-direction")


def rows(seeds: int = 10, spread: float = 1e-3, noise: str = "symmetric", **effects: float) -> list[dict[str, Any]]:
    """Rows of a study in which each effect has the stated size, and no other has; plain SGD memorises by default.

    Effects: bound_tau, gap_tau (±1: ranks agree or disagree, 0: unrelated), rotation, opposing, simulated, brought,
    slope, flatter, gain, extra_drop, sgd_drop, memorised.
    """
    rng = np.random.default_rng(0)
    get = effects.get
    found = []
    for seed in range(seeds):
        for rate in RATES:
            for a, arm in enumerate(ARMS):
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
                    "perturbation_norm": 0.05,
                    "gap": 0.3 + 0.1 * rng.normal(),
                }
                if tau := get("bound_tau"):
                    numbers |= {"bound/error/total": 1.0 + 0.1 * a, "bound/error/risk": 0.2 + 0.1 * tau * a}
                if tau := get("gap_tau"):
                    numbers |= {"adaptive/mixed": 1.0 + 0.1 * a, "gap": 0.3 + 0.1 * tau * a}
                found.append(
                    {
                        "name": f"{arm}-{rate}-{seed}", "arm": arm, "optimizer": arm, "data": "digits", "model": "mlp",
                        "noise": noise, "rate": rate, "seed": seed,
                        **{name: number + rng.normal(0, spread) for name, number in numbers.items()},
                    }
                )  # fmt: skip
    return found


def table(seeds: int = 10, spread: float = 1e-3, **effects: float) -> CellTable:
    return table_of(rows(seeds, spread, **effects))
