"""Measurements on a run file: computed row by row in a part file, then added to the run file as one result."""

from ncsam.measurements.barriers import measure_barriers
from ncsam.measurements.bound import measure_bound
from ncsam.measurements.diagnostics import measure_diagnostics
from ncsam.measurements.measurement import ANALYSIS_VIEWS
from ncsam.measurements.resumable import Where
from ncsam.measurements.samples import measure_samples
from ncsam.measurements.sharpness import measure_sharpness
from ncsam.measurements.spectrum import measure_spectrum
from ncsam.measurements.surface import measure_line, measure_plane

__all__ = [
    "ANALYSIS_VIEWS",
    "Where",
    "measure_barriers",
    "measure_bound",
    "measure_diagnostics",
    "measure_line",
    "measure_plane",
    "measure_samples",
    "measure_sharpness",
    "measure_spectrum",
]
