"""Figures of runs and studies, drawn from records only; each stores the numbers it shows.

Every function returns a :class:`landscape.figures.DataFigure`; ``landscape.figures.save`` writes the picture and
``landscape.figures.save_data`` what it shows. :mod:`ncsam.figures.catalogue` lists those of a study.
"""

from landscape.figures import drawn_by
from ncsam.figures.against_noise import against_noise, bound_terms, sharpness_against_noise
from ncsam.figures.at_one_rate import arms_at, sharpness_against_error, sharpness_against_gap
from ncsam.figures.barriers import barrier_matrices
from ncsam.figures.by_measure import by_measure_forest
from ncsam.figures.epochs import alignment, alignment_of, training_by_rate, training_curves, training_of_controls
from ncsam.figures.forest import forest
from ncsam.figures.measurements import bound_along, confusion, samples_along, sharpness_along, spectra_at_the_end
from ncsam.figures.radius import radius_figure
from ncsam.figures.samples import curvature_of_samples
from ncsam.records import (
    Barriers,
    BoundTable,
    ByMeasure,
    Diagnostics,
    Labels,
    RadiusControl,
    SampleCurvatures,
    SampleHistory,
    SharpnessTable,
    Spectrum,
    Training,
    Verdicts,
)

__all__ = [
    "against_noise",
    "alignment",
    "alignment_of",
    "arms_at",
    "barrier_matrices",
    "bound_along",
    "bound_terms",
    "by_measure_forest",
    "confusion",
    "curvature_of_samples",
    "forest",
    "radius_figure",
    "samples_along",
    "sharpness_against_error",
    "sharpness_against_gap",
    "sharpness_against_noise",
    "sharpness_along",
    "spectra_at_the_end",
    "training_by_rate",
    "training_curves",
    "training_of_controls",
]

drawn_by(SharpnessTable, sharpness_along)
drawn_by(BoundTable, bound_along)
drawn_by(Training, training_curves)
drawn_by(SampleHistory, samples_along)
drawn_by(Labels, confusion)
drawn_by(SampleCurvatures, curvature_of_samples)
drawn_by(Diagnostics, alignment_of)
drawn_by(Barriers, barrier_matrices, several=False)
drawn_by(ByMeasure, by_measure_forest, several=False)
drawn_by(Verdicts, forest, several=False)
drawn_by(RadiusControl, radius_figure, several=False)
drawn_by(Spectrum, spectra_at_the_end)
