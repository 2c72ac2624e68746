"""Figures of runs and studies, drawn from records only; each stores the numbers it shows.

Every function returns a :class:`landscape.figures.DataFigure`; ``landscape.figures.save`` writes the picture and
``landscape.figures.save_data`` what it shows. :mod:`ncsam.figures.catalogue` lists those of a study.
"""

from ncsam.figures.against_noise import against_noise, bound_terms, sharpness_against_noise
from ncsam.figures.at_one_rate import arms_at, sharpness_against_gap
from ncsam.figures.by_measure import by_measure_forest
from ncsam.figures.epochs import alignment, alignment_of, training_by_rate, training_curves, training_of_controls
from ncsam.figures.forest import forest
from ncsam.figures.measurements import bound_along, confusion, samples_along, sharpness_along
from ncsam.figures.radius import radius_figure

__all__ = [
    "against_noise",
    "alignment",
    "alignment_of",
    "arms_at",
    "bound_along",
    "bound_terms",
    "by_measure_forest",
    "confusion",
    "forest",
    "radius_figure",
    "samples_along",
    "sharpness_against_gap",
    "sharpness_against_noise",
    "sharpness_along",
    "training_by_rate",
    "training_curves",
    "training_of_controls",
]
