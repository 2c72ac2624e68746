"""The demo study: the whole main job, small enough for two cores and three minutes.

Training is set so that plain SGD memorises in the time there is (no weight decay, batches of 64, enough epochs) and
for nothing else. The optimizers' settings are the paper's where it states them (κ = 0.1, r_flip = 0.4, lr 0.05, a
warm-up of a quarter) and its code's (ρ = 0.05, cosine to zero); the larger ρ is four times that.
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
EPOCHS = 45
BATCH_SIZE = 64
TRAIN_SAMPLES: int | None = None  # all of them
LINE_POINTS = 21
PLANE_POINTS = 11
TRACE_PROBES = 8
TOLERANCE = 1e-2  # of the residuals; eigenvalues are then good to about its square

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
        batch_size=BATCH_SIZE,
        train_samples=TRAIN_SAMPLES,
        weight_decay=0.0,
    ).with_seed(seed)
    drawn = rate == CONTRAST_RATE
    span = np.linspace(-1, 1, LINE_POINTS).tolist()
    coarse = np.linspace(-1, 1, PLANE_POINTS).tolist()
    return Cell(
        arm,
        rate,
        seed,
        config,
        spectrum={"trace_matvecs": TRACE_PROBES, "tol": TOLERANCE},
        sharpness={},
        line={"alphas": span, "seed": 0} if drawn else None,
        plane={"alphas": coarse, "betas": coarse, "seed": 0} if drawn else None,
    )
