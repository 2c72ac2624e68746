"""A cell of a study: one training run with what is measured on it, a pure function of its configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ncsam.analyses import (
    measure_bound,
    measure_diagnostics,
    measure_line,
    measure_plane,
    measure_sharpness,
    measure_spectrum,
)
from ncsam.config import TrainConfig
from ncsam.run import Run, train_run

REPORTED, TUNING = "reported", "tuning"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        name: of its file, without the ending.
        arm: under which it is compared, e.g. ``sam-rho0.2``.
        config: of the training; the same number seeds everything that is drawn, so that arms are paired by it.
        measures: settings of each measurement by its name in :data:`MEASURES`.
        trust: import a ``package.module:factory`` that the configuration names.
        role: ``reported``, or ``tuning`` for runs that only choose settings and are never judged.
    """

    name: str
    arm: str
    config: TrainConfig
    measures: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    role: str = REPORTED
    trust: bool = False

    @property
    def seed(self) -> int:
        """The seed of the split, which a sweep gives to everything that is drawn."""
        return self.config.seeds["split"]

    def path(self, folder: Path) -> Path:
        """The run file of the cell in ``folder``."""
        return folder / f"{self.name}.h5"

    def run(self, path: Path) -> None:
        """Train and measure; what the file already holds is not done again.

        Raises:
            StoreError: the file is of another configuration, damaged, or cannot be written.
            ValueError: the configuration or a measurement is impossible.
        """
        attrs = {"arm": self.arm, "seed": self.seed, "role": self.role}
        run = train_run(self.config, path, resume=True, attrs=attrs, trust=self.trust)
        for name, settings in self.measures.items():
            group, measure = MEASURES[name]
            if group not in run.names:
                measure(run, **settings, resume=True)

    def complete(self, path: Path) -> bool:
        """Whether the file holds the finished run and every measurement.

        Raises:
            StoreError: the file is damaged.
        """
        return path.exists() and {MEASURES[name][0] for name in self.measures} <= set(Run(path).names)


def _line(run: Run, *, points: int = 21, span: float = 1.0, **settings: Any) -> Any:
    return measure_line(run, alphas=np.linspace(-span, span, points).tolist(), **settings)


def _plane(run: Run, *, points: int = 11, span: float = 1.0, **settings: Any) -> Any:
    grid = np.linspace(-span, span, points).tolist()
    return measure_plane(run, alphas=grid, betas=grid, **settings)


MEASURES: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "hessian": ("hessian/top5", measure_spectrum),
    "sharpness": ("sharpness/default", measure_sharpness),
    "diagnostics": ("diagnostics/default", measure_diagnostics),
    "bound": ("diagnostics/bound", measure_bound),
    "line": ("surface/line", _line),
    "plane": ("surface/plane", _plane),
}
"""What a cell may measure: where the run file keeps it, and the function that takes its settings."""


def cell_name(arm: str, noise: str, seed: int) -> str:
    """The file name of a cell, without its ending.

    >>> cell_name("sam", "symmetric:0.4", 3), cell_name("sgd", "none", 0)
    ('sam-symmetric-0.4-seed3', 'sgd-none-seed0')
    """
    spelled = "".join(c if c.isalnum() or c in "._" else "-" for c in noise)
    return f"{arm}-{spelled}-seed{seed}"
