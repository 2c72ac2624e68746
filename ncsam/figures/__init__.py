"""Pictures of runs and studies, from records only; each carries the numbers it shows.

Every function returns a :class:`landscape.figures.DataFigure`; ``landscape.figures.save`` writes the picture and
``landscape.figures.save_data`` what it shows. :mod:`ncsam.figures.catalogue` says which of them a study allows.
"""

from ncsam.figures.against_noise import against_noise, bound_terms, sharpness_against_noise
from ncsam.figures.at_one_rate import arms_at, sharpness_against_gap
from ncsam.figures.epochs import alignment, training_by_rate, training_curves, training_of_controls
from ncsam.figures.forest import forest
from ncsam.figures.radius import radius_figure

__all__ = [
    "against_noise",
    "alignment",
    "arms_at",
    "bound_terms",
    "forest",
    "radius_figure",
    "sharpness_against_gap",
    "sharpness_against_noise",
    "training_by_rate",
    "training_curves",
    "training_of_controls",
]
