"""Measurements on a run file: computed row by row in a part file, then added to the run file as one result."""

from ncsam.analyses.bound import measure_bound
from ncsam.analyses.common import ANALYSIS_VIEWS, Where
from ncsam.analyses.diagnostics import measure_diagnostics
from ncsam.analyses.sharpness import measure_sharpness
from ncsam.analyses.spectrum import measure_spectrum
from ncsam.analyses.surface import measure_line, measure_plane

__all__ = [
    "ANALYSIS_VIEWS",
    "Where",
    "measure_bound",
    "measure_diagnostics",
    "measure_line",
    "measure_plane",
    "measure_sharpness",
    "measure_spectrum",
]
