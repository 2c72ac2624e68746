"""The length of the perturbation at every step of a run, which another run may replay."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ncsam.training.config import TrainConfig

_DRAWN = ("split", "noise", "weights", "order")  # seeds that a replay shares with its source; it picks nothing


@dataclasses.dataclass(frozen=True, eq=False)
class StepNorms:
    """‖ε‖ at every step of a run, and what a run that replays them must share with it.

    Attributes:
        source: name of the run.
        norms: (epochs, steps of an epoch) float32; 0 in the warm-up, NaN where a step was skipped.
        batch_size, warmup_epochs, noise, data_hash: of the run.
        seeds: of its split, noise, weights and order.

    >>> shared = StepNorms.shared_by(TrainConfig(epochs=2, batch_size=4), data_hash="d")
    >>> norms = StepNorms("mine", np.array([[0.0, 0.0], [0.1, 0.2]], np.float32), **shared)
    >>> StepNorms.from_dict(norms.to_dict()).digest == norms.digest
    True
    >>> norms.check(TrainConfig(epochs=2, batch_size=4), data_hash="d", steps=2)
    """

    source: str
    norms: np.ndarray
    batch_size: int
    warmup_epochs: int
    noise: str
    data_hash: str
    seeds: Mapping[str, int]

    @staticmethod
    def shared_by(config: TrainConfig, data_hash: str) -> dict[str, Any]:
        """What a run with that configuration and data must share with one that replays it."""
        return {
            "batch_size": config.batch_size,
            "warmup_epochs": config.warmup_epochs,
            "noise": config.noise,
            "seeds": {name: config.seeds[name] for name in _DRAWN},
            "data_hash": data_hash,
        }

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the norms as little-endian float32, in the order of the steps."""
        return hashlib.sha256(np.ascontiguousarray(self.norms, "<f4").tobytes()).hexdigest()

    def check(self, config: TrainConfig, data_hash: str, steps: int) -> None:
        """Refuse a run that is not the same as the source but for its optimizer.

        Args:
            steps: of an epoch of that run.

        Raises:
            ValueError: the two differ in what they must share, or a step of the source was skipped.
        """
        epochs, of_epoch = self.norms.shape
        pairs = {"epochs": (epochs, config.epochs), "steps an epoch": (of_epoch, steps)}
        pairs |= {name.replace("_", " "): (getattr(self, name), value) for name, value in
                  self.shared_by(config, data_hash).items()}  # fmt: skip
        for name, (theirs, ours) in pairs.items():
            if theirs != ours:
                raise ValueError(
                    f"{self.source}, which is to be replayed, has {name} {theirs}, this run has {ours}; replay a run "
                    "that differs in its optimizer alone"
                )
        skipped = np.argwhere(~np.isfinite(self.norms))
        if len(skipped):
            epoch, step = (skipped[0] + 1).tolist()
            raise ValueError(f"{self.source}: step {step} of epoch {epoch} was skipped, so it has no ‖ε‖ to replay")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, exact; :meth:`from_dict` is its inverse."""
        short = [[float(str(value)) for value in row] for row in np.asarray(self.norms, np.float32)]
        return {**vars(self), "seeds": dict(self.seeds), "norms": short}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StepNorms:
        """Build from what :meth:`to_dict` gave.

        Raises:
            ValueError: that is something else.
        """
        try:
            norms = np.array(values["norms"], np.float32)
            found = cls(**{**values, "norms": norms, "seeds": dict(values["seeds"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the step norms of a run ({type(error).__name__}: {error})") from error
        if norms.ndim != 2:
            raise ValueError(f"norms have the shape {norms.shape}, expected (epochs, steps of an epoch)")
        return found
