"""The groups of an audit's file: a table of every quantity of every checkpoint, beside the records it comes from."""

from __future__ import annotations

from typing import Any

import numpy as np

from landscape.records import Record, parameter, variable
from landscape.store import declare_layout


class AuditTable(Record, kind="audit"):
    """Quantities of checkpoints side by side, each with its error; status "pending" where one was left out."""

    checkpoints: np.ndarray = variable("checkpoint", long_name="checkpoint, or null beside them", coordinate=True)
    quantities: np.ndarray = variable("quantity", long_name="what was measured", coordinate=True)
    value: np.ndarray = variable("checkpoint", "quantity", long_name="measured value")
    error: np.ndarray = variable(
        "checkpoint", "quantity", long_name="its error, of the kind of the quantity; 0 if exact"
    )
    status: np.ndarray = variable("checkpoint", "quantity", long_name="status code of the value")
    kinds: np.ndarray = variable("quantity", long_name="kind of error: standard error, bound, lower bound or none")
    views: np.ndarray = variable("quantity", long_name="view that it was measured on")
    samples: np.ndarray = variable("quantity", long_name="samples of that view it was measured on")
    seconds: np.ndarray = variable("checkpoint", long_name="time that its measurements took", units="s")
    view: str = parameter("view that curvature and sharpness were measured on")
    plan: dict[str, Any] = parameter("what the budget allowed, and what it was taken for")
    left_out: list[str] = parameter("what was not measured, and why")
    trust: list[dict[str, Any]] = parameter("findings on whether each picture may be trusted")
    origins: list[dict[str, Any]] = parameter("file, epoch and digest of each checkpoint")

    def of(self, checkpoint: str, quantity: str) -> tuple[float, float]:
        """Value and error of one quantity of one checkpoint; NaN where it was left out."""
        at = self.checkpoints.tolist().index(checkpoint), self.quantities.tolist().index(quantity)
        return float(self.value[at]), float(self.error[at])

    def in_short(self) -> str:
        """Checkpoints, and how many quantities."""
        return f"{', '.join(map(str, self.checkpoints))}: {len(self.quantities)} quantities"


AUDIT = "audit"
"""Kind of the file, and the group of its table; a checkpoint's records lie in ``<number>/<what>``, counted from 1."""

declare_layout(AUDIT, required={AUDIT: AUDIT}, allowed={"[0-9]*/*": "*"})
