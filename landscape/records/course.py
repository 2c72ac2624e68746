"""Record of what was measured along a training."""

from __future__ import annotations

from typing import Any

import numpy as np

from landscape.records.base import Record
from landscape.records.fields import parameter, variable


class Course(Record, kind="course"):
    """Measures of every view along a training, each with its error; one column a measurement."""

    measures: np.ndarray = variable("measure", long_name="what was measured", coordinate=True)
    views: np.ndarray = variable("view", long_name="view of the data", coordinate=True)
    at: np.ndarray = variable("at", long_name="epoch, or optimizer step, of the measurement", coordinate=True)
    value: np.ndarray = variable("measure", "view", "at", long_name="measured value")
    error: np.ndarray = variable(
        "measure", "view", "at", long_name="its error, of the kind given for the measure; 0 without"
    )
    status: np.ndarray = variable("measure", "view", "at", long_name="status code of the value")
    seconds: np.ndarray = variable("at", long_name="time that the measurement took", units="s")
    unit: str = parameter("what the measurements are counted in: epoch or step")
    errors: list[str] = parameter("kind of error of each measure: bound, standard error, or none")
    settings: dict[str, Any] = parameter("options of each measure, seed and checks")

    def of(self, measure: str, view: str | None = None) -> np.ndarray:
        """Values of one measure, (at,), of the first view unless it is named."""
        row = 0 if view is None else self.views.tolist().index(view)
        return np.asarray(self.value[self.measures.tolist().index(measure), row])

    def in_short(self) -> str:
        """Measures, and how often they were taken."""
        return f"{', '.join(map(str, self.measures))} at {len(self.at)} {self.unit}s"
