"""The demo study: the whole main job, small enough for two cores and three minutes.

Chosen so that plain SGD memorises (no weight decay, enough epochs) and for nothing else; the optimizers' settings are
the paper's where it states them (κ = 0.1, r_flip = 0.4, warm-up of a quarter, batch of 128) and its code's (ρ = 0.05,
cosine), the larger ρ is four times that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ncsam.config import TrainConfig
from ncsam.optimizer import resolve_options
from ncsam.study import Cell
from ncsam.theory import CONTRAST_RATE

RATES = (0.0, 0.2, 0.4, 0.6)
SEEDS = 5
EPOCHS = 80
SURFACE_POINTS = 31
PLANE_POINTS = 13
TRACE_PROBES = 16

_NCSAM = {"rho": 0.05, "kappa": 0.1, "flip_ratio": 0.4}
ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sgd": ("sgd", {}),
    "sam": ("sam", {"rho": 0.05}),
    "ncsam": ("ncsam", _NCSAM),
}
CONTROLS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sam-large": ("sam", {"rho": 0.2}),
    "ncsam-unprojected": ("ncsam", {**_NCSAM, "project": False}),
    "matched": ("matched", {**_NCSAM, "project": False}),
    "clean-direction": ("clean-direction", {"rho": 0.05}),
}


def cells(*, seeds: int = SEEDS, epochs: int = EPOCHS, rates: tuple[float, ...] = RATES) -> list[Cell]:
    """Every run of the demo: three arms at each rate, the controls at 40 %, paired by seed."""
    grid = [(arm, rate) for rate in rates for arm in ARMS]
    grid += [(arm, CONTRAST_RATE) for arm in CONTROLS]
    return [_cell(arm, rate, seed, epochs) for seed in range(seeds) for arm, rate in grid]


def _cell(arm: str, rate: float, seed: int, epochs: int) -> Cell:
    optimizer, options = {**ARMS, **CONTROLS}[arm]
    config = TrainConfig(
        data="digits",
        noise=f"symmetric:{rate}",
        model="mlp",
        optimizer=optimizer,
        options=resolve_options(optimizer, options),
        epochs=epochs,
        weight_decay=0.0,
    ).with_seed(seed)
    drawn = rate == CONTRAST_RATE
    span = np.linspace(-1, 1, SURFACE_POINTS).tolist()
    coarse = np.linspace(-1, 1, PLANE_POINTS).tolist()
    return Cell(
        arm,
        rate,
        seed,
        config,
        spectrum={"trace_matvecs": TRACE_PROBES},
        sharpness={},
        line={"alphas": span, "seed": 0} if drawn else None,
        plane={"alphas": coarse, "betas": coarse, "seed": 0} if drawn else None,
    )
